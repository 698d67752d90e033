"""Download the plain files of benchmarks from the Hugging Face hub.

Only repositories of data files are named (JSON lines, TSV, Parquet): `datasets` from version 4 on runs no
loading scripts. `huggingface_hub` keeps downloads in HF_HOME; files that it has are used without
a network (HF_HUB_OFFLINE=1).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from hbt_dist.common.errors import UserError, first_line


@dataclass(frozen=True)
class HubFiles:
    """Files of one repository.

    Attributes:
        repository: of data sets.
        revision: commit, or branch.
        patterns: files to download; ``{language}`` stands for each requested language, or for any.
        folder: the benchmark's folder inside the repository.
    """

    repository: str
    revision: str
    patterns: tuple[str, ...]
    folder: str = ""

    def allowed(self, languages: tuple[str, ...] | None) -> list[str]:
        """Return the patterns for some languages, or all."""
        codes = ("*",) if languages is None else languages
        return [pattern.replace("{language}", code) for pattern in self.patterns for code in codes]


#: Name -> repositories that are merged in the benchmark's folder.
HUB: Mapping[str, tuple[HubFiles, ...]] = MappingProxyType({
    "miracl": (
        HubFiles(
            "miracl/miracl", "5be20db9509754dadad47689368639fcec739c00", ("miracl-v1.0-{language}/*",)
        ),
        HubFiles(
            "miracl/miracl-corpus", "d921ec7e349ce0d28daf30b2da9da5ee698bef0d",
            ("miracl-corpus-v1.0-{language}/*",),
        ),
    ),
    "belebele": (
        HubFiles(
            "facebook/belebele", "c25c4d7bfbc5de244583947ba230fc4ee93d4a89", ("data/*.jsonl",), folder="data"
        ),
    ),
    "tatoeba": (
        HubFiles("mteb/tatoeba-bitext-mining", "refs/convert/parquet", ("*-eng/test/*.parquet",)),
    ),
})  # fmt: skip

#: Where to get the benchmarks that the hub doesn't have in a readable form.
ELSEWHERE: Mapping[str, str] = MappingProxyType({
    "xquad-r": "github.com/google-research-datasets/lareqa, folder xquad-r (the hub's copy has no sentences)",
    "mlqa-r": "github.com/google-research-datasets/lareqa, folder mlqa-r of commit 354d67d",
    "ntrex": "github.com/MicrosoftTranslator/NTREX, folder NTREX-128 and DOCUMENT_IDS.tsv",
    "mkqa": "github.com/apple/ml-mkqa, dataset/mkqa.jsonl.gz",
    "mewsli-x": "github.com/google-research/google-research, dense_representations_for_entity_retrieval/mel",
    "exams": "github.com/mhardalov/exams-qa, folder data/exams",
})  # fmt: skip


def hub_folder(name: str, languages: tuple[str, ...] | None = None) -> Path:
    """Return the folder of a benchmark's files; download them now if they are absent.

    Args:
        languages: download these only, where a repository has them apart.

    Raises:
        UserError: the hub doesn't have the benchmark, cannot be reached, or refuses.
    """
    location = f"benchmark {name}"
    if name not in HUB:
        where = f"; its files: {ELSEWHERE[name]}" if name in ELSEWHERE else ""
        raise UserError(
            location,
            "no data folder is given, and the hub has no copy of it that can be read",
            f"name the folder of its files: --data-dir, data_dir in a run file{where}",
        )
    roots = []
    for files in HUB[name]:
        root = _download(files, languages, location) / files.folder
        if not root.is_dir() or not any(root.iterdir()):
            raise UserError(
                location,
                f"{files.repository} at {files.revision} holds no {files.folder or 'file'}",
                "the download is incomplete or the repository changed: name a folder with --data-dir",
            )
        roots.append(root)
    return roots[0] if len(roots) == 1 else _side_by_side(name, roots)


def _download(files: HubFiles, languages: tuple[str, ...] | None, location: str) -> Path:
    from huggingface_hub import constants, snapshot_download

    try:
        folder = snapshot_download(
            files.repository,
            repo_type="dataset",
            revision=files.revision,
            allow_patterns=files.allowed(languages),
            local_files_only=constants.HF_HUB_OFFLINE,  # versions 1.x would ask the hub for the list of files
        )
    except Exception as error:  # the library raises a dozen kinds for network, name, permission and disk
        raise UserError(
            location,
            f"{files.repository} cannot be downloaded from the hub ({first_line(error)})",
            "check the network and, where its owners ask for consent, HF_TOKEN;\n"
            "or name a folder of its files: --data-dir, data_dir in a run file",
        ) from error
    return Path(folder)


def _side_by_side(name: str, roots: list[Path]) -> Path:
    """Return a folder of links to the folders of several downloads, named by their commits."""
    from huggingface_hub.constants import HF_HUB_CACHE

    key = hashlib.sha256("\0".join(map(str, roots)).encode()).hexdigest()[:16]
    folder = Path(HF_HUB_CACHE).parent / "hbt_dist" / f"{name}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    for entry in (entry for root in roots for entry in root.iterdir() if entry.is_dir()):
        with suppress(FileExistsError):
            (folder / entry.name).symlink_to(entry)
    return folder

"""Compute the vectors of the frozen models of a run before its first step, and read them for each batch.

Each frozen model encodes the texts that the loss asks it about: all languages that rows are drawn in for a
guide, or the target's language alone. The vectors go into files of 16,384 texts below `data.cache_dir`, one
folder per model, role and language, named after the model's content, its settings and the corpus. Ranks
share the files by number and wait for each other without a time limit; a later start, another number of ranks
or another run with the same texts continues with the files that are missing.

A text costs 4 E bytes on disk (2 E with `storage: float16`) for vectors of E values. A batch costs a read of
its rows in the thread that prepares it; nothing else is held in memory, and a complete store loads no model.
The texts are those of the corpus with the prefixes and limits of the frozen model; code-switching and the
prefixes of sources change texts for the trained model only.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hbt_dist.batching.collate import LocalBatch, frozen_vectors, target_vectors
from hbt_dist.batching.frozen import Float32s, VectorReader
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.tokens import ROLES
from hbt_dist.common.console import counted
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import wait_for
from hbt_dist.config.placeholders import LANGUAGE
from hbt_dist.contrastive.settings import LossSettings
from hbt_dist.contrastive.world import World
from hbt_dist.data.corpus.corpus import Corpus, Role
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.data.instructions import filled
from hbt_dist.evaluation.embedding_files import EmbeddingFiles, open_embedding_files, recorded_width
from hbt_dist.evaluation.encode import encode_missing, with_arithmetic
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.adapters import find_adapter, fingerprint_of
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.files import folder_digest
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.settings import TeacherSettings
from hbt_dist.models.tokenizer import tokenizer_digest
from hbt_dist.run_file import RunFile
from hbt_dist.training.ranks import gather_objects, on_every_rank, require_shared

FOLDER = "vectors"  # below data.cache_dir
ROWS_PER_FILE = 16_384
_FORMAT = 1
#: `loss.targets.on` -> roles.
ROLES_OF_TARGETS: dict[str, tuple[Role, ...]] = {
    "questions": ("question",),
    "passages": ("passage",),
    "both": ROLES,
}

Unit = tuple[Role, int]  # a role, the index of a language


class StoredVectors(VectorReader):
    """The vectors of a frozen model, read by row.

    Args:
        texts: the texts of each role.
        files: vectors of the rows that have a text in the language, in their order.
        width: E.
    """

    def __init__(
        self, texts: Mapping[Role, FlatTexts], files: Mapping[Unit, EmbeddingFiles], width: int
    ) -> None:
        self._texts, self._files, self._width = texts, files, width

    @property
    def width(self) -> int:
        """Return E."""
        return self._width

    def read(self, role: Role, rows: NDArray[np.integer], languages: NDArray[np.integer]) -> Float32s:
        """Return the vectors of texts, (n, E); rows and languages are (n,) each."""
        vectors = np.empty((len(rows), self._width), np.float32)
        texts = self._texts[role]
        for language in np.unique(languages).tolist():
            index = np.flatnonzero(languages == language)
            numbers = texts.numbers(rows[index], language) - texts.offsets[language]
            vectors[index] = self._files[role, language][numbers]
        return vectors


@dataclass(frozen=True)
class Teachers:
    """The frozen models of a run that its loss uses.

    Attributes:
        readers: name -> its vectors.
        digests: name -> digest of the model and of its settings, the same on every rank.
        notes: lines for the start of the run.
    """

    readers: Mapping[str, VectorReader] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def add_to(self, local: LocalBatch, corpus: Corpus, loss: LossSettings) -> LocalBatch:
        """Return a rank's slice with the vectors that the loss asks for."""
        if not self.readers:
            return local
        rows = local.batch.rank_slice(local.rank, local.world_size)
        frozen, targets = {}, {}
        if (guide := guide_of(loss)) is not None:
            arguments = (corpus, local.batch, local.rank, local.world_size)
            frozen[guide] = frozen_vectors(self.readers[guide], *arguments, every=True)
        if loss.targets is not None:
            reader, code = self.readers[loss.targets.teacher], loss.targets.language
            language = None if code is None else corpus.language_index(code)
            targets = target_vectors(reader, corpus, rows, ROLES_OF_TARGETS[loss.targets.on], language)
        return replace(local, frozen=frozen, targets=targets)


def guide_of(loss: LossSettings) -> str | None:
    """Return the name of the frozen model that decides on false negatives, if one does."""
    return None if loss.false_negatives is None else loss.false_negatives.guide


def units_of(run: RunFile, corpus: Corpus, languages: Sequence[str]) -> dict[str, list[Unit]]:
    """Return the roles and languages that each frozen model must encode, by its name.

    Args:
        run: names the models.
        corpus: has the texts.
        languages: that rows are drawn in.
    """
    loss, drawn = run.loss, [corpus.language_index(code) for code in languages]
    every: dict[Role, list[int]] = {"question": drawn, "passage": drawn}
    negatives = run.batches.hard_negatives
    if negatives.count and negatives.language not in ("passage", "question", "random"):
        every["passage"] = list(range(len(corpus.languages)))  # mined negatives may be in any of them
    units: dict[str, set[Unit]] = {}
    if (guide := guide_of(loss)) is not None:
        units[guide] = {(role, language) for role in ROLES for language in every[role]}
    if (targets := loss.targets) is not None:
        code = targets.language
        units.setdefault(targets.teacher, set()).update(
            (role, language)
            for role in ROLES_OF_TARGETS[targets.on]
            for language in (every[role] if code is None else [corpus.language_index(code)])
        )
    return {name: sorted(parts) for name, parts in units.items()}


def compute_vectors(run: RunFile, plan: BatchPlan, world: World) -> Teachers:
    """Compute the vectors of all frozen models that the loss uses; long, resumable. Collective.

    Raises:
        UserError: on all ranks: a model cannot be used, the ranks have different models or no common folder.
    """
    units = units_of(run, plan.corpus, plan.languages)
    if not units:
        return Teachers(notes=unused_teachers(run))
    cache = Path(run.data.cache_dir) / FOLDER
    cache.mkdir(parents=True, exist_ok=True)
    purpose = "all workers share the vectors of teachers there"
    require_shared(cache, world, name="data.cache_dir", purpose=purpose)
    texts = {role: FlatTexts(plan.corpus, role) for role in ROLES}
    readers, digests, notes = {}, {}, []
    for name, parts in units.items():
        store = _Store(name, run.teachers[name], cache, texts, world)
        on_every_rank(store.identify, world)
        _require_same_model(store, name, run.teachers[name].name_or_path, world)
        files = on_every_rank(partial(store.fill, parts), world)
        on_every_rank(partial(wait_for_files, files), world)
        readers[name] = StoredVectors(texts, files, store.width)
        digests[name] = store.digest
        notes.append(_described(name, run.teachers[name], files, store.width))
    return Teachers(readers, digests, [*notes, *_code_switched(run), *unused_teachers(run)])


def _require_same_model(store: _Store, name: str, source: str, world: World) -> None:
    """Refuse different models before hours of encoding, and before ranks wait for files of another model."""
    every = gather_objects(world, store.digest) if world.size > 1 else [store.digest]
    if different := [rank for rank, digest in enumerate(every) if digest != every[0]]:
        raise UserError(
            f"teachers.{name}.name_or_path {source}",
            f"is a different model on rank {different[0]} than on rank 0",
            "copy the same folder to every node",
        )


def unused_teachers(run: RunFile) -> list[str]:
    """Return a line for each frozen model that no part of the loss names; it is not loaded."""
    used = set(run.loss.teachers().values())
    return [
        f"teachers.{name} is not used: no part of the loss names it" for name in run.teachers.keys() - used
    ]


def _code_switched(run: RunFile) -> list[str]:
    if run.batches.code_switching is None:
        return []
    return ["vectors of teachers are those of the original texts, also of texts that code-switching changes"]


def _described(name: str, settings: TeacherSettings, files: Mapping[Unit, EmbeddingFiles], width: int) -> str:
    num_texts = sum(each.num_rows for each in files.values())
    size = np.dtype(settings.storage).itemsize * width
    return (
        f"teachers.{name}: {num_texts:,} vectors of {width} values, {size:,} bytes each, "
        f"{num_texts * size / 1e9:,.2f} GB in {counted(len(files), 'folder')} of data.cache_dir"
    )


class _Store:
    """The files of a frozen model.

    Args:
        name: in `teachers`.
        settings: of the model.
        cache: folder for the vectors of all models.
        texts: of both roles.
        world: the ranks that share the work.
    """

    def __init__(
        self,
        name: str,
        settings: TeacherSettings,
        cache: Path,
        texts: Mapping[Role, FlatTexts],
        world: World,
    ) -> None:
        self._name, self._settings, self._texts, self._world = name, settings, texts, world
        self.digest, self.width = "", 0
        self._loaded: LoadedEncoder | None = None  # from `identify` to `fill`
        self._encoding = with_arithmetic(
            EvaluationSettings(
                device=str(world.device),
                dtype=settings.dtype,
                max_tokens_per_batch=settings.max_tokens_per_batch,
                rows_per_file=ROWS_PER_FILE,
                cache_dir=str(cache),
            )
        )

    def identify(self) -> None:
        """Set the digest of the model and its settings; loads a model whose files may be anywhere.

        Raises:
            UserError: the model cannot be loaded.
        """
        path = Path(self._settings.name_or_path)
        if path.is_dir() and find_adapter(str(path)) is None:
            content = folder_digest(path)
        else:  # its content is known only after it is loaded
            self._loaded = self._load()
            content = _content(self._loaded)
        self.digest = self._identify(content)

    def fill(self, units: Sequence[Unit]) -> dict[Unit, EmbeddingFiles]:
        """Encode this rank's share of the missing files; return the files of all units. After `identify`.

        Raises:
            UserError: the model cannot be loaded, or gives a vector that cannot be used.
        """
        loaded, self._loaded = self._loaded, None
        if loaded is None:
            files = self._complete(units)
            if files is not None:
                return files
            loaded = self._load()
        self.width = loaded.encoder.width
        try:
            return self._encode(loaded, units)
        finally:
            del loaded
            gc.collect()
            if self._world.device.type == "cuda":
                torch.cuda.empty_cache()  # for the trained model

    def _load(self) -> LoadedEncoder:
        settings = self._settings
        low = self._encoding.dtype == "bfloat16"
        return load_encoder(
            settings.name_or_path,
            trust_remote_code=settings.trust_remote_code,
            text=settings.text,
            dtype=torch.bfloat16 if low else torch.float32,
            quiet=self._world.rank != 0,
        )

    def _identify(self, content: str) -> str:
        """Return the digest of what decides the vectors: the model's content and its settings."""
        facts = [_FORMAT, content, self._settings.text, self._encoding.dtype, self._settings.storage]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _fingerprint(self, unit: Unit) -> str:
        role, language = unit
        corpus = self._texts[role].corpus
        facts = [self.digest, corpus.fingerprint, role, corpus.languages[language]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def _files(self, unit: Unit, width: int) -> EmbeddingFiles:
        role, language = unit
        texts = self._texts[role]
        assert self._encoding.cache_dir is not None
        return open_embedding_files(
            self._encoding.cache_dir,
            self._fingerprint(unit),
            num_rows=int(texts.offsets[language + 1] - texts.offsets[language]),
            width=width,
            rows_per_file=ROWS_PER_FILE,
            dtype=self._settings.storage,
            facts={
                "model": self._settings.name_or_path,
                "role": role,
                "language": texts.corpus.languages[language],
                "corpus": texts.corpus.fingerprint,
                "dtype": self._encoding.dtype,
            },
        )

    def _complete(self, units: Sequence[Unit]) -> dict[Unit, EmbeddingFiles] | None:
        """Return the files if all exist; None if something is left to encode."""
        assert self._encoding.cache_dir is not None
        widths = {recorded_width(self._encoding.cache_dir, self._fingerprint(unit)) for unit in units}
        if len(widths) != 1 or None in widths:
            return None
        self.width = widths.pop() or 0
        files = {unit: self._files(unit, self.width) for unit in units}
        return None if any(each.missing() for each in files.values()) else files

    def _encode(self, loaded: LoadedEncoder, units: Sequence[Unit]) -> dict[Unit, EmbeddingFiles]:
        files = {unit: self._files(unit, self.width) for unit in units}
        world, device = self._world, self._world.device
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            for number, unit in enumerate(units):
                role, language = unit
                texts = _Part(self._texts[role], language)
                code = texts.corpus.languages[language]
                prefix = loaded.text.prefix(role)
                encode_missing(
                    files[unit],
                    loaded,
                    texts,
                    role,
                    settings=self._encoding,
                    prefixes=[filled(prefix, code)] * len(texts) if LANGUAGE in prefix else None,
                    share=((world.rank + number) % world.size, world.size),  # few files: not all on rank 0
                    progress=world.rank == 0,
                    label=f"{self._name} encodes {role}s in {code}",
                )
        return files


class _Part(Sequence[str]):
    """The texts of a role in one language."""

    def __init__(self, texts: FlatTexts, language: int) -> None:
        self._texts, self.corpus = texts, texts.corpus
        self._first, self._last = texts.offsets[language : language + 2].tolist()

    def __len__(self) -> int:
        return int(self._last - self._first)

    def __getitem__(self, texts: Any) -> Any:
        chosen = range(self._first, self._last)[texts]
        return self._texts[chosen.start : chosen.stop] if isinstance(chosen, range) else self._texts[chosen]


def wait_for_files(files: Mapping[Unit, EmbeddingFiles]) -> None:
    """Wait until this machine sees the files that other ranks have written.

    Raises:
        UserError: a file does not appear.
    """
    for each in files.values():
        for number in each.missing():
            if not wait_for(each.file(number)):
                raise UserError(
                    str(each.file(number)),
                    "was written by another worker and is not visible here",
                    "name a data.cache_dir on storage that all nodes share",
                )


def _content(loaded: LoadedEncoder) -> str:
    """Return a digest of a model whose files may be anywhere: of its weights, settings and tokenizer."""
    backbone = fingerprint_of(loaded.encoder.backbone)
    dense = fingerprint_of(loaded.encoder.dense)
    text = loaded.text.model_dump_json()
    facts = [backbone, dense, text, tokenizer_digest(loaded.tokenizer)]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

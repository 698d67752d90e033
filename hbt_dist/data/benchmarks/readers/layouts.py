"""Find the files of collections in the folders of their publishers.

    beir        corpus.jsonl, queries.jsonl, qrels/test.tsv       BEIR's downloads, one language
                corpus/, queries/, qrels/ (default/, data/)       the hub's copies, configurations as folders
                fi-corpus/, fi-queries/, fi-qrels/, ...           multilingual copies of the hub (MTEB)
                fi/, sw/, ...                                     a folder per language, each as above
    miracl      miracl-v1.0-fi/topics, .../qrels, miracl-corpus-v1.0-fi/docs-*.jsonl.gz
    mr-tydi     mrtydi-v1.1-finnish/collection/docs.jsonl.gz, .../topic.test.tsv, .../qrels.test.txt
    mmarco      collections/german_collection.tsv, queries/dev/german_queries.dev.small.tsv,
                qrels.dev.small.tsv
    neuclir     fas.jsonl.gz or fas/*.jsonl.gz or data/fas-*.jsonl.gz, *topics*.jsonl, *qrels*.fas
    clirmatrix  DOCS/fi.tsv.gz, BI-139/base/en/en.fi.test1.base.jl.gz

Files of a configuration are named by their split (`test.jsonl`, `test-00000-of-00002.parquet`,
`test/0000.parquet`); a configuration with one split has only that, as in MTEB.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from hbt_dist.common.console import note_once
from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.builder import BenchmarkBuilder
from hbt_dist.data.benchmarks.readers.collections import Part, add_parts, files_of
from hbt_dist.data.corpus.readers.base import chosen_languages
from hbt_dist.data.files import paths_by_language
from hbt_dist.data.languages import is_language, language_code

Languages = tuple[str, ...] | None
#: Split -> its files.
Configuration = dict[str, list[Path]]

_TABLE = re.compile(r"(?P<split>.+?)(-\d{5}-of-\d{5}(-\w+)?)?\.(jsonl|jsonl\.gz|parquet|tsv|tsv\.gz|txt)")
_QRELS = ("qrels", "default", "data")


def read_beir(folder: Path, variant: str, languages: Languages, into: BenchmarkBuilder) -> None:
    """Read a collection of BEIR or MTEB.

    One data set does not name its language, so exactly one must be requested. Variant `separate`: an id means
    something only inside its language. `parallel`: the same id in two languages is the same question or
    document in translation, so that relevance crosses languages. Both read the split `test`, or the only one;
    `dev`, `train` and `validation` (`parallel-dev`, ...) name another.
    """
    add_parts(_beir(folder, variant, languages), into)


def beir_files(folder: Path, variant: str, languages: Languages) -> list[Path]:
    """Return the files that `read_beir` reads."""
    return files_of(_beir(folder, variant, languages))


def is_one_data_set(folder: Path) -> bool:
    """Return whether a folder is one data set as BEIR publishes it, which doesn't name its language."""
    return bool(_configuration(folder, "corpus"))


def _beir(folder: Path, variant: str, languages: Languages) -> list[Part]:
    parallel = variant.startswith("parallel")
    split = variant.removeprefix("parallel").removeprefix("-").replace("separate", "") or None
    parts = []
    for language, (path, prefix) in _data_sets(folder, languages).items():
        documents, questions = (_required(path, f"{prefix}{name}") for name in ("corpus", "queries"))
        names = [f"{prefix}qrels"] if prefix else list(_QRELS)
        judgements = _configuration(path, *names) or _split_files(path.with_name(f"{path.name}-qrels"))
        if not judgements:
            raise UserError(str(path), f"holds no {prefix}qrels", "check the folder")
        chosen = _chosen_split(judgements, split, path)
        parts.append(
            Part(
                language,
                _files(documents, chosen, path),
                [(language, file) for file in _files(questions, chosen, path)],
                judgements[chosen],
                prefix="" if parallel else f"{language}:",
                crosses=parallel,
            )
        )
    return parts


def _data_sets(folder: Path, languages: Languages) -> dict[str, tuple[Path, str]]:
    """Return language -> folder of its data set, and what its configurations' names begin with."""
    subsets = {path.name.split("-corpus")[0]: path for path in folder.glob("*-corpus*")}
    subsets = {name: path for name, path in subsets.items() if is_language(name)}
    if subsets and not is_one_data_set(folder):
        names = {path: name for name, path in subsets.items()}
        named = paths_by_language(folder, names, names.__getitem__, "fi-corpus")
        chosen = chosen_languages(named, languages, "refuse", folder)
        return {language: (folder, f"{names[path]}-") for language, path in chosen.items()}
    if not is_one_data_set(folder):
        return {language: (path, "") for language, path in _language_folders(folder, languages).items()}
    if languages is None or len(languages) != 1:
        number = "no language is named" if languages is None else f"{len(languages)} languages are named"
        raise UserError(
            str(folder),
            f"holds one corpus at its top, and {number}",
            "name the language of its texts: --languages en, languages: [en] in a run file;\n"
            "give each language a subfolder: en/corpus.jsonl, fi/corpus.jsonl",
        )
    return {languages[0]: (folder, "")}


def _required(folder: Path, name: str) -> Configuration:
    configuration = _configuration(folder, name)
    if not configuration:
        raise UserError(
            str(folder), f"holds no {name}.jsonl, {name}.jsonl.gz or folder {name}", "check the folder"
        )
    return configuration


def _configuration(folder: Path, *names: str) -> Configuration:
    """Return the files of the first configuration that a folder has, by split; {} if it has none."""
    for name in names:
        for ending in (".jsonl", ".jsonl.gz", ".parquet"):
            if (folder / f"{name}{ending}").is_file():
                return {name: [folder / f"{name}{ending}"]}
        if splits := _split_files(folder / name):
            return splits
    return {}


def _split_files(folder: Path) -> Configuration:
    """Return split -> tables of a folder: `test-00000-of-00001.parquet`, `test.tsv`, `test/0000.parquet`."""
    splits: Configuration = {}
    for path in sorted([*folder.glob("*"), *folder.glob("*/*")]):
        match = _TABLE.fullmatch(path.name)
        if match and path.is_file():
            split = match["split"] if path.parent == folder else path.parent.name
            splits.setdefault(split, []).append(path)
    return splits


def _chosen_split(splits: Configuration, requested: str | None, folder: Path) -> str:
    if requested is None and len(splits) == 1:
        split = next(iter(splits))
        if split not in ("test", *_QRELS):
            note_once(f"{folder}: reads the judgements of split {split}, the only one")
        return split
    if (split := requested or "test") not in splits:
        raise UserError(
            str(folder),
            f"has no judgements of split {split!r}",
            f"it has {', '.join(splits)}: name one as variant, such as --variant {next(iter(splits))}",
        )
    return split


def _files(splits: Configuration, split: str, folder: Path) -> list[Path]:
    """Return the files of a split, or of the only split."""
    if split in splits:
        return splits[split]
    if len(splits) > 1:
        raise UserError(str(folder), f"has {', '.join(splits)}, not split {split!r}", "check the folder")
    return next(iter(splits.values()))


def _language_folders(folder: Path, languages: Languages, prefix: str = "") -> dict[str, Path]:
    """Return language -> subfolder named by it, after `prefix`."""
    folders = [path for path in folder.iterdir() if path.is_dir() and path.name.startswith(prefix)]
    return _by_name(folder, folders, languages, f"{prefix}(.*)", f"{prefix}en")


def _by_name(
    folder: Path, paths: Iterable[Path], languages: Languages, pattern: str, example: str
) -> dict[str, Path]:
    """Return language -> path of the requested languages; the pattern's group is the language in a name."""
    codes = {path: match[1] for path in paths if (match := re.fullmatch(pattern, path.name))}
    return chosen_languages(
        paths_by_language(folder, codes, codes.__getitem__, example), languages, "refuse", folder
    )


def read_miracl(folder: Path, variant: str, languages: Languages, into: BenchmarkBuilder) -> None:
    """Read MIRACL as its two hub repositories lay it out, side by side in one folder."""
    add_parts(_miracl(folder, variant, languages), into)


def miracl_files(folder: Path, variant: str, languages: Languages) -> list[Path]:
    """Return the files that `read_miracl` reads."""
    return files_of(_miracl(folder, variant, languages))


def _miracl(folder: Path, variant: str, languages: Languages) -> list[Part]:
    corpora = _language_folders(folder, languages, "miracl-corpus-v1.0-")
    topics = _language_folders(folder, tuple(corpora), "miracl-v1.0-")
    parts = []
    for language, corpus in corpora.items():
        shards = sorted([*corpus.glob("*.jsonl.gz"), *corpus.glob("*.jsonl")])
        if not shards:
            raise UserError(str(corpus), "holds no docs-*.jsonl.gz", "check the folder")
        part = topics[language]
        stem = f"miracl-v1.0-{part.name.rsplit('-', 1)[-1]}-{variant}.tsv"
        questions, qrels = part / "topics" / f"topics.{stem}", part / "qrels" / f"qrels.{stem}"
        parts.append(
            Part(language, shards, [(language, questions)], [qrels], f"{language}:", only_judged=False)
        )
    return parts


def read_mr_tydi(folder: Path, variant: str, languages: Languages, into: BenchmarkBuilder) -> None:
    """Read Mr. TyDi as its authors' archives unpack, side by side in one folder."""
    add_parts(_mr_tydi(folder, variant, languages), into)


def mr_tydi_files(folder: Path, variant: str, languages: Languages) -> list[Path]:
    """Return the files that `read_mr_tydi` reads."""
    return files_of(_mr_tydi(folder, variant, languages))


def _mr_tydi(folder: Path, variant: str, languages: Languages) -> list[Part]:
    folders = _by_name(folder, folder.iterdir(), languages, r"mrtydi-v\d\.\d-(\w+)", "mrtydi-v1.1-finnish")
    return [
        Part(
            language,
            [_existing(path / "collection", "docs.jsonl.gz", "docs.jsonl")],
            [(language, _existing(path, f"topic.{variant}.tsv"))],
            [_existing(path, f"qrels.{variant}.txt")],
            prefix=f"{language}:",
            only_judged=False,
        )
        for language, path in folders.items()
    ]


def read_mmarco(folder: Path, variant: str, languages: Languages, into: BenchmarkBuilder) -> None:
    """Read mMARCO: translations of MS MARCO, so every language's version of a passage is relevant."""
    add_parts(_mmarco(folder, variant, languages), into)


def mmarco_files(folder: Path, variant: str, languages: Languages) -> list[Path]:
    """Return the files that `read_mmarco` reads."""
    return files_of(_mmarco(folder, variant, languages))


def _mmarco(folder: Path, variant: str, languages: Languages) -> list[Part]:
    if not (collections := folder / "collections").is_dir():
        raise UserError(str(folder), "holds no folder collections", "check the folder")
    corpora = _by_name(
        collections, collections.iterdir(), languages, r"(\w+)_collection\.tsv", "english_collection.tsv"
    )
    qrels = _existing(folder, f"qrels.{variant}.tsv", f"qrels/qrels.{variant}.tsv")
    queries = folder / "queries" / variant.split(".", maxsplit=1)[0]
    return [
        Part(
            language,
            [path],
            [(language, _existing(queries, f"{path.name.split('_')[0]}_queries.{variant}.tsv"))],
            [qrels],
            crosses=True,
        )
        for language, path in corpora.items()
    ]


def read_neuclir(folder: Path, variant: str, languages: Languages, into: BenchmarkBuilder) -> None:
    """Read a collection of TREC NeuCLIR or HC4: documents in some languages, topics in these and more.

    The variant says which fields of a topic are the question. Machine translations of topics are left out.
    """
    add_parts(_neuclir(folder, variant, languages), into)


def neuclir_files(folder: Path, variant: str, languages: Languages) -> list[Path]:
    """Return the files that `read_neuclir` reads."""
    return files_of(_neuclir(folder, variant, languages))


def _neuclir(folder: Path, variant: str, languages: Languages) -> list[Part]:
    shards: dict[str, list[Path]] = {}
    for path in sorted([*folder.glob("*.jsonl*"), *folder.glob("*/*.jsonl*")]):
        name = path.parent.name if is_language(path.parent.name) else re.split(r"[-.]", path.name)[0]
        if is_language(name):
            shards.setdefault(language_code(name), []).append(path)
    judged = {
        language_code(tag): path
        for path in sorted([*folder.glob("*qrels*"), *folder.glob("*/*qrels*")])
        for tag in (path.name.rpartition(".")[2], path.parent.name)
        if path.is_file() and is_language(tag)
    }
    corpora = {language: files for language, files in shards.items() if language in judged}
    topics = sorted(folder.glob("*topics*.jsonl"))
    if not corpora or len(topics) != 1:
        raise UserError(
            str(folder),
            f"holds {len(topics)} files *topics*.jsonl, and judged documents in {len(corpora)} languages",
            "check the folder: expected fas.jsonl.gz (or fas/, data/fas-*), *qrels*.fas, one file of topics",
        )
    chosen = [language for language in corpora if languages is None or language in languages]
    return [
        Part(
            language,
            corpora[language],
            [(None, topics[0])],
            [judged[language]],
            fields=tuple(variant.split("+")),
        )
        for language in chosen
    ]


def read_clirmatrix(folder: Path, variant: str, languages: Languages, into: BenchmarkBuilder) -> None:
    """Read CLIRMatrix (BI-139 or MULTI-8): questions of one Wikipedia, documents of another."""
    add_parts(_clirmatrix(folder, variant, languages), into)


def clirmatrix_files(folder: Path, variant: str, languages: Languages) -> list[Path]:
    """Return the files that `read_clirmatrix` reads."""
    return files_of(_clirmatrix(folder, variant, languages))


def _clirmatrix(folder: Path, variant: str, languages: Languages) -> list[Part]:
    files = [path for name in ("DOCS", "docs", ".") for path in sorted((folder / name).glob("*.tsv*"))]
    corpora = _by_name(folder, dict.fromkeys(files), None, r"([\w-]+)\.tsv(?:\.gz)?", "DOCS/fi.tsv.gz")
    pattern = re.compile(rf"([\w-]+)\.([\w-]+)\.{variant}(\.base)?\.jl(\.gz)?")
    parts: dict[tuple[str, str], Part] = {}
    for path in sorted(folder.rglob(f"*.{variant}*.jl*")):
        match = pattern.fullmatch(path.name)
        if match is None or not (is_language(match[1]) and is_language(match[2])):
            continue
        asks, answers = language_code(match[1]), language_code(match[2])
        if languages is not None and not {asks, answers} <= set(languages):
            continue
        if (asks, answers) in parts or answers not in corpora:
            problem = (
                "is a second file of its languages" if answers in corpora else f"has no {answers}.tsv.gz"
            )
            raise UserError(str(path), problem, "keep one of BI-139 base, BI-139 full, MULTI-8, with DOCS/")
        documents = [] if any(key[1] == answers for key in parts) else [corpora[answers]]
        parts[asks, answers] = Part(answers, documents, [(asks, path)], [path], prefix=f"{asks}:")
    if not parts:
        raise UserError(
            str(folder), f"holds no question file such as en.fi.{variant}.base.jl.gz", "check the folder"
        )
    return list(parts.values())


def _existing(folder: Path, *names: str) -> Path:
    """Return the first of some files that a folder has."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UserError(str(folder), f"holds no {' or '.join(names)}", "check the folder")

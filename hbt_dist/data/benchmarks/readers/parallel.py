"""Read sentence retrieval, where a sentence finds itself in other languages: NTREX, MKQA, Tatoeba.

In NTREX and MKQA every language's version is a candidate and relevant, the question's version included
(`Benchmark.question_text_relevant`): the pool of each language is whole, each cross-lingual cell has one
relevant candidate, the monolingual cells are trivial. That keeps the shape of XQuAD-R; absolute values are
not comparable, as finding the same sentence is easier than finding an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.builder import BenchmarkBuilder
from hbt_dist.data.corpus.readers import lines, mkqa
from hbt_dist.data.corpus.readers.base import chosen_languages
from hbt_dist.data.fields import check_text, language_at, text_field
from hbt_dist.data.files import files_by_language, paths_by_language, read_lines
from hbt_dist.data.splits import Split
from hbt_dist.data.tables import parquet_rows


def read_ntrex(
    folder: Path, variant: Split, languages: tuple[str, ...] | None, into: BenchmarkBuilder
) -> None:
    """Read line-parallel files; the variants are parts by document. Clusters are documents."""
    files = chosen_languages(files_by_language(folder, ".txt"), languages, "refuse", folder)
    documents = lines.document_file(folder)
    into.question_text_relevant = True
    for location, identity, document, texts in lines.read_parallel(files, documents, variant):
        _add_versions(identity, texts, location, document, into)


def read_mkqa(
    folder: Path, variant: Split, languages: tuple[str, ...] | None, into: BenchmarkBuilder
) -> None:
    """Read MKQA questions, of either layout; variant `eval` is the 1,758 that training leaves out."""
    into.question_text_relevant = True
    for location, identity, texts in mkqa.read_questions(mkqa.find_files(folder, variant), variant):
        _add_versions(identity, texts, location, None, into)


def _add_versions(
    identity: str, texts: dict[str, str], location: str, cluster: str | None, into: BenchmarkBuilder
) -> None:
    for language, text in texts.items():
        into.add_question(identity, language, text, location, cluster=cluster)
        into.add_candidate(identity, language, text, location)
    into.add_relevant(identity, identity, location)


def read_tatoeba(
    folder: Path, variant: str, languages: tuple[str, ...] | None, into: BenchmarkBuilder
) -> None:
    """Read LASER's files `tatoeba.{xxx}-eng.{xxx}` and `tatoeba.{xxx}-eng.eng`, or the hub's
    `{xxx}-eng/test/*.parquet` (sentence1 is foreign, sentence2 English).

    XTREME-R's direction: the questions are English, the candidates foreign. The English side differs from
    pair to pair, so a question belongs to one language: the cell (en, xx) is XTREME-R's accuracy of xx when
    scored by the pair's pool.
    """
    paths = [*folder.glob("tatoeba.*-eng.eng"), *folder.glob("*-eng/test/*.parquet")]
    pairs = paths_by_language(folder, paths, _foreign_code, "tatoeba.fin-eng.eng")
    foreign_languages = None if languages is None else tuple(code for code in languages if code != "en")
    for language, path in chosen_languages(pairs, foreign_languages or None, "refuse", folder).items():
        read = _parquet_pairs if path.suffix == ".parquet" else _line_pairs
        for number, (location, foreign, english) in enumerate(read(path), start=1):
            identity = f"{language}-{number:05d}"
            into.add_candidate(identity, language, check_text(foreign, location, "the sentence"), location)
            into.add_question(identity, "en", check_text(english, location, "the English sentence"), location)
            into.add_relevant(identity, identity, location, language)


def _foreign_code(path: Path) -> str:
    name = path.parent.parent.name if path.suffix == ".parquet" else path.name
    return language_at(name.removeprefix("tatoeba.").removesuffix(".eng").removesuffix("-eng"), str(path))


def _line_pairs(english: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (location, foreign, English) of two files with as many lines."""
    stem = english.name.removesuffix(".eng")
    path = english.with_name(f"{stem}.{stem.removeprefix('tatoeba.').removesuffix('-eng')}")
    foreign_lines, english_lines = list(read_lines(path)), list(read_lines(english))
    if len(foreign_lines) != len(english_lines):
        raise UserError(
            str(path),
            f"has {len(foreign_lines)} lines, {english.name} has {len(english_lines)}",
            "expected as many",
        )
    for (number, foreign), (_, translation) in zip(foreign_lines, english_lines, strict=True):
        yield f"{path} line {number}", foreign, translation


def _parquet_pairs(path: Path) -> Iterator[tuple[str, str, str]]:
    """Yield (location, foreign, English) of a table of the hub."""
    for location, row in parquet_rows(path):
        yield location, text_field(row, "sentence1", location), text_field(row, "sentence2", location)

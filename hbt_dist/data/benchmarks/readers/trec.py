"""Read query and corpus collections (BEIR/MTEB folders, MIRACL, Mewsli-X) and relevance judgements.

Each reader has a function that lists its files: large collections are converted once and stay on disk.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.builder import BenchmarkBuilder
from hbt_dist.data.corpus.readers.base import chosen_languages
from hbt_dist.data.fields import (
    document_text,
    id_field,
    int_field,
    language_field,
    object_field,
    object_items,
    text_field,
    text_or_empty,
)
from hbt_dist.data.files import find_any, find_file, paths_by_language, read_filled_lines, read_json_lines

_BRACES = re.compile(r"\{(.*?)\}")


def _language_folders(folder: Path, languages: tuple[str, ...] | None, prefix: str = "") -> dict[str, Path]:
    """Return language -> subfolder named by it, after `prefix`."""
    folders = [path for path in folder.iterdir() if path.is_dir() and path.name.startswith(prefix)]
    named = paths_by_language(folder, folders, lambda path: path.name.removeprefix(prefix), f"{prefix}en")
    return chosen_languages(named, languages, "refuse", folder)


def beir_files(folder: Path, variant: str, languages: tuple[str, ...] | None) -> list[Path]:
    """Return the files that `read_beir` reads."""
    return [
        file
        for path in _beir_folders(folder, languages).values()
        for file in (
            find_file(path, "corpus.jsonl"),
            find_file(path, "queries.jsonl"),
            find_file(path / "qrels", "test.tsv"),
        )
    ]


def is_one_data_set(folder: Path) -> bool:
    """Return whether a folder is one data set as BEIR publishes it, which doesn't name its language."""
    return find_any(folder, ("corpus.jsonl", "corpus.jsonl.gz")) is not None


def _beir_folders(folder: Path, languages: tuple[str, ...] | None) -> dict[str, Path]:
    """Return language -> folder: subfolders named by it, or the folder itself for a single language."""
    if not is_one_data_set(folder):
        return _language_folders(folder, languages)
    if languages is None or len(languages) != 1:
        number = "no language is named" if languages is None else f"{len(languages)} languages are named"
        raise UserError(
            str(folder),
            f"holds one corpus.jsonl at its top, and {number}",
            "name the language of its texts: --languages en, languages: [en] in a run file;\n"
            "give each language a subfolder: en/corpus.jsonl, fi/corpus.jsonl",
        )
    return {languages[0]: folder}


def read_beir(folder: Path, variant: str, languages: tuple[str, ...] | None, into: BenchmarkBuilder) -> None:
    """Read `{language}/corpus.jsonl`, `{language}/queries.jsonl`, `{language}/qrels/test.tsv` (`.gz` too).

    The folder of one data set as BEIR and MTEB publish it, with these files at its top, is read where exactly
    one language is requested: the files don't name it. Variant `separate`: an id means something only
    inside its language. Variant `parallel`: the same id in two languages is the same question or document in
    translation, so that relevance crosses languages.
    """
    for language, path in _beir_folders(folder, languages).items():
        prefix, within = (f"{language}:", language) if variant == "separate" else ("", None)
        qrels = find_file(path / "qrels", "test.tsv")
        judged = _judged(qrels, language)
        for location, row in read_json_lines(find_file(path, "corpus.jsonl")):
            into.add_candidate(
                id_field(row, "_id", location), language, document_text(row, location), location
            )
        in_split = {query for _, query, *_ in judged}  # BEIR's queries.jsonl holds all splits
        for location, row in read_json_lines(find_file(path, "queries.jsonl")):
            query = id_field(row, "_id", location)
            if query in in_split:
                text = text_or_empty(row, "text", location)
                into.add_question(prefix + query, language, text, location, same_as=(query, within))
        for location, query, item, grade in judged:
            into.add_judgement(prefix + query, item, location, within, grade)


def read_miracl(
    folder: Path, variant: str, languages: tuple[str, ...] | None, into: BenchmarkBuilder
) -> None:
    """Read MIRACL as its two hub repositories lay it out, side by side in one folder.

    `miracl-v1.0-{language}/topics/topics.miracl-v1.0-{language}-{split}.tsv`, `.../qrels/qrels.*.tsv`, and
    `miracl-corpus-v1.0-{language}/docs-*.jsonl[.gz]` with docid, title and text. Relevance stays inside a
    language.
    """
    for language, (topics, qrels, shards) in _miracl(folder, variant, languages).items():
        for location, query, text in _topics(topics):
            into.add_question(f"{language}:{query}", language, text, location, same_as=(query, language))
        for location, query, item, grade in _judged(qrels, language):
            into.add_judgement(f"{language}:{query}", item, location, language, grade)
        for shard in shards:
            for location, row in read_json_lines(shard):
                into.add_candidate(
                    id_field(row, "docid", location), language, document_text(row, location), location
                )


def miracl_files(folder: Path, variant: str, languages: tuple[str, ...] | None) -> list[Path]:
    """Return the files that `read_miracl` reads."""
    files = _miracl(folder, variant, languages).values()
    return [path for topics, qrels, shards in files for path in (topics, qrels, *shards)]


def _miracl(
    folder: Path, variant: str, languages: tuple[str, ...] | None
) -> dict[str, tuple[Path, Path, list[Path]]]:
    """Return language -> topics, qrels and the files of the corpus."""
    corpora = _language_folders(folder, languages, "miracl-corpus-v1.0-")
    topics = _language_folders(folder, tuple(corpora), "miracl-v1.0-")
    files = {}
    for language, corpus in corpora.items():
        shards = sorted([*corpus.glob("*.jsonl.gz"), *corpus.glob("*.jsonl")])
        if not shards:
            raise UserError(str(corpus), "holds no docs-*.jsonl.gz", "check the folder")
        part = topics[language]
        stem = f"miracl-v1.0-{part.name.rsplit('-', 1)[-1]}-{variant}.tsv"
        files[language] = (part / "topics" / f"topics.{stem}", part / "qrels" / f"qrels.{stem}", shards)
    return files


def _judged(path: Path, language: str) -> list[tuple[str, str, str, float]]:
    """Return all judgements of a language's file, which must not be empty."""
    judged = list(read_qrels(path))
    if not any(grade > 0 for *_, grade in judged):
        raise UserError(
            str(path), f"names no relevant candidate for {language!r}", "drop the language, or check the file"
        )
    return judged


def _topics(path: Path) -> Iterator[tuple[str, str, str]]:
    for location, line in read_filled_lines(path):
        query, tab, text = line.partition("\t")
        if not tab:
            raise UserError(location, "has no tab", "expected query id, tab, text")
        yield location, query.strip(), text


def mewsli_x_files(folder: Path, variant: str, languages: tuple[str, ...] | None) -> list[Path]:
    """Return the files that `read_mewsli_x` reads."""
    return [
        find_file(folder, "candidate_set_entities.jsonl"),
        find_file(folder, f"wikinews_mentions-{variant}.jsonl"),
    ]


def read_mewsli_x(
    folder: Path, variant: str, languages: tuple[str, ...] | None, into: BenchmarkBuilder
) -> None:
    """Read Mewsli-X: `candidate_set_entities.jsonl` and `wikinews_mentions-{split}.jsonl` (texts restored).

    Texts are those of XTREME-R's baseline: a question is the mention, a colon, and its sentence with
    the mention between braces; a candidate is an entity's description, in its only language.
    """
    for location, row in read_json_lines(find_file(folder, "candidate_set_entities.jsonl")):
        into.add_candidate(
            id_field(row, "entity_id", location),
            language_field(row, "description_language", location),
            _one_line(text_field(row, "description", location)),
            location,
        )
    for location, row in read_json_lines(find_file(folder, f"wikinews_mentions-{variant}.jsonl")):
        context = object_field(row, "context", location)
        if context.get("text") == "":
            raise UserError(
                location, "the article's text is empty", "restore the texts with get-mewsli-x.sh first"
            )
        language = language_field(context, "language", location)
        text = text_field(context, "text", location)
        sentences = [
            _span(span, inner, text) for inner, span in object_items(context, "sentence_spans", location)
        ]
        article = id_field(context, "document_id", location)
        for inner, mention in object_items(row, "mentions", location):
            question_id = id_field(mention, "example_id", inner)
            marked = _marked(
                _span(object_field(mention, "mention_span", inner), inner, text), sentences, text
            )
            into.add_question(question_id, language, marked, inner, cluster=article)
            into.add_relevant(question_id, id_field(mention, "entity_id", inner), inner)


def _span(row: dict[str, Any], location: str, text: str) -> tuple[int, int]:
    start, end = int_field(row, "start", location), int_field(row, "end", location)
    if not 0 <= start < end <= len(text):
        raise UserError(location, f"span {start} to {end} is outside its text of {len(text)} characters")
    return start, end


def _marked(mention: tuple[int, int], sentences: list[tuple[int, int]], text: str) -> str:
    """Return the sentence (or else the whole text) that holds the mention, with the mention marked."""
    start, end = mention
    first, last = next(((b, e) for b, e in sentences if b <= start and end <= e), (0, len(text)))
    before, after = (_BRACES.sub(r"(\1)", part) for part in (text[first:start], text[end:last]))
    return _one_line(f"{text[start:end]}: {before} {{ {text[start:end]} }} {after}")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def read_qrels(path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield (location, question id, candidate id, grade) of each judged pair.

    Lines are `question, candidate, grade`, or `question, iteration, candidate, grade`, separated by tabs or
    spaces. A grade of 0 or less is not relevant, a grade above 0 is the candidate's gain in nDCG. A first
    line whose last column is not a number is a header.

    Raises:
        UserError: another number of columns, or a grade that is not a finite number.
    """
    for location, line in read_filled_lines(path):
        columns = line.split("\t") if "\t" in line else line.split()
        if len(columns) not in (3, 4):
            raise UserError(
                location,
                f"has {len(columns)} columns",
                "expected question, candidate, grade (or TREC's four columns)",
            )
        try:
            grade = float(columns[-1])
        except ValueError:
            if location == f"{path} line 1":
                continue
            grade = math.nan
        if not math.isfinite(grade):
            raise UserError(location, f"the grade {columns[-1]!r} is not a number", "expected 0, 1, 2, ...")
        yield location, columns[0].strip(), columns[-2].strip(), grade

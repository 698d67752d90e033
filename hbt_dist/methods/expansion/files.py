"""Read expansion files: JSON Lines, the settings first, then one expansion per line.

    {"schema": "hbt_dist.expansions", "schema_version": 1, "benchmark": {...}, "model": {...}, "prompt": ...,
     "settings": {...}, "translations": ..., "versions": {...}}
    {"question_id": "q1", "question_language": "fi", "expansion_language": "fi", "sample": 0,
     "question": "Missä Turku on?", "text": "Turku sijaitsee ..."}

`question` is the benchmark's text, so that a file is not taken for another version of the benchmark. `text`
may be empty: then the model wrote nothing, and the question stands alone.

Translations (for `order`) come in a file of lines

    {"question_id": "q1", "question_language": "fi", "language": "en", "text": "Where is Turku?"}

the question in another language (order after), or, with "sample" and "source" (the expansion that was
translated), an expansion in another language (order before).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.fields import check_text, id_field, int_field, language_at, required, text_field
from hbt_dist.data.files import digest_of_file, kind_of, read_json_lines

SCHEMA = "hbt_dist.expansions"
SCHEMA_VERSION = 1

Key = tuple[str, str, str, int]  # question id, question language, expansion language, sample


@dataclass(frozen=True)
class Expansions:
    """The expansions of a benchmark's questions.

    Attributes:
        texts: for each question row of the benchmark its expansions, by language and sample; not empty,
            but single ones may be empty texts.
        header: the first line of the file.
        fingerprint: SHA-256 of the file.
        path: the file.
    """

    texts: list[list[str]]
    header: dict[str, Any]
    fingerprint: str
    path: Path


def read_expansions(
    path: Path, benchmark: Benchmark, expansion_languages: tuple[str, ...] | None = None
) -> Expansions:
    """Read a file and fit it to the question rows of a benchmark.

    Lines in question languages that the benchmark was loaded without are passed over.

    Args:
        expansion_languages: use only these; None for all.

    Raises:
        UserError: no expansion file, a malformed line, an expansion that comes twice, an unknown question or
            one with another text, a question without expansion.
    """
    rows = {
        (question_id, benchmark.languages[language]): row
        for row, (question_id, language) in enumerate(
            zip(benchmark.question_ids, benchmark.question_language.tolist(), strict=True)
        )
    }
    texts_by_row: list[dict[tuple[str, int], str]] = [{} for _ in range(benchmark.num_questions)]
    lines = read_json_lines(path)
    location, header = next(lines)
    check_header(header, location)
    for location, line in lines:
        key, question, text = parse_line(line, location)
        question_id, language, expansion_language, sample = key
        if language not in benchmark.languages:
            continue
        row = rows.get((question_id, language))
        if row is None:
            raise UserError(
                location,
                f"expected a question of the benchmark, got {question_id!r} in {language!r}",
                f"the file must belong to benchmark {benchmark.title}",
            )
        if question != benchmark.question_texts[row]:
            raise UserError(
                location,
                f"question {question_id!r} ({language}) has another text in the benchmark",
                "the file was made from another version of the benchmark: expand it again",
            )
        if (expansion_language, sample) in texts_by_row[row]:
            raise UserError(
                location,
                f"sample {sample} of {question_id!r} ({language}) in {expansion_language!r} comes twice",
                "keep one of them",
            )
        if expansion_languages is None or expansion_language in expansion_languages:
            texts_by_row[row][expansion_language, sample] = text
    for row, texts in enumerate(texts_by_row):
        if not texts:
            language = benchmark.languages[benchmark.question_language[row]]
            condition = "" if expansion_languages is None else f" in {', '.join(expansion_languages)}"
            raise UserError(
                str(path),
                f"question {benchmark.question_ids[row]!r} ({language}) has no expansion{condition}",
                "expand all questions of the benchmark, or evaluate only the languages that the file has",
            )
    return Expansions(
        [[texts[key] for key in sorted(texts)] for texts in texts_by_row], header, digest_of_file(path), path
    )


def check_header(header: Mapping[str, Any], location: str) -> None:
    """Check that a first line is that of an expansion file."""
    if header.get("schema") != SCHEMA:
        raise UserError(location, "is not the head of an expansion file", "make one with hbt-dist expand")
    if header.get("schema_version") != SCHEMA_VERSION:
        raise UserError(
            location,
            f"has schema version {header.get('schema_version')!r}",
            f"this program reads version {SCHEMA_VERSION}",
        )


def parse_line(line: Mapping[str, Any], location: str) -> tuple[Key, str, str]:
    """(key, question, expansion) of a line."""
    text = required(line, "text", location)
    if not isinstance(text, str):
        raise UserError(location, f"field 'text' is {kind_of(text)}", "expected a text, which may be empty")
    return (
        (
            id_field(line, "question_id", location),
            language_at(required(line, "question_language", location), location),
            language_at(required(line, "expansion_language", location), location),
            int_field(line, "sample", location),
        ),
        text_field(line, "question", location),
        check_text(text, location, "field 'text'") if text.strip() else "",
    )


@dataclass(frozen=True)
class Translation:
    """A translated question (without source), or a translated expansion."""

    language: str
    text: str
    location: str
    source: str | None = None


def read_translations(path: Path, of_expansions: bool) -> dict[tuple[str, str, int], list[Translation]]:
    """(question id, question language, sample) -> its translations; the sample of a question is 0.

    Raises:
        UserError: a malformed line, or two translations into one language.
    """
    by_question: dict[tuple[str, str, int], list[Translation]] = {}
    for location, line in read_json_lines(path):
        key = (
            id_field(line, "question_id", location),
            language_at(required(line, "question_language", location), location),
            int_field(line, "sample", location) if of_expansions else 0,
        )
        translation = Translation(
            language_at(required(line, "language", location), location),
            text_field(line, "text", location),
            location,
            text_field(line, "source", location) if of_expansions else None,
        )
        translations = by_question.setdefault(key, [])
        if any(existing.language == translation.language for existing in translations):
            raise UserError(
                location,
                f"{key[0]!r} ({key[1]}) is translated into {translation.language!r} twice",
                "keep one",
            )
        translations.append(translation)
    return by_question

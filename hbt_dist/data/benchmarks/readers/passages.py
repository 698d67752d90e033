"""Read benchmarks of questions and passages: the package's own JSON Lines, `squad-en-fi`, EXAMS and Belebele.

Your benchmark is a folder with

    questions.jsonl   {"id": "q1", "language": "fi", "text": "Missä Turku on?", "relevant": ["p7"]}
    candidates.jsonl  {"id": "p7", "language": "en", "text": "Turku is in Finland."}
    qrels.tsv         q1 <tab> p7 <tab> 1

(`.jsonl.gz` too). The same id in several languages is one question, or one candidate, in translation:
relevance joins ids, so it holds for all languages of both. It is in `relevant`, or in `qrels.tsv`
(question, candidate, grade; a grade of 0 or less is not relevant; TREC's four columns are read too), or both.
Grades are the gains of nDCG: `"relevant": {"p7": 3, "p9": 1}`, or the last column of `qrels.tsv`; in a list
all are 1, and of several grades for one candidate the highest counts.
A question may carry `"cluster": "doc12"`: questions of one cluster are resampled together in statistics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.builder import BenchmarkBuilder
from hbt_dist.data.benchmarks.readers.collections import read_qrels
from hbt_dist.data.corpus.readers import exams, squad_parallel
from hbt_dist.data.corpus.readers.base import chosen_languages
from hbt_dist.data.fields import (
    check_id,
    id_field,
    int_field,
    language_field,
    list_field,
    text_field,
    text_or_empty,
)
from hbt_dist.data.files import files_by_language, find_file, kind_of, read_json_lines
from hbt_dist.data.splits import Split


def jsonl_files(folder: Path, variant: str, languages: tuple[str, ...] | None) -> list[Path]:
    """Return the files that `read_jsonl` reads."""
    qrels = folder / "qrels.tsv"
    files = [find_file(folder, "candidates.jsonl"), find_file(folder, "questions.jsonl")]
    return [*files, qrels] if qrels.exists() else files


def read_jsonl(folder: Path, variant: str, languages: tuple[str, ...] | None, into: BenchmarkBuilder) -> None:
    """Read a folder in the format above."""
    for location, row in read_json_lines(find_file(folder, "candidates.jsonl")):
        item, language = id_field(row, "id", location), language_field(row, "language", location)
        into.add_candidate(item, language, text_or_empty(row, "text", location), location)
    for location, row in read_json_lines(find_file(folder, "questions.jsonl")):
        question_id, language = id_field(row, "id", location), language_field(row, "language", location)
        cluster = id_field(row, "cluster", location) if "cluster" in row else None
        into.add_question(
            question_id,
            language,
            text_or_empty(row, "text", location),
            location,
            cluster=cluster,
            same_as=(question_id, None),
        )
        for item, grade in _graded(row, location):
            into.add_judgement(question_id, item, location, None, grade)
    if (folder / "qrels.tsv").exists():
        for location, question_id, item, grade in read_qrels(folder / "qrels.tsv"):
            into.add_judgement(question_id, item, location, None, grade)


def _graded(row: Mapping[str, Any], location: str) -> list[tuple[str, float]]:
    """Return (candidate, grade) of each item that a question's line judges."""
    if not isinstance(row.get("relevant"), dict):
        items = list_field(row, "relevant", location) if "relevant" in row else []
        return [(check_id(item, location, f"relevant[{i}]"), 1.0) for i, item in enumerate(items)]
    for item, grade in row["relevant"].items():
        if not isinstance(grade, int | float) or isinstance(grade, bool):
            raise UserError(location, f"the grade of {item!r} is {kind_of(grade)}", "expected 0, 1, 2, ...")
        if not math.isfinite(grade):
            raise UserError(location, f"the grade of {item!r} is {grade}", "expected 0, 1, 2, ...")
    return [(item, float(grade)) for item, grade in row["relevant"].items()]


def read_squad_parallel(
    folder: Path, variant: Split, languages: tuple[str, ...] | None, into: BenchmarkBuilder
) -> None:
    """Read a part by article, by default the held-out ones; a passage in every language is relevant."""
    passages_file, questions_file = squad_parallel.find_files(folder)
    passages, outside = squad_parallel.read_passages(passages_file, variant)
    for passage_id, (_, texts) in passages.items():
        for language, text in texts.items():
            into.add_candidate(passage_id, language, text, str(passages_file))
    for location, question_id, passage_id, texts in squad_parallel.read_questions(
        questions_file, passages, outside
    ):
        for language, text in texts.items():
            into.add_question(question_id, language, text, location, cluster=passages[passage_id][0])
        into.add_relevant(question_id, passage_id, location)


def read_exams(
    folder: Path, variant: Split, languages: tuple[str, ...] | None, into: BenchmarkBuilder
) -> None:
    """Read EXAMS: all choices of a language, each text once, are the pool; the correct one is relevant.

    The versions of a clustered question share an id, so a question also finds the correct choices of its
    versions in other languages.
    """
    items: dict[tuple[str, str], str] = {}
    for row in exams.read_rows(exams.find_files(folder), variant):
        question_id = row.cluster or row.row_id
        into.add_question(question_id, row.language, row.question, row.location)
        for choice in sorted((row.answer, *row.other_choices)):  # ids must not reveal the answer
            key = (row.language, " ".join(choice.split()))
            if key not in items:
                items[key] = f"{len(items):06d}"
                into.add_candidate(items[key], row.language, choice, row.location)
        answer = items[row.language, " ".join(row.answer.split())]
        into.add_relevant(question_id, answer, row.location, row.language)


def read_belebele(
    folder: Path, variant: str, languages: tuple[str, ...] | None, into: BenchmarkBuilder
) -> None:
    """Read Belebele: `{language}.jsonl` files (`fin_Latn.jsonl`) with link, question_number, flores_passage.

    A passage is relevant in every language; one or two questions share it.
    """
    named = files_by_language(folder, ".jsonl", ".jsonl.gz")
    files = chosen_languages(named, languages, "refuse", folder)
    passages: dict[str, str] = {}  # link -> item: the same link in every language
    for language, path in files.items():
        seen: set[str] = set()
        for location, row in read_json_lines(path):
            link = text_field(row, "link", location)
            item = passages.setdefault(link, f"{len(passages):05d}")
            if item not in seen:
                seen.add(item)
                into.add_candidate(item, language, text_field(row, "flores_passage", location), location)
            question_id = f"{item}_{int_field(row, 'question_number', location)}"
            into.add_question(
                question_id, language, text_field(row, "question", location), location, cluster=item
            )
            into.add_relevant(question_id, item, location)

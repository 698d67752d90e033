"""Judgements that do not fit their collection: refused, or scored as published; one rule for all readers."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.judgements import judgement_lines
from hbt_dist.data.benchmarks.load import load_benchmark

#: documents, questions, judgements (question, document, grade)
Collection = tuple[dict[str, str], dict[str, str], list[tuple[str, str, int]]]
PLAIN: Collection = (
    {"d1": "one", "d2": "two", "d3": "three"},
    {"q1": "first", "q2": "second"},
    [("q1", "d1", 1), ("q2", "d2", 2)],
)


def write_beir(folder: Path, collection: Collection) -> None:
    documents, questions, judged = collection
    (folder / "qrels").mkdir(parents=True)
    _write_lines(folder / "corpus.jsonl", [{"_id": i, "title": "", "text": t} for i, t in documents.items()])
    _write_lines(folder / "queries.jsonl", [{"_id": i, "text": t} for i, t in questions.items()])
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in judged)]
    (folder / "qrels/test.tsv").write_text("\n".join(lines) + "\n")


def write_own(folder: Path, collection: Collection) -> None:
    documents, questions, judged = collection
    folder.mkdir()
    for name, rows in (("candidates", documents), ("questions", questions)):
        lines = [{"id": i, "language": "en", "text": text} for i, text in rows.items()]
        _write_lines(folder / f"{name}.jsonl", lines)
    (folder / "qrels.tsv").write_text("".join("\t".join(map(str, row)) + "\n" for row in judged))


def write_miracl(folder: Path, collection: Collection) -> None:
    documents, questions, judged = collection
    topics, qrels = (folder / "miracl-v1.0-en" / name for name in ("topics", "qrels"))
    corpus = folder / "miracl-corpus-v1.0-en"
    for path in (topics, qrels, corpus):
        path.mkdir(parents=True)
    lines = "".join(f"{i}\t{text}\n" for i, text in questions.items())
    (topics / "topics.miracl-v1.0-en-dev.tsv").write_text(lines)
    lines = "".join(f"{question} Q0 {item} {grade}\n" for question, item, grade in judged)
    (qrels / "qrels.miracl-v1.0-en-dev.tsv").write_text(lines)
    with gzip.open(corpus / "docs-0.jsonl.gz", "wt", encoding="utf-8") as file:
        for item, text in documents.items():
            print(json.dumps({"docid": item, "title": "", "text": text}), file=file)


def _write_lines(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


WRITE: dict[str, Callable[[Path, Collection], None]] = {
    "beir": write_beir,
    "jsonl": write_own,
    "miracl": write_miracl,
}


def load(name: str, folder: Path, collection: Collection, **options: Any) -> Benchmark:
    WRITE[name](folder / name, collection)
    return load_benchmark(name, folder / name, languages=["en"], cache_dir=folder / "cache", **options)


CASES = {
    "empty document": (
        ({"d4": ""}, {}, []),
        "the text of candidate 'd4' is empty",
        "documents with an empty text: 1",
    ),
    "blank document": (({"d4": " \n"}, {}, []), "'d4' is empty", "documents with an empty text: 1"),
    "absent document": (
        ({}, {}, [("q1", "d9", 1)]),
        "relevant candidate 'd9' is not in the",
        "relevant documents outside the pool, which count in R and are never found: 1",
    ),
    "question that is not asked": (
        ({}, {}, [("q9", "d1", 1)]),
        "'(en:)?q9' is not among the questions",
        "judged questions that are not among the questions, left out: 1",
    ),
    "question with grades of 0 and below": (
        ({}, {"q3": "third"}, [("q3", "d1", 0), ("q3", "d2", -1)]),
        "'(en:)?q3' in 'en' has no relevant candidate",
        "questions without a relevant document, left out: 1",
    ),
}


def changed(case: str) -> Collection:
    documents, questions, judged = CASES[case][0]
    return PLAIN[0] | documents, PLAIN[1] | questions, PLAIN[2] + judged


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize("case", CASES)
def test_strict_refuses_and_names_the_setting(name: str, case: str, tmp_path: Path) -> None:
    """At a place of the files, with the setting to change."""
    with pytest.raises(UserError, match=CASES[case][1]) as raised:
        load(name, tmp_path, changed(case), judgements="strict")
    assert "judgements: as_published, --judgements as_published" in str(raised.value)
    assert str(tmp_path) in str(raised.value)


@pytest.mark.parametrize("memory_bytes", [0, 2**40])
@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize("case", CASES)
def test_as_published_counts(name: str, case: str, memory_bytes: int, tmp_path: Path) -> None:
    benchmark = load(name, tmp_path, changed(case), judgements="as_published", memory_bytes=memory_bytes)
    assert judgement_lines(benchmark.judgements.plain) == [CASES[case][2]]
    assert [i.removeprefix("en:") for i in benchmark.question_ids] == ["q1", "q2"]
    absent = case == "absent document"
    assert benchmark.relevant_ids() == ["en_d1", *["en_d9"] * absent, "en_d2"]
    assert benchmark.relevant.tolist() == [0, *[3] * absent, 1]
    assert benchmark.num_candidates == 3 + ("document" in case and not absent)
    assert benchmark.on_disk == (memory_bytes == 0)


def test_defaults_by_reader(tmp_path: Path) -> None:
    """Published collections are scored as published; a folder of yours is checked."""
    assert load("beir", tmp_path, changed("empty document")).judgements.counts["empty_documents"] == 1
    assert load("miracl", tmp_path, changed("empty document")).judgements.counts["empty_documents"] == 1
    with pytest.raises(UserError, match="'d4' is empty"):
        load("jsonl", tmp_path, changed("empty document"))


@pytest.mark.parametrize("name", WRITE)
def test_a_collection_that_fits_is_the_same_under_both_rules(name: str, tmp_path: Path) -> None:
    strict = load(name, tmp_path, PLAIN, judgements="strict")
    published = load_benchmark(name, tmp_path / name, languages=["en"], judgements="as_published")
    assert strict.fingerprint == published.fingerprint
    assert not judgement_lines(published.judgements.plain)


def test_files_that_do_not_belong_together_are_refused_under_both_rules(tmp_path: Path) -> None:
    documents, questions, _ = PLAIN
    with pytest.raises(UserError, match="no relevant candidate is in the pool"):
        load("beir", tmp_path / "a", (documents, questions, [("q1", "x", 1), ("q2", "y", 1)]))
    with pytest.raises(UserError, match="has 0 questions"):
        load("beir", tmp_path / "b", (documents, questions, [("x", "d1", 1)]))


OWN_DOCUMENT: Collection = (PLAIN[0], {"d1": "one", "q2": "second"}, [("d1", "d2", 1), ("q2", "d3", 1)])


@pytest.mark.parametrize("name", WRITE)
@pytest.mark.parametrize("memory_bytes", [0, 2**40])
def test_a_question_that_is_a_document(name: str, memory_bytes: int, tmp_path: Path) -> None:
    benchmark = load(name, tmp_path, OWN_DOCUMENT, identical_ids="drop", memory_bytes=memory_bytes)
    assert benchmark.excluded.tolist() == [[0, 0]]
    assert judgement_lines(benchmark.judgements.plain) == [
        "questions with the id of a document, which their rankings leave out: 1"
    ]
    kept = load_benchmark(name, tmp_path / name, languages=["en"], identical_ids="keep")
    assert not len(kept.excluded)
    assert judgement_lines(kept.judgements.plain) == [
        "questions with the id of a document, which their rankings keep (identical_ids: keep): 1"
    ]
    assert kept.fingerprint != benchmark.fingerprint


def test_only_beir_drops_by_default(tmp_path: Path) -> None:
    assert [len(load(name, tmp_path, OWN_DOCUMENT).excluded) for name in WRITE] == [1, 0, 0]


def test_a_dropped_document_that_is_relevant_counts_in_r(tmp_path: Path) -> None:
    documents, questions, _ = OWN_DOCUMENT
    judged = [("d1", "d1", 2), ("d1", "d2", 1), ("q2", "d3", 1)]
    benchmark = load("beir", tmp_path, (documents, questions, judged))
    assert benchmark.relevant.tolist() == [1, 3, 2]
    assert benchmark.grades.tolist() == [1, 2, 1]
    assert benchmark.judgements.counts["own_document_relevant"] == 1
    assert "absent_relevant" not in benchmark.judgements.counts


def test_a_document_is_left_out_in_the_languages_where_it_is_the_question(tmp_path: Path) -> None:
    """`separate`: an id means something in its language only; `parallel`: translations have it too."""
    for language in ("en", "fi"):
        write_beir(tmp_path / language, OWN_DOCUMENT)
    separate = load_benchmark("beir", tmp_path)
    assert separate.excluded.tolist() == [[0, 0], [2, 3]]
    parallel = load_benchmark("beir", tmp_path, "parallel")
    assert parallel.excluded.tolist() == [[0, 0], [0, 3], [2, 0], [2, 3]]


def test_whole_numbers_are_ids_everywhere(tmp_path: Path) -> None:
    folder = tmp_path / "numbers"
    folder.mkdir()
    _write_lines(folder / "candidates.jsonl", [{"id": 1, "language": "en", "text": "a"}])  # type: ignore[dict-item]
    question = {"id": 7, "language": "en", "text": "q", "relevant": [1]}
    _write_lines(folder / "questions.jsonl", [question])  # type: ignore[list-item]
    assert load_benchmark("jsonl", folder).relevant_ids() == ["en_1"]


def test_ids_with_spaces(tmp_path: Path) -> None:
    collection: Collection = ({"doc 3": "a", "d": "b"}, {"q 1": "q"}, [("q 1", "doc 3", 1)])
    assert load("beir", tmp_path, collection).relevant_ids() == ["en_doc 3"]

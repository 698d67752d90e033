"""Collections as published, from the command to results.json and the report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.jobs.evaluate import evaluate_job
from tests.helpers.published import Toy, write_hub, write_lines

ODD = Toy(
    {"d1": ("", "candidate 1"), "d2": ("en", "candidate 2"), "d4": ("", ""), "d 5": ("", "fi 5")},
    {"1": "question 1", "2": "question 2", "3": "question 3"},
    [("1", "d1", 3), ("1", "d9", 1), ("2", "d2", 1), ("3", "d1", 0), ("3", "d2", -1), ("99", "d1", 1)],
)
LINES = (
    "documents with an empty text: 1",
    "relevant documents outside the pool, which count in R and are never found: 1",
    "judged questions that are not among the questions, left out: 1",
    "questions without a relevant document, left out: 1",
)


def evaluated(model: Path, benchmark: BenchmarkSettings, out: Path, **options: Any) -> dict[str, Any]:
    evaluate_job(str(model), benchmark, out, quiet=True, **options)
    return json.loads((out / "results.json").read_text("utf-8"))


def test_counts_go_to_console_results_and_report(tmp_path: Path, tiny_model: Path) -> None:
    folder = write_hub(tmp_path / "set", {"default": ODD})
    benchmark = BenchmarkSettings(name=str(folder), languages=("en",))
    summary = evaluate_job(str(tiny_model), benchmark, tmp_path / "out", quiet=True, report=True)
    assert summary.splitlines()[-4:] == list(LINES)
    results = json.loads((tmp_path / "out/results.json").read_text("utf-8"))
    judgements = results["benchmark"]["judgements"]
    assert (judgements["judgements"], judgements["identical_ids"]) == ("as_published", "drop")
    assert {name: count for name, count in judgements["counts"].items() if count} == {
        "empty_documents": 1,
        "absent_relevant": 1,
        "questions_not_asked": 1,
        "questions_without_relevant": 1,
    }
    assert results["benchmark"]["num_questions"]["total"] == 2
    report = (tmp_path / "out/report.md").read_text("utf-8")
    for line in LINES:
        assert f"{line[0].upper()}{line[1:]}." in report


def test_a_question_does_not_find_itself(tmp_path: Path, tiny_model: Path) -> None:
    """The row of ArguAna: 1.0 without the question's own document, 0.5 with it."""
    documents = {"d1": ("", "question candidate 1"), "d2": ("", "fi 5")}
    toy = Toy(documents, {"d1": "question candidate 1"}, [("d1", "d2", 1)])
    folder = write_hub(tmp_path / "set", {"default": toy})
    for rule, expected in ((None, 1.0), ("keep", 0.5)):
        benchmark = BenchmarkSettings(
            name="beir",
            data_dir=str(folder),
            languages=("en",),
            identical_ids=rule,  # type: ignore[arg-type]
        )
        results = evaluated(
            tiny_model,
            benchmark,
            tmp_path / f"out-{rule}",
            text={"question_prefix": "", "passage_prefix": ""},
        )
        assert results["means"]["monolingual"]["macro"]["map"] == expected
        assert results["benchmark"]["judgements"]["counts"]["questions_with_own_document"] == 1


def test_spaces_in_ids_matter_in_trec_files_only(tmp_path: Path, tiny_model: Path) -> None:
    """Refused before the model is loaded; nothing is written."""
    folder = write_hub(tmp_path / "set", {"default": ODD})
    benchmark = BenchmarkSettings(name="beir", data_dir=str(folder), languages=("en",))
    with pytest.raises(UserError, match=r"the id 'en_d 5' holds white space.*TREC"):
        evaluate_job("no-model", benchmark, tmp_path / "out", quiet=True, trec=True)
    assert not (tmp_path / "out").exists()
    assert evaluated(tiny_model, benchmark, tmp_path / "out")["benchmark"]["num_candidates"]["total"] == 4


def test_strict_is_a_setting_of_the_benchmark(tmp_path: Path) -> None:
    folder = write_hub(tmp_path / "set", {"default": ODD})
    benchmark = BenchmarkSettings(name="beir", data_dir=str(folder), languages=("en",), judgements="strict")
    with pytest.raises(UserError, match="'d4' is empty") as raised:
        evaluate_job("no-model", benchmark, tmp_path / "out", quiet=True)
    assert "judgements: as_published, --judgements as_published" in str(raised.value)


def test_labels(tmp_path: Path) -> None:
    """A folder names results, and rules that are not set are not stored."""
    assert BenchmarkSettings(name="./data/law").label == "law"
    assert BenchmarkSettings(name="mteb:ArguAna").label == "mteb-ArguAna"
    assert "judgements" not in BenchmarkSettings(name="beir").model_dump()
    assert BenchmarkSettings(name="beir", judgements="strict").model_dump()["judgements"] == "strict"


def test_own_numbers_as_ids(tmp_path: Path, tiny_model: Path) -> None:
    write_lines(tmp_path / "b/candidates.jsonl", [{"id": 1, "language": "en", "text": "candidate"}])
    question = {"id": 7, "language": "en", "text": "question", "relevant": [1]}
    write_lines(tmp_path / "b/questions.jsonl", [question])
    results = evaluated(tiny_model, BenchmarkSettings(name=str(tmp_path / "b")), tmp_path / "out", trec=True)
    assert results["means"]["monolingual"]["macro"]["map"] == 1.0

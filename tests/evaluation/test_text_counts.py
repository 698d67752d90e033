"""Texts that a limit cut are counted exactly, in memory, in the cache and on the page."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.evaluation.results import before_and_after, summary
from hbt_dist.evaluation.run import check_encoder, score_encoder
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.text_counts import text_lines
from hbt_dist.evaluation.writing import write_evaluation
from hbt_dist.models.loading import load_encoder
from hbt_dist.reports.evaluation.page import write_report


@pytest.fixture
def benchmark(make_benchmark: Callable[..., Benchmark]) -> Benchmark:
    """Long candidates in Finnish, one Chinese question without any token."""
    plain = make_benchmark()
    questions = [
        " " if row == plain.num_questions - 1 else text for row, text in enumerate(plain.question_texts)
    ]
    candidates = [
        text + " 0123456789" * 3 if language == 1 and row % 2 else text
        for row, (text, language) in enumerate(
            zip(plain.candidate_texts, plain.candidate_language.tolist(), strict=True)
        )
    ]
    return replace(plain, question_texts=questions, candidate_texts=candidates, fingerprint="")


def test_counts_are_those_of_the_whole_texts(tiny_model: Path, tmp_path: Path, benchmark: Benchmark) -> None:
    loaded = load_encoder(tiny_model)
    cached = EvaluationSettings(device="cpu", rows_per_file=7, cache_dir=str(tmp_path / "cache"))
    documents = []
    for settings in (EvaluationSettings(device="cpu"), cached, cached):
        evaluation = score_encoder(loaded, benchmark, settings=settings, progress=False)
        write_evaluation(evaluation, tmp_path / "out")
        documents.append(json.loads((tmp_path / "out" / "results.json").read_text())["texts"])
    texts: dict[str, Any] = documents[0]
    assert documents == [texts] * 3
    prefix = loaded.text.question_prefix
    for role, words, languages, before in (
        ("questions", benchmark.question_texts, benchmark.question_language, prefix),
        ("candidates", benchmark.candidate_texts, benchmark.candidate_language, ""),
    ):
        counts = texts[role]
        lengths = [len(loaded.tokenizer(before + text)["input_ids"]) for text in words]
        for index, code in enumerate(benchmark.languages):
            chosen = [length for length, k in zip(lengths, languages.tolist(), strict=True) if k == index]
            assert counts["num_texts"][code] == len(chosen)
            assert counts["cut"][code] == sum(length > counts["max_tokens"] for length in chosen)
        assert counts["cut"]["total"] == sum(length > counts["max_tokens"] for length in lengths)
    assert texts["questions"]["max_tokens"] == 12
    assert texts["candidates"]["cut"] == {"en": 0, "fi": 20, "zh": 0, "total": 20}
    assert texts["questions"]["special_only"] == {"en": 0, "fi": 0, "zh": 1, "total": 1}


def test_shares_are_printed_next_to_the_figures(
    tiny_model: Path, tmp_path: Path, benchmark: Benchmark
) -> None:
    loaded = load_encoder(tiny_model)
    settings = EvaluationSettings(device="cpu")
    evaluation = score_encoder(loaded, benchmark, settings=settings, progress=False)
    cut, special = text_lines(evaluation.texts)
    assert cut.startswith("cut texts: ")
    assert cut.endswith("% of candidates (at 24 tokens, 50.0% in fi)")
    assert special == "without any token: 1 of 60 questions (zh); their vectors are equal"
    assert cut in summary(evaluation)
    write_evaluation(evaluation, tmp_path / "end", add_files=write_report)
    assert "50.0% in fi" in (tmp_path / "end" / "report.md").read_text()
    assert cut in before_and_after(tmp_path / "end", tmp_path / "end")


def test_a_tokenizer_that_does_not_know_the_texts_is_refused(tiny_model: Path, benchmark: Benchmark) -> None:
    loaded = load_encoder(tiny_model)
    check_encoder(loaded, benchmark, EvaluationSettings())
    thai = replace(benchmark, candidate_texts=["ภาษา"] * benchmark.num_candidates, fingerprint="")
    with pytest.raises(UserError, match="its tokenizer reads 120 of 120 texts as unknown tokens"):
        check_encoder(loaded, thai, EvaluationSettings())

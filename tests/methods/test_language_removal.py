"""LIR against its definition in float64, bit for bit the same for every number of shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.evaluation.embedding_files import open_embedding_files
from hbt_dist.evaluation.encode import encode_texts
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.results import summary
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.writing import write_evaluation
from hbt_dist.jobs.evaluate import evaluate_job
from hbt_dist.methods.language_removal import (
    LanguageFreeRows,
    LanguageRemoval,
    language_components,
    read_language_texts,
    without_components,
)
from hbt_dist.models.loading import load_encoder
from hbt_dist.run_file import BenchmarkSettings

MakeBenchmark = Callable[..., Benchmark]


def definition(rows_ND: np.ndarray, fitted_on_MD: np.ndarray, rank: int) -> np.ndarray:
    """LIR as it is written, by singular value decomposition, scaled."""
    _, _, v = np.linalg.svd(fitted_on_MD.astype(np.float64), full_matrices=False)
    rows = rows_ND.astype(np.float64)
    left = rows - rows @ v[:rank].T @ v[:rank]
    return left / np.linalg.norm(left, axis=1, keepdims=True)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def clustered(benchmark: Benchmark, width: int = 24, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings in which the language says more than the meaning."""
    random = np.random.default_rng(seed)
    centres = 3 * random.standard_normal((len(benchmark.languages), width))
    meaning = {i: random.standard_normal(width) for i in range(benchmark.num_questions)}
    answers = random.standard_normal((benchmark.num_candidates, width))
    questions = np.empty((benchmark.num_questions, width))
    order = {name: i for i, name in enumerate(dict.fromkeys(benchmark.question_ids))}
    for row, name in enumerate(benchmark.question_ids):
        questions[row] = meaning[order[name]] + 0.5 * random.standard_normal(width)
        start, stop = benchmark.relevant_offsets[row : row + 2]
        answers[benchmark.relevant[start:stop]] = meaning[order[name]]
    answers += 0.5 * random.standard_normal(answers.shape)
    return (
        unit(questions + centres[benchmark.question_language]),
        unit(answers + centres[benchmark.candidate_language]),
    )


def lir(rank: int = 1, **others: Any) -> EvaluationSettings:
    return EvaluationSettings(language_removal="lir", language_removal_rank=rank, **others)


def test_a_case_by_hand() -> None:
    # M = [[3, 0, 0], [0, 1, 0], [3, 0, 0]]: M^T M = diag(18, 1, 0), so the component is the first axis.
    fitted = np.array([[3.0, 0, 0], [0, 1, 0], [3, 0, 0]], np.float32)
    components, share = language_components(fitted, np.arange(3), 1, language="en")
    np.testing.assert_allclose(np.abs(components), [[1, 0, 0]], atol=1e-15)
    assert share == pytest.approx(18 / 19)
    rows = np.array([[5.0, 3, 4], [0, 0, -2], [2, 0, 0]])
    left = without_components(rows, np.zeros(3, np.int64), components[None])
    np.testing.assert_allclose(left, [[0, 0.6, 0.8], [0, 0, -1], [0, 0, 0]], atol=1e-7)


def test_nothing_is_centred() -> None:
    """All vectors near one direction: that direction goes, which centring would have hidden."""
    random = np.random.default_rng(0)
    fitted = np.array([10.0, 0, 0, 0]) + random.standard_normal((500, 4)) * [0.01, 1, 0.1, 0.1]
    components, _ = language_components(fitted.astype(np.float32), np.arange(500), 1, language="en")
    assert abs(components[0, 0]) > 0.999


@given(st.integers(0, 2**20), st.integers(2, 30), st.integers(1, 4), st.integers(1, 40), st.floats(0.0, 5.0))
def test_components_are_the_right_singular_vectors(
    seed: int, width: int, rank: int, extra: int, offset: float
) -> None:
    rank = min(rank, width - 1)
    random = np.random.default_rng(seed)
    fitted = (random.standard_normal((rank + extra, width)) + offset).astype(np.float32)
    components, share = language_components(fitted, np.arange(len(fitted)), rank, language="en")
    _, s, v = np.linalg.svd(fitted.astype(np.float64), full_matrices=False)
    np.testing.assert_allclose(components @ components.T, np.eye(rank), atol=1e-12)
    assert share == pytest.approx((s[:rank] ** 2).sum() / (s**2).sum(), rel=1e-9)
    gap = s[rank - 1] - s[rank] if rank < len(s) else s[rank - 1]
    if gap > 1e-3 * s[0]:  # otherwise the space itself is not determined
        np.testing.assert_allclose(components.T @ components, v[:rank].T @ v[:rank], atol=1e-7)


def test_rows_are_orthogonal_to_the_components_and_removing_twice_changes_nothing() -> None:
    random = np.random.default_rng(1)
    fitted = (random.standard_normal((200, 16)) + 1).astype(np.float32)
    components, _ = language_components(fitted, np.arange(200), 3, language="en")
    rows, language = random.standard_normal((50, 16)), np.zeros(50, np.int64)
    once = without_components(rows, language, components[None])
    assert np.abs(once @ components.T).max() < 1e-7
    np.testing.assert_allclose(np.linalg.norm(once, axis=1), 1, atol=1e-6)
    twice = without_components(once.astype(np.float64), language, components[None])
    np.testing.assert_allclose(twice, once, atol=2e-7)
    np.testing.assert_allclose(once, definition(rows, fitted, 3), atol=1e-6)


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("shuffled", [False, True])
def test_every_language_loses_its_own_components(
    make_benchmark: MakeBenchmark, rank: int, shuffled: bool
) -> None:
    benchmark = make_benchmark(shuffled=shuffled, missing=0.2)
    questions, candidates = clustered(benchmark)
    q, c, facts = LanguageRemoval(rank)(benchmark, questions, candidates)
    assert q.shape == questions.shape
    for number, code in enumerate(benchmark.languages):
        of_q = np.flatnonzero(benchmark.question_language == number)
        of_c = np.flatnonzero(benchmark.candidate_language == number)
        fitted = candidates[of_c]
        np.testing.assert_allclose(q[of_q], definition(questions[of_q], fitted, rank), atol=1e-6)
        np.testing.assert_allclose(c[of_c], definition(candidates[of_c], fitted, rank), atol=1e-6)
        assert facts["language_removal"]["num_vectors"][code] == len(of_c)


def test_a_row_is_the_same_bits_whatever_is_read_with_it(
    make_benchmark: MakeBenchmark, tmp_path: Path
) -> None:
    benchmark = make_benchmark(per_language=100, shuffled=True)
    questions, candidates = clustered(benchmark, width=37)
    _, free, _ = LanguageRemoval(2)(benchmark, questions, candidates)
    whole = free[:]
    for size in (1, 2, 7, 64):
        parts = [free[start : start + size] for start in range(0, len(whole), size)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
    order = np.random.default_rng(0).permutation(len(whole))
    np.testing.assert_array_equal(free[order], whole[order])
    files = open_embedding_files(tmp_path, "a" * 64, num_rows=len(whole), width=37, rows_per_file=64)
    for number in files.missing():
        rows = files.rows_of_file(number)
        files.write_file(number, candidates[rows.start : rows.stop])
    _, from_files, _ = LanguageRemoval(2)(benchmark, questions, files)
    np.testing.assert_array_equal(from_files[order], whole[order])
    assert isinstance(from_files, LanguageFreeRows)


def test_every_number_of_shards_gives_the_same_ranks(make_benchmark: MakeBenchmark) -> None:
    benchmark = make_benchmark(num_ids=100, per_language=1100)  # several blocks of candidates
    questions, candidates = clustered(benchmark)
    found = [
        evaluate(benchmark, questions, candidates, settings=settings, transform=LanguageRemoval())
        for settings in (
            lir(num_shards=1, num_threads=1),
            lir(num_shards=2, num_threads=1),
            lir(num_shards=4, num_threads=2),
        )
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(other.ranks.pooled, found[0].ranks.pooled)
        assert other.means == found[0].means
        assert other.consistency == found[0].consistency


def test_evaluation_is_that_of_the_changed_embeddings_and_says_so(
    make_benchmark: MakeBenchmark, tmp_path: Path
) -> None:
    benchmark = make_benchmark()
    questions, candidates = clustered(benchmark)
    plain = evaluate(benchmark, questions, candidates)
    removed = evaluate(
        benchmark,
        questions,
        candidates,
        settings=lir(),
        transform=LanguageRemoval(),
        provenance={"model": "made-up"},
    )
    changed = [np.empty_like(one) for one in (questions, candidates)]
    for number in range(len(benchmark.languages)):
        fitted = candidates[benchmark.candidate_language == number]
        for new, old, language in (
            (changed[0], questions, benchmark.question_language),
            (changed[1], candidates, benchmark.candidate_language),
        ):
            new[language == number] = definition(old[language == number], fitted, 1)
    by_hand = evaluate(benchmark, *changed)
    assert removed.means == by_hand.means
    gains = [one.means["multilingual"]["macro"]["map"] for one in (plain, removed)]
    assert gains[1] > 1.2 * gains[0]  # the languages were apart
    write_evaluation(removed, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    facts = results["provenance"]["language_removal"]
    assert (facts["method"], facts["rank"], facts["transductive"]) == ("lir", 1, True)
    assert facts["num_vectors"] == dict.fromkeys(benchmark.languages, 40)
    assert all(0.3 < share < 1 for share in facts["share_of_squares"].values())
    assert results["provenance"]["model"] == "made-up"
    assert "language components removed: 1 per language, fitted on the candidates" in summary(removed)
    assert "removed" not in summary(plain)


def test_other_texts_to_fit_on(make_benchmark: MakeBenchmark, tiny_model: Path, tmp_path: Path) -> None:
    benchmark = make_benchmark()
    for code in benchmark.languages:
        lines = "".join(f"candidate {number} {code}\n\n" for number in range(30))
        (tmp_path / f"{code}.txt").write_text(lines, encoding="utf-8")
    texts = read_language_texts(tmp_path, benchmark.languages)
    assert [len(texts[code]) for code in benchmark.languages] == [30, 30, 30]
    loaded = load_encoder(tiny_model)
    settings = lir(language_removal_texts=str(tmp_path))
    vectors = {code: encode_texts(loaded, texts[code], "question", progress=False) for code in texts}
    questions = encode_texts(loaded, benchmark.question_texts, "question", progress=False)
    candidates = encode_texts(loaded, benchmark.candidate_texts, "passage", progress=False)
    q, _, facts = LanguageRemoval(1, vectors)(benchmark, questions, candidates)
    rows = np.flatnonzero(benchmark.question_language == 1)
    wanted = definition(questions[rows], vectors["fi"][:], 1)
    np.testing.assert_allclose(q[rows], wanted, atol=1e-5)
    assert facts["language_removal"]["fitted_on"] == "texts"
    found = evaluate(
        benchmark, questions, candidates, settings=settings, transform=LanguageRemoval(1, vectors)
    )
    assert "fitted on other texts" in summary(found)
    with pytest.raises(ValueError, match="needs a transform"):
        evaluate(benchmark, questions, candidates, settings=settings)


@pytest.mark.parametrize("texts", [False, True])
def test_the_evaluate_job(tiny_model: Path, tmp_path: Path, texts: bool) -> None:
    for code in ("en", "fi"):
        lines = "".join(f"text {number} {code}\n" for number in range(20))
        (tmp_path / f"{code}.txt").write_text(lines, encoding="utf-8")
    settings = lir(language_removal_texts=str(tmp_path) if texts else None)
    asked = BenchmarkSettings(name="sample", languages=("en", "fi"))
    shown = evaluate_job(str(tiny_model), asked, tmp_path / "out", scoring=settings, quiet=True)
    assert "language components removed" in shown
    results = json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))
    facts = results["provenance"]["language_removal"]
    assert facts["fitted_on"] == ("texts" if texts else "candidates")
    assert facts["num_vectors"] == dict.fromkeys(("en", "fi"), 20 if texts else 120)


def test_refusals(make_benchmark: MakeBenchmark, tmp_path: Path) -> None:
    benchmark = make_benchmark(per_language=20)
    questions, candidates = clustered(benchmark)
    with pytest.raises(UserError, match="cannot take 21 components out of 'en': it has 20 vectors"):
        LanguageRemoval(21)(benchmark, questions, candidates)
    with pytest.raises(UserError, match="cannot take 24 components"):
        LanguageRemoval(24)(make_benchmark(), *clustered(make_benchmark()))
    with pytest.raises(UserError, match="2 of them independent"):
        LanguageRemoval(3)(benchmark, questions, np.tile(candidates[:2], (30, 1)))
    broken = candidates.copy()
    broken[3, 2] = np.nan
    with pytest.raises(UserError, match=f"embedding of '{benchmark.candidate_ids[3]}'"):
        LanguageRemoval()(benchmark, questions, broken)
    nothing_else = questions.copy()
    fitted = candidates[benchmark.candidate_language == 0]
    nothing_else[0] = np.linalg.svd(fitted.astype(np.float64))[2][0]  # the English component itself
    with pytest.raises(UserError, match="is all zeros"):
        evaluate(benchmark, nothing_else, candidates, settings=lir(), transform=LanguageRemoval())
    (tmp_path / "en.txt").write_text("\n", encoding="utf-8")
    with pytest.raises(UserError, match="the file is empty"):
        read_language_texts(tmp_path, ["en"])
    with pytest.raises(UserError, match=r"has no file fi\.txt"):
        read_language_texts(tmp_path, ["fi"])
    with pytest.raises(ValidationError, match="belongs to language_removal"):
        EvaluationSettings(language_removal_texts="somewhere")
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        lir(0)

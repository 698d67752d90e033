"""Reading evaluation folders, and benchmarks on which nothing can be said of two languages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.read_results import headline_figures, rank_distance_of, read_evaluation, read_results
from hbt_dist.evaluation.results import before_and_after, pair_lines
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.writing import write_evaluation
from hbt_dist.training.checkpoints.measure import objectives_of

LANGUAGES = ("en", "fi")


def monolingual_benchmark(folder: Path, languages: Sequence[str] = LANGUAGES) -> Benchmark:
    """Questions of several languages, each answered in its own alone, as in MIRACL."""
    folder.mkdir()
    lines = {
        "questions.jsonl": [
            f'{{"id": "{code}{n}", "text": "question {n}", "language": "{code}", "relevant": ["{code}p{n}"]}}'
            for code in languages
            for n in range(8)
        ],
        "candidates.jsonl": [
            f'{{"id": "{code}p{n}", "text": "passage {n} {code}", "language": "{code}"}}'
            for code in languages
            for n in range(12)
        ],
    }
    for name, texts in lines.items():
        (folder / name).write_text("\n".join(texts) + "\n", "utf-8")
    return load_benchmark("jsonl", folder)


def measured(benchmark: Benchmark, out: Path, seed: int, noise: float) -> Path:
    rng = np.random.default_rng(seed)
    candidates = rng.standard_normal((benchmark.num_candidates, 16))
    wanted = np.stack([candidates[benchmark.relevant_of(q)].mean(0) for q in range(benchmark.num_questions)])
    questions = wanted + noise * rng.standard_normal(wanted.shape)
    settings = EvaluationSettings(device="cpu", consistency_questions=0, top_k=10)
    evaluation = evaluate(benchmark, questions, candidates, settings=settings)
    return write_evaluation(evaluation, out)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("monolingual")
    benchmark = monolingual_benchmark(root / "data")
    return [measured(benchmark, root / name, 0, noise) for name, noise in (("start", 2.0), ("end", 0.1))]


def test_a_monolingual_benchmark_has_no_rank_distance(folders: list[Path]) -> None:
    results = read_results(folders[1])
    assert rank_distance_of(results) is None
    assert headline_figures(results)["crosslingual"] is None
    text = before_and_after(*folders)
    assert "rank distance" in text
    assert "nan" not in text
    assert set(objectives_of(folders[1])) == {"monolingual", "multilingual"}


def made_results(languages: list[str], values: NDArray[np.float64]) -> dict[str, Any]:
    """The blocks of results.json that the terminal shows; the last language is unseen."""
    means = {"same_family": {"map": 0.5, "num_pairs": 2}, "other_family": {"map": 0.25, "num_pairs": 4}}
    return {
        "pair_matrix": {"languages": languages, "metrics": {"map": values.tolist()}},
        "by_language": {code: {"seen": code != languages[-1]} for code in languages},
        "means": {"monolingual": {"macro": {"map": 0.75}}},
        "groups": {"crosslingual": means},
    }


def test_two_matrices_are_next_to_each_other_where_they_fit() -> None:
    after = made_results(["en", "uk"], np.array([[0.9, 0.8], [0.7, 0.6]]))
    before = made_results(["en", "uk"], np.array([[0.1, 0.2], [np.nan, 0.0]]))
    assert pair_lines(after, before) == [
        "mAP of each pair: question language (rows), candidate language (columns)",
        "before training      after training",
        "        en    uk°            en    uk°",
        "en   0.100  0.200    en   0.900  0.800",
        "uk°      -  0.000    uk°  0.700  0.600",
        "° not in the training data",
    ]
    codes = [f"l{n}" for n in range(12)]
    wide = made_results(codes, np.full((12, 12), 0.5))
    lines = pair_lines(wide, wide)
    assert max(map(len, lines)) <= 100
    assert lines[1] == "before training"
    assert lines[15] == "after training"


def test_many_languages_are_shown_by_extremes_and_means_of_families() -> None:
    values = np.linspace(0, 1, 169).reshape(13, 13)
    lines = pair_lines(made_results([f"l{n}" for n in range(13)], values))
    assert lines[0] == "mAP of 169 pairs: question language - candidate language"
    assert lines[1].startswith("highest: l12°-l12° 1.000, ")
    assert lines[2].startswith("lowest: l0-l0 0.000, ")
    assert lines[3] == (
        "means: within languages 0.750, within families 0.500 (2 pairs), across families 0.250 (4 pairs)"
    )


def test_only_what_is_asked_for_is_read(folders: list[Path]) -> None:
    found = read_evaluation(folders[0], ["ndcg@10"])
    assert "one_target" not in set(found.rows.setting)
    assert {"ndcg@10", "question_cluster"} <= set(found.rows.columns)
    assert "mrr" not in found.rows.columns
    values: Any = found.values("monolingual", "ndcg@10")
    assert len(values) == 16
    assert len(found.values("crosslingual", "ndcg@10")) == 0
    assert len(found.values("multilingual", "rank_distance")) == 0

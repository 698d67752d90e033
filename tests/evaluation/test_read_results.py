"""Reading evaluation folders, and benchmarks on which nothing can be said of two languages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.read_results import headline_figures, rank_distance_of, read_evaluation, read_results
from hbt_dist.evaluation.results import before_and_after
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


def test_only_what_is_asked_for_is_read(folders: list[Path]) -> None:
    found = read_evaluation(folders[0], ["ndcg@10"])
    assert "one_target" not in set(found.rows.setting)
    assert {"ndcg@10", "question_cluster"} <= set(found.rows.columns)
    assert "mrr" not in found.rows.columns
    values: Any = found.values("monolingual", "ndcg@10")
    assert len(values) == 16
    assert len(found.values("crosslingual", "ndcg@10")) == 0
    assert len(found.values("multilingual", "rank_distance")) == 0

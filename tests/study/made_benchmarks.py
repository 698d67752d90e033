"""Benchmarks and evaluations of studies that took no training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.writing import write_evaluation
from hbt_dist.reports.study.report import write_study_report
from hbt_dist.search.folder import SearchFolder
from hbt_dist.study.settings import StudyFile
from hbt_dist.study.study import start_folder

METHODS = ("multilingual", "hybrid")


def made_benchmark(
    folder: Path, languages: Sequence[str], *, questions: int, parallel: bool = True
) -> Benchmark:
    """Questions in every language, with answers in all languages or, not `parallel`, in their own alone."""
    folder.mkdir(parents=True)
    rows = [(code, n) for code in languages for n in range(questions)]
    asked = [
        {
            "id": f"q{n}" if parallel else f"{code}-q{n}",
            "text": f"question {n} {code}",
            "language": code,
            "relevant": [f"{other}-p{n}" for other in (languages if parallel else [code])],
        }
        for code, n in rows
    ]
    passages = [{"id": f"{code}-p{n}", "text": f"passage {n} {code}", "language": code} for code, n in rows]
    for name, lines in (("questions", asked), ("candidates", passages)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, "utf-8")
    return load_benchmark("jsonl", folder)


def write_noisy_evaluation(benchmark: Benchmark, folder: Path, *, noise: float, seed: int) -> None:
    """An evaluation whose figures fall with `noise`."""
    rng = np.random.default_rng(seed)
    candidates = rng.standard_normal((benchmark.num_candidates, 16))
    wanted = np.stack([candidates[benchmark.relevant_of(q)].mean(0) for q in range(benchmark.num_questions)])
    questions = wanted + noise * rng.standard_normal(wanted.shape)
    settings = EvaluationSettings(device="cpu", consistency_questions=0, top_k=10)
    evaluation = evaluate(benchmark, questions, candidates, settings=settings)
    write_evaluation(evaluation, folder)


def study_report(
    root: Path, benchmarks: Mapping[str, Benchmark], *, seeds: int = 3, **changes: object
) -> str:
    """study.md of two methods, the second one better.

    Args:
        benchmarks: label -> benchmark.
        changes: keys of the study file.
    """
    study = StudyFile.model_validate(
        {
            "name": "made",
            "output_dir": str(root),
            "question": "Does it help?",
            "run": "quickstart",
            "methods": {name: {} for name in METHODS},
            "baseline": METHODS[0],
            "seeds": list(range(seeds)),
            "benchmarks": [{"name": "jsonl", "data_dir": label, "label": label} for label in benchmarks],
            **changes,
        }
    )
    root.mkdir()
    folder = SearchFolder(root)
    for name in METHODS:
        folder.add_point({"method": name}, "made")
    for label, benchmark in benchmarks.items():
        for point, noise in enumerate((1.0, 0.8)):
            for seed in range(seeds):
                place = folder.trial(point, seed, {}).folder / "evaluation" / "final" / label
                write_noisy_evaluation(benchmark, place, noise=noise, seed=seed)
        write_noisy_evaluation(benchmark, start_folder(folder, METHODS[0], label), noise=3.0, seed=0)
    out = write_study_report(study, folder, say=lambda _: None)
    return (out / "study.md").read_text("utf-8")

"""Epochs by kind of batch, and sources that the batches overdraw, against counted rows."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from hbt_dist.batching.epochs import epochs_by_kind, overdrawn_sources, stream_epochs
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.settings import DataSettings


def plan_of(folder: Path, sizes: dict[str, tuple[int, list[str]]], **batches: Any) -> BatchPlan:
    """A plan over sources of distinct examples: name -> number of examples, languages."""
    sources = []
    for name, (size, languages) in sizes.items():
        lines: list[dict[str, Any]] = [{"id": f"{name}-{n}"} for n in range(size)]
        for n, line in enumerate(lines):
            for role in ("question", "passage"):
                line[role] = {code: f"{role} {name} {n} {code}" for code in languages}
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
        sources.append({"name": name, "format": "jsonl", "path": str(folder / f"{name}.jsonl")})
    settings = DataSettings.model_validate({"sources": sources, "cache_dir": str(folder / "cache")})
    block = {"global_batch_size": 10, "alpha": 0.5, **batches}
    return BatchPlan(build_corpus(settings, folder / "cache"), BatchSettings.model_validate(block), 0)


def test_epochs_are_those_of_the_rows(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, {"all": (100, ["en", "fi"])}, alpha=0.75)
    assert epochs_by_kind(plan, 400) == [
        "400 steps = 15.0 epochs of the monolingual data, 10.0 of the crosslingual"
    ]
    (line, warning) = epochs_by_kind(plan, 1000)
    assert line.startswith("1,000 steps = 37.5 epochs")
    assert warning.startswith("the monolingual data of ")
    assert " repeat 38 times: above 20 epochs" in warning
    assert epochs_by_kind(plan_of(tmp_path, {"all": (100, ["en", "fi"])}, alpha=0.0), 1) == [
        "1 step = 0.1 epochs of the crosslingual data"
    ]
    drawn = Counter(kind for step in range(400) for kind in [plan.batch(step).kind])
    expected = {of.kind: of.share * 400 for of in stream_epochs(plan, 400)}
    assert abs(drawn["crosslingual"] - expected["crosslingual"]) < 40


def test_a_source_that_fills_the_batches_of_its_languages_is_named(tmp_path: Path) -> None:
    """Ten examples alone have Hungarian and Turkish, which get half of the monolingual rows."""
    sizes = {"large": (190, ["en", "fi"]), "exams": (10, ["hu", "tr"])}
    plan = plan_of(tmp_path, sizes, alpha=1.0)
    (line,) = overdrawn_sources(plan, 100)
    assert line.startswith("50% of the monolingual rows come from exams, which has 5.0% of the examples")
    rows = [
        plan.corpus.datasets[of]
        for step in range(100)
        for of in plan.corpus.example_dataset[plan.batch(step).example]
    ]
    assert 0.35 < rows.count("exams") / len(rows) < 0.65
    assert overdrawn_sources(plan_of(tmp_path, {"large": (190, ["en", "fi"])}, alpha=1.0), 100) == []

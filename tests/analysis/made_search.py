"""A made search folder: known objectives, no training. What `hbt-dist search` would have written."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.helpers.runs import tiny_run

LANGUAGES = ("en", "fi", "nan")  # Min Nan: a language code that careless readers take for a missing value
OBJECTIVES = {"monolingual": "max", "crosslingual": "max", "multilingual": "max", "rank_distance": "min"}
STEPS = (50, 100, 150)


def objectives(alpha: float, rate: float, step: int, seed: int) -> dict[str, float]:
    """Monolingual rises with alpha, cross-lingual falls; both best at a learning rate of 0.001."""
    rng = np.random.default_rng([round(alpha * 100), step, seed])
    noise = rng.normal(0, 0.004, 3)
    grown = (1 - math.exp(-step / 60)) * (1 - 0.05 * math.log10(rate / 1e-3) ** 2)
    mono = grown * (0.9 - 0.25 * (1 - alpha) ** 2) + noise[0]
    cross = grown * (0.8 - 0.3 * alpha**2) + noise[1]
    values = (mono, cross, (mono + cross) / 2 - 0.05 + noise[2], 100 * (1 - cross))
    return {name: float(value) for name, value in zip(OBJECTIVES, values, strict=True)}


def write_search(
    folder: Path,
    *,
    points: int = 6,
    seeds: tuple[int, ...] = (0, 1),
    name: str = "made",
    extra: dict[int, dict[str, Any]] | None = None,
    wanted_objectives: dict[str, str] | None = None,
) -> Path:
    """Write a search in which every trial has finished.

    Args:
        extra: point -> further parameters.
        wanted_objectives: the objectives; default all four.
    """
    wanted = wanted_objectives or OBJECTIVES
    (folder / "trials").mkdir(parents=True)
    search = {
        "format": 1,
        "name": name,
        "hbt_dist": "0.1.0",
        "started": "2025-01-01T00:00:00+00:00",
        "objectives": wanted,
        "space": {
            "batches.alpha": "uniform (0.0, 1.0)",
            "optimizer.learning_rate": "log_uniform (0.0001, 0.01)",
        },
        "seeds": list(seeds),
        "sampler": {"kind": "random", "points": points},
        "benchmark": {"name": "sample", "split": "dev"},
        "fingerprint": "0" * 64,
    }
    (folder / "search.json").write_text(json.dumps(search))
    (folder / "search.yaml").write_text("name: made\n")
    base = tiny_run(folder / "runs", folder / "cache")
    (folder / "base.yaml").write_text(yaml.safe_dump(base))
    rates = (1e-3, 1e-4, 1e-2)
    with (folder / "points.jsonl").open("w") as file:
        for point in range(points):
            parameters = {
                "batches.alpha": point / max(1, points - 1),
                "optimizer.learning_rate": rates[point % 3],
                **(extra or {}).get(point, {}),
            }
            file.write(json.dumps({"point": point, "parameters": parameters, "source": "random"}) + "\n")
            for seed in seeds:
                write_trial(folder, point, seed, parameters, STEPS, list(wanted))
    return folder


def write_trial(
    folder: Path,
    point: int,
    seed: int,
    parameters: dict[str, Any],
    steps: tuple[int, ...],
    wanted: list[str],
    status: str = "finished",
) -> Path:
    """Write one trial with its evaluations' pair matrices."""
    trial = folder / "trials" / f"p{point:04d}-s{seed}"
    trial.mkdir(parents=True, exist_ok=True)
    alpha = parameters.get("batches.alpha")
    share = alpha if isinstance(alpha, float) else 0.5
    with (trial / "history.jsonl").open("w") as file:
        for step in steps:
            values = objectives(share, parameters["optimizer.learning_rate"], step, seed)
            evaluation = f"evaluation/step-{step}/sample"
            write_matrix(trial / evaluation, values["monolingual"], values["crosslingual"])
            line = {
                "step": step,
                "seconds": 0.4 * step,
                "worker_seconds": 1.2 * step,
                "loss": 1.0 / step,
                **{key: values[key] for key in wanted},
                "evaluation": evaluation,
            }
            file.write(json.dumps(line) + "\n")
    rewrite_trial(
        trial,
        trial=trial.name,
        point=point,
        seed=seed,
        parameters=parameters,
        status=status,
        started="2025-01-01T00:00:00+00:00",
        ended=None if status == "running" else "2025-01-01T00:02:00+00:00",
        error="worker died" if status == "failed" else None,
        steps=max(steps, default=0),
        workers=2,
        worker_seconds=1.2 * max(steps, default=0) + 60,
    )
    return trial


def rewrite_trial(where: Path, /, **changes: Any) -> None:
    """Change entries of a trial.json."""
    path = where / "trial.json"
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**before, **changes}))


def write_matrix(folder: Path, same: float, other: float) -> None:
    """A pair matrix as an evaluation writes it; one pair has no questions."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "pair_matrix.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["question_language", *LANGUAGES])
        for i, asked in enumerate(LANGUAGES):
            cells = [repr(same if i == j else other) for j in range(len(LANGUAGES))]
            if i == 2:
                cells[0] = ""
            writer.writerow([asked, *cells])


def edit_search(folder: Path, **changes: Any) -> None:
    """Change entries of search.json."""
    path = folder / "search.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

"""Which batch composition gives what: every kind and alpha, several seeds, on the embedded sample.

    python benchmarks/batching/kinds_and_alpha.py --work WORK --out benchmarks/results

Every point trains the quickstart's encoder from scratch in one process, with the same number of steps and
rows, and is evaluated on the held-out facts. Points that are finished in WORK are not run again. Writes
kinds_and_alpha.json (all figures) and kinds_and_alpha_table.md (mean and standard deviation over seeds).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

POINTS: dict[str, dict[str, Any]] = {
    "crosslingual (alpha 0)": {"alpha": 0.0},
    "hybrid, alpha 0.25": {"alpha": 0.25},
    "hybrid, alpha 0.5": {"alpha": 0.5},
    "hybrid, alpha 0.75": {"alpha": 0.75},
    "monolingual (alpha 1)": {"alpha": 1.0},
    "mixed_monolingual": {"mixture": {"mixed_monolingual": 1}},
    "any_pair": {"mixture": {"any_pair": 1}},
}
FIGURES = (
    "monolingual",
    "crosslingual",
    "multilingual",
    "rank_distance",
    "unseen_monolingual",
    "unseen_crosslingual",
)


def run_point(name: str, batches: dict[str, Any], seed: int, work: Path, steps: int) -> dict[str, float]:
    """Train and evaluate one point, or read it if it is finished."""
    slug = "".join(c if c.isalnum() else "-" for c in name)
    output = work / f"{slug}-seed{seed}"
    results = output / "evaluation" / "end" / "sample" / "results.json"
    if not results.is_file():
        overrides = {
            "output_dir": str(output),
            "seed": seed,
            "data.cache_dir": str(work / "cache"),
            "batches": {"global_batch_size": 128, **batches},
            "training.steps": steps,
            "training.checkpoint_every": steps,
            "training.threads_per_worker": 1,
            "training.trackers": [],
            "deepspeed.config": None,
            "evaluation.when": ["end"],
        }
        items = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
        command = [
            sys.executable,
            "-m",
            "hbt_dist",
            "train",
            "quickstart",
            *items,
            "--launcher",
            "local",
            "--quiet",
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    document = json.loads(results.read_text("utf-8"))
    seen = document["groups"]["seen"]
    return {
        **{setting: document["means"][setting]["macro"]["map"] for setting in FIGURES[:3]},
        "rank_distance": document["bias"]["rank_distance"]["macro"],
        "unseen_monolingual": seen["unseen"]["monolingual"],
        "unseen_crosslingual": seen["unseen"]["crosslingual_asking"],
    }


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: mean and standard deviation over seeds."""
    titles = [
        "batches",
        "mono mAP",
        "cross mAP",
        "multilingual mAP",
        "rank distance",
        "unseen: mono",
        "unseen: cross",
    ]
    lines = ["| " + " | ".join(titles) + " |", "|---" + "|---:" * len(FIGURES) + "|"]
    for name, points in rows.items():
        cells = []
        for figure in FIGURES:
            values = [point[figure] for point in points]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            digits = 0 if figure == "rank_distance" else 3
            cells.append(f"{statistics.mean(values):.{digits}f} ± {spread:.{digits}f}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for the runs (about 10 MB each)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=350)
    arguments = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in POINTS}
    for seed in range(arguments.seeds):
        for name, batches in POINTS.items():
            rows[name].append(run_point(name, batches, seed, arguments.work, arguments.steps))
            print(f"{name}, seed {seed}: {rows[name][-1]}", flush=True)
    command = (
        f"python benchmarks/batching/kinds_and_alpha.py --seeds {arguments.seeds} --steps {arguments.steps}"
    )
    document = {"command": command, "steps": arguments.steps, "global_batch_size": 128, "points": rows}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "kinds_and_alpha.json").write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    text = f"`{command}`, mean ± standard deviation over {arguments.seeds} seeds.\n\n{table(rows)}\n"
    (arguments.out / "kinds_and_alpha_table.md").write_text(text, "utf-8")
    print(text)


if __name__ == "__main__":
    main()

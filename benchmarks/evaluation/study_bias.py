"""Tabulate the language bias and the pair matrix of a study's methods: mean over seeds, standard deviation.

    python benchmarks/evaluation/study_bias.py studies/negatives --model MODEL_RESULTS --out FILE

STUDY is the folder of `hbt-dist study`; MODEL_RESULTS, optional, the output of `hbt-dist evaluate` for the
start model on the same benchmark. The measures are those of docs/evaluation.md, macro means.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

HEADING = """# Language bias and pair matrices

Mean over seeds, in brackets the standard deviation between them. Columns: mAP of the three settings, then the
[measures of bias](../../../docs/evaluation.md#language-bias).

"""
BIAS = ("rank_distance", "complete@10", "language_preference_rate", "same_language_share@10")


def main() -> None:
    """Write the tables of every benchmark of the study."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path)
    parser.add_argument("--model", type=Path, help="folder of the start model's evaluation")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    methods = results_of(given.study)
    if given.model:
        methods = {"start model": [json.loads((given.model / "results.json").read_text())], **methods}
    given.out.write_text(HEADING + bias_table(methods) + "\n" + pair_tables(methods), "utf-8")


def results_of(study: Path) -> dict[str, list[dict[str, Any]]]:
    """Return method -> results of its evaluated seeds, for the only benchmark of a study."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(study.glob("trials/*/evaluation/final/*/results.json")):
        trial = json.loads((path.parents[3] / "trial.json").read_text())
        methods.setdefault(trial["parameters"]["method"], []).append(json.loads(path.read_text()))
    return methods


def bias_table(methods: dict[str, list[dict[str, Any]]]) -> str:
    """Return mAP of the settings and the measures of bias."""
    settings = ("monolingual", "crosslingual", "multilingual")
    lines = [
        f"| method | seeds | {' | '.join([*settings, *BIAS])} |",
        f"|---|{'---:|' * (1 + 3 + len(BIAS))}",
    ]
    for name, results in methods.items():
        columns = [[result["means"][setting]["macro"]["map"] for result in results] for setting in settings]
        columns += [[result["bias"][measure]["macro"] for result in results] for measure in BIAS]
        lines.append(f"| {name} | {len(results)} | {' | '.join(map(spread, columns))} |")
    return "\n".join(lines) + "\n"


def pair_tables(methods: dict[str, list[dict[str, Any]]]) -> str:
    """Return one table of mAP by language pair for each method: question down, candidate across."""
    parts = []
    for name, results in methods.items():
        languages = results[0]["pair_matrix"]["languages"]
        mean = np.mean([result["pair_matrix"]["metrics"]["map"] for result in results], axis=0)
        parts.append(
            f"\n{name}: mAP by language pair, candidates of one language\n\n| | {' | '.join(languages)} |"
        )
        parts.append(f"|---|{'---:|' * len(languages)}")
        for language, row in zip(languages, mean, strict=True):
            parts.append(f"| {language} | {' | '.join(f'{value:.3f}' for value in row)} |")
    return "\n".join(parts) + "\n"


def spread(values: list[float]) -> str:
    """Return mean and standard deviation between seeds."""
    digits = 1 if max(values) > 2 else 3
    mean = f"{np.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({np.std(values, ddof=1):.{digits}f})"


if __name__ == "__main__":
    main()

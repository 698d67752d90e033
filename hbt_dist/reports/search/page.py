"""Build the page of a search: best checkpoints, front, parameters, trials, cost, run file of the knee."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from hbt_dist.analysis.overview import (
    Analysis,
    candidate_text,
    describe_candidate,
    objective_text,
    totals_text,
    value_text,
)
from hbt_dist.common.console import counted
from hbt_dist.common.numbers import p_value, plain
from hbt_dist.pages.document import Document, Tile
from hbt_dist.pages.figures import png, svg
from hbt_dist.pages.matrix import Matrix
from hbt_dist.reports.search.figures import draw_curve, draw_front, draw_importance, objective_title


def search_document(analysis: Analysis, summary: dict[str, Any], best_run: str | None) -> Document:
    """Build the report of a search.

    Args:
        summary: the findings from `hbt_dist.analysis.overview.summary`.
        best_run: the text of best.yaml, if there is one.
    """
    knee = summary["knee"]
    document = Document(f"Search {summary['search']}", "search report")
    totals = f"{totals_text(summary)}."
    if knee is None:
        document.lead("No checkpoint has all objectives.", totals)
    else:
        document.lead(_headline(analysis, summary), f"Knee: {candidate_text(knee)}. {totals}")
        document.tiles(_tiles(analysis, summary))
    _trade_off(document, analysis, summary)
    _parameters(document, analysis)
    if analysis.difference is not None:
        _difference(document, analysis)
    _trials(document, analysis)
    if best_run is not None:
        document.heading("Run file of the knee point")
        document.paragraph("best.yaml in this folder; to train it: hbt-dist train best.yaml")
        document.code("best.yaml", best_run)
    if summary["problems"]:
        document.heading("Notes")
        document.items(summary["problems"])
    document.heading("Settings")
    document.facts(_settings(analysis))
    return document


def _headline(analysis: Analysis, summary: dict[str, Any]) -> str:
    """Return the best value of each objective with its parameters, and the compromise, in words."""
    best = [
        f"{objective_title(name)} is best with {_parameters_text(row)}"
        f" ({objective_text(name, row['objectives'][name]['mean'])})"
        for name, row in summary["best"].items()
    ]
    count = counted(summary["num_points"], "point")
    return f"Of {count}, {'; '.join(best)}. The compromise (knee) is {_parameters_text(summary['knee'])}."


def _parameters_text(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value_text(value)}" for key, value in row["parameters"].items())


def _tiles(analysis: Analysis, summary: dict[str, Any]) -> list[Tile]:
    """Return the range of each objective over the points, worst -> best, and its value at the knee."""
    items = []
    for name, direction in analysis.results.objectives.items():
        values = analysis.results.points[name].dropna()
        ends = [values.min(), values.max()] if direction == "max" else [values.max(), values.min()]
        knee = objective_text(name, summary["knee"]["objectives"][name]["mean"])
        worst, best = (objective_text(name, value) for value in ends)
        items.append(Tile(objective_title(name), worst, best, f"worst → best point; knee {knee}"))
    return items


def _trade_off(document: Document, analysis: Analysis, summary: dict[str, Any]) -> None:
    document.heading("Trade-off")
    chosen = [] if summary["knee"] is None else [("knee", summary["knee"])]
    chosen += [(f"best {objective_title(name)}", row) for name, row in summary["best"].items()]
    _candidates(document, "Knee and best checkpoints, mean ± standard deviation over seeds", chosen)
    front = analysis.front
    for i, (x, y) in enumerate(combinations(analysis.results.objectives, 2)):
        title = f"{objective_title(x)} and {objective_title(y)}"
        ranges = [
            f"{objective_title(name)} {objective_text(name, front[name].min())} to "
            f"{objective_text(name, front[name].max())}"
            for name in (x, y)
        ]
        description = (
            f"{title}: {len(front)} of {len(analysis.candidates)} checkpoints on the front, "
            f"{' and '.join(ranges)}"
        )
        stem = f"front_{_file_part(x)}_{_file_part(y)}"
        caption = f"Front of {title}; numbers: points of the table below"
        _figure(document, draw_front(analysis, x, y), stem, description, caption, folded=i > 0)
    _candidates(document, "Front over all objectives", [("", row) for row in summary["front"]])


def _candidates(document: Document, caption: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> None:
    """Add a table of named candidates from `describe_candidate`."""
    if not rows:
        document.paragraph(f"{caption}: none.")
        return
    parameters = list(dict.fromkeys(key for _, row in rows for key in row["parameters"]))
    document.table(
        caption,
        ["checkpoint", *parameters, *map(objective_title, rows[0][1]["objectives"]), "seeds"],
        [
            [
                f"{name}{': ' if name else ''}point {row['point']}, step {row['step']}",
                *(value_text(row["parameters"].get(key, "-")) for key in parameters),
                *(
                    objective_text(key, value["mean"], value["std"])
                    for key, value in row["objectives"].items()
                ),
                str(row["num_seeds"]),
            ]
            for name, row in rows
        ],
    )


def _parameters(document: Document, analysis: Analysis) -> None:
    document.heading("Parameters")
    table = analysis.sensitivity
    if table["importance"].isna().all():
        document.paragraph("Importance: too few points, or no parameter that varies.")
    else:
        document.table(
            "Importance: share of an objective's variance over points that a parameter explains alone, with "
            "95 % bootstrap interval and p of a permutation",
            ["objective", "parameter", "importance", "interval", "p", "points", "values"],
            [
                [
                    objective_title(row["objective"]),
                    row["parameter"],
                    plain(row["importance"], 3),
                    f"{plain(row['low'], 3)} to {plain(row['high'], 3)}",
                    p_value(row["p"]),
                    str(row["num_points"]),
                    str(row["num_values"]),
                ]
                for row in table.to_dict("records")
            ],
        )
        most = table.sort_values("importance").dropna(subset="importance").to_dict("records")[-1]
        finding = f"highest: {most['parameter']} for {objective_title(most['objective'])}"
        text = f"Importance of the parameters, {finding} ({plain(most['importance'], 3)})"
        _figure(document, draw_importance(analysis), "importance", text, "Importance of the parameters")
    stems: set[str] = set()
    for name in analysis.results.parameters:
        stem = f"curve_{_file_part(name)}"
        while stem in stems:  # keys may differ only in characters that file names cannot hold
            stem += "_"
        stems.add(stem)
        if name in analysis.curves["parameter"].to_numpy():
            caption = f"Objectives along {name}; whiskers: seed std, thick bars: all runs"
            _figure(document, draw_curve(analysis, name), stem, _curve_finding(analysis, name), caption)


def _curve_finding(analysis: Analysis, parameter: str) -> str:
    """Return the best mean of every objective along a parameter in words."""
    rows = analysis.curves[analysis.curves["parameter"] == parameter]
    best = [
        f"{objective_title(name)} {objective_text(name, row['mean'])} at {value_text(row['value'])}"
        for name, direction in analysis.results.objectives.items()
        for row in rows[rows["objective"] == name]
        .sort_values("mean")
        .iloc[:: -1 if direction == "max" else 1][:1]
        .to_dict("records")
    ]
    return f"Best means along {parameter}: {', '.join(best)}"


def _difference(document: Document, analysis: Analysis) -> None:
    table = analysis.difference
    assert table is not None
    first, second = (f"{table.attrs[f'trial_{x}']} (step {table.attrs[f'step_{x}']})" for x in "ab")
    document.heading("Language pairs of two trials")
    document.paragraph("Blue: the first named is better; orange: worse.")
    languages = tuple(map(str, table.columns))
    values = table.to_numpy(np.float64)
    document.matrix(Matrix(f"{second} minus {first}, mAP", languages, values, difference=True))


def _trials(document: Document, analysis: Analysis) -> None:
    results = analysis.results
    document.heading("Points, trials and cost")
    points = [("", describe_candidate(results, row)) for _, row in results.points.iterrows()]
    _candidates(document, "Points at their last common evaluation", points)
    objectives = list(results.objectives)
    trials = results.trials.to_dict("records")
    document.table(
        "Trials at their last evaluation",
        ["trial", *results.parameters, *map(objective_title, objectives)],
        [
            [
                row["trial"],
                *(value_text(row[key]) for key in results.parameters),
                *(objective_text(name, row[name]) for name in objectives),
            ]
            for row in trials
        ],
    )
    total = analysis.cost.iloc[-1]
    costs = [
        [
            row["trial"],
            row["status"],
            *(str(row[key]) for key in ("steps", "evaluations")),
            plain(row["workers"], 0),
            f"{row['worker_hours']:.2f}",
            row["error"] or "-",
        ]
        for row in trials
    ]
    document.table(
        "Cost of the trials",
        ["trial", "status", "steps", "evaluations", "workers", "worker hours", "error"],
        [*costs, ["total", "-", str(total["steps"]), "-", "-", f"{total['worker_hours']:.2f}", "-"]],
    )


def _settings(analysis: Analysis) -> dict[str, object]:
    search = analysis.results.search
    better = {"max": "higher is better", "min": "lower is better"}
    directions = analysis.results.objectives.items()
    facts: dict[str, object] = {
        "objectives": ", ".join(f"{objective_title(name)} ({better[way]})" for name, way in directions),
        "seeds": ", ".join(map(str, search.get("seeds") or ["-"])),
    }
    names = {"benchmark": "benchmark", "sampler": "sampler", "started": "started", "hbt_dist": "hbt-dist"}
    facts |= {title: value_text(search[key]) for key, title in names.items() if search.get(key)}
    if isinstance(search.get("space"), dict):
        facts["space"] = "; ".join(f"{key}: {value_text(value)}" for key, value in search["space"].items())
    return facts


def _figure(
    document: Document, figure: Figure, stem: str, description: str, caption: str, *, folded: bool = False
) -> None:
    """Add a figure as PNG, and as SVG next to it."""
    with document.details(caption) if folded else nullcontext():
        document.figure(f"figures/{stem}.png", png(figure), caption, description)
    document.files[f"figures/{stem}.svg"] = svg(figure, stem)


def _file_part(name: str) -> str:
    """Return a name as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)

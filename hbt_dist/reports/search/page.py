"""Build the page of a search: best checkpoints, front, parameters, trials, cost, run file of the knee."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import combinations
from typing import Any

from matplotlib.figure import Figure

from hbt_dist.analysis.overview import (
    Analysis,
    change_text,
    choices,
    describe_candidate,
    objective_text,
    objective_title,
    parameters_text,
    totals_text,
    value_text,
)
from hbt_dist.common.console import counted
from hbt_dist.common.numbers import digits_of, p_value, plain
from hbt_dist.pages.document import Document, Tile
from hbt_dist.pages.figures import png, svg
from hbt_dist.reports.evaluation.sections import language_matrix
from hbt_dist.reports.search.figures import draw_curve, draw_front, draw_importance


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
        checkpoint = f"Point {knee['point']} after step {knee['step']}, mean of {_seeds(knee)}. "
        document.lead(_headline(analysis, summary), checkpoint + totals)
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
    """Return the parameters to take, and how many points they were chosen from."""
    knee, objectives = summary["knee"], list(summary["objectives"])
    taken = parameters_text(knee["parameters"])
    chosen = analysis.trusted["point"].nunique()
    left_out = summary["num_points"] - chosen
    among = counted(chosen, "point")
    if left_out:
        among += f" with {_seeds(knee)}; {counted(left_out, 'point')} with fewer left out"
    if chosen == 1:
        return f"Nothing to choose from yet: {taken} (of {among})."
    checkpoint = (knee["point"], knee["step"])
    if all((row["point"], row["step"]) == checkpoint for row in summary["best"].values()):
        figures = "every figure" if len(objectives) > 1 else objective_title(objectives[0])
        return f"Best in {figures}: {taken} (of {among})."
    return f"The best compromise, the knee: {taken} (of {among})."


def _tiles(analysis: Analysis, summary: dict[str, Any]) -> list[Tile]:
    """Return each objective at the knee, with its spread over seeds and the best checkpoint."""
    items, knee = [], summary["knee"]
    for name, row in summary["best"].items():
        value, best = knee["objectives"][name], row["objectives"][name]["mean"]
        spread = "" if value["std"] is None else f"± {plain(value['std'], digits_of(name))} over "
        is_single = len(row["parameters"]) == 1
        shown = parameters_text(row["parameters"]) if is_single else f"point {row['point']}"
        note = f"; best {objective_text(name, best)}, {shown}" if best != value["mean"] else ""
        level = objective_text(name, value["mean"])
        items.append(Tile(objective_title(name), "", level, f"{spread}{_seeds(knee)}{note}"))
    return items


def _seeds(row: dict[str, Any]) -> str:
    return counted(row["num_seeds"], "seed")


def _trade_off(document: Document, analysis: Analysis, summary: dict[str, Any]) -> None:
    document.heading("Trade-off")
    pairs = list(combinations(analysis.results.objectives, 2))
    with document.columns():
        if pairs:
            _front_figure(document, analysis, *pairs[0])
        for name in _curved(analysis)[:1]:
            _curve_figure(document, analysis, name)
    if summary["knee"] is not None:
        _choices(document, analysis, summary["knee"])
    _candidates(document, "Front over all objectives", [("", row) for row in summary["front"]])
    if len(pairs) > 1:
        with document.details("Fronts of the other pairs of objectives"), document.columns():
            for pair in pairs[1:]:
                _front_figure(document, analysis, *pair)


def _choices(document: Document, analysis: Analysis, knee: dict[str, Any]) -> None:
    """Add what a person gains and loses with other checkpoints than the knee."""
    results = analysis.results
    rows: list[list[str]] = []
    for choice in choices(analysis):
        row = describe_candidate(results, choice.candidate)
        cells = [change_text(name, *change) for name, change in choice.changes.items()]
        if not rows:  # the knee
            levels = row["objectives"].items()
            cells = [objective_text(name, value["mean"], value["std"]) for name, value in levels]
        title = f"{choice.title}: point {row['point']}, step {row['step']}"
        rows.append([title, *_parameter_cells(analysis, row), *cells])
    document.table(
        "The knee, and the change with another choice; ±: standard deviation over common seeds",
        ["checkpoint", *results.parameters, *map(objective_title, results.objectives)],
        rows,
    )
    document.paragraph(
        f"{_certainty(knee['num_seeds'])} The same figures chose the points, which makes the best ones too "
        "good: train best.yaml and measure it on other questions. A search does not measure the start model; "
        "that training does, if its run file names benchmarks."
    )


def _certainty(num_seeds: int) -> str:
    """Return the smallest change that is not chance, in standard deviations over the seeds."""
    if num_seeds < 2:
        return "One seed does not show which changes are chance."
    from scipy.stats import t

    least = t.ppf(0.975, num_seeds - 1) / num_seeds**0.5
    return f"With {num_seeds} seeds, a change below {least:.1f} times its ± may be chance (paired t, 95 %)."


def _parameter_cells(analysis: Analysis, row: dict[str, Any]) -> list[str]:
    """Return a checkpoint's parameters in the columns of the points' table."""
    points = analysis.results.points.set_index("point")
    return [value_text(points.loc[row["point"], name]) for name in analysis.results.parameters]


def _front_figure(document: Document, analysis: Analysis, x: str, y: str) -> None:
    front = analysis.front
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
    _figure(document, draw_front(analysis, x, y), stem, description, f"Front of {title}; numbers: points")


def _curved(analysis: Analysis) -> list[str]:
    """Return the parameters with a curve."""
    known = analysis.curves["parameter"].to_numpy()
    return [name for name in analysis.results.parameters if name in known]


def _curve_figure(document: Document, analysis: Analysis, name: str) -> None:
    number = analysis.results.parameters.index(name)
    earlier = [_file_part(key) for key in analysis.results.parameters[:number]]
    # Keys may differ only in characters that file names cannot hold.
    stem = f"curve_{_file_part(name)}" + "_" * earlier.count(_file_part(name))
    caption = f"Objectives along {name}; dotted: knee, whiskers: seed std, thick bars: all runs"
    _figure(document, draw_curve(analysis, name), stem, _curve_finding(analysis, name), caption)


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
    with document.columns():
        for name in _curved(analysis)[1:]:
            _curve_figure(document, analysis, name)
        if not table["importance"].isna().all():
            most = table.sort_values("importance").dropna(subset="importance").to_dict("records")[-1]
            finding = f"highest: {most['parameter']} for {objective_title(most['objective'])}"
            text = f"Importance of the parameters, {finding} ({plain(most['importance'], 3)})"
            _figure(document, draw_importance(analysis), "importance", text, "Importance of the parameters")
    if table["importance"].isna().all():
        document.paragraph("Importance: too few points, or no parameter that varies.")
        return
    with document.details("Importance in numbers"):
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
    document.matrix(
        language_matrix(
            f"{second} minus {first}, mAP",
            list(map(str, table.columns)),
            table.to_numpy(),
            difference=True,
            unseen=table.attrs["unseen"],
        )
    )


def _trials(document: Document, analysis: Analysis) -> None:
    results = analysis.results
    document.heading("Points, trials and cost")
    points = [("", describe_candidate(results, row)) for _, row in results.points.iterrows()]
    _candidates(document, "Points at their last common evaluation", points)
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
        for row in results.trials.to_dict("records")
    ]
    with document.details("Each trial (its figures: trials.csv)"):
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


def _figure(document: Document, figure: Figure, stem: str, description: str, caption: str) -> None:
    """Add a figure as PNG, and as SVG next to it."""
    document.figure(f"figures/{stem}.png", png(figure), caption, description)
    document.files[f"figures/{stem}.svg"] = svg(figure, stem)


def _file_part(name: str) -> str:
    """Return a name as a part of a file name."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name)

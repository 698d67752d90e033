"""The report of a search as a folder that is either complete or not there.

    report.html               one page for browsers, phones, print and screen readers; needs no network
    summary.json, summary.txt findings: knee, best checkpoint of each objective, front, what was skipped
    trials, history, points, front, sensitivity, curves, cost, (difference)    each as .csv and .parquet
    figures/                  front_X_Y, curve_PARAMETER, importance, each as .png and .svg
    best.yaml                 the knee point's run file: `hbt-dist train SEARCH_DIR/report/best.yaml`

Written beside the target and renamed; an older report in the target is replaced. Takes seconds, most
of them for the figures.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from hbt_dist.analysis.best_run import try_best_run
from hbt_dist.analysis.overview import Analysis, analyse, summary, summary_text
from hbt_dist.analysis.search_results import load_search
from hbt_dist.evaluation.writing import check_target, replaced_folder
from hbt_dist.reports.search.figures import draw_figures
from hbt_dist.reports.search.page import render_page

PAGE = "report.html"
SUMMARY = "summary.json"
KIND = "search report"


def write_search_report(
    folder: str | Path, output: str | Path | None = None, compare: tuple[str, str] | None = None
) -> Path:
    """Analyse a search, running or ended, and write its report.

    Args:
        folder: of `hbt-dist search`.
        output: new folder, or one that holds a report, which is replaced; default: FOLDER/report.
        compare: two trials whose pair matrices are compared.

    Returns:
        the report's folder.

    Raises:
        UserError: see `load_search` and `pair_difference`; or the output holds something else or cannot be
            written. Nothing is written then.
    """
    results = load_search(folder)
    target = Path(output) if output is not None else results.folder / "report"
    check_target(target, PAGE, KIND)
    analysis = analyse(results, compare)
    document = summary(analysis)
    best, problem = try_best_run(results, document["knee"])
    if problem is not None:
        document["problems"] = [*document["problems"], problem]
    document["best_run"] = None if best is None else "best.yaml"
    with replaced_folder(target, holds=PAGE, kind=KIND) as beside:
        for name, table in tables(analysis).items():
            table.to_csv(beside / f"{name}.csv", index=False, lineterminator="\n")
            table.to_parquet(beside / f"{name}.parquet", index=False)
        figures = beside / "figures"
        figures.mkdir()
        document["figures"] = [f"figures/{name}" for name in draw_figures(analysis, figures)]
        if best is not None:
            (beside / "best.yaml").write_text(best, "utf-8")
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        (beside / SUMMARY).write_text(text + "\n", "utf-8")
        (beside / "summary.txt").write_text(summary_text(document) + "\n", "utf-8")
        (beside / PAGE).write_text(render_page(analysis, document, best), "utf-8")
    return target


def tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """The report's tables by name; a column holds values of one type."""
    results = analysis.results
    curves = analysis.curves.copy()
    curves["value"] = curves["value"].map(str)  # numbers and choices share the column
    found = {
        "trials": results.trials,
        "history": results.history,
        "points": results.points,
        "front": analysis.front,
        "sensitivity": analysis.sensitivity,
        "curves": curves,
        "cost": analysis.cost,
    }
    if analysis.difference is not None:
        difference = analysis.difference.reset_index()
        difference.columns.name = None
        found["difference"] = difference
    return found

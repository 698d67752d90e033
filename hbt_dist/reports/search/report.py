"""Write the report of a search as a folder that is either complete or absent.

    report.html, report.md    the same report for browsers (also offline, in print, on phones) and as Markdown
    summary.json, summary.txt findings: knee, best checkpoint of each objective, front, what was skipped
    trials, history, points, front, sensitivity, curves, cost, (difference)    each as .csv and .parquet
    figures/                  front_X_Y, curve_PARAMETER, importance, each as .png and .svg
    best.yaml                 the knee point's run file: `hbt-dist train SEARCH_DIR/report/best.yaml`

Replaces an older report. Takes seconds, most of them for the figures.
"""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from hbt_dist.analysis.best_run import try_best_run
from hbt_dist.analysis.overview import Analysis, analyse, summary, summary_text
from hbt_dist.analysis.results import load_search
from hbt_dist.evaluation.writing import check_target, replaced_folder
from hbt_dist.reports.search.page import search_document

STEM = "report"
PAGE = f"{STEM}.html"
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
        UserError: see `load_search` and `pair_difference`; or the output holds anything else or cannot be
            written. Nothing is written then.
    """
    results = load_search(folder)
    target = Path(output) if output is not None else results.folder / "report"
    check_target(target, PAGE, KIND)
    analysis = analyse(results, compare)
    findings = summary(analysis)
    best_run, problem = try_best_run(results, findings["knee"])
    if problem is not None:
        findings["problems"] = [*findings["problems"], problem]
    document = search_document(analysis, findings, best_run)
    findings["best_run"] = None if best_run is None else "best.yaml"
    findings["figures"] = sorted(name for name in document.files if name.startswith("figures/"))
    with replaced_folder(target, holds=PAGE, kind=KIND) as temporary:
        for name, table in tables(analysis).items():
            table.to_csv(temporary / f"{name}.csv", index=False, lineterminator="\n")
            table.to_parquet(temporary / f"{name}.parquet", index=False)
        if best_run is not None:
            (temporary / "best.yaml").write_text(best_run, "utf-8")
        text = json.dumps(findings, indent=1, ensure_ascii=False, allow_nan=False)
        (temporary / "summary.json").write_text(text + "\n", "utf-8")
        (temporary / "summary.txt").write_text(summary_text(findings) + "\n", "utf-8")
        document.write(temporary, STEM)
    return target


def tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """Return the report's tables by name; a column holds values of one type."""
    results = analysis.results
    by_name = {
        "trials": results.trials,
        "history": results.history,
        "points": results.points,
        "front": analysis.front,
        "sensitivity": analysis.sensitivity,
        "curves": analysis.curves.assign(value=analysis.curves["value"].map(str)),  # numbers and choices
        "cost": analysis.cost,
    }
    if analysis.difference is not None:
        by_name["difference"] = analysis.difference.reset_index().rename_axis(columns=None)
    return by_name

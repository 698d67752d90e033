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
import re
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from hbt_dist.analysis.overview import (
    Analysis,
    analyse,
    objective_text,
    objective_title,
    summary,
    summary_text,
    value_text,
)
from hbt_dist.analysis.results import SearchResults, load_search
from hbt_dist.common.errors import UserError
from hbt_dist.evaluation.writing import check_target, replaced_folder
from hbt_dist.reports.search.page import search_document
from hbt_dist.run_file import RunFile
from hbt_dist.search.space import Base

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
    best_run, problem = None, "no checkpoint has all objectives"
    if findings["knee"] is not None:
        try:
            best_run = _best_run_text(results, findings["knee"])
        except UserError as error:
            problem = f"{error.location}: {error.problem}"
    if best_run is None:
        findings["problems"] = [*findings["problems"], f"best.yaml is not written: {problem}"]
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


def _best_run_text(results: SearchResults, candidate: dict[str, Any]) -> str:
    """Return the text of best.yaml: the search's base run with the values of one candidate.

    Its output folder is runs/NAME-best, apart from the search's runs. The number of steps stays that of the
    search, because a schedule of the learning rate depends on it; a comment names the candidate's step.

    Args:
        candidate: from `hbt_dist.analysis.overview.describe_candidate`.

    Raises:
        UserError: the search's base.yaml is missing, is not a run file of this version, or does not accept
            the values.
    """
    file = str(results.folder / "base.yaml")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", results.name).strip("-.") or "search"
    run = Base.load(file, ()).run(candidate["parameters"], location=file, name=f"{name}-best")
    data = run.model_dump(mode="json", exclude_unset=True) | {"output_dir": f"runs/{name}-best"}
    RunFile.model_validate(data)
    lines = [
        f"Knee point of the search {results.name}: point {candidate['point']}, checkpoint after step "
        f"{candidate['step']}, mean of {candidate['num_seeds']} seed(s):",
        ", ".join(
            f"{objective_title(name)} {objective_text(name, value['mean'])}"
            for name, value in candidate["objectives"].items()
        ),
        *(f"{key}: {value_text(value)}" for key, value in candidate["parameters"].items()),
    ]
    if candidate["step"] != run.training.steps:
        lines.append(f"The run continues to step {run.training.steps}; the knee is one of its checkpoints.")
    comment = "".join(f"# {part}\n" for line in lines for part in line.splitlines())
    return comment + yaml.safe_dump(data, sort_keys=False, allow_unicode=True)

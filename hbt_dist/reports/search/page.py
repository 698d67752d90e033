"""report.html: one page that holds everything and asks for nothing.

Text and tables are made here, so that the page can be read and printed without scripts; the scripts in
assets/ make tables sortable and draw the front and the curves from the JSON that the page carries. A content
security policy forbids every request. All text of the search is escaped here, and put in as text there.
"""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from hbt_dist.analysis.overview import Analysis, plain, shown, with_spread
from hbt_dist.reports.pages.html import facts, page, section
from hbt_dist.reports.search.figures import axis_scale, label
from hbt_dist.reports.search.tables import difference_table, html_table, importance_table

ASSETS = Path(__file__).parent / "assets"
TRIAL_KEYS = ("trial", "point", "seed", "status", "steps", "worker_hours", "error")
SCRIPTS = ("base.js", "front.js", "curves.js", "report.js")


def render_page(analysis: Analysis, document: dict[str, Any], best: str | None) -> str:
    """The page as text.

    Args:
        document: the findings, as `summary` gives them.
        best: the text of best.yaml, or None.
    """
    parts = {
        "problems": _problems(document["problems"]),
        "findings": _findings(document),
        "importance": importance_table(analysis),
        "tables": _tables(analysis),
        "difference": difference_table(analysis),
        "best": _best(best),
    }
    template = (ASSETS / "report.html").read_text("utf-8")
    code = "\n".join((ASSETS / name).read_text("utf-8") for name in SCRIPTS)
    data = embedded_json(page_data(analysis, document))
    return page(
        document["search"],
        re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template),
        kind="search report",
        header=f"<p>Report of a search over training settings.</p>\n{_facts(analysis, document)}",
        style=(ASSETS / "report.css").read_text("utf-8"),
        scripts=f'<script type="application/json" id="data">{data}</script>\n<script>\n{code}\n</script>\n',
    )


def embedded_json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def page_data(analysis: Analysis, document: dict[str, Any]) -> dict[str, Any]:
    """What the scripts draw."""
    results = analysis.results
    front = set(analysis.front.index)
    knee = None if analysis.knee is None else analysis.knee.name
    most = int(analysis.candidates["num_seeds"].max())
    return {
        "objectives": [
            {"name": name, "label": label(name), "direction": direction}
            for name, direction in results.objectives.items()
        ],
        "candidates": [
            {
                "point": int(row["point"]),
                "step": int(row["step"]),
                "seeds": int(row["num_seeds"]),
                "fewer": int(row["num_seeds"]) < most,
                "front": index in front,
                "knee": bool(index == knee),
                "mean": [plain(row[name]) for name in results.objectives],
                "std": [plain(row[f"{name}_std"]) for name in results.objectives],
            }
            for index, row in analysis.candidates.iterrows()
        ],
        "best": {name: [found["point"], found["step"]] for name, found in document["best"].items()},
        "points": {
            str(int(row["point"])): {
                "source": plain(row["source"]),
                "parameters": [
                    [key, shown(value)] for key, value in results.point_values[int(row["point"])].items()
                ],
            }
            for _, row in results.points.iterrows()
        },
        "trials": [{key: plain(row[key]) for key in TRIAL_KEYS} for _, row in results.trials.iterrows()],
        "history": [
            [row["trial"], int(row["step"]), [plain(row[name]) for name in results.objectives]]
            for _, row in results.history.iterrows()
        ],
        "curves": [_curve(analysis, name) for name in results.parameters],
    }


def _curve(analysis: Analysis, parameter: str) -> dict[str, Any]:
    rows = analysis.curves[analysis.curves["parameter"] == parameter]
    keys = ("value", "mean", "min", "max", "seed_std", "count")
    return {
        "parameter": parameter,
        "scale": axis_scale(rows["value"], parameter in analysis.results.log_parameters),
        "series": [
            [[plain(row[key]) for key in keys] for _, row in rows[rows["objective"] == name].iterrows()]
            for name in analysis.results.objectives
        ],
    }


def _facts(analysis: Analysis, document: dict[str, Any]) -> str:
    search = analysis.results.search
    benchmark = search.get("benchmark")
    seeds = ", ".join(str(seed) for seed in search.get("seeds") or ["-"])
    found: dict[str, object] = {
        "trials": ", ".join(f"{count} {status}" for status, count in document["trials"].items()),
        "points": f"{document['num_points']}, seeds {seeds}",
        "worker hours": f"{document['worker_hours']:.2f}",
        "objectives": ", ".join(
            f"{label(name)} ({'higher' if direction == 'max' else 'lower'} is better)"
            for name, direction in document["objectives"].items()
        ),
        "benchmark": shown(benchmark) if benchmark else None,
        "sampler": shown(search["sampler"]) if search.get("sampler") else None,
        "started": search.get("started"),
        "hbt-dist": search.get("hbt_dist"),
    }
    space = search.get("space")
    if isinstance(space, dict):
        found["space"] = "; ".join(f"{key}: {shown(value)}" for key, value in space.items())
    return facts({key: value for key, value in found.items() if value is not None})


def _problems(problems: list[str]) -> str:
    if not problems:
        return ""
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    return section("notes", "Notes", f"<ul>{items}</ul>")


def _findings(document: dict[str, Any]) -> str:
    chosen = [("knee", document["knee"])] if document["knee"] else []
    chosen += [(f"best {label(name)}", found) for name, found in document["best"].items()]
    rows = [
        {
            "checkpoint": name,
            "point": found["point"],
            "step": found["step"],
            "seeds": found["num_seeds"],
            **{label(key): with_spread(value) for key, value in found["objectives"].items()},
            **{key: shown(value) for key, value in found["parameters"].items()},
        }
        for name, found in chosen
    ]
    return html_table(pd.DataFrame(rows), "findings", "Knee and best checkpoints", sortable=False)


def _tables(analysis: Analysis) -> str:
    results = analysis.results
    front = analysis.front.drop(columns=[f"{name}_count" for name in results.objectives])
    points = results.points.drop(columns=[f"{name}_count" for name in results.objectives])
    shown_tables = [
        ("front", "Front", front),
        ("points", "Points at their last common evaluation", points),
        ("trials", "Trials", results.trials.drop(columns=["worker_hours", "workers"])),
        ("cost", "Cost in worker hours", analysis.cost),
    ]
    return "\n".join(section(key, title, html_table(table, key, title)) for key, title, table in shown_tables)


def _best(best: str | None) -> str:
    if best is None:
        return ""
    return section(
        "best",
        "Run file of the knee point",
        "<p>The file <code>best.yaml</code> beside this page; <code>hbt-dist train best.yaml</code> trains "
        f'it.</p><pre tabindex="0" role="region" aria-label="best.yaml">{escape(best)}</pre>',
    )

"""The report page's tables as HTML; all text is escaped."""

from __future__ import annotations

import math
import re
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from hbt_dist.analysis.overview import Analysis, number, plain
from hbt_dist.reports.pages.html import section, table
from hbt_dist.reports.pages.matrix import Matrix
from hbt_dist.reports.search.figures import label

_BAR_WIDTH = 160
_LONG = 20  # characters: longer texts go on in the next line in print
IMPORTANCE_KEYS = ("importance", "low", "high", "p", "num_points", "num_values")


def html_table(frame: pd.DataFrame, key: str, caption: str, *, sortable: bool = True) -> str:
    """A table in a frame that scrolls sideways; headers are buttons that sort, where scripts run."""
    if frame.empty:
        return "<p>None.</p>"
    numeric = [pd.api.types.is_numeric_dtype(frame[name].dtype) for name in frame.columns]
    heads = [
        f'<th scope="col"{_class(is_number)}>{_head(str(name), sortable)}</th>'
        for name, is_number in zip(frame.columns, numeric, strict=True)
    ]
    rows = (
        [_cell(value, kind) for value, kind in zip(row, numeric, strict=True)]
        for row in frame.itertuples(index=False, name=None)
    )
    return table(caption, heads, rows, attributes=f'id="t-{key}"{" data-sortable" if sortable else ""}')


def _head(name: str, sortable: bool) -> str:
    text = escape(name.replace("_", " ") if "." not in name else name)
    text = re.sub(r"([._])", r"\1<wbr>", text)  # where a long key may go on in the next line
    return f'<button type="button">{text}</button>' if sortable and text else text


def _class(is_number: bool) -> str:
    return ' class="n"' if is_number else ""


def _cell(value: Any, is_number: bool) -> str:
    value = plain(value)
    if value is None:
        return f'<td{_class(is_number)} data-v="">-</td>'
    if is_number and not isinstance(value, bool):
        text = str(value) if isinstance(value, int) else number(value)
        return f'<td class="n" data-v="{value!r}">{text}</td>'
    text = str(value)
    kind = ' class="wraps"' if len(text) > _LONG else ""
    return f"<td{kind}>{escape(text)}</td>"


def importance_table(analysis: Analysis) -> str:
    """Importance of the parameters with bars and intervals."""
    found = analysis.sensitivity
    if found.empty or found["importance"].isna().all():
        return "<p>Too few points, or no parameter that varies.</p>"
    rows = [
        [
            f"<td>{escape(label(row['objective']))}</td>",
            f'<th scope="row">{escape(row["parameter"])}</th>',
            f'<td data-v="{plain(row["importance"]) or 0!r}">{_bar(row)}</td>',
            *(_cell(row[key], True) for key in IMPORTANCE_KEYS),
        ]
        for _, row in found.iterrows()
    ]
    names = ("objective", "parameter", "share", "importance", "low", "high", "p", "points", "values")
    heads = [f'<th scope="col"><button type="button">{name}</button></th>' for name in names]
    attributes = 'id="t-importance" data-sortable'
    return table("Importance of the parameters", heads, rows, attributes=attributes)


def _bar(row: pd.Series[Any]) -> str:
    if math.isnan(row["importance"]):
        return "-"
    wide, low, high = (round(_BAR_WIDTH * float(row[key]), 1) for key in ("importance", "low", "high"))
    return (
        f'<svg class="bar" width="{_BAR_WIDTH}" height="14" aria-hidden="true">'
        f'<rect width="{_BAR_WIDTH}" height="14" fill="var(--wash)"/>'
        f'<rect width="{wide}" height="14" fill="#56B4E9"/>'
        f'<path d="M{low} 7H{high}M{low} 3v8M{high} 3v8" stroke="var(--ink)" stroke-width="1.5"/></svg>'
    )


def difference_table(analysis: Analysis) -> str:
    """The pair-matrix difference as a section of the page, or nothing if none was asked for."""
    found = analysis.difference
    if found is None:
        return ""
    about = found.attrs
    first, second = (f"{about[f'trial_{x}']} (step {about[f'step_{x}']})" for x in "ab")
    matrix = Matrix(
        f"{second} minus {first}, mAP",
        tuple(map(str, found.columns)),
        found.to_numpy(np.float64),
        difference=True,
    )
    return section(
        "difference",
        "Language pairs of two trials",
        "<p>Rows: question language; columns: candidate language. Blue: the first named is better; "
        f"orange: worse.</p>{matrix.html()}",
    )

"""The report page's tables as HTML; all text is escaped."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import pandas as pd

from hbt_dist.analysis.figures import label
from hbt_dist.analysis.overview import Analysis, number, plain

#: Okabe and Ito's blue and orange, as red, green, blue.
_MORE, _LESS = "0,114,178", "230,159,0"
_BAR_WIDTH = 160
IMPORTANCE_KEYS = ("importance", "low", "high", "p", "num_points", "num_values")


def html_table(table: pd.DataFrame, key: str, caption: str, *, sortable: bool = True) -> str:
    """A table in a frame that scrolls sideways; headers are buttons that sort, where scripts run."""
    if table.empty:
        return "<p>None.</p>"
    numeric = [pd.api.types.is_numeric_dtype(table[name].dtype) for name in table.columns]
    heads = "".join(
        f'<th scope="col"{_class(is_number)}>{_head(str(name), sortable)}</th>'
        for name, is_number in zip(table.columns, numeric, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(_cell(value, kind) for value, kind in zip(row, numeric, strict=True)) + "</tr>"
        for row in table.itertuples(index=False, name=None)
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f'<table id="t-{key}"{" data-sortable" if sortable else ""}><caption>{escape(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _head(name: str, sortable: bool) -> str:
    text = escape(name.replace("_", " ") if "." not in name else name)
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
    return f"<td>{escape(str(value))}</td>"


def importance_table(analysis: Analysis) -> str:
    """Importance of the parameters with bars and intervals."""
    table = analysis.sensitivity
    if table.empty or table["importance"].isna().all():
        return "<p>Too few points, or no parameter that varies.</p>"
    rows = []
    for _, row in table.iterrows():
        cells = [
            f"<td>{escape(label(row['objective']))}</td>",
            f'<th scope="row">{escape(row["parameter"])}</th>',
            f'<td data-v="{plain(row["importance"]) or 0!r}">{_bar(row)}</td>',
            *(_cell(row[key], True) for key in IMPORTANCE_KEYS),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    names = ("objective", "parameter", "share", "importance", "low", "high", "p", "points", "values")
    heads = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in names)
    return (
        '<div class="scroll" role="region" tabindex="0" aria-label="Importance of the parameters">'
        '<table id="t-importance" data-sortable><caption>Importance of the parameters</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _bar(row: pd.Series[Any]) -> str:
    if math.isnan(row["importance"]):
        return "-"
    wide, low, high = (round(_BAR_WIDTH * float(row[key]), 1) for key in ("importance", "low", "high"))
    return (
        f'<svg class="bar" width="{_BAR_WIDTH}" height="14" aria-hidden="true">'
        f'<rect width="{_BAR_WIDTH}" height="14" fill="#eef1f4"/>'
        f'<rect width="{wide}" height="14" fill="#56B4E9"/>'
        f'<path d="M{low} 7H{high}M{low} 3v8M{high} 3v8" stroke="#1b1b1b" stroke-width="1.5"/></svg>'
    )


def difference_table(analysis: Analysis) -> str:
    """The pair-matrix difference as a section of the page, or nothing if none was asked for."""
    found = analysis.difference
    if found is None:
        return ""
    about = found.attrs
    largest = max(float(found.abs().max().max()), 1e-12)
    heads = "".join(f'<th scope="col">{escape(str(name))}</th>' for name in found.columns)
    rows = []
    for name, row in found.iterrows():
        cells = "".join(_shade(float(value), largest) for value in row)
        rows.append(f'<tr><th scope="row">{escape(str(name))}</th>{cells}</tr>')
    title = (
        f"{about['trial_b']} (step {about['step_b']}) minus {about['trial_a']} (step {about['step_a']}), mAP"
    )
    return (
        '<section aria-labelledby="h-difference"><h2 id="h-difference">Language pairs of two trials</h2>'
        "<p>Rows: question language; columns: candidate language. Blue: the first named is better; "
        "orange: worse.</p>"
        '<div class="scroll" role="region" tabindex="0" aria-label="Difference of the pair matrices">'
        f'<table class="matrix"><caption>{escape(title)}</caption><thead><tr><td></td>{heads}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _shade(value: float, largest: float) -> str:
    if math.isnan(value):
        return '<td class="n">-</td>'
    strength = round(0.55 * abs(value) / largest, 3)
    color = _MORE if value > 0 else _LESS
    return f'<td class="n" style="background:rgba({color},{strength})">{value:+.3f}</td>'

"""Tables of the inspection report as text."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from io import StringIO

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

_TEXTS = ("question", "passage", "hard negatives")  # columns of a step's table that may be cut
_LEAST_TEXT = 12

Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """Rows under column names. A float in a column whose name ends in `share` is a share of 1."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    note: str = ""


def render_tables(tables: Iterable[Table], width: int | None = None) -> str:
    """Return tables as text, the questions and passages of a step cut to the width that is left.

    Args:
        width: columns at most; default: those of the terminal, 120 where there is none.
    """
    width = width or shutil.get_terminal_size((120, 24)).columns
    out = StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False)
    for table in tables:
        console.print(Text(table.title))
        drawn = RichTable(box=None, pad_edge=False)
        for number, name in enumerate(table.columns):
            numeric = all(not isinstance(row[number], str) for row in table.rows)
            drawn.add_column(
                Text(name), justify="right" if numeric else "left", overflow="ellipsis", no_wrap=True
            )
        room = _room_for_texts(table, width)
        for row in table.rows:
            cells = [Text(_shown(cell, name)) for cell, name in zip(row, table.columns, strict=True)]
            for cell, name in zip(cells, table.columns, strict=True):
                if name in room:
                    cell.truncate(room[name], overflow="ellipsis")
            drawn.add_row(*cells)
        console.print(drawn)
        if table.note:
            console.print(Text(table.note))
        console.print()
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _room_for_texts(table: Table, width: int) -> dict[str, int]:
    """Terminal columns for each column of texts: what the others leave, which are shown whole."""
    if not table.title.startswith("Step "):
        return {}
    needs = {
        name: max(cell_len(_shown(row[number], name)) for row in [table.columns, *table.rows])
        for number, name in enumerate(table.columns)
    }
    texts = sorted((name for name in table.columns if name in _TEXTS), key=needs.__getitem__)
    left = width - sum(needs[name] for name in needs if name not in texts) - 2 * (len(needs) - 1)
    room = {}
    for number, name in enumerate(texts):  # the shortest first: what it does not need is for the others
        room[name] = max(_LEAST_TEXT, min(needs[name], left // (len(texts) - number)))
        left -= room[name]
    return room


def _shown(cell: Cell, column: str) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{100 * cell:.2f} %" if column.endswith("share") else f"{cell:,.2f}"
    return f"{cell:,}" if isinstance(cell, int) else cell

"""Write an inspection as text tables, at most as wide as the terminal."""

from __future__ import annotations

import shutil
import sys
from io import StringIO

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from hbt_dist.batching.inspection import Cell, Inspection

_NO_LIMIT = 100_000  # columns
_TEXTS = ("question", "passage", "hard negatives")  # columns of a step's table that can be cut


def render(inspection: Inspection, width: int | None = None) -> str:
    """Return the report as text tables, the questions and passages of a step cut to the remaining width.

    Args:
        width: columns at most; default: the terminal's columns, or no limit without a terminal.
    """
    width = width or (shutil.get_terminal_size().columns if sys.stdout.isatty() else _NO_LIMIT)
    out = StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False)
    for table in [*inspection.corpus, *inspection.plan, *inspection.step]:
        console.print(Text(table.title))
        drawn = RichTable(box=None, pad_edge=False)
        for number, name in enumerate(table.columns):
            numeric = all(not isinstance(row[number], str) for row in table.rows)
            # Only columns that may wrap become narrower; their cells end in an ellipsis instead.
            drawn.add_column(
                Text(name),
                justify="right" if numeric else "left",
                overflow="ellipsis",
                no_wrap=name not in _TEXTS,
            )
        for row in table.rows:
            shown = [_shown(cell, name) for cell, name in zip(row, table.columns, strict=True)]
            drawn.add_row(*(Text(text, no_wrap=True, overflow="ellipsis") for text in shown))
        console.print(drawn)
        if table.note:
            console.print(Text(table.note))
        console.print()
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _shown(cell: Cell, column: str) -> str:
    if isinstance(cell, float):
        return f"{100 * cell:.2f} %" if column.endswith("share") else f"{cell:,.2f}"
    return f"{cell:,}" if isinstance(cell, int) else cell

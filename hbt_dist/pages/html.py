"""Build the pieces of a page as HTML text; arguments are escaped unless they are documented as HTML.

A content security policy forbids every request and every script.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

_NO_NUMBER = ("-", "trivial")
_PHONE_CHARACTERS = 44
ASSETS = Path(__file__).parent / "assets"


def page(title: str, main: str, *, kind: str, header: str = "") -> str:
    """Return a whole page.

    Args:
        title: heading of the page.
        main: HTML of its content; its headings begin at level 2.
        kind: of report, in the browser's title.
        header: HTML of the summary below the heading.
    """
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    css = (ASSETS / "page.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f'<link rel="icon" href="data:,">\n<title>{escape(title)}: {escape(kind)}</title>\n'
        f"<style>\n{css}</style>\n</head>\n<body>\n"
        '<a class="skip" href="#main">Skip to the findings</a>\n'
        f"<header>\n<h1>{escape(title)}</h1>\n{header}\n</header>\n"
        f'<main id="main">\n{main}\n</main>\n</body>\n</html>\n'
    )


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, attributes: str = "", note: str = ""
) -> str:
    """Return a table in a frame that scrolls on narrow pages, also with the keyboard.

    Args:
        caption: also the frame's name, so it must be unique on the page. Its extra element keeps it visible
            while the table scrolls sideways.
        heads: HTML elements of the head row.
        rows: HTML elements of each row.
        attributes: HTML attributes of the table.
        note: HTML in the frame below the table.
    """
    body = "".join(f'<tr role="row">{"".join(row)}</tr>' for row in rows)
    name = escape(caption)
    return (
        f'<div class="scroll" role="group" tabindex="0" aria-label="{name}">'
        f'<table role="table"{" " + attributes if attributes else ""}><caption><span>{name}</span></caption>'
        f'<thead role="rowgroup"><tr role="row">{"".join(heads)}</tr></thead>'
        f'<tbody role="rowgroup">{body}</tbody></table>{note}</div>'
    )


def text_table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts; the first column names the row, columns of numbers are aligned right.

    On a phone each row of a wide table becomes a card with a line per column, so that no column is cut off.
    Explicit roles keep it a table for screen readers, which such a layout would hide.
    """
    kinds = [_kind([row[i] for row in rows]) for i in range(1, len(columns))]
    heads = [f'<th role="columnheader" scope="col">{escape(columns[0])}</th>']
    heads += [
        f'<th role="columnheader" scope="col"{kind}>{escape(name)}</th>'
        for name, kind in zip(columns[1:], kinds, strict=True)
    ]
    cells = (
        [
            f'<th role="rowheader" scope="row">{escape(name)}</th>',
            *(
                f'<td role="cell"{kind} data-column="{escape(column)}">{escape(text)}</td>'
                for column, text, kind in zip(columns[1:], texts, kinds, strict=True)
            ),
        ]
        for name, *texts in rows
    )
    return table(caption, heads, cells, attributes='class="cards"' if _is_wide(columns, rows) else "")


def _is_wide(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Return whether a table is wider than a phone; numbers stay on one line, texts break at spaces."""
    widths = []
    for head, *texts in zip(columns, *rows, strict=True):
        parts = [head, *texts] if is_numeric(texts) else " ".join([head, *texts]).split()
        widths.append(max(map(len, parts), default=0))
    return sum(widths) + 3 * len(widths) > _PHONE_CHARACTERS


def tiles(items: Iterable[tuple[str, str, str, str]]) -> str:
    """Return large figures: label, value before or empty, value, note or empty."""
    parts = (
        f"<div><dt>{escape(label)}</dt><dd>"
        + (f'<span class="before">{escape(before)} → </span>' if before else "")
        + f"<strong>{escape(after)}</strong></dd>"
        + (f'<dd class="note">{escape(note)}</dd>' if note else "")
        + "</div>"
        for label, before, after, note in items
    )
    return f'<dl class="tiles">{"".join(parts)}</dl>'


def unbroken(text: str) -> str:
    """Escape a text; no line breaks next to its arrows."""
    return escape(text).replace(" → ", "&nbsp;→&nbsp;")


def is_numeric(texts: Sequence[str]) -> bool:
    """Return whether every text of a column begins as a number or stands for a missing number."""
    return all(text in _NO_NUMBER or text.lstrip("+-[.<")[:1].isdigit() for text in texts)


def _kind(texts: Sequence[str]) -> str:
    if is_numeric(texts):
        return ' class="n"'
    return ' class="long"' if max(map(len, texts), default=0) > 60 else ""

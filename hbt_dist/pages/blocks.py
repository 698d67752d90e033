"""Collect headings, texts and tables, each as HTML and as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape

from hbt_dist.pages import html


class Blocks:
    """Blocks in order, each in both forms, in sections that begin with a heading of level 2."""

    def __init__(self) -> None:
        self._head: list[str] = []  # before the first section
        self._head_markdown: list[str] = []
        self._sections: list[tuple[str, list[str]]] = []
        self._markdown: list[str] = []

    def heading(self, text: str, level: int = 2) -> None:
        """Add a heading; level 2 begins a section and appears in the list of contents."""
        if level == 2 and not self._sections:
            self._head_markdown, self._markdown = self._markdown, []
        self._markdown.append(f"{'#' * level} {plain_markdown(text)}")
        if level == 2:
            self._sections.append((text, []))
        else:
            self._html(f"<h{level}>{escape(text)}</h{level}>")

    def paragraph(self, text: str, *, lead: str = "") -> None:
        """Add a paragraph of plain text after a bold `lead`."""
        self._both(
            f"**{plain_markdown(lead)}** {plain_markdown(text)}" if lead else plain_markdown(text),
            f"<p>{f'<strong>{escape(lead)}</strong> ' if lead else ''}{escape(text)}</p>",
        )

    def items(self, texts: Sequence[str]) -> None:
        """Add a list."""
        listed = "".join(f"<li>{escape(text)}</li>" for text in texts)
        self._both("\n".join(f"* {plain_markdown(text)}" for text in texts), f"<ul>{listed}</ul>")

    def facts(self, items: Mapping[str, object]) -> None:
        """Add names and values."""
        lines = markdown_table(["", ""], [[key, str(value)] for key, value in items.items()], aligned=False)
        pairs = (f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in items.items())
        self._both(lines, f'<dl class="facts">{"".join(pairs)}</dl>')

    def code(self, title: str, text: str) -> None:
        """Add a file's text; `title` names the block for screen readers."""
        fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 3)
        self._both(
            f"{fence}\n{text.rstrip()}\n{fence}",
            f'<pre tabindex="0" role="region" aria-label="{escape(title)}">{escape(text)}</pre>',
        )

    @contextmanager
    def details(self, title: str) -> Iterator[None]:
        """Fold the blocks added inside until a reader opens them; print shows them.

        GitHub's Markdown has the same element, so both forms fold.
        """
        self._both(
            f"<details>\n<summary>{plain_markdown(title)}</summary>",
            f"<details><summary>{escape(title)}</summary>",
        )
        yield
        self._both("</details>", "</details>")

    @contextmanager
    def columns(self) -> Iterator[None]:
        """Put the blocks added inside next to each other where the page is wide enough."""
        self._html('<div class="pair">')
        yield
        self._html("</div>")

    def table(self, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table; the first column names the row, the caption is unique on the page."""
        self._both(
            f"{plain_markdown(caption)}\n\n{markdown_table(columns, rows)}",
            html.text_table(caption, columns, rows),
        )

    def meaning(self, terms: Mapping[str, str]) -> None:
        """Explain terms next to their first use, folded: term -> its meaning in plain words."""
        listed = [f"“{term}”" for term in terms]
        words = " and ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)
        with self.details(f"What {words} {'mean' if len(listed) > 1 else 'means'}"):
            pairs = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())
            self._both(
                "\n".join(
                    f"* **{plain_markdown(term)}**: {plain_markdown(text)}" for term, text in terms.items()
                ),
                f'<dl class="facts">{pairs}</dl>',
            )

    def _both(self, markdown: str, text: str) -> None:
        self._markdown.append(markdown)
        self._html(text)

    def _html(self, text: str) -> None:
        (self._sections[-1][1] if self._sections else self._head).append(text)


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, aligned: bool = True) -> str:
    """Return a table; columns of words are aligned left, of numbers right."""
    right = [aligned and html.is_numeric([row[i] for row in rows]) for i in range(1, len(columns))]
    lines = [columns, ["---", *("---:" if number else "---" for number in right)], *rows]
    return "\n".join(
        f"| {' | '.join(plain_markdown(cell).replace('|', '&#124;') for cell in row)} |" for row in lines
    )


def plain_markdown(text: str) -> str:
    """Escape what Markdown takes for HTML, on one line; ``p < 0.05`` and ``<0.001`` stay as they are."""
    return " ".join(re.sub("<(?=[A-Za-z/!?])", "&lt;", text.replace("&", "&amp;")).split())

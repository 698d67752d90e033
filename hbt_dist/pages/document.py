"""Collect a report as blocks and render it as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import NamedTuple

from hbt_dist.common.files import atomic_write, explained_write
from hbt_dist.pages import html
from hbt_dist.pages.figures import DPI
from hbt_dist.pages.matrix import Matrix

_CSS_DPI = 96
MOST_SIDE_BY_SIDE = 12


class Tile(NamedTuple):
    """A large figure with its value before and after a change, or with one value."""

    label: str
    before: str  # empty: there is one value only
    after: str
    note: str = ""


class Document:
    """Blocks in order, each in both forms; `write` writes the files.

    Blocks before the first heading, such as tiles, stay above the list of contents.

    Args:
        title: of the page.
        kind: of report, in the browser's title.
    """

    def __init__(self, title: str, kind: str) -> None:
        self.title, self.kind = title, kind
        self.files: dict[str, bytes] = {}
        self._lead, self._small = "", ""
        self._markdown: list[str] = []
        self._head: list[str] = []
        self._head_markdown: list[str] = []
        self._sections: list[tuple[str, list[str]]] = []

    def lead(self, sentence: str, small: str = "") -> None:
        """Set what happened, in words, highlighted at the top of the page.

        Args:
            sentence: the finding, without statistics.
            small: statistics and further facts, below the tiles.
        """
        self._lead, self._small = sentence, small

    def tiles(self, items: Sequence[Tile]) -> None:
        """Add three or four large figures, each before -> after with a note below."""
        changed = any(item.before for item in items)
        columns = ["", "before", "after", ""] if changed else ["", "", ""]
        rows = [
            [item.label, *([item.before or "-"] if changed else []), item.after, item.note] for item in items
        ]
        tiles = "".join(
            f"<div><dt>{escape(item.label)}</dt><dd>"
            + (f'<span class="before">{escape(item.before)} → </span>' if item.before else "")
            + f"<strong>{escape(item.after)}</strong></dd>"
            + (f'<dd class="note">{escape(item.note)}</dd>' if item.note else "")
            + "</div>"
            for item in items
        )
        self._both(_markdown_table(columns, rows), f'<dl class="tiles">{tiles}</dl>')

    def meaning(self, terms: Mapping[str, str]) -> None:
        """Explain terms next to their first use, folded: term -> its meaning in plain words."""
        listed = [f"“{term}”" for term in terms]
        words = " and ".join([", ".join(listed[:-1]), listed[-1]] if len(listed) > 1 else listed)
        with self.details(f"What {words} {'mean' if len(listed) > 1 else 'means'}"):
            pairs = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>" for term, text in terms.items())
            self._both(
                "\n".join(f"* **{_plain(term)}**: {_plain(text)}" for term, text in terms.items()),
                f'<dl class="facts">{pairs}</dl>',
            )

    def heading(self, text: str, level: int = 2) -> None:
        """Add a heading; level 2 begins a section and appears in the list of contents."""
        if level == 2 and not self._sections:
            self._head_markdown, self._markdown = self._markdown, []
        self._markdown.append(f"{'#' * level} {_plain(text)}")
        if level == 2:
            self._sections.append((text, []))
        else:
            self._html(f"<h{level}>{escape(text)}</h{level}>")

    def paragraph(self, text: str, *, lead: str = "") -> None:
        """Add a paragraph of plain text after a bold `lead`."""
        self._both(
            f"**{_plain(lead)}** {_plain(text)}" if lead else _plain(text),
            f"<p>{f'<strong>{escape(lead)}</strong> ' if lead else ''}{escape(text)}</p>",
        )

    def items(self, texts: Sequence[str]) -> None:
        """Add a list."""
        listed = "".join(f"<li>{escape(text)}</li>" for text in texts)
        self._both("\n".join(f"* {_plain(text)}" for text in texts), f"<ul>{listed}</ul>")

    def facts(self, items: Mapping[str, object]) -> None:
        """Add names and values."""
        lines = _markdown_table(["", ""], [[key, str(value)] for key, value in items.items()], aligned=False)
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
            f"<details>\n<summary>{_plain(title)}</summary>",
            f"<details><summary>{escape(title)}</summary>",
        )
        yield
        self._both("</details>", "</details>")

    def table(self, caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Add a table; the first column names the row, the caption is unique on the page."""
        self._both(
            f"{_plain(caption)}\n\n{_markdown_table(columns, rows)}", html.text_table(caption, columns, rows)
        )

    def figure(self, file: str, content: bytes, caption: str, description: str) -> None:
        """Add a PNG.

        Args:
            file: path below the report's folder.
            content: of the PNG.
            caption: below the picture.
            description: alternative text.
        """
        self.files[file] = content
        width, height = (round(pixels * _CSS_DPI / DPI) for pixels in struct.unpack(">II", content[16:24]))
        data = base64.b64encode(content).decode()
        self._both(
            f"![{_plain(description)}]({file})\n\n*{_plain(caption)}*",
            f'<figure><img alt="{escape(description)}" width="{width}" height="{height}" '
            f'src="data:image/png;base64,{data}"><figcaption>{escape(caption)}</figcaption></figure>',
        )

    def matrix(self, matrix: Matrix, file: str | None = None, *, numbers: bool = True) -> None:
        """Add a matrix: a shaded table on the page; a picture, numbers or both in Markdown.

        Args:
            file: path of the picture below the report's folder.
            numbers: whether Markdown has the numbers.
        """
        markdown = []
        if file is not None:
            self.files[file] = matrix.picture()
            markdown.append(f"![{_plain(f'{matrix.caption}: {matrix.finding}')}]({file})")
        if numbers:
            markdown.append(_markdown_matrix(matrix))
        self._both("\n\n".join(markdown), matrix.html())

    def side_by_side(self, before: Matrix, after: Matrix, files: tuple[str, str] | None = None) -> None:
        """Add two matrices of the same languages next to each other, on narrow pages below each other.

        Up to 12 languages show their numbers. More languages show colours alone, side by side at any width
        of a desk; the numbers of `after` and, folded, of `before` follow.

        Args:
            files: paths of the two pictures below the report's folder; default: no pictures.
        """
        pair = (before, after)
        if files is not None:
            for matrix, file in zip(pair, files, strict=True):
                self.files[file] = matrix.picture()
            shown = [
                f"![{_plain(f'{matrix.caption}: {matrix.finding}')}]({file})"
                for matrix, file in zip(pair, files, strict=True)
            ]
            self._markdown.append(
                _markdown_table([matrix.caption for matrix in pair], [shown], aligned=False)
            )
        if len(after.languages) <= MOST_SIDE_BY_SIDE:
            self._html(f'<div class="pair">{"".join(matrix.html() for matrix in pair)}</div>')
            self._markdown += [_markdown_matrix(matrix) for matrix in pair]
            return
        self._html(f'<div class="pair maps">{"".join(matrix.map() for matrix in pair)}</div>')
        self.matrix(after)
        with self.details(f"Numbers of: {before.caption}"):
            self.matrix(before)

    def _both(self, markdown: str, text: str) -> None:
        self._markdown.append(markdown)
        self._html(text)

    def _html(self, text: str) -> None:
        (self._sections[-1][1] if self._sections else self._head).append(text)

    def markdown(self) -> str:
        """Return the report as Markdown; pictures are separate files."""
        head, body = (self._head_markdown, self._markdown) if self._sections else (self._markdown, [])
        lead, small = ([_plain(text)] if text else [] for text in (self._lead, self._small))
        return "\n\n".join([f"# {_plain(self.title)}", *lead, *head, *small, *body]) + "\n"

    def page(self) -> str:
        """Return the report as one self-contained HTML file."""
        sections = [
            (f"h-{i}-{re.sub('[^a-z0-9]+', '-', title.lower())}", escape(title), "\n".join(blocks))
            for i, (title, blocks) in enumerate(self._sections, 1)
        ]
        links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in sections)
        lead, small = (
            f'<p class="{name}">{escape(text)}</p>\n' if text else ""
            for name, text in (("lead", self._lead), ("small", self._small))
        )
        contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
        main = "".join(
            f'<section aria-labelledby="{key}"><h2 id="{key}">{title}</h2>\n{content}\n</section>\n'
            for key, title, content in sections
        )
        header = "\n".join([lead, *self._head, small, contents])
        return html.page(self.title, main, kind=self.kind, header=header)

    def write(self, folder: Path, stem: str) -> None:
        """Write pictures, STEM.md and STEM.html, each atomically.

        Raises:
            UserError: the folder cannot be written.
        """
        texts = {f"{stem}.md": self.markdown().encode(), f"{stem}.html": self.page().encode()}
        with explained_write(folder, "choose a writable folder"):
            for name, content in {**self.files, **texts}.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                atomic_write(path, content)


def _markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, aligned: bool = True) -> str:
    """Return a table; columns of words are aligned left, of numbers right."""
    right = [aligned and html.is_numeric([row[i] for row in rows]) for i in range(1, len(columns))]
    lines = [columns, ["---", *("---:" if number else "---" for number in right)], *rows]
    return "\n".join(
        f"| {' | '.join(_plain(cell).replace('|', '&#124;') for cell in row)} |" for row in lines
    )


def _markdown_matrix(matrix: Matrix) -> str:
    legend = [_plain(matrix.legend)] if matrix.legend else []
    return "\n\n".join([_plain(matrix.caption), _markdown_table(matrix.head(), matrix.rows()), *legend])


def _plain(text: str) -> str:
    """Escape what Markdown takes for HTML, on one line; ``p < 0.05`` and ``<0.001`` stay as they are."""
    return " ".join(re.sub("<(?=[A-Za-z/!?])", "&lt;", text.replace("&", "&amp;")).split())

"""Collect a report as blocks and render it as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

from hbt_dist.common.files import atomic_write, explained_write
from hbt_dist.pages import html
from hbt_dist.pages.blocks import Blocks, markdown_table, plain_markdown
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


class Document(Blocks):
    """A report: blocks, matrices and pictures; `write` writes the files.

    Blocks before the first heading, such as tiles, stay above the list of contents.

    Args:
        title: of the page.
        kind: of report, in the browser's title.
    """

    def __init__(self, title: str, kind: str) -> None:
        super().__init__()
        self.title, self.kind = title, kind
        self.files: dict[str, bytes] = {}
        self._lead, self._small = "", ""

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
        self._both(markdown_table(columns, rows), html.tiles(items))

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
            f"![{plain_markdown(description)}]({file})\n\n*{plain_markdown(caption)}*",
            f'<figure style="max-width:{width}px"><img alt="{escape(description)}" '
            f'width="{width}" height="{height}" src="data:image/png;base64,{data}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>",
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
            markdown.append(f"![{plain_markdown(f'{matrix.caption}: {matrix.finding}')}]({file})")
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
                f"![{plain_markdown(f'{matrix.caption}: {matrix.finding}')}]({file})"
                for matrix, file in zip(pair, files, strict=True)
            ]
            self._markdown.append(markdown_table([matrix.caption for matrix in pair], [shown], aligned=False))
        if len(after.languages) <= MOST_SIDE_BY_SIDE:
            self._html(f'<div class="pair">{"".join(matrix.html() for matrix in pair)}</div>')
            self._markdown += [_markdown_matrix(matrix) for matrix in pair]
            return
        self._html(f'<div class="pair maps">{"".join(matrix.map() for matrix in pair)}</div>')
        self.matrix(after)
        with self.details(f"Numbers of: {before.caption}"):
            self.matrix(before)

    def markdown(self) -> str:
        """Return the report as Markdown; pictures are separate files."""
        head, body = (self._head_markdown, self._markdown) if self._sections else (self._markdown, [])
        lead, small = ([plain_markdown(text)] if text else [] for text in (self._lead, self._small))
        return "\n\n".join([f"# {plain_markdown(self.title)}", *lead, *head, *small, *body]) + "\n"

    def page(self) -> str:
        """Return the report as one self-contained HTML file."""
        sections = [
            (f"h-{i}-{re.sub('[^a-z0-9]+', '-', title.lower())}", escape(title), "\n".join(blocks))
            for i, (title, blocks) in enumerate(self._sections, 1)
        ]
        links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in sections)
        lead, small = (
            f'<p class="{name}">{html.unbroken(text)}</p>\n' if text else ""
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


def _markdown_matrix(matrix: Matrix) -> str:
    legend = [plain_markdown(matrix.legend)] if matrix.legend else []
    return "\n\n".join(
        [plain_markdown(matrix.caption), markdown_table(matrix.head(), matrix.rows()), *legend]
    )

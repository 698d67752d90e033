"""Collect a report as blocks and render it as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path

from hbt_dist.common.files import atomic_write, explained_write
from hbt_dist.pages import html
from hbt_dist.pages.figures import DPI
from hbt_dist.pages.matrix import Matrix

_CSS_DPI = 96


class Document:
    """Blocks in order, each in both forms; `write` writes the files.

    Args:
        title: of the page.
        summary: the findings in one or two sentences, highlighted.
        kind: of report, in the browser's title.
        about: further first information, below the summary.
    """

    def __init__(self, title: str, summary: str, kind: str, about: str = "") -> None:
        self.title, self.summary, self.kind, self.about = title, summary, kind, about
        self.files: dict[str, bytes] = {}
        self._markdown: list[str] = []
        self._sections: list[tuple[str, list[str]]] = []

    def heading(self, text: str, level: int = 2) -> None:
        """Add a heading; level 2 begins a section and appears in the list of contents."""
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
            self.files[file] = matrix.picture("change in mAP" if matrix.difference else "mAP")
            markdown.append(f"![{_plain(f'{matrix.caption}: {matrix.finding}')}]({file})")
        if numbers:
            markdown.append(
                f"{_plain(matrix.caption)}\n\n{_markdown_table(['', *matrix.languages], matrix.rows())}"
            )
        self._both("\n\n".join(markdown), matrix.html())

    def _both(self, markdown: str, text: str) -> None:
        self._markdown.append(markdown)
        self._html(text)

    def _html(self, text: str) -> None:
        if not self._sections:
            raise ValueError("a block needs a section: begin with a heading of level 2")
        self._sections[-1][1].append(text)

    def markdown(self) -> str:
        """Return the report as Markdown; pictures are separate files."""
        head = [f"# {_plain(self.title)}", *(_plain(text) for text in (self.summary, self.about) if text)]
        return "\n\n".join([*head, *self._markdown]) + "\n"

    def page(self) -> str:
        """Return the report as one self-contained HTML file."""
        sections = [
            (f"h-{i}-{re.sub('[^a-z0-9]+', '-', title.lower())}", escape(title), "\n".join(blocks))
            for i, (title, blocks) in enumerate(self._sections, 1)
        ]
        links = "".join(f'<li><a href="#{key}">{title}</a></li>' for key, title, _ in sections)
        about = f"<p>{escape(self.about)}</p>\n" if self.about else ""
        header = (
            f'<p class="lead">{escape(self.summary)}</p>\n{about}'
            f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
        )
        main = "".join(
            f'<section aria-labelledby="{key}"><h2 id="{key}">{title}</h2>\n{content}\n</section>\n'
            for key, title, content in sections
        )
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


def _plain(text: str) -> str:
    """Escape what Markdown takes for HTML, on one line; ``p < 0.05`` and ``<0.001`` stay as they are."""
    return " ".join(re.sub("<(?=[A-Za-z/!?])", "&lt;", text.replace("&", "&amp;")).split())

"""A report as blocks, rendered as Markdown and as one self-contained HTML page."""

from __future__ import annotations

import base64
import html
from dataclasses import dataclass, field
from pathlib import Path

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem;
  margin: 0 auto; padding: 1rem; }
h1, h2, h3 { line-height: 1.2; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #444; padding: .25rem 0; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #ccc; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
thead th { border-bottom: 2px solid #444; }
figure { margin: 1rem 0; } figure img { max-width: 100%; height: auto; }
figcaption { color: #444; }
code { background: #f2f2f2; padding: 0 .2rem; }
@media print { body { max-width: none; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


@dataclass
class Document:
    """Blocks in order; each is kept in both forms.

    Args:
        title: of the page.
        folder: where the figures lie; they are named relative to it in Markdown, and put into the page.
    """

    title: str
    folder: Path
    _markdown: list[str] = field(default_factory=list)
    _html: list[str] = field(default_factory=list)

    def heading(self, text: str, level: int = 2) -> None:
        """A heading."""
        self._markdown.append(f"{'#' * level} {text}")
        self._html.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def paragraph(self, text: str) -> None:
        """A paragraph of plain text."""
        self._markdown.append(text)
        self._html.append(f"<p>{html.escape(text)}</p>")

    def items(self, texts: list[str]) -> None:
        """A list."""
        self._markdown.append("\n".join(f"* {text}" for text in texts))
        self._html.append("<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>")

    def table(self, caption: str, columns: list[str], rows: list[list[str]]) -> None:
        """A table; the first column names the row."""
        lines = [f"| {' | '.join(columns)} |", "|" + "|".join(["---"] + ["---:"] * (len(columns) - 1)) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
        self._markdown.append(f"{caption}\n\n" + "\n".join(lines))
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
        body = "".join(
            f'<tr><th scope="row">{html.escape(row[0])}</th>'
            + "".join(f"<td>{html.escape(value)}</td>" for value in row[1:])
            + "</tr>"
            for row in rows
        )
        self._html.append(
            f'<div class="scroll" tabindex="0"><table><caption>{html.escape(caption)}</caption>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def figure(self, path: Path, description: str) -> None:
        """A PNG with the words that stand for it where it cannot be seen."""
        self._markdown.append(f"![{description}]({path.relative_to(self.folder).as_posix()})")
        data = base64.b64encode(path.read_bytes()).decode()
        self._html.append(
            f'<figure><img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'
            f"<figcaption>{html.escape(description)}</figcaption></figure>"
        )

    def markdown(self) -> str:
        """The whole report as Markdown."""
        return "\n\n".join([f"# {self.title}", *self._markdown]) + "\n"

    def page(self) -> str:
        """The whole report as one HTML file that needs no other."""
        title = html.escape(self.title)
        return (
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{title}</title><style>{_STYLE}</style></head><body><main><h1>{title}</h1>\n"
            + "\n".join(self._html)
            + "\n</main></body></html>\n"
        )

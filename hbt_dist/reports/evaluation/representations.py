"""Add what cut and quantised embeddings lose, and which languages lose most."""

from __future__ import annotations

from typing import Any

from hbt_dist.common.numbers import plain, signed
from hbt_dist.evaluation.read_results import SETTINGS
from hbt_dist.pages.document import Document
from hbt_dist.reports.evaluation.sections import SETTING_TITLES

_MOST_NAMED = 3


def add_representations(document: Document, results: dict[str, Any]) -> None:
    """Add a table with a row per representation, if the evaluation has any."""
    block: dict[str, dict[str, Any]] = results.get("representations", {})
    if not block:
        return
    full = block["full"]
    rows = []
    for name, entry in block.items():
        figures = [_figure(entry["map"][setting], full["map"][setting], name) for setting in SETTINGS]
        rows.append([name, f"{entry['bytes_per_vector']:,}", *figures, _losers(entry["loss_by_language"])])
    document.heading("Short vectors")
    document.table(
        "mAP of cut and quantised embeddings, and its change from full embeddings",
        ["embedding", "bytes", *(SETTING_TITLES[setting] for setting in SETTINGS), "largest losses"],
        rows,
    )
    document.paragraph(
        "A number is a width: the first values of an embedding. int8 has one byte per value, binary one bit. "
        "The loss of a language is its mean over the language pairs with it. representations.csv has the "
        "loss of every pair with its p, and representations/ an evaluation folder for each row."
    )


def _figure(value: float | None, full: float | None, name: str) -> str:
    change = "" if name == "full" or value is None or full is None else f" ({signed(value - full)})"
    return f"{plain(value)}{change}"


def _losers(losses: dict[str, float | None]) -> str:
    """Return the languages that lose most, with their loss."""
    known = [(loss, code) for code, loss in losses.items() if loss is not None and loss > 0]
    worst = sorted(known, key=lambda pair: (-pair[0], pair[1]))[:_MOST_NAMED]
    return ", ".join(f"{code} {signed(-loss)}" for loss, code in worst) or "-"

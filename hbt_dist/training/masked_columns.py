"""Report the columns that the loss left out by similarity: figures of a step, and a line for a whole run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hbt_dist.common.console import counted
from hbt_dist.contrastive.false_negatives import MaskedColumns

_PAIRS = 5


def masked_figures(masked: MaskedColumns, languages: Sequence[str]) -> dict[str, Any]:
    """Return the figures of a step: shares, and counts of each pair of languages with masked columns.

    Args:
        masked: counts of the global batch.
        languages: of the corpus.
    """
    codes = [languages[number] for number in masked.languages]
    pairs = {
        f"{row}-{column}": [count, masked.columns_LL[i][j]]
        for i, row in enumerate(codes)
        for j, column in enumerate(codes)
        if (count := masked.masked_LL[i][j])
    }
    columns = sum(map(sum, masked.columns_LL))
    return {
        "masked_columns": round(sum(map(sum, masked.masked_LL)) / max(columns, 1), 8),
        "rows_without_negatives": round(masked.bare_rows / max(masked.rows, 1), 8),
        "masked_by_pair": pairs,
    }


def bare_rows_warning(step: int, figures: Mapping[str, Any]) -> str | None:
    """Return a line if rows of a step lost all their negatives; other parts of the loss still use them."""
    if not (share := figures.get("rows_without_negatives")):
        return None
    return (
        f"step {step}: {share:.1%} of the rows had no negative left: InfoNCE learned nothing from them; "
        "raise the margin of loss.false_negatives"
    )


def masked_summary(rows: Iterable[Mapping[str, Any]]) -> str | None:
    """Return a line about all steps of a run; None if no step masked by similarity.

    Args:
        rows: of the metrics file.
    """
    steps = [row for row in rows if "masked_columns" in row]
    if not steps:
        return None
    pairs: Counter[str] = Counter()
    for row in steps:
        pairs.update({pair: count for pair, (count, _) in row["masked_by_pair"].items()})
    masked = max(pairs.total(), 1)
    most = ", ".join(f"{pair} {count / masked:.0%}" for pair, count in pairs.most_common(_PAIRS))
    share, bare = (
        sum(row[key] for row in steps) / len(steps) for key in ("masked_columns", "rows_without_negatives")
    )
    return (
        f"false negatives: masked {share:.3%} of the columns, mean of {counted(len(steps), 'step')}"
        + (f"; most of them question-passage {most}" if most else "")
        + f"; {bare:.2%} of the rows had no negative left"
    )

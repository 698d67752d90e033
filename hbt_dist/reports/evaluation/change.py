"""Report the change against an older evaluation: matrix, gains by family, tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from hbt_dist.common.numbers import plain, signed, span
from hbt_dist.pages.document import Document
from hbt_dist.reports.evaluation.figures import draw_gains, gains_finding
from hbt_dist.reports.evaluation.sections import add_cell_changes, add_tests

START_MODEL, TRAINED_MODEL = "start model", "trained model"


@dataclass(frozen=True)
class Change:
    """The comparison of a report's evaluation with an older evaluation."""

    name: str  # of the baseline
    baseline: dict[str, Any]  # its results.json
    comparison: dict[str, Any]  # of `compare`, with one system
    families: pd.DataFrame  # `group_gains` by the question language's family

    @property
    def system(self) -> str:
        """Name of the newer evaluation in the comparison."""
        return next(iter(self.comparison["cell_gain"]))


def model_names(baseline: str | Path, folder: str | Path) -> tuple[str, str] | None:
    """Return names for the two evaluations of a run; None for evaluations of different origin."""
    before, after = (Path(path).absolute() for path in (baseline, folder))
    root = after.parent.parent
    if root.name == "evaluation" and (after.parent.name, before) == ("end", root / "start" / after.name):
        return START_MODEL, TRAINED_MODEL
    return None


def add_changes(document: Document, change: Change) -> None:
    """Add the difference of the pair matrices, gains by family."""
    document.heading("What changed")
    add_cell_changes(document, change.comparison, change.system, "figures/difference.png")
    if not len(change.families):
        return
    families = change.families.sort_values("gain", ascending=False, kind="stable")
    gains = {change.system: families}
    with document.columns():
        _add_families(document, gains, families)


def _add_families(document: Document, gains: dict[str, pd.DataFrame], families: pd.DataFrame) -> None:
    document.table(
        "Gain in cross-lingual mAP by family of the question's language, with 95 % interval over questions",
        ["family", "pairs", "baseline", "gain", "interval"],
        [
            [
                row["group"],
                str(row["cells"]),
                plain(row["baseline"]),
                signed(row["gain"]),
                span(row["low"], row["high"]),
            ]
            for row in families.to_dict("records")
        ],
    )
    document.figure(
        "figures/families.png",
        draw_gains(gains, "gain by family of the question's language"),
        "Gain in cross-lingual mAP by family, with 95 % intervals over questions (none under 30 questions), "
        "not corrected for the number of families. If an interval excludes 0, the black line, the family "
        "gains or loses.",
        f"Gain in cross-lingual mAP by family: {gains_finding(gains)}",
    )


def add_statistics(document: Document, change: Change) -> None:
    """Add the tests of all means, with their terms."""
    document.heading("Statistics")
    add_tests(document, change.comparison, named=False)
    document.meaning(
        {
            "interval": "range of changes that fit the data; a change of 0 outside of it is unlikely",
            "d": "effect size: mean change of a question, divided by the standard deviation of the changes",
            "p": "probability of such a change if the models were equally good",
            "paired randomisation": "test that swaps the two models' values of random questions",
            "Holm": "correction of p for the number of rows of the table",
        }
    )

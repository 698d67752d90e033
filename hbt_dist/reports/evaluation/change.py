"""Report the change against an older evaluation: a sentence for the head of the page, and a section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from hbt_dist.common.numbers import p_clause, plain, signed, span
from hbt_dist.comparison.significance import SIGNIFICANT
from hbt_dist.pages.document import Document
from hbt_dist.reports.evaluation.figures import draw_gains, gains_finding
from hbt_dist.reports.evaluation.sections import add_cell_changes, add_tests

#: Settings of mAP in words, the decisive setting first.
SETTING_PHRASES = {
    "crosslingual": "across languages",
    "monolingual": "within languages",
    "multilingual": "in the pool of all languages",
}


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


def change_sentence(change: Change) -> str:
    """Return the change of mAP with interval and corrected p, across languages if the benchmark has that."""
    tests = {row["setting"]: row for row in change.comparison["tests"] if row["metric"] == "map"}
    rows = [
        (phrase, tests[key])
        for key, phrase in SETTING_PHRASES.items()
        if key in tests and not tests[key]["trivial"]
    ]
    if not rows:
        return f"Nothing can be tested against {change.name}: too few questions, or only trivial figures."
    phrase, main = rows[0]
    levels = f"{plain(main['macro_baseline'])} to {plain(main['macro_system'])}"
    if main["p_holm"] < SIGNIFICANT:
        verdict = f"mAP {phrase} {'rises' if main['difference'] > 0 else 'falls'} from {levels}"
    else:
        verdict = f"no change of mAP {phrase} is found, {levels}"
    text = (
        f"Against {change.name}, {verdict}: {signed(main['difference'])}, "
        f"{100 * change.comparison['confidence']:.0f} % interval {span(main['low'], main['high'])}, "
        f"{p_clause(main['p_holm'])}."
    )
    if len(rows) > 1:
        also = "; ".join(
            f"{name} {signed(row['difference'])}, {p_clause(row['p_holm'])}" for name, row in rows[1:]
        )
        text += f" {also[0].upper()}{also[1:]} (all p corrected for the tests made together)."
    return text


def add_changes(document: Document, change: Change) -> None:
    """Add tests, the difference of the pair matrices, gains by family."""
    document.heading(f"Change against {change.name}")
    add_tests(document, change.comparison, named=False)
    add_cell_changes(document, change.comparison, change.system, "figures/difference.png")
    if not len(change.families):
        return
    families = change.families.sort_values("gain", ascending=False, kind="stable")
    document.table(
        "Cross-lingual mAP by family of the question's language, gain with 95 % interval over questions",
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
    gains = {change.system: families}
    document.figure(
        "figures/families.png",
        draw_gains(gains, "gain by family of the question's language"),
        "Gain in cross-lingual mAP by family, with 95 % intervals over questions (none under 30 questions), "
        "not corrected for the number of families. If an interval excludes 0, the black line, the family "
        "gains or loses.",
        f"Gain in cross-lingual mAP by family: {gains_finding(gains)}",
    )

"""Add the section on language bias: does a candidate's language decide its rank?"""

from __future__ import annotations

from typing import Any

from hbt_dist.common.numbers import digits_of, plain
from hbt_dist.pages.document import Document
from hbt_dist.reports.evaluation.change import Change
from hbt_dist.reports.evaluation.figures import bias_finding, draw_bias
from hbt_dist.reports.evaluation.sections import languages_by_family, metric_title

_LIST_LENGTH = 10
_BIAS_MEANING = {
    "rank_distance": "worst minus best rank of a question's relevant candidates in the pool",
    "log_rank_distance": "logarithm of worst / best rank",
    "rank_distance_share": "rank distance as a share of the pool",
    "max_at_r": "worst rank of a relevant candidate",
    "complete@10": "share of questions with all relevant candidates in the first ten",
    "language_preference_rate": "share of questions whose first relevant candidate is in the same language",
    "language_preference_neutral": "the same for a ranking independent of language",
    "same_language_share@10": "share of the same language in the first 10 minus its share of the pool",
    "same_language_share@100": "share of the same language in the first 100 minus its share of the pool",
    "mrc": "rank correlation between a question's language versions, whole ranking",
    "mrc@100": "the same over the first 100",
}


def add_bias(document: Document, results: dict[str, Any], change: Change | None) -> None:
    """Add the measures with their meaning, and a figure by language."""
    document.heading("Language bias")
    old = None if change is None else change.baseline
    measures = _bias_values(results)
    if not measures:
        document.paragraph("None can be measured: no question has relevant candidates in two languages.")
        return
    if results["benchmark"]["relevant_per_question"]["min"] > _LIST_LENGTH:
        measures.pop("complete@10", None)  # 0 for any ranking
    columns = {"mean": measures} if old is None else {"before": _bias_values(old), "after": measures}
    rows = [
        [
            metric_title(name),
            *(plain(column.get(name), digits_of(name)) for column in columns.values()),
            _BIAS_MEANING[name],
        ]
        for name in measures
    ]
    document.table("Does a candidate's language decide its rank?", ["measure", *columns, "meaning"], rows)
    order = languages_by_family(results["benchmark"]["languages"])
    picture = draw_bias(results, order, old)
    if picture is not None:
        extra = "" if change is None else f"; filled: this evaluation, hollow: {change.name}"
        document.figure(
            "figures/bias.png",
            picture,
            f"Language bias by question language; black bars: neutral{extra}",
            f"Language bias by question language: {bias_finding(results, order, old)}",
        )


def _bias_values(results: dict[str, Any]) -> dict[str, float | None]:
    values = {name: entry["macro"] for name, entry in results["bias"].items()}
    consistency = results["ranking_consistency"] or {}
    return values | {name: consistency[name] for name in ("mrc", "mrc@100") if name in consistency}

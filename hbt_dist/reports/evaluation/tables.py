"""Add tables of figures: metrics by setting, one target in the pool, families, scripts, languages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hbt_dist.common.numbers import digits_of, plain
from hbt_dist.evaluation.metrics import METRICS
from hbt_dist.evaluation.results import LANGUAGE_MEASURES
from hbt_dist.evaluation.text_counts import text_lines
from hbt_dist.pages.document import Document
from hbt_dist.reports.evaluation.change import Change
from hbt_dist.reports.evaluation.sections import (
    SETTING_TITLES,
    language_list,
    language_matrix,
    languages_by_family,
    largest_cell,
    metric_title,
    moved,
)

_METRICS = ("map", "mrr", "ndcg@10", "accuracy", "recall@1", "recall@10", "map@20")
_SETTINGS = ("crosslingual", "monolingual", "multilingual", "one_target")
_LANGUAGE_TITLES = (
    "monolingual",
    "as question language",
    "as candidate language",
    "multilingual",
    "rank distance",
)


def add_means(document: Document, results: dict[str, Any], change: Change | None) -> None:
    """Add every metric of every setting, with the best possible value where that is below 1."""
    document.heading("All figures")
    user_metrics = [name for name in results["means"][_SETTINGS[0]]["macro"] if name not in METRICS]
    old = None if change is None else change.baseline
    settings = [name for name in _SETTINGS if results["means"][name]["macro"]["map"] is not None]
    rows = [
        [
            metric_title(metric),
            *(_with_ceiling(results, old, setting, metric) for setting in settings),
        ]
        for metric in (*_METRICS, *user_metrics)
    ]
    rows += [
        [
            "mAP over questions",
            *(
                moved(_mean(old, name, "map", "micro"), _mean(results, name, "map", "micro"))
                for name in settings
            ),
        ],
        ["mAP of a random order", *(plain(results["chance"][name]) for name in settings)],
    ]
    document.table(
        "Means over languages or pairs of languages",
        ["figure", *(SETTING_TITLES[name] for name in settings)],
        rows,
    )
    document.meaning(
        {
            "cross-lingual": "questions of one language, candidates of one other language",
            "monolingual": "questions and candidates of one language",
            "multilingual": "candidates of all languages, every translation of the answer is relevant",
            "one target": "candidates of all languages, the answer in one language is relevant and its "
            "translations are left out",
            "mAP": "mean average precision: 1 if all relevant candidates come first; the main figure",
            "MRR": "mean of 1 / rank of the first relevant candidate",
            "nDCG@10": "the relevant candidates among the first ten, weighted by rank and grade",
            "accuracy": "share of questions whose first candidate is relevant",
            "recall@10": "share of the relevant candidates among the first ten",
            "of": "the best value that any ranking can have, where a question has more relevant candidates "
            "than the list has places",
            "random order": "shuffled candidates; a figure near chance is below three times their mAP, and "
            "below a quarter of the way from it to 1",
        }
    )
    for line in text_lines(results.get("texts")):
        document.paragraph(f"{line[0].upper()}{line[1:]}.")


def _with_ceiling(results: dict[str, Any], old: dict[str, Any] | None, setting: str, metric: str) -> str:
    text = moved(_mean(old, setting, metric), _mean(results, setting, metric))
    ceiling = results.get("ceilings", {}).get(setting, {}).get(metric)
    return text if ceiling is None or ceiling > 0.9995 else f"{text} of {plain(ceiling)}"


def _mean(results: dict[str, Any] | None, setting: str, metric: str, over: str = "macro") -> float | None:
    value: float | None = None if results is None else results["means"][setting][over].get(metric)
    return value


def add_one_target(document: Document, results: dict[str, Any]) -> None:
    """Add the matrix of pairs in the pool of all languages."""
    gaps = [gap for row in results["pool_gap"] for gap in row if gap is not None]
    pooled = results["one_target_matrix"]
    if len(pooled["languages"]) < 2 or not gaps:
        return
    document.heading("One target in the pool")
    document.paragraph(
        "The language pairs again, with candidates of all languages and the answer in one language: a model "
        "that prefers some language loses mAP here. On average "
        f"{plain(float(np.mean(gaps)))} lower than among candidates of one language."
    )
    document.matrix(
        language_matrix(
            "mAP among candidates of all languages, one target",
            pooled["languages"],
            pooled["metrics"]["map"],
            scale_of=results,
            high=largest_cell(results),
        )
    )


def add_groups(document: Document, results: dict[str, Any], change: Change | None) -> None:
    """Add mAP of seen and unseen languages, by family, kind of pair, script and language."""
    old = None if change is None else change.baseline
    document.heading("Families, scripts, languages")
    _add_group(document, results, old, "seen", "mAP of languages seen and not seen in training")
    _add_group(document, results, old, "family", "mAP by family")
    kinds = results["groups"]["crosslingual"]
    if kinds:
        before = old["groups"]["crosslingual"] if old else {}
        document.table(
            "Cross-lingual mAP by kind of pair (question to candidate)",
            ["kind", "pairs", "mAP"],
            [
                [
                    name.replace("_", " "),
                    str(row["num_pairs"]),
                    moved(before.get(name, {}).get("map"), row["map"]),
                ]
                for name, row in kinds.items()
            ],
        )
    with document.details("Scripts and single languages"):
        _add_group(document, results, old, "script", "mAP by script")
        document.table(
            "mAP by language",
            ["language", *_LANGUAGE_TITLES, "questions", "candidates", "family", "script", "seen"],
            list(_rows_by_language(results, old)),
        )


def _add_group(
    document: Document, results: dict[str, Any], old: dict[str, Any] | None, key: str, caption: str
) -> None:
    groups, before = results["groups"][key], old["groups"][key] if old else {}
    rows = [
        [name, *_language_cells(before.get(name), row), language_list(row["languages"])]
        for name, row in groups.items()
    ]
    if rows:
        document.table(caption, [key, *_LANGUAGE_TITLES, "languages"], rows)


def _rows_by_language(results: dict[str, Any], old: dict[str, Any] | None) -> Iterator[list[str]]:
    for code in languages_by_family(results["by_language"]):
        row = results["by_language"][code]
        yield [
            f"{code} {row['name']}",
            *_language_cells(old["by_language"].get(code) if old else None, row),
            *(f"{row[key]:,}" for key in ("num_questions", "num_candidates")),
            *(row[key] for key in ("family", "script")),
            {True: "yes", False: "no", None: "-"}[row["seen"]],
        ]


def _language_cells(old: dict[str, Any] | None, row: dict[str, Any]) -> list[str]:
    return [moved(old[name] if old else None, row[name], digits_of(name)) for name in LANGUAGE_MEASURES]

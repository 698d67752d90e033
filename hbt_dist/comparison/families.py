"""Compare the gains of two language families, also for languages that training never saw.

A language's gain is the mean over the cross-lingual cells that it takes part in, asking or answering (only
the role that varies, where one language alone asks or answers). The difference of two families is the
mean over the languages of one minus that of the other: a weighted mean of cells, paired question by question
and seed by seed. Three tests go with it: over questions and over seeds, for these languages, and over the
languages, by an exact permutation test. Only the last test makes a statement about families.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import comb
from typing import Any

import numpy as np

from hbt_dist.comparison.gains import PairedRows, group_gains, interval_of
from hbt_dist.comparison.significance import compare_seeds
from hbt_dist.comparison.typology import FAMILIES, group_contrast
from hbt_dist.data.language_facts import describe
from hbt_dist.evaluation.matrix_rows import Float64


@dataclass(frozen=True)
class FamilyDifference:
    """Gain of the second family's languages minus the first's."""

    languages: str  # "all" or "unseen"
    languages_a: tuple[str, ...]
    languages_b: tuple[str, ...]
    gain_a: float
    gain_b: float
    difference: float  # B - A
    questions: int
    fewest_questions: int  # of the cells that count more for one family, on the side with fewer
    low: float | None  # over questions; none where a side has few
    high: float | None
    seeds: dict[str, Any] | None  # `SeedTest`
    p_languages: float  # exact permutation of languages; NaN with one language of a family
    smallest_p: float  # lower bound for these numbers of languages
    verdict: str  # of the permutation


def claim_possible(first: int, second: int) -> bool:
    """Check whether these numbers of languages allow a claim about families, by the rule of `group_contrast`.

    A family needs two languages, and the smallest p of the permutation, 2 / C(n, k), must not exceed 0.05.
    """
    return min(first, second) > 1 and 2 / comb(first + second, second) <= 0.05


def family_pair(question: str, candidate: str) -> str | None:
    """Return a pair such as ``Indo-European -> Uralic``; None if a language is of another family."""
    question_family, candidate_family = describe(question).family, describe(candidate).family
    return (
        f"{question_family} -> {candidate_family}"
        if question_family in FAMILIES and candidate_family in FAMILIES
        else None
    )


def language_weights(
    cells: Sequence[tuple[str, str]], languages: Collection[str] | None = None
) -> dict[str, Float64]:
    """Return language -> (C,) weights of the cells that it takes part in; they sum to 1.

    Args:
        cells: (question language, candidate language), not equal.
        languages: only cells of two of these; default: all.
    """
    taken = [languages is None or (a in languages and b in languages) for a, b in cells]
    roles = [{cell[k] for cell, included in zip(cells, taken, strict=True) if included} for k in (0, 1)]
    varying = [k for k in (0, 1) if len(roles[k]) > 1] or [1]
    weights: dict[str, Float64] = {}
    for code in sorted({code for k in varying for code in roles[k]}):
        part = [
            float(included and any(cell[k] == code for k in varying))
            for cell, included in zip(cells, taken, strict=True)
        ]
        weights[code] = np.array(part) / sum(part)
    return weights


def family_differences(
    rows: PairedRows, seen: Mapping[str, bool | None], confidence: float = 0.95
) -> list[FamilyDifference]:
    """Return the difference over all languages, and over pairs of languages that training never saw.

    Args:
        rows: of the crosslingual setting.
        seen: whether a language was in the training data of either system.
    """
    unseen = {code for code, was in seen.items() if was is False}
    chosen: list[tuple[str, Collection[str] | None]] = [("all", None)]
    if unseen and len(unseen) < len(seen):
        chosen.append(("unseen", unseen))
    differences = []
    for name, languages in chosen:
        weights = language_weights(rows.cells, languages)
        means = rows.cell_means((rows.new - rows.old).mean(axis=0))
        gains = np.array([weight @ means for weight in weights.values()])
        contrast = group_contrast(gains, list(weights))
        if not contrast.languages_a or not contrast.languages_b:
            continue
        both = sum(weights[code] for code in contrast.languages_b) / len(contrast.languages_b) - sum(
            weights[code] for code in contrast.languages_a
        ) / len(contrast.languages_a)
        if np.allclose(both, 0.0):
            continue  # two languages: every cell is of both
        gain = rows.gain(np.asarray(both))
        differences.append(
            FamilyDifference(
                name,
                contrast.languages_a,
                contrast.languages_b,
                contrast.mean_a,
                contrast.mean_b,
                gain.gain,
                gain.num_units,
                gain.fewest_units,
                *interval_of(gain, confidence),
                seed_test(gain.per_seed, confidence),
                contrast.p_permutation,
                contrast.smallest_p,
                contrast.verdict,
            )
        )
    return differences


def seed_test(per_seed: Float64, confidence: float) -> dict[str, Any] | None:
    """Return the fields of `SeedTest`; None for a single seed."""
    return asdict(compare_seeds(per_seed.tolist(), confidence)) if len(per_seed) > 1 else None


def family_gains(rows: PairedRows, confidence: float = 0.95) -> list[dict[str, Any]]:
    """Return pair, the columns of `group_gains`, and seeds (`SeedTest`) of each pair of families."""
    gains = group_gains(rows, family_pair, confidence).rename(columns={"group": "pair"})
    records = [{str(key): value for key, value in row.items()} for row in gains.to_dict(orient="records")]
    for row in records:
        row["seeds"] = seed_test(row.pop("per_seed"), confidence)
    return records

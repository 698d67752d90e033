"""Measure distances between languages, and test whether a gain grows with them.

Distances come from small tables in data/; data/SOURCES.txt has their sources and licences:

    syntax      1 - cosine of the imputed syntactic vectors of URIEL (103 features)
    grambank    share of differing Grambank features among those known for both; a second opinion on syntax
    geography   great-circle distance, 1 = half the equator
    family      0 inside a top-level family, 1 across
    script      0 for one script, 1 for two

The cells of a pair matrix are dyadic: 11 languages are 11 observations, not 110. `permutation_test` permutes
languages (QAP) and is the test; `mixed_model` with crossed random intercepts gives the effect size. Whether
families differ is another question than whether distance matters (Finnish is nearer to English than Hindi by
syntax): `group_contrast`. Each says when there are too few languages for any claim.
"""

from __future__ import annotations

import csv
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from itertools import permutations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from hbt_dist.comparison.significance import holm
from hbt_dist.data.language_facts import UNKNOWN, describe
from hbt_dist.evaluation.matrix_rows import Float64, Int64

DISTANCES = ("syntax", "grambank", "geography", "family", "script")
FAMILIES = ("Indo-European", "Uralic")
MIN_SHARED_FEATURES = 50
MIN_LANGUAGES = 6  # fewer give at most 120 labellings; no p below 0.008, and no variance to estimate


@lru_cache
def _table(name: str) -> dict[str, Float64]:
    with (files("hbt_dist.comparison") / "data" / name).open(encoding="utf-8") as file:
        _, *rows = csv.reader(file)
    return {code: np.array([float(x) if x else np.nan for x in values]) for code, *values in rows}


def language_distances(languages: Sequence[str], source: str) -> Float64:
    """(L, L) distances, zero on the diagonal, NaN where a language isn't in the source.

    Raises:
        ValueError: no such source.
    """
    if source not in DISTANCES:
        raise ValueError(f"{source!r} is none of {DISTANCES}")
    size = len(languages)
    result = np.zeros((size, size))
    for i in range(size):
        for j in range(i + 1, size):
            result[i, j] = result[j, i] = _distance(languages[i], languages[j], source)
    return result


def _distance(a: str, b: str, source: str) -> float:
    language_a, language_b = describe(a), describe(b)
    if source in ("family", "script"):
        x, y = getattr(language_a, source), getattr(language_b, source)
        return math.nan if UNKNOWN in (x, y) else float(x != y)
    names = {"syntax": "uriel_syntax_knn.csv", "grambank": "grambank.csv", "geography": "coordinates.csv"}
    table = _table(names[source])
    if language_a.iso639_3 not in table or language_b.iso639_3 not in table:
        return math.nan
    x, y = table[language_a.iso639_3], table[language_b.iso639_3]
    if source == "syntax":
        return float(1.0 - x @ y / math.sqrt((x @ x) * (y @ y)))
    if source == "geography":
        return _great_circle(*np.radians([*x, *y]).tolist()) / math.pi
    shared = ~np.isnan(x) & ~np.isnan(y)
    return float(np.mean(x[shared] != y[shared])) if shared.sum() >= MIN_SHARED_FEATURES else math.nan


def _great_circle(lat1: float, lon1: float, lat2: float, lon2: float) -> float:
    """Return the angle between two points in radians (haversine)."""
    h = math.sin((lat2 - lat1) / 2) ** 2
    h += math.cos(lat1) * math.cos(lat2) * math.sin((lon2 - lon1) / 2) ** 2
    return 2 * math.asin(min(1.0, math.sqrt(h)))


@dataclass(frozen=True)
class DistanceEffect:
    """How a gain changes with a distance. `slope` is the gain per unit of distance."""

    source: str
    languages: tuple[str, ...]
    num_pairs: int
    slope: float = math.nan  # with the means of both languages taken out
    correlation: float = math.nan
    p_permutation: float = math.nan  # two-sided; NaN where there are too few languages
    num_permutations: int = 0
    mixed_slope: float = math.nan  # crossed random intercepts for question and candidate language
    mixed_low: float = math.nan
    mixed_high: float = math.nan
    p_holm: float = math.nan  # corrected for the distances that are tried together
    verdict: str = ""  # by p_holm


def distance_effect(
    gain: Float64,
    languages: Sequence[str],
    source: str,
    *,
    num_permutations: int = 999,
    seed: int = 0,
    mixed: bool = True,
) -> DistanceEffect:
    """Test whether the gain of cross-lingual cells grows with the distance of their languages.

    Args:
        gain: (L, L), rows question languages; the diagonal is not used, NaN cells are left out.
        languages: L codes; those without the distance are left out.
        source: one of DISTANCES.
        mixed: fit the mixed model too; its slope and interval are NaN otherwise.

    Returns:
        all figures NaN, and a verdict that says why, where nothing can be tested: no cross-lingual cell has a
        gain (each question is answered in its own language alone), too few languages, no spread of distances.
    """
    pairs = ~np.eye(len(languages), dtype=bool) & ~np.isnan(gain)
    distance = language_distances(languages, source)
    keep = np.flatnonzero(~np.all(np.isnan(distance) | np.eye(len(languages), dtype=bool), axis=1))
    gain, distance = gain[np.ix_(keep, keep)], distance[np.ix_(keep, keep)]
    names = tuple(languages[i] for i in keep.tolist())
    mask = ~np.eye(len(keep), dtype=bool) & ~np.isnan(gain) & ~np.isnan(distance)
    verdict = ""
    if not pairs.any():
        verdict = "no question has a relevant candidate in another language"
    elif len(keep) < MIN_LANGUAGES:
        verdict = f"too few languages for a claim: {len(keep)}, at least {MIN_LANGUAGES} are needed"
    elif not mask.any():
        verdict = "no two languages that have the distance have a cross-lingual figure"
    elif np.ptp(_effect_remover(mask) @ distance[mask]) < 1e-9:
        verdict = "the distance does not vary among these languages beyond each language's own mean"
    effect = DistanceEffect(source, names, int(mask.sum()), verdict=verdict)
    if verdict:
        return effect
    slope, correlation, p, count = permutation_test(gain, distance, num_permutations, seed)
    mixed_slope, low, high = mixed_model(gain, distance) if mixed else (math.nan,) * 3
    effect = replace(
        effect,
        slope=slope,
        correlation=correlation,
        p_permutation=p,
        num_permutations=count,
        mixed_slope=mixed_slope,
        mixed_low=low,
        mixed_high=high,
        p_holm=p,
    )
    return replace(effect, verdict=_verdict(effect))


def distance_effects(
    gain: Float64, languages: Sequence[str], sources: Sequence[str] = DISTANCES, *, mixed: bool = True
) -> list[DistanceEffect]:
    """`distance_effect` of several distances, with Holm's correction for all of them in the verdicts."""
    effects = [distance_effect(gain, languages, source, mixed=mixed) for source in sources]
    tested = [i for i, effect in enumerate(effects) if not math.isnan(effect.p_permutation)]
    for i, p in zip(tested, holm([effects[i].p_permutation for i in tested]), strict=True):
        corrected = replace(effects[i], p_holm=p)
        effects[i] = replace(corrected, verdict=_verdict(corrected))
    return effects


def _verdict(effect: DistanceEffect) -> str:
    figures = f"(p = {effect.p_holm:.3f}, {len(effect.languages)} languages)"
    if effect.p_holm >= 0.05:
        return f"no evidence that gain depends on distance {figures}"
    return f"gain {'grows' if effect.slope > 0 else 'shrinks'} with distance {figures}"


def permutation_test(
    gain: Float64, distance: Float64, num_permutations: int = 999, seed: int = 0
) -> tuple[float, float, float, int]:
    """QAP test: languages are relabelled jointly in rows and columns of the distance matrix.

    Row and column means are taken out of both matrices first, so that easy and hard languages do not pass for
    near and far ones. Up to `num_permutations` relabellings, all are tried.

    Returns:
        slope and correlation of the residuals, two-sided p, number of relabellings tried.
    """
    mask = ~np.eye(len(gain), dtype=bool) & ~np.isnan(gain) & ~np.isnan(distance)
    remover = _effect_remover(mask)
    y = remover @ gain[mask]

    def statistic(order: Int64) -> tuple[float, float]:
        moved = distance[np.ix_(order, order)][mask]
        known = ~np.isnan(moved)
        part = mask.copy()
        part[mask] = known
        a = remover @ moved if known.all() else _effect_remover(part) @ moved[known]
        b = y[known]
        scale = math.sqrt(float(a @ a) * float(b @ b))
        return float(a @ b / (a @ a)) if a @ a > 0 else 0.0, float(a @ b) / scale if scale > 0 else 0.0

    size = len(gain)
    slope, seen = statistic(np.arange(size))
    if math.factorial(size) - 1 <= num_permutations:
        orders = [np.array(order) for order in permutations(range(size))][1:]
    else:
        rng = np.random.default_rng(seed)
        orders = [rng.permutation(size) for _ in range(num_permutations)]
    beyond = sum(abs(statistic(order)[1]) >= abs(seen) - 1e-12 for order in orders)
    return slope, seen, (beyond + 1) / (len(orders) + 1), len(orders)


def _effect_remover(mask: NDArray[np.bool_]) -> Float64:
    """(n, n) projection of the n cells of `mask` that takes additive row and column effects out."""
    size = len(mask)
    rows, columns = np.nonzero(mask)
    design = np.zeros((len(rows), 2 * size))
    design[np.arange(len(rows)), rows] = 1.0
    design[np.arange(len(rows)), size + columns] = 1.0
    return np.asarray(np.eye(len(rows)) - design @ np.linalg.pinv(design))


def mixed_model(gain: Float64, distance: Float64) -> tuple[float, float, float]:
    """Slope of gain on distance with crossed random intercepts for both languages, and its 95 % interval.

    NaN where the model cannot be fitted.
    """
    import pandas as pd
    import statsmodels.formula.api as smf

    mask = ~np.eye(len(gain), dtype=bool) & ~np.isnan(gain) & ~np.isnan(distance)
    rows, columns = np.nonzero(mask)
    frame = pd.DataFrame(
        {"gain": gain[mask], "distance": distance[mask], "asking": rows, "answering": columns, "one": 1}
    )
    parts = {"asking": "0 + C(asking)", "answering": "0 + C(answering)"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = smf.mixedlm("gain ~ distance", frame, groups="one", vc_formula=parts).fit()
            low, high = fit.conf_int().loc["distance"].tolist()
        return float(fit.params["distance"]), float(low), float(high)
    except (np.linalg.LinAlgError, ValueError):
        return math.nan, math.nan, math.nan


@dataclass(frozen=True)
class GroupContrast:
    """Mean gain of one family's languages against another's."""

    languages_a: tuple[str, ...]
    languages_b: tuple[str, ...]
    mean_a: float = math.nan
    mean_b: float = math.nan
    difference: float = math.nan  # B - A
    p_permutation: float = math.nan  # exact, two-sided, languages exchanged between the groups
    smallest_p: float = math.nan  # what the numbers of languages allow at best
    verdict: str = ""


def group_contrast(
    gain_by_language: Float64, languages: Sequence[str], groups: tuple[str, str] = FAMILIES
) -> GroupContrast:
    """Test whether the languages of two families gain differently: an exact permutation test.

    Two-sided p is twice the smaller tail (scipy's), so with perfect separation it is 2 over the number of
    ways to form the groups, for groups of any size.

    Args:
        gain_by_language: (L,) such as the mean gain of a language's cross-lingual cells; NaN is left out.
        languages: L codes.
    """
    family = np.array([describe(code).family for code in languages])
    known = ~np.isnan(gain_by_language)
    in_a, in_b = (np.flatnonzero((family == group) & known) for group in groups)
    names_a, names_b = (tuple(languages[i] for i in group.tolist()) for group in (in_a, in_b))
    a, b = gain_by_language[in_a], gain_by_language[in_b]
    if not len(a) or not len(b):
        absent = groups[0] if not len(a) else groups[1]
        return GroupContrast(names_a, names_b, verdict=f"no language of {absent} here")
    smallest = min(1.0, 2.0 / math.comb(len(a) + len(b), len(b)))
    p = math.nan
    if min(len(a), len(b)) > 1:
        test = stats.permutation_test(
            (b, a),
            lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis),
            vectorized=True,
            n_resamples=9999,
            rng=np.random.default_rng(0),
        )
        p = float(test.pvalue)
    if smallest > 0.05 or min(len(a), len(b)) < 2:
        verdict = (
            f"too few languages for a claim: {len(a)} against {len(b)} (p cannot fall below {smallest:.3f})"
        )
    else:
        verdict = ("a difference" if p < 0.05 else "no evidence of a difference") + f" (p = {p:.3f})"
    return GroupContrast(
        names_a,
        names_b,
        float(a.mean()),
        float(b.mean()),
        float(b.mean() - a.mean()),
        p,
        smallest,
        verdict,
    )

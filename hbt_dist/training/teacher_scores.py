"""Compare the scores of a teacher with the temperature of `loss.distillation`, before a run starts.

The target of a row is softmax(scores / temperature). Its entropy, relative to that of equal scores, shows a
temperature on a different scale than the scores: near 1 the target says nothing, near 0 it is one-hot and
says what InfoNCE says. Costs well under a second: at most 10,000 examples are read.

Letters: S sampled examples, M candidates of the longest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.term_settings import DistillationSettings
from hbt_dist.data.corpus.corpus import Corpus

_SAMPLED = 10_000
_MOST_CANDIDATES = 64
_FLAT, _PEAKED, _SUGGESTED = 0.95, 0.02, 0.5  # relative entropies

Floats = NDArray[np.float64]


def describe_scores(settings: DistillationSettings | None, corpus: Corpus) -> list[str]:
    """Return one line if examples lack scores, and one if the temperature does not fit the scores.

    Raises:
        UserError: distillation is on, and no example has two scored candidates.
    """
    if settings is None:
        return []
    scores_SM = _sampled_scores(corpus)
    rows_SM = scores_SM[np.isfinite(scores_SM).sum(axis=1) > 1]
    if not len(rows_SM):
        raise _no_scores(corpus)
    lines = []
    if len(rows_SM) < len(scores_SM):
        share = 1 - len(rows_SM) / len(scores_SM)
        lines.append(f"loss.distillation: {share:.1%} of the examples lack two scores and teach InfoNCE only")
    entropy = relative_entropy(rows_SM, settings.temperature)
    if not _PEAKED <= entropy <= _FLAT:
        target = "nearly flat" if entropy > _FLAT else "nearly one-hot"
        lines.append(
            f"loss.distillation.temperature {settings.temperature:g}: the targets are {target}, with "
            f"{entropy:.1%} of the entropy of equal scores; {_advice(rows_SM)}"
        )
    return lines


def relative_entropy(scores_SM: Floats, temperature: float) -> float:
    """Return the mean entropy of the rows' softmax, relative to that of equal scores; NaN: no candidate."""
    used_SM = np.isfinite(scores_SM)
    below_SM = np.where(used_SM, scores_SM - np.nanmax(scores_SM, axis=1, keepdims=True), 0.0) / temperature
    mass_SM = np.where(used_SM, np.exp(below_SM), 0.0)
    total_S1 = mass_SM.sum(axis=1, keepdims=True)
    entropy_S = np.log(total_S1[:, 0]) - (mass_SM * below_SM).sum(axis=1) / total_S1[:, 0]
    return float((entropy_S / np.log(used_SM.sum(axis=1))).mean())


def _advice(scores_SM: Floats) -> str:
    """Suggest the temperature with half of the entropy of equal scores, found by bisection."""
    if np.nanmax(np.nanmax(scores_SM, axis=1) - np.nanmin(scores_SM, axis=1)) == 0:
        return "every candidate of a question has the same score: check the teacher"
    low, high = -9.0, 9.0  # decimal logarithms
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if relative_entropy(scores_SM, 10**middle) < _SUGGESTED else (low, middle)
    return f"try a temperature of about {10**high:.2g}"


def _sampled_scores(corpus: Corpus) -> Floats:
    """Return the scores of the candidates of evenly spaced examples (S, M), NaN where there is none."""
    chosen = np.unique(np.linspace(0, corpus.num_examples - 1, _SAMPLED).astype(np.int64))
    first, last = np.asarray(corpus.negative_offsets[chosen]), np.asarray(corpus.negative_offsets[chosen + 1])
    most = min(int((last - first).max()), _MOST_CANDIDATES)
    scores_SM = np.full((len(chosen), 1 + most), np.nan)
    if corpus.example_score is not None:
        scores_SM[:, 0] = corpus.example_score[chosen]
    if corpus.negative_score is not None:
        number = first[:, None] + np.arange(most)
        exists = number < last[:, None]
        scores_SM[:, 1:][exists] = corpus.negative_score[number[exists]]
    return scores_SM


def _no_scores(corpus: Corpus) -> UserError:
    remedy = "add scores to the passages and hard negatives (docs/data.md), or remove loss.distillation"
    if "optional_columns" not in corpus.manifest:
        remedy += f"\nan older version converted these data without scores: delete {corpus.folder}"
    return UserError(
        "loss.distillation",
        "expected a teacher's scores of passages and hard negatives, got no example with two scores",
        remedy,
    )

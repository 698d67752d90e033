"""Select negatives from lists of candidates: margins, scores, ranks, then the best or a random choice.

Each share of languages has one list per example: its best W candidates, each passage in its best language.
The lists choose in the order passage, question, other; a passage that a list has chosen is not chosen again.
Inside a list the order is that of sentence-transformers: margins, then the range of scores, then `rank_min`
of the candidates that remain; `rank_max` is W.

Pure functions of arrays; random choices depend on the seed, the example and the candidate alone.

Letters: n examples of a block, W length of the lists, c negatives per example, L languages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import derive_key, hash64, uniform
from hbt_dist.evaluation.matrix_rows import Float32, Int64
from hbt_dist.mining.search import Bools, Keys, Pool, best_first
from hbt_dist.mining.settings import MiningSettings, Share

_LAST = np.uint64(2**64 - 1)
#: Counts by language of the candidate. group: of the example's group, among the best W of a language.
BY_LANGUAGE = ("negatives", "group", "margin", "score", "rank")
#: Counts by share of languages: negatives that the settings ask for, that are absent, that `relax` gave.
BY_SHARE = ("requested", "unfilled", "relaxed")


@dataclass
class Counts:
    """What was selected and left out; a candidate counts once in every list that has it.

    Attributes:
        examples: number of them.
        fewer: examples with fewer negatives than `count`.
        without: examples without any.
        excluded: those of them whose lists have candidates: all were left out.
        languages: name of `BY_LANGUAGE` -> (L,).
        shares: share -> name of `BY_SHARE` -> number.
    """

    examples: int = 0
    fewer: int = 0
    without: int = 0
    excluded: int = 0
    languages: dict[str, Int64] = field(default_factory=dict)
    shares: dict[str, dict[str, int]] = field(default_factory=dict)

    @classmethod
    def empty(cls, num_languages: int, settings: MiningSettings) -> Counts:
        """Return counts of no example."""
        return cls(
            languages={name: np.zeros(num_languages, np.int64) for name in BY_LANGUAGE},
            shares={share: dict.fromkeys(BY_SHARE, 0) for share in settings.shares()},
        )

    def to_json(self, languages: tuple[str, ...]) -> dict[str, Any]:
        """Return plain data, with the codes of the languages."""
        return {
            "examples": self.examples,
            "examples_with_fewer": self.fewer,
            "examples_without": self.without,
            "examples_all_excluded": self.excluded,
            "languages": {
                code: {name: int(values[index]) for name, values in self.languages.items()}
                for index, code in enumerate(languages)
            },
            "shares": {share: dict(counts) for share, counts in self.shares.items()},
        }


def add_counts(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sum of counts in plain data."""
    first = blocks[0]
    return {
        key: add_counts([block[key] for block in blocks])
        if isinstance(value, dict)
        else sum(block[key] for block in blocks)
        for key, value in first.items()
    }


def quotas(settings: MiningSettings, seed: int, examples: Int64) -> dict[Share, Int64]:
    """Return the number of negatives of each share for each example (n,); over the shares they sum to count.

    A remainder rotates: each number is rounded up or down, and is right on average.
    """
    offset = uniform(derive_key("mining shares", seed), examples)
    edges = np.round(settings.count * np.cumsum([0.0, *settings.shares().values()]), 6)
    edges[-1] = settings.count
    lower = [np.floor(edge + offset).astype(np.int64) for edge in edges.tolist()]
    return {share: lower[i + 1] - lower[i] for i, share in enumerate(settings.shares())}


def select(
    settings: MiningSettings,
    seed: int,
    pool: Pool,
    examples: Int64,
    lists: Mapping[Share, Keys],
    positive: Float32,
    counts: Counts,
) -> Keys:
    """Return the keys of the negatives, (n, c), best first, 0 behind the last.

    Args:
        examples: (n,) examples of the corpus.
        lists: share -> (n, W) keys, best first, without the examples' groups.
        positive: (n, L) score of the positive that a candidate in a language is compared with.
        counts: receives what is selected and left out.
    """
    taken = np.full((len(examples), 0), -1, np.int64)
    chosen: list[Keys] = []
    for share, quota in quotas(settings, seed, examples).items():
        keys = lists[share]
        passages, languages = pool.passages(keys)
        eligible = _eligible(settings, pool.decode(keys)[0], keys > 0, languages, positive, counts)
        free = (keys > 0) & ~_is_among(passages, taken)
        order = None if settings.sampling == "top" else _priority(seed, examples, pool.decode(keys)[1])
        picked = _first(eligible & free, quota, order)
        of_share = counts.shares[share]
        if settings.fill == "relax":
            more = _first(free & ~picked, quota - picked.sum(axis=1))
            of_share["relaxed"] += int(more.sum())
            picked |= more
        of_share["requested"] += int(quota.sum())
        of_share["unfilled"] += int(quota.sum() - picked.sum())
        _add_by_language(counts, "negatives", languages, picked)
        taken = np.concatenate([taken, np.where(picked, passages, -1)], axis=1)
        taken = -np.sort(-taken, axis=1)[:, : settings.count]
        chosen.append(np.where(picked, keys, np.uint64(0)))
    selected = best_first(np.concatenate(chosen, axis=1))[:, : settings.count]
    number = (selected > 0).sum(axis=1)
    has_candidates = np.any([keys[:, 0] > 0 for keys in lists.values()], axis=0)
    counts.examples += len(examples)
    counts.fewer += int((number < settings.count).sum())
    counts.without += int((number == 0).sum())
    counts.excluded += int(((number == 0) & has_candidates).sum())
    return selected


def _eligible(
    settings: MiningSettings,
    score: Float32,
    exists: Bools,
    language: Int64,
    positive: Float32,
    counts: Counts,
) -> Bools:
    """Return which candidates margins, range of scores and `rank_min` leave; count the rest."""
    reference = np.take_along_axis(positive, np.maximum(language, 0), 1)
    near = np.zeros(score.shape, np.bool_)
    if settings.margin is not None:
        near |= score + np.float32(settings.margin) > reference
    if settings.relative_margin is not None:
        near |= score > reference - np.abs(reference) * np.float32(settings.relative_margin)
    outside = np.zeros(score.shape, np.bool_)
    if settings.max_score is not None:
        outside |= score > np.float32(settings.max_score)
    if settings.min_score is not None:
        outside |= score < np.float32(settings.min_score)
    left = exists & ~near & ~outside
    skipped = left & (np.cumsum(left, axis=1) <= settings.rank_min)
    for name, mask in (("margin", exists & near), ("score", exists & ~near & outside), ("rank", skipped)):
        _add_by_language(counts, name, language, mask)
    return left & ~skipped


def _add_by_language(counts: Counts, name: str, language: NDArray[np.integer], mask: Bools) -> None:
    counts.languages[name] += np.bincount(language[mask], minlength=len(counts.languages[name]))


def _is_among(passages: Int64, taken: Int64) -> Bools:
    among = np.zeros(passages.shape, np.bool_)
    for column in taken.T:
        among |= passages == column[:, None]
    return among


def _priority(seed: int, examples: Int64, candidates: Int64) -> NDArray[np.uint64]:
    """Return a random number for each candidate of each example: (n, W)."""
    keys = hash64(derive_key("mined negatives", seed), examples)
    return hash64(keys[:, None], candidates)


def _first(eligible: Bools, quota: Int64, order: NDArray[np.uint64] | None = None) -> Bools:
    """Return the first eligible candidates of each example, `quota` of them; in the order of the numbers."""
    if order is None:
        return eligible & (np.cumsum(eligible, axis=1) <= quota[:, None])
    by_number = np.argsort(np.where(eligible, order, _LAST), axis=1, kind="stable")
    picked = np.zeros(eligible.shape, np.bool_)
    np.put_along_axis(picked, by_number, np.arange(eligible.shape[1]) < quota[:, None], 1)
    return picked & eligible

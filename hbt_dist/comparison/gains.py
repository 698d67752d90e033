"""Compute gains over cells of languages, for tests, groups of pairs and differences of groups.

A figure of an evaluation is a mean over cells (pairs of languages, or question languages in the pool), each
the mean of its questions. The *gain* is the same mean of the differences of two systems, with any weights of
the cells. Its chance variation comes from the units, question ids or paragraphs. A weighted mean of means is
a ratio: a unit's share is linearised (Taylor), and a bootstrap of the shares is that of the gain.

Shapes: n rows that both systems have, S seeds, C cells, U units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hbt_dist.comparison.significance import mean_interval
from hbt_dist.evaluation.matrix_rows import Float64, Int64
from hbt_dist.evaluation.read_results import KEY, StoredEvaluation

#: Fewer question ids give no interval: the bootstrap is too narrow. In a difference of groups each side needs
#: them: 400 units against 10 are as uncertain as the 10.
MIN_UNITS = 30


@dataclass(frozen=True)
class Gain:
    """A weighted mean of cell gains."""

    old: float
    new: float
    gain: float  # new - old, mean over the seeds
    per_seed: Float64  # (S,) one value where the systems are not paired by seed
    num_units: int
    fewest_units: int  # of the cells with positive or of those with negative weights: the smaller number
    shares: Float64  # (num_units,) mean `gain`; their spread is that of the gain over units
    flipped: Float64  # (num_units,) mean `gain`; without a difference, either sign is as likely


@dataclass(frozen=True)
class PairedRows:
    """The rows of a setting that two systems have, as values by seed."""

    cells: tuple[tuple[str, str], ...]  # C (question language, candidate language)
    cell: Int64  # (n,)
    unit: Int64  # (n,)
    old: Float64  # (S, n)
    new: Float64  # (S, n)

    @classmethod
    def join(
        cls,
        old: Sequence[StoredEvaluation],
        new: Sequence[StoredEvaluation],
        setting: str,
        metric: str,
        cluster: str = "question",
    ) -> PairedRows:
        """Join two systems on question id and languages.

        Args:
            old, new: evaluations, seed by seed. One against several compares the means over the seeds.
            setting: monolingual, crosslingual, multilingual, or pair for the first two together.
            cluster: "question" or "paragraph": what a unit is.
        """
        if len(old) != len(new):
            frames = [_seed_means(group, setting, metric) for group in (old, new)]
        else:
            frames = [evaluation.values(setting, metric) for evaluation in (*old, *new)]
        if not all(_same_rows(frames[0], frame) for frame in frames[1:]):
            common = pd.MultiIndex.from_frame(frames[0][KEY])
            for frame in frames[1:]:
                common = common.intersection(pd.MultiIndex.from_frame(frame[KEY]), sort=False)
            frames = [frame.set_index(KEY).loc[common].reset_index() for frame in frames]
        first, seeds = frames[0], len(frames) // 2
        values = np.stack([frame["value"].to_numpy(np.float64) for frame in frames])
        pairs = pd.MultiIndex.from_frame(first[["question_language", "candidate_language"]])
        cell, names = pairs.factorize()
        unit, _ = pd.factorize(first["question_id" if cluster == "question" else "question_cluster"])
        return cls(
            tuple(
                (str(question_language), str(candidate_language))
                for question_language, candidate_language in names
            ),
            cell.astype(np.int64),
            unit.astype(np.int64),
            values[:seeds],
            values[seeds:],
        )

    def cell_means(self, values: Float64) -> Float64:
        """(C,) means of (n,) values."""
        return np.asarray(np.bincount(self.cell, values) / np.bincount(self.cell))

    def even(self) -> Float64:
        """(C,) the weights of the mean over all cells."""
        return np.full(len(self.cells), 1.0 / len(self.cells))

    def gain(self, weights: Float64) -> Gain:
        """The gain with (C,) weights of the cells; those of weight 0 take no part.

        In cells of few units the deviations from the cell's mean are too small by (m - 1) / m, m units, which
        is made good; a cell of one unit is set against the whole gain.
        """
        taken = np.flatnonzero(weights[self.cell])
        cell = self.cell[taken]
        labels, unit = np.unique(self.unit[taken], return_inverse=True)
        num_units = len(labels)
        rows = np.bincount(cell, minlength=len(weights))
        old, new = (
            np.array([weights[rows > 0] @ self.cell_means(values)[rows > 0] for values in side])
            for side in (self.old, self.new)
        )
        difference = (self.new - self.old).mean(axis=0)[taken]
        mean = np.bincount(cell, difference, minlength=len(weights)) / np.maximum(rows, 1)
        gain = float(weights @ mean)
        both = np.unique(cell * num_units + unit) // num_units
        units = np.bincount(both, minlength=len(weights))
        scale = np.sqrt(units / np.maximum(units - 1, 1))
        share = num_units * weights / np.maximum(rows, 1)
        centre = np.where(units > 1, mean, gain)
        shares = np.bincount(unit, share[cell] * scale[cell] * (difference - centre[cell]))
        added = weights[cell] > 0
        sides = [len(np.unique(unit[side])) for side in (added, ~added) if side.any()]
        return Gain(
            float(old.mean()),
            float(new.mean()),
            gain,
            np.asarray(new - old),
            num_units,
            min(sides, default=0),
            shares - shares.mean() + gain,
            np.asarray(np.bincount(unit, share[cell] * difference), np.float64),
        )


def _same_rows(a: pd.DataFrame, b: pd.DataFrame) -> bool:
    return len(a) == len(b) and all(bool((a[key] == b[key]).all()) for key in KEY)


def _seed_means(group: Sequence[StoredEvaluation], setting: str, metric: str) -> pd.DataFrame:
    frames = [evaluation.values(setting, metric) for evaluation in group]
    if len(frames) == 1:
        return frames[0]
    keys = [*KEY, "question_cluster"]
    return pd.concat(frames).groupby(keys, sort=False)["value"].mean().reset_index()


def interval_of(gain: Gain, confidence: float = 0.95) -> tuple[float | None, float | None]:
    """Return the bootstrap interval over units; None where a side has fewer than `MIN_UNITS`."""
    return (None, None) if gain.fewest_units < MIN_UNITS else mean_interval(gain.shares, confidence)


def group_gains(
    rows: PairedRows, group: Callable[[str, str], str | None], confidence: float = 0.95
) -> pd.DataFrame:
    """Return the gain of each group of language pairs; every pair counts the same.

    Args:
        rows: of the crosslingual setting.
        group: name of the group of a (question language, candidate language), None to leave it out.

    Returns:
        rows: group, cells, questions, baseline, gain, low, high (NaN under `MIN_UNITS` questions), per_seed.
    """
    names = [group(*cell) for cell in rows.cells]
    groups = []
    for name in sorted({name for name in names if name is not None}):
        chosen = np.array([label == name for label in names], np.float64)
        gain = rows.gain(chosen / chosen.sum())
        low, high = interval_of(gain, confidence)
        groups.append(
            {
                "group": name,
                "cells": int(chosen.sum()),
                "questions": gain.num_units,
                "baseline": gain.old,
                "gain": gain.gain,
                "low": np.nan if low is None else low,
                "high": np.nan if high is None else high,
                "per_seed": gain.per_seed,
            }
        )
    return pd.DataFrame(groups)

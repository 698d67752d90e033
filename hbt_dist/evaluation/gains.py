"""Gains of groups of language pairs, such as those of one family, with an interval over question ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from hbt_dist.evaluation.compare import KEY, StoredEvaluation

_RESAMPLES = 2000


def group_gains(
    baseline: Sequence[StoredEvaluation],
    system: Sequence[StoredEvaluation],
    group: Callable[[str, str], str | None],
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Cross-lingual mAP gain of each group of language pairs.

    Per question id the mean gain over the group's cells, averaged over the seeds; the interval is a bootstrap
    over question ids.

    Args:
        baseline: evaluations, one per seed.
        system: the same, seed by seed.
        group: name of the group of a (question language, candidate language), None to leave it out.

    Returns:
        rows: group, cells, questions, baseline, gain, low, high, per_seed (gain of each seed).
    """
    frames = []
    for number, (old, new) in enumerate(zip(baseline, system, strict=False)):
        values = []
        for one in (old, new):
            frame = one.values("crosslingual", "map").drop(columns="question_cluster")
            values.append(frame.astype(dict.fromkeys(KEY, str)))
        frames.append(values[0].merge(values[1], on=KEY, suffixes=("_old", "_new")).assign(seed=number))
    if not frames:
        return pd.DataFrame()
    rows = pd.concat(frames, ignore_index=True)
    languages = rows[["question_language", "candidate_language"]].drop_duplicates()
    names = {pair: group(*pair) for pair in languages.itertuples(index=False, name=None)}
    keys = zip(rows["question_language"], rows["candidate_language"], strict=True)
    rows["group"] = [names[key] for key in keys]
    rows["gain"] = rows["value_new"] - rows["value_old"]
    found = []
    for name, part in rows.dropna(subset="group").groupby("group", sort=True):
        per_question = part.groupby("question_id")["gain"].mean().to_numpy()
        rng = np.random.default_rng(0)
        draws = rng.integers(0, len(per_question), (_RESAMPLES, len(per_question)))
        means = per_question[draws].mean(axis=1)
        low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
        found.append(
            {
                "group": name,
                "cells": int(part.groupby(["question_language", "candidate_language"]).ngroups),
                "questions": len(per_question),
                "baseline": float(part["value_old"].mean()),
                "gain": float(part["gain"].mean()),
                "low": float(low),
                "high": float(high),
                "per_seed": part.groupby("seed")["gain"].mean().to_numpy(),
            }
        )
    return pd.DataFrame(found)

"""The arithmetic of a study's report against independent ways to the same numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.power import TTestPower

from hbt_dist.study import tables
from hbt_dist.study.tables import family_gains, family_pair, seeds_needed


@pytest.mark.parametrize(("gain", "spread"), [(0.05, 0.02), (0.01, 0.02), (-0.03, 0.05), (0.2, 0.01)])
def test_seeds_needed_has_the_power_it_promises(gain: float, spread: float) -> None:
    count = int(seeds_needed(gain, spread))
    power = TTestPower()
    if count > 2:
        assert power.power(abs(gain) / spread, count, 0.05) >= 0.799
        assert power.power(abs(gain) / spread, count - 1, 0.05) <= 0.801
    else:
        assert abs(gain) / spread > 10


def test_seeds_needed_where_there_is_no_answer() -> None:
    assert math.isnan(seeds_needed(0.0, 0.1))
    assert math.isnan(seeds_needed(0.1, math.nan))
    assert math.isnan(seeds_needed(1e-6, 1.0))


def test_families_of_pairs() -> None:
    assert family_pair("en", "fi") == "Indo-European -> Uralic"
    assert family_pair("hu", "et") == "Uralic -> Uralic"
    assert family_pair("en", "zh") is None


def test_family_gains_against_plain_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    languages = ["en", "de", "fi", "hu", "zh"]
    frames: dict[str, pd.DataFrame] = {}
    for system in ("old", "new"):
        for seed in range(3):
            rows = [
                (f"q{n}", a, b, n, rng.random() + (0.3 if system == "new" and b == "fi" else 0.0))
                for n in range(12)
                for a in languages
                for b in languages
                if a != b
            ]
            columns = ["question_id", "question_language", "candidate_language", "question_cluster", "value"]
            frames[f"{system}{seed}"] = pd.DataFrame(rows, columns=columns)

    class Stored:
        def __init__(self, place: Path) -> None:
            self.place = place

        def values(self, setting: str, metric: str) -> pd.DataFrame:
            assert (setting, metric) == ("crosslingual", "map")
            return frames[str(self.place)].copy()

    monkeypatch.setattr(tables, "read_evaluation", Stored)
    old, new = ([Path(f"{system}{seed}") for seed in range(3)] for system in ("old", "new"))
    found = family_gains(old, new).set_index("pair")
    assert list(found.index) == [f"{a} -> {b}" for a in tables.FAMILIES for b in tables.FAMILIES]
    for pair, row in found.iterrows():
        gains: dict[int, list[float]] = {}
        for seed in range(3):
            for before, after in zip(
                frames[f"old{seed}"].itertuples(), frames[f"new{seed}"].itertuples(), strict=True
            ):
                if family_pair(str(before.question_language), str(before.candidate_language)) == pair:
                    gains.setdefault(seed, []).append(float(after.value) - float(before.value))
        means = [float(np.mean(gains[seed])) for seed in range(3)]
        assert row["gain"] == pytest.approx(np.mean(means))
        assert row["seed_sd"] == pytest.approx(np.std(means, ddof=1))
        assert row["low"] < row["gain"] < row["high"]
        assert row["questions"] == 12
    assert found.loc["Indo-European -> Uralic", "gain"] > 0.05
    assert found.loc["Indo-European -> Uralic", "cells"] == 4

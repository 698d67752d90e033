"""Gains over cells against plain loops and against resampling the questions themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hbt_dist.comparison.gains import MIN_UNITS, PairedRows, group_gains, interval_of
from hbt_dist.evaluation.read_results import StoredEvaluation
from hbt_dist.reports.evaluation.figures import gains_finding

LANGUAGES = ("en", "de", "fi", "hu")


def stored(rows: pd.DataFrame) -> StoredEvaluation:
    return StoredEvaluation(Path("made"), {"benchmark": {"languages": list(LANGUAGES)}}, rows)


def like_mlqa(num_ids: int = 300, seed: int = 0, *, shift: float = 0.0) -> pd.DataFrame:
    """Questions in two to four languages; those in all four are easier, and gain more."""
    rng = np.random.default_rng(seed)
    rows: list[tuple[Any, ...]] = []
    for n in range(num_ids):
        versions = LANGUAGES if n % 6 == 0 else tuple(rng.choice(LANGUAGES, 2, replace=False))
        effect = rng.normal(0.3, 0.1)
        for a in versions:
            for b in versions:
                value = effect + rng.normal(0, 0.1) + shift * (len(versions) == 4)
                rows.append((f"q{n}", a, b, n // 5, value))
    columns = [
        "question_id",
        "question_language",
        "candidate_language",
        "question_cluster",
        "map",
    ]
    return pd.DataFrame(rows, columns=columns).assign(setting="pair")


def changed(rows: pd.DataFrame, by: float, seed: int) -> pd.DataFrame:
    """Later rows of an evaluation; the gain is that of questions in four languages."""
    rng = np.random.default_rng(seed)
    many = rows.groupby("question_id")["map"].transform("size") > 4
    return rows.assign(map=rows["map"] + by * many + rng.normal(0, 0.05, len(rows)))


def pairs(num_ids: int = 300, by: float = 0.1, seeds: int = 1, cluster: str = "question") -> PairedRows:
    old = like_mlqa(num_ids)
    new = [stored(changed(old, by, seed)) for seed in range(seeds)]
    return PairedRows.join([stored(old)] * seeds, new, "crosslingual", "map", cluster)


def naive_gain(rows: PairedRows, ids: np.ndarray[Any, Any] | None = None) -> float:
    """Mean over cells of the mean over rows, every unit as often as it is drawn."""
    times = (
        np.ones(len(rows.unit)) if ids is None else np.bincount(ids, minlength=rows.unit.max() + 1)[rows.unit]
    )
    difference = (rows.new - rows.old).mean(axis=0)
    means = []
    for c in range(len(rows.cells)):
        there = rows.cell == c
        means.append((times * difference)[there].sum() / times[there].sum())
    return float(np.mean(means))


@pytest.mark.parametrize("cluster", ["question", "paragraph"])
def test_the_gain_and_its_spread_are_those_of_resampled_questions(cluster: str) -> None:
    rows = pairs(seeds=2, cluster=cluster)
    found = rows.gain(rows.even())
    assert found.gain == pytest.approx(naive_gain(rows))
    assert found.shares.mean() == pytest.approx(found.gain)
    assert found.flipped.mean() == pytest.approx(found.gain)
    assert found.per_seed.mean() == pytest.approx(found.gain)
    rng = np.random.default_rng(1)
    drawn = [naive_gain(rows, rng.integers(0, found.num_units, found.num_units)) for _ in range(600)]
    assert found.shares.std(ddof=1) / np.sqrt(found.num_units) == pytest.approx(np.std(drawn), rel=0.12)


def test_the_interval_is_that_of_the_gain_it_stands_beside() -> None:
    """Where ids have different numbers of versions, the mean over ids is another number."""
    rows = pairs()
    table = group_gains(rows, lambda a, b: "all")
    (row,) = table.to_dict("records")
    assert row["low"] < row["gain"] < row["high"]
    per_id = pd.Series((rows.new - rows.old)[0]).groupby(rows.unit).mean().to_numpy()
    assert per_id.mean() < row["low"]
    assert (row["cells"], row["questions"]) == (12, 300)
    assert row["gain"] == pytest.approx(naive_gain(rows))


def test_groups_against_plain_loops() -> None:
    rows = pairs(seeds=3)
    names = {"fi": "Finnish"}
    table = group_gains(rows, lambda a, b: names.get(b)).set_index("group")
    assert list(table.index) == ["Finnish"]
    cells = [c for c, (_, b) in enumerate(rows.cells) if b == "fi"]
    for s in range(3):
        wanted = np.mean([(rows.new - rows.old)[s][rows.cell == c].mean() for c in cells])
        assert table.loc["Finnish", "per_seed"][s] == pytest.approx(wanted)


def test_few_questions_have_no_interval() -> None:
    few, enough = pairs(MIN_UNITS - 1), pairs(MIN_UNITS)
    assert interval_of(few.gain(few.even())) == (None, None)
    low, high = interval_of(enough.gain(enough.even()))
    assert low is not None
    assert high is not None
    assert low < high


@pytest.mark.parametrize(("few", "known"), [(MIN_UNITS - 1, False), (MIN_UNITS, True)])
def test_a_difference_is_no_surer_than_its_side_with_fewer_questions(few: int, known: bool) -> None:
    """400 heavy-tailed units against 10: a 95 % interval holds the truth in 4 of 5 cases or fewer."""
    rng = np.random.default_rng(3)
    cell = np.repeat([0, 1, 2], [300, 100, few])
    rows = PairedRows(
        (("en", "de"), ("de", "en"), ("fi", "hu")),
        cell,
        np.arange(len(cell)),
        np.zeros((1, len(cell))),
        rng.lognormal(0, 1, (1, len(cell))),
    )
    for sign in (1.0, -1.0):
        found = rows.gain(sign * np.array([-0.5, -0.5, 1.0]))
        assert (found.num_units, found.fewest_units) == (400 + few, few)
        assert (interval_of(found)[0] is not None) is known
    one_side = rows.gain(np.array([0.5, 0.5, 0.0]))
    assert one_side.fewest_units == one_side.num_units == 400


def test_only_the_intervals_that_there_are_are_counted() -> None:
    frame = pd.DataFrame(
        {
            "group": ["a", "b", "c"],
            "gain": [0.1, 0.2, 0.0],
            "low": [0.05, np.nan, -1],
            "high": [0.2, np.nan, 1],
        }
    )
    assert (
        gains_finding({"made": frame}) == "from 0 (c) to +0.200 (b); 1 of 2 intervals are above 0, 0 below."
    )
    assert gains_finding({"made": frame[1:2]}).endswith("no interval, because the questions are few.")


def test_cells_of_one_question_do_not_narrow_the_interval() -> None:
    """A cell whose only question is its own mean deviates from nothing; the whole gain is the centre then."""
    rng = np.random.default_rng(2)
    spreads = []
    for size in (1, 40):
        cell = np.repeat(np.arange(40), size)
        rows = PairedRows(
            tuple((f"a{c}", "b") for c in range(40)),
            cell,
            np.arange(len(cell)),
            np.zeros((1, len(cell))),
            rng.normal(0, 1, (1, len(cell))),
        )
        found = rows.gain(rows.even())
        spreads.append(found.shares.std() / np.sqrt(len(cell)) * np.sqrt(len(cell)))
    assert spreads == pytest.approx([1.0, 1.0], abs=0.2)


def test_one_evaluation_against_several_and_rows_that_one_lacks() -> None:
    old = like_mlqa(60)
    new = [stored(changed(old, 0.1, seed)) for seed in range(3)]
    shuffled = stored(old.sample(frac=1.0, random_state=0).iloc[:-20])
    rows = PairedRows.join([shuffled], new, "crosslingual", "map")
    assert rows.old.shape == rows.new.shape
    assert rows.old.shape[0] == 1
    wanted = np.mean([one.values("crosslingual", "map")["value"].to_numpy() for one in new], axis=0)
    assert set(np.round(rows.new[0], 9)) <= set(np.round(wanted, 9))

"""The difference of two families: against plain loops, in a simulation, and where roles are one-sided."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hbt_dist.comparison.families import (
    claim_possible,
    family_differences,
    family_gains,
    family_pair,
    language_weights,
)
from hbt_dist.comparison.gains import PairedRows
from hbt_dist.comparison.typology import FAMILIES, group_contrast
from hbt_dist.data.language_facts import LANGUAGES as KNOWN

LANGUAGES = ("en", "de", "es", "ru", "fi", "et", "zh")
NOT_KNOWN = dict.fromkeys(LANGUAGES)


def made(
    rng: np.random.Generator,
    cells: list[tuple[str, str]],
    *,
    extra: float = 0.0,
    num_ids: int = 80,
    seeds: int = 1,
) -> PairedRows:
    """Parallel questions whose gain is .1, and `extra` more for each Uralic language of the cell."""
    size = len(cells)
    of_question, of_row = rng.normal(0, 0.1, (num_ids, 1)), rng.normal(0, 0.1, (num_ids, size))
    uralic = np.array([sum(code in ("fi", "et") for code in cell) for cell in cells])
    gain = 0.1 + of_question * (1 + uralic) + of_row + extra * uralic
    new = np.stack([gain + rng.normal(0, 0.02, gain.shape) for _ in range(seeds)]).reshape(seeds, -1)
    return PairedRows(
        tuple(cells),
        np.tile(np.arange(size), num_ids),
        np.repeat(np.arange(num_ids), size),
        np.zeros_like(new),
        new,
    )


def all_pairs() -> list[tuple[str, str]]:
    return list(itertools.permutations(LANGUAGES, 2))


def test_against_plain_loops() -> None:
    rows = made(np.random.default_rng(0), all_pairs(), extra=0.05, seeds=3)
    (found,) = family_differences(rows, NOT_KNOWN)
    gains = rows.cell_means((rows.new - rows.old).mean(axis=0))

    def of(code: str) -> float:
        return float(np.mean([gain for gain, cell in zip(gains, rows.cells, strict=True) if code in cell]))

    first, second = np.mean([of(code) for code in ("en", "de", "es", "ru")]), np.mean([of("fi"), of("et")])
    assert (found.gain_a, found.gain_b) == pytest.approx((first, second))
    assert found.difference == pytest.approx(second - first)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.difference < found.high
    assert found.seeds is not None
    assert found.seeds["difference"] == pytest.approx(found.difference)
    assert found.seeds["num_seeds"] == 3
    assert set(found.languages_b) == {"fi", "et"}
    assert found.smallest_p == pytest.approx(2 / 15)


def test_the_interval_over_questions_covers_the_truth() -> None:
    """Questions that gain more in one family than in the other: 95 of 100 intervals hold the truth."""
    truth = made(np.random.default_rng(1), all_pairs(), extra=0.03, num_ids=200_000 // 42)
    wanted = family_differences(truth, NOT_KNOWN)[0].difference
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(150):
        found = family_differences(made(rng, all_pairs(), extra=0.03, num_ids=60), NOT_KNOWN)[0]
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= wanted <= found.high
    assert 132 <= hits <= 149  # 142.5 expected, standard deviation 2.7; a bootstrap of 60 is a little narrow


def test_where_one_language_asks_candidates_are_contrasted() -> None:
    cells = [("en", code) for code in LANGUAGES if code != "en"]
    weights = language_weights(cells)
    assert "en" not in weights
    assert weights["fi"].tolist() == [float(b == "fi") for _, b in cells]
    (found,) = family_differences(made(np.random.default_rng(3), cells, extra=0.2), NOT_KNOWN)
    assert found.languages_a == ("de", "es", "ru")
    assert found.difference == pytest.approx(0.2, abs=0.06)


def test_few_questions_of_one_family_give_no_interval() -> None:
    """As EXAMS, where 395 questions pair Indo-European languages and 10 a Uralic one."""
    rng = np.random.default_rng(7)
    cells = list(itertools.permutations(("en", "de", "es", "fi"), 2))
    cell = np.concatenate([np.full(10 if "fi" in pair else 80, c) for c, pair in enumerate(cells)])
    unit = np.concatenate([np.arange(10 if "fi" in pair else 80) for pair in cells])
    new = rng.normal(0.1, 0.1, (2, len(cell)))
    rows = PairedRows(tuple(cells), cell, unit, np.zeros_like(new), new)
    (found,) = family_differences(rows, NOT_KNOWN)
    assert (found.questions, found.fewest_questions) == (80, 10)
    assert (found.low, found.high) == (None, None)
    assert found.seeds is not None


def test_a_claim_is_possible_where_the_contrast_makes_one() -> None:
    """The rule of the advice is that of the test: all numbers of languages that the package knows."""
    first, second = (
        [code for code, one in KNOWN.items() if one.family == family][:10] for family in FAMILIES
    )
    for a, b in itertools.product(range(1, len(first) + 1), range(1, len(second) + 1)):
        codes = first[:a] + second[:b]
        found = group_contrast(np.random.default_rng(a).normal(size=a + b), codes)
        assert claim_possible(a, b) is not found.verdict.startswith("too few"), (a, b)


def test_the_languages_that_a_claim_takes() -> None:
    """One language is no family, however many stand against it; three Uralic ones are known."""
    for a, b in ((8, 2), (5, 3)):  # the numbers that reports name
        assert claim_possible(a, b)
        assert not claim_possible(a - 1, b)
        assert not claim_possible(a, b - 1)
    assert not any(claim_possible(1, b) or claim_possible(b, 1) for b in range(200))


def test_unseen_languages_apart() -> None:
    seen = {code: code not in ("es", "ru", "et") for code in LANGUAGES}
    rows = made(np.random.default_rng(4), all_pairs())
    whole, unseen = family_differences(rows, seen)
    assert (whole.languages, unseen.languages) == ("all", "unseen")
    assert (unseen.languages_a, unseen.languages_b) == (("es", "ru"), ("et",))
    weights = language_weights(rows.cells, {"es", "ru", "et"})
    taken = {cell for cell, w in zip(rows.cells, weights["et"], strict=True) if w}
    assert taken == {("et", "es"), ("es", "et"), ("et", "ru"), ("ru", "et")}


def test_one_family_alone_has_no_difference() -> None:
    cells = list(itertools.permutations(("en", "de", "zh"), 2))
    rows = made(np.random.default_rng(5), cells)
    assert family_differences(rows, NOT_KNOWN) == []
    two = made(np.random.default_rng(5), [("en", "fi"), ("fi", "en")])
    assert family_differences(two, NOT_KNOWN) == []
    assert [row["pair"] for row in family_gains(rows)] == ["Indo-European -> Indo-European"]


def test_families_of_pairs() -> None:
    assert family_pair("en", "fi") == "Indo-European -> Uralic"
    assert family_pair("hu", "et") == "Uralic -> Uralic"
    assert family_pair("en", "zh") is None
    rows = made(np.random.default_rng(6), all_pairs(), seeds=2)
    found = family_gains(rows)
    assert len(found) == 4
    assert all(row["seeds"]["num_seeds"] == 2 and row["questions"] == 80 for row in found)

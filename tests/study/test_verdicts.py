"""Verdicts of a study: how often they err, and their words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from hbt_dist.study.settings import StudyFile
from hbt_dist.study.verdicts import Finding, judge, lead

LABELS = ("a", "b", "c", "d", "e")
METHODS = ("hybrid", "other", "third", "fourth")


def study(**changes: Any) -> StudyFile:
    methods: dict[str, Any] = {"base": {}, **{name: {} for name in METHODS}}
    return StudyFile.model_validate(
        {
            "name": "made",
            "output_dir": "made",
            "question": "What?",
            "run": "quickstart",
            "methods": methods,
            "baseline": "base",
            "benchmarks": [{"name": "sample"}],
            **changes,
        }
    )


def made_row(system: str, setting: str, gain: float, p_questions: float, p_seeds: float) -> dict[str, Any]:
    """What `compare` says of a system in three seeds."""
    return {
        "system": system,
        "baseline": "base",
        "setting": setting,
        "metric": "map",
        "trivial": False,
        "difference": gain,
        "mean_a": 0.5,
        "mean_b": 0.5 + gain,
        "chance": 0.01,
        "p_randomisation": p_questions,
        "seeds": {"num_seeds": 3, "p": p_seeds},
    }


def simulated(rng: np.random.Generator, spread: float) -> dict[str, dict[str, dict[str, Any]]]:
    """A study in which no method differs: seeds vary by `spread`, and the baseline's seeds are shared.

    Gains are (benchmarks, tests, seeds, questions).
    """
    kinds = [(name, setting) for name in METHODS for setting in ("crosslingual", "multilingual")]
    shape = len(LABELS), len(kinds), 3
    seeds = rng.normal(0, spread, (*shape, 1)) - rng.normal(0, spread, (len(LABELS), 1, 3, 1))
    gains = seeds + rng.normal(0, 0.1, (*shape, 50))
    over_questions = stats.ttest_1samp(gains.mean(axis=2), 0.0, axis=-1).pvalue
    over_seeds = stats.ttest_1samp(gains.mean(axis=3), 0.0, axis=-1).pvalue
    means = gains.mean(axis=(2, 3))
    return {
        label: {
            "base": {
                "tests": [
                    made_row(*kind, float(means[i, j]), float(over_questions[i, j]), float(over_seeds[i, j]))
                    for j, kind in enumerate(kinds)
                ]
            }
        }
        for i, label in enumerate(LABELS)
    }


@pytest.mark.parametrize("spread", [0.0, 0.02, 0.3])
def test_no_more_than_one_false_claim_in_twenty_studies(spread: float) -> None:
    """Over the primary contrast on five benchmarks, and over all others of one benchmark."""
    rng, cases = np.random.default_rng(int(spread * 100)), 200
    primary = exploratory = 0
    for _ in range(cases):
        findings = judge(study(), simulated(rng, spread))
        primary += any(one.holds == "holds" for one in findings if one.primary)
        exploratory += any(one.holds == "holds" for one in findings if one.label == "a" and not one.primary)
    assert max(primary, exploratory) <= 0.05 * cases + 3 * np.sqrt(0.05 * 0.95 * cases)


def test_seeds_that_vary_are_not_overlooked() -> None:
    """With a spread far above that of questions, the test over questions alone errs nearly always."""
    findings = judge(study(), simulated(np.random.default_rng(5), 0.3))
    assert sum(one.holds == "questions only" for one in findings) > 20


def finding(gain: float, holds: str, *, seeds: int = 3, label: str = "a", chance: float = 0.01) -> Finding:
    row = made_row("hybrid", "crosslingual", gain, 0.0, 0.0)
    row["chance"] = chance
    row["p_holm"] = 0.5 if holds == "no" else 0.001
    row["seeds"] = None if seeds == 1 else {"num_seeds": seeds, "p_holm": 0.01 if holds == "holds" else 0.2}
    return Finding(label, row, True)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([finding(0.1, "holds"), finding(0.2, "holds")], "Yes."),
        ([finding(0.1, "holds", chance=0.9)], "Yes, but near chance."),
        ([finding(0.1, "holds", chance=0.9), finding(0.2, "no")], "In part, but near chance."),
        ([finding(0.1, "holds", chance=0.9), finding(0.2, "holds")], "Yes."),
        ([finding(0.1, "holds"), finding(-0.2, "holds")], "Mixed."),
        ([finding(0.1, "holds"), finding(0.2, "questions only")], "In part."),
        ([finding(-0.1, "holds"), finding(0.2, "no")], "No."),
        ([finding(-0.1, "holds"), finding(-0.2, "holds")], "No, the opposite."),
        ([finding(0.1, "no"), finding(0.2, "questions only")], "Not resolved."),
        ([finding(0.1, "questions only", seeds=1)], "Not known with one seed."),
    ],
)
def test_the_first_word(found: list[Finding], expected: str) -> None:
    assert lead(found) == expected


def test_every_finding_is_one_sentence() -> None:
    findings = [
        finding(0.0196, "holds"),
        finding(-0.0044, "holds", chance=0.4),
        finding(-0.0081, "questions only"),
        finding(0.1, "questions only", seeds=1),
        finding(-0.00001, "no"),
    ]
    assert [item.cell() for item in findings] == ["+0.020*", "-0.004*", "-0.008°", "+0.100°", "0"]
    assert [item.sentence() for item in findings] == [
        "raises it, over questions and over seeds",
        "lowers it, over questions and over seeds (near chance)",
        "lowers it over questions; 3 seeds do not settle it",
        "raises it over questions; one seed does not settle it",
        "no difference is found",
    ]
    trivial = finding(0.1, "holds")
    trivial.row["trivial"] = True
    assert trivial.cell() == "trivial"
    assert trivial.sentence().startswith("trivial")

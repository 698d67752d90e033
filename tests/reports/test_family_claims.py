"""What a study claims of families: corrected over all its contrasts and benchmarks, and what it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from hbt_dist.comparison.significance import holm
from hbt_dist.pages.document import Document
from hbt_dist.reports.study.answer import add_answer
from hbt_dist.reports.study.families import (
    add_family_table,
    family_rows,
    family_verdict,
    needed_lines,
    over_seeds_tested,
    resolved,
)
from hbt_dist.study.settings import StudyFile
from hbt_dist.study.verdicts import judge

HYBRID, OTHER = ("hybrid", "base", "crosslingual"), ("other", "base", "crosslingual")


def difference(*, p_seeds: float = 0.001, p_languages: float = 0.02, **changes: Any) -> dict[str, Any]:
    """A `FamilyDifference` of five and three languages, as `compare` has it."""
    return {
        "languages": "all",
        "languages_a": ["de", "en", "es", "cs", "sv"],
        "languages_b": ["et", "fi", "hu"],
        "gain_a": 0.1,
        "gain_b": 0.08,
        "difference": -0.02,
        "questions": 400,
        "fewest_questions": 400,
        "low": -0.03,
        "high": -0.01,
        "seeds": {
            "num_seeds": 3,
            "difference": -0.02,
            "low": -0.03,
            "high": -0.01,
            "p": p_seeds,
            "spread": 0.004,
        },
        "p_languages": p_languages,
        "smallest_p": 2 / 56,
        "verdict": "",
        **changes,
    }


class MadePart:
    """A benchmark with given differences of families."""

    def __init__(self, label: str, **families: list[dict[str, Any]]) -> None:
        self.label = label
        self.made = families

    def families(self, method: str, reference: str) -> dict[str, Any]:
        assert reference == "base"
        return {"families": self.made.get(method, [])}


def rows_of(parts: list[Any], *contrasts: tuple[str, str, str]) -> Any:
    return family_rows(parts, contrasts)


def test_p_is_corrected_over_contrasts_and_benchmarks_together() -> None:
    parts = [
        MadePart("a", hybrid=[difference(p_seeds=0.02)], other=[difference(p_seeds=0.03)]),
        MadePart("b", hybrid=[difference(p_seeds=0.04)], other=[difference(p_seeds=0.01)]),
    ]
    rows = [row for some in rows_of(parts, HYBRID, OTHER).values() for _, row in some]
    assert [row["p_seeds_holm"] for row in rows] == pytest.approx(holm([0.02, 0.04, 0.03, 0.01]))
    assert [row["p_languages_holm"] for row in rows] == pytest.approx([0.08] * 4)
    assert [resolved(row) for row in rows] == [False, False, False, True]
    (alone,) = rows_of(parts[:1], HYBRID)[HYBRID]
    assert alone[1]["p_seeds_holm"] == pytest.approx(0.02)
    assert resolved(alone[1])


def test_a_permutation_that_is_below_5_percent_on_one_of_three_benchmarks_holds_for_no_family() -> None:
    alone = [MadePart("a", hybrid=[difference()])]
    several = [
        MadePart(label, hybrid=[difference(p_languages=p)])
        for label, p in (("a", 0.02), ("b", 0.6), ("c", 0.9))
    ]
    verdicts = [
        [family_verdict(row) for _, row in rows_of(parts, HYBRID)[HYBRID]] for parts in (alone, several)
    ]
    assert verdicts == [
        ["holds for these languages and over a permutation of them"],
        ["holds for these languages, not for the families"] * 3,
    ]


def test_what_can_support_no_claim_takes_no_part_in_the_correction() -> None:
    few = difference(
        languages="unseen", languages_a=["cs"], languages_b=["et", "hu"], p_languages=None, smallest_p=2 / 3
    )
    short = difference(low=None, high=None, fewest_questions=10)
    parts = [MadePart("a", hybrid=[difference(), few]), MadePart("b", hybrid=[short, difference(seeds=None)])]
    rows = [row for _, row in rows_of(parts, HYBRID)[HYBRID]]
    assert [over_seeds_tested(row) for row in rows] == [True, False, False, False]
    assert [row["p_seeds_holm"] for row in rows] == [0.001, None, None, None]
    assert [row["p_languages_holm"] for row in rows] == pytest.approx([0.06, None, 0.06, 0.06])
    assert [resolved(row) for row in rows] == [True, False, False, False]
    assert rows_of(parts, ("hybrid", "base", "multilingual")) == {}


def test_no_more_than_one_false_claim_in_twenty_studies() -> None:
    """Two contrasts on five benchmarks, no difference between families, seeds and languages drawn anew."""
    rng, cases = np.random.default_rng(0), 400
    false_seeds = false_languages = 0
    for _ in range(cases):
        seeds = stats.ttest_1samp(rng.normal(size=(10, 3)), 0.0, axis=1).pvalue
        languages = np.ceil(rng.uniform(0, 28, 10)) / 28  # p of a permutation of 8 languages
        made = [
            difference(p_seeds=float(a), p_languages=float(b)) for a, b in zip(seeds, languages, strict=True)
        ]
        parts = [MadePart(f"b{i}", hybrid=[made[i]], other=[made[5 + i]]) for i in range(5)]
        rows = [row for some in rows_of(parts, HYBRID, OTHER).values() for _, row in some]
        false_seeds += any(resolved(row) for row in rows)
        false_languages += any(row["p_languages_holm"] < 0.05 for row in rows)
    assert max(false_seeds, false_languages) <= 0.05 * cases + 3 * np.sqrt(0.05 * 0.95 * cases)


def test_the_table_and_what_a_claim_takes(tmp_path: Any) -> None:
    few = difference(languages="unseen", languages_a=["cs"], languages_b=["et", "hu"], smallest_p=2 / 3)
    short = difference(languages_b=["hu"], smallest_p=1 / 3, low=None, high=None, fewest_questions=10)
    families = rows_of([MadePart("a", hybrid=[difference(), few]), MadePart("b", hybrid=[short])], HYBRID)[
        HYBRID
    ]
    document = Document("t", "s")
    document.heading("Answer")
    add_family_table(document, families, HYBRID)
    document.write(tmp_path, "page")
    text = (tmp_path / "page.md").read_text("utf-8")
    interval = "[-0.030, -0.010]"
    assert f"| {interval} | {interval} | 0.001 | 0.020 (at best 0.036) | 5 and 3 (et, fi, hu) |" in text
    assert "| - | at best 0.667 | 1 and 2 (et, hu) |" in text
    none = "no claim, fewer than two languages of a family"
    assert f"| -0.020 | {none} | - | {interval} | - | at best 0.333 | 5 and 1 (hu) |" in text
    languages, questions = needed_lines(families)
    assert "needs 8 and 2, or 5 and 3 languages" in languages
    assert languages.endswith("a, unseen only has 1 and 2; b has 5 and 1.")
    assert questions.endswith("30 questions of each family, for any number of seeds: b has 10.")
    assert needed_lines(families[:1]) == []
    (enough,) = rows_of([MadePart("c", hybrid=[difference(low=None, high=None)])], HYBRID)[HYBRID]
    assert family_verdict(enough[1]) == "not tested, under 30 questions of a family"


def test_a_plan_is_made_for_the_tests_that_are_corrected_together(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two benchmarks: a gain must be found at 2.5 %, 4.63 standard deviations with three seeds."""
    monkeypatch.setattr("hbt_dist.reports.study.answer._add_findings", lambda *_: None)
    monkeypatch.setattr("hbt_dist.reports.study.answer._limits", lambda *_: ["none"])
    study = StudyFile.model_validate(
        {
            "name": "made",
            "output_dir": "made",
            "question": "What?",
            "run": "quickstart",
            "methods": {"base": {}, "hybrid": {}},
            "baseline": "base",
            "benchmarks": [{"name": "sample"}],
        }
    )
    test = {
        "system": "hybrid",
        "baseline": "base",
        "setting": "crosslingual",
        "metric": "map",
        "trivial": False,
        "difference": 0.02,
        "mean_a": 0.5,
        "mean_b": 0.52,
        "chance": 0.01,
        "p_randomisation": 0.001,
    }
    seeds = {"num_seeds": 3, "difference": 0.02, "low": 0.0, "high": 0.0, "p": 0.04, "spread": 0.01}
    documents = {label: {"base": {"tests": [{**test, "seeds": dict(seeds)}]}} for label in ("a", "b")}
    open_difference = difference(p_seeds=0.3)
    parts: Any = [MadePart("a", hybrid=[open_difference]), MadePart("b", hybrid=[difference(low=None)])]
    document = Document("t", "s")
    add_answer(document, study, parts, judge(study, documents))
    document.write(tmp_path, "page")
    text = (tmp_path / "page.md").read_text("utf-8")
    assert "5 % divided by the tests that are corrected together" in text
    for label in ("a", "b"):
        assert f"| {label}: hybrid - base | +0.020 | 0.010 | 2 | 0.098 |" in text  # 4.625 * 2.117 * 0.01
    assert "| a: Uralic - Indo-European, hybrid | -0.020 | 0.004 | 1 | 0.028 |" in text
    assert "| b: Uralic - Indo-European" not in text

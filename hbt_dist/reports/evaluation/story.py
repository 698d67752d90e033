"""Say what happened in words and large figures: the head of the page, and its statistics in small print."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hbt_dist.common.console import counted
from hbt_dist.common.numbers import p_clause, plain, signed, span
from hbt_dist.comparison.significance import SIGNIFICANT, can_claim
from hbt_dist.data.benchmarks.judgements import judgement_lines
from hbt_dist.data.language_facts import describe
from hbt_dist.evaluation.metrics import near_chance
from hbt_dist.evaluation.read_results import rank_distance_of
from hbt_dist.pages.document import Tile
from hbt_dist.reports.evaluation.change import START_MODEL, Change
from hbt_dist.reports.evaluation.training import TrainingStory

#: What is searched in every setting, the decisive setting first.
_ANSWERS = {
    "crosslingual": "answers in another language",
    "monolingual": "answers in the question's language",
    "multilingual": "answers in the pool of all languages",
}


@dataclass(frozen=True)
class Level:
    """The mAP of a setting that is not trivial."""

    setting: str
    before: float | None
    after: float
    chance: float | None
    test: dict[str, Any] | None  # of the change
    num_tests: int  # corrected together

    @property
    def is_changed(self) -> bool:
        """Whether the change is significant."""
        return self.test is not None and not self.test["trivial"] and self.test["p_holm"] < SIGNIFICANT

    @property
    def verdict(self) -> str:
        """Whether answers are found, or are found better or worse than before."""
        answers = _ANSWERS[self.setting]
        if self.before is None:
            return f"{answers} are {'hardly ' if near_chance(self.after, self.chance) else ''}found"
        if self.test is None or not can_claim(self.test["num_units"], self.num_tests):
            return f"there are too few questions for a claim about {answers}"
        if not self.is_changed:
            may = "" if self.test["difference"] == 0 else ", only one that may be chance"
            return f"no change is found for {answers}{may}"
        if self.after < self.before:
            return f"{answers} are found worse"
        first = near_chance(self.before, self.chance) and not near_chance(self.after, self.chance)
        return f"{answers} are found" + ("" if first else " better")

    @property
    def figures(self) -> str:
        """Return ``mAP 0.056 → 0.672``."""
        return (
            f"mAP {plain(self.before)} → {plain(self.after)}" if self.before else f"mAP {plain(self.after)}"
        )


def levels(results: dict[str, Any], change: Change | None) -> list[Level]:
    """Return the settings of a benchmark that say something, the decisive setting first."""
    tests = {}
    if change is not None:
        tests = {row["setting"]: row for row in change.comparison["tests"] if row["metric"] == "map"}
    num_tests = sum(not row["trivial"] for row in change.comparison["tests"]) if change else 0
    known = []
    for setting in _ANSWERS:
        value = results["means"][setting]["macro"]["map"]
        trivial = setting == "monolingual" and results["benchmark"]["own_text_relevant"]
        if value is not None and not trivial:
            old = None if change is None else change.baseline["means"][setting]["macro"]["map"]
            chance, test = results["chance"][setting], tests.get(setting)
            known.append(Level(setting, old, value, chance, test, num_tests))
    return known


def lead(results: dict[str, Any], change: Change | None, story: TrainingStory | None) -> str:
    """Return what happened: in the decisive setting, in settings that fall, in languages without data."""
    known = levels(results, change)
    if not known:
        return "This benchmark has trivial figures only: a question's own text is among its candidates."
    main, *rest = known
    chance = "" if main.chance is None else f", chance {plain(main.chance)}"
    opening = ""
    if change is not None and change.name != START_MODEL:
        opening = f"Compared with {change.name}, "
    elif story is not None:
        opening = f"After {story.sentence}, "
    sentences = [f"{opening}{main.verdict}: {main.figures}{chance}."]
    sentences += [
        f"{level.verdict}: {level.figures}."
        for level in rest
        if level.is_changed and level.before is not None and level.after < level.before
    ]
    sentences += _unseen(results, change)
    return " ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)


def _unseen(results: dict[str, Any], change: Change | None) -> list[str]:
    """Return a sentence on the languages without training data, if training had some of the languages."""
    groups = [entry["groups"]["seen"] for entry in (results, *([change.baseline] if change else []))]
    values = [group.get("unseen", {}).get("crosslingual_asking") for group in groups]
    if "seen" not in groups[0] or values[0] is None:
        return []
    codes = groups[0]["unseen"]["languages"]
    names = " and ".join(describe(code).name for code in codes)
    where = f"the {len(codes)} languages" if len(codes) > 2 else f"{names},"
    figures = " → ".join(plain(value) for value in reversed(values) if value is not None)
    return [f"Questions in {where} without training data: {figures}."]


def tiles(results: dict[str, Any], change: Change | None) -> list[Tile]:
    """Return the large figures: mAP of every setting, and the rank distance."""
    items = []
    for level in levels(results, change):
        label = _ANSWERS[level.setting]
        before = "" if level.before is None else plain(level.before)
        near = ", near chance" if near_chance(level.after, level.chance) else ""
        note = f"mAP{near}" if level.chance is None else f"mAP; random order {plain(level.chance)}{near}"
        items.append(Tile(label[0].upper() + label[1:], before, plain(level.after), note))
    distance = rank_distance_of(results)
    if distance is not None:
        before = "" if change is None else plain(rank_distance_of(change.baseline), 1)
        least = results["benchmark"]["relevant_per_question"]["mean"] - 1
        note = f"ranks from a question's best to its worst answer; at best {plain(least, 1)}"
        items.append(Tile("Rank distance in the pool", before, plain(distance, 1), note))
    return items


def statistics(results: dict[str, Any], change: Change | None) -> str:
    """Return intervals and p of the changes."""
    if change is None:
        return ""
    tested = [level for level in levels(results, change) if level.test and not level.test["trivial"]]
    if not tested:
        return f"Nothing can be tested against {change.name}: too few questions, or only trivial figures."
    parts = []
    for level in tested:
        row = level.test or {}
        interval = span(row["low"], row["high"])
        parts.append(
            f"{_ANSWERS[level.setting]} {signed(row['difference'])}, {interval}, {p_clause(row['p_holm'])}"
        )
    confidence = f"{100 * change.comparison['confidence']:.0f} % intervals"
    return f"Change in mAP with {confidence} and corrected p: {'; '.join(parts)}."


def about(results: dict[str, Any]) -> str:
    """Return the size of the benchmark, and what is special about its judgements."""
    benchmark = results["benchmark"]
    texts = [
        f"{counted(len(benchmark['languages']), 'language')}, "
        f"{counted(benchmark['num_questions']['total'], 'question')}, "
        f"{counted(benchmark['num_candidates']['total'], 'candidate')}."
    ]
    if benchmark["own_text_relevant"]:
        texts.append("Monolingual cells are trivial here: a question's own text is among its candidates.")
    lines = judgement_lines(benchmark["judgements"]) if "judgements" in benchmark else []
    return " ".join([*texts, *(f"{line[0].upper()}{line[1:]}." for line in lines)])

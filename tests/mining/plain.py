"""Mine with a plain loop over examples, candidates and questions: the reference of the miner."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.mining.blocks import MiningPlan
from hbt_dist.mining.selection import quotas
from hbt_dist.mining.settings import MiningSettings


@dataclass
class Candidate:
    number: int
    passage: int
    language: int
    score: float


class PlainMiner:
    """Lists and negatives of one example at a time, in float64."""

    def __init__(
        self, corpus: Corpus, questions: Any, candidates: Any, settings: MiningSettings, seed: int
    ) -> None:
        self.corpus, self.settings, self.seed = corpus, settings, seed
        self.questions, self.candidates = questions, candidates
        self.texts = {role: FlatTexts(corpus, role) for role in ("question", "passage")}

    def languages(self, example: int, side: str) -> set[int]:
        tables = {"question": self.corpus.cell_questions, "passage": self.corpus.cell_passages}
        return set(np.flatnonzero(tables[side][self.corpus.example_cell[example]]).tolist())

    def score(self, example: int, passage: int, language: int) -> float:
        number = self.texts["passage"].numbers(np.array([passage]), language)[0]
        scores = [
            float(
                np.dot(
                    self.questions[self.texts["question"].numbers(np.array([example]), code)[0]].astype(
                        float
                    ),
                    self.candidates[number].astype(float),
                )
            )
            for code in self.languages(example, "question")
        ]
        return float(np.float32(max(scores)))

    def positive(self, example: int) -> dict[int, float]:
        """Score of the positive that a candidate in each language is compared with."""
        passage = int(self.corpus.example_passage[example])
        scores = {code: self.score(example, passage, code) for code in self.languages(example, "passage")}
        best = max(scores.values())
        return {code: scores.get(code, best) for code in range(len(self.corpus.languages))}

    def list_of(self, example: int, share: str) -> list[Candidate]:
        """The best candidates of a share, without the group, each passage once."""
        question, passage = self.languages(example, "question"), self.languages(example, "passage")
        allowed = {
            "any": set(range(len(self.corpus.languages))),
            "question": question,
            "passage": passage,
            "other": set(range(len(self.corpus.languages))) - question - passage,
        }[share]
        scored = []
        for number in range(len(self.texts["passage"])):
            row, language = (int(value[0]) for value in self.texts["passage"].locate(np.array([number])))
            if language in allowed and self.corpus.passage_group[row] != self.corpus.example_group[example]:
                scored.append(Candidate(number, row, language, self.score(example, row, language)))
        scored.sort(key=lambda candidate: (-candidate.score, candidate.number))
        seen: set[int] = set()
        once = [c for c in scored if c.passage not in seen and not seen.add(c.passage)]  # type: ignore[func-returns-value]
        return once[: self.settings.window]

    def eligible(self, example: int, share: str) -> list[Candidate]:
        settings, positive = self.settings, self.positive(example)
        left = []
        for candidate in self.list_of(example, share):
            score, reference = np.float32(candidate.score), np.float32(positive[candidate.language])
            if settings.margin is not None and score + np.float32(settings.margin) > reference:
                continue
            share_of_positive = abs(reference) * np.float32(settings.relative_margin or 0.0)
            if settings.relative_margin is not None and score > reference - share_of_positive:
                continue
            if settings.max_score is not None and score > np.float32(settings.max_score):
                continue
            if settings.min_score is not None and score < np.float32(settings.min_score):
                continue
            left.append(candidate)
        return left[settings.rank_min :]

    def negatives(self, example: int) -> list[Candidate]:
        """The negatives of `sampling: top`."""
        chosen: list[Candidate] = []
        for share, numbers in quotas(self.settings, self.seed, np.array([example])).items():
            taken = {candidate.passage for candidate in chosen}
            quota = int(numbers[0])
            picked = [c for c in self.eligible(example, share) if c.passage not in taken][:quota]
            if self.settings.fill == "relax":
                taken |= {candidate.passage for candidate in picked}
                rest = [c for c in self.list_of(example, share) if c.passage not in taken]
                picked += rest[: quota - len(picked)]
            chosen += picked
        return sorted(chosen, key=lambda candidate: (-candidate.score, candidate.number))


def made_plan(
    corpus: Corpus,
    folder: Path,
    settings: MiningSettings,
    *,
    seed: int = 0,
    width: int = 6,
    whole: bool = True,
) -> MiningPlan:
    """A plan over drawn vectors; whole numbers have exact sums and many equal scores."""
    random = np.random.default_rng(seed)
    sizes = [len(FlatTexts(corpus, role)) for role in ("question", "passage")]
    if whole:
        vectors = [random.integers(-2, 3, (size, width)).astype(np.float32) for size in sizes]
        for matrix in vectors:
            matrix[~matrix.any(axis=1)] = 1.0
    else:
        vectors = [random.normal(size=(size, width)).astype(np.float32) for size in sizes]
    return MiningPlan(
        corpus=corpus,
        settings=settings,
        seed=seed,
        folder=folder,
        questions=vectors[0],
        candidates=vectors[1],
    )

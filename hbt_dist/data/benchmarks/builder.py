"""Collect what a benchmark reader yields, in any order, and make the columns of a `Benchmark`.

Candidates are named by an item and a language: a passage and its translations are one item. Relevance joins a
question id (all of its languages) with an item, either in all of the item's languages or in one. Questions
and relevance are held in memory; the pool decides where candidates are held (candidate_pool.py).
"""

from __future__ import annotations

import math
from collections.abc import Hashable

import numpy as np

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.candidate_pool import ArrangedCandidates, CandidatePool, MemoryPool


class BenchmarkBuilder:
    """Takes `add_question`, `add_candidate` and `add_relevant` in any order, then `build`.

    Args:
        languages: skip questions and candidates of further languages; None takes all.
        pool: takes the candidates; by default in memory.
    """

    def __init__(
        self, name: str, variant: str, languages: tuple[str, ...] | None, pool: CandidatePool | None = None
    ) -> None:
        self.name = name
        self.variant = variant
        self.question_text_relevant = False
        self._languages = languages
        self._questions: dict[tuple[str, str], str] = {}  # (language, id) -> text, in the order of reading
        self._pool = MemoryPool() if pool is None else pool
        self._other_questions: set[str] = set()
        self._cluster_of: dict[str, set[Hashable]] = {}
        # id -> (item, language) -> location, grade
        self._relevant: dict[str, dict[tuple[str, str | None], tuple[str, float]]] = {}

    def add_question(
        self, question_id: str, language: str, text: str, location: str, cluster: Hashable = None
    ) -> None:
        """Add a question in a language.

        Args:
            cluster: what it belongs to; questions with any cluster in common, in any language, belong
                together. Default: only its versions do.
        """
        _check_id(question_id, location)
        if self._languages is not None and language not in self._languages:
            self._other_questions.add(question_id)
            return
        if (language, question_id) in self._questions:
            raise UserError(
                location, f"question {question_id!r} occurs twice in {language!r}", "ids must be unique"
            )
        self._questions[language, question_id] = text
        clusters = self._cluster_of.setdefault(question_id, set())
        if cluster is not None:
            clusters.add(cluster)

    def add_candidate(self, item: str, language: str, text: str, location: str) -> None:
        """Add an item's text in a language. Inside a language candidates are sorted by item."""
        _check_id(item, location)
        if self._languages is not None and language not in self._languages:
            self._pool.leave_out(item)
        else:
            self._pool.add(language, item, text, location)

    def add_relevant(
        self, question_id: str, item: str, location: str, language: str | None = None, grade: float = 1.0
    ) -> None:
        """Note that an item answers a question: in one language, or in all languages of the item.

        Args:
            grade: how well, a finite number above 0; of several for one candidate the highest counts.
        """
        if not (math.isfinite(grade) and grade > 0):
            raise UserError(
                location, f"the grade {grade} of {item!r} is not a number above 0", "leave it out"
            )
        answers = self._relevant.setdefault(question_id, {})
        first, highest = answers.get((item, language), (location, grade))
        answers[item, language] = (first, max(highest, grade))

    def build(self) -> Benchmark:
        """Return the benchmark.

        Raises:
            UserError: a relevant candidate or the question of a relevance is unknown, a question has no
                relevant candidate, a requested language is absent.
        """
        languages = self._present_languages()
        index = {language: number for number, language in enumerate(languages)}
        self._check_questions_of_relevance()
        relevant_items = {item for answers in self._relevant.values() for item, _ in answers}
        left_out = self._pool.left_out(relevant_items)
        candidates = self._pool.arrange(languages, relevant_items)
        relevant_of = self._relevant_rows(candidates, left_out)
        questions = sorted(self._questions, key=lambda key: index[key[0]])  # stable: order of reading inside
        if self._languages is not None:  # what is relevant may be in a language that is left out
            questions = [key for key in questions if relevant_of.get(key[1]) != {}]
        relevant = [relevant_of.get(question_id, {}) for _, question_id in questions]
        clusters = self._clusters()
        return Benchmark(
            name=self.name,
            variant=self.variant,
            languages=languages,
            question_ids=[question_id for _, question_id in questions],
            question_language=np.array([index[language] for language, _ in questions], np.int32),
            question_texts=[self._questions[key] for key in questions],
            question_cluster=np.unique(
                [clusters[question_id] for _, question_id in questions], return_inverse=True
            )[1].astype(np.int64),
            candidate_ids=candidates.ids,
            candidate_language=candidates.language,
            candidate_texts=candidates.texts,
            relevant_offsets=np.cumsum([0, *map(len, relevant)]).astype(np.int64),
            relevant=np.array([row for rows in relevant for row in rows], np.int64),
            grades=np.array([grade for rows in relevant for grade in rows.values()], np.float64),
            question_text_relevant=self.question_text_relevant,
        )

    def _present_languages(self) -> tuple[str, ...]:
        present = {language for language, _ in self._questions} | self._pool.languages
        if self._languages is None:
            return tuple(sorted(present))
        absent = [language for language in self._languages if language not in present]
        if absent:
            raise UserError(
                f"benchmark {self.name}",
                f"has neither question nor candidate in {', '.join(map(repr, absent))}",
                "drop the language, or check the files",
            )
        return self._languages

    def _check_questions_of_relevance(self) -> None:
        known = {question_id for _, question_id in self._questions} | self._other_questions
        for question_id, answers in self._relevant.items():
            if question_id not in known:
                raise UserError(
                    next(iter(answers.values()))[0],
                    f"question {question_id!r} is not among the questions",
                    "do the files belong together?",
                )

    def _relevant_rows(
        self, candidates: ArrangedCandidates, left_out: set[str]
    ) -> dict[str, dict[int, float]]:
        """Return question id -> relevant candidate rows, ascending -> grade."""
        rows_of_item: dict[str, list[int]] = {}
        for (_, item), row in candidates.rows.items():
            rows_of_item.setdefault(item, []).append(row)
        relevant: dict[str, dict[int, float]] = {}
        for question_id, answers in self._relevant.items():
            grades: dict[int, float] = {}
            for (item, language), (location, grade) in answers.items():
                if item not in rows_of_item and item not in left_out:
                    raise UserError(
                        location,
                        f"relevant candidate {item!r} is not in the pool",
                        "do the files belong together?",
                    )
                rows: list[int] = []
                if language is None:
                    rows = rows_of_item.get(item, [])
                elif (language, item) in candidates.rows:
                    rows = [candidates.rows[language, item]]
                elif self._languages is None or language in self._languages:
                    raise UserError(location, f"relevant candidate {item!r} is not in the {language!r} pool")
                grades.update({row: max(grade, grades.get(row, 0.0)) for row in rows})
            relevant[question_id] = dict(sorted(grades.items()))
        return relevant

    def _clusters(self) -> dict[str, int]:
        """Return question id -> number of its cluster: the connected parts of questions and cluster keys."""
        from scipy.cluster.hierarchy import DisjointSet

        parts = DisjointSet(("question", question_id) for question_id in self._cluster_of)
        for question_id, keys in self._cluster_of.items():
            for key in keys:
                parts.add(("key", key))
                parts.merge(("question", question_id), ("key", key))
        roots = {question_id: parts["question", question_id] for question_id in self._cluster_of}
        number = {root: position for position, root in enumerate(dict.fromkeys(roots.values()))}
        return {question_id: number[root] for question_id, root in roots.items()}


def _check_id(identity: str, location: str) -> None:
    """Ids go into TREC files, whose columns are separated by white space."""
    if not identity or any(character.isspace() for character in identity):
        raise UserError(
            location, f"id {identity!r} is empty or holds white space", "use ids without white space"
        )

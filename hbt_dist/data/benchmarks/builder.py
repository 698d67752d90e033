"""Collect what a benchmark reader yields, in any order, and make the columns of a `Benchmark`.

Candidates are named by an item and a language: a passage and its translations are one item. Relevance joins a
question id (all of its languages) with an item, either in all of the item's languages or in one. Questions
and relevance are held in memory; the pool decides where candidates are held (candidate_pool.py).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.candidate_pool import ArrangedCandidates, CandidatePool, MemoryPool
from hbt_dist.data.benchmarks.judgements import STRICT, WAY_OUT, JudgementCounts, Rules
from hbt_dist.data.invisible import is_blank

#: An item, and its language; None stands for all languages of the item.
Document = tuple[str, str | None]


@dataclass
class _Relevance:
    """Relevance of one question row: candidate rows, absent documents, and the question's own documents."""

    grades: dict[int, float] = field(default_factory=dict)
    absent: dict[tuple[str, str], float] = field(default_factory=dict)  # (language, item) -> grade
    excluded: list[int] = field(default_factory=list)


class BenchmarkBuilder:
    """Takes `add_question`, `add_candidate` and `add_relevant` in any order, then `build`.

    Args:
        languages: skip questions and candidates of further languages; None takes all.
        pool: takes the candidates; by default in memory.
        rules: for judgements that do not fit the collection, and for questions that are documents.
    """

    def __init__(
        self,
        name: str,
        variant: str,
        languages: tuple[str, ...] | None,
        pool: CandidatePool | None = None,
        *,
        rules: Rules = STRICT,
    ) -> None:
        self.name = name
        self.variant = variant
        self.question_text_relevant = False
        self._rules, self._counts = rules, Counter[str]()
        self._strict = rules.judgements == "strict"
        self.languages = languages
        self._questions: dict[tuple[str, str], str] = {}  # (language, id) -> text, in the order of reading
        self._pool = MemoryPool() if pool is None else pool
        self._other_questions: set[str] = set()
        self._cluster_of: dict[str, set[Hashable]] = {}
        self._same_as: dict[str, Document] = {}  # question id -> the document that it is
        # id -> (item, language) -> location, grade; empty where nothing is relevant
        self._relevant: dict[str, dict[Document, tuple[str, float]]] = {}
        self._judged_at: dict[str, str] = {}

    def add_question(
        self,
        question_id: str,
        language: str,
        text: str,
        location: str,
        cluster: Hashable = None,
        same_as: Document | None = None,
    ) -> None:
        """Add a question in a language.

        Args:
            cluster: what it belongs to; questions with any cluster in common, in any language, belong
                together. Default: only its versions do.
            same_as: the document that would be the question itself, if the pool holds it: item, and language
                or None for all; see `identical_ids`.
        """
        _check_id(question_id, location)
        if self.languages is not None and language not in self.languages:
            self._other_questions.add(question_id)
            return
        if (language, question_id) in self._questions:
            raise UserError(
                location, f"question {question_id!r} occurs twice in {language!r}", "ids must be unique"
            )
        self._check_text(text, "empty_questions", f"question {question_id!r}", location)
        self._questions[language, question_id] = text
        clusters = self._cluster_of.setdefault(question_id, set())
        if cluster is not None:
            clusters.add(cluster)
        if same_as is not None:
            self._same_as[question_id] = same_as

    def add_candidate(self, item: str, language: str, text: str, location: str) -> None:
        """Add an item's text in a language. Inside a language candidates are sorted by item."""
        _check_id(item, location)
        if self.languages is not None and language not in self.languages:
            self._pool.leave_out(item)
            return
        self._check_text(text, "empty_documents", f"candidate {item!r}", location)
        self._pool.add(language, item, text, location)

    def _check_text(self, text: str, count: str, subject: str, location: str) -> None:
        if not is_blank(text):
            return
        if self._strict:
            raise UserError(
                location, f"the text of {subject} is empty", f"give a text, or remove it;\n{WAY_OUT}"
            )
        self._counts[count] += 1

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
        self.add_judgement(question_id, item, location, language, grade)

    def add_judgement(
        self, question_id: str, item: str, location: str, language: str | None, grade: float
    ) -> None:
        """Note a line of a file of judgements, see `add_relevant`; a grade of 0 or less is not relevant."""
        self._judged_at.setdefault(question_id, location)
        answers = self._relevant.setdefault(question_id, {})
        if grade > 0:
            first, highest = answers.get((item, language), (location, grade))
            answers[item, language] = (first, max(highest, grade))

    def build(self) -> Benchmark:
        """Return the benchmark.

        Raises:
            UserError: judgements do not fit the collection (judgements.py), a requested language is absent.
        """
        languages = self._present_languages()
        index = {language: number for number, language in enumerate(languages)}
        self._check_questions_of_relevance()
        relevant_items = {item for answers in self._relevant.values() for item, _ in answers}
        left_out = self._pool.left_out(relevant_items)
        candidates = self._pool.arrange(
            languages, relevant_items | {item for item, _ in self._same_as.values()}
        )
        rows_of_item = _rows_of_items(candidates)
        relevance = {
            key: self._relevance(key, candidates, rows_of_item, left_out)
            for key in sorted(
                self._questions, key=lambda key: index[key[0]]
            )  # stable: order of reading inside
        }
        relevance = self._with_relevant(relevance)
        absent = sorted({document for row in relevance.values() for document in row.absent})
        absent_row = {document: len(candidates.ids) + number for number, document in enumerate(absent)}
        relevant = [
            {**row.grades, **{absent_row[document]: row.absent[document] for document in sorted(row.absent)}}
            for row in relevance.values()
        ]
        clusters = self._clusters()
        return Benchmark(
            name=self.name,
            variant=self.variant,
            languages=languages,
            question_ids=[question_id for _, question_id in relevance],
            question_language=np.array([index[language] for language, _ in relevance], np.int32),
            question_texts=[self._questions[key] for key in relevance],
            question_cluster=np.unique(
                [clusters[question_id] for _, question_id in relevance], return_inverse=True
            )[1].astype(np.int64),
            candidate_ids=candidates.ids,
            candidate_language=candidates.language,
            candidate_texts=candidates.texts,
            relevant_offsets=np.cumsum([0, *map(len, relevant)]).astype(np.int64),
            relevant=np.array([row for rows in relevant for row in rows], np.int64),
            grades=np.array([grade for rows in relevant for grade in rows.values()], np.float64),
            question_text_relevant=self.question_text_relevant,
            absent_ids=[f"{language}_{item}" for language, item in absent],
            absent_language=np.array([index[language] for language, _ in absent], np.int32),
            excluded=_pairs(row.excluded for row in relevance.values()),
            judgements=JudgementCounts(self._rules, dict(+self._counts)),
        )

    def _present_languages(self) -> tuple[str, ...]:
        present = {language for language, _ in self._questions} | self._pool.languages
        if self.languages is None:
            return tuple(sorted(present))
        absent = [language for language in self.languages if language not in present]
        if absent:
            raise UserError(
                f"benchmark {self.name}",
                f"has neither question nor candidate in {', '.join(map(repr, absent))}",
                f"choose from its languages: {', '.join(sorted(present))}",
            )
        return self.languages

    def _check_questions_of_relevance(self) -> None:
        known = {question_id for _, question_id in self._questions} | self._other_questions
        not_asked = [question_id for question_id in self._relevant if question_id not in known]
        if not_asked and self._strict:
            raise UserError(
                self._judged_at[not_asked[0]],
                f"question {not_asked[0]!r} is not among the questions",
                f"do the files belong together?\n{WAY_OUT}",
            )
        self._counts["questions_not_asked"] = len(not_asked)

    def _relevance(
        self,
        question: tuple[str, str],
        candidates: ArrangedCandidates,
        rows_of_item: dict[str, list[int]],
        left_out: set[str],
    ) -> _Relevance:
        """Look up the relevant documents of a question row, and the documents that it is itself."""
        language, question_id = question
        result = _Relevance()

        def rows_of(document: Document) -> list[int]:
            item, within = document
            if within is None:
                return rows_of_item.get(item, [])
            return [row] if (row := candidates.rows.get((within, item))) is not None else []

        for document, (location, grade) in self._relevant.get(question_id, {}).items():
            rows = rows_of(document)
            for row in rows:
                result.grades[row] = max(grade, result.grades.get(row, 0.0))
            if not rows and not self._is_left_out(document, left_out):
                self._check_strict(document, location)
                result.absent[document[1] or language, document[0]] = grade
        if question_id in self._same_as:
            same = rows_of(self._same_as[question_id])
            self._counts["questions_with_own_document"] += bool(same)
            if self._rules.identical_ids == "drop":
                self._drop(same, candidates, result)
        result.grades = dict(sorted(result.grades.items()))
        return result

    def _is_left_out(self, document: Document, left_out: set[str]) -> bool:
        """Return whether a document is not in the pool because of the requested languages."""
        item, within = document
        if within is None:
            return item in left_out
        return self.languages is not None and within not in self.languages

    def _check_strict(self, document: Document, location: str) -> None:
        if self._strict:
            item, within = document
            pool = "the pool" if within is None else f"the {within!r} pool"
            raise UserError(
                location,
                f"relevant candidate {item!r} is not in {pool}",
                f"do the files belong together?\n{WAY_OUT}",
            )

    def _drop(self, rows: list[int], candidates: ArrangedCandidates, into: _Relevance) -> None:
        """Leave candidates out of a question's rankings; the relevant ones then count as absent."""
        into.excluded = sorted(rows)
        for row in into.excluded:
            grade = into.grades.pop(row, None)
            if grade is not None:
                language, _, item = candidates.ids[row].partition("_")
                into.absent[language, item] = grade
                self._counts["own_document_relevant"] += 1

    def _with_relevant(
        self, relevance: dict[tuple[str, str], _Relevance]
    ) -> dict[tuple[str, str], _Relevance]:
        """Return the question rows that have a relevant document, and count the rest.

        A question whose relevant documents are all in languages that were not requested is left out without
        a count.
        """
        kept = {key: row for key, row in relevance.items() if row.grades or row.absent}
        without = {question_id for _, question_id in relevance if not self._relevant.get(question_id)}
        if without and self._strict:
            language, question_id = next(key for key in relevance if key[1] in without)
            raise UserError(
                self._judged_at.get(question_id, f"benchmark {self.name}"),
                f"question {question_id!r} in {language!r} has no relevant candidate",
                f"remove the question, or add a relevant candidate;\n{WAY_OUT}",
            )
        self._counts["questions_without_relevant"] = len(without)
        self._counts["absent_relevant"] = (
            sum(len(row.absent) for row in kept.values()) - self._counts["own_document_relevant"]
        )
        return kept

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


def _rows_of_items(candidates: ArrangedCandidates) -> dict[str, list[int]]:
    """Return item -> its rows in all languages."""
    rows: dict[str, list[int]] = {}
    for (_, item), row in candidates.rows.items():
        rows.setdefault(item, []).append(row)
    return rows


def _pairs(excluded: Iterable[list[int]]) -> NDArray[np.int64]:
    """Return (E, 2) pairs of question row and excluded candidate row."""
    pairs = [(question, row) for question, rows in enumerate(excluded) for row in rows]
    return np.array(pairs, np.int64).reshape(-1, 2)


def _check_id(identity: str, location: str) -> None:
    if not identity or identity.isspace():
        raise UserError(location, f"id {identity!r} is empty", "give each question and candidate an id")

"""Hold a retrieval benchmark: questions, candidates and relevance, by language, in columns.

`load_benchmark` reads one of the public benchmarks (`BENCHMARKS`) or a user's folder, always in
one form that is checked before anything is encoded: ids unique, every question with a relevant
candidate, relevant ids in the pool, no empty language.

A question's relevant candidates are listed over all languages; select a pair, a pool or a target language
by `candidate_language`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError
from hbt_dist.data.arrow_texts import StoredTexts, take_texts
from hbt_dist.data.benchmarks.judgements import WAY_OUT, JudgementCounts

_T = TypeVar("_T")


def benchmark_title(name: str, variant: str) -> str:
    """Return name and variant, without a variant that says nothing more."""
    return name if variant in (name, "default") else f"{name} ({variant})"


@dataclass(frozen=True)
class Benchmark:
    """Q question rows, N candidate rows, L languages.

    Attributes:
        name: registry name, such as ``"xquad-r"``.
        variant: what the candidate texts or the part are, such as ``"sentence+context"`` or ``"dev"``.
        languages: codes; a language's index is its position.
        question_ids: (Q,) the same id in every language; a row is (id, language).
        question_language: (Q,) int32.
        question_texts: (Q,).
        question_cluster: (Q,) int64, dense; questions that belong together (one paragraph), for statistics.
        candidate_ids: (N,) unique; inside a language the order of strings is the order of rows.
        candidate_language: (N,) int32.
        candidate_texts: (N,) may repeat.
        relevant_offsets: (Q + 1,) int64; the relevant candidates of question row q are
            ``relevant[relevant_offsets[q]:relevant_offsets[q + 1]]``.
        relevant: flat int64 candidate rows, ascending for each question, over all languages.
            A row from N on is a judged document that is not in the pool: it counts in R and is never found.
        grades: flat float64, how relevant each of `relevant` is, above 0: the gains of nDCG. All 1 when left
            empty.
        question_text_relevant: whether a question's text is among its relevant candidates (sentence
            retrieval: the same sentence in every language). Then the monolingual cells are trivially
            perfect and the multilingual pool holds one trivial hit; the cross-lingual cells are untouched.
        absent_ids: ids of the judged documents that are not in the pool; row N + i of `relevant` is the i-th.
        absent_language: int32 languages of those.
        excluded: (E, 2) int64 pairs of question row and candidate row, ascending; a question's rankings leave
            out its excluded candidates, which are not among its relevant ones.
        judgements: rules of the judgements, with counts.
        fingerprint: SHA-256 over all of the above (without grades that are all 1, without absent documents
            and excluded candidates where there are none); computed when left empty.

    Candidate ids and texts are lists; those of large pools are `StoredTexts`, which read a file on access.
    """

    name: str
    variant: str
    languages: tuple[str, ...]
    question_ids: Sequence[str]
    question_language: NDArray[np.int32]
    question_texts: Sequence[str]
    question_cluster: NDArray[np.int64]
    candidate_ids: Sequence[str]
    candidate_language: NDArray[np.int32]
    candidate_texts: Sequence[str]
    relevant_offsets: NDArray[np.int64]
    relevant: NDArray[np.int64]
    grades: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    question_text_relevant: bool = False
    absent_ids: Sequence[str] = ()
    absent_language: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    excluded: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    judgements: JudgementCounts = field(default=JudgementCounts())
    fingerprint: str = field(default="")

    def __post_init__(self) -> None:
        if not len(self.grades):
            object.__setattr__(self, "grades", np.ones(len(self.relevant)))
        _check(self)
        if not self.fingerprint:
            object.__setattr__(self, "fingerprint", _fingerprint(self))

    def __repr__(self) -> str:
        return (
            f"Benchmark {self.title}: {self.num_questions:,} questions, "
            f"{self.num_candidates:,} candidates in {', '.join(self.languages)}"
        )

    @property
    def title(self) -> str:
        """Return its name for people."""
        return benchmark_title(self.name, self.variant)

    @property
    def num_questions(self) -> int:
        """Return Q: question rows of all languages."""
        return len(self.question_language)

    @property
    def num_candidates(self) -> int:
        """Return N: candidate rows of all languages."""
        return len(self.candidate_language)

    @property
    def on_disk(self) -> bool:
        """Return whether the candidates' texts are read from disk as they are needed."""
        return isinstance(self.candidate_texts, StoredTexts)

    def relevant_of(self, question: int) -> NDArray[np.int64]:
        """Return the rows relevant to a question row, ascending; absent documents from N on."""
        return self.relevant[self.relevant_offsets[question] : self.relevant_offsets[question + 1]]

    @property
    def relevant_in_pool(self) -> NDArray[np.bool_]:
        """Return which of `relevant` are in the pool."""
        return np.asarray(self.relevant) < self.num_candidates

    @property
    def relevant_language(self) -> NDArray[np.int64]:
        """Return the language of each of `relevant`, absent documents included."""
        languages = np.concatenate([self.candidate_language, self.absent_language])
        return languages[self.relevant].astype(np.int64)

    def relevant_ids(self) -> list[str]:
        """Return the id of each of `relevant`, absent documents included."""
        in_pool = self.relevant_in_pool
        ids = iter(take_texts(self.candidate_ids, np.asarray(self.relevant)[in_pool]))
        absent = iter((np.asarray(self.relevant)[~in_pool] - self.num_candidates).tolist())
        return [next(ids) if present else self.absent_ids[next(absent)] for present in in_pool.tolist()]

    def pair_counts(self) -> NDArray[np.int64]:
        """Return (L, L): questions of a language with a relevant candidate in a language, per cell."""
        rows = np.repeat(np.arange(self.num_questions), np.diff(self.relevant_offsets))
        has = np.zeros((self.num_questions, len(self.languages)), bool)
        has[rows, self.relevant_language] = True
        counts = np.zeros((len(self.languages), len(self.languages)), np.int64)
        np.add.at(counts, self.question_language, has.astype(np.int64))
        return counts


def _check(benchmark: Benchmark) -> None:
    """Refuse what would end in a wrong number after hours of encoding."""
    location = f"benchmark {benchmark.name}"
    _check_lengths(benchmark, location)
    rows = zip(benchmark.question_ids, benchmark.question_language.tolist(), strict=True)
    if (twice := _repeated_id(benchmark.candidate_ids)) is not None:
        raise UserError(location, f"candidate id {twice!r} occurs twice", "ids must be unique")
    if (repeated := _first_repeated(rows)) is not None:
        question, language = repeated
        raise UserError(location, f"question {question!r} occurs twice in {benchmark.languages[language]!r}")
    used = np.zeros(len(benchmark.languages), bool)
    for index in (benchmark.question_language, benchmark.candidate_language):
        if index.min() < 0 or index.max() >= len(benchmark.languages):
            raise UserError(location, "a language index is outside the list of languages")
        used[index] = True
    if not used.all():
        empty = [code for code, is_used in zip(benchmark.languages, used, strict=True) if not is_used]
        raise UserError(location, f"no question and no candidate in {', '.join(empty)}", "drop the language")
    _check_relevance(benchmark, location)


def _check_lengths(benchmark: Benchmark, location: str) -> None:
    num_questions, num_candidates = benchmark.num_questions, benchmark.num_candidates
    if not num_questions or not num_candidates:
        raise UserError(
            location, f"has {num_questions} questions and {num_candidates} candidates", "both are needed"
        )
    lengths = {
        "question_ids": (len(benchmark.question_ids), num_questions),
        "question_texts": (len(benchmark.question_texts), num_questions),
        "question_cluster": (len(benchmark.question_cluster), num_questions),
        "candidate_ids": (len(benchmark.candidate_ids), num_candidates),
        "candidate_texts": (len(benchmark.candidate_texts), num_candidates),
        "relevant_offsets": (len(benchmark.relevant_offsets), num_questions + 1),
        "relevant": (len(benchmark.relevant), int(benchmark.relevant_offsets[-1])),
        "grades": (len(benchmark.grades), len(benchmark.relevant)),
        "absent_language": (len(benchmark.absent_language), len(benchmark.absent_ids)),
    }
    for name, (length, expected) in lengths.items():
        if length != expected:
            raise UserError(location, f"{name} has {length} entries", f"expected {expected}")


def _check_relevance(benchmark: Benchmark, location: str) -> None:
    counts = np.diff(benchmark.relevant_offsets)
    if counts.min() < 1:
        row = int(counts.argmin())
        language = benchmark.languages[benchmark.question_language[row]]
        raise UserError(
            location,
            f"question {benchmark.question_ids[row]!r} in {language!r} has no relevant candidate",
            f"remove the question, or add a relevant candidate;\n{WAY_OUT}",
        )
    num_rows = benchmark.num_candidates + len(benchmark.absent_ids)
    if benchmark.relevant.min() < 0 or benchmark.relevant.max() >= num_rows:
        raise UserError(location, "a relevant candidate is not in the pool")
    if not benchmark.relevant_in_pool.any():
        raise UserError(location, "no relevant candidate is in the pool", "do the files belong together?")
    if not (np.isfinite(benchmark.grades) & (benchmark.grades > 0)).all():
        raise UserError(location, "a relevant candidate's grade is not a number above 0")
    steps = np.diff(benchmark.relevant)
    steps[benchmark.relevant_offsets[1:-1] - 1] = 1  # from one question to the next
    if (steps <= 0).any():
        raise UserError(location, "relevant candidates of a question are not ascending and distinct")


def _repeated_id(ids: Sequence[str]) -> str | None:
    """Return an id that occurs twice, if any; takes 8 bytes per id, also for ids on disk."""
    hashes = np.sort(np.fromiter(map(hash, ids), np.int64, len(ids)))
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    return _first_repeated(item for item in ids if hash(item) in suspects) if suspects else None


def _first_repeated(values: Iterable[_T]) -> _T | None:
    seen: set[_T] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def _fingerprint(benchmark: Benchmark) -> str:
    digest = hashlib.sha256(repr((benchmark.name, benchmark.variant, benchmark.languages)).encode())
    digest.update(repr(benchmark.question_text_relevant).encode())
    for texts in (
        benchmark.question_ids,
        benchmark.question_texts,
        benchmark.candidate_ids,
        benchmark.candidate_texts,
    ):
        for text in texts:
            raw = text.encode()
            digest.update(len(raw).to_bytes(8, "little"))
            digest.update(raw)
    for column, kind in (
        (benchmark.question_language, "<i4"),
        (benchmark.question_cluster, "<i8"),
        (benchmark.candidate_language, "<i4"),
        (benchmark.relevant_offsets, "<i8"),
        (benchmark.relevant, "<i8"),
    ):
        digest.update(np.ascontiguousarray(column, dtype=kind).tobytes())
    if (benchmark.grades != 1).any():  # without grades the fingerprint is that of other versions
        digest.update(np.ascontiguousarray(benchmark.grades, dtype="<f8").tobytes())
    if len(benchmark.absent_ids) or len(benchmark.excluded):
        digest.update(repr((list(benchmark.absent_ids), benchmark.absent_language.tolist())).encode())
        digest.update(np.ascontiguousarray(benchmark.excluded, dtype="<i8").tobytes())
    return digest.hexdigest()

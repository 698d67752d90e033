"""Collate what a rank needs of a global batch: token rows of its slice, and the whole batch in integers.

Every rank holds the integers of the whole global batch (it planned them anyway, 8,192 rows take a few
hundred kilobytes); so the masks of the loss need no communication.

Letters: B rows of the global batch, b = B / world_size of this rank, n hard negatives per row,
N = B * (1 + n) passages of the global batch in *gathered order*: rank after rank, each rank's b positives,
then its b * n negatives row by row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import Int64s, derive_key, hash64
from hbt_dist.batching.frozen import Float32s, FrozenVectors, Targets, VectorReader
from hbt_dist.batching.plan import GlobalBatch, RowTransform
from hbt_dist.batching.tokens import ROLES, TokenRows, TokenStore, prefixes_of_rows, replace_rows
from hbt_dist.data.corpus.corpus import Corpus, Role
from hbt_dist.models.settings import TextSettings
from hbt_dist.models.tokenising import tokenise

Value = TypeVar("Value", np.int32, np.int64)


@dataclass(frozen=True)
class LocalBatch:
    """A rank's slice of a global batch."""

    batch: GlobalBatch  # the whole batch
    rank: int
    world_size: int
    questions: TokenRows  # (b)
    passages: TokenRows  # (b * (1 + n)) positives, then negatives row by row
    passage_group_N: NDArray[np.int64]  # group of each gathered passage
    sub_batch_B: NDArray[np.int32]  # sub-batch of each row of the global batch
    sub_batch_N: NDArray[np.int32]  # sub-batch of each gathered passage
    aligned_questions: TokenRows | None = None  # (b) the questions in a second language
    changes: dict[Role, Any] | None = None  # what the transform of the texts counted in this slice
    teacher_scores_bM: NDArray[np.float32] | None = None  # (b, 1 + n), see `teacher_scores`
    frozen: Mapping[str, FrozenVectors] = field(default_factory=dict)  # by name of the frozen model
    targets: Mapping[Role, Targets] = field(default_factory=dict)  # of the roles that have some

    @property
    def passage_language_N(self) -> NDArray[np.int32]:
        """Language of each gathered passage."""
        return gathered_order(self.batch.passage_language, self.batch.negative_language, self.world_size)


@dataclass(frozen=True)
class TokenTransform:
    """Changes the token rows of a slice as a transform changes its texts; tokenises changed texts only.

    Attributes:
        transform: changes the texts.
        corpus: the plan's corpus, with its texts.
        tokenizer, text: as the token store has used them.
    """

    transform: RowTransform
    corpus: Corpus
    tokenizer: Any
    text: TextSettings

    def apply(self, role: Role, batch: GlobalBatch, first_row: int, rows: TokenRows) -> tuple[TokenRows, Any]:
        """Return the token rows of a role with the changed texts, and the counts of the transform."""
        changed = self.transform.change(role, self.corpus, batch, first_row)
        if not changed.texts:
            return rows, changed.counts
        texts, languages = _texts_of(role, self.corpus, batch)
        index = changed.index
        prefixes = prefixes_of_rows(self.corpus, self.text, role, texts[index], languages[index])
        encoded = tokenise(self.tokenizer, changed.texts, self.text.max_tokens(role), prefixes)
        return replace_rows(rows, changed.index, encoded), changed.counts


def collate(
    batch: GlobalBatch,
    corpus: Corpus,
    tokens: TokenStore,
    rank: int = 0,
    world_size: int = 1,
    *,
    aligned_seed: int | None = None,
    transform: TokenTransform | None = None,
) -> LocalBatch:
    """Return the slice of a rank.

    Args:
        batch: the whole global batch.
        corpus, tokens: content of the rows.
        rank, world_size: which slice.
        aligned_seed: the run's seed, to add each question in a second language (`aligned_languages`), which
            no transform changes.
        transform: changes questions and passages, such as code-switching.

    Raises:
        UserError: the rows do not divide among the ranks.
    """
    local = batch.rank_slice(rank, world_size)
    first_row = rank * len(local)
    questions = tokens.questions(*_texts_of("question", corpus, local))
    passages = tokens.passages(*_texts_of("passage", corpus, local))
    aligned: TokenRows | None = None
    changes: dict[Role, Any] | None = None
    if aligned_seed is not None:
        second = aligned_languages(batch, corpus, aligned_seed)
        aligned = tokens.questions(local.example, second[first_row : first_row + len(local)])
    if transform is not None:
        changes = {}
        questions, changes["question"] = transform.apply("question", local, first_row, questions)
        passages, changes["passage"] = transform.apply("passage", local, first_row, passages)
    group_B = np.asarray(corpus.example_group)[batch.example]
    negative_group = np.asarray(corpus.passage_group)[batch.negative]
    sub_batch_of_negative = np.repeat(batch.sub_batch[:, None], batch.negative.shape[1], axis=1)
    return LocalBatch(
        batch=batch,
        rank=rank,
        world_size=world_size,
        questions=questions,
        passages=passages,
        passage_group_N=gathered_order(group_B, negative_group, world_size),
        sub_batch_B=batch.sub_batch,
        sub_batch_N=gathered_order(batch.sub_batch, sub_batch_of_negative, world_size),
        aligned_questions=aligned,
        changes=changes,
        teacher_scores_bM=teacher_scores(local, corpus),
    )


def frozen_vectors(
    reader: VectorReader, corpus: Corpus, batch: GlobalBatch, rank: int, world_size: int, *, every: bool
) -> FrozenVectors:
    """Return the vectors of a rank's slice by a frozen model.

    Args:
        reader: reads them by row.
        corpus: of the rows.
        batch: the whole global batch.
        rank, world_size: which slice.
        every: add those of the whole global batch, which take its bytes once more per rank.
    """
    ranks = range(world_size) if every else [rank]
    slices = [batch.rank_slice(each, world_size) for each in ranks]
    questions, passages = (
        [_of_length_1(reader.read(role, *_texts_of(role, corpus, part))) for part in slices] for role in ROLES
    )
    local = rank if every else 0
    return FrozenVectors(
        questions_bE=questions[local],
        passages_nE=passages[local],
        questions_BE=np.concatenate(questions) if every else None,
        passages_NE=np.concatenate(passages) if every else None,
    )


def target_vectors(
    reader: VectorReader, corpus: Corpus, local: GlobalBatch, roles: Iterable[Role], language: int | None
) -> dict[Role, Targets]:
    """Return what the vectors of a slice's texts are drawn to.

    Args:
        reader: of the teacher's vectors.
        corpus: of the rows.
        local: a rank's slice of a global batch.
        roles: whose texts.
        language: of the translations whose vectors are the targets; None: of the texts themselves.
    """
    return {role: _targets(reader, corpus, local, role, language) for role in roles}


def _targets(
    reader: VectorReader, corpus: Corpus, local: GlobalBatch, role: Role, language: int | None
) -> Targets:
    rows, languages = _texts_of(role, corpus, local)
    if language is None:
        return Targets(reader.read(role, rows, languages), np.ones(len(rows), np.bool_))
    present = has_text(corpus, role, rows, language)
    vectors = np.zeros((len(rows), reader.width), np.float32)
    vectors[present] = reader.read(role, rows[present], np.full(present.sum(), language))
    return Targets(vectors, present)


def has_text(
    corpus: Corpus, role: Role, rows: NDArray[np.integer] | slice, language: int
) -> NDArray[np.bool_]:
    """Return whether examples have a question, or passages a text, in a language: (n,)."""
    if role == "question":
        return corpus.cell_questions[np.asarray(corpus.example_cell[rows]), language]
    return corpus.set_languages[np.asarray(corpus.passage_set[rows]), language]


def _of_length_1(vectors_nE: Float32s) -> Float32s:
    lengths = np.linalg.norm(vectors_nE, axis=1, keepdims=True)
    return vectors_nE / np.maximum(lengths, np.finfo(np.float32).tiny)


def teacher_scores(batch: GlobalBatch, corpus: Corpus) -> NDArray[np.float32] | None:
    """Return the teacher's scores of each row's positive and hard negatives: (rows, 1 + n).

    A score belongs to question and passage in every language. NaN where the data have none, and for negatives
    drawn at random. None: the corpus has no scores.
    """
    if corpus.example_score is None and batch.negative_score is None:
        return None
    scores = np.full((len(batch), 1 + batch.negative.shape[1]), np.nan, np.float32)
    if corpus.example_score is not None:
        scores[:, 0] = corpus.example_score[batch.example]
    if batch.negative_score is not None:
        scores[:, 1:] = batch.negative_score
    return scores


def _texts_of(
    role: Role, corpus: Corpus, batch: GlobalBatch
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return rows and languages of the texts of a role: questions, or positives and then negatives."""
    if role == "question":
        return batch.example, batch.question_language
    positive = np.asarray(corpus.example_passage)[batch.example]
    return (
        np.concatenate([positive, batch.negative.ravel()]),
        np.concatenate([batch.passage_language, batch.negative_language.ravel()]),
    )


def gathered_order(
    positives_B: NDArray[Value], negatives_Bn: NDArray[Value], world_size: int
) -> NDArray[Value]:
    """Return values of the positives (B,) and the negatives (B, n) in gathered order (N,)."""
    by_rank = zip(np.split(positives_B, world_size), np.split(negatives_Bn, world_size), strict=True)
    return np.concatenate([part.ravel() for rank in by_rank for part in rank])


def aligned_languages(batch: GlobalBatch, corpus: Corpus, seed: int) -> Int64s:
    """Return a second question language for each row, to align question languages (LaKDA, arXiv 2509.06195).

    The loss compares how a question and its translation score the same passages. The second language is
    uniform over the example's remaining languages, a pure function of (seed, step). An example with a
    question
    in one language only is paired with itself: it adds nothing to that loss.

    Returns:
        (B,) index into corpus.languages.
    """
    cells = np.asarray(corpus.example_cell)[batch.example]
    has_BL = np.asarray(corpus.cell_questions)[cells].copy()
    rows = np.arange(len(batch))
    has_BL[rows, batch.question_language] = False
    num_B = has_BL.sum(1)
    drawn = hash64(derive_key("aligned", seed, batch.step), rows) % np.maximum(num_B, 1).astype(np.uint64)
    # The (drawn + 1)-th language of the example: where the running count first exceeds the draw.
    second = (np.cumsum(has_BL, axis=1) > drawn.astype(np.int64)[:, None]).argmax(1)
    return np.where(num_B > 0, second, batch.question_language).astype(np.int64)

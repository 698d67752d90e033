"""What one rank needs of a global batch: the token rows of its slice, and the whole batch in integers.

Every rank holds the integers of the whole global batch (it planned them anyway, 8,192 rows take a few
hundred kilobytes); so the masks of the loss need no communication.

Letters: B rows of the global batch, b = B / world_size of this rank, n hard negatives per row,
N = B * (1 + n) passages of the global batch in *gathered order*: rank after rank, each rank's b positives,
then its b * n negatives row by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.aligned import aligned_languages
from hbt_dist.batching.corpus_view import PlanCorpus
from hbt_dist.batching.plan import GlobalBatch
from hbt_dist.batching.tokens import TokenRows, TokenStore
from hbt_dist.methods.code_switching.switcher import Counts, Switcher

Value = TypeVar("Value", np.int32, np.int64)


@dataclass(frozen=True)
class LocalBatch:
    """A rank's slice of a global batch."""

    batch: GlobalBatch  # the whole of it
    rank: int
    world_size: int
    questions: TokenRows  # (b)
    passages: TokenRows  # (b * (1 + n)) positives, then negatives row by row
    passage_group_N: NDArray[np.int64]  # group of each gathered passage
    sub_batch_B: NDArray[np.int32]  # sub-batch of each row of the global batch
    sub_batch_N: NDArray[np.int32]  # sub-batch of each gathered passage
    aligned_questions: TokenRows | None = None  # (b) the questions in a second language, if asked for
    switched: Counts | None = None  # what code-switching did to this slice, where it is on


def collate(
    batch: GlobalBatch,
    corpus: PlanCorpus,
    tokens: TokenStore,
    rank: int = 0,
    world_size: int = 1,
    *,
    aligned_seed: int | None = None,
    switcher: Switcher | None = None,
) -> LocalBatch:
    """Return the slice of a rank.

    Args:
        batch: the whole global batch.
        corpus, tokens: what its rows refer to.
        rank, world_size: which slice.
        aligned_seed: the run's seed, to add each question in a second language (see aligned.py), which is
            never switched.
        switcher: replaces words of questions and passages (code-switching), where it is on.

    Raises:
        UserError: the rows do not divide among the ranks.
    """
    local = batch.rank_slice(rank, world_size)
    positive = np.asarray(corpus.example_passage)[local.example]
    rows = np.concatenate([positive, local.negative.ravel()])
    languages = np.concatenate([local.passage_language, local.negative_language.ravel()])
    group_B = np.asarray(corpus.example_group)[batch.example]
    negative_group = np.asarray(corpus.passage_group)[batch.negative]
    sub_batch_of_negative = np.repeat(batch.sub_batch[:, None], batch.negative.shape[1], axis=1)
    aligned = None
    if aligned_seed is not None:
        second = aligned_languages(batch, corpus, aligned_seed)
        aligned = tokens.questions(local.example, second[rank * len(local) : (rank + 1) * len(local)])
    questions = tokens.questions(local.example, local.question_language)
    passages = tokens.passages(rows, languages)
    switched = None
    if switcher is not None:
        questions, passages, switched = switcher.apply(local, rank * len(local), questions, passages)
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
        switched=switched,
    )


def gathered_order(
    positives_B: NDArray[Value], negatives_Bn: NDArray[Value], world_size: int
) -> NDArray[Value]:
    """Return values of the positives (B,) and the negatives (B, n) in gathered order (N,)."""
    share = len(positives_B) // world_size
    per_rank = [
        part
        for rank in range(world_size)
        for part in (
            positives_B[rank * share : (rank + 1) * share],
            negatives_Bn[rank * share : (rank + 1) * share].ravel(),
        )
    ]
    return np.concatenate(per_rank)

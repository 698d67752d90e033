"""Corpora of integers for the tests of the plan, and hypothesis strategies that draw such corpora."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from hbt_dist.data.corpus.corpus import COLUMNS, Corpus

CODES = ("en", "fi", "ar", "es", "ja", "km", "ko", "ms", "ru", "sv", "tr", "zh")


class ArrayCorpus(Corpus):
    """A corpus of integers; a text is its row and its language."""

    def example_id(self, row: int) -> str:
        return str(row)

    def passage_id(self, row: int) -> str:
        return str(row)

    def question_texts(
        self, language: int | str, start: int = 0, stop: int | None = None
    ) -> list[str | None]:
        return [f"question {row} {language}" for row in range(start, stop or self.num_examples)]

    def passage_texts(self, language: int | str, start: int = 0, stop: int | None = None) -> list[str | None]:
        return [f"passage {row} {language}" for row in range(start, stop or self.num_passages)]


def corpus_from_arrays(
    *,
    languages: Sequence[str],
    example_passage: NDArray[np.int64],
    example_cell: NDArray[np.int32],
    cell_questions: NDArray[np.bool_],
    cell_passages: NDArray[np.bool_],
    example_group: NDArray[np.int64] | None = None,
    example_dataset: NDArray[np.int32] | None = None,
    datasets: Sequence[str] = ("arrays",),
    alignment: Sequence[bool] | None = None,
    passage_group: NDArray[np.int64] | None = None,
    passage_languages: NDArray[np.bool_] | None = None,
    negative_offsets: NDArray[np.int64] | None = None,
    negatives: NDArray[np.int64] | None = None,
    fingerprint: str = "arrays",
) -> Corpus:
    """Make a corpus of integer columns without texts, for planning at any size.

    The defaults of `example_group` and `passage_group` follow the shared passage alone (one group per passage
    with examples, densely numbered by passage row; passages without examples behind them),
    `passage_languages` (P, L) is that of the cell of the passage's first example (all languages for a
    passage without examples), the corpus has one dataset and lacks negatives.
    """
    num_examples = len(example_passage)
    num_passages = 1 + int(
        max(example_passage.max(initial=-1), -1 if negatives is None else negatives.max(initial=-1))
    )
    if passage_languages is not None:
        num_passages = len(passage_languages)
    used = np.zeros(num_passages, bool)
    used[example_passage] = True
    if passage_group is None:
        passage_group = np.where(used, np.cumsum(used) - 1, used.sum() + np.cumsum(~used) - 1)
    if passage_languages is None:
        cells, set_of_cell = np.unique(
            np.vstack([cell_passages, np.ones((1, len(languages)), bool)]), axis=0, return_inverse=True
        )
        passage_set = np.full(num_passages, set_of_cell[-1])
        passage_set[example_passage[::-1]] = set_of_cell[example_cell[::-1]]
    else:
        cells, passage_set = np.unique(passage_languages, axis=0, return_inverse=True)
    columns: dict[str, Any] = {
        "example_passage": example_passage,
        "example_group": passage_group[example_passage] if example_group is None else example_group,
        "example_dataset": np.zeros(num_examples) if example_dataset is None else example_dataset,
        "example_cell": example_cell,
        "passage_group": passage_group,
        "passage_set": passage_set,
        "negative_offsets": np.zeros(num_examples + 1) if negative_offsets is None else negative_offsets,
        "negatives": np.zeros(0) if negatives is None else negatives,
    }
    return ArrayCorpus(
        languages=tuple(languages),
        datasets=tuple(datasets),
        alignment=tuple([False] * len(datasets) if alignment is None else alignment),
        fingerprint=fingerprint,
        folder=Path("without texts"),
        cell_questions=cell_questions,
        cell_passages=cell_passages,
        set_languages=cells,
        **{name: columns[name].astype(kind, copy=False) for name, kind in COLUMNS.items()},
    )


def parallel_corpus(
    num_passages: int = 400,
    most_questions: int = 8,
    num_languages: int = 4,
    *,
    seed: int = 0,
    dataset_sizes: tuple[int, ...] = (1,),
    most_negatives: int = 0,
) -> Corpus:
    """Every example in every language; 1 to `most_questions` questions per passage."""
    random = np.random.default_rng(seed)
    questions = random.integers(1, most_questions + 1, num_passages)
    passage = np.repeat(np.arange(num_passages), questions)
    bounds = np.cumsum(dataset_sizes) / sum(dataset_sizes)
    dataset_of_passage = np.searchsorted(bounds, (np.arange(num_passages) + 0.5) / num_passages)
    negatives = random.integers(0, most_negatives + 1, len(passage))
    return corpus_from_arrays(
        languages=CODES[:num_languages],
        example_passage=passage,
        example_cell=np.zeros(len(passage), np.int32),
        cell_questions=np.ones((1, num_languages), bool),
        cell_passages=np.ones((1, num_languages), bool),
        example_dataset=dataset_of_passage[passage].astype(np.int32),
        datasets=[f"set{number}" for number in range(len(dataset_sizes))],
        negative_offsets=np.concatenate([[0], np.cumsum(negatives)]),
        negatives=random.integers(0, num_passages, negatives.sum()) if most_negatives else None,
    )


def ragged_corpus(
    seed: int,
    *,
    num_passages: int = 300,
    most_questions: int = 4,
    num_languages: int = 4,
    num_cells: int = 5,
    num_datasets: int = 2,
    holds: float = 0.7,
) -> Corpus:
    """Some languages missing per example; every cell has at least two languages on both sides."""
    random = np.random.default_rng(seed)
    cell_passages = random.random((num_cells, num_languages)) < holds
    cell_passages[:, :2] = True
    cell_questions = cell_passages & (random.random(cell_passages.shape) < holds)
    cell_questions[:, :2] = True
    questions = random.integers(1, most_questions + 1, num_passages)
    passage = np.repeat(np.arange(num_passages), questions)
    # Questions of one passage may have other languages than the passage: groups span cells.
    cell = random.integers(0, num_cells, len(passage))
    passage_languages = np.zeros((num_passages, num_languages), bool)
    np.logical_or.at(passage_languages, passage, cell_passages[cell])
    return corpus_from_arrays(
        languages=CODES[:num_languages],
        example_passage=passage,
        example_cell=cell.astype(np.int32),
        cell_questions=cell_questions,
        cell_passages=cell_passages,
        example_dataset=random.integers(0, num_datasets, num_passages)[passage].astype(np.int32),
        datasets=[f"set{number}" for number in range(num_datasets)],
        passage_languages=passage_languages,
    )


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    """Fully or partially parallel corpora of 2 to 5 languages with at least 120 groups."""
    seed = draw(st.integers(0, 2**20))
    num_languages = draw(st.integers(2, 5))
    num_passages = draw(st.integers(120, 260))
    most_questions = draw(st.integers(1, 9))
    if draw(st.booleans()):
        sizes = draw(st.sampled_from([(1,), (1, 1), (5, 3, 1)]))
        return parallel_corpus(num_passages, most_questions, num_languages, seed=seed, dataset_sizes=sizes)
    return ragged_corpus(
        seed,
        num_passages=num_passages,
        most_questions=most_questions,
        num_languages=num_languages,
        num_cells=draw(st.integers(1, 12)),
        num_datasets=draw(st.integers(1, 3)),
    )


MIXTURES = [
    {"alpha": 0.5},
    {"alpha": 1.0},
    {"alpha": 0.0},
    {"alpha": {"schedule": "linear", "start": 1.0, "end": 0.2, "over_steps": 10}},
    {"mixture": {"mixed_monolingual": 1, "any_pair": 1}},
    {"mixture": {"monolingual": 1, "crosslingual": 2, "any_pair": 1}, "mixing": "shares"},
    {
        "mixture": [
            {"kind": "monolingual", "weight": 3, "sub_batches": 3},
            {"kind": "crosslingual", "weight": {"schedule": "cosine", "start": 0, "end": 4, "over_steps": 8}},
            {"kind": "monolingual", "weight": 1, "languages": ["en"]},
        ],
        "mixing": "shares",
    },
    {"alpha": 0.4, "languages": "size", "pairs": {"temperature": 0.5}},
    {"alpha": 0.6, "languages": {"en": 3, "fi": 1}, "pairs": {"en-fi": 2, "fi-en": 1}},
    {"alpha": 0.5, "datasets": {"temperature": 0.3, "order": "dataset_first"}},
    {"mixture": {"tests.batching.own_kinds:from_first": 1, "monolingual": 1}},
    {"mixture": {"tests.batching.own_kinds:pair_batches": 1}, "pairs": {"temperature": 0.5}},
    {
        "mixture": [
            {"kind": "tests.batching.own_kinds:neighbours", "weight": 2},
            {"kind": "tests.batching.own_kinds:pair_batches", "weight": 1, "sub_batches": 2},
        ],
        "mixing": "shares",
    },
]

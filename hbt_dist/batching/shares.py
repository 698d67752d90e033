"""Turn the weights of the run file into a joint share of (cell, language pair) for an entry of the mixture.

A *cell* is the set of examples of one dataset that have the same languages. The joint share is the share of
the entry's rows from each cell in each ordered pair (question language, passage language).

Letters: C cells, P ordered pairs, D datasets, L languages.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import Floats, Int64s
from hbt_dist.batching.kinds import RowPairs, user_pairs
from hbt_dist.batching.settings import BatchSettings, DatasetSettings, MixtureEntry, Temperature, Weights
from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import is_user_function
from hbt_dist.data.corpus.corpus import Corpus

_BLOCK = 1 << 20  # examples that are counted at a time


@dataclass(frozen=True)
class Cells:
    """The examples of a corpus by dataset and languages."""

    of_example: CellOfExample
    num_examples: Int64s  # (C,)
    dataset: Int64s  # (C,)
    questions: NDArray[np.bool_]  # (C, L)
    passages: NDArray[np.bool_]  # (C, L)
    same_text: NDArray[np.bool_]  # (C,) the dataset's question and passage are one text in one language

    @classmethod
    def of(cls, corpus: Corpus) -> Cells:
        """Return the cells of a corpus; empty ones are left out."""
        num_datasets = len(corpus.datasets)
        codes = CellOfExample(corpus, np.arange(len(corpus.cell_questions) * num_datasets, dtype=np.int32))
        counts = np.zeros(len(codes.number), np.int64)
        if len(counts) == 1:
            counts[0] = corpus.num_examples
        else:
            for start in range(0, corpus.num_examples, _BLOCK):
                counts += np.bincount(codes[start : start + _BLOCK], minlength=len(counts))
        present = np.flatnonzero(counts)
        availability = present // num_datasets
        return cls(
            CellOfExample(corpus, np.cumsum(counts > 0, dtype=np.int32) - 1),
            counts[present],
            present % num_datasets,
            np.asarray(corpus.cell_questions)[availability],
            np.asarray(corpus.cell_passages)[availability],
            np.array(corpus.alignment, np.bool_)[present % num_datasets],
        )


@dataclass(frozen=True)
class CellOfExample:
    """Looks up the cell of examples in the corpus; it stores nothing per example."""

    corpus: Corpus
    number: NDArray[np.int32]  # of (cell of the corpus) * datasets + dataset

    def __getitem__(self, examples: slice | NDArray[np.integer]) -> NDArray[np.int32]:
        code = np.asarray(self.corpus.example_cell)[examples]
        if len(self.corpus.datasets) > 1:
            code = code * np.int32(len(self.corpus.datasets))
            code += np.asarray(self.corpus.example_dataset)[examples]
        return self.number[code]


@dataclass(frozen=True)
class Joint:
    """What an entry of the mixture draws: share of each cell in each pair; sums to 1."""

    question: NDArray[np.int32]  # (P,)
    passage: NDArray[np.int32]  # (P,)
    share: Floats  # (C, P)


def joint_share(corpus: Corpus, cells: Cells, settings: BatchSettings, index: int) -> Joint:
    """Return the joint share of entry `index` of the mixture.

    Raises:
        UserError: unknown languages, no example for the kind, weights that name a pair without examples.
    """
    entry = settings.entries()[index]
    location = f"batches.mixture[{index}] ({entry.kind})"
    cells = _cells_of_sources(entry, corpus, cells, location)
    question, passage = _pairs_of(entry, corpus, location)
    available = cells.questions[:, question] & cells.passages[:, passage]  # (C, P)
    available &= ~(cells.same_text[:, None] & (question == passage))
    sizes = cells.num_examples @ available  # (P,)
    if not sizes.any():
        raise _no_example(entry, corpus, cells, location, by_alpha=settings.mixture is None)
    if entry.sources is not None:  # weights by language hold among the languages of the sources
        present = sizes > 0
        question, passage, sizes = question[present], passage[present], sizes[present]
        available = available[:, present]
    weights = _pair_weights(entry, settings, corpus, cells, (question, passage, sizes), location)
    keep = weights > 0
    question, passage, available, weights = question[keep], passage[keep], available[:, keep], weights[keep]
    by_dataset = np.zeros((len(corpus.datasets), len(weights)), np.int64)
    np.add.at(by_dataset, cells.dataset, available * cells.num_examples[:, None])
    if settings.datasets.order == "language_first":
        of_pairs = [dataset_shares(column, settings.datasets, corpus.datasets) for column in by_dataset.T]
        share = np.stack(of_pairs, axis=1) * weights
    else:
        usable = np.zeros(len(corpus.datasets), np.int64)
        np.add.at(usable, cells.dataset, available.any(axis=1) * cells.num_examples)
        within = weights * (by_dataset > 0)
        totals = within.sum(axis=1, keepdims=True)
        within = np.divide(within, totals, out=np.zeros_like(within), where=totals > 0)
        share = dataset_shares(usable, settings.datasets, corpus.datasets)[:, None] * within
    per_example = np.divide(share, by_dataset, out=np.zeros_like(share), where=by_dataset > 0)  # (D, P)
    joint = available * cells.num_examples[:, None] * per_example[cells.dataset]
    if not joint.any():
        raise UserError(
            location,
            "every source that it may draw from has weight 0 in batches.datasets.weights",
            "give one of these sources weight, or leave the entry out",
        )
    return Joint(question.astype(np.int32), passage.astype(np.int32), joint / joint.sum())


def _cells_of_sources(entry: MixtureEntry, corpus: Corpus, cells: Cells, location: str) -> Cells:
    """Return the cells, those of sources that the entry leaves out as empty ones.

    Raises:
        UserError: an unknown source, or a language of the entry that none of its sources has.
    """
    if entry.sources is None:
        return cells
    if unknown := entry.unknown_source(corpus.datasets):
        raise UserError(f"{location}.sources", *unknown)
    chosen = [corpus.datasets.index(name) for name in entry.sources]
    counts = np.where(np.isin(cells.dataset, chosen), cells.num_examples, 0)
    languages = _languages_in(corpus, replace(cells, num_examples=counts))
    lacking = [name for name in entry.languages or () if name in corpus.languages and name not in languages]
    if lacking:
        raise UserError(
            location,
            f"expected examples in {lacking[0]!r}, got {' and '.join(entry.sources)} only in "
            f"{', '.join(languages) or 'no language'}",
            f"take {lacking[0]} out of its languages, or add a source that has it",
        )
    return replace(cells, num_examples=counts)


def _languages_in(corpus: Corpus, cells: Cells) -> list[str]:
    """Return the languages that questions or passages of non-empty cells have."""
    filled = cells.num_examples > 0
    has = np.any(cells.questions[filled] | cells.passages[filled], axis=0)
    return [corpus.languages[number] for number in np.flatnonzero(has)]


def _no_example(
    entry: MixtureEntry, corpus: Corpus, cells: Cells, location: str, *, by_alpha: bool
) -> UserError:
    """Return the error of an entry without examples."""
    without = _ALPHA_WITHOUT[entry.kind] if by_alpha else f"leave {entry.kind} out of batches.mixture"
    holder = "the corpus" if entry.sources is None else " and ".join(entry.sources)
    languages = corpus.languages if entry.sources is None else _languages_in(corpus, cells)
    return UserError(
        location,
        f"{holder} holds no example for it",
        f"languages of {holder}: {', '.join(languages)}; "
        + _NEEDS.get(entry.kind, "needs examples in the pairs that the function gives")
        + f"\n{without}, or add such examples{_SUCH.get(entry.kind, '')}",
    )


_NEEDS = {
    "monolingual": "needs examples with question and passage in one language, and not one text",
    "mixed_monolingual": "needs examples with question and passage in one language, and not one text",
    "crosslingual": "needs examples with the question in one language and the passage in another",
    "any_pair": "needs examples with a question and a passage",
}
_SUCH = {"crosslingual": ": translations of question or passage, or a source across languages"}
_ALPHA_WITHOUT = {
    "monolingual": "set batches.alpha: 0 (crosslingual batches only)",
    "crosslingual": "set batches.alpha: 1 (monolingual batches only)",
}


def _pairs_of(entry: MixtureEntry, corpus: Corpus, location: str) -> tuple[Int64s, Int64s]:
    names = list(corpus.languages)
    if is_user_function(entry.kind):
        pairs = pairs_of_user_kind(entry, corpus, location).pairs
        question, passage = np.array([[names.index(side) for side in pair] for pair in pairs], np.int64).T
        return question, passage
    chosen = np.array([names.index(name) for name in _languages_of(entry, corpus, location)], np.int64)
    question, passage = (grid.ravel() for grid in np.meshgrid(chosen, chosen, indexing="ij"))
    if entry.kind == "any_pair":
        return question, passage
    keep = (question == passage) != (entry.kind == "crosslingual")
    return question[keep], passage[keep]


def pairs_of_user_kind(entry: MixtureEntry, corpus: Corpus, location: str) -> RowPairs:
    """Return the pairs of an entry whose kind is user-defined.

    Raises:
        UserError: the function gives no pairs of the entry's languages, or cannot be imported.
    """
    return user_pairs(entry.kind, _languages_of(entry, corpus, location))


def one_pair_per_batch(entry: MixtureEntry, corpus: Corpus) -> bool:
    """Whether all rows of a batch of this entry have one question language and one passage language."""
    user_defined = is_user_function(entry.kind)
    pairs = pairs_of_user_kind(entry, corpus, "batches.mixture") if user_defined else None
    return entry.kind == "monolingual" if pairs is None else pairs.one_per_batch


def user_kinds_state(corpus: Corpus, settings: BatchSettings) -> dict[str, Any]:
    """Return the pairs of user-defined kinds for a plan's fingerprint; empty for a mixture without them."""
    allowed = {
        f"mixture {index}": pairs_of_user_kind(entry, corpus, f"batches.mixture[{index}]")
        for index, entry in enumerate(settings.entries())
        if is_user_function(entry.kind)
    }
    state = {
        name: {"pairs": ["-".join(pair) for pair in kind.pairs], "one_per_batch": kind.one_per_batch}
        for name, kind in allowed.items()
    }
    return {"own_kinds": state} if state else {}


def _languages_of(entry: MixtureEntry, corpus: Corpus, location: str) -> tuple[str, ...]:
    """Return the languages of an entry in the order of the corpus."""
    names = list(corpus.languages)
    chosen = names if entry.languages is None else entry.languages
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise UserError(
            f"{location}.languages",
            f"the corpus has no language {unknown[0]!r}",
            f"it has: {', '.join(names)}",
        )
    return tuple(name for name in names if name in chosen)


def _pair_weights(
    entry: MixtureEntry,
    settings: BatchSettings,
    corpus: Corpus,
    cells: Cells,
    pairs: tuple[Int64s, Int64s, Int64s],
    location: str,
) -> Floats:
    """Return the weight of each pair (P,), sum 1; a pair without examples gets 0 or, if named, an error."""
    question, passage, sizes = pairs
    names = np.array(corpus.languages)
    if entry.kind == "crosslingual" or is_user_function(entry.kind):
        labels = [f"{names[q]}-{names[p]}" for q, p in zip(question, passage, strict=True)]
        weights = _weigh(settings.pairs, labels, sizes, "batches.pairs", corpus)
    elif entry.kind == "any_pair":
        chosen = np.unique(question)
        labels = [str(names[language]) for language in chosen]
        of_questions, of_passages = (
            _weigh(
                settings.languages, labels, cells.num_examples @ has[:, chosen], "batches.languages", corpus
            )
            for has in (cells.questions, cells.passages)
        )
        weights = (
            of_questions[np.searchsorted(chosen, question)] * of_passages[np.searchsorted(chosen, passage)]
        )
        weights *= sizes > 0
    else:
        labels = [str(names[q]) for q in question]
        weights = _weigh(settings.languages, labels, sizes, "batches.languages", corpus)
    if weights.sum() <= 0:
        raise UserError(
            location, "every language or pair that it may use has weight 0", "give one of them weight"
        )
    return weights / weights.sum()


_TEMPERATURES = {"uniform": 0.0, "size": 1.0}


def _tempered(sizes: Int64s, temperature: float) -> Floats:
    """Return size ** temperature, and 0 for what is empty."""
    return np.where(sizes > 0, sizes.astype(np.float64) ** temperature, 0.0)


def _weigh(rule: Weights, labels: list[str], sizes: Int64s, location: str, corpus: Corpus) -> Floats:
    """Return unnormalised weights of the labelled choices."""
    if not isinstance(rule, dict):
        return _tempered(sizes, rule.temperature if isinstance(rule, Temperature) else _TEMPERATURES[rule])
    names = corpus.languages
    possible = {f"{q}-{p}" for q in names for p in names if q != p} if "pairs" in location else {*names}
    for name, weight in rule.items():
        if name not in possible and name not in labels:
            raise UserError(
                f"{location}.{name}", "the corpus has no such language or pair", f"known: {', '.join(labels)}"
            )
        if name in labels and weight > 0 and sizes[labels.index(name)] == 0:
            raise UserError(
                f"{location}.{name}",
                "has weight, but the corpus has no example for it",
                "take it out, or add data",
            )
    return np.array([rule.get(label, 0.0) for label in labels], np.float64)


def dataset_shares(sizes: Int64s, settings: DatasetSettings, names: tuple[str, ...]) -> Floats:
    """Return the share of each dataset, given its number of usable examples: (D,) -> (D,), sum 1.

    Caps and floors hold among the usable datasets. Impossible bounds (a cap of 0.3 with two datasets) are
    relaxed to the nearest possible bound.
    """
    usable = sizes > 0
    if settings.weights is not None:
        if set(settings.weights) != set(names):
            raise UserError(
                "batches.datasets.weights",
                f"names {', '.join(sorted(settings.weights))}",
                f"name every dataset, 0 leaves one out: {', '.join(names)}",
            )
        weights = np.array([settings.weights[name] for name in names], np.float64) * usable
        if weights.sum() == 0:  # no usable dataset has weight
            return np.zeros(len(sizes))
    else:
        weights = _tempered(sizes, settings.temperature)
    share = weights / weights.sum()
    active = share > 0
    low = min(settings.min_share, 1.0 / active.sum())
    high = max(settings.max_share, 1.0 / active.sum())
    share[active] = _clip_to_sum(share[active], low, high)
    return share


def _clip_to_sum(share: Floats, low: float, high: float) -> Floats:
    """Return clip(scale * share, low, high) with the scale that makes it sum to 1."""
    bottom, top = 0.0, high / share.min() if share.min() > 0 else 1.0
    for _ in range(200):
        scale = (bottom + top) / 2
        if np.clip(scale * share, low, high).sum() < 1:
            bottom = scale
        else:
            top = scale
    clipped = np.clip(top * share, low, high)
    return clipped / clipped.sum()

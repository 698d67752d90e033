"""The refusal of batches that a corpus cannot fill, with remedies that were tried.

Every remedy that the message names was checked as the plan is: with it, nothing is lacking any more. This
sorts the examples again for each, which only a run that is refused pays for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hbt_dist.batching.feasibility import Capacity, Shortfall
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.streams import Streams
from hbt_dist.common.console import counted
from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import is_user_function

_LANGUAGES_TRIED = 4
_NAMED = 6


def refuse_shortfall(capacity: Capacity) -> None:
    """Refuse a plan whose batches the corpus cannot fill.

    Raises:
        UserError: says which rows lack groups, how many there are, and what helps.
    """
    lacking = capacity.shortfall()
    if lacking is None:
        return
    kind, pairs = _kind(capacity, lacking), _listed(_pairs(capacity, lacking))
    if lacking.whole_stream:
        need = f"a batch can need {lacking.rows:,} {kind} rows ({pairs})"
    else:
        size = capacity.settings.global_batch_size
        need = f"a batch of {size:,} {kind} rows needs {lacking.rows:,.1f} on average in {pairs}"
    datasets = sorted({capacity.corpus.datasets[dataset] for dataset in lacking.choices[:, 0]})
    raise UserError(
        "batches.global_batch_size",
        f"{need}, for which {_listed(datasets)} has only {counted(lacking.groups, 'passage')} that may meet "
        "in a batch",
        ", or\n".join([*_remedies(capacity, lacking), _more(lacking)]),
    )


def _more(lacking: Shortfall) -> str:
    """What data would help; with less than two passages no batch has anything to contrast."""
    return "add data" if lacking.groups > 1 else "add data: a batch needs two such passages at least"


def _remedies(capacity: Capacity, lacking: Shortfall) -> Iterator[str]:
    """Return those that work."""
    largest = capacity.largest_batch()
    if largest > 1 or (largest and capacity.settings.hard_negatives.count):  # else nothing to contrast with
        yield f"lower global_batch_size to {largest:,} at most"
    settings = capacity.settings
    if settings.datasets.per == "batch":
        per_row = settings.datasets.model_copy(update={"per": "row"})
        if _works(capacity, {"datasets": per_row}):
            yield "set batches.datasets.per: row"
    kind = _kind(capacity, lacking)
    weights = "pairs" if kind == "crosslingual" or is_user_function(kind) else "languages"
    if (
        not lacking.whole_stream
        and getattr(settings, weights) != "size"
        and _works(capacity, {weights: "size"})
    ):
        yield f"set batches.{weights}: size"
    entry = capacity.streams.each[lacking.stream].shares.entry
    for language in _scarce_languages(capacity, lacking):
        names = settings.entries()[entry].languages or list(capacity.corpus.languages)
        fewer = [name for name in names if name != language]
        mixture = [
            one.model_copy(update={"languages": fewer}) if number == entry else one
            for number, one in enumerate(settings.entries())
        ]
        if fewer and _works(capacity, {"alpha": None, "mixture": mixture}):
            yield f"leave {language} out of batches.mixture[{entry}].languages"
            return


def _works(capacity: Capacity, change: dict[str, Any]) -> bool:
    settings: BatchSettings = capacity.settings.model_copy(update=change)
    try:
        streams = Streams.of(capacity.corpus, capacity.cells, settings, seed=0)
    except UserError:
        return False
    return Capacity(capacity.corpus, capacity.cells, settings, streams).shortfall() is None


def _kind(capacity: Capacity, lacking: Shortfall) -> str:
    return capacity.settings.entries()[capacity.streams.each[lacking.stream].shares.entry].kind


def _pairs(capacity: Capacity, lacking: Shortfall) -> list[str]:
    names, joint = capacity.corpus.languages, capacity.streams.each[lacking.stream].shares.joint
    used = np.unique(lacking.choices[:, 1])
    return [
        names[q] if q == p else f"{names[q]}-{names[p]}"
        for q, p in zip(joint.question[used], joint.passage[used], strict=True)
    ]


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _scarce_languages(capacity: Capacity, lacking: Shortfall) -> list[str]:
    """Return the languages of the rows that lack groups, those with the fewest examples first."""
    joint, cells = capacity.streams.each[lacking.stream].shares.joint, capacity.cells
    used = np.unique(lacking.choices[:, 1])
    languages = np.union1d(joint.question[used], joint.passage[used])
    held = cells.num_examples @ (cells.questions & cells.passages)
    ordered = sorted(languages.tolist(), key=lambda language: (int(held[language]), language))
    return [capacity.corpus.languages[language] for language in ordered[:_LANGUAGES_TRIED]]

"""Count how often a training goes through its data, and name sources that its batches overdraw.

An epoch of a kind gives each example of its languages once; a crosslingual example counts once, with any
pair. Computed from the plan's shares: integers only, no planned row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hbt_dist.batching.counter_random import Floats
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.streams import Stream
from hbt_dist.common.console import counted

_MANY_EPOCHS = 20
_MANY_TIMES = 3.0  # a source's share of the rows, as a multiple of its share of the examples
_LARGE_SHARE = 0.25  # of a kind's rows


@dataclass(frozen=True)
class StreamEpochs:
    """How often a run goes through the examples of a stream."""

    kind: str
    label: str
    num_examples: int
    share: float  #: of all rows of the run
    fewest: float
    most: float


def stream_epochs(plan: BatchPlan, steps: int) -> list[StreamEpochs]:
    """Return the epochs of each stream over a run of `steps` steps."""
    rows = steps * plan.settings.global_batch_size
    return [
        _epochs(plan, stream, float(share), rows)
        for share, stream in zip(stream_shares(plan, steps), plan.streams, strict=True)
    ]


def epochs_by_kind(plan: BatchPlan, steps: int) -> list[str]:
    """Return a line with the epochs of each kind, and a warning if a stream has more than 20.

    Example: ``350 steps = 12.4 epochs of the crosslingual data, 8.1 of the monolingual``.
    """
    streams = [stream for stream in stream_epochs(plan, steps) if stream.share > 0]
    rows = steps * plan.settings.global_batch_size
    epochs = {}
    for kind in dict.fromkeys(stream.kind for stream in streams):
        of_kind = [stream for stream in streams if stream.kind == kind]
        drawn = rows * sum(stream.share for stream in of_kind)
        epochs[kind] = f"{drawn / sum(stream.num_examples for stream in of_kind):.1f}"
    first, *further = epochs
    parts = [f"{epochs[first]} epochs of the {first} data", *(f"{epochs[k]} of the {k}" for k in further)]
    line = f"{counted(steps, 'step')} = {', '.join(parts)}"
    most = max(streams, key=lambda stream: stream.most)
    if most.most <= _MANY_EPOCHS:
        return [line]
    return [
        line,
        f"the {most.kind} data of {most.label} repeat {most.most:.0f} times: above {_MANY_EPOCHS} epochs "
        "models often overfit; lower training.steps, or add data",
    ]


def stream_shares(plan: BatchPlan, steps: int) -> Floats:
    """Return the expected share of the run's rows that each stream gives."""
    of_entries = plan.mixture.probabilities(np.arange(steps, dtype=np.int64)).mean(axis=0)
    return np.array([of_entries[stream.shares.entry] * stream.shares.weight for stream in plan.streams])


def _epochs(plan: BatchPlan, stream: Stream, share: float, rows: int) -> StreamEpochs:
    joint = stream.shares.joint
    pair = [plan.corpus.languages[side[0]] for side in (joint.question, joint.passage)]
    entry = plan.mixture.entries[stream.shares.entry]
    num_examples = np.array([stratum.num_examples for stratum in stream.strata])
    turns = share * rows * np.diff(stream.bounds) / 2.0**32 / stream.rows / num_examples
    return StreamEpochs(
        kind=entry.kind if entry.sources is None else f"{entry.kind} ({' '.join(entry.sources)})",
        label="-".join(dict.fromkeys(pair)) if len(joint.question) == 1 else f"{len(joint.question)} pairs",
        num_examples=int(num_examples.sum()),
        share=share,
        fewest=float(turns.min()),
        most=float(turns.max()),
    )


def overdrawn_sources(plan: BatchPlan, steps: int) -> list[str]:
    """Return a line for each kind in whose rows a source has far more than its share of the examples.

    With equal shares for all languages, a small source that alone has some languages fills their batches.
    """
    cells, names = plan.cells, plan.corpus.datasets
    counts = np.bincount(cells.dataset, weights=cells.num_examples, minlength=len(names))
    of_examples = counts / max(counts.sum(), 1)
    lines = []
    for kind, of_rows in _shares_of_sources(plan, steps):
        times = of_rows / np.maximum(of_examples, 1e-12)
        source = int(np.argmax(np.where(of_rows >= _LARGE_SHARE, times, 0)))
        if of_rows[source] >= _LARGE_SHARE and times[source] >= _MANY_TIMES:
            lines.append(
                f"{of_rows[source]:.0%} of the {kind} rows come from {names[source]}, which has "
                f"{of_examples[source]:.1%} of the examples; batches.languages or batches.datasets weigh them"
            )
    return lines


def _shares_of_sources(plan: BatchPlan, steps: int) -> Iterator[tuple[str, Floats]]:
    """Yield each kind that may draw from all sources, with the share of its rows from each source."""
    shares = stream_shares(plan, steps)
    for number, entry in enumerate(plan.mixture.entries):
        rows = np.zeros(len(plan.corpus.datasets))
        for share, stream in zip(shares, plan.streams, strict=True):
            if stream.shares.entry == number:
                np.add.at(rows, plan.cells.dataset, share * stream.shares.joint.share.sum(axis=1))
        if entry.sources is None and rows.sum() > 0:
            yield entry.kind, rows / rows.sum()

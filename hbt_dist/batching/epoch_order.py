"""Order the examples of a stratum endlessly: without replacement, and no group twice in one batch.

A *stratum* is a set of examples whose rows come in equal measure. Its groups are sorted into classes by size
k (class k: n_k groups, k examples each). In one epoch the groups of a class pass by k times in the same
pseudo-random order, each time with a different example; so the visits of a group are exactly 1/k of the epoch
apart. The classes are woven together evenly by time (item i of M at time (i + phase)/M), and a batch is the
next n items of the weave. As long as n fits between two visits, no group repeats in a batch, and every
example comes once per epoch. A group that is too large for that (k above about epoch/n) gives as many
examples per epoch as fit, and its remaining examples in the next epochs.

Everything is computed from (epoch, position). Only the sorted examples are stored, once per node (strata.py).
8,192 rows take 0.5 ms for every size of the stratum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hbt_dist.batching.counter_random import Int64s, hash64, permute, uniform


@dataclass(frozen=True)
class Stratum:
    """Examples by class and group: example j of group g of class c is pool[base[c] + g * size[c] + j]."""

    size: Int64s  # (J,) examples per group
    groups: Int64s  # (J,) groups of the class
    base: Int64s  # (J,) where the class begins in the pool
    start: int  # where the stratum begins in the pool
    num_examples: int
    num_groups: int

    def examples(self, pool: NDArray[np.integer]) -> Int64s:
        """Return all examples of the stratum."""
        return pool[self.start : self.start + self.num_examples].astype(np.int64)


def fitting_visits(stratum: Stratum, rows: int) -> int:
    """Return how many visits of a group per epoch fit, so that `rows` successive rows hold no group twice.

    Two visits, 1/c of an epoch of N rows apart, enclose more than N/c + 1 - J rows (J classes), so
    c * (rows + J - 1) <= N suffices; one visit always fits. N itself depends on the cap.
    """
    cap = int(stratum.size[-1])
    while cap > 1:
        visits = np.minimum(stratum.size, cap)
        if cap * (rows + len(visits) - 1) <= int((visits * stratum.groups).sum()):
            break
        cap -= 1
    return cap


@dataclass(frozen=True)
class Order:
    """The weave of the strata of a stream, flat over their classes.

    S strata, J classes over all of them.
    """

    stratum: Int64s  # (J,) ascending
    size: Int64s  # (J,)
    groups: Int64s  # (J,)
    base: Int64s  # (J,)
    visits: Int64s  # (J,) per group and epoch
    epoch_rows: Int64s  # (S,)

    @classmethod
    def of(cls, strata: list[Stratum], rows: Int64s) -> Order:
        """Return the order of strata.

        Args:
            rows: (S,) most rows of each stratum that are taken at a time; 0: never two.
        """
        visits = [
            np.minimum(part.size, fitting_visits(part, most)) if most else part.size
            for part, most in zip(strata, rows.tolist(), strict=True)
        ]
        return cls(
            stratum=np.repeat(np.arange(len(strata)), [len(part.size) for part in strata]),
            size=np.concatenate([part.size for part in strata]),
            groups=np.concatenate([part.groups for part in strata]),
            base=np.concatenate([part.base for part in strata]),
            visits=np.concatenate(visits),
            epoch_rows=np.array([v @ part.groups for v, part in zip(visits, strata, strict=True)], np.int64),
        )

    def take(self, key: int, epoch: Int64s, start: Int64s, count: Int64s) -> tuple[Int64s, Int64s]:
        """Return (stratum, row in the pool) of the next `count` rows of every stratum.

        Args:
            key: of the stream.
            epoch: (S,) of each stratum.
            start: (S,) position inside the epoch; start + count <= epoch_rows.
            count: (S,) rows to take.
        """
        used = np.flatnonzero(count[self.stratum] > 0)
        stratum, size, groups = self.stratum[used], self.size[used], self.groups[used]
        visits = self.visits[used]
        class_keys = hash64(hash64(key, epoch[stratum]), used)
        phase = uniform(class_keys, np.zeros(len(used), np.int64))
        items, totals = visits * groups, self.epoch_rows[stratum]
        before = _woven_counts(stratum, items / totals, phase, start[stratum])
        after = _woven_counts(stratum, items / totals, phase, (start + count)[stratum])
        number = np.maximum(after - before, 0)
        of = np.repeat(np.arange(len(used)), number)
        item = np.repeat(before - (np.cumsum(number) - number), number) + np.arange(len(of))
        visit, slot = item // groups[of], item % groups[of]
        group = permute(slot, groups[of], class_keys[of])
        # The example that a group shows: if every example has a visit, all of them once per epoch, in a
        # rotation that changes with the epoch; otherwise the examples that follow those of the last epoch.
        whole = visits[of] == size[of]
        turn_key = np.where(whole, class_keys[of], hash64(key, used)[of])
        turn = (hash64(turn_key, group + 1) % size[of].astype(np.uint64)).astype(np.int64)
        member = (turn + visit + np.where(whole, 0, epoch[stratum[of]] * visits[of])) % size[of]
        return stratum[of], self.base[used][of] + group * size[of] + member


def _woven_counts(
    stratum: Int64s, rate: NDArray[np.float64], phase: NDArray[np.float64], position: Int64s
) -> Int64s:
    """Return the number of items of each class among the first `position` items of its stratum's weave.

    Item i of a class comes at time (i + phase) / rate; the rates of a stratum sum to 1, so about p items
    have come at time p. Counting at a time that is certainly early leaves at most J items, which are sorted.
    All arguments are per class (J,), `stratum` ascending.
    """
    firsts = np.flatnonzero(np.concatenate([[True], stratum[1:] != stratum[:-1]]))
    classes = np.diff(np.append(firsts, len(stratum)))
    if len(classes) == len(stratum):  # one class per stratum
        return position.copy()
    spread = np.add.reduceat(phase, firsts)
    early = position - np.repeat(classes - spread, classes)
    counts = np.maximum(np.ceil(rate * early - phase), 0).astype(np.int64)
    missing = position[firsts] - np.add.reduceat(counts, firsts)
    room = (rate * np.repeat(classes, classes)).astype(np.int64) + 2
    candidates = np.where(np.repeat(missing, classes) > 0, room, 0)
    of = np.repeat(np.arange(len(stratum)), candidates)
    item = np.arange(len(of)) - np.repeat(np.cumsum(candidates) - candidates, candidates) + counts[of]
    order = np.lexsort((of, (item + phase[of]) / rate[of], stratum[of]))
    sorted_stratum = np.searchsorted(stratum[firsts], stratum[of][order])
    per_stratum = np.add.reduceat(candidates, firsts)
    rank = np.arange(len(of)) - (np.cumsum(per_stratum) - per_stratum)[sorted_stratum]
    chosen = order[rank < missing[sorted_stratum]]
    return counts + np.bincount(of[chosen], minlength=len(stratum))

"""Group examples and passages that must not meet in a batch: connected by passages and equal texts.

An example is in the group of its passage. Equal texts in one language join two passages: of the passages
themselves, or of questions on them. Hashes are 64-bit and only keep examples apart: a collision (expected
3e-6 of them in 10 million texts) merges two groups without need. Languages follow each other; a language
costs a sort of its hashes in parts, and `scipy.sparse.csgraph` on the passages that it joins.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from hbt_dist.data.invisible import without_format

_SORTED_AT_ONCE = 1 << 21


def hash64(text: str) -> int:
    """Return a 64-bit hash of a text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def text_hash(text: str) -> int:
    """Return a 64-bit hash of a text that ignores case, NFKC forms, white space and format marks."""
    if text.isascii():
        return hash64(" ".join(text.lower().split()))
    plain = unicodedata.normalize("NFKC", text).casefold()
    return hash64(" ".join(without_format(" ".join(plain.split())).split()))


def equal_pairs(rows: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return (n, 2) pairs of rows with equal hashes, enough to connect all equal rows.

    Args:
        rows: (m,) the rows that have a text.
        hashes: (m,) the hash of each row's text.
    """
    bits = (len(hashes) // _SORTED_AT_ONCE).bit_length()  # parts of hashes with the same first bits
    pairs = []
    for part in range(1 << bits):
        chosen = _part(hashes, bits, part) if bits else np.arange(len(hashes))
        chosen = chosen[np.argsort(hashes[chosen], kind="stable")]
        ordered = hashes[chosen]
        same = np.flatnonzero(ordered[1:] == ordered[:-1])
        pairs.append(np.stack([rows[chosen[same]], rows[chosen[same + 1]]], axis=1))
    return np.concatenate(pairs)


def _part(hashes: NDArray[np.uint64], bits: int, part: int) -> NDArray[np.int64]:
    """Return the positions of the hashes whose first bits are `part`."""
    shift, size = np.uint64(64 - bits), _SORTED_AT_ONCE
    starts = range(0, len(hashes), size)
    return np.concatenate(
        [start + np.flatnonzero(hashes[start : start + size] >> shift == part) for start in starts]
    )


def merge_groups(
    example_passage: NDArray[np.int64],
    num_passages: int,
    question_pairs: Iterable[NDArray[np.int64]],
    passage_pairs: Iterable[NDArray[np.int64]],
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return the groups of examples and of passages.

    Args:
        example_passage: (E,) passage row of each example.
        question_pairs: (n, 2) example rows with an equal question, one array per language.
        passage_pairs: (n, 2) passage rows with an equal text, one array per language.

    Returns:
        (E,) and (P,) group numbers. Groups with examples are 0..G-1 in the order of their first example;
        groups of passages without examples follow.
    """
    num_examples, num_nodes = len(example_passage), len(example_passage) + num_passages
    dtype: type[np.integer] = np.int32 if num_nodes < 2**31 else np.int64
    joined: NDArray[np.integer] = np.arange(
        num_passages, dtype=dtype
    )  # (P,) the first passage of the group of each passage
    for pairs in question_pairs:
        joined = _join(joined, example_passage[pairs])
    for pairs in passage_pairs:
        joined = _join(joined, pairs)
    # Number by first appearance, examples before passages. The first of several assignments comes last.
    first = np.zeros(num_passages, dtype)
    first[joined[::-1]] = np.arange(num_examples, num_nodes, dtype=dtype)[::-1]
    first[joined[example_passage[::-1]]] = np.arange(num_examples, dtype=dtype)[::-1]
    appears = np.zeros(num_nodes, np.bool_)
    appears[first[joined]] = True
    number = np.cumsum(appears, dtype=dtype)[first] - 1  # (P,) of the group whose first passage it is
    passage_group = number[joined]
    return passage_group[example_passage], passage_group


def _join(joined: NDArray[np.integer], pairs: NDArray[np.integer]) -> NDArray[np.integer]:
    """Return the first passage of the group of each passage (P,) after joining pairs (n, 2) of passages."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = joined[pairs]
    edges = edges[edges[:, 0] != edges[:, 1]]
    if not len(edges):
        return joined
    passages, ends = np.unique(edges, return_inverse=True)
    ends = ends.reshape(edges.shape)
    graph = coo_array(
        (np.ones(len(ends), np.bool_), (ends[:, 0], ends[:, 1])), shape=(len(passages), len(passages))
    )
    component = connected_components(graph, directed=False)[1]
    first_of_component = passages[np.unique(component, return_index=True)[1]]
    moved = np.arange(len(joined), dtype=joined.dtype)
    moved[passages] = first_of_component[component]
    return moved[joined]

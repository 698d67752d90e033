"""Group examples and passages that must not meet in a batch: connected by passages and equal texts.

Nodes are the E examples and, after them, the P passages. Edges join an example with its passage, and
neighbours with the same text hash in one language. Hashes are 64-bit and only keep examples apart: a
collision (expected 3e-6 of them in 10 million texts) merges two groups without need.
Vectorised: one sort per language and one pass of `scipy.sparse.csgraph`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def hash64(text: str) -> int:
    """Return a 64-bit hash of a text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def text_hash(text: str) -> int:
    """Return a 64-bit hash of a text that ignores case, compatibility forms (NFKC) and white space."""
    plain = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return hash64(" ".join(plain.split()))


def equal_pairs(rows: NDArray[np.int64], hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return (n, 2) pairs of rows with equal hashes, enough to connect all equal rows.

    Args:
        rows: (m,) the rows that have a text.
        hashes: (m,) the hash of each row's text.
    """
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    return np.stack([rows[order[same]], rows[order[same + 1]]], axis=1)


def merge_groups(
    example_passage: NDArray[np.int64],
    num_passages: int,
    question_pairs: Iterable[NDArray[np.int64]],
    passage_pairs: Iterable[NDArray[np.int64]],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the groups of examples and of passages.

    Args:
        example_passage: (E,) passage row of each example.
        question_pairs: (n, 2) example rows with an equal question, one array per language.
        passage_pairs: (n, 2) passage rows with an equal text, one array per language.

    Returns:
        (E,) and (P,) group numbers. Groups with examples are 0..G-1 in the order of their first example;
        groups of passages without examples follow.
    """
    num_examples = len(example_passage)
    edges = [np.stack([np.arange(num_examples), num_examples + example_passage], axis=1)]
    edges += list(question_pairs)
    edges += [pairs + num_examples for pairs in passage_pairs]
    joined = np.concatenate(edges)
    num_nodes = num_examples + num_passages
    graph = coo_array(
        (np.ones(len(joined), bool), (joined[:, 0], joined[:, 1])), shape=(num_nodes, num_nodes)
    )
    num_groups, label = connected_components(graph, directed=False)
    # Number by first appearance, examples first: examples are the first nodes.
    first = np.full(num_groups, num_nodes, np.int64)
    np.minimum.at(first, label, np.arange(num_nodes))
    number = np.empty(num_groups, np.int64)
    number[np.argsort(first)] = np.arange(num_groups)
    group = number[label]
    return group[:num_examples], group[num_examples:]

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hbt_dist.data.corpus import duplicate_groups
from hbt_dist.data.corpus.duplicate_groups import equal_pairs, merge_groups, text_hash


@given(
    st.lists(st.sampled_from([0, 1, 2, 2**62, 2**62 + 1, 2**63, 2**64 - 1])),
    st.integers(0, 3),
    st.sampled_from([1, 2, 7, 100]),
)
def test_equal_pairs_connect_exactly_the_equal(values: list[int], gap: int, at_once: int) -> None:
    rows = np.arange(len(values)) * (gap + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(duplicate_groups, "_SORTED_AT_ONCE", at_once)
        pairs = equal_pairs(rows, np.array(values, np.uint64)).tolist()
    value_of = dict(zip(rows.tolist(), values, strict=True))
    assert all(value_of[a] == value_of[b] and a != b for a, b in pairs)
    assert len(pairs) == len(values) - len(set(values))  # a forest that spans every class of equals


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12),
    st.lists(st.integers(0, 3), min_size=6, max_size=6),
)
def test_groups_are_those_of_brute_force(examples: list[tuple[int, int, int]], texts: list[int]) -> None:
    """Examples are (passage, English question, Finnish question); passages have one text each."""
    passage = np.array([one[0] for one in examples])
    rows = np.arange(len(examples))
    questions = [equal_pairs(rows, np.array([one[k] for one in examples], np.uint64)) for k in (1, 2)]
    passages = [equal_pairs(np.arange(6), np.array(texts, np.uint64))]
    example_group, passage_group = merge_groups(passage, 6, questions, passages)

    def related(a: int, b: int) -> bool:  # nodes 0..E-1 are examples, then passages
        if a >= len(examples) and b >= len(examples):
            return texts[a - len(examples)] == texts[b - len(examples)]
        if a >= len(examples) or b >= len(examples):
            few, many = min(a, b), max(a, b)
            return examples[few][0] == many - len(examples)
        return examples[a][1] == examples[b][1] or examples[a][2] == examples[b][2]

    num = len(examples) + 6
    label = list(range(num))
    for _ in range(num):  # the smallest label spreads until nothing changes
        for a, b in itertools.combinations(range(num), 2):
            if related(a, b):
                label[a] = label[b] = min(label[a], label[b])
    group = np.concatenate([example_group, passage_group])
    for a, b in itertools.combinations(range(num), 2):
        assert (label[a] == label[b]) == (group[a] == group[b])
    assert sorted(set(example_group.tolist())) == list(range(example_group.max() + 1))  # dense over examples
    assert sorted(set(group.tolist())) == list(range(group.max() + 1))


@pytest.mark.parametrize(
    ("one", "other"),
    [("Turku", "TURKU"), ("a  b", " a b\n"), ("ﬁ", "fi"), ("Straße", "STRASSE"), ("①", "1"), ("Ａ", "a")],
)
def test_spelling_that_means_nothing_is_ignored(one: str, other: str) -> None:
    assert text_hash(one) == text_hash(other)


def test_other_texts_have_other_hashes() -> None:
    texts = ["Turku", "Tartu", "тарту", "tarttu", "ab", "a b", "é", "e"]
    assert len({text_hash(text) for text in texts}) == len(texts)

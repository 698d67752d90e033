"""The benchmark of large corpora, at toy size: what it writes is a corpus, and its table has every row."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.data import scale
from hbt_dist.data.corpus.corpus import Corpus
from tests.helpers.ranks import ROOT


@pytest.mark.parametrize("num_languages", [1, 9])
def test_its_corpora_are_consistent(
    tmp_path: Path, num_languages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scale, "_BLOCK", 1000)
    corpus = Corpus.open(scale.write_corpus(tmp_path / "corpus", 3500, num_languages))
    assert (corpus.num_examples, len(corpus.languages)) == (3500, num_languages)
    assert np.unique(corpus.example_passage).tolist() == list(range(corpus.num_passages))
    firsts = np.unique(corpus.example_passage, return_index=True)[1]
    assert (np.diff(firsts) > 0).all()  # as the builder numbers them
    of_passage = corpus.set_languages[corpus.passage_set[corpus.example_passage]]
    assert (corpus.cell_passages[corpus.example_cell] == of_passage).all()
    assert (corpus.passage_group[corpus.example_passage] == corpus.example_group).all()


@pytest.mark.slow
def test_the_table_has_every_start(tmp_path: Path) -> None:
    out = tmp_path / "out"
    scale.main(["--scratch", str(tmp_path), "--out", str(out), "--size", "200000,9", "--ranks", "1", "2"])
    rows = json.loads((out / "corpus_scale.json").read_text("utf-8"))["results"]
    assert [(row["ranks"], row["start"]) for row in rows] == [
        (ranks, start) for ranks in (1, 2) for start in ("first", "second")
    ]
    assert all(row["plan, s"] > 0 and row["shared by the node, MB"] > 0 for row in rows)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_shipped_table_has_both_sizes() -> None:
    document = json.loads((ROOT / "benchmarks" / "results" / "corpus_scale.json").read_text("utf-8"))
    assert scale.page(document) == (ROOT / "benchmarks/results/corpus_scale.md").read_text("utf-8")
    sizes = {(row["examples"], row["languages"], row["ranks"]) for row in document["results"]}
    assert sizes == {(*size, ranks) for size in scale.SIZES for ranks in (1, 4)}

"""The sorted pool of a plan: equal to a plain sort, in blocks of every size, in memory and in files."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hbt_dist.batching import strata
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.shares import Cells
from hbt_dist.batching.strata import build_strata, sort_by_group
from hbt_dist.common.errors import UserError
from hbt_dist.data import shared_arrays
from hbt_dist.data.corpus.corpus import COLUMNS, LANGUAGE_TABLES, Corpus
from tests.batching.corpora import MIXTURES, corpora, corpus_from_arrays, ragged_corpus


def plain_pool(corpus: Corpus, cell_sets: list[tuple[int, ...]]) -> list[int]:
    """Each stratum by (size of its groups, group, example), the plain way."""
    pool: list[int] = []
    cell_of = plain_cells(corpus)
    for members in dict.fromkeys(cell_sets):
        rows = np.flatnonzero(np.isin(cell_of, members))
        group = corpus.example_group[rows]
        size = np.bincount(group)[group]
        pool += rows[np.lexsort((rows, group, size))].tolist()
    return pool


def plain_cells(corpus: Corpus) -> np.ndarray[Any, np.dtype[np.int64]]:
    pairs = np.stack([corpus.example_cell, corpus.example_dataset], axis=1)
    return np.unique(pairs, axis=0, return_inverse=True)[1].ravel()


def shuffled(corpus: Corpus, seed: int) -> Corpus:
    """Number the groups at random, with some merged: not in the order of the examples."""
    random = np.random.default_rng(seed)
    number = random.permutation(int(corpus.passage_group.max()) + 1)
    number[number % 7 == 3] = number[0]
    dense = np.unique(number[corpus.example_group], return_inverse=True)[1].ravel()
    return replace(corpus, example_group=dense.astype(np.int64))


@settings(max_examples=60, deadline=None)
@given(corpora(), st.integers(0, 2**20), st.sampled_from([1, 3, 16, 100, 1 << 20]), st.booleans())
def test_the_pool_is_a_plain_sort(corpus: Corpus, seed: int, block: int, mixed: bool) -> None:
    corpus = shuffled(corpus, seed) if mixed else corpus
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strata, "BLOCK", block)
        cells = Cells.of(corpus)
        assert (cells.of_example[:] == plain_cells(corpus)).all()
        num_cells = len(cells.num_examples)
        random = np.random.default_rng(seed)
        sets = [tuple(np.flatnonzero(random.random(num_cells) < 0.5).tolist()) for _ in range(3)]
        sets = [members for members in [*sets, tuple(range(num_cells)), (0,)] if members]
        pool, by_set = build_strata(corpus, cells, sets)
    assert pool.tolist() == plain_pool(corpus, sets)
    for members, stratum in by_set.items():
        examples = np.flatnonzero(np.isin(plain_cells(corpus), members))
        assert sorted(stratum.examples(pool)) == examples.tolist()
        groups, sizes = np.unique(corpus.example_group[examples], return_counts=True)
        assert (stratum.num_groups, stratum.num_examples) == (len(groups), len(examples))
        assert dict(zip(stratum.size, stratum.groups, strict=True)) == dict(
            zip(*np.unique(sizes, return_counts=True), strict=True)
        )
        for size, count, base in zip(stratum.size, stratum.groups, stratum.base, strict=True):
            of_class = corpus.example_group[pool[base : base + size * count]].reshape(count, size)
            assert (of_class == of_class[:, :1]).all()


def test_rows_and_groups_of_any_size_are_sorted() -> None:
    rows = np.array([7, 2**40, 3, 5, 2**40 + 1])
    group = np.array([2**41, 4, 2**41, 4, 4])
    by_group = sort_by_group(rows, group)
    assert by_group[0].tolist() == [5, 2**40, 2**40 + 1, 3, 7]
    assert by_group[1].tolist() == [4, 4, 4, 2**41, 2**41]


def written(corpus: Corpus, folder: Path) -> Path:
    """Write the columns of a corpus of arrays in the stored form."""
    folder.mkdir(parents=True)
    for name in (*COLUMNS, *LANGUAGE_TABLES):
        np.save(folder / f"{name}.npy", getattr(corpus, name))
    names = ("languages", "datasets", "alignment", "fingerprint", "prefixes")
    (folder / "manifest.json").write_text(json.dumps({name: getattr(corpus, name) for name in names}))
    return folder


def digest(corpus: Corpus, block: dict[str, Any]) -> str:
    """Every row of some batches as one digest."""
    plan = BatchPlan(corpus, BatchSettings.model_validate({"global_batch_size": 48, **block}), 7)
    columns = [
        getattr(batch, name).tobytes()
        for batch in map(plan.batch, (0, 1, 2, 1000))
        for name in ("example", "question_language", "passage_language", "negative")
    ]
    return hashlib.sha256(b"".join(columns)).hexdigest()


@pytest.fixture
def in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_arrays, "IN_MEMORY_BYTES", 0)


@pytest.mark.parametrize("mixture", range(len(MIXTURES)))
@pytest.mark.usefixtures("in_files")
def test_batches_from_files_are_those_from_memory(tmp_path: Path, mixture: int) -> None:
    block = {**MIXTURES[mixture], "hard_negatives": {"count": 2}}
    corpus = ragged_corpus(mixture)
    want = digest(corpus, block)
    assert not list(tmp_path.iterdir())
    stored = Corpus.open(written(corpus, tmp_path / "corpus"))
    assert digest(stored, block) == want
    names = {path.name.split("-")[0] for path in tmp_path.iterdir() if path.is_dir()}
    assert names - {"passages"} == {"corpus", "plan"}
    assert mixture or "passages" in names  # rows in languages that every passage has need no list
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strata._Sorting, "sort", None)  # the second plan only maps the file
        assert digest(stored, block) == want


@pytest.mark.usefixtures("in_files")
def test_settings_with_the_same_strata_share_a_file(tmp_path: Path) -> None:
    corpus = Corpus.open(written(ragged_corpus(1), tmp_path / "corpus"))
    for alpha, expected in ((0.3, 1), (0.6, 1), (1.0, 2)):
        BatchPlan(corpus, BatchSettings(global_batch_size=16, alpha=alpha), 1)
        assert len([path for path in tmp_path.glob("plan-*") if path.is_dir()]) == expected


def _digest_of_folder(folder: Path, block: dict[str, Any]) -> tuple[str, int]:
    shared_arrays.IN_MEMORY_BYTES = 0
    calls = []
    sort = strata._Sorting.sort

    def counted(self: Any, *arguments: Any) -> Any:
        calls.append(1)
        return sort(self, *arguments)

    strata._Sorting.sort = counted  # type: ignore[method-assign]
    return digest(Corpus.open(folder), block), len(calls)


def test_processes_of_a_node_sort_once(tmp_path: Path) -> None:
    corpus = ragged_corpus(3)
    folder = written(corpus, tmp_path / "corpus")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.starmap(_digest_of_folder, [(folder, {"alpha": 0.5})] * 3, chunksize=1)
    assert {text for text, _ in results} == {digest(corpus, {"alpha": 0.5})}
    assert sum(count for _, count in results) == 1


@pytest.mark.usefixtures("in_files")
def test_an_interrupted_sort_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = ragged_corpus(4)
    stored = Corpus.open(written(corpus, tmp_path / "corpus"))
    with monkeypatch.context() as patch:

        def interrupt(*_: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(strata._Sorting, "_write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            digest(stored, {"alpha": 0.5})
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["corpus"]
    assert digest(stored, {"alpha": 0.5}) == digest(corpus, {"alpha": 0.5})


@pytest.mark.usefixtures("in_files")
def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = ragged_corpus(5)
    stored = Corpus.open(written(corpus, tmp_path / "cache" / "corpus"))
    (tmp_path / "local").mkdir()
    monkeypatch.setattr(shared_arrays.tempfile, "tempdir", str(tmp_path / "local"))
    monkeypatch.setattr(shared_arrays.os, "access", lambda *_: False)  # root may write everywhere
    assert digest(stored, {"alpha": 0.5}) == digest(corpus, {"alpha": 0.5})
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["corpus"]
    [folder] = (tmp_path / "local").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert any(path.name.startswith("plan-") for path in folder.iterdir())


@pytest.mark.usefixtures("in_files")
def test_no_file_holds_the_rows_that_only_the_sort_needs(tmp_path: Path) -> None:
    stored = Corpus.open(written(shuffled(ragged_corpus(6), 1), tmp_path / "corpus"))
    digest(stored, {"alpha": 0.5})
    [folder] = [path for path in tmp_path.glob("plan-*") if path.is_dir()]
    assert sorted(path.name for path in folder.iterdir()) == ["array.npy", "manifest.json"]


def test_a_small_corpus_makes_no_file(tmp_path: Path) -> None:
    stored = Corpus.open(written(ragged_corpus(7), tmp_path / "corpus"))
    digest(stored, {"alpha": 0.5})
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_one_giant_group() -> None:
    corpus = corpus_from_arrays(
        languages=["en"],
        example_passage=np.zeros(1000, np.int64),
        example_cell=np.zeros(1000, np.int32),
        cell_questions=np.ones((1, 1), bool),
        cell_passages=np.ones((1, 1), bool),
    )
    pool, by_set = build_strata(corpus, Cells.of(corpus), [(0,)])
    assert pool.tolist() == list(range(1000))
    assert by_set[0,].size.tolist() == [1000]


def _error_with_small_files(folder: Path) -> str:
    shared_arrays.IN_MEMORY_BYTES = 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    try:
        return digest(Corpus.open(folder), {"alpha": 0.5})
    except UserError as error:
        return str(error)


def test_a_file_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = written(ragged_corpus(8), tmp_path / "corpus")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        [text] = pool.map(_error_with_small_files, [folder])
    assert "plan-" in text
    assert "cannot be written: File too large" in text
    assert "free some disk space" in text
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["corpus"]

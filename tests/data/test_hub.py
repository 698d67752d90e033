"""Benchmarks without a data folder: from a hub cache in its standard layout, without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.data.benchmarks.registry import BENCHMARKS
from hbt_dist.data.hub import ELSEWHERE, HUB, HubFiles

Write = Callable[[str, Iterable[object]], Path]
Put = Callable[[HubFiles, str, Path], None]

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which cannot be reached."""
    cache = tmp_path / "home/hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture
def put(hub: Path) -> Put:
    """Put a file into the cache as a download leaves it: a blob, and a link in the snapshot of a commit."""

    def put(files: HubFiles, name: str, source: Path) -> None:
        repository = hub / f"datasets--{files.repository.replace('/', '--')}"
        commit = files.revision
        if "/" in commit:  # a branch
            commit = COMMIT
            (repository / "refs" / files.revision).parent.mkdir(parents=True, exist_ok=True)
            (repository / "refs" / files.revision).write_text(commit)
        blob = repository / "blobs" / name.replace("/", "_")
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(source.read_bytes())
        link = repository / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))

    return put


@pytest.fixture
def miracl(put: Put, write_lines: Write, tmp_path: Path) -> Benchmark:
    """MIRACL in the cache; the same as read from a folder."""
    for language in ("fi", "sw"):
        stem = f"miracl-v1.0-{language}"
        rows = {
            f"{stem}/topics/topics.{stem}-dev.tsv": (0, ["7\tmikä", "8\tmissä"]),
            f"{stem}/qrels/qrels.{stem}-dev.tsv": (0, ["7 Q0 1#0 1", "8\tQ0\t1#1\t1"]),
            f"miracl-corpus-v1.0-{language}/docs-0.jsonl.gz": (
                1,
                [json.dumps({"docid": f"1#{i}", "title": "T", "text": f"{i}"}) for i in range(3)],
            ),
        }
        for name, (repository, lines) in rows.items():
            put(HUB["miracl"][repository], name, write_lines(f"folder/{name}", lines))
    return load_benchmark("miracl", tmp_path / "folder")


def test_miracl_from_two_repositories(miracl: Benchmark, tmp_path: Path) -> None:
    assert load_benchmark("miracl").fingerprint == miracl.fingerprint
    assert load_benchmark("miracl", languages=["sw"]).languages == ("sw",)
    stored = load_benchmark("miracl", cache_dir=tmp_path / "cache", memory_bytes=0)
    assert stored.on_disk
    assert stored.fingerprint == miracl.fingerprint
    with pytest.raises(UserError, match="has no 'te'"):
        load_benchmark("miracl", languages=["te"])


def test_with_the_real_environment(miracl: Benchmark, hub: Path) -> None:
    code = "import hbt_dist as hbt; print(hbt.load_benchmark('miracl').fingerprint)"
    environment = {**os.environ, "HF_HOME": str(hub.parent), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.strip() == miracl.fingerprint, done.stderr


def test_belebele(put: Put, write_lines: Write, tmp_path: Path) -> None:
    row = {"link": "u1", "question_number": 1, "flores_passage": "passage", "question": "?"}
    for code in ("fin_Latn", "eng_Latn"):
        put(HUB["belebele"][0], f"data/{code}.jsonl", write_lines(f"folder/{code}.jsonl", [row]))
    found = load_benchmark("belebele")
    assert found.languages == ("en", "fi")
    assert found.fingerprint == load_benchmark("belebele", tmp_path / "folder").fingerprint


def test_tatoeba_is_that_of_the_text_files(put: Put, tmp_path: Path) -> None:
    pairs = {"fin": [("yksi", "one"), ("kaksi", "two")], "est": [("üks", "one")]}
    lines = tmp_path / "lines"
    lines.mkdir()
    for code, rows in pairs.items():
        table = pa.table({"sentence1": [a for a, _ in rows], "sentence2": [b for _, b in rows]})
        pq.write_table(table, tmp_path / "0000.parquet")
        put(HUB["tatoeba"][0], f"{code}-eng/test/0000.parquet", tmp_path / "0000.parquet")
        for side, suffix in ((0, code), (1, "eng")):
            text = "".join(f"{row[side]}\n" for row in rows)
            (lines / f"tatoeba.{code}-eng.{suffix}").write_text(text)
    found = load_benchmark("tatoeba")
    assert found.fingerprint == load_benchmark("tatoeba", lines).fingerprint
    assert load_benchmark("tatoeba", languages=["en", "et"]).num_questions == 1

    folder = tmp_path / "damaged/fin-eng/test"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"a": ["x"]}), folder / "0000.parquet")
    with pytest.raises(UserError, match=r"0000\.parquet row 0: field .sentence1. is missing"):
        load_benchmark("tatoeba", tmp_path / "damaged")
    pq.write_table(pa.table({"sentence1": [None], "sentence2": ["x"]}, None), folder / "0000.parquet")
    with pytest.raises(UserError, match=r"row 0: field .sentence1. is null"):
        load_benchmark("tatoeba", tmp_path / "damaged")


@pytest.mark.usefixtures("hub")
def test_a_hub_that_cannot_be_reached() -> None:
    for name in HUB:
        with pytest.raises(UserError, match=r"(?s)cannot be downloaded from the hub.*--data-dir"):
            load_benchmark(name)


def test_an_incomplete_download(put: Put, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("")
    put(HUB["belebele"][0], "README.md", tmp_path / "README.md")
    with pytest.raises(UserError, match="holds no data"):
        load_benchmark("belebele")


def test_benchmarks_that_the_hub_does_not_have() -> None:
    for name in BENCHMARKS.keys() - HUB.keys() - {"sample"}:
        with pytest.raises(UserError, match=r"no data folder is given.*\n.*--data-dir"):
            load_benchmark(name)
    assert not HUB.keys() & ELSEWHERE.keys()
    assert (HUB.keys() | ELSEWHERE.keys()) <= BENCHMARKS.keys()


def test_only_the_languages_that_are_asked_for_are_downloaded() -> None:
    topics, corpus = HUB["miracl"]
    assert topics.allowed(("fi", "sw")) == ["miracl-v1.0-fi/*", "miracl-v1.0-sw/*"]
    assert corpus.allowed(None) == ["miracl-corpus-v1.0-*/*"]
    assert HUB["belebele"][0].allowed(("fi",)) == ["data/*.jsonl"]

"""Large pools on disk: the same benchmark as in memory, made once, complete or absent."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.arrow_texts import ROWS_PER_BATCH, StoredTexts, StoredTextsWriter, take_texts
from hbt_dist.data.benchmarks import candidate_pool
from hbt_dist.data.benchmarks import on_disk as stored_benchmark
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.candidate_pool import DiskPool
from hbt_dist.data.benchmarks.judgements import JudgementCounts
from hbt_dist.data.benchmarks.load import load_benchmark

Write = Callable[[str, Iterable[object]], Path]


def same(a: Benchmark, b: Benchmark) -> None:
    for field in fields(Benchmark):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            assert x.dtype == y.dtype
            np.testing.assert_array_equal(x, y)
        elif isinstance(x, str | bool | tuple | JudgementCounts):
            assert x == y
        else:
            assert list(x) == list(y)


@pytest.mark.parametrize("num_rows", [0, 1, ROWS_PER_BATCH, 2 * ROWS_PER_BATCH + 7])
def test_stored_texts_are_a_list(tmp_path: Path, num_rows: int) -> None:
    ids = [f"{i:05d}" for i in range(num_rows)]
    texts = [f"täxt {i}" * (i % 4) for i in range(num_rows)]
    with StoredTextsWriter(tmp_path / "texts.arrow") as writer:
        for first in range(0, num_rows, 777):
            writer.append(ids[first : first + 777], texts[first : first + 777])
    stored = StoredTexts(tmp_path / "texts.arrow", "text")
    assert len(stored) == num_rows
    assert list(stored) == texts
    assert list(StoredTexts(tmp_path / "texts.arrow", "id")) == ids
    for part in (slice(None), slice(3, -2), slice(5, num_rows, 3), slice(None, None, -1), slice(9, 2)):
        assert stored[part] == texts[part]
    rows = np.random.default_rng(0).integers(0, max(1, num_rows), 50 if num_rows else 0)
    assert stored.take(rows) == take_texts(texts, rows) == [texts[row] for row in rows]
    if num_rows:
        assert stored[-1] == texts[-1]
        assert pickle.loads(pickle.dumps(stored))[0] == texts[0]
    with pytest.raises(IndexError):
        stored[num_rows]


@pytest.fixture
def collections(write_lines: Write, tmp_path: Path) -> Path:
    """A folder of each format whose pool can be on disk; items out of order, texts of all lengths."""
    rng = random.Random(0)
    text = " ".join(f"wörd{i}" for i in range(40))

    def passages(key: str, language: str) -> list[dict[str, str]]:
        numbers = rng.sample(range(2000), 900)
        return [
            {key: f"{n}#{n % 3}", "title": "T" * (n % 2), "text": f"{language} {n} {text[: n % 200]}"}
            for n in [*range(3), *(n for n in numbers if n > 2)]
        ]

    for language in ("fi", "sw"):
        stem = f"miracl/miracl-v1.0-{language}"
        write_lines(f"{stem}/topics/topics.miracl-v1.0-{language}-dev.tsv", ["7\tmikä", "8\tmissä"])
        write_lines(f"{stem}/qrels/qrels.miracl-v1.0-{language}-dev.tsv", ["7 Q0 1#1 1", "8 Q0 2#2 1"])
        rows = passages("docid", language)
        for part in range(2):
            write_lines(f"miracl/miracl-corpus-v1.0-{language}/docs-{part}.jsonl.gz", rows[part::2])
        write_lines(f"beir/{language}/corpus.jsonl", passages("_id", language))
        write_lines(f"beir/{language}/queries.jsonl", [{"_id": "1", "text": f"{language}?"}])
        write_lines(f"beir/{language}/qrels/test.tsv", ["q\td\ts", "1\t1#1\t1", "1\t2#2\t3"])
    own = [
        {"id": row["_id"], "language": language, "text": row["text"]}
        for language in ("zh-TW", "zh", "en")  # zh-tw_... comes before zh_..., though zh before zh-tw
        for row in passages("_id", language)
    ]
    write_lines("jsonl/candidates.jsonl", own)
    write_lines(
        "jsonl/questions.jsonl",
        [
            {"id": "q1", "language": "zh", "text": "?", "relevant": ["1#1", "0#0"], "cluster": "c"},
            {"id": "q2", "language": "en", "text": "?", "relevant": {"2#2": 2}, "cluster": "c"},
        ],
    )
    entities = [
        {"entity_id": f"Q{n}", "description_language": "en" if n % 2 else "id", "description": f"d {n}"}
        for n in rng.sample(range(500), 500)
    ]
    context = {"document_id": "a", "language": "en", "text": "In Turku.", "sentence_spans": []}
    mention = {"example_id": "m", "entity_id": "Q7", "mention_span": {"start": 3, "end": 8}}
    write_lines("mewsli-x/candidate_set_entities.jsonl", entities)
    write_lines("mewsli-x/wikinews_mentions-test.jsonl", [{"context": context, "mentions": [mention]}])
    return tmp_path


@pytest.mark.parametrize(
    ("name", "variant", "languages"),
    [
        ("miracl", "dev", None),
        ("miracl", "dev", ["sw"]),
        ("miracl", "dev", ["sw", "fi"]),
        ("beir", "separate", None),
        ("beir", "parallel", ["sw", "fi"]),
        ("jsonl", None, None),
        ("jsonl", None, ["zh", "en"]),
        ("mewsli-x", None, None),
        ("mewsli-x", None, ["en"]),
    ],
)
def test_a_pool_on_disk_is_that_in_memory(
    collections: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    variant: str | None,
    languages: list[str] | None,
) -> None:
    monkeypatch.setattr(candidate_pool, "_ROWS_PER_WRITE", 64)
    monkeypatch.setattr(candidate_pool, "_PART_BYTES", 20_000)
    folder, cache = collections / name, collections / "cache"
    want = load_benchmark(name, folder, variant, languages)
    found = load_benchmark(name, folder, variant, languages, cache_dir=cache, memory_bytes=0)
    assert not want.on_disk
    assert found.on_disk
    same(want, found)
    again = load_benchmark(name, folder, variant, languages, cache_dir=cache, memory_bytes=0)
    same(want, again)
    assert want.grades.max() == {"beir": 3, "jsonl": 2}.get(name, 1)
    kept = [path for path in cache.iterdir() if path.is_dir()]
    assert len(kept) == 1
    assert not [path for path in kept[0].iterdir() if path.name.startswith(("spool", "part"))]


def test_converted_once_for_a_content(collections: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class Watched(DiskPool):
        def __init__(self, folder: Path, name: str) -> None:
            made.append(name)
            super().__init__(folder, name)

    monkeypatch.setattr(stored_benchmark, "DiskPool", Watched)

    def load(folder: str = "miracl", languages: list[str] | None = None) -> Benchmark:
        return load_benchmark(
            "miracl",
            collections / folder,
            languages=languages,
            cache_dir=collections / "cache",
            memory_bytes=0,
        )

    first = load()
    load()
    (collections / "miracl").rename(collections / "moved")
    assert load("moved").fingerprint == first.fingerprint
    assert len(made) == 1
    load("moved", ["sw"])
    qrels = collections / "moved/miracl-v1.0-fi/qrels/qrels.miracl-v1.0-fi-dev.tsv"
    qrels.write_text("7 Q0 2#2 1\n8 Q0 2#2 1\n")
    assert load("moved").fingerprint != first.fingerprint
    assert len(made) == 3
    assert load_benchmark("miracl", collections / "moved").fingerprint == load("moved").fingerprint


def test_an_interrupted_conversion_leaves_nothing(collections: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = collections / "cache"

    def load() -> Benchmark:
        return load_benchmark("miracl", collections / "miracl", cache_dir=cache, memory_bytes=0)

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(DiskPool, "_write_sorted", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load()
    assert not [path for path in cache.iterdir() if path.is_dir()]
    with monkeypatch.context() as patch:  # what a killed process leaves
        patch.setattr("hbt_dist.common.files.shutil.rmtree", lambda *_, **__: None)
        patch.setattr(DiskPool, "_write_sorted", interrupted)
        with pytest.raises(KeyboardInterrupt):
            load()
    assert [path for path in cache.iterdir() if path.suffix == ".tmp"]
    same(load(), load_benchmark("miracl", collections / "miracl"))
    assert not [path for path in cache.iterdir() if path.suffix == ".tmp"]


def test_the_cache_must_be_writable(collections: Path) -> None:
    (collections / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        load_benchmark("miracl", collections / "miracl", cache_dir=collections / "file/x", memory_bytes=0)


MIRACL_QRELS = "miracl/miracl-v1.0-fi/qrels/qrels.miracl-v1.0-fi-dev.tsv"
MIRACL_TOPICS = "miracl/miracl-v1.0-fi/topics/topics.miracl-v1.0-fi-dev.tsv"
MIRACL_DOCS = "miracl/miracl-corpus-v1.0-fi/docs-1.jsonl.gz"
OWN_QUESTION = {"id": "q1", "language": "zh", "text": "?"}
MEWSLI_MENTION = {"example_id": "m", "entity_id": "Q7000", "mention_span": {"start": 3, "end": 8}}
MEWSLI_CONTEXT = {"document_id": "a", "language": "en", "text": "In Turku.", "sentence_spans": []}


@pytest.mark.parametrize("memory_bytes", [0, 2**40])
@pytest.mark.parametrize(
    ("file", "lines", "found"),
    [
        # a relevant id that is not in the pool: qrels of another version
        (MIRACL_QRELS, ["7 Q0 1#1 1", "8 Q0 9999#0 1"], "line 2: relevant candidate '9999#0' is not in the"),
        ("beir/fi/qrels/test.tsv", ["1\tx\t1"], "line 1: relevant candidate 'x' is not in the"),
        ("jsonl/questions.jsonl", [OWN_QUESTION | {"relevant": ["x"]}], "candidate 'x' is not in the pool"),
        (
            "mewsli-x/wikinews_mentions-test.jsonl",
            [{"context": MEWSLI_CONTEXT, "mentions": [MEWSLI_MENTION]}],
            "relevant candidate 'Q7000' is not in the pool",
        ),
        # qrels of questions that are not asked: of another version, or of another split
        (MIRACL_QRELS, ["7 Q0 1#1 1", "8 Q0 1#1 1", "9 Q0 1#1 1"], "question 'fi:9' is not among the"),
        ("beir/fi/qrels/test.tsv", ["1\t1#1\t1", "9\t1#1\t1"], "question 'fi:9' is not among the questions"),
        # a question without relevant candidate
        (MIRACL_QRELS, ["7 Q0 1#1 1", "8 Q0 2#2 0"], "question 'fi:8' in 'fi' has no relevant candidate"),
        ("jsonl/questions.jsonl", [OWN_QUESTION], "question 'q1' in 'zh' has no relevant candidate"),
        # repeated ids
        (MIRACL_DOCS, [{"docid": "1#1", "text": "x"}] * 2, "line [12]: candidate '1#1' occurs twice in 'fi'"),
        ("beir/fi/corpus.jsonl", [{"_id": "1#1", "text": "x"}] * 2, "line 2: candidate '1#1' occurs twice"),
        ("jsonl/candidates.jsonl", [OWN_QUESTION] * 2, "line 2: candidate 'q1' occurs twice in 'zh'"),
        (
            "mewsli-x/candidate_set_entities.jsonl",
            [{"entity_id": "Q7", "description_language": "en", "description": "d"}] * 2,
            "line 2: candidate 'Q7' occurs twice in 'en'",
        ),
        (MIRACL_TOPICS, ["7\ta", "8\tb", "7\tc"], "line 3: question 'fi:7' occurs twice in 'fi'"),
        ("beir/fi/queries.jsonl", [{"_id": "1", "text": "x"}] * 2, "line 2: question 'fi:1' occurs twice"),
        # a language without anything
        (MIRACL_QRELS, [], "names no relevant candidate for 'fi'"),
        (MIRACL_QRELS, ["7 Q0 1#1 0"], "names no relevant candidate for 'fi'"),
        ("beir/fi/qrels/test.tsv", ["query-id\tcorpus-id\tscore"], "names no relevant candidate for 'fi'"),
        (MIRACL_DOCS, [], "docs-1.jsonl.gz: the file is empty"),
        ("beir/fi/corpus.jsonl", [], "the file is empty"),
        (MIRACL_TOPICS, [], "question 'fi:7' is not among the questions"),
    ],
)
def test_bad_collections(
    collections: Path, write_lines: Write, file: str, lines: list[object], found: str, memory_bytes: int
) -> None:
    """Each is refused when the benchmark is read, before anything is encoded, and nothing stays behind."""
    write_lines(file, lines)
    name, cache = file.split("/", maxsplit=1)[0], collections / "cache"
    with pytest.raises(UserError, match=found):
        load_benchmark(
            name, collections / name, judgements="strict", cache_dir=cache, memory_bytes=memory_bytes
        )
    assert not cache.exists() or not [path for path in cache.iterdir() if path.is_dir()]


def test_a_question_without_answers_is_not_left_out_with_a_language(
    collections: Path, write_lines: Write
) -> None:
    """Choosing languages leaves out questions whose answers are in others, not those without any."""
    rows = [OWN_QUESTION | {"relevant": ["0#0"]}, OWN_QUESTION | {"id": "q9"}]
    write_lines("jsonl/questions.jsonl", rows)
    with pytest.raises(UserError, match="question 'q9' in 'zh' has no relevant candidate"):
        load_benchmark("jsonl", collections / "jsonl", languages=["zh"])
    only_english = [{"id": "e", "language": "en", "text": "x"}, {"id": "z", "language": "zh", "text": "x"}]
    write_lines("jsonl/candidates.jsonl", only_english)
    rows = [OWN_QUESTION | {"relevant": ["e"]}, OWN_QUESTION | {"id": "q2", "relevant": ["z"]}]
    write_lines("jsonl/questions.jsonl", rows)
    for memory_bytes in (0, 2**40):
        found = load_benchmark(
            "jsonl",
            collections / "jsonl",
            languages=["zh"],
            cache_dir=collections / "cache",
            memory_bytes=memory_bytes,
        )
        assert list(found.question_ids) == ["q2"]


def test_the_manifest_says_what_was_converted(collections: Path) -> None:
    cache = collections / "cache"
    found = load_benchmark("jsonl", collections / "jsonl", cache_dir=cache, memory_bytes=0)
    folder = next(path for path in cache.iterdir() if path.is_dir())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["fingerprint"] == found.fingerprint
    assert manifest["num_candidates"] == found.num_candidates
    assert manifest["languages"] == list(found.languages)

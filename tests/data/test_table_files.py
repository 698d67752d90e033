"""Tables as people have them: file formats, compressions, folders, and names that need no columns."""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.notes import reading_text
from hbt_dist.data.tables import parquet_rows

Build = Callable[..., Corpus]
Write = Callable[..., Path]

ROWS: list[dict[str, Any]] = [
    {"query": f'question, "{number}"\u2028é', "answer": f"an\tswer {number}\nin two lines"}
    for number in range(2_500)
]
EN = {"language": "en"}


def texts(corpus: Corpus, language: str = "en") -> list[tuple[str | None, str]]:
    return [
        (question, corpus.passage_text(int(row), language))
        for question, row in zip(corpus.question_texts(language), corpus.example_passage, strict=True)
    ]


def write_table(path: Path, rows: list[dict[str, Any]], format: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows)
    if format in {"csv", "tsv"}:
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if format == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif format == "parquet":
        pyarrow.parquet.write_table(table, path)
    elif format == "feather":
        pyarrow.feather.write_feather(table, path)
    elif format == "stream":
        with pyarrow.ipc.new_stream(path, table.schema) as stream:
            stream.write_table(table)
    elif format == "saved":
        datasets.Dataset(table).save_to_disk(path, num_shards=3)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "format", "written"),
    [
        ("a.jsonl", "jsonl", "jsonl"),
        ("a.csv", "csv", "csv"),
        ("a.parquet", "parquet", "parquet"),
        ("a.feather", "arrow", "feather"),
        ("a.arrow", "arrow", "stream"),
        ("saved", "arrow", "saved"),
    ],
)
def test_every_format_gives_the_same_rows(
    name: str, format: str, written: str, build: Build, tmp_path: Path
) -> None:
    corpus = build(write_table(tmp_path / name, ROWS, written), format, columns=EN)
    assert texts(corpus) == [(row["query"], row["answer"]) for row in ROWS]
    (source,) = corpus.manifest["statistics"]
    assert source["columns"] == {"question": "query", "passage": "answer"}
    assert "read by usual names, columns: question: query, passage: answer" in reading_text(corpus)


def test_tsv_takes_cells_as_they_are(tmp_path: Path, build: Build) -> None:
    path = tmp_path / "a.tsv"
    rows = [
        "query\tanswer\tnegative",
        '"so" he said\tx\t',
        '"all ""of"" it"\ty\tz',
        '"\tw"\t',
        "",
        "a\u2028b\tc\td",
    ]
    path.write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    corpus = build(path, "tsv", columns=EN)
    assert texts(corpus) == [('"so" he said', "x"), ('all "of" it', "y"), ('"', 'w"'), ("a\u2028b", "c")]
    assert len(corpus.negatives) == 2


def test_csv_with_semicolons(tmp_path: Path, build: Build) -> None:
    path = tmp_path / "a.csv"
    path.write_text('query;answer\n"a;b";"c\nd"\n\ne;f,g\n', "utf-8")
    assert texts(build(path, "csv", columns=EN)) == [("a;b", "c\nd"), ("e", "f,g")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("query,answer\n", "they give no example"),
        ("query,query\n", "line 1: the header has 'query' twice"),
        ("query,answer\na,b\nc\n", "line 3: has 1 cells, the header 2"),
        ('query,answer\n"a" b,c\n', "line 2: not a row of CSV"),
        ('query,answer\na,b\n"a,c\nd,e\n', "line 3: not a row of CSV"),
        ("query,answer\n,b\n", "line 2: column 'query' is null"),
        (
            "query,answer,label\na,b,1\n",
            "(?s)line 2: the pairs have a column 'label'.*columns: {question: query",
        ),
        ("query,answer,positive\na,b,c\n", "(?s)fit several forms.*passage: positive.*passage: answer"),
    ],
)
def test_mistakes_in_csv_are_named(content: str, message: str, tmp_path: Path, build: Build) -> None:
    (tmp_path / "a.csv").write_text(content, "utf-8")
    with pytest.raises(UserError, match=message):
        build(tmp_path / "a.csv", "csv", columns=EN)


def test_folders_and_compressions_are_read_in_order(tmp_path: Path, build: Build) -> None:
    lines = [
        json.dumps({"query": str(number), "answer": f"a{number}"}).encode() + b"\n" for number in range(6)
    ]
    files = {
        "a.jsonl": lines[0],
        "b.jsonl.gz": gzip.compress(lines[1]),
        "c.jsonl.bz2": bz2.compress(lines[2]),
        "sub/x/d.jsonl.xz": lzma.compress(lines[3]),
        "sub/y/e.jsonl.zst": pyarrow.compress(lines[4], "zstd", asbytes=True),
        "z.ndjson": lines[5],
        "._a.jsonl": b"\0\5\x16\7",
        "_SUCCESS": b"",
        ".hidden/f.jsonl": b"{",
        "README.md": b"# what",
    }
    for name, content in files.items():
        path = tmp_path / "d é" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "d é" / "sub" / "loop").symlink_to(tmp_path / "d é")
    corpus = build(tmp_path / "d é", columns=EN)
    assert corpus.question_texts("en") == ["0", "1", "2", "3", "4", "5"]
    left_out = corpus.manifest["statistics"][0]["files_left_out"]
    assert left_out == ["._a.jsonl", ".hidden/f.jsonl", "README.md", "_SUCCESS"]
    assert "left out 4 files: ._a.jsonl, .hidden/f.jsonl" in reading_text(corpus)
    with pytest.raises(UserError, match=r"(?s)holds no \.csv file.*it holds \._a\.jsonl"):
        build(tmp_path / "d é", "csv", columns=EN)


@pytest.mark.parametrize("name", ["a.jsonl.bz2", "a.jsonl.xz", "a.jsonl.zst", "a.jsonl.gz"])
def test_damaged_compression_is_named(name: str, tmp_path: Path, build: Build) -> None:
    (tmp_path / name).write_bytes(b'{"query": "a", "answer": "b"}')
    with pytest.raises(UserError, match=name):
        build(tmp_path / name, columns=EN)


def test_folders_of_hive_give_columns(tmp_path: Path, build: Build) -> None:
    for code in ("en", "fi"):
        rows = [{"query": f"q{code}{number}", "answer": f"a{code}{number}"} for number in range(3)]
        write_table(tmp_path / "h" / f"lang={code}" / "year=20%2F" / "part 0.parquet", rows, "parquet")
    write_table(tmp_path / "h" / "lang=__HIVE_DEFAULT_PARTITION__" / "p.parquet", ROWS[:1], "parquet")
    with pytest.raises(UserError, match=r"PARTITION__/p\.parquet row 0: a language code is null"):
        build(tmp_path / "h", "parquet", columns={"language_column": "lang"}, missing="skip")
    (tmp_path / "h" / "lang=__HIVE_DEFAULT_PARTITION__" / "p.parquet").unlink()
    corpus = build(tmp_path / "h", "parquet", columns={"language_column": "lang"}, missing="skip")
    assert corpus.question_texts("fi")[3:] == ["qfi0", "qfi1", "qfi2"]
    assert corpus.manifest["statistics"][0]["unused"] == ["year"]
    (tmp_path / "h" / "lang=fi").rename(tmp_path / "h" / "lang=sv")
    renamed = build(tmp_path / "h", "parquet", columns={"language_column": "lang"}, missing="skip")
    assert renamed.languages == ("en", "sv")
    write_table(
        tmp_path / "t" / "lang=en" / "p.parquet", [{"query": "a", "answer": "b", "lang": "en"}], "parquet"
    )
    with pytest.raises(UserError, match="column 'lang' is in the file and in its folder's name"):
        build(tmp_path / "t", "parquet", columns={"language_column": "lang"})


def test_a_saved_dict_reads_one_split(tmp_path: Path, build: Build) -> None:
    parts = {"train": ROWS[:3], "test": ROWS[3:5]}
    datasets.DatasetDict(
        {name: datasets.Dataset.from_list(rows) for name, rows in parts.items()}
    ).save_to_disk(tmp_path / "d")
    corpus = build(tmp_path / "d", "arrow", columns=EN)
    assert corpus.num_examples == 3
    assert "left out 1 split of the folder: test; hub_split names a split" in reading_text(corpus)
    assert build(tmp_path / "d", "arrow", columns=EN, hub_split="test").num_examples == 2
    with pytest.raises(UserError, match=r"(?s)has no split 'dev'.*set hub_split to train, test"):
        build(tmp_path / "d", "arrow", columns=EN, hub_split="dev")
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": 3}', "utf-8")
    with pytest.raises(UserError, match="not a folder that datasets saved"):
        build(tmp_path / "d", "arrow", columns=EN)


def test_a_split_that_no_source_reads_is_reported_once(tmp_path: Path, build: Build) -> None:
    parts = {name: datasets.Dataset.from_list(ROWS[:2]) for name in ("train", "dev", "test")}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    source = {"format": "arrow", "path": str(tmp_path / "d"), "columns": EN}
    sources = [{"name": name, "hub_split": name, **source} for name in ("train", "dev")]
    corpus = build(sources=sources)
    assert [line for line in reading_text(corpus).splitlines() if "left out" in line] == [
        "train: left out 1 split of the folder: test; hub_split names a split"
    ]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_damaged_tables_are_named(name: str, tmp_path: Path, build: Build) -> None:
    format = name.rpartition(".")[2]
    path = write_table(tmp_path / name, ROWS, "parquet" if format == "parquet" else "stream")
    with pytest.raises(UserError, match="there is no such file"):
        build(tmp_path / "absent" / name, format, columns=EN)
    whole = path.read_bytes()
    for damaged in (b"", b"x" * 100, whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"{name}: not a readable"):
            build(path, format, columns=EN)


@pytest.mark.parametrize(
    ("row", "questions", "negatives"),
    [
        ({"query": "q", "pos": ["p"], "neg": ["n", "m"], "pos_scores": [1], "type": "x"}, ["q"], 2),
        ({"query_id": "7", "query": "q", "positive_passages": [{"docid": "1", "text": "p"}]}, ["q"], 0),
        ({"anchor": "q", "positive": "p", "negative": "n"}, ["q"], 1),
        ({"anchor": "q", "positive": "p", "negative_1": "n", "negative_2": "m"}, ["q"], 2),
        ({"sentence1": "q", "sentence2": "p"}, ["q"], 0),
        ({"question": "q", "answer": "p"}, ["q"], 0),
    ],
)
def test_usual_names_need_no_columns(
    row: dict[str, Any], questions: list[str], negatives: int, write_lines: Write, build: Build
) -> None:
    corpus = build(write_lines("a.jsonl", [row]), columns=EN, missing="skip")
    assert corpus.question_texts("en")[:1] == questions
    assert corpus.negative_offsets[1] == negatives
    if "query_id" in row:
        assert corpus.example_id(0) == "7"
    if "type" in row:
        assert corpus.manifest["statistics"][0]["unused"] == ["type"]


def test_reading_parquet_holds_a_row_group_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    groups, megabyte = 24, 2**20
    with pyarrow.parquet.ParquetWriter(path, pyarrow.schema([("text", pyarrow.string())])) as writer:
        for group in range(groups):
            texts = [random.Random(f"{group} {row}").randbytes(500).hex() for row in range(1000)]
            writer.write_table(pyarrow.table({"text": texts}))
    before = pyarrow.total_allocated_bytes()
    most = max(pyarrow.total_allocated_bytes() - before for _ in parquet_rows(path))
    assert most < groups / 4 * megabyte


def test_maps_are_read_and_other_types_are_named(tmp_path: Path, build: Build) -> None:
    kind = pyarrow.map_(pyarrow.string(), pyarrow.string())
    columns = {"question": [[("en", "q"), ("fi", "k")]], "passage": [[("en", "p"), ("fi", "v")]]}
    table = pyarrow.table({name: pyarrow.array(values, kind) for name, values in columns.items()})
    pyarrow.parquet.write_table(table, tmp_path / "m.parquet")
    assert texts(build(tmp_path / "m.parquet", "parquet"), "fi") == [("k", "v")]
    for value, name in (
        (b"x", "bytes, not text"),
        (datetime.datetime(2026, 1, 1), "a date"),
        (1.5, "a number"),
    ):
        path = write_table(tmp_path / "t.parquet", [{"question": value, "passage": "p"}], "parquet")
        with pytest.raises(UserError, match=f"row 0: column 'question' is {name}"):
            build(path, "parquet", columns=EN)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"query": "a", "answer": "b"}'.encode("utf-16"), r"(?s)expected UTF-8, got UTF-16.*iconv"),
        ('{"query": "a", "answer": "b"}'.encode("utf-16-le"), "expected UTF-8, got UTF-16"),
        (b'{"query": "a", "answer": "b"}\r{"query": "c", "answer": "d"}\r', "(?s)end in CR alone.*tr "),
        (b'{"query": "a", "query": "c", "answer": "d"}', "line 1: key 'query' comes twice in one object"),
        (b'{"query": {"en": "a", "en": "c"}, "answer": "d"}', "line 1: key 'en' comes twice"),
    ],
)
def test_odd_files_are_named(content: bytes, message: str, tmp_path: Path, build: Build) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=message):
        build(tmp_path / "a.jsonl", columns=EN)

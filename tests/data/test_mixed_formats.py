"""A corpus of six sources in six layouts, inspected and trained over the command line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from tests.helpers.runs import hbt_dist, tiny_run, write_run


def pairs(name: str, language: str, count: int = 30) -> list[dict[str, Any]]:
    return [
        {"query": f"{name} asks {number} in {language}", "answer": f"{name} answers {number} in {language}"}
        for number in range(count)
    ]


def write_sources(folder: Path) -> list[dict[str, Any]]:
    lines = [
        {"query": f"q{n}{code}", "pos": [f"p{n}{code}"], "neg": [f"n{n}{code}"], "lang": code, "type": "x"}
        for n in range(30)
        for code in ("en", "fi")
    ]
    with gzip.open(folder / "lines.jsonl.gz", "wt", encoding="utf-8") as packed:
        packed.write("".join(json.dumps(line) + "\n" for line in lines))
    for name, separator in (("csv", ","), ("tsv", "\t")):
        with (folder / f"rows.{name}").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["query", "answer"], delimiter=separator)
            writer.writeheader()
            writer.writerows(pairs(name, "en"))
    for code in ("en", "fi"):
        part = folder / "hive" / f"lang={code}" / "part 0.parquet"
        part.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(pairs("hive", code)), part)
    datasets.DatasetDict({"train": datasets.Dataset.from_list(pairs("saved", "fi"))}).save_to_disk(
        folder / "saved"
    )
    crossing = [{"question": f"mikä {n}", "passage": f"this is {n}"} for n in range(40)]
    table = pyarrow.Table.from_pylist(crossing)
    with pyarrow.ipc.new_file(str(folder / "crossing.arrow"), table.schema) as file:
        file.write_table(table)
    sources = {
        "lines": ("jsonl", "lines.jsonl.gz", {"language_column": "lang"}),
        "comma": ("csv", "rows.csv", {"language": "en"}),
        "tab": ("tsv", "rows.tsv", {"language": "en"}),
        "hive": ("parquet", "hive", {"language_column": "lang"}),
        "saved": ("arrow", "saved", {"language": "fi"}),
        "crossing": ("arrow", "crossing.arrow", {"language": "fi", "passage_language": "en"}),
    }
    return [
        {"name": name, "format": format, "path": str(folder / path), "columns": columns}
        for name, (format, path, columns) in sources.items()
    ]


@pytest.mark.slow
def test_a_corpus_of_many_formats_is_inspected_and_trained(tmp_path: Path) -> None:
    changes = {"sources": write_sources(tmp_path), "missing": "skip", "languages": ["en", "fi"]}
    run = tiny_run(tmp_path / "run", tmp_path / "cache", training__steps=2, training__checkpoint_every=2)
    run["data"].update(changes)
    file = write_run(tmp_path / "run.yaml", run)
    code, out, err = hbt_dist("data", "inspect", file, "--step", "0", cwd=tmp_path)
    assert code == 0, err
    for name, count in {"lines": 60, "comma": 30, "tab": 30, "hive": 60, "saved": 30, "crossing": 40}.items():
        assert any(line.split()[:2] == [name, str(count)] for line in out.splitlines()), f"{name}\n{out}"
    assert "lines: unused columns: type" in out
    assert "hive: read by usual names, columns: question: query, passage: answer" in out
    code, out, err = hbt_dist("train", file, "--launcher", "local", cwd=tmp_path)
    assert code == 0, err
    assert "lines: unused columns: type" in out + err
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps[-1] == 2
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()

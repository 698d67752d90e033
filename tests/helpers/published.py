"""Make toy collections in the exact forms in which collections are published."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq


@dataclass
class Toy:
    """Documents, questions and judgements of one language."""

    documents: dict[str, tuple[str, str]]  # id -> title, text
    questions: dict[str, str]
    judged: list[tuple[str, str, int]] = field(default_factory=list)  # question, document, grade


def write_lines(path: Path, rows: Iterable[Mapping[str, Any] | str]) -> Path:
    """Write JSON lines, or lines; `.gz` is compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    data = "".join(f"{line}\n" for line in lines).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_hub(
    folder: Path, subsets: Mapping[str, Toy], split: str = "test", *, old_names: bool = False
) -> Path:
    """Write a repository as MTEB pushes it: a configuration per table, Parquet files per split, a card.

    Args:
        subsets: subset -> collection; `default` for a repository without subsets.
        old_names: `_id` for `id`, and `default` for the configuration of the judgements.
    """
    key, configs = "_id" if old_names else "id", []
    for subset, toy in subsets.items():
        prefix = "" if subset == "default" else f"{subset}-"
        qrels = "default" if old_names and not prefix else f"{prefix}qrels"
        tables = {
            f"{prefix}corpus": [
                {key: i, "title": title, "text": text} for i, (title, text) in toy.documents.items()
            ],
            f"{prefix}queries": [{key: i, "text": text} for i, text in toy.questions.items()],
            qrels: [{"query-id": q, "corpus-id": d, "score": grade} for q, d, grade in toy.judged],
        }
        for config, rows in tables.items():
            part = config.rpartition("-")[2] if old_names and config != qrels else split
            place = "data" if config == "default" else config
            write_parquet(folder / place / f"{part}-00000-of-00001.parquet", rows)
            configs.append({"config_name": config, "split": part, "path": f"{place}/{part}-*"})
    card = ["---", "configs:"]
    for config in configs:
        card += [
            f"- config_name: {config['config_name']}",
            "  data_files:",
            f"  - split: {config['split']}",
            f"    path: {config['path']}",
        ]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return folder

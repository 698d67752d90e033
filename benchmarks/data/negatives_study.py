"""Prepare the data of the study of hard negatives: short questions and passages in four languages.

    python benchmarks/data/negatives_study.py --data-dir DATA --out data/negatives-study

It writes OUT/train.jsonl: questions on short SQuAD passages, parallel in English and Finnish, and native
questions of TyDi QA in Arabic and Russian whose answer is near the start of the passage. A page of TyDi QA
gives one passage, because its parts can overlap. OUT/xquad-r holds the first articles of XQuAD-R.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ANSWER_END = 250  # characters; about the 64 tokens that the study's encoder reads
SQUAD_CHARACTERS = 400  # of a passage in either language


def main() -> None:
    """Write the training file and the part of the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, required=True, help="holds squad-en-fi, qa-native, xquad-r")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parallel", type=int, default=800, help="examples in English and Finnish")
    parser.add_argument("--native", type=int, default=450, help="examples in each further language")
    parser.add_argument("--articles", type=int, default=10, help="of each language of the benchmark")
    given = parser.parse_args()
    lines = parallel_lines(given.data_dir / "squad-en-fi", given.parallel)
    for language in ("ar", "ru"):
        lines += native_lines(given.data_dir / "qa-native" / f"{language}.jsonl.gz", language, given.native)
    (given.out / "xquad-r").mkdir(parents=True, exist_ok=True)
    with (given.out / "train.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    for language in ("ar", "de", "en", "ru"):
        whole = json.loads((given.data_dir / "xquad-r" / f"{language}.json").read_text("utf-8"))
        part = {**whole, "data": whole["data"][: given.articles]}
        target = given.out / "xquad-r" / f"{language}.json"
        target.write_text(json.dumps(part, ensure_ascii=False), "utf-8")
    print(f"{given.out}: {len(lines):,} examples, {given.articles} articles of XQuAD-R in four languages")


def parallel_lines(folder: Path, count: int) -> list[dict[str, Any]]:
    """Return the first question of short passages, spread evenly over the articles."""
    passages = {row["id"]: row["text"] for row in rows_of(folder / "passages.jsonl.gz")}
    first: dict[str, dict[str, Any]] = {}
    for row in rows_of(folder / "questions.jsonl.gz"):
        first.setdefault(row["passage"], row)
    short = [key for key, text in passages.items() if max(map(len, text.values())) < SQUAD_CHARACTERS]
    chosen = [short[number * len(short) // count] for number in range(min(count, len(short)))]
    return [
        {"id": first[key]["id"], "question": first[key]["text"], "passage": passages[key], "passage_id": key}
        for key in chosen
    ]


def native_lines(path: Path, language: str, count: int) -> list[dict[str, Any]]:
    """Return the first questions of TyDi QA with an early answer, one for each page."""
    lines: dict[str, dict[str, Any]] = {}
    for row in rows_of(path):
        if row["set"] == "tydiqa" and row["answer_start"] + len(row["answer"]) < ANSWER_END:
            lines.setdefault(
                row["title"],
                {
                    "id": row["id"],
                    "question": {language: row["question"]},
                    "passage": {language: row["passage"]},
                    "passage_id": row["passage_id"],
                },
            )
    return list(lines.values())[:count]


def rows_of(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a compressed file of JSON lines."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


if __name__ == "__main__":
    main()

"""What a language model's expansions of the questions do to retrieval, in one language.

    python benchmarks/evaluation/expansion.py WORK --language-model LM --model MODEL --data-dir DATA/xquad-r

Runs `hbt-dist expand` for every strategy, `hbt-dist evaluate` without expansions and with each way to combine
them, and `hbt-dist compare`; all of it in WORK, where the same command continues. Any causal language model
and any encoder that these commands load. Writes benchmarks/results/expansion.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

WAYS = ("concatenate", "mean", "rrf")


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--language-model", required=True)
    parser.add_argument("--model", required=True, help="the encoder")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--benchmark", default="xquad-r")
    parser.add_argument("--language", default="en")
    parser.add_argument("--strategies", nargs="+", default=["zero-shot"])
    parser.add_argument("--tokens", type=int, default=64, help="maximum of new tokens per question")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "expansion.json")
    asked = parser.parse_args()
    asked.work.mkdir(parents=True, exist_ok=True)
    where = ["--benchmark", asked.benchmark, "--data-dir", asked.data_dir, "--languages", asked.language]

    def evaluated(name: str, *more: str) -> Path:
        folder = asked.work / name
        if not (folder / "results.json").exists():
            hbt_dist("evaluate", "--model", asked.model, *where, "--output", str(folder), *more)
        return folder

    alone = evaluated("alone")
    expanded: list[Path] = []
    for strategy in asked.strategies:
        file = asked.work / f"{strategy}.jsonl"
        if not file.exists():
            lm = ("--model", asked.language_model, "--strategy", strategy)
            hbt_dist("expand", *lm, *where, "--max-new-tokens", str(asked.tokens), "--output", str(file))
        expanded += [
            evaluated(f"{strategy}-{way}", "--expansions", str(file), "--combine", way) for way in WAYS
        ]
    found = hbt_dist("compare", "--baseline", str(alone), *map(str, expanded), "--json")  # Holm over all
    tests = [test for test in json.loads(found)["tests"] if test["setting"] == "monolingual"]
    print(json.dumps(tests, indent=1))
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores",
        "language_model": Path(asked.language_model).name,
        "encoder": Path(asked.model).name,
        "benchmark": asked.benchmark,
        "language": asked.language,
        "new_tokens": asked.tokens,
        "questions": json.loads((alone / "results.json").read_text("utf-8"))["benchmark"]["num_questions"],
        "tests": tests,
    }
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def hbt_dist(*words: str) -> str:
    """Standard output of a command; its progress goes to the terminal."""
    program = Path(sys.executable).with_name("hbt-dist")
    return subprocess.run([program, *words], stdout=subprocess.PIPE, text=True, check=True).stdout


if __name__ == "__main__":
    main()

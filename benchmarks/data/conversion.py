"""Measure the builder of a corpus: examples per second, and memory per example.

    python benchmarks/data/conversion.py --scratch /tmp/conversion

Records in 2 languages go straight to the builder, without the reader of a file. Three of four examples have a
new passage of 60 words, the rest repeat an earlier one; one question of a hundred and one passage of a
hundred repeat the text of an earlier one under a new id. Each size runs in a new process. Memory is the
largest anonymous memory, read from /proc every 20 ms, less that before the first record. Needs about 1 kB of
disk per example.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.data.corpus.builder import CorpusBuilder
from hbt_dist.data.corpus.corpus import COLUMNS
from hbt_dist.data.corpus.records import TrainingRecord

SIZES = (500_000, 2_000_000, 5_000_000)
LANGUAGES = ("en", "fi")
RESULTS = Path(__file__).resolve().parents[1] / "results" / "corpus_conversion.json"
_WORDS = " ".join(f"word{number}" for number in range(60))
_DRAWS = 100_000  # random numbers that are drawn at a time


def records(num_examples: int) -> Iterator[TrainingRecord]:
    """Yield the records of a size."""
    random = np.random.default_rng(num_examples)
    num_passages = 0
    for number in range(num_examples):
        if number % _DRAWS == 0:
            draws = random.random((_DRAWS, 3)).tolist()
        new, which, question = draws[number % _DRAWS]
        row = num_passages if new < 0.75 or not num_passages else int(which * num_passages)
        num_passages = max(num_passages, row + 1)
        asked = number // 2 if question < 0.01 else number
        text = row // 2 if row * 0.61803 % 1 < 0.01 else row
        yield TrainingRecord(
            location=f"records line {number + 1}",
            example_id=f"example {number}",
            passage_id=f"passage {row}",
            question={code: f"what is {code} question {asked}" for code in LANGUAGES},
            passage={code: f"{code} {text} {_WORDS}" for code in LANGUAGES},
            negatives=(),
        )


class PeakMemory:
    """The largest anonymous memory of this process inside a `with` block, above that at its start."""

    def __enter__(self) -> PeakMemory:
        self._before = self._peak = self.now()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.02):
            self._peak = max(self._peak, self.now())

    @property
    def grown(self) -> int:
        """Return bytes."""
        return self._peak - self._before

    @staticmethod
    def now() -> int:
        """Return the anonymous memory of this process in bytes."""
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def measure(scratch: Path, num_examples: int) -> dict[str, Any]:
    """Build a corpus; return seconds and memory."""
    folder = scratch / f"conversion-{num_examples}"
    shutil.rmtree(folder, ignore_errors=True)
    spent = time.process_time()
    for _ in records(num_examples):
        pass
    making = time.process_time() - spent
    with CorpusBuilder(folder) as builder:
        with PeakMemory() as adding:
            start = time.process_time()
            builder.start_source(0, "synthetic", None, refuse=False)
            for record in records(num_examples):
                builder.add(record)
            builder.end_source()
            added = time.process_time() - start - making
        with PeakMemory() as finishing:
            start = time.process_time()
            columns, _ = builder.finish(LANGUAGES)
            finished = time.process_time() - start
    groups = int(columns["example_group"].max()) + 1
    assert set(columns) == set(COLUMNS)
    shutil.rmtree(folder)
    return {
        "examples": num_examples,
        "passages": len(columns["passage_group"]),
        "groups": groups,
        "examples per second": round(num_examples / added),
        "finish, s": round(finished, 1),
        "memory of adding, bytes per example": round(adding.grown / num_examples),
        "more at the end, bytes per example": round(finishing.grown / num_examples),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, required=True, help="folder with 5 GB of room")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.one is not None:
        print(json.dumps(measure(asked.scratch, asked.one)))
        return
    rows = []
    for size in asked.sizes:
        command = [sys.executable, __file__, "--scratch", str(asked.scratch), "--one", str(size)]
        rows.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        print(json.dumps(rows[-1]), flush=True)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    load = round(os.getloadavg()[0], 1)
    asked.out.write_text(json.dumps({"load": load, "results": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

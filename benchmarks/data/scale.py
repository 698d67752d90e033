"""Measure opening, planning and batches at 44 and 400 million examples, for 1 and 4 ranks of a node.

    python benchmarks/data/scale.py --scratch /tmp/scale

The corpora are columns in the stored form without texts, written in blocks: 44 million examples in 9
languages and 20 cells, and 400 million in one language. Three of four examples have a new passage, the rest
repeat a random earlier one; a group has 1.3 examples on average. Ranks are processes that start at the same
time. The parent reads each rank's memory from /proc every 20 ms: "private" is the anonymous memory that a
rank adds to that before it opens the corpus, at its peak and after the batches. "Shared" is the sum over the
ranks of their part (Pss) of the mapped files of corpus and plan. The second start finds the files of the
first. Needs 25 GB of disk for 400 million, and no network.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.data.corpus.corpus import COLUMNS, Corpus

CODES = ("en", "ar", "de", "es", "fi", "fr", "ja", "ru", "zh")
SIZES = ((44_000_000, 9), (400_000_000, 1))
ROWS = 32_768
_BLOCK = 1 << 22
_NEW = 0.75  # share of the examples with a new passage
_SETS, _QUESTIONS = 5, 4  # sets of passage languages; of question languages for each
_BATCHES = 8
RESULTS = Path(__file__).resolve().parents[1] / "results"


@dataclass(frozen=True)
class Memory:
    """Bytes of a process."""

    private: int  # anonymous
    shared: int  # its part of the mapped files of a folder

    @classmethod
    def of(cls, pid: int, folder: Path) -> Memory:
        """Return the memory of a process, as the kernel counts it."""
        private = shared = 0
        of_folder = False
        for line in Path(f"/proc/{pid}/smaps").read_text("utf-8").splitlines():
            name, *rest = line.split()
            if not name.endswith(":"):  # the head of a mapping
                of_folder = str(folder) in line
            elif name == "Anonymous:":
                private += int(rest[0]) * 1024
            elif name == "Pss:" and of_folder:
                shared += int(rest[0]) * 1024
        return cls(private, shared)


def blocks(total: int) -> Iterator[slice]:
    """Yield slices that cover `total` rows."""
    for start in range(0, total, _BLOCK):
        yield slice(start, min(start + _BLOCK, total))


def write_corpus(folder: Path, num_examples: int, num_languages: int) -> Path:
    """Write a corpus in the stored form without texts; return its folder."""
    folder.mkdir(parents=True)
    several = num_languages > 1
    random = np.random.default_rng(num_examples)
    num_passages = _write_examples(folder, num_examples, several, random)
    passage_group = _column(folder, "passage_group", num_passages)
    passage_set = _column(folder, "passage_set", num_passages)
    for part in blocks(num_passages):
        passage_group[part] = np.arange(part.start, part.stop)
        if several:
            passage_set[part] = _set_of(np.arange(part.start, part.stop))
    for name, length in (("negative_offsets", num_examples + 1), ("negatives", 0)):
        _column(folder, name, length)
    set_languages, cell_questions, cell_passages = _languages(num_languages, random)
    np.save(folder / "set_languages.npy", set_languages)
    np.save(folder / "cell_questions.npy", cell_questions)
    np.save(folder / "cell_passages.npy", cell_passages)
    manifest = {
        "languages": CODES[:num_languages],
        "datasets": ["synthetic"],
        "alignment": [False],
        "prefixes": [None],
        "fingerprint": f"synthetic-{num_examples}-{num_languages}",
        "num_examples": num_examples,
        "num_passages": num_passages,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


def _write_examples(folder: Path, num_examples: int, several: bool, random: np.random.Generator) -> int:
    """Write the columns of the examples; return the number of passages."""
    passage = _column(folder, "example_passage", num_examples)
    group = _column(folder, "example_group", num_examples)
    cell = _column(folder, "example_cell", num_examples)
    _column(folder, "example_dataset", num_examples)
    num_passages = 0
    for part in blocks(num_examples):
        new = random.random(part.stop - part.start) < _NEW
        new[0] |= part.start == 0
        seen = num_passages + np.cumsum(new)
        rows = np.where(new, seen - 1, (random.random(len(new)) * seen).astype(np.int64))
        passage[part] = group[part] = rows
        if several:
            cell[part] = _set_of(rows) * _QUESTIONS + random.integers(0, _QUESTIONS, len(rows))
        num_passages = int(seen[-1])
    return num_passages


def _column(folder: Path, name: str, length: int) -> NDArray[Any]:
    """Make a column of zeros; its blocks take disk once something else is written."""
    if not length:
        np.save(folder / f"{name}.npy", np.empty(0, COLUMNS[name]))
        return np.empty(0, COLUMNS[name])
    return open_memmap(folder / f"{name}.npy", "w+", COLUMNS[name], (length,))


def _set_of(passage: NDArray[np.int64]) -> NDArray[np.int64]:
    return (passage * 2_654_435_761 >> 7) % _SETS


def _languages(num_languages: int, random: np.random.Generator) -> tuple[NDArray[np.bool_], ...]:
    """Return languages of the passage sets, and of questions and passages of each cell."""
    if num_languages == 1:
        everything = np.ones((1, 1), bool)
        return everything, everything, everything
    sets = random.random((_SETS, num_languages)) < 0.8
    sets[0] = sets[:, 0] = True
    passages = np.repeat(sets, _QUESTIONS, axis=0)
    questions = passages & (random.random(passages.shape) < 0.8)
    questions[:, 0] = questions[0] = True
    return sets, questions, passages


def run_rank(folder: Path, negatives: int) -> None:
    """Open the corpus, plan, and draw batches as a rank does; print a line of JSON after each part."""
    before = Memory.of(os.getpid(), folder).private

    def report(part: str, since: float) -> None:
        memory = Memory.of(os.getpid(), folder)
        line = {"part": part, "seconds": time.perf_counter() - since, "private": memory.private - before}
        print(json.dumps(line), flush=True)

    start = time.perf_counter()
    print(json.dumps({"part": "before", "private": before}), flush=True)
    corpus = Corpus.open(folder)
    report("open", start)
    start = time.perf_counter()
    settings = BatchSettings.model_validate(
        {"global_batch_size": ROWS, "alpha": 0.5 if len(corpus.languages) > 1 else 1.0}
        | ({"hard_negatives": {"count": negatives}} if negatives else {})
    )
    plan = BatchPlan(corpus, settings, seed=1)
    report("plan", start)
    start = time.perf_counter()
    plan.batch(0)
    report("first batch", start)
    times = []
    for step in range(1, 1 + _BATCHES):
        start = time.perf_counter()
        plan.batch(step)
        times.append(time.perf_counter() - start)
    report("batch", time.perf_counter() - sorted(times)[_BATCHES // 2])
    sys.stdin.readline()  # stay until the parent has read the memory of all ranks


class Rank:
    """A rank in a separate process, whose memory is watched."""

    def __init__(self, folder: Path, negatives: int) -> None:
        command = [sys.executable, __file__, "--rank", str(folder), "--negatives", str(negatives)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.parts: dict[str, dict[str, float]] = {}

    def read(self) -> None:
        """Collect its report until its last part."""
        assert self.process.stdout is not None
        while "batch" not in self.parts:
            line = self.process.stdout.readline()
            if not line:
                raise SystemExit(f"a rank ended with {self.process.wait()}")
            part = json.loads(line)
            self.parts[part.pop("part")] = part

    def anonymous(self) -> int:
        """Return its anonymous memory in bytes."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text("ascii")
        except OSError:
            return 0
        return next((int(x.split()[1]) * 1024 for x in status.splitlines() if x.startswith("RssAnon")), 0)

    def finish(self) -> None:
        """Let the process end."""
        self.process.communicate("\n")


def start_ranks(folder: Path, num_ranks: int, negatives: int) -> dict[str, Any]:
    """Run the ranks of a node at the same time; return seconds and megabytes."""
    ranks = [Rank(folder, negatives) for _ in range(num_ranks)]
    peaks = [0] * num_ranks
    with ThreadPoolExecutor(num_ranks) as readers:
        reading = [readers.submit(rank.read) for rank in ranks]
        while not all(each.done() for each in reading):
            peaks = [max(peak, rank.anonymous()) for peak, rank in zip(peaks, ranks, strict=True)]
            time.sleep(0.02)
    for each in reading:
        each.result()
    memory = [Memory.of(rank.process.pid, folder.parent) for rank in ranks]
    for rank in ranks:
        rank.finish()
    before = [int(rank.parts["before"]["private"]) for rank in ranks]
    peaks = sorted((peak - base for peak, base in zip(peaks, before, strict=True)), reverse=True)
    after = sorted((each.private - base for each, base in zip(memory, before, strict=True)), reverse=True)

    def seconds(part: str) -> float:
        return round(max(rank.parts[part]["seconds"] for rank in ranks), 3)

    return {
        "ranks": num_ranks,
        "open, s": seconds("open"),
        "plan, s": seconds("plan"),
        "first batch, s": seconds("first batch"),
        "batch, s": seconds("batch"),
        "peak of the first rank, MB": megabytes(peaks[0]),
        "peak of each further rank, MB": megabytes(max(peaks[1:], default=0)),
        "private of a rank, MB": megabytes(after[0]),
        "shared by the node, MB": megabytes(sum(each.shared for each in memory)),
        "node, MB": megabytes(sum(each.shared for each in memory) + sum(after)),
    }


def megabytes(size: int) -> int:
    """Return bytes as megabytes."""
    return round(size / 1e6)


def measure(
    scratch: Path, num_examples: int, num_languages: int, worlds: list[int], negatives: int
) -> list[dict[str, Any]]:
    """Return a row per number of ranks and start: without a file of the plan, and with the file."""
    cache = scratch / f"corpus-scale-{num_examples}"
    shutil.rmtree(cache, ignore_errors=True)
    try:
        start = time.perf_counter()
        folder = write_corpus(cache / "corpus", num_examples, num_languages)
        print(f"{num_examples:,} examples written in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        rows = []
        for num_ranks in worlds:
            for path in cache.glob("plan-*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            for when in ("first", "second"):
                head = {"examples": num_examples, "languages": num_languages, "start": when}
                rows.append(head | start_ranks(folder, num_ranks, negatives))
                print(json.dumps(rows[-1]), file=sys.stderr)
        return rows
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def page(report: dict[str, Any]) -> str:
    """Return the report as a page."""
    rows, machine = report["results"], report["machine"]
    head = list(rows[0])
    lines = [
        f"# Opening, planning and batches of {ROWS:,} rows of large corpora",
        "",
        "Made by `benchmarks/data/scale.py`: synthetic corpora without texts; the ranks of a node start at",
        "the same time. The first start sorts the examples into a file, the second one maps it. Seconds are",
        "those of the slowest rank; a batch is the median of 8. Private memory is anonymous. Shared memory",
        "counts the mapped pages of corpus and plan once per node. They are page cache, which the system",
        f"takes back. Load average {report['load']} on {machine['cores']} cores.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---:|" * len(head),
        *(
            "| " + " | ".join(v if isinstance(v, str) else f"{v:,}" for v in row.values()) + " |"
            for row in rows
        ),
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, help="folder with 25 GB of room")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for corpus_scale.json and .md")
    parser.add_argument("--size", action="append", metavar="EXAMPLES,LANGUAGES", help="default: both sizes")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--negatives", type=int, default=0, help="random hard negatives per row")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.rank is not None:
        run_rank(asked.rank, asked.negatives)
        return
    if asked.scratch is None:
        parser.error("--scratch is required")
    sizes = [tuple(map(int, size.split(","))) for size in asked.size or ()] or SIZES
    rows = [row for size in sizes for row in measure(asked.scratch, *size, asked.ranks, asked.negatives)]
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "numpy": np.__version__}
    report = {"rows": ROWS, "machine": machine, "load": round(os.getloadavg()[0], 1), "results": rows}
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "corpus_scale.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (asked.out / "corpus_scale.md").write_text(page(report), encoding="utf-8")
    print(page(report))


if __name__ == "__main__":
    main()

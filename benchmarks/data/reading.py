"""How fast training sources are read and converted, format by format, and whether memory stays flat.

    python benchmarks/data/reading.py --scratch DIR --out benchmarks/results

Writes the same rows in each format: a question of 9 words, a passage and a hard negative of 60 words, and
a language per row (en and fi). Reads them with `columns: {language_column: lang}`, first the records alone,
then the whole conversion. Each measurement is a separate process on one thread. Seconds are processor time,
memory is the peak of the process (resident set, modules included). Texts are distinct; half of the rows have
letters outside ASCII.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import platform
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from hbt_dist.common.console import hush
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.readers import open_source
from hbt_dist.data.corpus.settings import DataSettings

FORMATS = {
    "jsonl": "rows.jsonl",
    "jsonl.gz": "rows.jsonl.gz",
    "csv": "rows.csv",
    "tsv": "rows.tsv",
    "parquet": "rows.parquet",
    "arrow": "rows.arrow",
}
COLUMNS = ("query", "positive", "negative", "lang")
WORDS = {
    "en": "the town is north of a river where people build bridges and sell fish every week",
    "fi": "kaupunki on pohjoisessa jäällä jossa väki myy kaloja öisin ja syö puuroa aamulla",
}
_BATCH = 10_000


def rows(count: int) -> Iterator[dict[str, str]]:
    """Yield distinct rows, the same at every call."""
    generator = random.Random(1)
    for number in range(count):
        language = ("en", "fi")[number % 2]
        words = WORDS[language].split()

        def text(length: int, words: list[str] = words, number: int = number) -> str:
            return f"{number} {' '.join(generator.choices(words, k=length))}"

        yield dict(zip(COLUMNS, (text(9), text(60), text(60), language), strict=True))


def write(folder: Path, count: int) -> None:
    """Write the rows in every format."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS])
    with ExitStack() as stack:
        lines = [
            stack.enter_context((folder / FORMATS["jsonl"]).open("w", encoding="utf-8")),
            stack.enter_context(gzip.open(folder / FORMATS["jsonl.gz"], "wt", 3, encoding="utf-8")),
        ]
        tables = []
        for name, separator in (("csv", ","), ("tsv", "\t")):
            file = stack.enter_context((folder / FORMATS[name]).open("w", encoding="utf-8", newline=""))
            tables.append(csv.DictWriter(file, COLUMNS, delimiter=separator))
            tables[-1].writeheader()
        parquet = stack.enter_context(pyarrow.parquet.ParquetWriter(folder / FORMATS["parquet"], schema))
        arrow = stack.enter_context(pyarrow.ipc.new_stream(str(folder / FORMATS["arrow"]), schema))
        waiting = []
        for number, row in enumerate(rows(count), start=1):
            line = json.dumps(row, ensure_ascii=False) + "\n"
            for file in lines:
                file.write(line)
            for table in tables:
                table.writerow(row)
            waiting.append(row)
            if len(waiting) == _BATCH or number == count:
                batch = pyarrow.Table.from_pylist(waiting, schema)
                parquet.write_table(batch)
                arrow.write_table(batch)
                waiting = []


def read(path: Path, cache: Path, *, convert: bool) -> dict[str, Any]:
    """Read or convert a file in this process; return seconds and peak memory."""
    hush()
    source = {
        "name": "rows",
        "format": path.name.split(".")[1],
        "path": str(path),
        "columns": {"language_column": "lang"},
    }
    settings = DataSettings.model_validate({"sources": [source], "missing": "skip"})
    start = time.process_time()
    if convert:
        count = build_corpus(settings, cache).num_examples
    else:
        count = sum(1 for _ in open_source(settings.sources[0], None, "skip").records())
    return {
        "rows": count,
        "seconds": time.process_time() - start,
        "peak_mib": peak_mib(),
    }


def peak_mib() -> float:
    """Return the peak of this process' memory (not of the parent's, as `ru_maxrss` may)."""
    (line,) = (
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) / 1024


def measured(path: Path, scratch: Path, what: str) -> dict[str, Any]:
    """Run `read` in a separate process."""
    cache = scratch / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    command = [sys.executable, __file__, "--scratch", str(cache), "--only", str(path), "--what", what]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    answer: dict[str, Any] = json.loads(result.stdout)
    return answer


def measure(scratch: Path, sizes: list[int]) -> list[dict[str, Any]]:
    """Return a row of figures per format."""
    for size in sizes:
        write(scratch / str(size), size)
    table = []
    for name, file in FORMATS.items():
        row: dict[str, Any] = {
            "format": name,
            "mib": round((scratch / str(sizes[-1]) / file).stat().st_size / 2**20),
        }
        for what in ("read", "convert"):
            for size in sizes:
                result = measured(scratch / str(size) / file, scratch, what)
                row[f"{what} {size:,}: rows per second"] = round(size / result["seconds"])
                row[f"{what} {size:,}: MiB"] = round(result["peak_mib"])
        table.append(row)
        print(json.dumps(row), flush=True)
    return table


def markdown(report: dict[str, Any]) -> str:
    """Return the table of the report."""
    table = report["formats"]
    names = list(table[0])
    lines = [f"# Reading and converting {max(report['sizes']):,} rows", ""]
    lines += [
        "Made by `benchmarks/data/reading.py`: processor seconds of one thread, and the peak of memory.",
        "",
    ]
    lines += [f"| {' | '.join(names)} |", f"|---|{'---:|' * (len(names) - 1)}"]
    lines += [
        f"| {' | '.join(f'{value:,}' if isinstance(value, int) else str(value) for value in row.values())} |"
        for row in table
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, required=True, help="folder for 4 GB of files, removed after")
    parser.add_argument("--out", type=Path, help="folder for reading.json and reading.md")
    parser.add_argument("--sizes", type=int, nargs="+", default=[250_000, 1_000_000])
    parser.add_argument("--only", type=Path, help="measure this file in this process")
    parser.add_argument("--what", choices=["read", "convert"], default="read")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(read(options.only, options.scratch, convert=options.what == "convert")))
        return
    folder = options.scratch / "reading"
    try:
        formats = measure(folder, options.sizes)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = {
        "sizes": options.sizes,
        "machine": f"{platform.machine()}, one thread",
        "pyarrow": pyarrow.__version__,
        "formats": formats,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "reading.json").write_text(json.dumps(report, indent=1) + "\n", "utf-8")
    (options.out / "reading.md").write_text(markdown(report), "utf-8")


if __name__ == "__main__":
    main()

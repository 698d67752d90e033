"""Load benchmarks by name: public ones, the embedded sample, a folder or a reader of the user."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import expanded
from hbt_dist.config.user_functions import is_user_function, load_user_function, user_error
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.builder import BenchmarkBuilder
from hbt_dist.data.benchmarks.judgements import Rules
from hbt_dist.data.benchmarks.on_disk import stored_benchmark
from hbt_dist.data.benchmarks.registry import BENCHMARKS
from hbt_dist.data.benchmarks.settings import BenchmarkSettings, IdenticalIds, Judgements
from hbt_dist.data.fields import languages_at
from hbt_dist.data.files import existing_folder
from hbt_dist.data.splits import Split

#: Candidates of larger files are read from disk as they are needed.
MEMORY_BYTES = 2**28
#: Where converted benchmarks are kept by default.
CACHE_DIR = ".cache/hbt_dist"


def load_benchmark(
    name: str,
    data_dir: Path | str | None = None,
    variant: str | None = None,
    languages: Sequence[str] | None = None,
    *,
    judgements: Judgements | None = None,
    identical_ids: IdenticalIds | None = None,
    cache_dir: Path | str | None = None,
    memory_bytes: int = MEMORY_BYTES,
) -> Benchmark:
    """Read a benchmark.

    Args:
        name: one of `BENCHMARKS`, a folder in the form of one of them, ``module:function``, a user-defined
            reader (docs/extending.md), or ``mteb:NAME``, a task of MTEB (readers/mteb.py).
        data_dir: the benchmark's folder, or a folder that holds it under its usual name; by default its files
            are downloaded from the hub, if it has them (hub.py).
        variant: one of the benchmark's variants; by default the first.
        languages: questions and candidates of these languages only, in this order; by default all, sorted.
            A question that loses all of its relevant candidates is left out.
        judgements: how judgements that do not fit the collection are scored (judgements.py); default: the
            benchmark's, `as_published` for published collections and `strict` for the rest.
        identical_ids: whether rankings leave out the document with the question's id; default: `drop` for
            `beir`, as BEIR does, else `keep`.
        cache_dir: folder for converted benchmarks; by default `CACHE_DIR` in the working directory.
        memory_bytes: query and corpus collections whose files are larger (`.gz` counts fourfold) are
            converted once, and their candidates are read from disk as they are needed (on_disk.py).

    Raises:
        UserError: unknown name or variant, files missing or malformed, a language absent, a benchmark that
            cannot be scored.
    """
    if is_folder(name):
        name, data_dir = form_of_folder(expanded(name)), name
    codes = None if languages is None else languages_at(languages, "languages")
    if name.startswith("mteb:"):
        from hbt_dist.data.benchmarks.readers.mteb import load_task

        folder = None if data_dir is None else expanded(data_dir)
        return load_task(name, folder, variant, codes, judgements, identical_ids)
    if name not in BENCHMARKS and not is_user_function(name):
        if "/" in name:
            problem = "is a file" if expanded(name).exists() else "there is no such folder"
            raise UserError(f"benchmark {name!r}", problem, "give the folder of a benchmark")
        close = difflib.get_close_matches(name, BENCHMARKS, n=1)
        raise UserError(
            f"benchmark {name!r}",
            "there is no such benchmark",
            f"did you mean {close[0]}?"
            if close
            else f"choose from {', '.join(BENCHMARKS)}, or name your reader, module:function, "
            "or a task of MTEB, mteb:NAME",
        )
    if is_user_function(name):
        rules = Rules(judgements or "strict", identical_ids or "keep")
        return _user_benchmark(name, data_dir, variant, codes, rules)
    entry = BENCHMARKS[name]
    rules = Rules(judgements or entry.judgements, identical_ids or entry.identical_ids)
    chosen = entry.variants[0] if variant is None else variant
    if chosen not in entry.variants:
        raise UserError(
            f"benchmark {name}", f"there is no variant {chosen!r}", f"choose from {', '.join(entry.variants)}"
        )
    if name == "sample":
        from hbt_dist.data.sample import LANGUAGES, sample_benchmark

        return sample_benchmark(cast(Split, chosen), codes or tuple(LANGUAGES))
    module = importlib.import_module(f"hbt_dist.data.benchmarks.readers.{entry.module}")
    folder = benchmark_folder(name, data_dir, codes)

    def read(builder: BenchmarkBuilder) -> None:
        getattr(module, entry.function)(folder, chosen, codes, builder)

    if entry.files:
        files: list[Path] = getattr(module, entry.files)(folder, chosen, codes)
        if sum(_unpacked_bytes(path) for path in files) > memory_bytes:
            return stored_benchmark(name, chosen, codes, files, read, Path(cache_dir or CACHE_DIR), rules)
    builder = BenchmarkBuilder(name, chosen, codes, rules=rules)
    read(builder)
    return builder.build()


def is_folder(name: str) -> bool:
    """Return whether a benchmark's name is the path of a folder."""
    return name not in BENCHMARKS and not is_user_function(name) and expanded(name).is_dir()


def title_given(benchmark: BenchmarkSettings) -> str | None:
    """Return the label for people; None where the benchmark's name and variant say as much."""
    return benchmark.label if is_folder(benchmark.name) else benchmark.title


def form_of_folder(folder: Path) -> str:
    """Return the benchmark whose files a folder holds.

    Raises:
        UserError: it holds the files of none, or of several.
    """
    matches = {
        name: pattern
        for name, entry in BENCHMARKS.items()
        for pattern in entry.marks
        if next(folder.glob(pattern), None) is not None
    }
    if len(matches) == 1:
        return next(iter(matches))
    marks = ", ".join(
        f"{name} ({' '.join(entry.marks)})" for name, entry in BENCHMARKS.items() if entry.marks
    )
    problem = f"has the form of {', '.join(matches)}" if matches else "has the form of no benchmark"
    raise UserError(str(folder), problem, f"name one, with --data-dir {folder}; the forms are {marks}")


def _user_benchmark(
    name: str,
    data_dir: Path | str | None,
    variant: str | None,
    languages: tuple[str, ...] | None,
    rules: Rules,
) -> Benchmark:
    """Read a benchmark into memory with the user's function."""
    read = load_user_function(name, f"benchmark {name}")
    folder = None if data_dir is None else expanded(data_dir)
    if folder is not None and not folder.exists():
        raise UserError(str(folder), "there is no such folder", f"name the folder of benchmark {name}")
    builder = BenchmarkBuilder(name, variant or "default", languages, rules=rules)
    try:
        read(folder, builder.variant, languages, builder)
    except UserError:
        raise
    except Exception as error:  # the user's function can raise anything
        raise user_error(error, name, f"benchmark {name}") from error
    return builder.build()


def _unpacked_bytes(path: Path) -> int:
    """Return about how large a file's text is; 0 if it does not exist."""
    try:
        return path.stat().st_size * (4 if path.suffix == ".gz" else 1)
    except OSError:
        return 0


def benchmark_folder(
    name: str, data_dir: Path | str | None, languages: tuple[str, ...] | None = None
) -> Path:
    """Return the folder of a known benchmark's files.

    Args:
        data_dir: the folder, or one above; None downloads the files from the hub.
        languages: download these only.

    Raises:
        UserError: the folder does not exist, or the hub cannot be reached or doesn't have the benchmark.
    """
    entry = BENCHMARKS[name]
    if data_dir is None:
        from hbt_dist.data.hub import hub_folder

        return hub_folder(name, languages)
    folder = expanded(data_dir)
    if entry.folder and (folder / entry.folder).is_dir():
        return folder / entry.folder
    return existing_folder(folder, f"name the folder of benchmark {name}")


def load(benchmark: BenchmarkSettings, cache_dir: str | None = None) -> Benchmark:
    """Load a benchmark as the run file names it.

    Args:
        cache_dir: folder for converted benchmarks, see `load_benchmark`.
    """
    return load_benchmark(
        benchmark.name,
        benchmark.data_dir,
        variant=benchmark.variant,
        languages=benchmark.languages,
        judgements=benchmark.judgements,
        identical_ids=benchmark.identical_ids,
        cache_dir=cache_dir,
    )


def check_benchmarks(benchmarks: Sequence[BenchmarkSettings]) -> dict[str, str]:
    """Load the benchmarks before hours of training rather than after.

    Returns:
        label -> fingerprint of each.

    Raises:
        UserError: a benchmark cannot be read.
    """
    return {benchmark.label: load(benchmark).fingerprint for benchmark in benchmarks}

"""Turn points of a search into run files, and check the whole space before the first trial.

A point is a mapping of dotted keys to values. Every trial is a whole run file: the base with the point's
values, its seed and its folder. The base run is validated with the ends of each dimension before the first
trial, so that an impossible value costs seconds and not hours.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_dist.batching.plan import check_divisible
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import expanded
from hbt_dist.config.paths import check_relative
from hbt_dist.config.settings import apply_override, read_yaml, set_value, validate
from hbt_dist.config.shipped import RUN_FILES
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.run_file import RunFile, check_paths, check_user_functions, find_run_file, resolve_paths
from hbt_dist.search.settings import SearchFile

Point = dict[str, Any]

#: Key that excludes another key of `batches`.
_EXCLUDED = {"batches.alpha": "mixture", "batches.mixture": "alpha"}


@dataclass(frozen=True)
class Base:
    """The run that every trial starts from, without defaults."""

    file: str
    data: dict[str, Any]

    @classmethod
    def load(cls, run: str, overrides: list[str] | tuple[str, ...]) -> Base:
        """Read a base run file and apply its overrides.

        Raises:
            UserError: see `load_settings`.
        """
        path = find_run_file(run)
        data, lines = read_yaml(path)
        overridden = {apply_override(data, item): item for item in overrides}
        check_paths(validate(RunFile, data, str(path), lines, overridden), path)
        return cls(str(path), data)

    def run(self, point: Point, *, location: str, **fixed: Any) -> RunFile:
        """Return the run of a point, with absolute paths.

        Args:
            point: dotted key -> value.
            location: for error messages.
            fixed: top-level entries of the run file that the caller sets.

        Raises:
            UserError: a key is unknown, or a value is impossible in this run.
        """
        data = copy.deepcopy(self.data)
        for key, value in point.items():
            if key in _EXCLUDED and isinstance(data.get("batches"), dict):
                data["batches"].pop(_EXCLUDED[key], None)
            set_value(data, key, copy.deepcopy(value), location)
        data |= fixed
        try:
            run = validate(RunFile, data, self.file)
        except UserError as cause:
            values = json.dumps(point, ensure_ascii=False)
            raise UserError(
                location, f"{values} is not a valid run: {cause.location}: {cause.problem}", cause.remedy
            ) from None
        check_user_functions(run, self.file)
        return resolve_paths(run)


def check_space(search: SearchFile, base: Base, location: str) -> None:
    """Validate the base run with every listed value and the ends of every continuous dimension.

    Args:
        location: the search file, for messages.

    Raises:
        UserError: a key is unknown, a value is impossible, or the workers do not divide a batch size.
    """
    corners = {key: dimension.corners() for key, dimension in search.space.items()}
    first = {key: values[0] for key, values in corners.items()}
    for key, values in corners.items():
        for value in values:
            where = f"{location}, space: {key}"
            run = base.run({**first, key: value}, location=where)
            try:
                check_divisible(run.batches.global_batch_size, run.workers.num_workers)
            except UserError as error:
                raise UserError(
                    where, f"{value!r}: {error.location}: {error.problem}", error.remedy
                ) from None


def check_benchmark(search: SearchFile, base: RunFile, location: str) -> None:
    """Check that the development benchmark has every objective and no question of a test benchmark.

    Raises:
        UserError: an objective is missing, a question is shared, or a benchmark cannot be read.
    """
    from hbt_dist.data.benchmarks.load import load

    data = load(search.benchmark)
    pairs = data.pair_counts()
    for holds, finding, benchmark, possible in (
        (len(data.languages) < 2, "one language", "a benchmark of two or more languages", ["monolingual"]),
        (
            pairs.sum() == pairs.trace(),
            "relevant candidates in the question's language only",
            "another benchmark",
            ["monolingual", "multilingual"],
        ),
    ):
        lacking = [name for name in search.objectives if name not in possible]
        if holds and lacking:
            raise UserError(
                location,
                f"benchmark {search.benchmark.label!r} has {finding} and gives no {lacking[0]}",
                f"use {benchmark}, or set objectives: [{', '.join(possible)}]",
            )
    development = _questions(data)
    for test in [*search.test_benchmarks, *base.evaluation.benchmarks]:
        shared = [(key, name) for key, name in _questions(load(test)).items() if key in development]
        if shared:
            (language, _), name = shared[0]
            raise UserError(
                location,
                f"benchmark {search.benchmark.label!r} shares {len(shared):,} questions with the test "
                f"benchmark {test.label!r}, such as {name!r} in {language}",
                "use another development benchmark, or another split of it",
            )


def _questions(data: Any) -> dict[tuple[str, str], str]:
    """Return (language, text without case and spacing) -> question id."""
    languages = [data.languages[i] for i in data.question_language]
    return {
        (language, " ".join(text.casefold().split())): name
        for language, text, name in zip(languages, data.question_texts, data.question_ids, strict=True)
    }


def absolute(search: SearchFile, file: Path) -> SearchFile:
    """Return the search of a file with absolute folders.

    Raises:
        UserError: see `check_relative`.
    """
    folders = {f"warm_start.{number}": folder for number, folder in enumerate(search.warm_start)}
    benchmarks = {f"test_benchmarks.{number}": each for number, each in enumerate(search.test_benchmarks)}
    inputs = (
        data_dirs({"benchmark": search.benchmark, **benchmarks}) | run_files({"run": search.run}) | folders
    )
    check_relative(inputs.items(), file)
    data = search.model_dump(mode="json")
    data["output_dir"] = str(expanded(search.output_dir).absolute())
    for block in [data["benchmark"], *data["test_benchmarks"]]:
        absolute_benchmark(block)
    data["warm_start"] = [str(expanded(folder).absolute()) for folder in search.warm_start]
    return SearchFile.model_validate(data)


def data_dirs(benchmarks: Mapping[str, BenchmarkSettings]) -> dict[str, str | None]:
    """Return the dotted key of each benchmark's data folder -> the folder."""
    return {f"{key}.data_dir": benchmark.data_dir for key, benchmark in benchmarks.items()}


def run_files(runs: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return the dotted key of each base run -> its file; None for a run file of the package."""
    return {key: None if (RUN_FILES / f"{run}.yaml").is_file() else run for key, run in runs.items()}


def absolute_benchmark(block: dict[str, Any]) -> None:
    """Make the data folder of a benchmark's settings absolute."""
    if block["data_dir"] is not None:
        block["data_dir"] = str(expanded(block["data_dir"]).absolute())

"""List the paths in a run file, and who uses each.

`load_run` makes them absolute. Every node of a cluster must have the paths that it reads. A moved path does
not make a different run: fingerprints compare the content, and the location does not count.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import expanded
from hbt_dist.config.messages import dotted_key

#: Who uses a path. made: the run writes it. workers: every worker reads it. checkpoints: the process that
#: measures checkpoints reads it, on any node. driver: the process that starts the run reads it.
User = Literal["made", "workers", "checkpoints", "driver"]

#: Dotted key (`*`: every entry of a list or a mapping) -> who uses it.
PATHS: dict[str, User] = {
    "output_dir": "made",
    "data.cache_dir": "made",
    "data.sources.*.path": "workers",
    "data.exclude_overlap_with.*.data_dir": "workers",
    "batches.code_switching.cache_dir": "made",
    "batches.code_switching.dictionaries": "workers",
    "batches.code_switching.dictionaries.*": "workers",
    "batches.code_switching.vectors.*": "workers",
    "model.name_or_path": "workers",
    "teachers.*.name_or_path": "workers",
    "deepspeed.config": "workers",
    "training.storage": "made",
    "mining.judge.name_or_path": "workers",
    "mining.pool": "driver",
    "evaluation.benchmarks.*.data_dir": "driver",
    "evaluation.checkpoint_benchmarks.*.data_dir": "checkpoints",
    "evaluation.scoring.cache_dir": "made",
    "evaluation.scoring.language_removal_texts": "checkpoints",
}


@dataclass(frozen=True)
class RunPath:
    """A path in a run file."""

    key: tuple[str | int, ...]
    pattern: str  # its line of `PATHS`
    path: str

    @property
    def user(self) -> User:
        """Return who uses the path."""
        return PATHS[self.pattern]


def paths_in(run: dict[str, Any]) -> Iterator[RunPath]:
    """Yield the paths of a run, given as plain data.

    Names of the hub, of shipped configurations and of object stores are skipped.
    """
    for pattern in PATHS:
        for key, value in _matching(run, pattern.split("."), ()):
            if isinstance(value, str) and _is_path(run, key, pattern, value):
                yield RunPath(key, pattern, value)


def with_paths(run: dict[str, Any], change: Callable[[RunPath], str]) -> dict[str, Any]:
    """Return a copy of the run with every path replaced."""
    changed = copy.deepcopy(run)
    for path in paths_in(run):
        block: Any = changed
        for part in path.key[:-1]:
            block = block[part]
        block[path.key[-1]] = change(path)
    return changed


def inputs_in(run: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield dotted key and value of every path that a run reads, and of the names of its models."""
    for pattern, user in PATHS.items():
        for key, value in _matching(run, pattern.split("."), ()) if user != "made" else ():
            is_model = pattern.endswith(".name_or_path")
            if isinstance(value, str) and (is_model or _is_path(run, key, pattern, value)):
                yield dotted_key(key), value


def check_relative(paths: Iterable[tuple[str, str | None]], file: Path) -> None:
    """Refuse a relative path that leads nowhere from the working directory, but somewhere from its file.

    Args:
        paths: dotted key and path, as they are in the file.
        file: the file with these keys.

    Raises:
        UserError: names both places.
    """
    for key, path in paths:
        if not path or expanded(path).is_absolute() or expanded(path).exists():
            continue
        if (neighbour := file.parent / path).exists():
            raise UserError(
                f"{file}, {key}",
                f"{path} is not in {Path.cwd()}, where relative paths start (the working directory), but "
                f"{neighbour} exists",
                f"write {key}: {neighbour}, or change the directory: cd {file.parent}",
            )


def _matching(
    value: Any, pattern: list[str], key: tuple[str | int, ...]
) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if not pattern:
        yield key, value
    elif isinstance(value, dict | list):
        for name, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if pattern[0] in ("*", name):
                yield from _matching(inner, pattern[1:], (*key, name))


def _is_path(run: dict[str, Any], key: tuple[str | int, ...], pattern: str, value: str) -> bool:
    if pattern == "data.sources.*.path":
        return bool(run["data"]["sources"][key[2]].get("format") != "hub") and "://" not in value
    if pattern == "batches.code_switching.dictionaries":
        return value != "sample"
    if pattern.endswith(".name_or_path"):
        return Path(value).is_absolute() or expanded(value).is_dir()
    if pattern == "deepspeed.config":
        return "/" in value or value.endswith(".json")
    return pattern != "training.storage" or "://" not in value

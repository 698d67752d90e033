"""Complete run files, dotted keys and benchmarks in the shell, without importing torch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import typer
import yaml
from pydantic import BaseModel

from hbt_dist.config.shipped import RUN_FILES
from hbt_dist.data.benchmarks.registry import BENCHMARKS

#: Command -> module and class of the file whose keys it overrides; else those of the run file.
_FILES = {
    "search": ("hbt_dist.search.settings", "SearchFile"),
    "study": ("hbt_dist.study.settings", "StudyFile"),
}


def complete_run(incomplete: str) -> Iterator[str]:
    """Yield the run files of the package, and YAML files and folders, that begin like this."""
    if "/" not in incomplete:
        yield from sorted(file.stem for file in RUN_FILES.glob(f"{incomplete}*.yaml"))
    yield from _paths(incomplete, endings=(".yaml", ".yml"))


def complete_key(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Yield the overrides that begin like this: dotted keys with their default values."""
    module, name = _FILES.get(ctx.info_name or "", ("hbt_dist.run_file", "RunFile"))
    kind = getattr(importlib.import_module(module), name)
    yield from (override for override in _overrides(kind, "") if override.startswith(incomplete))


def complete_benchmark(incomplete: str) -> Iterator[str]:
    """Yield the names of benchmarks, and folders, that begin like this."""
    yield from (name for name in BENCHMARKS if name.startswith(incomplete))
    yield from _paths(incomplete)


def _paths(incomplete: str, endings: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield folders, and files with one of the endings."""
    folder, separator, name = incomplete.rpartition("/")
    base = Path(folder + separator)
    for path in sorted(base.iterdir()) if base.is_dir() else ():
        if path.name.startswith(name) and not (path.name.startswith(".") and not name):
            if path.is_dir():
                yield f"{path}/"
            elif path.suffix in endings:
                yield str(path)


def _overrides(kind: type[BaseModel], prefix: str) -> Iterator[str]:
    """Yield `key=default` of every key that is not inside a list, in the order of the file."""
    for name, field in kind.model_fields.items():
        key = f"{prefix}{name}"
        for block in _blocks(field.annotation):
            yield from _overrides(block, f"{key}.")
        if not _blocks(field.annotation):
            yield f"{key}={_written(field.get_default(call_default_factory=True))}"


def _blocks(annotation: Any) -> list[type[BaseModel]]:
    """Return the blocks of keys that a value may be, those in lists and mappings left out."""
    choices = [annotation, *(get_args(annotation) if not hasattr(annotation, "__origin__") else ())]
    return [choice for choice in choices if isinstance(choice, type) and issubclass(choice, BaseModel)]


def _written(value: Any) -> str:
    """Return a default in YAML; "" for a required key."""
    if value is None or isinstance(value, bool | int | float | str):
        return yaml.safe_dump(value).removesuffix("\n").removesuffix("\n...")
    return ""

"""Typed blocks of a YAML file: load, override, validate, and say where a mistake is.

The one loader serves every file that a person writes (run files, search spaces, studies). A mistake is
reported with the file, its line, the key, what was found and what was expected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hbt_dist.common.errors import UserError
from hbt_dist.config.messages import Key, dotted_key, explain

Loaded = TypeVar("Loaded", bound="Settings")


class Settings(BaseModel):
    """A frozen block of settings: unknown keys, NaN and infinity are refused.

    Each room defines its own block beside the code that reads it and validates it there;
    `hbt_dist.run_file` puts the blocks together into the run file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


def load_settings(kind: type[Loaded], path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read a YAML file into its typed form.

    Args:
        kind: what the file describes.
        path: the YAML file.
        overrides: ``dotted.key=value`` items, the value in YAML (``batches.alpha=0.25``,
            ``data.languages=[en, fi]``); a list entry is named by its number (``data.sources.0.path=...``).

    Raises:
        UserError: the file is missing or malformed, a key is unknown, a value is impossible.
    """
    data, lines = read_yaml(path)
    overridden: dict[Key, str] = {}
    for item in overrides:
        key = apply_override(data, item)
        overridden[key] = item
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise explain(error, kind, str(path), lines, overridden, data) from None


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    """The file's mapping, and the line (from 1) of every key in it."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise UserError(str(path), "no such file", "give the path of a YAML file") from None
    except IsADirectoryError:
        raise UserError(str(path), "is a folder", "give the path of a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(str(path), f"not UTF-8 text (byte {error.start})", "save the file as UTF-8") from None
    except OSError as error:
        raise UserError(
            str(path), f"cannot be read: {error.strerror}", "check the path and its rights"
        ) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{path} line {mark.line + 1}" if mark else str(path)
        raise UserError(place, f"not valid YAML: {error.problem or error.context}", "mend the line") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else "too deeply nested"
        raise UserError(str(path), f"not valid YAML: {first}", "mend the file") from None
    if not isinstance(data, dict) or node is None:
        raise UserError(
            str(path), f"holds {_name(data)} where settings were expected", "write 'key: value' lines"
        )
    lines: dict[Key, int] = {}
    for key, line in _walk(node, ()):
        if key in lines:
            dotted = dotted_key(key)
            raise UserError(
                f"{path} line {line}",
                f"{dotted} stands twice (first in line {lines[key]})",
                "keep one of them",
            )
        lines[key] = line
    return data, lines


def _walk(node: yaml.Node, prefix: Key) -> Iterator[tuple[Key, int]]:
    if isinstance(node, yaml.MappingNode):
        for key_node, value_node in node.value:
            key = (*prefix, str(key_node.value))
            if key_node.value != "<<":
                yield key, key_node.start_mark.line + 1
                yield from _walk(value_node, key)
    elif isinstance(node, yaml.SequenceNode):
        for i, value_node in enumerate(node.value):
            yield (*prefix, i), value_node.start_mark.line + 1
            yield from _walk(value_node, (*prefix, i))


def apply_override(data: dict[str, Any], item: str) -> Key:
    """Set one ``dotted.key=value`` in nested data and return the key."""
    name, separator, text = item.partition("=")
    if not separator or not name.strip():
        raise UserError(
            f"override {item!r}", "is not of the form key=value", "for example batches.alpha=0.25"
        )
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(
            f"override {item!r}", "the value is not valid YAML", "quote it for YAML and the shell"
        ) from None
    return set_value(data, name.strip(), value, f"override {item!r}")


def set_value(data: dict[str, Any], dotted: str, value: Any, place: str) -> Key:
    """Set one dotted key of nested data and return the key.

    Args:
        place: what a mistake is reported at.

    Raises:
        UserError: the key leads through something that has no such entry.
    """
    key: Key = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
    here: Any = data
    for i, part in enumerate(key[:-1]):
        if isinstance(here, list) and isinstance(part, int) and part >= len(here):
            raise _no_element(place, key, i, value)
        step = _step(here, part, place, key[: i + 1])
        if step is None and isinstance(key[i + 1], int) and i + 2 < len(key):
            raise _no_element(place, key, i + 1, value)
        if step is None:
            step = here[part] = {}
        here = step
    last = key[-1]
    if isinstance(here, dict):
        here[str(last)] = value
    elif isinstance(here, list) and isinstance(last, int) and last < len(here):
        here[last] = value
    else:
        raise UserError(place, f"{dotted_key(key)} does not exist", "check the key against the file")
    return key


def _no_element(place: str, key: Key, at: int, value: Any) -> UserError:
    """The list that a key leads through is too short, or not there: say how to write it."""
    whole: Any = value
    for part in reversed(key[at + 1 :]):
        whole = {part: whole}
    text = yaml.safe_dump([whole], default_flow_style=True, allow_unicode=True, width=1000).strip()
    return UserError(
        place,
        f"{dotted_key(key[: at + 1])} does not exist: the list has no element {key[at]}",
        f"write the list: {dotted_key(key[:at])}={text}",
    )


def _step(here: Any, part: str | int, place: str, key: Key) -> Any:
    if isinstance(here, dict):
        return here.get(str(part))
    if isinstance(here, list) and isinstance(part, int) and part < len(here):
        return here[part]
    raise UserError(place, f"{dotted_key(key)} does not exist", "check the key against the file")


def _name(value: Any) -> str:
    return {type(None): "nothing", list: "a list", str: "text"}.get(type(value), type(value).__name__)


def settings_from_items(kind: type[Loaded], items: Sequence[str]) -> Loaded:
    """Typed settings from ``key=value`` items of a command line alone.

    Raises:
        UserError: an item is malformed, a key is unknown, a value is impossible.
    """
    data: dict[str, Any] = {}
    overridden = {apply_override(data, item): item for item in items}
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise explain(error, kind, "command line", {}, overridden, data) from None


def settings_from_options(kind: type[Loaded], **options: Any) -> Loaded:
    """Typed settings from options of a command line; an option that is None keeps its default.

    Raises:
        UserError: a value is impossible.
    """
    try:
        return kind.model_validate({key: value for key, value in options.items() if value is not None})
    except ValidationError as error:
        raise explain(error, kind, "command line", {}, {}, options) from None

"""Load a YAML file into typed settings, apply overrides, and report where a mistake is.

Every file that a person writes goes through `load_settings`: run files, searches, studies. An error has the
file, its line, the key, the value and what was expected.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from errno import EISDIR, ENOENT
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from hbt_dist.common.errors import UserError, expected, first_line
from hbt_dist.config.messages import Key, dotted_key, explain

Loaded = TypeVar("Loaded", bound="Settings")
_MOST = 2**63


def _leaf_types(annotation: Any) -> set[Any]:
    """Return the types that are written in an annotation, at any depth."""
    if inner := get_args(annotation):
        return {leaf for part in inner for leaf in _leaf_types(part)}
    return {annotation} if annotation is Any or isinstance(annotation, type) else set()


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the values in lists and mappings, at any depth."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    else:
        yield value


class Settings(BaseModel):
    """A frozen block of settings that rejects unknown keys, NaN and infinity.

    Each room defines and validates its block next to the code that reads it; `hbt_dist.run_file` combines
    the blocks into the run file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    #: Fields whose keys are dotted keys of another file: `space.batches.alpha={choice: [0, 1]}`.
    dotted_fields: ClassVar[frozenset[str]] = frozenset()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).model_fields:
            raise UserError(
                f"{type(self).__name__}.{name}",
                "settings cannot be changed in place",
                f'make a changed copy: run = run.with_changes({{"{dotted_place(type(self), name)}": ...}})',
            )
        super().__setattr__(name, value)

    @field_validator("*", mode="before")
    @classmethod
    def _sound_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false as numbers (pydantic takes them for 1 and 0), and NaN among any values.

        JSON has neither NaN nor infinity: they would become null, which stands for a default.
        """
        types = _leaf_types(cls.model_fields[str(info.field_name)].annotation)
        is_number = types & {int, float} and not types & {bool, str, Any}
        for leaf in _leaves(value):
            if is_number and isinstance(leaf, bool):
                raise ValueError("must be a number; YAML reads yes and on as true, no and off as false")
            if is_number and isinstance(leaf, int) and abs(leaf) >= _MOST:
                raise ValueError("must be a number of at most 64 bits")
            if Any in types and isinstance(leaf, float) and not math.isfinite(leaf):
                raise ValueError("must hold finite numbers")
        return value


def dotted_place(kind: type[Settings], name: str) -> str:
    """Return the dotted key of a field in the file whose blocks include its class."""
    for parent in Settings.__subclasses__():
        for field, info in parent.model_fields.items():
            if parent is not kind and kind in _leaf_types(info.annotation):
                return dotted_place(parent, f"{field}.{name}")
    return name


def load_settings(kind: type[Loaded], path: Path, overrides: Sequence[str] = ()) -> Loaded:
    """Read a YAML file into its typed form.

    Args:
        kind: type of the file.
        path: the YAML file.
        overrides: ``dotted.key=value`` items, the value in YAML (``batches.alpha=0.25``,
            ``data.languages=[en, fi]``); a number selects a list entry (``data.sources.0.path=...``).

    Raises:
        UserError: the file is missing or malformed, a key is unknown, a value is impossible.
    """
    data, lines = read_yaml(path)
    overridden = apply_overrides(data, overrides, kind.dotted_fields)
    return validate(kind, data, str(path), lines, overridden)


def settings_from_items(kind: type[Loaded], items: Sequence[str]) -> Loaded:
    """Return typed settings from ``key=value`` items of a command line alone.

    Raises:
        UserError: an item is malformed, a key is unknown, a value is impossible.
    """
    data: dict[str, Any] = {}
    overridden = apply_overrides(data, items, kind.dotted_fields)
    return validate(kind, data, "command line", {}, overridden)


def settings_from_options(kind: type[Loaded], **options: Any) -> Loaded:
    """Return typed settings from options of a command line; an option that is None keeps its default.

    Raises:
        UserError: a value is impossible.
    """
    data = {key: value for key, value in options.items() if value is not None}
    return validate(kind, data, "command line")


def validate(
    kind: type[Loaded],
    data: dict[str, Any],
    file: str,
    lines: Mapping[Key, int] | None = None,
    overridden: Mapping[Key, str] | None = None,
) -> Loaded:
    """Return plain data in its typed form.

    Args:
        file: name of the file for messages.
        lines: key -> its line in the file.
        overridden: key -> the override that set it.

    Raises:
        UserError: a key is unknown, a value is impossible.
    """
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        raise explain(error, kind, file, lines or {}, overridden or {}, data) from None


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[Key, int]]:
    """Return the file's mapping and the line (from 1) of every key.

    Raises:
        UserError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        text = path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(str(path), f"not UTF-8 text (byte {error.start})", "save the file as UTF-8") from None
    except OSError as error:
        problem = {ENOENT: "no such file", EISDIR: "is a folder"}.get(error.errno or 0)
        remedy = "give the path of a YAML file" if problem else "check the path and its permissions"
        raise UserError(str(path), problem or f"cannot be read: {error.strerror}", remedy) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
        lines = _lines_of_keys(node, path)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "context", None) or first_line(error)
        location = f"{path} line {mark.line + 1}" if mark else str(path)
        raise UserError(location, f"not valid YAML: {problem}", "correct the YAML") from None
    if not isinstance(data, dict) or node is None:
        kinds = {type(None): "nothing", list: "a list", str: "text"}
        shown = kinds.get(type(data), type(data).__name__)
        raise UserError(str(path), f"expected settings, got {shown}", "write 'key: value' lines")
    return data, lines


def _lines_of_keys(node: yaml.Node | None, path: Path) -> dict[Key, int]:
    lines: dict[Key, int] = {}
    for key, line in () if node is None else _walk(node, ()):
        if key in lines:
            raise UserError(
                f"{path} line {line}",
                f"{dotted_key(key)} occurs twice (first in line {lines[key]})",
                "keep one of them",
            )
        lines[key] = line
    return lines


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


def plain_copy(value: Any) -> Any:
    """Return a copy of mappings, lists and settings as plain data; paths become text.

    Data in memory, below ``rows``, are not copied.
    """
    if isinstance(value, Settings):
        return value.model_dump(mode="json", exclude_unset=True)
    if isinstance(value, Mapping):
        return {name: inner if name == "rows" else plain_copy(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_copy(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def apply_overrides(
    data: dict[str, Any],
    overrides: Sequence[str] | Mapping[str, Any],
    dotted_fields: frozenset[str] = frozenset(),
) -> dict[Key, str]:
    """Set overrides in nested data; return the key of each with its text for messages.

    Args:
        overrides: ``dotted.key=value`` items, or values by dotted key.
        dotted_fields: see `apply_override`.

    Raises:
        UserError: an override is malformed, or leads nowhere.
    """
    if isinstance(overrides, Mapping):
        items = {str(name): f"{name}={reprlib.repr(value)}" for name, value in overrides.items()}
        return {
            set_value(data, name, plain_copy(overrides[name]), f"override {item!r}"): item
            for name, item in items.items()
        }
    if isinstance(overrides, str) or not isinstance(overrides, Sequence):
        example = 'for example {"batches.alpha": 0.25} or ["batches.alpha=0.25"]'
        raise expected("overrides", "a dict or a list of key=value items", overrides, example)
    return {apply_override(data, item, dotted_fields): item for item in overrides}


def apply_override(data: dict[str, Any], item: str, dotted_fields: frozenset[str] = frozenset()) -> Key:
    """Set one ``dotted.key=value`` in nested data and return the key.

    Args:
        dotted_fields: see `Settings`; below them a mapping belongs to the rest of the key, any other value to
            the last part of a key: ``space.batches.alpha.choice=[0, 1]``.
    """
    name, separator, text = item.partition("=")
    location = f"override {item!r}"
    if not separator or not name.strip():
        raise UserError(location, "is not of the form key=value", "for example batches.alpha=0.25")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(location, "the value is not valid YAML", "quote it for YAML and the shell") from None
    field, _, rest = name.strip().partition(".")
    if field not in dotted_fields or not rest:
        return set_value(data, name.strip(), value, location)
    inner, _, last = (rest, "", "") if isinstance(value, dict) else rest.rpartition(".")
    return _set_parts(data, tuple(part for part in (field, inner, last) if part), value, location)


def set_value(data: dict[str, Any], dotted: str, value: Any, location: str) -> Key:
    """Set one dotted key of nested data and return the key.

    Args:
        location: where a mistake is reported.

    Raises:
        UserError: the key leads through a value that has no such entry.
    """
    key: Key = tuple(int(part) if part.isdigit() else part for part in dotted.split("."))
    return _set_parts(data, key, value, location)


def _set_parts(data: dict[str, Any], key: Key, value: Any, location: str) -> Key:
    block: Any = data
    for i, part in enumerate(key):
        name: Any = part if isinstance(block, list) else str(part)
        if isinstance(block, list) and isinstance(part, int) and part >= len(block):
            raise _no_element(location, key, i, value)
        if not isinstance(block, dict) and not (isinstance(block, list) and isinstance(part, int)):
            raise UserError(
                location, f"{dotted_key(key[: i + 1])} does not exist", "check the key against the file"
            )
        if i + 1 == len(key):
            block[name] = value
        elif (block.get(name) if isinstance(block, dict) else block[name]) is None:
            if isinstance(key[i + 1], int) and i + 2 < len(key):
                raise _no_element(location, key, i + 1, value)
            block[name] = {}
        block = block[name]
    return key


def _no_element(location: str, key: Key, i: int, value: Any) -> UserError:
    """Return the error of a list that lacks element `key[i]`, with the list to write."""
    entry: Any = value
    for part in reversed(key[i + 1 :]):
        entry = {part: entry}
    text = yaml.safe_dump([entry], default_flow_style=True, allow_unicode=True, width=1000).strip()
    return UserError(
        location,
        f"{dotted_key(key[: i + 1])} does not exist: the list has no element {key[i]}",
        f"write the list: {dotted_key(key[:i])}={text}",
    )

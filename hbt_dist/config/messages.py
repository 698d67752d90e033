"""Rewrite pydantic's report about a file or a command line in the words of that file."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from hbt_dist.common.errors import UserError

Key = tuple[str | int, ...]

_KINDS = {
    "int": "must be a whole number",
    "float": "must be a number",
    "string": "must be text",
    "bool": "must be true or false",
    "tuple": "must be a list",
    "list": "must be a list",
    "dict": "must be a block of keys",
    "model": "must be a block of keys",
}

#: Where text is expected, or the key of a mapping.
_BOOLEANS = {
    False: "YAML reads no as false: write 'no'",
    True: "YAML reads yes and on as true: write 'yes' or 'on'",
}


def explain(
    error: ValidationError,
    kind: type[BaseModel],
    file: str,
    lines: Mapping[Key, int],
    overridden: Mapping[Key, str],
    data: Any,
) -> UserError:
    """Return pydantic's report as one error: the first mistake in full, each further mistake in a line.

    Args:
        lines: key -> its line in the file.
        overridden: key -> the override of the command line that set it.
        data: the validated data; its keys replace pydantic's names of the members of a union.
    """
    by_key: dict[Key, list[ErrorDetails]] = {}
    for details in error.errors():
        by_key.setdefault(_key(details, data), []).append(details)
    # A mistake inside a block says more than that the block is not the number that it could have been, a
    # mistake inside a list more than that the rest of the list is too short.
    parents = {key[:size] for key in by_key for size in range(len(key))}
    mistakes = [
        (_location(key, file, lines, overridden), *_explain_key(key, details, kind))
        for key, details in by_key.items()
        if key not in parents
        or not (isinstance(details[0]["input"], dict) or details[0]["type"] == "too_short")
    ]
    (location, problem, hint), *rest = mistakes
    more = [f"also: {location}: {problem}" for location, problem, _ in rest[:5]]
    if len(rest) > 5:
        more.append(f"and {len(rest) - 5} more")
    return UserError(location, problem, "\n".join([hint, *more]).strip("\n"))


def dotted_key(key: Key) -> str:
    """Return a key in the form of an override."""
    return ".".join(str(part) for part in key)


def _key(details: ErrorDetails, data: Any) -> Key:
    """Return the key of a mistake, without the names that pydantic gives to the members of a union."""
    path = details["loc"]
    kept: list[str | int] = []
    for i, part in enumerate(path):
        block = dict(enumerate(data)) if isinstance(data, list | tuple) else data
        values = {str(name): value for name, value in block.items()} if isinstance(block, dict) else {}
        if str(part) in values or (details["type"] == "missing" and i + 1 == len(path)):
            kept.append(part)
            data = values.get(str(part))
    return tuple(kept)


def _location(key: Key, file: str, lines: Mapping[Key, int], overridden: Mapping[Key, str]) -> str:
    """Return file, line or override, and key of a mistake."""
    suffix = f", {dotted_key(key)}" if key else ""
    for item_key, item in overridden.items():
        if key[: len(item_key)] == item_key or (key not in lines and key == item_key[: len(key)] != ()):
            return f"{file}, override {item!r}{suffix}"
    line = next((lines[key[:size]] for size in range(len(key), 0, -1) if key[:size] in lines), None)
    return f"{file}{suffix}" if line is None else f"{file} line {line}{suffix}"


def _explain_key(key: Key, mistakes: list[ErrorDetails], kind: type[BaseModel]) -> tuple[str, str]:
    """Return problem and hint of the mistakes of one key: several where a union failed."""
    first = mistakes[0]
    if first["type"] == "extra_forbidden":
        return "unknown key", _hint(kind, key)
    if first["type"] == "missing":
        return "is missing", f"add {key[-1]!r}"
    for details in mistakes:
        if isinstance(details["input"], bool) and details["type"] in ("string_type", "invalid_key"):
            return _BOOLEANS[details["input"]], ""
    value = first["input"]
    shown = "" if isinstance(value, dict | BaseModel) else f"{_shown(value)}: "
    rule, *alternatives = dict.fromkeys(_expectation(details) for details in mistakes)
    shown = "" if rule.startswith(shown.removesuffix(": ")) else shown
    problem = shown + ", or ".join([rule, *(text.removeprefix("must be ") for text in alternatives)])
    return problem, _meaning(kind, key)


def _shown(value: Any) -> str:
    """Return a value as YAML writes it; text in quotes."""
    if isinstance(value, str):
        return repr(value)
    try:
        return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()
    except yaml.YAMLError:
        return repr(value)


def _meaning(kind: type[BaseModel], key: Key) -> str:
    """Return the last named part of a key with the first sentence of its description; "" without one."""
    for size in range(len(key), 0, -1):
        field = _fields_at(kind, key[: size - 1]).get(str(key[size - 1]))
        if field is not None and field.description:
            return f"{key[size - 1]}: {field.description.partition('. ')[0]}"
    return ""


def _expectation(details: ErrorDetails) -> str:
    """Return what a value must be, according to one of pydantic's errors."""
    if details.get("ctx", {}).get("class_name") == "Schedule":
        return "must be a schedule"
    expected, _, failure = details["type"].partition("_")
    if failure in ("type", "parsing", "from_float", "attributes_type") and expected in _KINDS:
        return _KINDS[expected]
    message = details["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message.replace(" after validation", "").replace("Input should be", "must be")
    message = message.replace("Tuple should", "the list should").replace("List should", "the list should")
    if details["type"] == "string_pattern_mismatch":
        return "must be letters, digits, dots, dashes and underscores, a letter or digit first"
    if details["type"] == "invalid_key":
        return "must be a text as key: write it in quotes"
    if details["type"] == "string_too_short":
        return "must not be empty"
    return message[:1].lower() + message[1:]


def _hint(kind: type[BaseModel], key: Key) -> str:
    """Return the keys that an unknown key resembles."""
    names = list(_fields_at(kind, key[:-1]))
    similar = [path for path in _paths(kind, str(key[-1])) if path != dotted_key(key)][:3]
    similar += [repr(name) for name in difflib.get_close_matches(str(key[-1]), names, n=1)]
    return f"did you mean {' or '.join(similar)}?" if similar else f"known keys: {', '.join(sorted(names))}"


def _paths(kind: type[BaseModel], name: str, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys of all fields of this name that are not inside lists."""
    for field_name, field in kind.model_fields.items():
        if field_name == name:
            yield f"{prefix}{name}"
        if get_origin(field.annotation) not in (tuple, list, dict):
            for block in _blocks(field.annotation):
                yield from _paths(block, name, f"{prefix}{field_name}.")


def _fields_at(kind: type[BaseModel], key: Key) -> dict[str, FieldInfo]:
    """Return name -> field of the fields that a block may have, as far as its type is one block."""
    blocks: list[type[BaseModel]] = [kind]
    for part in key:
        fields = [block.model_fields[str(part)] for block in blocks if str(part) in block.model_fields]
        inner = [block for field in fields for block in _blocks(field.annotation)]
        blocks = inner or blocks  # the number of a list entry or the tag of a union keeps the blocks
    return {name: field for block in blocks for name, field in block.model_fields.items()}


def _blocks(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [block for inner in get_args(annotation) for block in _blocks(inner)]

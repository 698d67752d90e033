"""Pydantic's report about a file or a command line, in the words of whoever wrote it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

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


def explain(
    error: ValidationError,
    kind: type[BaseModel],
    file: str,
    lines: dict[Key, int],
    overridden: dict[Key, str],
    data: Any = None,
) -> UserError:
    """Turn pydantic's report into one error: the first mistake in full, the others in a line each.

    Args:
        lines: of the keys in the file.
        overridden: what the command line said, by key.
        data: what was validated; without it, keys may hold pydantic's names of the members of a union.
    """
    found: dict[Key, list[Any]] = {}
    for one in error.errors():
        found.setdefault(_key(one, data), []).append(one)
    # What is wrong inside a block says more than that the block is not the number that it could have been.
    deeper = {key[:size] for key in found for size in range(len(key))}
    found = {
        k: ones for k, ones in found.items() if k not in deeper or not isinstance(ones[0]["input"], dict)
    }
    told = [_explain_key(key, ones, kind, file, lines, overridden) for key, ones in found.items()]
    first, rest = told[0], told[1:]
    more = [f"also: {place}: {what}" for place, what, _ in rest[:5]]
    if len(rest) > 5:
        more.append(f"and {len(rest) - 5} more")
    return UserError(first[0], first[1], "\n".join([first[2], *more]).strip("\n"))


def dotted_key(key: Key) -> str:
    """A key as an override has it."""
    return ".".join(str(part) for part in key)


def _key(one: Any, data: Any) -> Key:
    """The place of a mistake, without the names that pydantic gives to the members of a union."""
    where: Key = tuple(one["loc"])
    if data is None:
        return where
    kept: list[str | int] = []
    for place, part in enumerate(where):
        inside = dict(enumerate(data)) if isinstance(data, list | tuple) else data
        names = {str(name): value for name, value in inside.items()} if isinstance(inside, dict) else {}
        missing = one["type"] == "missing" and place + 1 == len(where)
        if str(part) in names or missing:
            kept.append(part)
            data = names.get(str(part))
    return tuple(kept)


def _explain_key(
    key: Key,
    ones: list[Any],
    kind: type[BaseModel],
    file: str,
    lines: dict[Key, int],
    overridden: dict[Key, str],
) -> tuple[str, str, str]:
    """Place, finding and hint of all that is wrong with one key: more than one thing where a union failed."""
    known = key
    while known and known not in lines and known not in overridden:
        known = known[:-1]
    place = file
    source = next((text for k, text in overridden.items() if key[: len(k)] == k), None)
    if source is not None:
        place = f"{file}, override {source!r}"
    elif known:
        place = f"{file} line {lines[known]}"
    if key:
        place = f"{place}, {dotted_key(key)}"
    one = ones[0]
    if one["type"] == "extra_forbidden":
        return place, "unknown key", _hint(kind, key)
    if one["type"] == "missing":
        return place, "is missing", f"add {key[-1]!r}"
    value = one.get("input")
    shown = "" if isinstance(value, dict | BaseModel) else f"{value!r}: "
    wishes = list(dict.fromkeys(_wish(other) for other in ones))
    wish = ", or ".join([wishes[0], *(other.removeprefix("must be ") for other in wishes[1:])])
    return place, f"{shown}{wish}", ""


def _wish(one: Any) -> str:
    """What a value should be, of one of pydantic's errors."""
    if one.get("ctx", {}).get("class_name") == "Schedule":
        return "must be a schedule"
    what, _, how = one["type"].partition("_")
    if how in ("type", "parsing", "from_float", "attributes_type") and what in _KINDS:
        return _KINDS[what]
    message = one["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = message.removesuffix(" after validation").replace("Input should be", "must be")
    for name in ("Tuple", "List"):
        message = message.replace(f"{name} should", "the list should").replace(" after validation", "")
    return message[:1].lower() + message[1:]


def _hint(kind: type[BaseModel], key: Key) -> str:
    """What an unknown key was probably meant to be."""
    names = _fields_at(kind, key[:-1])
    meant = [path for path in _paths(kind, str(key[-1])) if path != dotted_key(key)][:3]
    meant += [repr(name) for name in difflib.get_close_matches(str(key[-1]), names, n=1)]
    return f"did you mean {' or '.join(meant)}?" if meant else f"known keys: {', '.join(sorted(names))}"


def _paths(kind: type[BaseModel], name: str, prefix: str = "") -> Iterator[str]:
    """Dotted keys of all fields of this name that are not inside lists."""
    for field_name, field in kind.model_fields.items():
        if field_name == name:
            yield f"{prefix}{name}"
        if get_origin(field.annotation) not in (tuple, list, dict):
            for block in _blocks(field.annotation):
                yield from _paths(block, name, f"{prefix}{field_name}.")


def _fields_at(kind: type[BaseModel], key: Key) -> list[str]:
    """The names that are allowed at a place of the file, as far as its type is one block."""
    here: list[type[BaseModel]] = [kind]
    for part in key:
        inner: list[type[BaseModel]] = []
        for block in here:
            field = block.model_fields.get(str(part))
            if field is not None:
                inner += _blocks(field.annotation)
        here = inner or here  # a number (list entry) or a tag of a union stays at the same blocks
    return [name for block in here for name in block.model_fields]


def _blocks(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [block for inner in get_args(annotation) for block in _blocks(inner)]

"""Typed fields of a JSON object: each function returns the value in its type or says what is wrong where."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from hbt_dist.common.errors import UserError
from hbt_dist.data.files import kind_of
from hbt_dist.data.languages import language_code

T = TypeVar("T")


def required(row: Mapping[str, Any], key: str, place: str) -> Any:
    """The value under `key`, which must be there."""
    if key not in row:
        has = ", ".join(sorted(map(str, row))[:12]) or "no fields"
        raise UserError(place, f"field {key!r} is missing", f"the object has: {has}")
    return row[key]


def check_text(value: object, place: str, field: str) -> str:
    """`value` as a text: a string that isn't blank and can be written as UTF-8."""
    if not isinstance(value, str):
        raise UserError(place, f"{field} is {kind_of(value)}", "expected a text")
    if not value or value.isspace():
        raise UserError(place, f"{field} is empty", "give a text, or remove the language or the record")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                place,
                f"{field} holds half of a surrogate pair at character {error.start + 1}",
                "repair the escape \\ud800...\\udfff",
            ) from None
    return value


def text_field(row: Mapping[str, Any], key: str, place: str) -> str:
    """The text under `key`."""
    return check_text(required(row, key, place), place, f"field {key!r}")


def titled_text(row: Mapping[str, Any], place: str) -> str:
    """Title, a space, text; the title may be absent or empty, the text may be empty if there is a title."""
    parts = []
    for key in ("title", "text"):
        value = row.get(key)
        if value is not None and not isinstance(value, str):
            raise UserError(place, f"field {key!r} is {kind_of(value)}", "expected a text")
        parts.append((value or "").strip())
    return check_text(" ".join(part for part in parts if part), place, "title and text")


def id_field(row: Mapping[str, Any], key: str, place: str) -> str:
    """The id under `key`: a text, or a whole number that is taken as text."""
    value = required(row, key, place)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return check_text(value, place, f"field {key!r}")


def int_field(row: Mapping[str, Any], key: str, place: str) -> int:
    """The whole number under `key`."""
    value = required(row, key, place)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UserError(place, f"field {key!r} is {kind_of(value)}", "expected a whole number")
    return value


def list_field(row: Mapping[str, Any], key: str, place: str) -> list[Any]:
    """The list under `key`."""
    value = required(row, key, place)
    if not isinstance(value, list):
        raise UserError(place, f"field {key!r} is {kind_of(value)}", "expected a list")
    return value


def object_items(row: Mapping[str, Any], key: str, place: str) -> list[tuple[str, dict[str, Any]]]:
    """(place, object) of each member of the list under `key`, all of which must be objects."""
    items = []
    for number, item in enumerate(list_field(row, key, place)):
        inner = f"{place}, {key}[{number}]"
        if not isinstance(item, dict):
            raise UserError(inner, f"is {kind_of(item)}", "expected an object: {...}")
        items.append((inner, item))
    return items


def language_at(written: object, place: str) -> str:
    """A language code as this package spells it."""
    if not isinstance(written, str):
        raise UserError(place, f"a language code is {kind_of(written)}", "expected a code such as en or fi")
    try:
        return language_code(written)
    except ValueError as error:
        raise UserError(place, str(error), "use ISO 639-1 codes, or ISO 639-3 where there is none") from None


def texts_field(row: Mapping[str, Any], key: str, place: str) -> dict[str, str]:
    """The texts under `key`: an object of language code -> text, in the file's order, not empty."""
    return by_language(required(row, key, place), place, f"field {key!r}", check_text)


def by_language(
    value: object, place: str, field: str, check: Callable[[object, str, str], T]
) -> dict[str, T]:
    """An object of language code -> value, each value passed through `check(value, place, field)`."""
    if not isinstance(value, dict):
        raise UserError(place, f"{field} is {kind_of(value)}", 'expected texts by language: {"en": "..."}')
    if not value:
        raise UserError(place, f"{field} has no language at all", 'expected for example {"en": "..."}')
    texts: dict[str, T] = {}
    for written, text in value.items():
        language = language_at(written, place)
        if language in texts:
            raise UserError(place, f"{field} has {language!r} twice ({written!r})", "keep one of the two")
        texts[language] = check(text, place, f"{field} in {language!r}")
    return texts

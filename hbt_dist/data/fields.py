"""Return typed fields of a JSON object, or report what is wrong at which location."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from hbt_dist.common.errors import UserError
from hbt_dist.config.placeholders import checked_prefix
from hbt_dist.data.files import kind_of
from hbt_dist.data.invisible import is_blank
from hbt_dist.data.languages import language_codes

T = TypeVar("T")
_LARGEST_SCORE = 3.4e38  # of float32, in which a corpus holds scores


def check_type(value: object, kind: type[T], location: str, field: str, expected: str) -> T:
    """Return the value if it has the type; true and false are not numbers.

    Args:
        field: what the value is, such as ``"field 'id'"``; may be empty.
        expected: what it should be, such as ``"a text"``.
    """
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(location, f"{field} is {kind_of(value)}".lstrip(), f"expected {expected}")
    return value


def required(row: Mapping[str, Any], key: str, location: str) -> Any:
    """Return the value under `key`, which must be present."""
    if key not in row:
        has = ", ".join(sorted(map(str, row))[:12]) or "no fields"
        raise UserError(location, f"field {key!r} is missing", f"the object has: {has}")
    return row[key]


def check_text(value: object, location: str, field: str) -> str:
    """Return `value` as a text: a string that isn't blank and can be written as UTF-8."""
    text = check_type(value, str, location, field, "a text")
    if is_blank(text):
        raise UserError(location, f"{field} is empty", "give a text, or remove the language or the record")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                location,
                f"{field} holds half of a surrogate pair at character {error.start + 1}",
                "repair the escape \\ud800...\\udfff",
            ) from None
    return text


def text_field(row: Mapping[str, Any], key: str, location: str) -> str:
    """Return the text under `key`."""
    return check_text(required(row, key, location), location, f"field {key!r}")


def text_or_empty(row: Mapping[str, Any], key: str, location: str) -> str:
    """Return the text under `key`, which may be blank."""
    return _blank_or_text(required(row, key, location), location, f"field {key!r}")


def titled_text(row: Mapping[str, Any], location: str) -> str:
    """Return title, a space, text; the title may be absent or empty, the text too if there is a title."""
    return check_text(document_text(row, location), location, "title and text")


def document_text(row: Mapping[str, Any], location: str) -> str:
    """Return title, a space, text, joined as BEIR and MTEB join them; both may be absent, null or blank."""
    values = [(key, row.get(key)) for key in ("title", "text")]
    parts = [_blank_or_text(value, location, f"field {key!r}") for key, value in values if value is not None]
    return " ".join(part for part in parts if part).strip()


def _blank_or_text(value: object, location: str, field: str) -> str:
    text = check_type(value, str, location, field, "a text")
    return text if is_blank(text) else check_text(text, location, field)


def id_field(row: Mapping[str, Any], key: str, location: str) -> str:
    """Return the id under `key`: a text, or a whole number as text."""
    return check_id(required(row, key, location), location, f"field {key!r}")


def check_id(value: object, location: str, field: str) -> str:
    """Return `value` as an id: a text, or a whole number as text."""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return check_text(value, location, field)


def id_or_none(row: Mapping[str, Any], key: str, location: str) -> str | None:
    """Return the id under `key`; None if it is absent or null."""
    return None if row.get(key) is None else id_field(row, key, location)


def prefix_field(row: Mapping[str, Any], key: str | None, location: str) -> str | None:
    """Return the instruction under `key`; None if it is absent or null.

    Raises:
        UserError: it is not a text, or has a placeholder that nothing fills.
    """
    if key is None or row.get(key) is None:
        return None
    try:
        return checked_prefix(check_type(row[key], str, location, f"field {key!r}", "a text"))
    except ValueError as error:
        raise UserError(
            location, f"field {key!r}: {error}", "fill it in the data, or set columns: {prefix: null}"
        ) from None


def check_score(value: object, location: str, field: str) -> float | None:
    """Return a teacher's score: a finite number in the range of float32, or None."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(location, f"{field} is {kind_of(value)}", "expected a number, or null for no score")
    if not abs(value) <= _LARGEST_SCORE:
        raise UserError(location, f"{field} is {value}", "expected a finite number, or null for no score")
    return float(value)


def language_among(written: object, texts: Mapping[str, str], location: str) -> str | None:
    """Return the language in which a miner chose a passage: None, or one of those of its texts."""
    if written is None:
        return None
    language = language_at(written, location)
    if language not in texts:
        raise UserError(
            location,
            f"language is {language!r}, but the passage has texts in {', '.join(texts)}",
            "add the text in this language, or remove the field language",
        )
    return language


def int_field(row: Mapping[str, Any], key: str, location: str) -> int:
    """Return the whole number under `key`."""
    return check_type(required(row, key, location), int, location, f"field {key!r}", "a whole number")


def list_field(row: Mapping[str, Any], key: str, location: str) -> list[Any]:
    """Return the list under `key`."""
    return check_type(required(row, key, location), list, location, f"field {key!r}", "a list")


def object_field(row: Mapping[str, Any], key: str, location: str) -> dict[str, Any]:
    """Return the object under `key`."""
    return check_type(required(row, key, location), dict, location, f"field {key!r}", "an object: {...}")


def object_items(row: Mapping[str, Any], key: str, location: str) -> list[tuple[str, dict[str, Any]]]:
    """Return (location, object) of each member of the list under `key`; all members must be objects."""
    return [
        (inner := f"{location}, {key}[{number}]", check_type(item, dict, inner, "", "an object: {...}"))
        for number, item in enumerate(list_field(row, key, location))
    ]


def language_at(written: object, location: str) -> str:
    """Return a language code as this package spells it."""
    code = check_type(written, str, location, "a language code", "a code such as en or fi")
    return languages_at((code,), location)[0]


def languages_at(written: Sequence[str], location: str) -> tuple[str, ...]:
    """Return language codes as this package spells them; the list isn't empty and names none twice."""
    try:
        return language_codes(written)
    except ValueError as error:
        raise UserError(
            location, str(error), "use ISO 639-1 codes, or ISO 639-3 where there is none"
        ) from None


def language_field(row: Mapping[str, Any], key: str, location: str) -> str:
    """Return the language under `key`."""
    return language_at(required(row, key, location), location)


def texts_field(row: Mapping[str, Any], key: str, location: str) -> dict[str, str]:
    """Return the texts under `key`: an object of language code -> text, in the file's order, not empty."""
    return by_language(required(row, key, location), location, f"field {key!r}", check_text)


def by_language(
    value: object, location: str, field: str, check: Callable[[object, str, str], T]
) -> dict[str, T]:
    """Return an object of language code -> value; each value passes `check(value, location, field)`."""
    content = check_type(value, dict, location, field, 'texts by language: {"en": "..."}')
    if not content:
        raise UserError(location, f"{field} has no language at all", 'expected for example {"en": "..."}')
    values: dict[str, T] = {}
    for written, item in content.items():
        language = language_at(written, location)
        if language in values:
            raise UserError(location, f"{field} has {language!r} twice ({written!r})", "keep one of the two")
        values[language] = check(item, location, f"{field} in {language!r}")
    return values

"""Find the columns that a pattern such as `question_{language}` or `negative_{number}` stands for.

A suffix is a language only if `is_language` knows it. `id`, `min` and other words of tables are codes too
(Indonesian, Minangkabau): such a column counts only if `languages` lists the code.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from hbt_dist.common.errors import UserError
from hbt_dist.data.languages import SUSPICIOUS, is_language, language_code

_NUMBER = "{number}"


def columns_by_language(
    pattern: str, names: Sequence[str], languages: Iterable[str] | None, location: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the columns of a pattern with ``{language}``.

    Args:
        names: the columns that no other setting names.
        languages: the requested languages; None for all.

    Returns:
        language -> column; and column -> language of the columns that are doubtful, and left out.

    Raises:
        UserError: no column fits, or two columns have one language.
    """
    expression = re.compile("([A-Za-z_-]+)".join(map(re.escape, pattern.split("{language}", 1))))
    suffixes = {name: match[1] for name in names if (match := expression.fullmatch(name))}
    columns: dict[str, str] = {}
    doubtful: dict[str, str] = {}
    for name, suffix in suffixes.items():
        if not is_language(suffix):
            continue
        code = language_code(suffix)
        if code not in (languages or ()) and suffix.lower() in SUSPICIOUS:
            doubtful[name] = code
        elif code in columns:
            raise UserError(
                location, f"{columns[code]!r} and {name!r} are both {code!r}", "rename or remove a column"
            )
        else:
            columns[code] = name
    if not columns:
        raise UserError(
            location,
            f"has no column like {pattern!r} with a language",
            f"its columns are {', '.join(names)}"
            + "".join(
                f"\nif {name!r} is in {code!r}, list it in languages" for name, code in doubtful.items()
            ),
        )
    return columns, doubtful


def numbered_columns(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the columns of a pattern with ``{number}`` by number, or the column itself."""
    if _NUMBER not in pattern:
        return [pattern] if pattern in names else []
    expression = re.compile("([0-9]+)".join(map(re.escape, pattern.split(_NUMBER, 1))))
    numbers = {name: int(match[1]) for name in names if (match := expression.fullmatch(name))}
    return sorted(numbers, key=numbers.__getitem__)

"""Check the placeholders of a prefix: `{language}` stands for the English name of the text's language."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

LANGUAGE = "{language}"
_PLACEHOLDER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*\}")


def checked_prefix(prefix: str) -> str:
    """Return the prefix. Braces around anything but a word are plain text.

    Raises:
        ValueError: it has another placeholder than `{language}`.
    """
    if unknown := [name for name in _PLACEHOLDER.findall(prefix) if name != LANGUAGE]:
        raise ValueError(f"expected no placeholder but {LANGUAGE}, got {unknown[0]} in {prefix[:60]!r}")
    return prefix


#: A prefix in a file of settings.
Prefix = Annotated[str, AfterValidator(checked_prefix)]

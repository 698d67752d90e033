"""The one error a person sees when what they gave cannot be used.

Everything a user can get wrong (files, run files, folders, arguments) raises `UserError`. The command
line turns it into one message on stderr and exit code 2; any other exception is a bug and keeps its
traceback.
"""

from __future__ import annotations

import re

#: Of an address: it may land in a log.
_CREDENTIALS = re.compile(r"://[^/@\s]+@")


class UserError(Exception):
    """What was given cannot be used.

    Args:
        place: where the mistake is, most specific part last: ``"data/train.jsonl line 1843"``,
            ``"run.yaml line 12, batches.global_batch_size"``.
        found: what is there, in one sentence without a full stop.
        expected: what would be right, or what to do. May hold several lines.
    """

    def __init__(self, place: str, found: str, expected: str = "") -> None:
        self.place, self.found, self.expected = (
            _CREDENTIALS.sub(r"://***@", part) for part in (place, found, expected)
        )
        # the three parts, so that the error can be pickled
        super().__init__(self.place, self.found, self.expected)

    def __str__(self) -> str:
        lines = [f"{self.place}: {self.found}"]
        lines += [f"       {line}" for line in self.expected.splitlines()]
        return "\n".join(lines)


class OneRankError(UserError):
    """A `UserError` of one process alone: its peers wait for it in a collective, and must be ended."""

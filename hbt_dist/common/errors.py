"""Report what the user gave and the package cannot use.

Everything a user can get wrong (files, run files, folders, arguments) raises `UserError`. The command line
prints it as one message on stderr and exits with 2. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import re

#: Credentials in an address; the message may land in a log.
_CREDENTIALS = re.compile(r"://[^/@\s]+@")


class UserError(Exception):
    """An input of the user that cannot be used.

    Args:
        location: where the mistake is, most specific part last: ``"data/train.jsonl line 1843"``,
            ``"run.yaml line 12, batches.global_batch_size"``.
        problem: expected A, got B, in one sentence without a full stop.
        remedy: a command to run or a line to change. May hold several lines.
    """

    def __init__(self, location: str, problem: str, remedy: str = "") -> None:
        self.location, self.problem, self.remedy = (
            _CREDENTIALS.sub(r"://***@", part) for part in (location, problem, remedy)
        )
        # the three parts, so that the error can be pickled
        super().__init__(self.location, self.problem, self.remedy)

    def __str__(self) -> str:
        lines = [f"{self.location}: {self.problem}"]
        lines += [f"       {line}" for line in self.remedy.splitlines()]
        return "\n".join(lines)


def expected(location: str, what: str, given: object, remedy: str = "") -> UserError:
    """Return the error of an argument of a wrong type: `expected a run file, got datasets.Dataset`.

    Args:
        what: the types that are accepted, in words.
    """
    kind = type(given)
    room = "" if kind.__module__ in ("builtins", "__main__") else kind.__module__.partition(".")[0] + "."
    shown = "None" if given is None else f"{room}{kind.__qualname__}"
    return UserError(location, f"expected {what}, got {shown}", remedy)


class OneRankError(UserError):
    """A `UserError` of one rank alone: the other ranks wait for it in a collective and must be stopped."""


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's message, or the name of its type if it has no message."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def last_line(error: BaseException | str) -> str:
    """Return the last line of a message: the cause, in errors of Ray and output of child processes."""
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else "" if isinstance(error, str) else type(error).__name__

"""Keep `mining.json`, which records what decided the mined negatives of a folder, and what they hold.

A folder belongs to one mining: what would give different negatives is refused, as in a run's folder. A record
without `file` is that of an unfinished mining, which the same command continues.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from hbt_dist.common.environment import environment_facts
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import write_json
from hbt_dist.config.difference import changed_settings, first_of

NEGATIVES, RECORD = "negatives.jsonl", "mining.json"
SCHEMA_VERSION = 1
#: Settings that change no negative.
_MAY_CHANGE = (
    "mining.examples_per_block",
    "mining.encoding",  # `dtype` has the arithmetic
    "mining.judge.pairs_per_batch",
)


class MiningRecord:
    """The record of an output folder.

    Args:
        folder: of the output.
        decided_by: mining (settings), seed, dtype, model, corpus, judge: what decides the negatives.
    """

    def __init__(self, folder: Path, decided_by: dict[str, Any]) -> None:
        self._folder, self._decided_by = folder, decided_by

    @property
    def blocks(self) -> Path:
        """Return the folder of finished blocks, which are of these settings alone."""
        digest = hashlib.sha256(json.dumps(self._decided_by, sort_keys=True).encode()).hexdigest()
        return self._folder / f"blocks-{digest[:16]}"

    def finished(self) -> dict[str, Any] | None:
        """Return the record if its file is complete, None if the mining has to start or to continue.

        Raises:
            UserError: the folder holds negatives of a different mining, or its record cannot be read.
        """
        path = self._folder / RECORD
        if not path.is_file():
            return None
        try:
            recorded: dict[str, Any] = json.loads(path.read_text("utf-8"))
            before, written = recorded["decided_by"], recorded["file"]
            differences = changed_settings(before, self._decided_by, may_change=_MAY_CHANGE)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(
                str(path), "is not the record of a mining", "choose another output_dir, or move the file away"
            ) from None
        if differences and not written and not any(self._folder.glob("blocks-*/*")):
            return None  # nothing was computed
        if differences:
            raise UserError(
                str(self._folder),
                f"holds another mining ({first_of(differences)})",
                "choose another output_dir, or move the folder away",
            )
        file = self._folder / NEGATIVES
        return recorded if written and file.is_file() and file.stat().st_size == written["bytes"] else None

    def write(
        self, settings: dict[str, Any], file: dict[str, Any] | None = None, **figures: Any
    ) -> dict[str, Any]:
        """Replace the record.

        Args:
            settings: the resolved file of the command, as plain data.
            file: path, bytes and sha256 of the finished file; None before that.
            figures: of the negatives.

        Returns:
            the record.
        """
        record = {
            "schema": "hbt_dist.mining",
            "schema_version": SCHEMA_VERSION,
            "file": file,
            **figures,
            "decided_by": self._decided_by,
            "settings": settings,
            **environment_facts(),
        }
        write_json(self._folder / RECORD, record)
        return record

"""Hold the numbers of a corpus while it is built: columns in files, and a compact table of hashes.

A Python dictionary takes 150 bytes per entry and a list 40; these take none per value of a column, and 16 to
28 per hash (8 for the hash, 4 per slot of a table that is one third to two thirds full).
"""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_VALUES_PER_WRITE = 1 << 14
_HASHES_PER_ROUND = 1 << 20
_FIRST_SLOTS = 1 << 10


class StoredColumn:
    """A column of numbers that grows in a file: append values, then read all of them as an array.

    Args:
        path: of the file, new.
        code: type of a value, as in `array`.
    """

    def __init__(self, path: Path, code: str) -> None:
        self._path = path
        self._waiting: array[Any] = array(code)
        self._written = 0

    def __len__(self) -> int:
        return self._written + len(self._waiting)

    def append(self, value: float) -> None:
        """Add a value."""
        self._waiting.append(value)
        if len(self._waiting) >= _VALUES_PER_WRITE:
            self._write()

    def values(self) -> NDArray[Any]:
        """Return the values, mapped from the file."""
        self._write()
        dtype = np.dtype(self._waiting.typecode)
        return np.memmap(self._path, dtype, "r") if self._written else np.empty(0, dtype)

    def _write(self) -> None:
        with self._path.open("ab") as file:
            self._waiting.tofile(file)
        self._written += len(self._waiting)
        del self._waiting[:]


class HashNumbers:
    """Numbers 64-bit hashes in the order in which they first come: open addressing, linear probing."""

    def __init__(self) -> None:
        self._hashes = array("Q")  # by number
        self._new_table(_FIRST_SLOTS)

    def __len__(self) -> int:
        return len(self._hashes)

    def number(self, value: int) -> int:
        """Return the number of a hash; a new hash gets the next number."""
        slots, hashes, last = self._slots, self._hashes, self._last_slot
        slot = value & last
        while (number := slots[slot]) >= 0:
            if hashes[number] == value:
                return number
            slot = (slot + 1) & last
        number = slots[slot] = len(hashes)
        hashes.append(value)
        if 3 * len(hashes) > 2 * len(slots):
            self._new_table(2 * len(slots))
        return number

    def _new_table(self, size: int) -> None:
        self._slots = array("i" if size <= 2**31 else "q", [-1]) * size
        self._last_slot = size - 1
        slots, hashes = np.frombuffer(self._slots, self._slots.typecode), np.frombuffer(self._hashes, "Q")
        for start in range(0, len(hashes), _HASHES_PER_ROUND):
            values = hashes[start : start + _HASHES_PER_ROUND]
            number = np.arange(start, start + len(values))
            slot = (values & np.uint64(self._last_slot)).astype(np.int64)
            while len(number):  # of several numbers in a free slot one stays, the rest move on
                free = slots[slot] < 0
                slots[slot[free]] = number[free]
                left = slots[slot] != number
                number, slot = number[left], (slot[left] + 1) & self._last_slot

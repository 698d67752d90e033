"""The records of Weights & Biases' offline files: LevelDB's log format around protobuf messages."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEADER, _BLOCK = 7, 32768


def records(file: Path) -> Iterator[Any]:
    """The records of one `run-ID.wandb`, without those that a killed process had not finished."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = file.read_bytes(), _HEADER, b""
    while place + _HEADER <= len(data):
        if _BLOCK - place % _BLOCK < _HEADER:  # padding
            place += _BLOCK - place % _BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)  # behind the checksum
        part = data[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        if kind == 0 or len(part) < length:
            return
        parts = part if kind in (1, 2) else parts + part  # 1 whole, 2 first, 3 middle, 4 last
        if kind in (1, 4):
            yield Record.FromString(parts)


def history(root: Path) -> tuple[set[str], list[dict[str, Any]]]:
    """Ids of the runs in a folder's offline files, and the logged rows in their order."""
    ids, rows = set(), []
    for file in sorted(root.glob("wandb/offline-run-*/*.wandb")):
        for record in records(file):
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if record.HasField("history"):
                rows.append(
                    {
                        item.key or "/".join(item.nested_key): json.loads(item.value_json)
                        for item in record.history.item
                    }
                )
    return ids, rows

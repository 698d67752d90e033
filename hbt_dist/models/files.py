"""Read one file of a model folder, or report what is wrong with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.common.files import sha256_of

COPY_AGAIN = "copy the file again from the source of the model"
#: Endings of weights, configuration and tokenizer.
_DECISIVE = (".safetensors", ".bin", ".json", ".model", ".txt")
#: Keys of config.json that do not change what the model computes.
NEUTRAL_KEYS = ("transformers_version", "_name_or_path", "architectures")
_EMPTY: tuple[Any, ...] = (None, False, "", [], {})
_LFS_POINTER = b"version https://git-lfs"


def check_file(file: Path) -> None:
    """Refuse a file that is absent, empty, a Git LFS pointer, or damaged safetensors.

    Raises:
        UserError: names the file and the finding.
    """
    if not file.is_file():
        raise UserError(str(file), "no such file", COPY_AGAIN)
    with file.open("rb") as opened:
        start = opened.read(len(_LFS_POINTER))
    if start == _LFS_POINTER:
        raise UserError(
            str(file), "is a Git LFS pointer, not the file itself", f"run in {file.parent}: git lfs pull"
        )
    if not start:
        raise UserError(str(file), "is empty", COPY_AGAIN)
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            problem = f"is damaged or cut ({file.stat().st_size:,} bytes): {first_line(error)}"
            raise UserError(str(file), problem, COPY_AGAIN) from error


def read_json(file: Path, kind: type = dict) -> Any:
    """Return the content of a JSON file; an empty `kind` if the file does not exist.

    Raises:
        UserError: the file is not JSON, or holds a value of another kind.
    """
    if not file.is_file():
        return kind()
    check_file(file)
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(str(file), f"is not JSON: {first_line(error)}", COPY_AGAIN) from error
    if not isinstance(content, kind):
        expected = "a list" if kind is list else "an object"
        problem = f"expected {expected}, got {json.dumps(content)[:40]}"
        raise UserError(str(file), problem, COPY_AGAIN)
    return content


def check_keys(
    file: Path, config: Mapping[str, Any], read: Collection[str], neutral: Mapping[str, tuple[Any, ...]]
) -> None:
    """Refuse a key that is not read and would change the vectors.

    Args:
        file: where the keys are.
        config: its content.
        read: keys whose values are used.
        neutral: key -> values that change nothing; any other key must be null, false or empty.

    Raises:
        UserError: names file, key and value.
    """
    for key, value in config.items():
        if key not in read and value not in neutral.get(key, _EMPTY):
            raise UserError(
                str(file),
                f"{key}: {json.dumps(value)} is not supported, and would change the vectors",
                "take a model without it, or remove the key if it changes nothing for this model",
            )


def folder_digest(folder: Path) -> str:
    """Return a digest of the files of a model folder that decide what it computes.

    Cost: reading it once, about a second per GiB.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in _DECISIVE and path.is_file():
            digest.update(f"{path.relative_to(folder)} {sha256_of(path)}\n".encode())
    return digest.hexdigest()

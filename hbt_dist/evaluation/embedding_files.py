"""Store embeddings in `.npy` files of a fixed number of rows, with a manifest of what made them.

A file is either complete or absent, so that an interrupted encode continues with the missing files. The
folder's name is the fingerprint of weights, configuration, tokenizer, text settings, precision and texts: its
files are what an encode would compute.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_file, write_json
from hbt_dist.evaluation.matrix_rows import Float32, Int64
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.files import NEUTRAL_KEYS
from hbt_dist.models.tokenizer import tokenizer_digest

Role = Literal["question", "passage"]

MANIFEST = "manifest.json"
SCHEMA_VERSION = 2
#: Text settings that a fingerprint always has, for its role only.
_OF_ROLES = {
    "append_eos",  # the tokenizer has it
    "pooling",
    "normalize",
    "question_prefix",
    "passage_prefix",
    "max_question_tokens",
    "max_passage_tokens",
}


@dataclass(frozen=True)
class EmbeddingFiles:
    """An (n, D) float32 matrix over files, read by rows; holds no memory and no open file between reads.

    `dtype` is that of the files.
    """

    folder: Path
    num_rows: int
    width: int
    rows_per_file: int
    dtype: str = "float32"

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, width)."""
        return self.num_rows, self.width

    @property
    def num_files(self) -> int:
        """Number of the files of all rows."""
        return -(-self.num_rows // self.rows_per_file)

    def __getitem__(self, rows: slice | Int64) -> Float32:
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(self.num_rows))
        out = np.empty((len(rows), self.width), np.float32)
        numbers, inside = np.divmod(np.asarray(rows, np.int64), self.rows_per_file)
        for number in np.unique(numbers).tolist():
            positions = np.flatnonzero(numbers == number)
            file = np.load(self.file(number), mmap_mode="r")
            if np.all(np.diff(positions) == 1) and np.all(np.diff(inside[positions]) == 1):
                first, last = inside[positions[[0, -1]]]
                out[positions[0] : positions[-1] + 1] = file[first : last + 1]
            else:
                out[positions] = file[inside[positions]]
        return out

    def file(self, number: int) -> Path:
        """Return the path of file ``number``."""
        return self.folder / f"rows-{number:06d}.npy"

    def flags(self) -> NDArray[np.uint8]:
        """Return the flags of all rows, (n,), see `hbt_dist.evaluation.text_counts`."""
        return np.concatenate([np.load(self._flags_file(number)) for number in range(self.num_files)])

    def write_flags(self, number: int, flags: NDArray[np.uint8]) -> None:
        """Write the flags of a file's rows; before the rows, whose file marks both as complete."""
        with atomic_file(self._flags_file(number)) as temporary, temporary.open("wb") as file:
            np.save(file, flags)

    def _flags_file(self, number: int) -> Path:
        return self.folder / f"flags-{number:06d}.npy"

    def rows_of_file(self, number: int) -> range:
        """Return the rows of file ``number``."""
        first = number * self.rows_per_file
        return range(first, min(first + self.rows_per_file, self.num_rows))

    def missing(self) -> list[int]:
        """Return the numbers of the files that do not exist yet.

        Raises:
            UserError: a file does not hold its rows.
        """
        return [number for number in range(self.num_files) if not self._is_complete(number)]

    def _is_complete(self, number: int) -> bool:
        path, expected = self.file(number), (len(self.rows_of_file(number)), self.width)
        if not path.is_file():
            return False
        try:
            shape = np.load(path, mmap_mode="r").shape
            problem = "" if shape == expected else f"expected values of shape {expected}, got {shape}"
        except (OSError, ValueError, EOFError):
            problem = "cannot be read"
        if problem:
            raise UserError(str(path), problem, "remove the file: its texts are then encoded again")
        return True

    def write_file(self, number: int, values: Float32) -> None:
        """Write a file in one step.

        Raises:
            UserError: a value is too large for the files' dtype.
        """
        expected = (len(self.rows_of_file(number)), self.width)
        if values.shape != expected:
            raise ValueError(f"file {number} takes {expected} values, got {values.shape}")
        if (largest := np.abs(values).max(initial=0.0)) > np.finfo(self.dtype).max:
            problem = f"expected values that {self.dtype} can hold, got {largest:.0f}"
            raise UserError(str(self.file(number)), problem, "store them as float32")
        with atomic_file(self.file(number)) as temporary, temporary.open("wb") as file:
            np.save(file, np.ascontiguousarray(values, self.dtype))


def open_embedding_files(
    cache_dir: str | Path,
    fingerprint: str,
    *,
    num_rows: int,
    width: int,
    rows_per_file: int,
    dtype: str = "float32",
    facts: Any = None,
) -> EmbeddingFiles:
    """Open the cache folder of one encode, or make it. An existing folder keeps its number of rows per file.

    The fingerprint must depend on `dtype`, that of the files.

    Raises:
        UserError: the folder holds another matrix, or cannot be written.
    """
    folder = Path(cache_dir) / fingerprint[:24]
    manifest = folder / MANIFEST
    if manifest.is_file():
        try:
            recorded = json.loads(manifest.read_text("utf-8"))
            rows_per_file = int(recorded["rows_per_file"])
            same = [recorded[key] for key in ("fingerprint", "num_rows", "width")] == [
                fingerprint,
                num_rows,
                width,
            ]
        except (ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise UserError(str(manifest), "does not describe these embeddings", "remove the folder")
        return EmbeddingFiles(folder, num_rows, width, rows_per_file, dtype)
    document = {
        "schema": "hbt_dist.embeddings",
        "schema_version": SCHEMA_VERSION,
        "fingerprint": fingerprint,
        "num_rows": num_rows,
        "width": width,
        "rows_per_file": rows_per_file,
        "dtype": dtype,
        "made_from": facts,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(manifest, document)
    except OSError as error:
        raise UserError(
            str(folder), f"cannot be written: {error.strerror}", "name another cache folder"
        ) from error
    return EmbeddingFiles(folder, num_rows, width, rows_per_file, dtype)


def recorded_width(cache_dir: str | Path, fingerprint: str) -> int | None:
    """Return the width of the vectors of an encode that has begun; None before it has."""
    try:
        manifest = Path(cache_dir) / fingerprint[:24] / MANIFEST
        return int(json.loads(manifest.read_text("utf-8"))["width"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def encoding_fingerprint(
    loaded: LoadedEncoder, texts: Iterable[str], role: Role, dtype: str, prefixes: Sequence[str] = ()
) -> str:
    """Return the SHA-256 of all that decides the embeddings. Takes a second per GB of weights or texts."""
    text = loaded.text
    facts: list[Any] = [text.pooling, text.normalize, text.prefix(role), text.max_tokens(role)]
    if more := text.model_dump(mode="json", exclude=_OF_ROLES, exclude_defaults=True):
        facts.append(more)  # settings at their default leave the fingerprints of older files as they are
    digest = hashlib.sha256(json.dumps([SCHEMA_VERSION, role, dtype, facts]).encode())
    digest.update(model_fingerprint(loaded).encode())
    for data in (words.encode("utf-8", "surrogatepass") for words in chain(texts, prefixes)):
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def model_fingerprint(loaded: LoadedEncoder) -> str:
    """Return the SHA-256 of parameters, buffers, configuration and tokenizer of an encoder."""
    digest = weights_digest(loaded.encoder)
    config: Any = loaded.encoder.backbone.config
    keys = {key: value for key, value in config.to_dict().items() if key not in (*NEUTRAL_KEYS, "dtype")}
    activations = [str(layer.activation) for layer in loaded.encoder.dense]  # type: ignore[union-attr]
    digest.update(json.dumps([keys, activations], sort_keys=True, default=str).encode())
    digest.update(tokenizer_digest(loaded.tokenizer).encode())
    return digest.hexdigest()


def weights_digest(module: nn.Module) -> Any:
    """Return a SHA-256 object that has read the parameters and buffers of a module."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        array = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(memoryview(array))
    return digest


def texts_of(texts: Sequence[str], rows: range) -> list[str]:
    """Return some texts as a list, from a list or a columnar store."""
    return list(texts[rows.start : rows.stop])

"""Hold mined negatives: passages and their languages per example, with scores, in a folder of arrays."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_folder, write_json
from hbt_dist.data.corpus.corpus import Corpus

MANIFEST = "manifest.json"
FORMAT = 1
#: name -> dtype, one `.npy` file each.
ARRAYS: dict[str, type] = {
    "offsets": np.int64,
    "passage": np.int64,
    "language": np.int32,
    "score": np.float32,
    "positive_score": np.float32,
}
_FILES = {MANIFEST, *(f"{name}.npy" for name in ARRAYS)}


@dataclass(frozen=True, kw_only=True, eq=False)
class MinedNegatives:
    """The negatives of every example of a corpus. Letters: E examples, n negatives of all of them.

    Attributes:
        corpus: fingerprint of the corpus.
        offsets: (E + 1,); the negatives of example i are ``passage[offsets[i]:offsets[i + 1]]``.
        passage: (n,) passage rows of the corpus; of an example by score, highest first.
        language: (n,) language index of the text that was scored.
        score: (n,) of the best question of the example, by the judge if there is one.
        positive_score: (E,) highest score of the positive in its languages.
        counts: what was selected and left out, see `hbt_dist.mining.counts`.
    """

    corpus: str
    offsets: NDArray[np.int64]
    passage: NDArray[np.int64]
    language: NDArray[np.int32]
    score: NDArray[np.float32]
    positive_score: NDArray[np.float32]
    counts: dict[str, Any] = field(default_factory=dict)

    @property
    def num_examples(self) -> int:
        """Return E."""
        return len(self.offsets) - 1

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 of corpus and arrays, in hexadecimal digits."""
        digest = hashlib.sha256(self.corpus.encode())
        for name, dtype in ARRAYS.items():
            digest.update(np.ascontiguousarray(getattr(self, name), dtype).data.cast("B"))
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write a folder, complete or not at all; an older folder of mined negatives is replaced."""
        with atomic_folder(folder) as target:
            for name, dtype in ARRAYS.items():
                np.save(target / f"{name}.npy", np.ascontiguousarray(getattr(self, name), dtype))
            manifest = {
                "schema": "hbt_dist.mined_negatives",
                "schema_version": FORMAT,
                "corpus": self.corpus,
                "num_examples": self.num_examples,
                "num_negatives": len(self.passage),
                "digest": self.digest,
                "counts": self.counts,
            }
            write_json(target / MANIFEST, manifest)
            if folder.is_dir() and {file.name for file in folder.iterdir()} <= _FILES:
                shutil.rmtree(folder)  # a process that was killed in here left a part of the files

    @classmethod
    def open(cls, folder: Path, corpus: Corpus | None = None) -> Self:
        """Map the arrays of a folder.

        Args:
            corpus: the negatives must be of this one.

        Raises:
            UserError: the folder holds no mined negatives, or those of another corpus.
        """
        try:
            manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS}
            mined = cls(corpus=manifest["corpus"], counts=manifest["counts"], **arrays)
            if len(mined.passage) != manifest["num_negatives"]:
                raise ValueError(f"expected {manifest['num_negatives']} negatives, got {len(mined.passage)}")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                str(folder), f"expected mined negatives, got {error}", "mine once more into this folder"
            ) from None
        if corpus is not None and mined.corpus != corpus.fingerprint:
            raise UserError(
                str(folder),
                f"expected negatives of corpus {corpus.fingerprint[:12]}, got those of {mined.corpus[:12]}",
                "the training data have changed: mine once more",
            )
        return mined

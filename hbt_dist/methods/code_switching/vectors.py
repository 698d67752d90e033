"""Translate words by nearest neighbour: aligned word vectors, cosine, top word only (arXiv 2305.05295).

The vectors of the two languages must share one space, like the 30 languages that MUSE publishes do
(wiki.multi.LANGUAGE.vec, 200,000 words each). Found once and kept: 50,000 x 200,000 words of 300 numbers take
about two minutes on two CPU cores, in blocks of 70 MB, next to the vectors themselves (300 MB).
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_write
from hbt_dist.data.cache import make_cache
from hbt_dist.data.files import digest_of_file, read_lines

Float32s = NDArray[np.float32]

_FORMAT = 1
_SOURCES_AT_ONCE, _TARGETS_AT_ONCE = 1024, 16384


def nearest_words(
    source: Path, target: Path, *, max_source_words: int, max_target_words: int, cache_dir: Path
) -> dict[str, str]:
    """Return lower-case word -> word of the target language whose vector has the largest cosine with its own.

    Args:
        source, target: vector files in one space.
        max_source_words, max_target_words: how many vectors count, from the beginning of each file.
        cache_dir: where the answer is kept, by the content of both files. Safe in several processes.

    Raises:
        UserError: a file cannot be read (with the line), or their vectors have different lengths.
    """
    sources = f"{digest_of_file(source)} {max_source_words}"
    content = f"{_FORMAT} {sources} {digest_of_file(target)} {max_target_words}"
    make_cache(cache_dir, "batches.code_switching.cache_dir")
    kept = cache_dir / f"neighbours-{hashlib.sha256(content.encode()).hexdigest()[:24]}.tsv"
    with FileLock(f"{kept}.lock"):
        if not kept.is_file():
            words, vectors = read_vectors(source, max_source_words)
            targets, target_vectors = read_vectors(target, max_target_words)
            if vectors.shape[1] != target_vectors.shape[1]:
                raise UserError(
                    str(target),
                    f"has vectors of {target_vectors.shape[1]} numbers, {source} of {vectors.shape[1]}",
                    "both files must be mapped into one space",
                )
            neighbours = nearest(vectors, target_vectors).tolist()
            lines = (f"{word}\t{targets[number]}\n" for word, number in zip(words, neighbours, strict=True))
            atomic_write(kept, "".join(lines))
    translations: dict[str, str] = {}
    for word, translation in (line.split("\t") for _, line in read_lines(kept)):
        translations.setdefault(word.lower(), translation)
    return translations


def nearest(vectors_SD: Float32s, targets_TD: Float32s) -> NDArray[np.int64]:
    """Return for each row the row of `targets_TD` with the largest inner product, (S,); ties: the first."""
    answer = np.zeros(len(vectors_SD), np.int64)
    for start in range(0, len(vectors_SD), _SOURCES_AT_ONCE):
        rows = slice(start, start + _SOURCES_AT_ONCE)
        best = np.full(len(vectors_SD[rows]), -np.inf, np.float32)
        for first in range(0, len(targets_TD), _TARGETS_AT_ONCE):
            scores = vectors_SD[rows] @ targets_TD[first : first + _TARGETS_AT_ONCE].T
            top = scores.argmax(axis=1)
            value = scores[np.arange(len(top)), top]
            better = value > best
            best[better] = value[better]
            answer[rows][better] = top[better] + first
    return answer


def read_vectors(file: Path, max_words: int) -> tuple[list[str], Float32s]:
    """Read the first vectors of a fastText text file (.vec, .vec.gz), scaled to length 1.

    The first line holds the number of words and of numbers per word, every other line a word and its numbers.

    Raises:
        UserError: a line is malformed, or a vector is zero or not finite.
    """
    lines = read_lines(file)
    _, header = next(lines, (1, ""))
    counts = header.split()
    if len(counts) != 2 or not all(count.isdecimal() and int(count) > 0 for count in counts):
        raise UserError(
            f"{file} line 1",
            f"is not a header: {header[:60]!r}",
            "a .vec file begins with the number of words and the number of values per word",
        )
    size, width = min(int(counts[0]), max_words), int(counts[1])
    words: list[str] = []
    vectors = np.empty((size, width), np.float32)
    for number, line in lines:
        if len(words) == size:
            break
        word, *values = line.rstrip(" ").rsplit(" ", width)
        location = f"{file} line {number}"
        if len(values) != width or not word or " " in word or "\t" in word:
            num_values = len(line.split(" ")) - 1
            raise UserError(
                location,
                f"holds {num_values} values after the word",
                f"line 1 announces {width}; remove the line",
            )
        try:
            row = np.array(values, np.float32)
        except ValueError as error:
            raise UserError(location, f"not a number: {error}", "repair or remove the line") from None
        length = float(np.sqrt(row.astype(np.float64) @ row.astype(np.float64)))
        if not np.isfinite(length) or length == 0.0:
            raise UserError(location, "the vector is zero or not finite", "repair or remove the line")
        vectors[len(words)] = row / length
        words.append(word)
    if len(words) < size:
        raise UserError(
            str(file), f"ends after {len(words)} words", f"line 1 announces {counts[0]}; copy the file again"
        )
    return words, vectors

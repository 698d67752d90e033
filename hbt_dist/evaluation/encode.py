"""Encode texts in batches of equal length, in memory or into resumable files.

Texts are tokenised in bulk, ordered by length and cut into batches of at most `max_tokens_per_batch` padded
tokens, which leaves almost no padding. Batches run in a fixed shuffled order, so that rows per second and
time left are realistic from the start.

The batches of a file depend only on that file's texts. An encode that was interrupted, or whose actor died,
therefore gives the same numbers.

On a GPU a thread tokenises the next file meanwhile, batches leave from pinned memory, and vectors come back
for eight batches at a time while the GPU has the next eight: it never waits for the host to read or to check.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hbt_dist.common.console import Progress
from hbt_dist.common.devices import move, token_width, torch_device
from hbt_dist.common.errors import UserError
from hbt_dist.config.placeholders import LANGUAGE
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.instructions import filled
from hbt_dist.evaluation.embedding_files import (
    EmbeddingFiles,
    Role,
    encoding_fingerprint,
    open_embedding_files,
    texts_of,
)
from hbt_dist.evaluation.matrix_rows import Float32, Int64, check_rows
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.text_counts import Flags, flags_of
from hbt_dist.models import tokenising
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.tokenising import Tokenised, token_mask

CPU_TOKENS, GPU_TOKENS = 2048, 32768
BATCHES_PER_DOWNLOAD = 8

Encoded = tuple[Float32 | EmbeddingFiles, Flags]


def encode_texts(
    loaded: LoadedEncoder,
    texts: Sequence[str],
    role: Role,
    *,
    settings: EvaluationSettings | None = None,
    progress: bool = True,
) -> Float32 | EmbeddingFiles:
    """Encode all texts, see `encode_with_flags`; returns the vectors alone."""
    return encode_with_flags(loaded, texts, role, settings=settings, progress=progress)[0]


def encode_with_flags(
    loaded: LoadedEncoder,
    texts: Sequence[str],
    role: Role,
    *,
    prefixes: Sequence[str] | None = None,
    settings: EvaluationSettings | None = None,
    progress: bool = True,
) -> Encoded:
    """Encode all texts.

    Args:
        loaded: encoder and tokenizer.
        texts: n texts; a list, or a columnar store that can be sliced.
        role: which prefix and length limit apply.
        prefixes: of each text, see `prefixes_by_language`; default: the role's.
        settings: precision, batch size, device, and the cache folder.
        progress: show rows per second and time left on stderr.

    Returns:
        (n, D) float32: an array, or with `settings.cache_dir` a matrix over files, which is filled where an
        earlier encode of the same texts with the same model left off; and (n,) flags of the texts, see
        `hbt_dist.evaluation.text_counts`.
    """
    settings = with_arithmetic(settings or EvaluationSettings())
    label, size = f"encode {role}s", settings.rows_per_file
    if settings.cache_dir is None:
        out = np.empty((len(texts), loaded.encoder.width), np.float32)
        flags = np.zeros(len(texts), np.uint8)
        parts = [range(first, min(first + size, len(texts))) for first in range(0, len(texts), size)]
        with Progress(total=len(texts), desc=label, disable=not progress, first_seconds=1.0) as bar:
            for rows, part, tokens in _tokenised(loaded, texts, role, prefixes, parts, settings):
                out[rows.start : rows.stop] = encode_rows(
                    loaded, part, role, settings, bar.update, rows.start, tokens
                )
                flags[rows.start : rows.stop] = flags_of(tokens)
        return out, flags
    files = embedding_files(loaded, texts, role, settings, prefixes)
    encode_missing(files, loaded, texts, role, prefixes=prefixes, settings=settings, progress=progress)
    return files, files.flags()


def encode_missing(
    files: EmbeddingFiles,
    loaded: LoadedEncoder,
    texts: Sequence[str],
    role: Role,
    *,
    settings: EvaluationSettings,
    prefixes: Sequence[str] | None = None,
    share: tuple[int, int] = (0, 1),
    progress: bool = True,
    label: str | None = None,
) -> None:
    """Encode the files that do not exist yet.

    Args:
        files: of `embedding_files`, with the same texts, prefixes and settings.
        share: (number, workers): of several workers, the one with this number encodes its share of the files.
        progress: show rows per second and time left on stderr.
        label: name of the work; default: the role's.
    """
    number, workers = share
    numbers = range(files.num_files)[number::workers]
    missing = [file for file in files.missing() if file in numbers]
    parts = [files.rows_of_file(file) for file in missing]
    total = sum(len(files.rows_of_file(file)) for file in numbers)
    done = total - sum(map(len, parts))
    label = label or f"encode {role}s"
    with Progress(total, label, initial=done, disable=not progress, first_seconds=1.0) as bar:
        tokenised = _tokenised(loaded, texts, role, prefixes, parts, settings)
        for file, (rows, part, tokens) in zip(missing, tokenised, strict=True):
            values = encode_rows(loaded, part, role, settings, bar.update, rows.start, tokens)
            files.write_flags(file, flags_of(tokens))
            files.write_file(file, values)


def with_arithmetic(settings: EvaluationSettings) -> EvaluationSettings:
    """Return the settings with the arithmetic that `dtype: auto` means on the device of this process."""
    if settings.dtype != "auto":
        return settings
    device = torch_device(settings.device)
    low = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return settings.model_copy(update={"dtype": "bfloat16" if low else "float32"})


def _tokenised(
    loaded: LoadedEncoder,
    texts: Sequence[str],
    role: Role,
    prefixes: Sequence[str] | None,
    parts: Sequence[range],
    settings: EvaluationSettings,
) -> Iterator[tuple[range, list[str], Tokenised]]:
    """Yield the rows, texts and tokens of each part; a thread works on the next part if a GPU encodes."""

    def tokenised(rows: range) -> tuple[range, list[str], Tokenised]:
        part = texts_of(texts, rows)
        chosen = None if prefixes is None else prefixes[rows.start : rows.stop]
        return rows, part, tokenise(loaded, part, role, chosen)

    if torch_device(settings.device).type == "cpu":  # its cores are busy
        yield from map(tokenised, parts)
        return
    with ThreadPoolExecutor(1) as pool:
        waiting: deque[Future[tuple[range, list[str], Tokenised]]] = deque()
        for rows in parts:
            waiting.append(pool.submit(tokenised, rows))
            if len(waiting) == 2:
                yield waiting.popleft().result()
        yield from (last.result() for last in waiting)


def embedding_files(
    loaded: LoadedEncoder,
    texts: Sequence[str],
    role: Role,
    settings: EvaluationSettings,
    prefixes: Sequence[str] | None = None,
) -> EmbeddingFiles:
    """Open the cache folder for these texts, with the files that are already complete."""
    if settings.cache_dir is None or settings.dtype == "auto":
        raise ValueError("the settings need a cache folder and an arithmetic, see `with_arithmetic`")
    return open_embedding_files(
        settings.cache_dir,
        encoding_fingerprint(loaded, texts, role, settings.dtype, prefixes or ()),
        num_rows=len(texts),
        width=loaded.encoder.width,
        rows_per_file=settings.rows_per_file,
        facts={"model": loaded.source, "role": role, "dtype": settings.dtype},
    )


def encode_rows(
    loaded: LoadedEncoder,
    texts: list[str],
    role: Role,
    settings: EvaluationSettings,
    on_rows: Callable[[int], Any] | None = None,
    first_row: int = 0,
    tokens: Tokenised | None = None,
) -> Float32:
    """Encode texts that fit in memory: (n, D) float32, in the order given.

    Args:
        on_rows: called with the number of rows of each finished batch.
        first_row: number of the first text in the whole, for messages.
        tokens: of the texts, from `tokenise`; default: tokenised here.

    Raises:
        UserError: a vector that cannot be ranked, or of another width; known with the first such batch on a
            CPU, a few batches later on a GPU.
    """
    settings = with_arithmetic(settings)
    device = torch_device(settings.device)
    encoder = loaded.encoder.to(device).eval()
    tokens = tokens if tokens is not None else tokenise(loaded, texts, role)
    lengths = tokens.lengths
    limit = settings.max_tokens_per_batch or (CPU_TOKENS if device.type == "cpu" else GPU_TOKENS)
    out = np.empty((len(texts), encoder.width), np.float32)
    padding = loaded.tokenizer.pad_token_id or 0
    low = settings.dtype == "bfloat16"

    def keep(rows: Int64, values: Float32) -> None:
        if values.shape != (len(rows), encoder.width):
            raise UserError(
                f"model {loaded.source}",
                f"expected vectors of width {encoder.width} as in its configuration, "
                f"got shape {values.shape[1:]}",
                "check the model folder",
            )
        check_rows(values, lambda i: f"row {first_row + rows[i]}: {texts[rows[i]][:60]}", role)
        out[rows] = values
        if on_rows is not None:
            on_rows(len(rows))

    vectors = _Vectors(keep, device)
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=low):
        for rows in length_batches(lengths, limit):
            width = token_width(int(lengths[rows].max()), loaded.text.max_tokens(role), device)
            ids_nT = np.full((len(rows), width), padding, np.int64)
            for i, row in enumerate(rows.tolist()):
                ids_nT[i, : lengths[row]] = tokens.ids[row]
            prompts = None if loaded.text.include_prompt else tokens.prompts[rows]
            mask_nT = token_mask(lengths[rows], width, prompts)
            embedded = encoder(
                move(torch.from_numpy(ids_nT), device),
                move(torch.from_numpy(mask_nT), device),
                lengths[rows].tolist(),
            )
            vectors.add(rows, embedded.float())
        vectors.flush()
    return out


class _Vectors:
    """Bring vectors to the host: at once from a CPU, several batches together and later from a GPU.

    Args:
        keep: receives the rows (n,) and vectors (n, D) of finished batches.
        device: of the vectors.
    """

    def __init__(self, keep: Callable[[Int64, Float32], None], device: torch.device) -> None:
        self._keep, self._device = keep, device
        self._batches: list[tuple[Int64, Tensor]] = []
        self._coming: tuple[Int64, Tensor, torch.cuda.Event] | None = None

    def add(self, rows: Int64, vectors: Tensor) -> None:
        """Take the vectors of a batch, on the device."""
        if self._device.type != "cuda":
            self._keep(rows, vectors.cpu().numpy())
            return
        self._batches.append((rows, vectors))
        if len(self._batches) == BATCHES_PER_DOWNLOAD:
            self._download()

    def flush(self) -> None:
        """Hand over all vectors; waits for the device."""
        self._download()
        self._download()

    def _download(self) -> None:
        """Queue the copy of all batches, then wait for the copy before that one, which is older work."""
        coming, self._coming = self._coming, None
        if self._batches:
            rows = np.concatenate([rows for rows, _ in self._batches])
            vectors = torch.cat([vectors for _, vectors in self._batches])
            host = torch.empty(vectors.shape, pin_memory=True)
            host.copy_(vectors, non_blocking=True)
            copied = torch.cuda.Event()
            copied.record(torch.cuda.current_stream(self._device))
            self._batches, self._coming = [], (rows, host, copied)
        if coming is not None:
            rows, host, copied = coming
            copied.synchronize()
            self._keep(rows, host.numpy())


def prefixes_by_language(loaded: LoadedEncoder, benchmark: Benchmark, role: Role) -> list[str] | None:
    """Return the prefix of each text of a benchmark; None if all texts of the role have one prefix.

    Raises:
        UserError: the prefix asks for the name of a language without one.
    """
    prefix = loaded.text.prefix(role)
    if LANGUAGE not in prefix:
        return None
    by_language = [filled(prefix, code) for code in benchmark.languages]
    languages = benchmark.question_language if role == "question" else benchmark.candidate_language
    return [by_language[index] for index in languages.tolist()]


def tokenise(
    loaded: LoadedEncoder, texts: list[str], role: Role, prefixes: Sequence[str] | None = None
) -> Tokenised:
    """Return the token ids of each text with its prefix (default: the role's), cut at the role's limit.

    Raises:
        UserError: the prefix has `{language}`, and no language is known.
    """
    text = loaded.text
    if prefixes is None and LANGUAGE in text.prefix(role):
        raise UserError(
            f"prefix {text.prefix(role)[:60]!r}",
            f"expected texts whose language is known for {LANGUAGE}, got texts alone",
            f"evaluate on a benchmark without expansions, or write a name in place of {LANGUAGE}",
        )
    return tokenising.tokenise(
        loaded.tokenizer, texts, text.max_tokens(role), text.prefix(role) if prefixes is None else prefixes
    )


def length_batches(lengths: Int64, max_tokens: int) -> list[Int64]:
    """Group rows of similar length, at most `max_tokens` padded tokens (at least one row), shuffled."""
    order = np.argsort(-lengths, kind="stable")
    batches, first = [], 0
    while first < len(order):
        longest = max(1, int(lengths[order[first]]))
        last = first + max(1, max_tokens // longest)
        batches.append(order[first:last])
        first = last
    shuffled = np.random.default_rng(0).permutation(len(batches))
    return [batches[i] for i in shuffled.tolist()]

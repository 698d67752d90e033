"""Encode texts in batches of equal length, in memory or into resumable files.

Texts are tokenised in bulk, ordered by length and cut into batches of at most `max_tokens_per_batch` padded
tokens, which leaves almost no padding. Batches run in a fixed shuffled order, so that rows per second and
time left are realistic from the start.

The batches of a file depend only on that file's texts. An encode that was interrupted, or whose actor died,
therefore gives the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hbt_dist.common.console import Progress
from hbt_dist.common.devices import token_width, torch_device
from hbt_dist.common.errors import UserError
from hbt_dist.evaluation.embedding_files import (
    EmbeddingFiles,
    Role,
    encoding_fingerprint,
    open_embedding_files,
    texts_of,
)
from hbt_dist.evaluation.matrix_rows import Float32, Int64, check_rows
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.encoder import LoadedEncoder

CPU_TOKENS, GPU_TOKENS = 2048, 32768
TEXTS_PER_CALL = 1024


def encode_texts(
    loaded: LoadedEncoder,
    texts: Sequence[str],
    role: Role,
    *,
    settings: EvaluationSettings | None = None,
    progress: bool = True,
) -> Float32 | EmbeddingFiles:
    """Encode all texts.

    Args:
        loaded: encoder and tokenizer.
        texts: n texts; a list, or a columnar store that can be sliced.
        role: which prefix and length limit apply.
        settings: precision, batch size, device, and the cache folder.
        progress: show rows per second and time left on stderr.

    Returns:
        (n, D) float32: an array, or with `settings.cache_dir` a matrix over files, which is filled where an
        earlier encode of the same texts with the same model left off.
    """
    settings = settings or EvaluationSettings()
    label = f"encode {role}s"
    if settings.cache_dir is None:
        out = np.empty((len(texts), loaded.encoder.width), np.float32)
        with Progress(total=len(texts), desc=label, unit="row", disable=not progress) as bar:
            for first in range(0, len(texts), settings.rows_per_file):
                rows = range(first, min(first + settings.rows_per_file, len(texts)))
                out[rows.start : rows.stop] = encode_rows(
                    loaded, texts_of(texts, rows), role, settings, bar.update, first
                )
        return out
    files = embedding_files(loaded, texts, role, settings)
    missing = files.missing()
    done = len(texts) - sum(len(files.rows_of_file(number)) for number in missing)
    with Progress(total=len(texts), initial=done, desc=label, unit="row", disable=not progress) as bar:
        for number in missing:
            rows = files.rows_of_file(number)
            part = texts_of(texts, rows)
            files.write_file(number, encode_rows(loaded, part, role, settings, bar.update, rows.start))
    return files


def embedding_files(
    loaded: LoadedEncoder, texts: Sequence[str], role: Role, settings: EvaluationSettings
) -> EmbeddingFiles:
    """Open the cache folder for these texts, with the files that are already complete."""
    if settings.cache_dir is None:
        raise ValueError("no cache folder is set")
    return open_embedding_files(
        settings.cache_dir,
        encoding_fingerprint(loaded, texts, role, settings.dtype),
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
) -> Float32:
    """Encode texts that fit in memory: (n, D) float32, in the order given.

    Args:
        on_rows: called with the number of rows of each finished batch.
        first_row: number of the first text in the whole, for messages.

    Raises:
        UserError: a vector that cannot be ranked, or of another width; known with the first such batch.
    """
    device = torch_device(settings.device)
    encoder = loaded.encoder.to(device).eval()
    tokens = tokenise(loaded, texts, role)
    lengths = np.array([len(ids) for ids in tokens], np.int64)
    limit = settings.max_tokens_per_batch or (CPU_TOKENS if device.type == "cpu" else GPU_TOKENS)
    out = np.empty((len(texts), encoder.width), np.float32)
    padding = loaded.tokenizer.pad_token_id or 0
    low = settings.dtype == "bfloat16"
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=low):
        for rows in length_batches(lengths, limit):
            longest = token_width(int(lengths[rows].max()), loaded.text.max_tokens(role), device)
            ids_nT = np.full((len(rows), longest), padding, np.int64)
            for i, row in enumerate(rows.tolist()):
                ids_nT[i, : lengths[row]] = tokens[row]
            mask_nT = np.arange(longest)[None, :] < lengths[rows][:, None]
            embedded = encoder(
                torch.from_numpy(ids_nT).to(device), torch.from_numpy(mask_nT.astype(np.int64)).to(device)
            )
            values = embedded.float().cpu().numpy()
            if values.shape != (len(rows), encoder.width):
                raise UserError(
                    f"model {loaded.source}",
                    f"expected vectors of width {encoder.width} as in its configuration, "
                    f"got shape {values.shape[1:]}",
                    "check the model folder",
                )
            check_rows(values, lambda i, rows=rows: f"row {first_row + rows[i]}: {texts[rows[i]][:60]}", role)  # type: ignore[misc]
            out[rows] = values
            if on_rows is not None:
                on_rows(len(rows))
    return out


def tokenise(loaded: LoadedEncoder, texts: list[str], role: Role) -> list[NDArray[np.int32]]:
    """Return the token ids of each text with its role's prefix, cut at the role's limit."""
    prefix, longest = loaded.text.prefix(role), loaded.text.max_tokens(role)
    result: list[NDArray[np.int32]] = []  # 4 bytes per token: a file's tokens are held together
    for first in range(0, len(texts), TEXTS_PER_CALL):
        token_ids = loaded.tokenizer(
            [prefix + text for text in texts[first : first + TEXTS_PER_CALL]],
            truncation=True,
            max_length=longest,
            add_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        result += [np.array(ids, np.int32) for ids in token_ids]
    return result


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

"""Encoding and ranking on the pretended GPU, each against the CPU and with the waits of the host."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hbt_dist.common.devices import torch_device
from hbt_dist.evaluation import device_shard, encode
from hbt_dist.evaluation.device_shard import DeviceShard
from hbt_dist.evaluation.encode import encode_texts, with_arithmetic
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.loading import load_encoder
from tests.evaluation.conftest import embeddings, make, save_tiny_model
from tests.evaluation.test_ranks import rank
from tests.pretended_gpu.tensors import RECORDER

_BLOCKS = (48, 64)
_RANKS = ("pair", "one_target", "pooled", "tied", "scores")


def _waits() -> dict[str, int]:
    """Return the number of waits by their kind."""
    kinds = [event.kind for event in RECORDER.synchronisations]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def _differences(top_k: int, kind: str) -> list[str]:
    """Return the names of ranks and lists that differ from the CPU's."""
    benchmark = make(num_ids=60, per_language=150, relevant_per_language=2, shuffled=True, missing=0.3)
    questions = embeddings(kind, benchmark.num_questions, 1)
    candidates = embeddings(kind, benchmark.num_candidates, 2)
    want, lists = rank(benchmark, questions, candidates, blocks=_BLOCKS, top_k=top_k)
    RECORDER.clear()
    shard: Any = partial(DeviceShard, device=torch.device("cuda", 0))
    got, device_lists = rank(
        benchmark, questions, candidates, blocks=_BLOCKS, top_k=top_k, threads=2, make_shard=shard
    )
    different = [name for name in _RANKS if not np.array_equal(getattr(got, name), getattr(want, name))]
    for name in ("rows", "scores") if lists is not None else ():
        if not np.array_equal(getattr(lists, name), getattr(device_lists, name)):
            different.append(f"top {name}")
    return different


def ranks() -> dict[str, Any]:
    """Rank on both devices, without and with lists, and with faults."""
    result: dict[str, Any] = {}
    for name, top_k, kind in (
        ("counts", 0, "mass ties"),
        ("lists", 20, "mass ties"),
        ("floats", 20, "float16"),
    ):
        result[name] = {"different": _differences(top_k, kind), "waits": _waits()}
    faults = {
        "ids in another order": (
            "device_keys",
            lambda s, ids, real=device_shard.device_keys: real(s, ids.flip(0)),
        ),
        "a tensor stays on the CPU": ("move", lambda tensor, device: tensor),
    }
    for fault, (name, replacement) in faults.items():
        before = getattr(device_shard, name)
        setattr(device_shard, name, replacement)
        try:
            result[fault] = ", ".join(_differences(20, "mass ties"))
        except RuntimeError as error:
            result[fault] = str(error)
        setattr(device_shard, name, before)
    return result


def whole_evaluation() -> dict[str, Any]:
    """Evaluate through the entry point, on the grid of each device."""
    benchmark = make(num_ids=40, per_language=300)
    questions = embeddings("float16", benchmark.num_questions, 1)
    candidates = embeddings("float16", benchmark.num_candidates, 2)
    on_cpu, on_gpu = (
        evaluate(benchmark, questions, candidates, settings=EvaluationSettings(device=device, num_shards=2))
        for device in ("cpu", "auto")
    )
    return {
        "means": on_cpu.means == on_gpu.means,
        "bias": str(on_cpu.bias) == str(on_gpu.bias),
        "consistency": str(on_cpu.consistency) == str(on_gpu.consistency),
        "lists": bool((on_cpu.top.rows == on_gpu.top.rows).all()),  # type: ignore[union-attr]
    }


def _encode(loaded: LoadedEncoder, device: str, **settings: Any) -> Any:
    chosen = EvaluationSettings(device=device, max_tokens_per_batch=300, rows_per_file=110, **settings)
    texts = [f"candidate {'fi ' * (i * 7 % 40)}{i}" for i in range(220)]
    return encode_texts(loaded, texts, "passage", settings=chosen, progress=False)


def encoding() -> dict[str, Any]:
    """Encode on both devices, in memory and into files, in both precisions."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        loaded = load_encoder(save_tiny_model(folder / "tiny"))
        want = _encode(loaded, "cpu", dtype="float32")
        low_on_cpu = _encode(loaded, "cpu", dtype="bfloat16")
        _encode(loaded, "cuda", dtype="float32")  # uploads the weights
        RECORDER.clear()
        got = _encode(loaded, "cuda", dtype="float32")
        waits, lines = _waits(), RECORDER.lines()
        files = _encode(loaded, "cuda", dtype="float32", cache_dir=str(folder / "cache"))[:]
        low = _encode(loaded, "auto")
        real_move, encode.move = encode.move, lambda tensor, device: tensor
        try:
            fault = str(_encode(loaded, "cuda", dtype="float32").shape)
        except RuntimeError as error:
            fault = str(error)
        encode.move = real_move
    return {
        "difference": float(np.abs(got - want).max()),
        "files": bool(np.array_equal(files, got)),
        "waits": waits,
        "lines": lines,
        "bfloat16": [float(np.abs(vectors - want).max()) for vectors in (low, low_on_cpu)],
        "resolved": with_arithmetic(EvaluationSettings()).dtype,
        "cudnn": torch_device("auto").type == "cuda" and torch.backends.cuda.cudnn_sdp_enabled(),
        "fault": fault,
    }

"""Build an encoder with random weights, random texts, an engine and their device."""

from __future__ import annotations

import gc
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.engine import PlainEngine, TrainedModel
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed
from hbt_dist.training.settings import OptimizerSettings

Precision = Literal["fp32", "bf16_autocast"]
Size = dict[str, int]  # of the architecture, in the names of its configuration


class MeanEncoder(nn.Module):
    """XLM-R architecture with random weights and mean pooling."""

    def __init__(self, dropout: float = 0.1, **size: int) -> None:
        super().__init__()
        from transformers import XLMRobertaConfig, XLMRobertaModel

        config = XLMRobertaConfig(
            **size,
            intermediate_size=4 * size["hidden_size"],
            max_position_embeddings=514,
            type_vocab_size=1,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )
        self.backbone = XLMRobertaModel(config, add_pooling_layer=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, T) -> (n, D)."""
        hidden = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)


class Tokens:
    """Random texts; lengths vary by a quarter around their mean unless `fixed`."""

    def __init__(self, count: int, length: int, vocabulary: int, seed: int, *, fixed: bool) -> None:
        generator = np.random.default_rng(seed)
        low, high = (length, length) if fixed else (max(2, length * 3 // 4), length)
        self.lengths = generator.integers(low, high + 1, count)
        self._ids = generator.integers(4, vocabulary, (count, length))

    def pad(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Token ids and mask of some rows."""
        lengths = self.lengths[rows]
        mask = np.arange(lengths.max())[None, :] < lengths[:, None]
        ids = np.where(mask, self._ids[rows][:, : lengths.max()], 1)
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def batch_of(
    rows: int, vocabulary: int, lengths: tuple[int, int], *, num_negatives: int = 0, fixed: bool = False
) -> Any:
    """One process's whole global batch."""
    every, columns = np.arange(rows), np.arange(rows * (1 + num_negatives))
    return SimpleNamespace(
        batch=SimpleNamespace(
            step=0, kind="random", example=every, question_language=every, passage_language=every
        ),
        rank=0,
        world_size=1,
        questions=Tokens(rows, lengths[0], vocabulary, 1, fixed=fixed),
        passages=Tokens(len(columns), lengths[1], vocabulary, 2, fixed=fixed),
        passage_group_N=columns,
        sub_batch_B=np.zeros_like(every),
        sub_batch_N=np.zeros_like(columns),
    )


class Device:
    """Memory and time on a GPU, or on the CPU where memory is not measured."""

    def __init__(self, name: str) -> None:
        self.torch = torch.device(name)
        self.cuda = name.startswith("cuda")

    def sync(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def reset(self) -> int:
        """Forget the peak; returns the bytes in use."""
        gc.collect()
        if not self.cuda:
            return 0
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()

    def peak(self) -> int | None:
        """Highest bytes in use since `reset`."""
        return torch.cuda.max_memory_allocated() if self.cuda else None

    def facts(self) -> dict[str, Any]:
        """What was measured on."""
        facts: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
        if self.cuda:
            properties = torch.cuda.get_device_properties(self.torch)
            facts |= {"device": properties.name, "memory_gb": round(properties.total_memory / 1e9, 1)}
        return facts | {"device_type": self.torch.type}


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error reports full memory; the matrix library uses a different message."""
    return isinstance(error, torch.OutOfMemoryError) or any(
        words in str(error) for words in ("out of memory", "ALLOC_FAILED")
    )


def engine_of(device: Device, precision: Precision, size: Size, dropout: float) -> PlainEngine:
    """A plain engine around a fresh encoder with the same weights every time."""
    torch.manual_seed(0)
    with device.torch:  # half a billion random numbers take the CPU many seconds
        model = TrainedModel(MeanEncoder(dropout, **size)).train()
    world = World.alone(device.torch)
    settings = OptimizerSettings()
    resolved = ResolvedDeepSpeed(precision=precision)
    return PlainEngine(model, optimizer=settings, total_steps=100, world=world, resolved=resolved)

"""Build an encoder with random weights, random texts, and an engine around them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu.sizes import Size
from hbt_dist.contrastive.world import World
from hbt_dist.models.attention import use_row_attention
from hbt_dist.models.encoder import Encoder
from hbt_dist.models.settings import TextSettings
from hbt_dist.training.deepspeed.engine import Engine, build_engine
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed
from hbt_dist.training.settings import OptimizerSettings

Precision = Literal["fp32", "bf16_autocast"]


def encoder_of(
    size: Size, dropout: float, device: torch.device | str, *, attention_dropout: float | None = None
) -> Encoder:
    """Return the package's encoder around an XLM-R of this size with random weights, made on the device.

    Args:
        size: of the architecture.
        dropout: of hidden states, and of attention unless that is given.
        device: where the weights are drawn; half a billion random numbers take a CPU many seconds.
        attention_dropout: of the attention weights; without it, rows are packed on GPUs.
    """
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config = XLMRobertaConfig(
        **size,
        intermediate_size=4 * size["hidden_size"],
        max_position_embeddings=514,
        type_vocab_size=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout if attention_dropout is None else attention_dropout,
    )
    with torch.device(device):
        backbone = XLMRobertaModel(config, add_pooling_layer=False)
    use_row_attention(backbone)
    return Encoder(backbone, TextSettings(normalize=False)).train()


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


def engine_of(
    device: torch.device,
    size: Size,
    dropout: float,
    deepspeed: ResolvedDeepSpeed,
    encoder: nn.Module | None = None,
) -> Engine:
    """Return the package's engine around a fresh encoder with the same weights every time."""
    torch.manual_seed(0)
    engine = build_engine(
        encoder or encoder_of(size, dropout, device),
        optimizer=OptimizerSettings(gradient_clipping=1.0),
        total_steps=100,
        world=World.alone(device),
        deepspeed=deepspeed,
    )
    engine.train()
    return engine

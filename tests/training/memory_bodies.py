"""What every rank runs in tests/training/test_memory.py: count the bytes that a real engine holds."""

from __future__ import annotations

import gc
from typing import Any

import torch
from torch import nn

from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.engine import build_engine
from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, resolve_deepspeed
from hbt_dist.training.settings import OptimizerSettings

#: Buckets of 1,000 elements that are not allocated at once: what is left are states.
SMALL = {"reduce_bucket_size": 1000, "allgather_bucket_size": 1000, "contiguous_gradients": False}
SMALL_3 = {"reduce_bucket_size": 1000, "contiguous_gradients": False}


def config_of(stage: int | None, kind: str, **zero: Any) -> dict[str, Any] | None:
    """Return a DeepSpeed configuration of a stage in fp32, bf16 or fp16."""
    if stage is None:
        return None
    small = {} if stage == 0 else SMALL_3 if stage == 3 else SMALL
    config: dict[str, Any] = {
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": stage, **small, **zero},
    }
    if kind != "fp32":
        config |= {kind: {"enabled": True}, "communication_data_type": "fp32"}
    if kind == "bf16":
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


class Tiny(nn.Module):
    """A real BERT; with `frozen` only its attention is trained."""

    def __init__(self, frozen: bool) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        config = BertConfig(
            vocab_size=300,
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
        )
        self.backbone = BertModel(config, add_pooling_layer=False)
        for name, parameter in self.named_parameters():
            parameter.requires_grad = not frozen or "attention" in name

    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(n, T) -> (n, D)."""
        return self.backbone(input_ids=input_ids, attention_mask=mask).last_hidden_state[:, 0]


def tensors() -> list[torch.Tensor]:
    """Return all tensors of this process."""
    gc.collect()
    return [item for item in gc.get_objects() if isinstance(item, torch.Tensor) and not item.is_meta]


def bytes_of(items: list[torch.Tensor], known: list[torch.Tensor]) -> int:
    """Return the bytes of some tensors, shared memory once, without the memory of known tensors."""
    storages = {item.untyped_storage()._cdata: item.untyped_storage().nbytes() for item in items}
    return sum(storages.values()) - sum(
        storages.get(key, 0) for key in {item.untyped_storage()._cdata for item in known}
    )


def count_states(world: World, configs: dict[str, Any], frozen: bool) -> dict[str, dict[str, Any]]:
    """Return for each configuration: sizes of parameters, and bytes while the chunks of a step add up."""
    return {name: _count(world, config, frozen) for name, config in configs.items()}


def _count(world: World, config: dict[str, Any] | None, frozen: bool) -> dict[str, Any]:
    before = tensors()  # kept: memory of an engine that ends now must not look like that of this engine
    model = Tiny(frozen)
    sizes = [p.numel() for p in model.parameters()]
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    zero = {} if config is None else config["zero_optimization"]
    engine = build_engine(
        model,
        optimizer=OptimizerSettings(),
        total_steps=5,
        world=world,
        deepspeed=resolve_deepspeed(DeepSpeedSettings(config=config), device_type="cpu"),
        # ZeRO-3 in float32 would add up whole gradients, as they fit.
        grad_reduction="boundary" if zero.get("stage") == 3 else "auto",
    )
    engine.train()
    input_ids = torch.randint(5, 300, (4, 8))
    inputs = input_ids, torch.ones_like(input_ids)
    held = []

    def chunk() -> torch.Tensor:
        gradients = [parameter.grad for parameter in model.parameters()]  # their wrappers are counted
        held.append(bytes_of(tensors(), [*before, *inputs, *model.buffers()]))
        del gradients
        return engine.encode(*inputs)[0].float().sum()

    for step in range(2):
        engine.accumulate([chunk, chunk])
        engine.step(step)
    return {"parameters": sum(sizes), "sizes": sizes, "trained": trained, "bytes": held[-1]}

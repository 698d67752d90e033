"""Resolve the DeepSpeed configuration of a run; refuse keys that contradict the run file.

Each refused key would be a silent fault: `gradient_accumulation_steps` above 1 scales cached gradients
down, a missing `gradient_clipping` clips at 1.0, fp16 without ZeRO never scales the loss, ``"auto"`` belongs
to the Hugging Face Trainer, an `optimizer` block would be ignored.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hbt_dist.common.errors import UserError
from hbt_dist.config.settings import Settings

_REFUSED = {
    # Removed from DeepSpeed 0.19, github.com/deepspeedai/DeepSpeed/issues/8489.
    "elasticity": "elastic training has been removed; a resumed run may have another number of processes",
    "nebula": "Nebula has been removed; the run file's checkpoint block decides",
    "compression_training": "the compression library has been removed",
    "amp": "Apex has been removed; use torch_autocast or bf16",
    "quantize_training": "quantised training has been removed",
    "eigenvalue": "it has been removed",
    "sparse_attention": "it has been removed",
    "sparse_gradients": "it has been removed",
    "graph_harvesting": "it has been removed",
    "curriculum_learning": "it has been removed; the run file's batch plan decides the order",
    "progressive_layer_drop": "it has been removed",
    # Decided elsewhere.
    "optimizer": "the run file's optimizer block decides; remove it here",
    "scheduler": "the run file's optimizer block holds the schedule; remove it here",
    "train_batch_size": "the run file's global_batch_size decides; remove it here",
    "data_efficiency": "the run file's batch plan decides the order; remove it here",
    "gradient_allreduce_op": "gradients are averaged over ranks, the loss counts on it; remove it here",
    "gradient_predivide_factor": "gradients are averaged over ranks as they are; remove it here",
    "managed_gradient_accumulation": "the step marks its own boundaries; remove it here",
}
_BFLOAT16 = ("bfloat16", "bf16", "torch.bfloat16")  # as DeepSpeed reads it


Precision = Literal["fp32", "bf16_autocast", "bf16_copy"]


class DeepSpeedSettings(Settings):
    """Which engine trains."""

    config: str | int | dict[str, Any] | None = Field(
        1,
        description="ZeRO stage (0 to 3), a name from deepspeed_configs/ (such as zero2), the path of a "
        "DeepSpeed JSON file, or its content; null: plain PyTorch without DeepSpeed",
    )
    precision: Precision = Field(
        "fp32",
        description="precision of plain PyTorch; with DeepSpeed its file decides. bf16_copy, also with ZeRO "
        "0 to 2 in float32: weights and gradients in float32, computed with a copy of the weights in bf16, "
        "which is made once per step",
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass: about a third more time, less memory"
    )


def shipped_configs() -> list[str]:
    """Return the names of the configurations that come with the package."""
    folder = _shipped_folder()
    return sorted(p.name.removesuffix(".json") for p in folder.iterdir() if p.name.endswith(".json"))


def _shipped_folder() -> Any:
    # In the repository a link to the folder deepspeed_configs/ next to the package; in a wheel a folder.
    return resources.files("hbt_dist") / "deepspeed_configs"


@dataclass(frozen=True)
class ResolvedDeepSpeed:
    """How the engine of a start computes: the `deepspeed` block with the content of the file that it names.

    Attributes:
        config: DeepSpeed's configuration, checked and complete; None: plain PyTorch.
        precision: of plain PyTorch; bf16_copy: of DeepSpeed too.
        gradient_checkpointing: recompute activations in the backward pass.
    """

    config: dict[str, Any] | None = None
    precision: Precision = "fp32"
    gradient_checkpointing: bool = False

    @property
    def zero(self) -> dict[str, Any]:
        """The block `zero_optimization`; empty for plain PyTorch."""
        return {} if self.config is None else dict(self.config["zero_optimization"])

    @property
    def zero_stage(self) -> int:
        """ZeRO stage, 0 for plain PyTorch."""
        return int(self.zero.get("stage", 0))

    def enables(self, *blocks: str) -> bool:
        """Return whether one of these blocks of the configuration, such as ``bf16``, is enabled."""
        return any((self.config or {}).get(block, {}).get("enabled", False) for block in blocks)

    def offloads(self, what: Literal["optimizer", "param"]) -> bool:
        """Return whether optimizer states or weights are in host memory."""
        return bool(self.zero.get(f"offload_{what}", {}).get("device", "none") == "cpu")

    @property
    def scales_loss(self) -> bool:
        """Whether an overflow skips a step: fp16."""
        return self.enables("fp16")

    @property
    def computes_in_bf16(self) -> bool:
        """Whether weights or activations are in bf16."""
        if self.config is None:
            return self.precision != "fp32"
        return self.precision == "bf16_copy" or self.enables("bf16", "torch_autocast")

    @property
    def low_precision(self) -> bool:
        """Whether anything is computed in bf16 or fp16."""
        return self.computes_in_bf16 or self.scales_loss


def resolve_deepspeed(
    settings: DeepSpeedSettings, *, gradient_clipping: float | None = None, device_type: str = "cuda"
) -> ResolvedDeepSpeed:
    """Read and check the configuration that a run trains with; once per start.

    Args:
        settings: the `deepspeed` block of the run file.
        gradient_clipping: replaces the file's value if given.
        device_type: with a bare stage on a ``cpu`` autocast is left out; bf16 is emulated there.

    Raises:
        UserError: naming the file and the key.
    """
    source = settings.config
    config = None if source is None else _resolve_config(source, gradient_clipping, device_type)
    resolved = ResolvedDeepSpeed(config, settings.precision, settings.gradient_checkpointing)
    if settings.precision == "bf16_copy":
        if isinstance(source, int) and config is not None:
            config.pop("torch_autocast", None)
        _check_copy(resolved)
    return resolved


def _check_copy(resolved: ResolvedDeepSpeed) -> None:
    location = "deepspeed.precision"
    if resolved.zero_stage == 3:
        raise UserError(
            location,
            "expected ZeRO stage 0 to 2 with bf16_copy, got 3, which never holds all weights at once",
            "set it to fp32, and use a DeepSpeed file with bf16",
        )
    if resolved.enables("bf16", "fp16", "torch_autocast"):
        raise UserError(
            location,
            "expected a DeepSpeed file in float32 with bf16_copy, got one with bf16, fp16 or torch_autocast",
            "set it to fp32, or deepspeed.config to 0, 1 or 2",
        )
    if resolved.gradient_checkpointing:
        raise UserError(
            location,
            "bf16_copy cannot compute activations again, as deepspeed.gradient_checkpointing does",
            "set one of the two; chunks bound the activations already (step.chunk_tokens)",
        )


def _resolve_config(
    source: str | int | dict[str, Any], gradient_clipping: float | None, device_type: str
) -> dict[str, Any]:
    if isinstance(source, dict):
        location, config = "DeepSpeed configuration", copy.deepcopy(source)
    elif isinstance(source, int) or str(source) in ("0", "1", "2", "3"):
        location, config = _read_shipped(f"zero{int(source)}")
        if device_type == "cpu":
            del config["torch_autocast"]
    elif "/" in str(source) or str(source).endswith(".json"):
        location, config = _read(Path(str(source)))
    else:
        location, config = _read_shipped(str(source))
    if gradient_clipping is not None:
        config["gradient_clipping"] = gradient_clipping
    _check(config, location)
    defaults: dict[str, Any] = {
        "gradient_accumulation_steps": 1,
        "train_micro_batch_size_per_gpu": 1,  # DeepSpeed wants a number; only its throughput log reads it
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1_000_000_000,
        # DeepSpeed's default would wait for the GPU in every forward: twice per chunk of a step.
        "timers": {"throughput": {"enabled": False, "synchronized": False}},
        "zero_optimization": {"stage": 0},
    }
    if "offload_optimizer" in config.get("zero_optimization", {}):
        # Our AdamW is torch's; DeepSpeed's own would be compiled on the machine at the start.
        defaults["zero_force_ds_cpu_optimizer"] = False
    return defaults | config


def _read_shipped(name: str) -> tuple[str, dict[str, Any]]:
    if name not in shipped_configs():
        raise UserError(
            f"DeepSpeed configuration {name!r}",
            "does not exist",
            f"one of {', '.join(shipped_configs())}, a ZeRO stage 0 to 3, or the path of a JSON file",
        )
    file = _shipped_folder() / f"{name}.json"
    return f"deepspeed_configs/{name}.json", json.loads(file.read_text(encoding="utf-8"))


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        problem = None if isinstance(content, dict) else "is not a JSON object"
    except OSError as error:
        problem = f"cannot be read ({error.strerror})"
    except ValueError as error:  # not JSON, or not UTF-8
        problem = f"is not JSON ({error})"
    if problem is not None:
        raise UserError(str(path), problem, "a DeepSpeed JSON file")
    return str(path), content


def _check(config: dict[str, Any], location: str) -> None:
    for key in ("zero_optimization", "bf16", "fp16", "torch_autocast", "data_types"):
        if not isinstance(config.get(key, {}), dict):
            raise UserError(f"{location}, {key}", f"is {config[key]!r}", "an object, {...}")
    for is_wrong, key, problem, remedy in _rules(config):
        if is_wrong:
            raise UserError(f"{location}, {key}", problem, remedy)


def _rules(config: dict[str, Any]) -> list[tuple[bool, str, str, str]]:
    """Return whether a rule is broken, its key, the problem and the remedy, for all rules."""
    zero, autocast = config.get("zero_optimization", {}), config.get("torch_autocast", {})
    stage, dtype = zero.get("stage", 0), autocast.get("dtype")
    steps = config.get("gradient_accumulation_steps", 1)
    enabled = {key for key in ("bf16", "fp16", "torch_autocast") if config.get(key, {}).get("enabled")}
    only_trainer = '"auto" is filled in by the Hugging Face Trainer only'
    not_stage_0 = "use stage 1 or higher, or torch_autocast with dtype bfloat16"
    return [
        *((key in config, key, "cannot be set", reason) for key, reason in _REFUSED.items()),
        *((True, key, only_trainer, "write the value") for key in _auto_keys(config)),
        *(
            (
                key.startswith("mics_") or key == "zeropp_loco_param",
                f"zero_optimization.{key}",
                "cannot be set",
                "it has been removed",
            )
            for key in zero
        ),
        (
            bool(config.get("zero_force_ds_cpu_optimizer")),
            "zero_force_ds_cpu_optimizer",
            "is true",
            "remove it: the optimizer is torch's, fused",
        ),
        (
            steps != 1,
            "gradient_accumulation_steps",
            f"is {steps}",
            "it must be 1: the step calls backward once per chunk, and DeepSpeed would divide each by this\n"
            "number. For more rows per step raise batches.global_batch_size: a chunk takes the same memory",
        ),
        (
            "gradient_clipping" not in config,
            "gradient_clipping",
            "is missing",
            "write it, 0 for no clipping: DeepSpeed would silently clip at 1.0",
        ),
        (stage not in (0, 1, 2, 3), "zero_optimization.stage", f"is {stage!r}", "0, 1, 2 or 3"),
        (
            "bf16" in enabled and stage == 0,
            "bf16",
            "with ZeRO stage 0 DeepSpeed takes its fp16 optimizer",
            not_stage_0,
        ),
        (
            "fp16" in enabled and stage == 0,
            "fp16",
            "with ZeRO stage 0 DeepSpeed divides gradients by a loss scale that it never multiplied by",
            not_stage_0,
        ),
        (
            "torch_autocast" in enabled and dtype not in _BFLOAT16,
            "torch_autocast.dtype",
            "is missing" if dtype is None else f"is {dtype!r}",
            "write bfloat16; float16 overflows without a loss scale",
        ),
    ]


def _auto_keys(node: Any, prefix: str = "") -> list[str]:
    if isinstance(node, dict):
        names = [(f"{prefix}.{name}".lstrip("."), value) for name, value in node.items()]
        return [key for name, value in names for key in _auto_keys(value, name)]
    return [prefix] if node == "auto" else []

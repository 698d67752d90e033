"""What every rank runs in tests/training/test_engine.py, and the same on one process without any engine."""

from __future__ import annotations

import functools
import pickle
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hbt_dist.contrastive.settings import Kernel, LossSettings
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.training.averaging import average_gradients
from hbt_dist.training.checkpoints.engine_state import gather_weights
from hbt_dist.training.deepspeed.engine import DeepSpeedEngine, Engine, TrainedModel, build_engine
from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, ResolvedDeepSpeed, resolve_deepspeed
from hbt_dist.training.optimizer import learning_rate
from hbt_dist.training.self_check import SelfCheck, self_check
from hbt_dist.training.settings import OptimizerSettings, PartSettings
from tests.contrastive.tiny import Case, build_encoder, locals_of, reference_loss, seed_of

OPTIMIZER = OptimizerSettings(
    learning_rate=1e-2,
    temperature_learning_rate=0.3,
    gradient_clipping=0.5,
    weight_decay=0.1,
    epsilon=1e-5,
    warmup_steps=1,
)
TOTAL_STEPS = 5


def deepspeed_settings(case: Case) -> ResolvedDeepSpeed:
    if case.stage is None:
        return ResolvedDeepSpeed(None, case.precision, case.checkpointing)  # type: ignore[arg-type]
    config: Any = {
        "gradient_clipping": 1.0,
        "zero_optimization": {"stage": case.stage, **case.deepspeed.get("zero", {})},
        **{key: value for key, value in case.deepspeed.items() if key != "zero"},
    }
    settings = DeepSpeedSettings(
        config=config, precision=case.precision, gradient_checkpointing=case.checkpointing
    )
    return resolve_deepspeed(settings, gradient_clipping=OPTIMIZER.gradient_clipping, device_type="cpu")


def gradients_of(engine: Engine) -> dict[str, Tensor]:
    named = [(name, p) for name, p in engine.model.named_parameters() if p.requires_grad]
    if isinstance(engine, DeepSpeedEngine):
        from deepspeed.utils import safe_get_full_grad

        scale = engine.deepspeed.optimizer.loss_scale if engine.scales_loss else 1.0
        return {name: safe_get_full_grad(p).detach().float().clone() / scale for name, p in named}
    return {name: p.grad.detach().clone() for name, p in named if p.grad is not None}


def parameters_of(engine: Engine) -> dict[str, Tensor]:
    named = [(name, p) for name, p in engine.model.named_parameters() if p.requires_grad]
    if isinstance(engine, DeepSpeedEngine) and engine.zero_stage > 0:
        from deepspeed.utils import safe_get_full_fp32_param

        return {name: safe_get_full_fp32_param(p).detach().clone() for name, p in named}
    return {name: p.detach().clone() for name, p in named}


def _let_deepspeed_take_fp16_on_any_cpu() -> None:
    """It asks whether the processor has instructions for it; torch computes it without them, only slower."""
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True


def run_case(
    world: World, case: Case, *, wrong_scale: float = 1.0, plain_backward: bool = False
) -> dict[str, Any]:
    """Train `case.steps` steps; losses, norms, first gradients, last parameters."""
    if "fp16" in case.deepspeed:
        _let_deepspeed_take_fp16_on_any_cpu()
    engine = build_engine(
        build_encoder(case),
        optimizer=OPTIMIZER.model_copy(update={"parts": PartSettings(**case.parts) if case.parts else None}),
        total_steps=TOTAL_STEPS,
        world=world,
        deepspeed=deepspeed_settings(case),
        loss=case.loss_settings,
        grad_reduction=case.step_settings.grad_reduction,
    )
    if wrong_scale != 1.0:
        accumulate = engine.accumulate
        engine.accumulate = lambda parts: accumulate([lambda p=p: p() * wrong_scale for p in parts])  # type: ignore[method-assign]
    if plain_backward:
        engine.accumulate = lambda parts: [engine.deepspeed.backward(p()) for p in parts]  # type: ignore[assignment, attr-defined, method-assign, return-value]
    engine.train()
    result: dict[str, Any] = {"loss": [], "norm": [], "results": []}
    for step in range(case.steps):
        torch.manual_seed(seed_of(step, world.rank))
        local = locals_of(case, world.size, step)[world.rank]
        figures = contrastive_step(engine, local, case.loss_settings, case.step_settings, world)
        if step == 0:
            result["gradients"] = gradients_of(engine)
        result["loss"].append(figures.loss)
        result["norm"].append(engine.step(step))
        result["results"].append(figures)
    result["parameters"] = parameters_of(engine)
    result["exported"] = gather_weights(engine)
    result["reduction"] = getattr(engine, "reduction", None)
    return result


def run_cases(world: World, cases: list[Case], **wrong: Any) -> list[dict[str, Any]]:
    results = []
    for case in cases:
        try:
            results.append(run_case(world, case, **wrong))
        except Exception as error:
            raise RuntimeError(f"{case}") from error
    # Gradients and parameters are the same on all ranks; one copy travels back.
    return results if world.rank == 0 else [{"loss": r["loss"], "norm": r["norm"]} for r in results]


@functools.cache
def _reference(key: bytes, world_size: int) -> dict[str, Any]:
    return _run_reference(pickle.loads(key), world_size)


def reference(case: Case, world_size: int) -> dict[str, Any]:
    """The same on one process; what only an engine knows is left out, so that engines share a reference."""
    model = case.model.removesuffix("-half")
    plain = case.but(stage=None, deepspeed={}, checkpointing=False, precision="fp32", model=model)
    return _reference(pickle.dumps(plain), world_size)


#: Factors of the parameters of `PARTS` by the beginning of their names, written by hand: two layers.
HAND_MADE = {
    "encoder.backbone.embeddings.word_embeddings.": 0.3 * 0.5**2,
    "encoder.backbone.embeddings.": 0.5**2,
    "encoder.backbone.encoder.layer.0.": 0.5,
    "encoder.backbone.encoder.layer.1.": 1.0,
    "encoder.dense.": 4.0,
}
PARTS = {"embedding_rate": 0.3, "layer_decay": 0.5, "head_rate": 4.0}
FROZEN = {**PARTS, "embedding_rate": 1.0, "freeze_embeddings": True}
FROZEN_LAYERS = {**PARTS, "embedding_rate": 1.0, "freeze_layers": 1}


def _factor(name: str, case: Case) -> float:
    """The factor of a parameter's learning rate; 0 if it is frozen."""
    if not case.parts or name.startswith("temperature"):
        return 1.0
    if case.parts.get("freeze_layers") and not name.startswith(
        ("encoder.backbone.encoder.layer.1.", "encoder.d")
    ):
        return 0.0
    prefix = next(prefix for prefix in HAND_MADE if name.startswith(prefix))
    if "word" in prefix and case.parts["embedding_rate"] == 1:
        return 0.0
    return HAND_MADE[prefix]


def _plain_optimizer(model: TrainedModel) -> torch.optim.AdamW:
    """Matrices decay, nothing else does."""
    decays = [(parameter.ndim > 1, parameter) for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(
        [{"params": [p], "weight_decay": OPTIMIZER.weight_decay if decay else 0.0} for decay, p in decays],
        betas=OPTIMIZER.betas,
        eps=OPTIMIZER.epsilon,
    )


def _run_reference(case: Case, world_size: int) -> dict[str, Any]:
    """Whole matrices, autograd, clip_grad_norm_, AdamW."""
    model = TrainedModel(build_encoder(case), case.loss_settings).train()
    factors = {parameter: _factor(name, case) for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and factors[parameter] > 0)
    optimizer = _plain_optimizer(model)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    result: dict[str, Any] = {"loss": [], "norm": []}
    for step in range(case.steps):
        log_scale = None if model.temperature is None else model.temperature.log_scale
        loss = reference_loss(model.encoder, case, locals_of(case, world_size, step), step, log_scale)
        optimizer.zero_grad()
        loss.backward()
        if step == 0:
            result["gradients"] = {name: p.grad.clone() for name, p in named if p.grad is not None}
        parameters = [p for _, p in named]
        limit = OPTIMIZER.gradient_clipping or 0.0
        result["norm"].append(float(torch.nn.utils.clip_grad_norm_(parameters, limit)))
        for group in optimizer.param_groups:
            rate = learning_rate(step, TOTAL_STEPS, OPTIMIZER)
            of_temperature = any(p is log_scale for p in group["params"])
            group["lr"] = rate * 0.3 / 1e-2 if of_temperature else rate * factors[group["params"][0]]
        optimizer.step()
        result["loss"].append(loss.item())
    result["parameters"] = {name: p.detach().clone() for name, p in named}
    return result


def _dropout_of_cuda(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Its kernel gives each thread 16 bytes: the same seed drops other elements in bf16 than in float32."""
    del inplace
    if not training:
        return x
    numbers = torch.rand(x.numel() + 8).roll(-x.element_size())[: x.numel()]
    return x * (numbers.view(x.shape) >= p) / (1 - p)


def _resolved(config: Any) -> ResolvedDeepSpeed:
    return resolve_deepspeed(DeepSpeedSettings(config=config), gradient_clipping=1.0, device_type="cpu")


def self_checks(
    world: World, configs: list[Any], wrong_scale: float = 1.0, *, dropout_of_cuda: bool = False
) -> list[Any]:
    """`require_self_check` of each configuration: what it found, or its refusal."""
    if dropout_of_cuda:
        torch.nn.functional.dropout = _dropout_of_cuda
    from hbt_dist.common.errors import UserError
    from hbt_dist.training import self_check as selfcheck

    build = selfcheck.build_engine

    def build_wrong(*args: Any, **kwargs: Any) -> Engine:
        engine = build(*args, **kwargs)
        accumulate = engine.accumulate
        engine.accumulate = lambda parts: accumulate([lambda p=p: p() * wrong_scale for p in parts])  # type: ignore[method-assign, misc]
        return engine

    selfcheck.build_engine = build_wrong
    found: list[Any] = []
    for config in configs:
        try:
            found.append(selfcheck.require_self_check(world, _resolved(config)))
        except UserError as error:
            found.append(str(error))
    return found


def run_with_kernel(world: World, kernel: Kernel, cases: list[Case]) -> tuple[SelfCheck, list[Any]]:
    """The self-check with a kernel of the loss, then `run_cases`."""
    return self_check(world, loss=LossSettings(kernel=kernel)), run_cases(world, cases)


def group_limits(world: World, store: str, stage: int) -> list[float]:
    """Seconds after which DeepSpeed's own process group gives up, with 3,777 for the default group."""
    from deepspeed.utils import groups

    dist.destroy_process_group()
    where = f"file://{store}"
    dist.init_process_group(
        "gloo", init_method=where, rank=world.rank, world_size=world.size, timeout=timedelta(seconds=3777)
    )
    case = Case(stage=stage)
    build_engine(
        build_encoder(case),
        optimizer=OPTIMIZER,
        total_steps=TOTAL_STEPS,
        world=World(world.rank, world.size, world.device),
        deepspeed=deepspeed_settings(case),
        loss=case.loss_settings,
    )
    own, later = groups._get_data_parallel_group(), dist.new_group()
    assert own is not dist.group.WORLD
    return [group._get_backend(world.device).options._timeout.total_seconds() for group in (own, later)]


def whole_when_deepspeed_starts(world: World, case: Case) -> dict[str, Any]:
    """How many elements of the model DeepSpeed would move to the device whole, and in which precision."""
    import deepspeed

    initialize, seen = deepspeed.initialize, dict[str, Any]()

    def look_first(*args: Any, **kwargs: Any) -> Any:
        parameters = list(kwargs["model"].parameters())
        seen["whole"] = sum(p.numel() for p in parameters)
        seen["cut"] = sum(getattr(p, "ds_numel", 0) for p in parameters)
        seen["dtypes"] = {p.dtype for p in parameters}
        seen["groups"] = [len(group["params"]) for group in kwargs["optimizer"].param_groups]
        return initialize(*args, **kwargs)

    deepspeed.initialize = look_first
    build_engine(
        build_encoder(case),
        optimizer=OPTIMIZER,
        total_steps=TOTAL_STEPS,
        world=world,
        deepspeed=deepspeed_settings(case),
    )
    return seen


def waits_of_the_throughput_clock(world: World, timers: list[dict[str, Any]]) -> list[int]:
    """How often DeepSpeed waits for the device in 4 steps of several chunks, with each block `timers`."""
    from deepspeed.accelerator import get_accelerator

    waits = 0

    def wait(*_: Any) -> None:
        nonlocal waits
        waits += 1

    get_accelerator().synchronize = wait
    counts = []
    for block in timers:
        waits = 0
        run_case(world, Case(stage=1, steps=4, deepspeed=block))
        counts.append(waits)
    return counts


def gradient_means(world: World, bucket_elements: list[int], wrong_size: int = 0) -> list[dict[str, Any]]:
    """Mean gradients of a model with a missing gradient and a transposed one, and how they travelled."""
    messages: list[int] = []
    all_reduce = dist.all_reduce

    def count(tensor: Tensor, *given: Any, **named: Any) -> Any:
        messages.append(tensor.numel())
        return all_reduce(tensor, *given, **named)

    dist.all_reduce = count
    world = replace(world, size=wrong_size or world.size)
    results = []
    for most in bucket_elements:
        messages.clear()
        shapes = [(3, 4), (7,), (50, 2), (1,), (2, 2), (9,)]
        parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in shapes]
        generator = torch.Generator().manual_seed(world.rank)
        for parameter in parameters[:-1]:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        parameters[2].grad = torch.randn(2, 50, generator=generator).T
        if world.rank == 0:
            parameters[-1].grad = torch.ones(9)  # which the other ranks do not have
        before = [None if p.grad is None else p.grad.clone() for p in parameters]
        storages = [None if p.grad is None else p.grad.data_ptr() for p in parameters]
        average_gradients(parameters, world, most)
        after = [p.grad.clone() for p in parameters if p.grad is not None]
        kept = [p.grad.data_ptr() for p in parameters if p.grad is not None]
        in_place = all(old in (None, new) for old, new in zip(storages, kept, strict=True))
        results.append({"before": before, "after": after, "messages": [*messages], "in_place": in_place})
    return results


def frozen_weights(world: World) -> dict[str, dict[str, int]]:
    """Train adapters one step with every stage; count what the ranks hold of frozen and trained weights."""
    facts: dict[str, dict[str, int]] = {}
    for stage in (0, 1, 2, 3):
        case = Case(stage=stage, model="lora", steps=1)
        engine = build_engine(
            build_encoder(case),
            optimizer=OPTIMIZER,
            total_steps=TOTAL_STEPS,
            world=world,
            deepspeed=deepspeed_settings(case),
            loss=case.loss_settings,
        )
        assert isinstance(engine, DeepSpeedEngine)
        engine.train()
        local = locals_of(case, world.size, 0)[world.rank]
        contrastive_step(engine, local, case.loss_settings, case.step_settings, world)
        frozen = [p for p in engine.model.parameters() if not p.requires_grad]
        gradients = sum(p.grad is not None for p in frozen)
        engine.step(0)
        optimizer = getattr(engine.deepspeed.optimizer, "optimizer", engine.deepspeed.optimizer)
        states = [value for state in optimizer.state.values() for value in state.values()]
        named = dict(engine.model.named_parameters())
        facts[str(stage)] = {
            "gradients": gradients,
            "frozen": sum(_size(p) for p in frozen),
            "held": sum(int(getattr(p, "ds_tensor", p).numel()) for p in frozen),
            "number": len(frozen),
            "trained": sum(_size(p) for p in named.values() if p.requires_grad),
            "adapters": sum(_size(p) for name, p in named.items() if ".lora_" in name),
            "state": sum(int(value.numel()) for value in states if isinstance(value, Tensor)),
        }
    return facts


def _size(parameter: Tensor) -> int:
    return int(getattr(parameter, "ds_numel", parameter.numel()))

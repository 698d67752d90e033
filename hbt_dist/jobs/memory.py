"""Predict the memory of a training on each device from its run file and its model's configuration.

Nothing is loaded: parameters are those of a model on torch's meta device. Terms, with P parameters (T of them
trained), W workers, w bytes per weight (bf16 2, else 4):

    weights       w P, w P / W under ZeRO-3; under ZeRO-3 also small weights and the layers in use, whole
    states        gradients, float32 copies, moments of the T (`hbt_dist.training.memory`)
    buckets       buffers of DeepSpeed's messages
    activations   of one chunk (`hbt_dist.models.activations`), or of all with `step.mode: direct`
    embeddings    of the global batch with their gradients, and the scores of `loss.row_chunk` questions
    context       CUDA, NCCL and fragments: 1.5 GiB, a guess

Hosts hold the weights once per rank at the start.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.chunks import DEFAULT_ROWS, default_tokens
from hbt_dist.models.activations import AUTOCAST, BFLOAT16, FLOAT32, Adapters, Numbers, Shape
from hbt_dist.models.folders import recorded_text
from hbt_dist.models.settings import TextSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed, resolve_deepspeed
from hbt_dist.training.memory import (
    bucket_bytes,
    count_states,
    gathered_bytes,
    small_weight_bytes,
    weight_bytes,
)

GIB = 2**30
_CONTEXT = 1.5 * GIB
_RANKS_PER_NODE = 8
_ROUND = 1024  # tokens


@dataclass(frozen=True)
class Model:
    """What the prediction reads of a model: its configuration and the size of each parameter."""

    config: Any
    sizes: tuple[int, ...]
    trained: tuple[int, ...]
    adapters: Adapters | None

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(self.sizes)


@dataclass(frozen=True)
class Term:
    """A part of the memory, with the formula that gave it."""

    name: str
    size: float  # bytes
    formula: str


@dataclass(frozen=True)
class Prediction:
    """The memory of a device, and of a host at the start."""

    model: Model
    workers: int
    on_gpu: bool
    terms: tuple[Term, ...]
    host: Term
    unknown: str | None  # what no formula covers

    @property
    def total(self) -> float:
        """Bytes on each device."""
        return sum(term.size for term in self.terms)


def meta_model(config: Any) -> nn.Module:
    """Return a model without memory or weights."""
    import torch._dynamo  # transformers' models import it, and torch 2.8 cannot on the device meta
    from transformers import AutoModel

    with torch.device("meta"):
        model: nn.Module = AutoModel.from_config(config)
    return model


def describe_memory(run: RunFile, gpu_bytes: float) -> str:
    """Return the prediction as lines, and what to change if it does not fit.

    Args:
        run: the run file.
        gpu_bytes: memory of a GPU.

    Raises:
        UserError: the model's configuration cannot be read, or `model` or `deepspeed` cannot be used.
    """
    model = read_model(run)
    prediction = predict(run, model, gpu_bytes)
    device = "GPUs" if prediction.on_gpu else "workers"
    trained = sum(model.trained)
    lines = [
        f"predicted memory on each of {prediction.workers} {device}; {model.config.model_type}, "
        f"{model.parameters:,} parameters, {trained:,} trained"
    ]
    lines += [_line(term) for term in prediction.terms]
    capacity = f"of {gpu_bytes / GIB:.1f} GiB" if prediction.on_gpu else ""
    lines.append(_line(Term("sum", prediction.total, capacity)))
    lines.append(_line(prediction.host))
    if prediction.unknown:
        lines.append(f"  not in the sum: {prediction.unknown}")
    if prediction.on_gpu and prediction.total > gpu_bytes:
        lines.append(f"  does not fit: {_remedy(run, model, gpu_bytes)}")
    return "\n".join(lines)


def _line(term: Term) -> str:
    return f"  {term.name:<22} {term.size / GIB:9.3f} GiB  {term.formula}".rstrip()


def read_model(run: RunFile) -> Model:
    """Read a configuration and count the parameters, without weights.

    Raises:
        UserError: no configuration, or a target of the adapters that is not a linear layer.
    """
    config = _config(run)
    model = meta_model(config)
    pooler = [name for name, _ in model.named_parameters() if name.startswith("pooler.")]
    sizes = tuple(p.numel() for name, p in model.named_parameters() if name not in pooler)
    lora = run.model.lora
    if lora is None:
        return Model(config, sizes, sizes, None)
    layers = [(name.rpartition(".")[2], m) for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    names = sorted({name for name, _ in layers})
    targets = lora.targets or names
    if unknown := [target for target in targets if target not in names]:
        raise UserError(
            "model.lora.targets",
            f"expected linear layers of the model, got {unknown[0]!r}",
            f"choose among {', '.join(names)}; or remove the key to adapt all of them",
        )
    adapted = [layer for name, layer in layers if name in targets]
    trained = tuple(
        lora.rank * width for layer in adapted for width in (layer.in_features, layer.out_features)
    )
    return Model(config, sizes + trained, trained, Adapters(lora.rank, lora.dropout, targets))


def _config(run: RunFile) -> Any:
    from transformers import AutoConfig

    if run.model.scratch is not None:
        scratch = run.model.scratch
        return AutoConfig.for_model(**{"vocab_size": scratch.vocabulary_size, **scratch.architecture})
    name = str(run.model.name_or_path)
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"model.name_or_path {name}",
            "expected a model with a readable config.json, got none",
            "give a folder with the model's config.json (weights are not needed), or connect to the hub",
        ) from error


def predict(run: RunFile, model: Model, gpu_bytes: float) -> Prediction:
    """Predict the memory of each device.

    Args:
        run: the run file.
        model: of this run, see `read_model`.
        gpu_bytes: memory of a GPU, which decides the default size of a chunk.
    """
    on_gpu = run.workers.use_gpu is not False
    deepspeed = resolve_deepspeed(
        run.deepspeed,
        gradient_clipping=run.optimizer.gradient_clipping,
        device_type="cuda" if on_gpu else "cpu",
    )
    terms = [*_state_terms(deepspeed, model, run.workers.num_workers)]
    whole = 4.0 * sum(model.trained)
    sums = run.step.grad_reduction == "coalesce" or (
        run.step.grad_reduction == "auto" and 4 * whole <= gpu_bytes
    )
    if deepspeed.zero_stage == 3 and weight_bytes(deepspeed) == 4 and sums:
        terms.append(Term("whole gradients", whole, "4 bytes per trained weight, while chunks add up"))
    graph, unknown = _graph_terms(run, deepspeed, model, gpu_bytes if on_gpu else None)
    terms += [*graph, *_loss_terms(run, model)]
    if on_gpu:
        terms.append(Term("context", _CONTEXT, "CUDA, NCCL and fragments, a guess"))
    return Prediction(
        model, run.workers.num_workers, on_gpu, tuple(terms), _host(run, deepspeed, model), unknown
    )


def _state_terms(deepspeed: ResolvedDeepSpeed, model: Model, workers: int) -> Iterator[Term]:
    stage, w, trained = deepspeed.zero_stage, weight_bytes(deepspeed), sum(model.trained)
    states = count_states(deepspeed, model.parameters, workers, trained)
    shared = f" / {workers} workers"
    weights = f"{w} bytes x {model.parameters:,}{shared if stage == 3 else ', whole'}"
    yield Term("weights", states.weights, weights if states.weights else "in host memory")
    if stage == 3:
        most = gathered_bytes(deepspeed, model.parameters)
        yield Term("layers in use", most, f"{w} bytes x {most // w:,} (stage3_max_live_parameters)")
        small = small_weight_bytes(deepspeed, model.sizes)
        yield Term("small weights", small, f"{w} bytes x {small // w:,}, whole")
    if deepspeed.precision == "bf16_copy":
        yield Term("copy of the weights", 2.0 * model.parameters, f"2 bytes x {model.parameters:,}")
    for name, size in (
        ("gradients", states.gradients),
        ("float32 weights", states.masters),
        ("AdamW's moments", states.moments),
    ):
        if size:
            rate = size / trained
            is_shared = stage > 0 and rate * workers in (4, 8)
            bytes_each = f"{rate * workers if is_shared else rate:g} bytes x {trained:,} trained"
            yield Term(name, size, bytes_each + (shared if is_shared else ", whole"))
    if stage:
        yield Term("buckets", bucket_bytes(deepspeed, trained), "4 bytes x reduce and all-gather buckets")


def _numbers(deepspeed: ResolvedDeepSpeed) -> Numbers:
    if deepspeed.enables("bf16", "fp16") or deepspeed.precision == "bf16_copy":
        return BFLOAT16
    return AUTOCAST if deepspeed.computes_in_bf16 else FLOAT32


def _graph_terms(
    run: RunFile, deepspeed: ResolvedDeepSpeed, model: Model, gpu_bytes: float | None
) -> tuple[list[Term], str | None]:
    shape = Shape.of(model.config)
    if shape is None:
        return [], f"activations: there is no formula for model type {model.config.model_type}"
    text = resolved_text(run)
    longest = max(text.max_question_tokens, text.max_passage_tokens)
    tokens, why = _chunk_tokens(run, text, gpu_bytes)
    numbers, checkpointing = _numbers(deepspeed), deepspeed.gradient_checkpointing
    per_layer = shape.layer_bytes(numbers, longest, model.adapters)
    size = shape.graph_bytes(numbers, tokens, longest, checkpointing=checkpointing, adapters=model.adapters)
    kept = f"{shape.layers} layers x {per_layer / 1024:.1f} KiB per token"
    if checkpointing:
        stream = numbers.stream * shape.hidden / 1024
        kept = f"{shape.layers} layers x {stream:.1f} KiB + 1 layer x {per_layer / 1024:.1f} KiB per token"
    largest = weight_bytes(deepspeed) * max(model.trained)
    return [
        Term("activations", size, f"{tokens:,} tokens ({why}) x ({kept}), and both ends"),
        Term(
            "backward pass",
            shape.working_bytes(numbers, tokens) + largest,
            "gradients of one feed-forward layer, and of the largest trained matrix",
        ),
    ], None


def resolved_text(run: RunFile) -> TextSettings:
    """Return the text settings of the run, with those of its model folder."""
    folder = Path(str(run.model.name_or_path))
    recorded = recorded_text(folder) if folder.is_dir() else {}
    return TextSettings(**{**recorded, **run.model.text})


def _chunk_tokens(run: RunFile, text: TextSettings, gpu_bytes: float | None) -> tuple[int, str]:
    """Return the most tokens whose graph exists at once, and which setting decides."""
    rows = run.batches.global_batch_size // run.workers.num_workers
    passages = 1 + run.batches.hard_negatives.count
    lengths = text.max_question_tokens, text.max_passage_tokens
    whole = rows * (lengths[0] + passages * lengths[1])
    step = run.step
    if step.mode == "direct":
        return whole, "all of a worker: step.mode direct"
    tokens, why = step.chunk_tokens, "step.chunk_tokens"
    if tokens is None and step.chunk_rows is None and gpu_bytes is not None:
        tokens, why = default_tokens(int(gpu_bytes)), "the default of this GPU"
    kind = "cpu" if gpu_bytes is None else "cuda"
    most_rows = step.chunk_rows if isinstance(step.chunk_rows, int) else DEFAULT_ROWS[kind]
    by_rows = most_rows * max(lengths)
    if tokens is None or by_rows < tokens:
        tokens, why = by_rows, f"{most_rows:,} rows of {max(lengths):,}"
    if step.mode == "auto" and isinstance(step.kept_tokens, int):
        tokens, why = tokens + step.kept_tokens, f"{why} and step.kept_tokens"
    tokens = max(tokens, *lengths)
    return (whole, "all of a worker") if whole <= tokens else (tokens, why)


def _loss_terms(run: RunFile, model: Model) -> Iterator[Term]:
    batch, passages = run.batches.global_batch_size, 1 + run.batches.hard_negatives.count
    rows, width = batch // run.workers.num_workers, model.config.hidden_size
    columns = batch * passages
    gathered = columns + (batch if run.loss.gathers_questions else 0)
    local = rows * (1 + passages)
    yield Term(
        "embeddings",
        8.0 * width * (gathered + local),
        f"8 bytes x {width:,} x ({gathered:,} gathered + {local:,} local), with gradients",
    )
    scored = min(run.loss.row_chunk, rows)
    further = [passages if name == "passage_passage" else 1 for name in run.loss.denominators or ()]
    every = columns + batch * sum(further)  # columns of a row's partition function, in one buffer
    yield Term("scores", 12.0 * scored * every, f"3 x 4 bytes x {scored:,} rows x {every:,} columns")
    if (masks := run.loss.false_negatives) is not None:
        size = 7 if masks.guide is None else 11  # three masks, the largest mask as numbers, a guide's scores
        yield Term("masks", float(size) * scored * columns, f"{size} bytes x {scored:,} x {columns:,}")


def _host(run: RunFile, deepspeed: ResolvedDeepSpeed, model: Model) -> Term:
    """Return the memory of a node while its ranks read the weights."""
    ranks = min(run.workers.num_workers, _RANKS_PER_NODE)
    size = 2 if deepspeed.enables("bf16") else 4
    return Term(
        "host, at the start",
        float(size * model.parameters * ranks),
        f"{size} bytes x {model.parameters:,} x {ranks} workers of a node",
    )


def _remedy(run: RunFile, model: Model, gpu_bytes: float) -> str:
    """Return the overrides that make the prediction fit: one if one suffices, else the first few."""
    candidates = list(_candidates(run, model, gpu_bytes))
    tries = [[pair] for pair in candidates] + [candidates[: n + 1] for n in range(1, len(candidates))]
    for changes in tries:
        changed = _changed(run, dict(changes))
        if predict(changed, read_model(changed), gpu_bytes).total <= gpu_bytes:
            return "set " + " ".join(f"{key}={_plain(value)}" for key, value in changes)
    return "use more or larger GPUs, or deepspeed.config=zero3_offload"


def _plain(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "{}" if value == {} else str(value)


def _candidates(run: RunFile, model: Model, gpu_bytes: float) -> Iterator[tuple[str, Any]]:
    if not run.deepspeed.gradient_checkpointing and run.deepspeed.precision != "bf16_copy":
        yield "deepspeed.gradient_checkpointing", True
    text = resolved_text(run)
    tokens, _ = _chunk_tokens(run, text, gpu_bytes)
    longest = max(text.max_question_tokens, text.max_passage_tokens)
    if run.step.mode == "direct":
        yield "step.mode", "cached"
    fewer = max(longest, tokens // 4 // _ROUND * _ROUND)
    if fewer < tokens:
        yield "step.chunk_tokens", fewer
    for name in ("zero2_bf16", "zero3_bf16"):
        if run.deepspeed.config not in (name, "zero3_bf16", "zero3_offload"):
            yield "deepspeed.config", name
    if model.adapters is None:
        yield "model.lora", {}
    if run.deepspeed.config != "zero3_offload":
        yield "deepspeed.config", "zero3_offload"


def _changed(run: RunFile, changes: dict[str, Any]) -> RunFile:
    content = copy.deepcopy(run.plain())
    for key, value in changes.items():
        *parents, last = key.split(".")
        block = content
        for parent in parents:
            block = block[parent]
        block[last] = value
    return RunFile.model_validate(content)

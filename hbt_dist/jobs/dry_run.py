"""Estimate the cost of a training or a study without training: rows, steps, memory, GPU hours.

Counts rows of local data; names a data set of the hub without fetching it. Memory per worker and hours are
estimates:

    parameters    P of the backbone's configuration (built on torch's meta device: no memory, no weights)
    states        weights, gradients, optimizer (`hbt_dist.training.memory`)
    work          6 P' T floating-point operations for T tokens per step with P' parameters outside the
                  embeddings; 8 P' T with the cached step, whose forward pass runs twice; 2 P' T less with
                  frozen weights
    hours         work / (workers x `tflops` x 1e12), with the measured `tflops` of one GPU; none on a CPU,
                  because CPUs differ too much
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig

from hbt_dist.batching.epochs import epochs_by_kind, overdrawn_sources
from hbt_dist.batching.plan import check_divisible
from hbt_dist.common.console import counted
from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.jobs.memory import describe_memory, meta_model, read_model, resolved_text
from hbt_dist.methods.code_switching.switching import plan_batches
from hbt_dist.models.known_width import known_width
from hbt_dist.models.settings import ROLES, ModelSettings
from hbt_dist.orchestration.cluster import find_cluster
from hbt_dist.run_file import RunFile
from hbt_dist.study.study import Study
from hbt_dist.training.deepspeed.settings import resolve_deepspeed
from hbt_dist.training.memory import count_states
from hbt_dist.training.teacher_checks import check_target_language, check_teachers
from hbt_dist.training.teachers import units_of, unused_teachers
from hbt_dist.training.trackers import check_trackers

#: (parameters, parameters in embeddings) of common backbones, so that the estimate does not fetch them.
_KNOWN = {
    "intfloat/multilingual-e5-small": (117_653_760, 96_212_352),
    "FacebookAI/xlm-roberta-base": (278_043_648, 192_398_592),
    "FacebookAI/xlm-roberta-large": (559_890_432, 256_531_456),
    "sentence-transformers/LaBSE": (470_926_848, 385_281_792),
    "sentence-transformers/all-MiniLM-L6-v2": (22_713_216, 11_918_592),
}
#: bfloat16 TFLOP/s of encoders of this size on an A100, about 40 % of its 312.
REACHED_TFLOPS = 125.0


@dataclass(frozen=True)
class Estimate:
    """The cost of one training; None for an unknown number."""

    rows: str
    tokens: int  # upper bound: every text at its maximal length
    parameters: int | None = None
    state_gib: float | None = None  # per worker
    hours: float | None = None  # on GPUs


def describe_study(study: Study, tflops: float = REACHED_TFLOPS) -> str:
    """Return the study as lines: methods with their rows, steps, memory and hours, benchmarks, sums."""
    file = study.file
    lines = [
        f"{file.name}: {file.question}",
        f"{len(study.bases)} methods to train x {len(file.seeds)} seeds",
    ]
    estimates = {name: estimate(run, tflops) for name, run in study.runs.items()}
    lines += [_training_line(name, run, estimates[name]) for name, run in study.runs.items()]
    lines += [
        f"  {name}: the models of {method.trained_as}, evaluated differently"
        for name, method in file.methods.items()
        if method.trained_as is not None
    ]
    lines += [f"  benchmark {b.label}: {_benchmark_size(b)}" for b in file.all_benchmarks()]
    lines.append(f"{_sum_line(study, estimates, tflops)}; evaluation not counted; folder {file.output_dir}")
    return "\n".join(lines)


def _training_line(name: str, run: RunFile, cost: Estimate) -> str:
    size = (
        f"{run.training.steps:,} steps x {run.batches.global_batch_size} rows, at most "
        f"{_millions(cost.tokens)} tokens"
    )
    parameters = "unknown" if cost.parameters is None else f"{cost.parameters / 1e6:.1f} M"
    memory = "unknown" if cost.state_gib is None else f"{cost.state_gib:.2f} GiB"
    hours = "time unknown" if cost.hours is None else f"{_hours(cost.hours)} a seed"
    if _on_cpu(run):
        hours = "time on a CPU not estimated"
    return (
        f"  {name}: {cost.rows}; {size}; {parameters} parameters; states {memory} on each of "
        f"{run.workers.num_workers} workers; {hours}"
    )


def _sum_line(study: Study, estimates: dict[str, Estimate], tflops: float) -> str:
    """Sum all trainings: GPU hours, or tokens if a CPU trains."""
    seeds = len(study.file.seeds)
    if any(_on_cpu(run) for run in study.runs.values()):
        tokens = sum(cost.tokens for cost in estimates.values()) * seeds
        return (
            f"at most {_millions(tokens)} tokens of training on a CPU, whose time is not estimated: "
            "run one training of few steps and multiply"
        )
    hours = sum(
        (cost.hours or 0.0) * study.runs[name].workers.num_workers for name, cost in estimates.items()
    )
    return f"{_hours(hours * seeds, 'GPU hours')} of training at {tflops:.0f} TFLOP/s per GPU"


def _on_cpu(run: RunFile) -> bool:
    """Return whether certainly no GPU will train: by the run file, or on a cluster of this machine only."""
    alone = not torch.cuda.is_available() and find_cluster(run.workers) is None
    return run.workers.use_gpu is False or (run.workers.use_gpu == "auto" and alone)


def _hours(hours: float, unit: str = "h") -> str:
    return f"about {hours:.{1 if hours >= 10 else 2}f} {unit}" if hours >= 0.01 else f"less than 0.01 {unit}"


def _millions(number: int) -> str:
    return f"{number:,}" if number < 1_000_000 else f"{number / 1e6:,.1f} M"


def describe_training(run: RunFile, gpu_bytes: float, tflops: float = REACHED_TFLOPS) -> str:
    """Return one training as lines: rows, steps, tokens, hours, and the memory of each device.

    Args:
        run: the run file with absolute paths.
        gpu_bytes: memory of a GPU.
        tflops: measured bfloat16 TFLOP/s of one GPU.

    Raises:
        UserError: the model's configuration cannot be read, or settings contradict each other.
    """
    check_divisible(run.batches.global_batch_size, run.workers.num_workers)
    check_teachers(run)
    check_trackers(run.training.trackers)
    memory = describe_memory(run, gpu_bytes)
    line = _training_line(run.name, run, estimate(run, tflops)).strip()
    return "\n".join([line, *_plan_lines(run), *_vector_lines(run), memory])


def _plan_lines(run: RunFile) -> list[str]:
    """Return the epochs of each kind of batch, and sources that the batches overdraw; none for the hub."""
    from hbt_dist.data.corpus.convert import build_corpus

    if any(source.format == "hub" for source in run.data.sources):
        return []
    try:
        corpus = build_corpus(run.data, Path(run.data.cache_dir))
    except UserError as error:  # the memory of a run is asked for where its data are absent, too
        return [f"epochs unknown, the data cannot be read: {error.location}: {error.problem}"]
    plan = plan_batches(corpus, run.batches, run.seed)
    steps = run.training.steps
    return [*epochs_by_kind(plan, steps), *overdrawn_sources(plan, steps)]


def _vector_lines(run: RunFile) -> list[str]:
    """Return a line for the vectors of each frozen model, as if rows were drawn in all languages."""
    from hbt_dist.data.corpus.convert import build_corpus

    if not run.loss.teachers() or any(source.format == "hub" for source in run.data.sources):
        return unused_teachers(run)
    corpus = build_corpus(run.data, Path(run.data.cache_dir))
    texts = {role: FlatTexts(corpus, role) for role in ROLES}
    check_target_language(run, corpus)
    lines = []
    for name, units in units_of(run, corpus, corpus.languages).items():
        teacher = run.teachers[name]
        count = sum(len(texts[role].rows(language)) for role, language in units)
        width = teacher.text.get("width") or known_width(ModelSettings(name_or_path=teacher.name_or_path))
        size = "unknown width" if width is None else _size(count, width, teacher.storage)
        lines.append(
            f"teachers.{name}: vectors of at most {_millions(count)} texts before the first step, {size}"
        )
    return [*lines, *unused_teachers(run)]


def _size(count: int, width: int, storage: str) -> str:
    each = (2 if storage == "float16" else 4) * width
    return f"{each:,} bytes each, {count * each / 1e9:,.2f} GB in data.cache_dir"


def estimate(run: RunFile, tflops: float) -> Estimate:
    """Estimate the cost of one training."""
    text = resolved_text(run)
    passages = 1 + run.batches.hard_negatives.count
    tokens = run.batches.global_batch_size * (text.max_question_tokens + passages * text.max_passage_tokens)
    tokens *= run.training.steps
    counts = _parameters(run)
    if counts is None:
        return Estimate(_rows(run), tokens)
    whole, working = counts
    trained = whole
    if run.model.lora is not None:
        model = read_model(run)
        whole, trained = model.parameters, sum(model.trained)
    workers = run.workers.num_workers
    deepspeed = resolve_deepspeed(run.deepspeed, gradient_clipping=run.optimizer.gradient_clipping)
    # Frozen weights have no gradient: two operations less.
    work = ((8 if run.step.mode != "direct" else 6) - (2 if trained < whole else 0)) * working * tokens
    return Estimate(
        _rows(run),
        tokens,
        parameters=whole,
        state_gib=count_states(deepspeed, whole, workers, trained).total / 1024**3,
        hours=work / (workers * tflops * 1e12) / 3600,
    )


def _rows(run: RunFile) -> str:
    from hbt_dist.data.corpus.convert import build_corpus

    hub = [source.name for source in run.data.sources if source.format == "hub"]
    if hub:
        return f"rows of the hub ({', '.join(hub)}) not counted"
    try:
        corpus = build_corpus(run.data, Path(run.data.cache_dir))
    except UserError as error:
        return f"rows not counted ({error.location}: {error.problem})"
    return f"{corpus.num_examples:,} examples in {counted(len(corpus.languages), 'language')}"


def _parameters(run: RunFile) -> tuple[int, int] | None:
    """Return (all, outside the embeddings); None if the hub's configuration is not available."""
    if run.model.scratch is None:
        return _counted(str(run.model.name_or_path))
    described = {"vocab_size": run.model.scratch.vocabulary_size, **run.model.scratch.architecture}
    return _count(AutoConfig.for_model(**described))


@cache
def _counted(name: str) -> tuple[int, int] | None:
    if name in _KNOWN:
        whole, embeddings = _KNOWN[name]
        return whole, whole - embeddings
    try:
        return _count(AutoConfig.from_pretrained(name, trust_remote_code=False))
    except (OSError, ValueError):
        return None


def _count(config: Any) -> tuple[int, int]:
    model = meta_model(config)
    whole = sum(parameter.numel() for parameter in model.parameters())
    embeddings = sum(parameter.numel() for name, parameter in model.named_parameters() if "embed" in name)
    return whole, whole - embeddings


def _benchmark_size(benchmark: BenchmarkSettings) -> str:
    from hbt_dist.data.benchmarks.load import load

    try:
        data = load(benchmark)
    except UserError as error:
        return f"not available ({error.problem})"
    return (
        f"{counted(len(data.languages), 'language')}, {len(data.question_texts):,} questions, "
        f"{len(data.candidate_texts):,} candidates"
    )

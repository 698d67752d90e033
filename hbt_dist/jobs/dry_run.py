"""What a study will cost, without training anything: rows, steps, memory, GPU hours.

Rows are counted where the data lies here (a data set of the hub is named, not fetched). Memory per worker and
hours are estimates:

    parameters    P of the backbone's configuration (built on torch's meta device: no memory, no weights)
    states        weights, gradients, optimizer (`hbt_dist.training.memory`)
    work          6 P' T floating-point operations for T tokens per step with P' parameters outside the
                  embeddings; 8 P' T with the cached step, whose forward pass runs twice
    hours         work / (workers x `tflops` x 1e12), with `tflops` what one GPU really reaches; none on a
                  CPU, whose kinds differ by more than an estimate may be off
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel

from hbt_dist.common.errors import UserError
from hbt_dist.orchestration.cluster import find_cluster
from hbt_dist.run_file import RunFile
from hbt_dist.study.study import Study
from hbt_dist.training.deepspeed.settings import resolve_deepspeed
from hbt_dist.training.memory import state_bytes

#: (parameters, of them in embeddings) of backbones that studies name, so that nothing is fetched for them.
_KNOWN = {
    "FacebookAI/xlm-roberta-base": (278_043_648, 192_398_592),
    "FacebookAI/xlm-roberta-large": (559_890_432, 256_531_456),
    "sentence-transformers/LaBSE": (470_926_848, 385_281_792),
    "sentence-transformers/all-MiniLM-L6-v2": (22_713_216, 11_918_592),
}
#: bfloat16 TFLOP/s that encoders of this size reach on an A100, about 40 % of its 312.
REACHED_TFLOPS = 125.0


def describe_study(study: Study, tflops: float = REACHED_TFLOPS) -> str:
    """The study as lines: methods with their rows, steps, memory and hours, benchmarks, sums."""
    file = study.file
    lines = [
        f"{file.name}: {file.question}",
        f"{len(study.bases)} methods to train x {len(file.seeds)} seeds",
    ]
    found = {name: estimate(run, tflops) for name, run in study.runs.items()}
    lines += [_training_line(name, run, found[name]) for name, run in study.runs.items()]
    for name, method in file.methods.items():
        if method.trained_as is not None:
            lines.append(f"  {name}: the models of {method.trained_as}, measured otherwise")
    for benchmark in file.all_benchmarks():
        lines.append(f"  benchmark {benchmark.label}: {_benchmark_size(benchmark)}")
    lines.append(f"{_sum_line(study, found, tflops)}; evaluation not counted; folder {file.output_dir}")
    return "\n".join(lines)


def _training_line(name: str, run: RunFile, found: dict[str, Any]) -> str:
    memory = "unknown" if found["state_gib"] is None else f"{found['state_gib']:.2f} GiB"
    size = (
        f"{run.training.steps:,} steps x {run.batches.global_batch_size} rows, at most "
        f"{_millions(found['tokens'])} tokens"
    )
    where = f"states {memory} on each of {run.workers.num_workers} workers"
    if _on_cpu(run):
        hours = "time on a CPU not estimated"
    elif found["hours"] is None:
        hours = "time unknown"
    else:
        hours = f"{_hours(found['hours'])} a seed"
    return f"  {name}: {found['rows']}; {size}; {found['parameters']}; {where}; {hours}"


def _sum_line(study: Study, found: dict[str, dict[str, Any]], tflops: float) -> str:
    """What is known of all trainings together: GPU hours, and tokens where a CPU trains."""
    seeds = len(study.file.seeds)
    on_cpu = [name for name, run in study.runs.items() if _on_cpu(run)]
    parts = []
    if len(on_cpu) < len(study.runs):
        hours = sum(
            (found[name]["hours"] or 0.0) * run.workers.num_workers * seeds
            for name, run in study.runs.items()
            if name not in on_cpu
        )
        parts.append(f"{_hours(hours, 'GPU hours')} of training at {tflops:.0f} TFLOP/s per GPU")
    if on_cpu:
        tokens = sum(found[name]["tokens"] for name in on_cpu) * seeds
        parts.append(
            f"at most {_millions(tokens)} tokens of training on a CPU, whose time is not estimated: "
            "run one training of few steps and multiply"
        )
    return "; ".join(parts)


def _on_cpu(run: RunFile) -> bool:
    """Whether it is known that no GPU will train: the run says so, or its cluster is this machine alone."""
    alone = not torch.cuda.is_available() and find_cluster(run.workers) is None
    return run.workers.use_gpu is False or (run.workers.use_gpu == "auto" and alone)


def _hours(hours: float, unit: str = "h") -> str:
    return f"about {hours:.{1 if hours >= 10 else 2}f} {unit}" if hours >= 0.01 else f"less than 0.01 {unit}"


def _millions(number: int) -> str:
    return f"{number:,}" if number < 1_000_000 else f"{number / 1e6:,.1f} M"


def estimate(run: RunFile, tflops: float) -> dict[str, Any]:
    """Rows, tokens, parameters, GiB of states per worker and hours on GPUs of one training.

    Tokens are an upper bound: every text as long as it may be. None stands for what cannot be known.
    """
    text = run.model.text
    passages = 1 + run.batches.hard_negatives.count
    tokens = run.batches.global_batch_size * (
        text.get("max_question_tokens", 64) + passages * text.get("max_passage_tokens", 256)
    )
    found: dict[str, Any] = {
        "rows": _rows(run),
        "tokens": tokens * run.training.steps,
        "parameters": "parameters unknown",
        "state_gib": None,
        "hours": None,
    }
    counted = _parameters(run)
    if counted is None:
        return found
    whole, working = counted
    workers = run.workers.num_workers
    deepspeed = resolve_deepspeed(run.deepspeed, gradient_clipping=run.optimizer.gradient_clipping)
    found["parameters"] = f"{whole / 1e6:.1f} M parameters"
    found["state_gib"] = state_bytes(deepspeed, whole, workers) / 1024**3
    work = (8 if run.step.mode != "direct" else 6) * working * found["tokens"]
    found["hours"] = work / (workers * tflops * 1e12) / 3600
    return found


def _rows(run: RunFile) -> str:
    from hbt_dist.data.corpus.convert import build_corpus

    hub = [source.name for source in run.data.sources if source.format == "hub"]
    if hub:
        return f"rows of the hub ({', '.join(hub)}) not counted"
    try:
        corpus = build_corpus(run.data, Path(run.data.cache_dir))
    except UserError as error:
        return f"rows not counted ({error.location}: {error.problem})"
    return f"{corpus.num_examples:,} examples in {len(corpus.languages)} languages"


def _parameters(run: RunFile) -> tuple[int, int] | None:
    """(all, outside the embeddings); none if the configuration is at the hub and cannot be had."""
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
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    whole = sum(parameter.numel() for parameter in model.parameters())
    embeddings = sum(parameter.numel() for name, parameter in model.named_parameters() if "embed" in name)
    return whole, whole - embeddings


def _benchmark_size(benchmark: Any) -> str:
    from hbt_dist.data.benchmarks.load import load

    try:
        data = load(benchmark)
    except UserError as error:
        return f"not here ({error.problem})"
    return (
        f"{len(data.languages)} languages, {len(data.question_texts):,} questions, "
        f"{len(data.candidate_texts):,} candidates"
    )

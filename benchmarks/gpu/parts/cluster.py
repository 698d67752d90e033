"""Run what needs Ray or minutes: a killed worker, two evaluation actors, 131,072 pairs, auto chunks."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.device import Context
from benchmarks.gpu.model import encoder_of
from benchmarks.gpu.parts.command import STEPS, STOP, steps_of, train
from benchmarks.gpu.parts.evaluate import POOLS, TINY_POOLS, made_up, ranked
from benchmarks.gpu.parts.training import Case, Way, build, step_that_fits
from benchmarks.gpu.report import Figures
from benchmarks.gpu.sizes import SIZES, TINY
from hbt_dist.contrastive.world import World
from hbt_dist.evaluation.plan import plan_scoring
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.orchestration.cluster import connect
from hbt_dist.orchestration.evaluation import EvaluationActors
from hbt_dist.orchestration.settings import WorkerSettings
from hbt_dist.training.chunk_size import find_chunk_rows
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed


def run(context: Context) -> Iterator[tuple[str, Figures]]:
    """Yield how each ended, the shortest first."""
    yield "Ray, a killed worker", killed_worker(context)
    yield "two evaluation actors", actors(context)
    yield "chunk_rows: auto", auto_chunks(context)
    yield "131,072 pairs", large_step(context)


def killed_worker(context: Context) -> Figures:
    """Train on a private Ray cluster; the worker dies once, and Ray starts it from the last checkpoint."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)
        fault = f"rank=0,step={STOP},where=before_forward,once={folder / 'died'}"
        done = train(context, folder, "run", fault=fault, launcher="ray")
        steps = steps_of(folder / "run")
        passed = done.code == 0 and (folder / "died").exists() and steps[-1:] == [STEPS]
        return {
            **done.figures(passed=passed),
            "steps": len(steps),
            "predicted": "ends with 0 after one restart",
        }


def actors(context: Context) -> Figures:
    """Rank with two actors on half a GPU each; the ranks must be those of one process."""
    benchmark, questions, candidates = made_up(TINY_POOLS[0] if context.tiny else POOLS[0])
    settings = EvaluationSettings(device=context.device.torch.type)
    alone, seconds = ranked(benchmark, questions, candidates, context.device.torch.type)
    with (
        connect(WorkerSettings(num_workers=2, address="local")) as cluster,
        EvaluationActors(cluster, 2, gpus=0.5 if context.device.cuda else 0.0) as pool,
    ):
        began = time.perf_counter()
        ranks, _ = pool.rank(benchmark, plan_scoring(benchmark), questions, candidates, settings)
        together = time.perf_counter() - began
    equal = bool((ranks.pooled == alone.pooled).all() and (ranks.scores == alone.scores).all())
    return {"passed": equal, "seconds": round(together, 3), "seconds_of_one_process": round(seconds, 3)}


def auto_chunks(context: Context) -> Figures:
    """Search the largest chunk for the texts of 32,768 pairs; a trial that fails must not end the search."""
    size = TINY if context.tiny else SIZES["xlmr-base"]
    began = time.perf_counter()
    rows = find_chunk_rows(
        encoder_of(size, 0.1, context.device.torch),
        max_tokens=12 if context.tiny else 192,
        most_rows=16 if context.tiny else 65_536,
        world=World.alone(context.device.torch),
        autocast=context.device.cuda,
    )
    context.device.reset()
    return {"rows": rows, "passed": rows > 0, "seconds": round(time.perf_counter() - began, 2)}


def large_step(context: Context) -> Figures:
    """Make one step of 131,072 pairs, four times the paper's largest batch."""
    size, rows = (TINY, 16) if context.tiny else (SIZES["xlmr-base"], 131_072)
    case = (
        Case("plain", 48, 1 << 20, False, (6, 12)) if context.tiny else Case("plain", 65_536, 1 << 20, False)
    )
    engine = build(
        context, size, Way(lambda: ResolvedDeepSpeed(precision="fp32" if context.tiny else "bf16_copy"))
    )
    figures = step_that_fits(context, engine, size, rows, case)
    return {**figures, "predicted": "58 s, four times roofline.py's 14.6 s", "passed": "seconds" in figures}

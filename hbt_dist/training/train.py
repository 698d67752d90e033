"""Train a run: build the engine, load the newest checkpoint, step through the plan, save, export.

What step t computes depends on the run file and t alone: batches come from (seed, step), dropout from
(seed, step, rank), the learning rate from the step. So a checkpoint holds weights, optimizer state and one
integer, and a resumed run ends where an uninterrupted run would have ended.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from hbt_dist.common.console import say
from hbt_dist.common.phases import phase
from hbt_dist.common.precision import products
from hbt_dist.contrastive.world import World
from hbt_dist.run_file import RunFile
from hbt_dist.testing import faults
from hbt_dist.training.checkpointing import export_model, load_newest, open_store, save_checkpoint
from hbt_dist.training.checkpoints.store import CheckpointStore
from hbt_dist.training.metrics_log import Tracker
from hbt_dist.training.phases import enter_phase, resume_plan
from hbt_dist.training.prefetch import prefetch_rows
from hbt_dist.training.ranks import attempt, full_memory_explained, raise_everywhere
from hbt_dist.training.runtime import Request, Runtime
from hbt_dist.training.start import (
    Session,
    build,
    check_settings,
    open_folder,
    prepare_all_ranks,
    record_start,
    set_threads,
)
from hbt_dist.training.step import train_step


@dataclass(frozen=True)
class TrainResult:
    """How a training ended."""

    step: int
    finished: bool
    loss: float | None
    seconds: float


@products("ieee")  # the process or its environment may allow less; self-check and loss count on it
def train(run: RunFile, runtime: Runtime, *, quiet: bool = False) -> TrainResult:
    """Train to the last step, or until the runtime requests a stop. Every rank calls it.

    Args:
        run: the run file, paths absolute.
        runtime: rank and device of this process; the torch process group exists.
        quiet: print nothing (the log and the metrics file are written all the same).

    Raises:
        UserError: an input cannot be used, or the training diverged; the last complete checkpoint stays as
            it is.
    """
    began = time.monotonic()
    world = World(runtime.rank, runtime.world_size, runtime.device)
    limits = set_threads(run, world)
    deepspeed = check_settings(run, world)
    with (
        full_memory_explained(world, run.step.chunk_rows),
        open_folder(run, runtime, world) as folder,
    ):
        log = folder.log_writer(None if quiet else say) if world.rank == 0 else _silent
        with phase(log, "loading model and texts"):
            prepared, start_model = prepare_all_ranks(run, deepspeed, world)
        session = build(run, world, folder, deepspeed, prepared, start_model, log)
        session.notes.extend(limits)
        store = open_store(session)
        checkpoint = load_newest(session, store)
        session = resume_plan(session, checkpoint)
        first = step = 0 if checkpoint is None else checkpoint.step
        loss, total, request = None, run.training.steps, Request.NONE
        with record_start(session, runtime.launcher, first, quiet=quiet) as tracker:
            session.engine.train()
            while step < total and request is not Request.STOP:
                session, mining = enter_phase(session, step, checkpoint, tracker)
                step, loss, request = _train_phase(
                    session, store, runtime, tracker, step, mining, check_replay=step == first
                )
            if step < total:
                return TrainResult(step, False, loss, time.monotonic() - began)
            export_model(session)
    return TrainResult(total, True, loss, time.monotonic() - began)


def _silent(_: str) -> None:
    """Print nothing: rank 0 speaks for all."""


def _train_phase(
    session: Session,
    store: CheckpointStore,
    runtime: Runtime,
    tracker: Tracker | None,
    first: int,
    mining: dict[str, Any],
    *,
    check_replay: bool,
) -> tuple[int, float, Request]:
    """Make the steps from `first` to the end of its phase, or to a request to stop. Collective.

    The last step of a phase has a checkpoint, from which the next phase can be mined again.

    Args:
        mining: figures of the mining before `first`.
        check_replay: also compare the embeddings of a chunk in the two forwards of the first step.

    Returns:
        number of finished steps, last loss, last request.
    """
    run, last = session.run, session.run.training.phase(first).stop
    with prefetch_rows(run, session.world, session.prepared, last) as rows:
        for step in range(first, last):
            figures = train_step(session, step, rows, check_replay=check_replay and step == first)
            figures |= mining if step == first else {}
            loss = float(figures["loss"])
            request = _record(session, runtime, tracker, step + 1, figures)
            is_due = (step + 1) % run.training.checkpoint_every == 0 or step + 1 == last
            if is_due or request is not Request.NONE:
                save_checkpoint(session, store, step + 1)
                faults.at("between_save_and_report", step + 1, session.world)
                runtime.report({"step": step + 1.0, "loss": loss})
            if request is Request.STOP:
                break
    return step + 1, loss, request


def _record(
    session: Session, runtime: Runtime, tracker: Tracker | None, step: int, figures: dict[str, Any]
) -> Request:
    """Record a step's figures (rank 0), and return the strongest request of all ranks. Collective.

    The collective delays a GPU by little: the GPU has no work then, because the host has just waited for the
    norm of the gradient. Inside the step, a request would wait for the end of the next step.
    """
    problem = None
    if tracker is not None:
        _, problem = attempt(lambda: tracker.step(step, figures), session.folder.root)
    failed = len(Request)  # above all requests, so that a step without a problem needs one collective only
    request = session.world.all_max(failed if problem else runtime.request())
    if request == failed:
        raise_everywhere(session.world, problem)
    return Request(request)

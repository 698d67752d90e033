"""The training loop: one function, whoever starts it.

    prepare  corpus, encoder, tokens, batch plan (each node for itself; fingerprints must agree)
    resume   from the newest complete checkpoint of the run's folder
    loop     plan(step) -> own rows -> contrastive step -> optimizer step -> figures
    end      checkpoint, model folder

What step t computes depends on the run file and t alone: batches come from (seed, step), dropout from
(seed, step, rank), the learning rate from the step. So there is nothing to save but weights, optimizer state
and one integer, and a resumed run ends where an uninterrupted one would have.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hbt_dist.batching.collate import LocalBatch
from hbt_dist.batching.plan import check_divisible
from hbt_dist.batching.resume import check_resume
from hbt_dist.common.console import counted
from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.gather import check_equal_slices
from hbt_dist.contrastive.row_losses import check_kernel
from hbt_dist.contrastive.world import World
from hbt_dist.run_file import RunFile, user_function_facts
from hbt_dist.testing import faults as fault
from hbt_dist.training.checkpoints.card import model_card
from hbt_dist.training.checkpoints.engine_state import (
    describe,
    gather_weights,
    load_engine,
    save_engine,
    shards_state,
    weights_are_finite,
)
from hbt_dist.training.checkpoints.export import write_model_folder
from hbt_dist.training.checkpoints.resharding import universal_form
from hbt_dist.training.checkpoints.retention import removable
from hbt_dist.training.checkpoints.store import Checkpoint, CheckpointStore
from hbt_dist.training.chunk_size import choose_chunk_rows
from hbt_dist.training.deepspeed.engine import Engine, build_engine
from hbt_dist.training.deepspeed.partition import placed
from hbt_dist.training.deepspeed.precision import emulated_bf16
from hbt_dist.training.deepspeed.settings import load_deepspeed_config
from hbt_dist.training.deepspeed.setup import check_with_deepspeed
from hbt_dist.training.metrics_log import Tracker
from hbt_dist.training.optimizer import learning_rate
from hbt_dist.training.out_of_memory import full_memory_explained
from hbt_dist.training.prefetch import Ahead, rows_ahead
from hbt_dist.training.preparation import Prepared, describe_data, model_facts, prepare, start_digest
from hbt_dist.training.ranks import attempt, on_rank_0, raise_everywhere, require_shared
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.runtime import Request, Runtime
from hbt_dist.training.self_check import require_self_check
from hbt_dist.training.step import train_step
from hbt_dist.training.waiting import on_every_rank


@dataclass(frozen=True)
class TrainResult:
    """How a training ended."""

    step: int
    finished: bool
    loss: float | None
    seconds: float


def train_loop(run: RunFile, runtime: Runtime, *, quiet: bool = False) -> TrainResult:
    """Train to the last step, or until the runtime wants to stop. Every rank calls it.

    Args:
        run: the run file, paths absolute.
        runtime: this process' place; the torch process group exists.
        quiet: print nothing (the log and the metrics file are written all the same).

    Raises:
        UserError: what the user gave cannot be used, or the training diverged; the last complete
            checkpoint stays as it is.
    """
    began = time.monotonic()
    folder = RunFolder(run.output_dir)
    set_threads(run, runtime)
    world = World(runtime.rank, runtime.world_size, runtime.device)
    check_divisible(run.batches.global_batch_size, world.size)
    check_kernel(run.loss.kernel, world)
    if run.deepspeed.config is not None:
        clipping = run.optimizer.gradient_clipping
        config = load_deepspeed_config(
            run.deepspeed.config, gradient_clipping=clipping, device_type=world.device.type
        )
        check_with_deepspeed(config)
    on_rank_0(world, folder.root, lambda: _take_folder(run, folder, runtime.folder_wait_seconds))
    try:
        require_shared(folder.root, world)
        prepared, digest = on_every_rank(
            lambda: (prepare(run), start_digest(run) if world.rank == 0 else None), world
        )
        _agree(prepared.fingerprint, world)
        rows = run.batches.global_batch_size // world.size
        check_equal_slices(rows, run.batches.hard_negatives.count, world)
        with full_memory_explained(world, run.step.chunk_rows):
            training = _Training(run, runtime, world, folder, prepared, digest)
            step, finished, loss = training.run_all(quiet=quiet)
        return TrainResult(step, finished, loss, time.monotonic() - began)
    finally:
        if runtime.rank == 0:
            folder.release()


def check_steps(run: RunFile, found: Checkpoint) -> None:
    """Refuse to continue with fewer steps than were made, or on another course of the learning rate.

    Raises:
        UserError: the steps made so far would have had other learning rates.
    """
    steps, course = run.training.steps, run.training.course
    if steps < found.step:
        raise UserError(
            "training.steps",
            f"is {steps}, but the run has made {found.step} already",
            f"set it to {found.step} or more; hbt-dist export reads the checkpoints that are kept",
        )
    before = int(found.manifest.get("schedule_steps", course))  # older checkpoints do not say
    rates = ([learning_rate(step, n, run.optimizer) for step in range(found.step)] for n in (before, course))
    if before != course and any(old != new for old, new in zip(*rates, strict=True)):
        keep = f"set training.schedule_steps: {before} to keep it"
        other = "choose another output_dir, with the model of this one as model.name_or_path"
        raise UserError(
            "training.steps" if run.training.schedule_steps is None else "training.schedule_steps",
            f"is {course}, but the learning rate has followed a course of {before} steps so far",
            other if before < steps and run.optimizer.schedule != "constant" else f"{keep}, or {other}",
        )


def _take_folder(run: RunFile, folder: RunFolder, wait_seconds: float) -> None:
    folder.acquire(wait_seconds)
    folder.check(run.plain())
    folder.write_run_file(run.plain())


class _Training:
    """One start of a run on this rank: engine, checkpoints, and the loop over the steps."""

    def __init__(
        self,
        run: RunFile,
        runtime: Runtime,
        world: World,
        folder: RunFolder,
        prepared: Prepared,
        start_model: str | None,
    ) -> None:
        self.start_model = start_model  # digest, on rank 0
        self.settings, self.runtime, self.world, self.folder, self.prepared = (
            run,
            runtime,
            world,
            folder,
            prepared,
        )
        if run.step.self_check:
            require_self_check(world, run.deepspeed, run.step.grad_reduction, run.loss.kernel)
        encoder = placed(prepared.model.encoder, run.deepspeed, world.device)
        self.step_settings = choose_chunk_rows(run, encoder, prepared.model.text, world)
        torch.manual_seed(run.seed)
        self.engine = build_engine(
            encoder,
            optimizer=run.optimizer,
            total_steps=run.training.course,
            world=world,
            deepspeed=run.deepspeed,
            loss=run.loss,
            grad_reduction=run.step.grad_reduction,
        )
        emulated = emulated_bf16(run.deepspeed, world.device)
        self.notes: list[str] = [": ".join(emulated)] if emulated else []
        self.store = CheckpointStore(
            folder.checkpoints,
            rank=world.rank,
            world_size=world.size,
            removable=lambda steps: removable(steps, run.training, folder),
            say=self.notes.append,
        )
        self.start = self._resume(self.store.newest())

    def _resume(self, found: Checkpoint | None) -> int:
        if found is None:
            return 0
        check_resume(found.manifest["plan"], self.prepared.plan.state)
        check_steps(self.settings, found)
        on_rank_0(self.world, self.folder.root, lambda: self._check_start_model(found))
        here = describe(self.engine)
        for key, what in (("engine", "engine"), ("zero_stage", "ZeRO stage")):
            if found.manifest[key] != here[key]:
                raise UserError(
                    str(found.folder),
                    f"was written with {what} {found.manifest[key]}, this start has {here[key]}",
                    f"start with {what} {found.manifest[key]}, or use another output_dir",
                )
        if found.manifest["world_size"] == self.world.size or not shards_state(self.engine):
            load_engine(self.engine, found.folder)
        else:
            folder = universal_form(found, self.folder.universal, self.world)
            load_engine(self.engine, folder, universal=True)
            self.notes.append(
                f"the checkpoint was written by {found.manifest['world_size']} workers; "
                f"converted for {self.world.size}"
            )
        dist.barrier()
        total = self.settings.training.steps
        finished = f"already finished ({found.step} of {total} steps)"
        going_on = f"continuing from the checkpoint of step {found.step}"
        self.notes.append(finished if found.step >= total else going_on)
        return found.step

    def _check_start_model(self, found: Checkpoint) -> None:
        """Refuse a folder that holds another model than the one that the run began with."""
        before = found.manifest.get("start_model")
        if before is not None and before != self.start_model:
            raise UserError(
                f"model.name_or_path {self.settings.model.name_or_path}",
                f"is not the model that the checkpoint of step {found.step} began with",
                "name that model, or choose another output_dir",
            )

    def run_all(self, *, quiet: bool) -> tuple[int, bool, float | None]:
        """The remaining steps, with figures kept by rank 0: (last step, whether it is the end, last loss)."""
        tracker = on_rank_0(self.world, self.folder.root, lambda: self._tracker(quiet=quiet))
        if tracker is None:
            return self._loop(lambda *_: None)
        with tracker:
            return self._loop(tracker.step)

    def _tracker(self, *, quiet: bool) -> Tracker:
        """Record this start, and be ready to record its steps (rank 0)."""
        facts = {
            "launcher": self.runtime.launcher,
            "first_step": self.start,
            "device": str(self.runtime.device),
            "corpus": self.prepared.corpus.fingerprint,
            "plan": self.prepared.plan.fingerprint,
            **user_function_facts(self.settings),
            **describe(self.engine),
        }
        self.folder.add_provenance(facts)
        training = self.settings.training
        tracker = Tracker(
            self.folder,
            start=self.start,
            total=training.steps,
            log_every=training.log_every,
            tensorboard=training.tensorboard,
            quiet=quiet,
        )
        for note in [*self.notes, *self._introduction()]:
            tracker.say(note)
        return tracker

    def _loop(self, record: Callable[[int, dict[str, Any]], None]) -> tuple[int, bool, float | None]:
        with rows_ahead(self.settings, self.world, self.prepared) as rows:
            return self._steps(record, rows)

    def _steps(
        self, record: Callable[[int, dict[str, Any]], None], rows: Ahead[LocalBatch]
    ) -> tuple[int, bool, float | None]:
        self.engine.train()
        total, every = self.settings.training.steps, self.settings.training.checkpoint_every
        loss: float | None = None
        for step in range(self.start, total):
            figures = train_step(
                step,
                self.settings,
                self.step_settings,
                self.world,
                self.engine,
                self.prepared,
                rows=rows,
                first=step == self.start,
            )
            loss = float(figures["loss"])
            request = self._record(record, step + 1, figures)
            if (step + 1) % every == 0 or step + 1 == total or request is not Request.NONE:
                self._save(step + 1)
                fault.at("between_save_and_report", step + 1, self.world)
                self.runtime.report({"step": step + 1.0, "loss": loss})
            if request is Request.STOP and step + 1 < total:
                return step + 1, False, loss
        export_model(self.settings, self.engine, self.prepared, self.folder.model)
        return total, True, loss

    def _record(self, record: Callable[[int, dict[str, Any]], None], step: int, figures: Any) -> Request:
        """Keep a step's figures (rank 0), and hear what the launchers of all ranks ask for. Collective."""
        _, problem = attempt(lambda: record(step, figures), self.folder.root)
        failed = len(Request)  # above all requests: the other ranks need not be told in every step
        asked = self.world.all_max(failed if problem else self.runtime.request())
        if asked == failed:
            raise_everywhere(self.world, problem)
        return Request(asked)

    def _save(self, step: int) -> None:
        if not weights_are_finite(self.engine):
            raise UserError(
                f"step {step - 1}",
                "left weights that are NaN or infinite",
                "training stopped; the last complete checkpoint is untouched. Lower optimizer.learning_rate",
            )

        def write(folder: Path) -> None:
            save_engine(self.engine, folder)
            fault.at("during_save", step, self.world)

        run, prepared = self.settings, self.prepared
        facts = {
            "run": run.name,
            "plan": prepared.plan.state,
            "schedule_steps": run.training.course,
            "start_model": self.start_model,
            **describe(self.engine),
            "model": {
                "facts": model_facts(run, prepared, step),
                "card": model_card(run, prepared.corpus, prepared.plan),
            },
        }
        self.store.save(step, write, facts)
        if self.world.rank == 0:  # the next start needs it no more
            shutil.rmtree(self.folder.universal, ignore_errors=True)

    def _introduction(self) -> list[str]:
        corpus, run = self.prepared.corpus, self.settings
        parameters = sum(int(getattr(p, "ds_numel", p.numel())) for p in self.engine.model.parameters())
        engine = describe(self.engine)
        return [
            f"corpus: {corpus.num_examples:,} examples, {corpus.num_passages:,} passages, "
            f"{len(corpus.languages)} languages ({' '.join(corpus.languages)})",
            f"model: {parameters:,} parameters; {engine['engine']}, ZeRO stage {engine['zero_stage']}, "
            f"{counted(engine['world_size'], 'worker')} on {_device_name(self.world.device)}; "
            f"global batch {run.batches.global_batch_size}, "
            f"{run.training.steps} steps",
            *describe_data(run, self.prepared),
        ]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def export_model(run: RunFile, engine: Engine, prepared: Prepared, folder: Path) -> None:
    """Write the trained model as a folder that transformers and sentence-transformers load. Collective."""
    weights = gather_weights(engine)

    def write() -> None:
        assert weights is not None
        card = model_card(run, prepared.corpus, prepared.plan)
        facts = model_facts(run, prepared, run.training.steps)
        write_model_folder(prepared.model, weights, folder, card=card, facts=facts)

    on_rank_0(engine.world, folder, write)


def set_threads(run: RunFile, runtime: Runtime) -> None:
    """Give this worker its share of the node's cores; the same for every launcher, so that sums agree."""
    threads = run.training.threads_per_worker
    if threads is None:
        threads = max(1, (os.cpu_count() or 1) // runtime.local_world_size)
    torch.set_num_threads(threads)


def _agree(fingerprint: str, world: World) -> None:
    every: list[str | None] = [None] * world.size
    dist.all_gather_object(every, fingerprint)
    odd = [rank for rank, other in enumerate(every) if other != every[0]]
    if odd:
        raise UserError(
            f"rank {odd[0]}",
            "prepared other data, another tokenizer or another plan than rank 0",
            "check that the data files and the versions of the packages are the same on every node",
        )

"""Load the newest checkpoint of a run, save a checkpoint, export the model."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch.distributed as dist

from hbt_dist.batching.resume import check_resume
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import link_files
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.initial import load_start
from hbt_dist.run_file import RunFile
from hbt_dist.testing import faults
from hbt_dist.training.checkpoints.card import model_card
from hbt_dist.training.checkpoints.engine_state import (
    describe,
    frozen_names,
    gather_weights,
    load_engine,
    save_engine,
    shards_state,
    weights_are_finite,
)
from hbt_dist.training.checkpoints.export import write_model_folder
from hbt_dist.training.checkpoints.resharding import universal_form
from hbt_dist.training.checkpoints.retention import removable
from hbt_dist.training.checkpoints.start_model import check_start_model, start_digest, start_facts
from hbt_dist.training.checkpoints.store import MINED, Checkpoint, CheckpointStore
from hbt_dist.training.optimizer import learning_rate
from hbt_dist.training.preparation import model_facts
from hbt_dist.training.ranks import attempt, on_rank_0, raise_problem, wait_for_rank_0
from hbt_dist.training.start import Session
from hbt_dist.training.teacher_checks import check_same_teachers


def open_store(session: Session) -> CheckpointStore:
    """Return the store of the run's checkpoints."""
    return CheckpointStore(
        session.folder.checkpoints,
        rank=session.world.rank,
        world_size=session.world.size,
        removable=lambda steps: removable(steps, session.run.training, session.folder),
        say=session.notes.append,
    )


def load_newest(session: Session, store: CheckpointStore) -> Checkpoint | None:
    """Load the newest complete checkpoint into the engine and return it; None before the first. Collective.

    Raises:
        UserError: on all ranks: the checkpoint belongs to a different plan, schedule, model or engine.
    """
    checkpoint = store.newest()
    if checkpoint is None:
        return None
    world, engine, manifest = session.world, session.engine, checkpoint.manifest
    check_resume(manifest["plan"], session.prepared.plan.state)
    check_steps(session.run, checkpoint)
    now = start_facts(session.start_model, session.prepared.model)  # the digest is on rank 0
    remedy = "name that model, or choose another output_dir"
    name = session.run.model.name_or_path
    on_rank_0(
        world,
        session.folder.root,
        lambda: check_start_model(name, checkpoint.step, manifest, now, remedy),
    )
    recorded, digests = manifest.get("teachers", {}), session.prepared.teachers.digests
    check_same_teachers(session.run, checkpoint.step, recorded, digests)
    current = describe(engine)
    for key, what in (("engine", "engine"), ("zero_stage", "ZeRO stage")):
        if manifest[key] != current[key]:
            raise UserError(
                str(checkpoint.folder),
                f"was written with {what} {manifest[key]}, this start has {current[key]}",
                f"start with {what} {manifest[key]}, or use another output_dir",
            )
    if manifest["world_size"] == world.size or not shards_state(engine):
        load_engine(engine, checkpoint.folder)
    else:
        load_engine(engine, universal_form(checkpoint, session.folder.universal, world), universal=True)
        session.notes.append(
            f"the checkpoint was written by {manifest['world_size']} workers; converted for {world.size}"
        )
    dist.barrier()
    total = session.run.training.steps
    session.notes.append(
        f"already finished ({checkpoint.step} of {total} steps)"
        if checkpoint.step >= total
        else f"continuing from the checkpoint of step {checkpoint.step}"
    )
    return checkpoint


def check_steps(run: RunFile, checkpoint: Checkpoint) -> None:
    """Refuse to continue with fewer steps than were made, or with a different learning rate schedule.

    Raises:
        UserError: the steps made so far would have had different learning rates.
    """
    steps, course = run.training.steps, run.training.course
    if steps < checkpoint.step:
        raise UserError(
            "training.steps",
            f"is {steps}, but the run has made {checkpoint.step} already",
            f"set it to {checkpoint.step} or more; hbt-dist export reads the checkpoints that are kept",
        )
    before = int(checkpoint.manifest["schedule_steps"])
    if all(
        learning_rate(step, before, run.optimizer) == learning_rate(step, course, run.optimizer)
        for step in range(checkpoint.step)
    ):
        return
    keep = f"set training.schedule_steps: {before} to keep it"
    new_folder = "choose another output_dir, with the model of this one as model.name_or_path"
    raise UserError(
        "training.steps" if run.training.schedule_steps is None else "training.schedule_steps",
        f"is {course}, but the learning rate has followed a course of {before} steps so far",
        new_folder if before < steps and run.optimizer.schedule != "constant" else f"{keep}, or {new_folder}",
    )


def save_checkpoint(session: Session, store: CheckpointStore, step: int) -> None:
    """Save the state after `step` optimizer steps. Collective.

    Raises:
        UserError: on all ranks: weights are not finite, or a rank could not write.
    """
    run, prepared, engine = session.run, session.prepared, session.engine
    if not weights_are_finite(engine):
        raise UserError(
            f"step {step - 1}",
            "left weights that are NaN or infinite",
            "training stopped; the last complete checkpoint is untouched. Lower optimizer.learning_rate",
        )

    def write(folder: Path) -> None:
        save_engine(engine, folder)
        if session.world.rank == 0 and session.is_mined_before(step):
            link_files(session.folder.mined_before(run.training.phase(step).start), folder / MINED)
        faults.at("during_save", step, session.world)

    facts = {
        "run": run.name,
        "plan": prepared.plan.state,
        "schedule_steps": run.training.course,
        **start_facts(session.start_model, prepared.model),
        **describe(engine),
        "teachers": dict(prepared.teachers.digests),
        "model": {
            "facts": model_facts(run, prepared, step),
            "card": model_card(run, prepared.corpus, prepared.plan, prepared.model.exported_text),
        },
    }
    store.save(step, write, facts)
    if session.world.rank == 0:  # the next start does not need it
        shutil.rmtree(session.folder.universal, ignore_errors=True)


def export_model(session: Session) -> None:
    """Write the trained model as a folder that transformers and sentence-transformers load. Collective."""
    run, prepared, folder = session.run, session.prepared, session.folder.model
    weights = gather_weights(session.engine)

    def write() -> None:
        assert weights is not None
        card = model_card(run, prepared.corpus, prepared.plan, prepared.model.exported_text)
        facts = model_facts(run, prepared, run.training.steps)
        model = prepared.model
        if frozen_names(session.engine.model):  # the engine has cut, moved or rounded the frozen weights
            model = _load_start_again(session, run.training.steps)
        write_model_folder(model, weights, folder, card=card, facts=facts)

    on_rank_0(session.world, folder, write)


def write_current_model(session: Session, step: int, folder: Path) -> None:
    """Write the model after `step` steps as `export_model` does, and leave the engine as it is. Collective.

    The start model is loaded again for it: once more the weights in the memory of rank 0's host.
    """
    weights = gather_weights(session.engine)

    def write() -> None:
        assert weights is not None
        write_model_folder(_load_start_again(session, step), weights, folder, card="", facts={})

    wait_for_rank_0(lambda: raise_problem(attempt(write, folder)[1]), session.world)


def _load_start_again(session: Session, step: int) -> LoadedEncoder:
    """Load the start model on rank 0.

    Raises:
        UserError: it has changed, and weights of the engine's model are frozen.
    """
    run, made = session.run, session.folder.start
    model = load_start(run.model, run.seed, made)
    if frozen_names(session.engine.model):
        began = start_facts(session.start_model, session.prepared.model)
        now = start_facts(start_digest(run.model, model.encoder.backbone, made), model)
        remedy = "restore that model, and start the run again: it continues from the last checkpoint"
        check_start_model(run.model.name_or_path, step, began, now, remedy)
    return model

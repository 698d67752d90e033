"""Divide a training into phases; each draws the hard negatives that were mined before its first step.

The model of a phase's first step mines, and a checkpoint holds this model: a run that stops anywhere
continues with the same negatives. A checkpoint inside a phase holds the mined negatives as well, as links
that take no space, and the digest of every mining before it. So what keeps, copies and verifies checkpoints
covers them.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from hbt_dist.batching.negatives import NegativeLists
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_folder, link_files, wait_for
from hbt_dist.mining.mined import MANIFEST, MinedNegatives
from hbt_dist.training.checkpoints.store import Checkpoint
from hbt_dist.training.metrics_log import Tracker
from hbt_dist.training.mining import mine_negatives
from hbt_dist.training.ranks import gather_objects, on_rank_0
from hbt_dist.training.start import Session


def resume_plan(session: Session, checkpoint: Checkpoint | None) -> Session:
    """Return the session whose plan knows the minings before a checkpoint."""
    phase = session.prepared.plan.phase
    if checkpoint is None or phase is None:
        return session
    mined = checkpoint.manifest["plan"]["mined"]
    return _with_plan(session, session.prepared.plan.in_phase(replace(phase, mined=mined), None))


def enter_phase(
    session: Session, step: int, checkpoint: Checkpoint | None, tracker: Tracker | None
) -> tuple[Session, dict[str, Any]]:
    """Return the session of the phase around a step, with its hard negatives, mined now if due. Collective.

    Args:
        step: the next one.
        checkpoint: from which this start continues; it holds the negatives if `step` is inside the phase.
        tracker: receives messages, on rank 0.

    Returns:
        the session, and the figures of a mining.

    Raises:
        UserError: on all ranks: negatives cannot be mined, or have changed since the checkpoint.
    """
    phase, training = session.prepared.plan.phase, session.run.training
    if phase is None:
        return session, {}
    steps = training.phase(step)
    phase = replace(phase, steps=steps)
    if not training.mines_before(steps.start):
        return _with_plan(session, session.prepared.plan.in_phase(phase, None)), {}
    folder = session.folder.mined_before(steps.start)
    figures: dict[str, Any] = {}
    if step == steps.start:
        figures = mine_negatives(session, step, folder, tracker)
    else:
        assert checkpoint is not None
        source = checkpoint.mined
        on_rank_0(session.world, folder, lambda: _restore(source, folder))
    mined = _open(session, folder, phase.mined.get(str(steps.start)))
    phase = replace(phase, mined={**phase.mined, str(steps.start): mined.digest})
    lists = NegativeLists(mined.offsets, mined.passage, mined.language)  # its scores are not a teacher's
    return _with_plan(session, session.prepared.plan.in_phase(phase, lists)), figures


def _with_plan(session: Session, plan: BatchPlan) -> Session:
    return replace(session, prepared=replace(session.prepared, plan=plan))


def _restore(source: Path, folder: Path) -> None:
    """Link the mined negatives of a verified checkpoint into the run's folder."""
    with atomic_folder(folder) as temporary:
        link_files(source, temporary)
        shutil.rmtree(folder, ignore_errors=True)


def _open(session: Session, folder: Path, expected: str | None) -> MinedNegatives:
    """Open mined negatives on every rank. Collective.

    Args:
        folder: of the negatives.
        expected: digest that a checkpoint records; None for a new mining.

    Raises:
        UserError: on all ranks: ranks see different negatives, or they differ from the checkpoint's.
    """
    problem, mined = None, None
    try:
        wait_for(folder / MANIFEST)  # a network file system may show it late
        mined = MinedNegatives.open(folder, session.prepared.corpus)
    except UserError as error:
        problem = error
    digests = gather_objects(session.world, problem if mined is None else mined.digest)
    if problems := [digest for digest in digests if isinstance(digest, UserError)]:
        raise problems[0]
    assert mined is not None
    digest = expected or digests[0]
    if different := [rank for rank, value in enumerate(digests) if value != digest]:
        raise UserError(
            str(folder),
            f"expected mined negatives with digest {str(digest)[:12]}, "
            f"got {str(digests[different[0]])[:12]} on rank {different[0]}",
            "restore the folder, or remove the checkpoints of this phase: the run then mines it again",
        )
    return mined

"""Measure and copy checkpoints while training goes on, in the process that watches the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.measure import Measure, validation_watcher
from hbt_dist.training.checkpoints.retention import removable
from hbt_dist.training.checkpoints.watcher import CheckpointWatcher
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.storage import RunStorage


@contextmanager
def use_storage(run: RunFile, folder: RunFolder, say: Callable[[str], None]) -> Iterator[None]:
    """With `training.storage`: continue from a newer copy there, and copy the results at the end.

    Raises:
        UserError: the storage cannot be used, holds a different run, or a later start writes there; another
            process writes to the run's folder.
    """
    if run.training.storage is None:
        yield
        return
    storage = RunStorage(run.training.storage, run.name, folder)
    folder.acquire()  # a start that this lock refuses must not stop the copies of the running one
    try:
        storage.take_over(run.plain(), say)
    finally:
        folder.release()
    try:
        yield
    except BaseException as error:
        if isinstance(error, UserError) and folder.model.is_dir():  # training succeeded; the error came later
            storage.put_results()
        with suppress(UserError):
            storage.release()
        raise
    storage.put_results()


@contextmanager
def watch_checkpoints(
    run: RunFile, folder: RunFolder, measure: Measure, say: Callable[[str], None]
) -> Iterator[None]:
    """Measure and copy the checkpoints that appear during the block; its end waits for those that remain.

    Args:
        run: the run.
        folder: of the run.
        measure: measures a checkpoint.
        say: receives figures and failures; failures do not end the training.
    """
    with ExitStack() as watchers:
        if run.training.storage is not None:
            storage = RunStorage(run.training.storage, run.name, folder)

            def unneeded(steps: list[int]) -> set[int]:
                return removable(steps, run.training, folder)

            def copy(held: Path, step: int) -> None:
                storage.put(held, step, unneeded)

            watcher = CheckpointWatcher(
                folder,
                "copy",
                copy,
                say=say,
                done=set(storage.steps()),
                newest_first=True,
                unneeded=unneeded,  # links to checkpoints that the run has removed would fill the disk
            )
            watchers.enter_context(watcher)
        if run.evaluation.checkpoint_benchmarks:
            watchers.enter_context(validation_watcher(run, folder, measure, say))
        yield

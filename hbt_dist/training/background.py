"""What goes on beside a training, in the process that watches it: checkpoints are measured and copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.measure import Measure, validation_follower
from hbt_dist.training.checkpoints.retention import removable
from hbt_dist.training.checkpoints.watcher import CheckpointFollower
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.storage import RunStorage


@contextmanager
def own_storage(run: RunFile, folder: RunFolder, say: Callable[[str], None]) -> Iterator[None]:
    """With `training.storage`: be its only writer, fetch what is newer there, and leave the results there.

    Raises:
        UserError: the storage cannot be used, holds another run, or another process writes there.
    """
    if run.training.storage is None:
        yield
        return
    storage = RunStorage(run.training.storage, run.name)
    with storage.owned_by(folder):
        storage.fetch(folder, run.plain(), say)
        try:
            yield
        except UserError:
            if folder.model.is_dir():  # trained; what came after it went wrong
                storage.put_results(folder)
            raise
        storage.put_results(folder)


@contextmanager
def beside_training(
    run: RunFile, folder: RunFolder, measure: Measure, say: Callable[[str], None]
) -> Iterator[None]:
    """Measure and copy the checkpoints that come while the block runs; what is left is done at its end.

    Args:
        measure: how a checkpoint is measured.
        say: hears of figures, and of what did not work; neither ends the training.
    """
    with ExitStack() as followers:
        if run.training.storage is not None:
            storage = RunStorage(run.training.storage, run.name)

            def copy(held: Path, step: int) -> None:
                storage.put(folder, held, step, lambda steps: removable(steps, run.training, folder))

            followers.enter_context(
                CheckpointFollower(
                    folder,
                    "copy",
                    copy,
                    say=say,
                    done=set(storage.steps()),
                    newest_first=True,
                    # Removed at once if they were copied now: held, they would fill the disk.
                    unneeded=lambda steps: removable(steps, run.training, folder),
                )
            )
        if run.evaluation.checkpoint_benchmarks:
            followers.enter_context(validation_follower(run, folder, measure, say))
        yield


def teller(folder: RunFolder, aloud: Callable[[str], None] | None) -> Callable[[str], None]:
    """Write into the run's log, and say aloud if somebody listens."""

    def say(text: str) -> None:
        with folder.log.open("a", encoding="utf-8") as log:
            log.write(text + "\n")
        if aloud is not None:
            aloud(text)

    return say

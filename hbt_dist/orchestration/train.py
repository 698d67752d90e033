"""Train on Ray: the workers of Ray Train run the training loop, and this process watches.

When a worker dies, Ray restarts the workers from the last complete checkpoint. This process finds most of the
user's mistakes before a worker starts; a mistake that only a worker can find ends the run without restarts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from hbt_dist.batching.plan import check_divisible
from hbt_dist.common.console import counted, say
from hbt_dist.common.errors import UserError, first_line, last_line
from hbt_dist.common.phases import phase
from hbt_dist.common.signals import stop_requests
from hbt_dist.orchestration.cluster import (
    Cluster,
    check_resources,
    connect,
    hidden_gpus,
    planned_cluster,
    will_be_private,
    worker_resources,
)
from hbt_dist.orchestration.nodes import check_nodes, driver_marker
from hbt_dist.orchestration.ray_runtime import read_refusal, refusal_file, train_worker
from hbt_dist.run_file import RunFile
from hbt_dist.training.background import watch_checkpoints
from hbt_dist.training.checkpoints.measure import Measure, measure_checkpoint
from hbt_dist.training.follow import NewLines, polled
from hbt_dist.training.metrics_log import StepProgress
from hbt_dist.training.preparation import prepare, prepare_data
from hbt_dist.training.ranks import run_in_thread
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.runtime import allocator_defaults

#: Examples up to which workers tokenise within seconds; the driver tokenises more, and shows the progress.
_SMALL = 20_000
_POLL_SECONDS = 0.2
#: Seconds that Ray takes to start on two idle cores.
_RAY_SECONDS = 4.0


class WorkersNotStartedError(UserError):
    """The cluster has not started the workers in time."""


def train_on_ray(run: RunFile, *, quiet: bool = False, stop_file: Path | None = None) -> bool:
    """Train with the Ray workers of `run.workers`; return whether the training reached its last step.

    After SIGTERM or Ctrl-C in this process the workers write a checkpoint and end.

    Args:
        stop_file: once it exists, the workers write a checkpoint and end (a search stops its trials so).

    Raises:
        WorkersNotStartedError: the workers have not started within `workers.start_timeout_seconds`, three
            times.
        UserError: the run or the cluster cannot be used, or training failed more often than `max_failures`.
    """
    for number in range(run.workers.fewest, run.workers.num_workers + 1):
        check_divisible(run.batches.global_batch_size, number)
    folder = RunFolder(run.output_dir)
    folder.check(run.plain())
    folder.acquire()  # fails at once if another run writes to the folder; the workers acquire it themselves
    folder.release()
    say_phase = _silent if quiet else say
    private = will_be_private(run.workers)
    if private:
        check_resources(planned_cluster(run.workers), run.workers)
        corpus, _, _ = prepare_data(run)  # mistakes in the data end the command before Ray starts
        meanwhile = partial(prepare, run) if corpus.num_examples > _SMALL else None
    else:
        prepare(run)  # before resources of the cluster are taken: it can take hours
        meanwhile = None
    stop_file = stop_file or folder.root / "ray" / "stop"
    stop_file.parent.mkdir(parents=True, exist_ok=True)
    stop_file.unlink(missing_ok=True)
    with ExitStack() as connection:
        begun = "starting Ray on this machine" if private else "connecting to Ray"
        with phase(say_phase, begun, _RAY_SECONDS if private else None):
            cluster = connection.enter_context(connect(run.workers))
        use_gpu = check_resources(cluster, run.workers)
        _check_gpus_for_checkpoints(run, cluster, use_gpu)
        check_nodes(run)
        # With a private cluster, the progress shows the lines of the log.
        log = folder.log_writer(None if quiet or cluster.private else say)
        workers = counted(run.workers.num_workers, "worker")
        say_phase(f"starting {workers}" + ("; meanwhile the texts are tokenised" if meanwhile else ""))
        with (
            _shown_progress(folder, run, quiet=quiet or not cluster.private),
            watch_checkpoints(run, folder, _measure_on_ray(run), log),
        ):
            _fit(run, folder, cluster, use_gpu, quiet, stop_file, meanwhile)
    return _has_finished(run, folder, stop_file)


def _silent(_: str) -> None:
    """Print nothing."""


def _has_finished(run: RunFile, folder: RunFolder, stop_file: Path, seconds: float = 10) -> bool:
    """Return whether the last step was reached; False if a stop was requested before.

    Raises:
        UserError: the workers ended without an error, and their checkpoint is missing.
    """
    deadline = time.monotonic() + seconds
    while (step := max(folder.checkpoint_steps(), default=0)) < run.training.steps:
        if stop_file.exists():
            return False
        if time.monotonic() > deadline:
            raise UserError(
                f"output_dir {run.output_dir}",
                f"the workers ended without an error, but the newest checkpoint here is of step {step} "
                f"of {run.training.steps}",
                "name a folder on storage that all nodes share",
            )
        time.sleep(0.2)  # a network file system may show it late
    return True


def _check_gpus_for_checkpoints(run: RunFile, cluster: Cluster, use_gpu: bool) -> None:
    """Check that the cluster has the GPUs that measure checkpoints in addition to the workers'."""
    requested = run.evaluation.checkpoint_gpus if run.evaluation.checkpoint_benchmarks else 0.0
    workers = run.workers.num_workers if use_gpu else 0
    if requested and requested + workers > cluster.largest["GPU"]:
        raise UserError(
            "evaluation.checkpoint_gpus",
            f"{requested:g} GPUs are requested in addition to those of {workers} workers, the cluster has "
            f"{cluster.largest['GPU']:g}",
            "set it to 0 to measure on a CPU, or lower workers.num_workers",
        )


def _measure_on_ray(run: RunFile) -> Measure:
    """Return a function that measures a checkpoint in a task on any node that sees the run's folder."""

    def measure(held: Path, step: int) -> list[dict[str, Any]]:
        import ray

        gpus = run.evaluation.checkpoint_gpus
        # Reserves no CPU: on a full cluster a finished run would wait for one.
        task = ray.remote(measure_checkpoint).options(
            num_cpus=0, num_gpus=gpus, max_retries=2, runtime_env=hidden_gpus(gpus) or None
        )
        try:
            lines: list[dict[str, Any]] = ray.get(task.remote(run, held, step))
            return lines
        except ray.exceptions.RayTaskError as error:
            raise UserError("evaluation", str(error.cause).strip()) from error
        except ray.exceptions.RayError as error:
            raise UserError("evaluation", first_line(error)) from error

    return measure


def _fit(
    run: RunFile,
    folder: RunFolder,
    cluster: Cluster,
    use_gpu: bool,
    quiet: bool,
    stop_file: Path,
    meanwhile: Callable[[], object] | None,
) -> None:
    """Train; the workers start during `meanwhile`, and wait for its end."""
    import ray.train
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.config import FailureConfig, RunConfig

    workers = run.workers
    number: Any = workers.num_workers
    if workers.min_workers is not None:
        number = (workers.min_workers, workers.num_workers)
    start = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    run_config: Any = RunConfig(
        name=f"{run.name}-{start}",  # new each time: the checkpoints of the run folder carry the state
        storage_path=str(folder.root / "ray"),
        failure_config=FailureConfig(max_failures=workers.max_failures, controller_failure_limit=2),
        # Ray sets the worker's device, and torch reads its variables, before our code runs.
        worker_runtime_env={"env_vars": allocator_defaults()} if use_gpu else hidden_gpus(use_gpu),
    )
    ready = folder.root / "ray" / f"ready-{start}"
    with driver_marker(folder.root / "ray" / f"driver-{start}.json") as driver:
        trainer = _trainer_class(cluster)(
            train_worker,
            train_loop_config={
                "run": run.plain(),
                "start": start,
                "driver": driver,
                "stop_file": str(stop_file),
                "ready": str(ready),
                "quiet": quiet or cluster.private,
            },
            torch_config=TorchConfig(
                backend="nccl" if use_gpu else "gloo", timeout_s=round(run.training.hang_timeout_seconds)
            ),
            scaling_config=ray.train.ScalingConfig(
                num_workers=number,
                use_gpu=use_gpu,
                resources_per_worker=worker_resources(workers, use_gpu),
                placement_strategy=workers.placement,
            ),
            run_config=run_config,
        )
        try:
            # In another thread Ray does not replace our handler of Ctrl-C, which lets the workers save.
            training = run_in_thread(trainer.fit, "fit")
            if meanwhile is not None:
                meanwhile()
            ready.touch()
            with stop_requests(stop_file.touch):
                _wait(training, refusal_file(folder, start) if cluster.private else None)
        except ray.train.TrainingFailedError as error:
            raise _explain(error, folder, start) from error
        finally:
            ready.unlink(missing_ok=True)


def _wait(training: Future[Any], refusal: Path | None) -> None:
    """Wait for the end of a training, or until a worker has refused it, without the restarts."""
    while not wait([training], timeout=_POLL_SECONDS).done:
        if refusal is not None and (refused := read_refusal(refusal)) is not None:
            raise refused
    training.result()


def _trainer_class(cluster: Cluster) -> Any:
    from ray.train.torch import TorchTrainer

    if cluster.private:
        # A version of Ray may have these internals elsewhere; then it starts the processes that it likes.
        with suppress(ImportError):
            from hbt_dist.orchestration.private_trainer import PrivateTrainer

            return PrivateTrainer
    return TorchTrainer


def _explain(error: Exception, folder: RunFolder, start: str) -> UserError:
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    if (refusal := read_refusal(refusal_file(folder, start))) is not None:
        return refusal
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    for failure in failures.values():  # of a worker on a node with a different output folder
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, UserError):
            return cause
    rank = f"worker {next(iter(failures))}: " if failures else ""
    late = isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)
    return (WorkersNotStartedError if late else UserError)(
        str(folder.root),
        f"training failed: {rank}{last_line(next(iter(failures.values()), error))}",
        f"read Ray's report in {folder.root / 'ray'}; the same command continues from the last checkpoint",
    )


@contextmanager
def _shown_progress(folder: RunFolder, run: RunFile, *, quiet: bool) -> Iterator[None]:
    """Show the progress that rank 0 writes in the terminal of this process while the block runs."""
    if quiet:
        yield
        return
    log, metrics = NewLines(folder.log), NewLines(folder.metrics)
    progress: StepProgress | None = None

    def show() -> None:
        nonlocal progress
        for line in log.read():
            (progress.say if progress else say)(line)
        for figures in metrics.rows():
            progress = progress or StepProgress(figures["step"] - 1, run.training.steps)
            progress.show(figures["step"], figures)

    try:
        with polled(show, "progress"):
            yield
    finally:
        if progress is not None:
            progress.close()

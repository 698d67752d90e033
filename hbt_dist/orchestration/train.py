"""Training on Ray: N workers of Ray Train run the training loop; this process watches.

Workers restart from the last complete checkpoint when one of them dies. What the user gave wrong is found
in this process before any worker starts, as far as it can be; what only a worker can find ends the run
without restarts.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hbt_dist.batching.plan import check_divisible
from hbt_dist.common.console import quiet_libraries, say
from hbt_dist.common.errors import UserError
from hbt_dist.common.signals import FirstInterrupt
from hbt_dist.orchestration.cluster import (
    Cluster,
    check_resources,
    connect,
    without_gpus,
    worker_resources,
)
from hbt_dist.orchestration.node_check import check_arrival, marked
from hbt_dist.orchestration.nodes import check_nodes
from hbt_dist.run_file import RunFile
from hbt_dist.training.background import beside_training, teller
from hbt_dist.training.checkpoints.measure import Measure, measure_checkpoint
from hbt_dist.training.metrics_log import StepProgress
from hbt_dist.training.preparation import prepare
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.runtime import RayRuntime
from hbt_dist.training.train import train_loop


class NoRoomError(UserError):
    """The cluster has not started the workers in time."""


def train_on_ray(run: RunFile, *, quiet: bool = False, stop_file: Path | None = None) -> bool:
    """Train with Ray workers as `run.workers` says.

    SIGTERM to this process, or Ctrl-C, has the workers write a checkpoint and end.

    Args:
        stop_file: once it exists, the workers write a checkpoint and end (searches stop trials so).

    Returns:
        whether the last step was reached.

    Raises:
        NoRoomError: the workers have not started within `workers.start_timeout_seconds`, three times.
        UserError: the run or the cluster cannot be used, or training kept failing.
    """
    for number in range(run.workers.fewest, run.workers.num_workers + 1):
        check_divisible(run.batches.global_batch_size, number)
    folder = RunFolder(run.output_dir)
    folder.check(run.plain())
    folder.acquire()  # is another run writing there? said here, at once; workers take the folder themselves
    folder.release()
    prepare(run)  # here, so that a mistake in the data is one error before any worker starts
    stop_file = stop_file or folder.root / "ray" / "stop"
    stop_file.parent.mkdir(parents=True, exist_ok=True)
    stop_file.unlink(missing_ok=True)
    with connect(run.workers) as cluster:
        use_gpu = check_resources(cluster, run.workers)
        _check_room_for_measuring(run, cluster, use_gpu)
        check_nodes(run)
        # On a private cluster the progress below shows the log.
        tell = teller(folder, None if quiet or cluster.private else say)
        with (
            _Follower(folder, run, quiet=quiet or not cluster.private),
            beside_training(run, folder, _measure_on_ray(run), tell),
            _signals_make(stop_file),
        ):
            _fit(run, folder, cluster, use_gpu, quiet, stop_file)
    return _has_finished(run, folder, stop_file)


def _has_finished(run: RunFile, folder: RunFolder, stop_file: Path, seconds: float = 10) -> bool:
    """Whether the last step was reached; that nobody asked to stop before.

    Raises:
        UserError: the workers have ended well, and what they wrote is not here.
    """
    deadline = time.monotonic() + seconds
    while (step := max(folder.checkpoint_steps(), default=0)) < run.training.steps:
        if stop_file.exists():
            return False
        if time.monotonic() > deadline:
            raise UserError(
                f"output_dir {run.output_dir}",
                f"the workers have ended without an error, and the newest checkpoint here is of step {step} "
                f"of {run.training.steps}",
                "name a folder on storage that all nodes share",
            )
        time.sleep(0.2)  # a network file system may show it late
    return True


@contextmanager
def _signals_make(stop_file: Path) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread hears signals
        return

    def ask() -> bool:
        stop_file.touch()
        return True

    before = signal.signal(signal.SIGTERM, lambda *_: stop_file.touch())
    try:
        with FirstInterrupt(ask):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check_room_for_measuring(run: RunFile, cluster: Cluster, use_gpu: bool) -> None:
    """Whether the GPUs that measure checkpoints exist besides the workers'."""
    asked = run.evaluation.checkpoint_gpus if run.evaluation.checkpoint_benchmarks else 0.0
    workers = run.workers.num_workers if use_gpu else 0
    has = max(cluster.num_gpus, float((cluster.growth or {}).get("GPU", 0.0)))
    if asked and asked + workers > has:
        raise UserError(
            "evaluation.checkpoint_gpus",
            f"{asked:g} GPUs are asked besides those of {workers} workers, the cluster has {has:g}",
            "set it to 0 to measure on a CPU, or lower workers.num_workers",
        )


def _measure_on_ray(run: RunFile) -> Measure:
    """Measure in a task on any node that sees the run's folder."""

    def measure(held: Path, step: int) -> list[dict[str, Any]]:
        import ray

        gpus = run.evaluation.checkpoint_gpus
        hidden: dict[str, Any] = {} if gpus else {"runtime_env": without_gpus()}
        # No CPU is reserved: on a cluster that is full a finished run would wait for one.
        task = ray.remote(measure_checkpoint).options(num_cpus=0, num_gpus=gpus, max_retries=2, **hidden)
        try:
            lines: list[dict[str, Any]] = ray.get(task.remote(run, held, step))
            return lines
        except ray.exceptions.RayTaskError as error:
            raise UserError("evaluation", str(error.cause).strip()) from error
        except ray.exceptions.RayError as error:
            raise UserError("evaluation", str(error).strip().splitlines()[0]) from error

    return measure


def _fit(
    run: RunFile, folder: RunFolder, cluster: Cluster, use_gpu: bool, quiet: bool, stop_file: Path
) -> None:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.config import FailureConfig, RunConfig

    workers = run.workers
    number: Any = workers.num_workers
    if workers.min_workers is not None:
        number = (workers.min_workers, workers.num_workers)
    start = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    told: dict[str, Any] = {
        "run": run.plain(),
        "start": start,
        "quiet": quiet or cluster.private,
        "stop_file": str(stop_file),
    }
    settings: Any = RunConfig(
        name=f"{run.name}-{start}",  # new each time: the run's own checkpoints carry the state
        storage_path=str(folder.root / "ray"),
        failure_config=FailureConfig(max_failures=workers.max_failures, controller_failure_limit=2),
        worker_runtime_env={} if use_gpu else without_gpus(),
    )
    with marked(folder.root / "ray" / f"driver-{start}.json") as driver:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={**told, "driver": driver},
            torch_config=TorchConfig(
                backend="nccl" if use_gpu else "gloo", timeout_s=round(run.training.hang_timeout_seconds)
            ),
            scaling_config=ray.train.ScalingConfig(
                num_workers=number,
                use_gpu=use_gpu,
                resources_per_worker=worker_resources(workers, use_gpu),
                placement_strategy=workers.placement,
            ),
            run_config=settings,
        )
        try:
            _beside_the_main_thread(trainer.fit)
        except ray.train.TrainingFailedError as error:
            raise _explain(error, folder, start) from error


def _beside_the_main_thread(work: Callable[[], object]) -> None:
    """Do it in another thread, where Ray does not put its own handler of Ctrl-C in the place of ours.

    Ray's would end the workers before they have saved. The main thread waits, and hears signals meanwhile.
    """
    problems: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            work()
        except BaseException as error:  # raised again in the thread that waits
            problems.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="fit", daemon=True).start()
    ended.wait()
    if problems:
        raise problems[0]


def _worker(config: dict[str, Any]) -> None:
    """What each Ray worker runs."""
    quiet_libraries()
    run = RunFile.model_validate(config["run"])
    verdict = _verdict_file(RunFolder(run.output_dir), config["start"])
    if verdict.is_file():  # a restart cannot help: another rank of this start has refused already
        raise UserError(*json.loads(verdict.read_text("utf-8")))
    try:
        check_arrival(run.output_dir, config["driver"])
        train_loop(run, RayRuntime(config["stop_file"]), quiet=config["quiet"])
    except UserError as error:
        with suppress(OSError):  # the folder may be what is wrong
            verdict.parent.mkdir(parents=True, exist_ok=True)
            verdict.write_text(json.dumps([error.location, error.problem, error.remedy]), "utf-8")
        raise


def _verdict_file(folder: RunFolder, start: str) -> Path:
    return folder.root / "ray" / f"refused-{start}.json"


def _explain(error: Exception, folder: RunFolder, start: str) -> UserError:
    from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

    verdict = _verdict_file(folder, start)
    if verdict.is_file():
        return UserError(*json.loads(verdict.read_text("utf-8")))
    failures: dict[int, Exception] = getattr(error, "worker_failures", {})
    for failure in failures.values():  # of a worker on a node whose output folder is another one
        refusal = getattr(failure, "_base_exc", failure)
        if isinstance(refusal, UserError):
            return refusal
    lines = str(next(iter(failures.values()), error)).strip().splitlines()
    rank = f"worker {next(iter(failures))}: " if failures else ""
    late = isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)
    return (NoRoomError if late else UserError)(
        str(folder.root),
        f"training failed: {rank}{lines[-1] if lines else type(error).__name__}",
        f"Ray's report lies in {folder.root / 'ray'}; the same command continues from the last checkpoint",
    )


class _Follower:
    """Shows the progress that rank 0 writes, in the terminal of the person who started the run."""

    def __init__(self, folder: RunFolder, run: RunFile, *, quiet: bool) -> None:
        self._folder, self._run, self._quiet = folder, run, quiet
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="progress", daemon=True)
        self._seen = {
            path: path.stat().st_size if path.is_file() else 0 for path in (folder.metrics, folder.log)
        }

    def __enter__(self) -> None:
        if not self._quiet:
            self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _follow(self) -> None:
        progress: StepProgress | None = None
        last = False
        while not last:
            last = self._stop.wait(0.5)
            for line in self._new_lines(self._folder.log):
                (progress.say if progress else say)(line)
            for line in self._new_lines(self._folder.metrics):
                figures = _parse(line)
                if figures is None:
                    continue
                if progress is None:
                    progress = StepProgress(figures["step"] - 1, self._run.training.steps)
                progress.show(figures["step"], figures)
        if progress:
            progress.close()

    def _new_lines(self, path: Path) -> list[str]:
        try:
            size = path.stat().st_size
            self._seen[path] = min(self._seen[path], size)  # a restart cuts the file back
            with path.open("rb") as file:
                file.seek(self._seen[path])
                new = file.read()
        except OSError:
            return []
        whole = new[: new.rfind(b"\n") + 1]
        self._seen[path] += len(whole)
        return whole.decode("utf-8", errors="replace").splitlines()


def _parse(line: str) -> dict[str, Any] | None:
    try:
        figures = json.loads(line)
    except ValueError:
        return None
    return figures if isinstance(figures, dict) and "step" in figures else None

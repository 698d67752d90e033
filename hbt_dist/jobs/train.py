"""Train a run: [evaluate the start model] -> train -> [evaluate the trained model] -> compare the two."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from datetime import timedelta
from typing import Literal

from hbt_dist.common.console import note, say
from hbt_dist.common.environment import environment_number
from hbt_dist.common.signals import interrupted, report_stop
from hbt_dist.data.benchmarks.load import check_benchmarks
from hbt_dist.jobs.evaluate_run import evaluate_run, evaluate_start_apart
from hbt_dist.orchestration.settings import WorkerSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training.background import use_storage, watch_checkpoints
from hbt_dist.training.checkpoints.card import add_results
from hbt_dist.training.checkpoints.measure import measure_in_a_process
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.teacher_checks import check_teachers
from hbt_dist.training.vocabulary import check_languages

Launcher = Literal["ray", "local"]


def train_job(run: RunFile, launcher: Launcher, *, quiet: bool = False) -> RunFolder:
    """Train a run, and evaluate the model before and after as the run file requests.

    Args:
        run: the run file with absolute paths.
        launcher: ``ray`` starts workers; ``local`` trains in this process, which torchrun, deepspeed,
            accelerate or Slurm may have started together with further processes.
        quiet: print results only.

    Raises:
        UserError: an input cannot be used.
        KeyboardInterrupt: Ctrl-C; the finished steps are saved.
    """
    folder = RunFolder(run.output_dir)
    first = launched_rank(launcher) == 0
    with ExitStack() as resources:
        finished = _train_and_evaluate(run, folder, launcher, first=first, quiet=quiet, resources=resources)
    if first and not finished:
        step = max(folder.checkpoint_steps(), default=0)
        report_stop(f"stopped at step {step} as asked; the same command continues from there")
    if interrupted():
        raise KeyboardInterrupt
    return folder


def launched_rank(launcher: Launcher) -> int:
    """Return the rank that a launcher gave this process; with Ray this process is the only driver."""
    if launcher == "ray":
        return 0
    slurm = environment_number("SLURM_PROCID", 0) if environment_number("SLURM_NTASKS", 1) > 1 else 0
    return environment_number("RANK", slurm)


def _open(run: RunFile, folder: RunFolder, quiet: bool, resources: ExitStack) -> None:
    """Check folder and benchmarks, and open the storage, in the first process before training.

    Args:
        resources: keeps the storage open until the results are written.
    """
    folder.check(run.plain())
    check_benchmarks(run.evaluation.benchmarks)
    check_languages(run)
    check_teachers(run)
    resources.enter_context(use_storage(run, folder, folder.log_writer(None if quiet else say)))


def _train_and_evaluate(
    run: RunFile, folder: RunFolder, launcher: Launcher, *, first: bool, quiet: bool, resources: ExitStack
) -> bool:
    """Return whether the training reached its last step."""
    evaluated = set(run.evaluation.when) if first and run.evaluation.benchmarks else set()
    if launcher == "ray":
        _open(run, folder, quiet, resources)
        if "start" in evaluated:
            evaluate_start_apart(run, quiet=quiet)
        from hbt_dist.orchestration.train import train_on_ray

        finished = train_on_ray(run, quiet=quiet)
    else:
        if first:
            note_unused_workers(run)
        finished = train_in_process(run, quiet=quiet, before=lambda: _open(run, folder, quiet, resources))
    if not finished or interrupted():
        return finished
    if launcher == "local" and "start" in evaluated:
        evaluate_run(run, "start", quiet=quiet)
    if "end" in evaluated:
        evaluate_run(run, "end", quiet=quiet)
        add_results(run)
    if {"start", "end"} <= evaluated:
        from hbt_dist.evaluation.results import before_and_after
        from hbt_dist.reports.evaluation.page import write_report

        for benchmark in run.evaluation.benchmarks:
            before, after = (folder.evaluation / when / benchmark.label for when in ("start", "end"))
            page = write_report(after, baseline=before)
            if not quiet:
                say(f"{before_and_after(before, after)}\n  report: {page}")
    return finished


def train_in_process(run: RunFile, *, quiet: bool = False, before: Callable[[], None] = lambda: None) -> bool:
    """Train as one of the processes that a launcher started, or as a single process.

    Args:
        run: the run file with absolute paths.
        quiet: print results only.
        before: run by the first process once all have met; the other processes wait for it.

    Returns:
        whether the last step was reached.
    """
    from hbt_dist.contrastive.world import World
    from hbt_dist.training.ranks import wait_for_rank_0
    from hbt_dist.training.runtime import EnvironmentRuntime
    from hbt_dist.training.train import train

    folder = RunFolder(run.output_dir)
    log = folder.log_writer(None if quiet else say)
    timeout = timedelta(seconds=run.training.hang_timeout_seconds)
    with EnvironmentRuntime(timeout, use_gpu=run.workers.use_gpu is not False) as runtime:
        wait_for_rank_0(before, World(runtime.rank, runtime.world_size, runtime.device))
        followers = (
            watch_checkpoints(run, folder, measure_in_a_process(run), log)
            if runtime.rank == 0
            else nullcontext()
        )
        with followers:
            return train(run, runtime, quiet=quiet).finished


def note_unused_workers(run: RunFile) -> None:
    """Print a note if the run file requests workers that only Ray would start."""
    processes = environment_number("WORLD_SIZE", environment_number("SLURM_NTASKS", 1))
    requested = run.workers.num_workers
    if requested not in (processes, WorkerSettings.model_fields["num_workers"].default):
        number = "1 process" if processes == 1 else f"{processes} processes"
        note(f"workers.num_workers={requested} is not used by --launcher local: {number}")

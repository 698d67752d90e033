"""Train a run: [evaluate the start model] -> train -> [evaluate the trained model] -> compare the two."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal

from hbt_dist.common.console import note, say
from hbt_dist.common.environment import environment_number, launched_rank
from hbt_dist.common.signals import interrupted, report_stop
from hbt_dist.data.benchmarks.load import check_benchmarks
from hbt_dist.orchestration.settings import WorkerSettings
from hbt_dist.run_file import RunFile
from hbt_dist.training.background import use_storage, watch_checkpoints
from hbt_dist.training.checkpoints.measure import measure_in_a_process
from hbt_dist.training.follow import Listener, follow, succeeds
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.teacher_checks import check_teachers
from hbt_dist.training.trackers import check_trackers, open_trackers
from hbt_dist.training.vocabulary import check_languages

if TYPE_CHECKING:
    from hbt_dist.jobs.evaluate_run import When

Launcher = Literal["ray", "local"]


def train_job(
    run: RunFile, launcher: Launcher, *, listeners: Sequence[Listener] = (), quiet: bool = False
) -> RunFolder:
    """Train a run, and evaluate the model before and after as the run file requests.

    Args:
        run: the run file with absolute paths.
        launcher: ``ray`` starts workers; ``local`` trains in this process, which torchrun, deepspeed,
            accelerate or Slurm may have started together with further processes.
        listeners: receive the figures in this process, if it is the first one; closed at the end.
        quiet: print results only.

    Raises:
        UserError: an input cannot be used.
        KeyboardInterrupt: Ctrl-C; the finished steps are saved.
    """
    folder = RunFolder(run.output_dir)
    first = launched_rank(launcher) == 0
    with ExitStack() as resources:
        job = _FirstProcess(run, folder, quiet, resources, list(listeners)) if first else None
        finished = _train(run, launcher, job, quiet=quiet)
        if job is not None and finished and not interrupted():
            job.after()
    if first and not finished:
        step = max(folder.checkpoint_steps(), default=0)
        report_stop(f"stopped at step {step} as asked; the same command continues from there")
    if interrupted():
        raise KeyboardInterrupt
    return folder


def _train(run: RunFile, launcher: Launcher, job: _FirstProcess | None, *, quiet: bool) -> bool:
    """Return whether the training reached its last step.

    Args:
        job: what the first process does; None in the others.
    """
    with ExitStack() as following:

        def before() -> None:
            assert job is not None
            job.before()
            following.enter_context(follow(job.folder, job.listeners))

        if launcher == "local":
            if job is not None:
                note_unused_workers(run)
            return train_in_process(run, quiet=quiet, before=before)
        before()
        from hbt_dist.orchestration.train import train_on_ray

        return train_on_ray(run, quiet=quiet)


@dataclass
class _FirstProcess:
    """Work of the first process before and after the training.

    Args:
        resources: keeps the storage open until the results are written, then closes the listeners.
    """

    run: RunFile
    folder: RunFolder
    quiet: bool
    resources: ExitStack
    listeners: list[Listener]

    def before(self) -> None:
        """Check folder and benchmarks, open the storage, evaluate the start model."""
        run = self.run
        self.folder.check(run.plain())
        check_trackers(run.training.trackers)
        fingerprints = check_benchmarks(run.evaluation.benchmarks)
        check_languages(run)
        check_teachers(run)
        self.folder.check_free()  # a start that is refused must not touch a running training's trackers
        log = self.folder.log_writer(None if self.quiet else say)
        self.resources.enter_context(use_storage(run, self.folder, log))
        self.listeners += open_trackers(run, self.folder)
        for listener in self.listeners:
            self.resources.callback(succeeds, listener, listener.close)
        if "start" in run.evaluation.when and run.evaluation.benchmarks:
            from hbt_dist.jobs.evaluate_run import evaluate_start_apart, forget_changed

            forget_changed(run, fingerprints)
            evaluate_start_apart(run, quiet=self.quiet)
            self._pass_evaluations("start")

    def after(self) -> None:
        """Evaluate the trained model and compare it with the start model."""
        run = self.run
        if "end" not in run.evaluation.when or not run.evaluation.benchmarks:
            return
        from hbt_dist.jobs.evaluate_run import evaluate_run
        from hbt_dist.training.checkpoints.card import add_results

        evaluate_run(run, "end", quiet=self.quiet)
        self._pass_evaluations("end")
        add_results(run)
        if "start" in run.evaluation.when:
            self._compare()

    def _compare(self) -> None:
        from hbt_dist.evaluation.results import before_and_after
        from hbt_dist.reports.evaluation.page import write_report

        for benchmark in self.run.evaluation.benchmarks:
            before, after = (self.folder.evaluation / when / benchmark.label for when in ("start", "end"))
            page = write_report(after, baseline=before)
            if not self.quiet:
                say(f"{before_and_after(before, after)}\n  report: {page}")

    def _pass_evaluations(self, when: When) -> None:
        """Pass the evaluations of a model to the listeners."""
        if not self.listeners:
            return
        from hbt_dist.evaluation.read_results import read_results
        from hbt_dist.reports.evaluation.sections import pair_heatmap

        for benchmark in self.run.evaluation.benchmarks:
            folder = self.folder.evaluation / when / benchmark.label
            png = pair_heatmap(read_results(folder)).picture()
            for listener in list(self.listeners):
                call = partial(listener.evaluated, when, benchmark.label, folder, png)
                if not succeeds(listener, call):
                    self.listeners.remove(listener)


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

"""Train from Python: one call, callbacks for each step, and a result that a notebook shows.

trained = hbt_dist.train("quickstart", overrides={"training.steps": 60})
trained.evaluation("end").pairs()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hbt_dist.common.errors import UserError, expected
from hbt_dist.common.files import read_json_lines
from hbt_dist.common.hushed import hushed
from hbt_dist.evaluation.read_results import StoredEvaluation, read_evaluation
from hbt_dist.evaluation.shown import evaluations_html
from hbt_dist.run_file import RunFile, load_run
from hbt_dist.training.follow import Listener
from hbt_dist.training.metrics_log import outcome
from hbt_dist.training.run_folder import RunFolder

if TYPE_CHECKING:
    import pandas as pd

    from hbt_dist.jobs.train import Launcher

#: Called with a finished step, counted from 1, and its figures.
Callback = Callable[[int, dict[str, Any]], object]


def train(
    run: str | Path | Mapping[str, Any] | RunFile,
    launcher: Launcher = "local",
    *,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    callbacks: Sequence[Callback | Listener] = (),
    quiet: bool = False,
) -> TrainedRun:
    """Train a run, and measure its benchmarks before and after; the same call continues an interrupted run.

    Args:
        run: what `load_run` takes: a run file, the name of one of the package, a dict or a loaded run.
        launcher: ``local`` trains in this process, ``ray`` on as many workers as the run requests.
        overrides: see `load_run`.
        callbacks: called as ``callback(step, figures)`` after each step, with the figures of metrics.jsonl
            (loss, seconds, ...), up to half a second late, in a thread of this process: they observe the
            training and cannot change it. One that raises an error is not called again. A
            `hbt_dist.training.follow.Listener` also receives validation figures and evaluations.
        quiet: print nothing.

    Returns:
        the trained run: its model, figures and evaluations.

    Raises:
        UserError: the run or an input of it cannot be used.
        KeyboardInterrupt: Ctrl-C, or the notebook's stop button; the finished steps are saved.
    """
    if launcher not in ("local", "ray"):
        raise UserError("launcher", f"expected 'local' or 'ray', got {launcher!r}", "launcher='local'")
    listeners = [_listener(callback) for callback in callbacks]
    loaded = load_run(run, overrides)
    with hushed(quiet):
        from hbt_dist.jobs.train import train_job

        folder = train_job(loaded, launcher, listeners=listeners, quiet=quiet)
    return TrainedRun(loaded, folder)


@dataclass(frozen=True)
class TrainedRun:
    """A run and what its training has written."""

    run: RunFile
    folder: RunFolder

    @property
    def model(self) -> Path:
        """Folder of the trained model, which sentence-transformers and transformers load, too."""
        return self.folder.model

    @property
    def figures(self) -> pd.DataFrame:
        """The figures of every step, such as loss and seconds: one row per step."""
        import pandas as pd

        return pd.DataFrame(read_json_lines(self.folder.metrics)).set_index("step")

    def evaluation(self, when: str = "end", label: str | None = None) -> StoredEvaluation:
        """Return an evaluation of the run.

        Args:
            when: ``start`` or ``end``: the model before or after training.
            label: of the benchmark; default: the first of the run.

        Raises:
            UserError: the run has no such evaluation.
        """
        labels = [benchmark.label for benchmark in self.run.evaluation.benchmarks]
        chosen = label or next(iter(labels), "none")
        if chosen not in labels or when not in self.run.evaluation.when:
            listed = [f"{when}, {name}" for when in self.run.evaluation.when for name in labels]
            known = f"choose from: {'; '.join(listed)}" if listed else "name one in evaluation.benchmarks"
            raise UserError(f"evaluation {when!r} of {chosen}", "is not part of the run", known)
        return read_evaluation(self.folder.evaluation / when / chosen)

    def __repr__(self) -> str:
        lines = [str(outcome(self.folder, self.run.training.steps))]
        for title, evaluation in self._evaluations().items():
            lines += [f"{title}: {evaluation.shown.text()}"]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        shown = {title: evaluation.shown for title, evaluation in self._evaluations().items()}
        line = f"<p>{outcome(self.folder, self.run.training.steps)}</p>"
        return line + (evaluations_html(shown) if shown else "")

    def _evaluations(self) -> dict[str, StoredEvaluation]:
        names = {"start": "before training", "end": "after training"}
        alone = len(self.run.evaluation.benchmarks) == 1
        return {
            names[when] if alone else f"{benchmark.label} {names[when]}": self.evaluation(
                when, benchmark.label
            )
            for benchmark in self.run.evaluation.benchmarks
            for when in self.run.evaluation.when
        }


class _Callback(Listener):
    """Pass the steps to a function."""

    def __init__(self, function: Callback) -> None:
        self._function = function
        self.name = getattr(function, "__name__", type(function).__name__)

    def step(self, step: int, figures: dict[str, Any]) -> None:
        self._function(step, figures)


def _listener(callback: Callback | Listener) -> Listener:
    if callable(getattr(callback, "step", None)):
        return callback  # type: ignore[return-value]
    if callable(callback):
        return _Callback(callback)  # type: ignore[abstract]  # a listener's methods do nothing by default
    raise expected("callbacks", "functions of step and figures", callback, "callbacks=[fn(step, figures)]")

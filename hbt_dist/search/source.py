"""Give a search's trials one by one: unfinished ones first, then every new point with every seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from hbt_dist.common.errors import UserError
from hbt_dist.run_file import RunFile
from hbt_dist.search.folder import SearchFolder, Trial
from hbt_dist.search.sampler import Sampler, make_sampler
from hbt_dist.search.settings import SearchFile
from hbt_dist.search.space import Base


class TrialSource(Protocol):
    """The trials of a search or a study."""

    def next(self) -> Trial | None:
        """Return the next trial to run, with its plan written, or None after the last."""

    def ended(self, trial: Trial) -> None:
        """Take note of the end of a trial, whose folder holds the outcome."""

    def remaining(self) -> int:
        """Return the number of trials that have not started, as far as it is known."""


class SearchSource:
    """The trials of a search.

    Args:
        folder: opened.
        retry_failed: run failed trials again.
    """

    def __init__(
        self, search: SearchFile, base: Base, folder: SearchFolder, *, retry_failed: bool = False
    ) -> None:
        self._search, self._base, self._folder = search, base, folder
        self._points: list[dict[str, Any]] = [line["parameters"] for line in folder.points()]
        numbers = range(len(self._points))
        self._waiting = [
            trial
            for number in numbers
            for trial in self._trials(number)
            if trial.must_run(retry_failed=retry_failed)
        ]
        unfinished = {trial.point for trial in self._waiting}
        outcomes = [None if number in unfinished else self._outcome(number) for number in numbers]
        self._sampler: Sampler = make_sampler(search, list(zip(self._points, outcomes, strict=True)))
        self._open = {number for number in numbers if outcomes[number] is None}

    def warm_start(self) -> int:
        """Teach the sampler the results of earlier searches; return how many points it accepted."""
        accepted = 0
        for path in self._search.warm_start:
            earlier = SearchFolder(Path(path))
            if not (earlier.root / "search.json").is_file():
                raise UserError(
                    f"warm_start: {path}",
                    "expected the folder of a search, found no search.json in it",
                    "correct the path, or remove it from warm_start",
                )
            trials: dict[int, list[Trial]] = {}
            for trial in earlier.trials():
                trials.setdefault(trial.point, []).append(trial)
            for seeds in trials.values():
                objectives = earlier.outcome(seeds, list(self._search.objectives))
                if objectives is not None:
                    accepted += self._sampler.learn(seeds[0].parameters, objectives)
        return accepted

    def next(self) -> Trial | None:
        """Return the next trial, with its plan written."""
        if not self._waiting and not self._draw_point():
            return None
        trial = self._waiting.pop(0)
        trial.write_plan(
            self.run_of(trial),
            self._search.benchmark,
            every_checkpoint=self._search.evaluate_checkpoints,
        )
        return trial

    def run_of(self, trial: Trial) -> RunFile:
        """Return a trial's run: the base with the point's values, its seed and folder, no final tests."""
        run = self._base.run(
            trial.parameters,
            location=f"{self._folder.root}, {trial.name}",
            seed=trial.seed,
            name=trial.name,
            output_dir=str(trial.folder / "run"),
        )
        return run.model_copy(update={"evaluation": run.evaluation.model_copy(update={"benchmarks": ()})})

    def ended(self, trial: Trial) -> None:
        """Report a point to the sampler when all its seeds have ended."""
        number = trial.point
        if number in self._open and not any(seed.must_run() for seed in self._trials(number)):
            self._open.discard(number)
            self._sampler.record(number, self._points[number], self._outcome(number))

    def remaining(self) -> int:
        """Return the number of waiting trials plus those of the points that are not drawn yet."""
        undrawn = max(0, self._search.num_points() - len(self._points))
        return len(self._waiting) + len(self._search.seeds) * undrawn

    def _draw_point(self) -> bool:
        point = self._sampler.draw()
        if point is None:
            return False
        number = self._folder.add_point(point, self._search.sampler.kind)
        self._points.append(point)
        self._open.add(number)
        self._waiting = self._trials(number)
        return True

    def _trials(self, number: int) -> list[Trial]:
        return [self._folder.trial(number, seed, self._points[number]) for seed in self._search.seeds]

    def _outcome(self, number: int) -> dict[str, float] | None:
        return self._folder.outcome(self._trials(number), list(self._search.objectives))

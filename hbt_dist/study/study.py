"""Turn a study file into runs and trials, and find their evaluations.

A study is kept like a search (`hbt_dist.search.folder`): its points are the methods, its trials the
trainings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import expanded
from hbt_dist.config.paths import check_relative
from hbt_dist.config.settings import load_settings
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.run_file import RunFile
from hbt_dist.search.folder import SearchFolder, Trial
from hbt_dist.search.space import Base, absolute_benchmark, data_dirs, run_files
from hbt_dist.study.settings import Method, StudyFile

#: File of the study's folder with the number of training examples that repeat the later benchmarks.
OVERLAPS = "later_overlaps.json"
#: Name of the start model in tables.
BEFORE = "before training"


@dataclass(frozen=True)
class Study:
    """A study file with the run of each trained method (seed and folder still those of the base)."""

    file: StudyFile
    bases: Mapping[str, Base]
    runs: Mapping[str, RunFile]
    location: str

    @classmethod
    def load(cls, path: str, overrides: Sequence[str] = ()) -> Study:
        """Read a study file and the run of every method.

        Raises:
            UserError: a value is impossible.
        """
        study = load_settings(StudyFile, Path(path), overrides)
        check_relative(_inputs(study).items(), Path(path))
        data = study.model_dump(mode="json")
        data["output_dir"] = str(expanded(study.output_dir).absolute())
        for block in data["benchmarks"] + data["later_benchmarks"]:
            absolute_benchmark(block)
        study = StudyFile.model_validate(data)
        common = Base.load(study.run, study.overrides)
        bases = {
            name: common if method.run is None else Base.load(method.run, study.overrides)
            for name, method in study.trained().items()
        }
        loaded = cls(study, bases, {}, path)
        runs = {name: loaded.run_of(name, seed=study.seeds[0]) for name in bases}
        for name, method in study.methods.items():
            scoring_of(runs[method.trained_as or name], method, f"{path}, methods.{name}.scoring")
        return cls(study, bases, runs, path)

    def run_of(self, name: str, *, seed: int, output_dir: str | None = None) -> RunFile:
        """Return the run of a method: it does not evaluate, and its data has no text of a benchmark."""
        method = self.file.methods[name]
        location = f"{self.location}, methods.{name}"
        folder = {} if output_dir is None else {"output_dir": output_dir}
        point = dict(method.overrides)
        if self.file.check_leaks:
            point["data.exclude_overlap_with"] = [
                benchmark.model_dump(mode="json") for benchmark in self.file.benchmarks
            ]
        run = self.bases[name].run(point, location=location, seed=seed, name=name, **folder)
        evaluation = run.evaluation.model_copy(
            update={"benchmarks": (), "scoring": scoring_of(run, method, f"{location}.scoring")}
        )
        return run.model_copy(update={"evaluation": evaluation})


def _inputs(study: StudyFile) -> dict[str, str | None]:
    """Return dotted key -> path of everything that a study file reads."""
    blocks = {"benchmarks": study.benchmarks, "later_benchmarks": study.later_benchmarks}
    benchmarks = {f"{key}.{i}": each for key, block in blocks.items() for i, each in enumerate(block)}
    runs = {f"methods.{name}.run": method.run for name, method in study.methods.items()}
    return data_dirs(benchmarks) | run_files({"run": study.run, **runs})


def scoring_of(run: RunFile, method: Method, location: str) -> EvaluationSettings:
    """Return how the models of a method are measured.

    Raises:
        UserError: a key of `scoring` is unknown or impossible.
    """
    try:
        return EvaluationSettings.model_validate({**run.evaluation.scoring.model_dump(), **method.scoring})
    except ValueError as error:
        lines = str(error).splitlines()
        raise UserError(
            location, " ".join(lines[1:3]).strip(), "see `hbt-dist schema`, evaluation.scoring"
        ) from None


class StudySource:
    """The trainings of a study as trials: one seed of every method first, for an early look."""

    def __init__(self, study: Study, folder: SearchFolder, *, retry_failed: bool = False) -> None:
        self._study = study
        recorded = {line["parameters"]["method"] for line in folder.points()}
        for name in study.bases:
            if name not in recorded:
                folder.add_point({"method": name}, "study")
        by_method = trials_of(study.file, folder)
        self._waiting = [
            trial
            for trials in zip(*(by_method[name] for name in study.bases), strict=True)
            for trial in trials
            if trial.must_run(retry_failed=retry_failed)
        ]

    def next(self) -> Trial | None:
        """Return the next training, with its plan written."""
        if not self._waiting:
            return None
        trial = self._waiting.pop(0)
        run = self._study.run_of(
            trial.parameters["method"], seed=trial.seed, output_dir=str(trial.folder / "run")
        )
        trial.write_plan(run, None, final_benchmarks=self._study.file.benchmarks)
        return trial

    def ended(self, trial: Trial) -> None:
        """Do nothing: the trainings of a study do not depend on each other."""

    def remaining(self) -> int:
        """Return the number of waiting trainings."""
        return len(self._waiting)


def trials_of(study: StudyFile, folder: SearchFolder) -> dict[str, list[Trial]]:
    """Return trained method -> its trials, one per seed, in the order of the seeds."""
    numbers = {line["parameters"]["method"]: line["point"] for line in folder.points()}
    return {
        name: [folder.trial(numbers[name], seed, {"method": name}) for seed in study.seeds]
        for name in study.trained()
        if name in numbers
    }


def evaluation_folder(study: StudyFile, name: str, trial: Trial, label: str) -> Path:
    """Return the folder of a method's evaluation: methods with `trained_as` measure trials of another one."""
    kind = "final" if study.methods[name].trained_as is None else name
    return trial.folder / "evaluation" / kind / label


def evaluations_of(study: StudyFile, folder: SearchFolder, label: str) -> dict[str, list[Path]]:
    """Return method -> its existing evaluation folders on a benchmark, in the order of the seeds."""
    trials = trials_of(study, folder)
    return {
        name: [
            path
            for trial in trials.get(method.trained_as or name, [])
            if ((path := evaluation_folder(study, name, trial, label)) / "results.json").is_file()
        ]
        for name, method in study.methods.items()
    }


def start_folder(folder: SearchFolder, name: str, label: str) -> Path:
    """Return the folder of the evaluation before training of a method's start model."""
    return folder.root / "start" / name / label


def starts_of(study: StudyFile, folder: SearchFolder, label: str) -> dict[str, Path]:
    """Return a row's name -> the evaluation of a start model on a benchmark, before training."""
    folders = {
        name: path
        for name in study.trained()
        if ((path := start_folder(folder, name, label)) / "results.json").is_file()
    }
    alone = len(folders) == 1
    return {BEFORE if alone else f"{BEFORE} ({name})": path for name, path in folders.items()}

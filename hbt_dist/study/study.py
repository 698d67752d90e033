"""`hbt-dist study`: train every method with every seed, evaluate, compare, report; again continues.

A study is kept like a search (`hbt_dist.search.folder`): its points are the methods, its trials the
trainings. Ray runs as many at a time as the cluster holds. Methods that only evaluate otherwise are measured
when all trainings have ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_dist.common.console import Say
from hbt_dist.common.console import say as say_line
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import write_json
from hbt_dist.config.settings import load_settings
from hbt_dist.evaluation.read_results import read_results
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.run_file import RunFile
from hbt_dist.search.folder import SearchFolder, Trial
from hbt_dist.search.space import Base
from hbt_dist.study.settings import Method, StudyFile

#: How many training examples repeat the later benchmarks.
OVERLAPS = "later_overlaps.json"
_MAY_CHANGE = (
    "output_dir",
    "question",
    "notes",
    "max_concurrent",
    "trial_resources",
    "resampled",
    "later_benchmarks",
    "primary",
)


@dataclass(frozen=True)
class Study:
    """A study file with the run of each method (seed and folder still those of the base)."""

    file: StudyFile
    bases: Mapping[str, Base]  # trained methods
    runs: Mapping[str, RunFile]
    place: str

    @classmethod
    def load(cls, path: str, overrides: Sequence[str] = ()) -> Study:
        """Read a study file and the run of every method.

        Raises:
            UserError: something in them cannot be.
        """
        study = load_settings(StudyFile, Path(path), overrides)
        data = study.model_dump(mode="json")
        data["output_dir"] = str(Path(study.output_dir).expanduser().absolute())
        for block in data["benchmarks"] + data["later_benchmarks"]:
            if block["data_dir"] is not None:
                block["data_dir"] = str(Path(block["data_dir"]).expanduser().absolute())
        study = StudyFile.model_validate(data)
        common = Base.load(study.run, study.overrides)
        bases: dict[str, Base] = {}
        for name, method in study.trained().items():
            bases[name] = common if method.run is None else Base.load(method.run, study.overrides)
        loaded = cls(study, bases, {}, path)
        runs = {name: loaded.run_of(name, seed=study.seeds[0]) for name in bases}
        for name, method in study.methods.items():
            _scoring(runs[method.trained_as or name], method, f"{path}, methods.{name}.scoring")
        return cls(study, bases, runs, path)

    def run_of(self, name: str, *, seed: int, output_dir: str | None = None) -> RunFile:
        """The run of a method: no evaluation of its own, and no text of a benchmark in its data."""
        method = self.file.methods[name]
        place = f"{self.place}, methods.{name}"
        fixed: dict[str, Any] = {"seed": seed, "name": name}
        if output_dir is not None:
            fixed["output_dir"] = output_dir
        point = dict(method.overrides)
        if self.file.check_leaks:
            benchmarks = [one.model_dump(mode="json") for one in self.file.benchmarks]
            point["data.exclude_overlap_with"] = benchmarks
        run = self.bases[name].run(point, location=place, **fixed)
        measured = run.evaluation.model_copy(
            update={"benchmarks": (), "scoring": _scoring(run, method, f"{place}.scoring")}
        )
        return run.model_copy(update={"evaluation": measured})


def _scoring(run: RunFile, method: Method, place: str) -> EvaluationSettings:
    """How the models of a method are measured.

    Raises:
        UserError: a key of `scoring` is unknown or impossible.
    """
    try:
        return EvaluationSettings.model_validate({**run.evaluation.scoring.model_dump(), **method.scoring})
    except ValueError as error:
        lines = str(error).splitlines()
        raise UserError(
            place, " ".join(lines[1:3]).strip(), "see `hbt-dist schema`, evaluation.scoring"
        ) from None


class StudySource:
    """The trainings of a study, as trials."""

    def __init__(self, study: Study, folder: SearchFolder, *, retry_failed: bool = False) -> None:
        self._study, self._folder = study, folder
        recorded = {line["parameters"]["method"] for line in folder.points()}
        for name in study.bases:
            if name not in recorded:
                folder.add_point({"method": name}, "study")
        trials = trials_of(study.file, folder)
        self._waiting = [
            trial
            for seed in study.file.seeds  # one seed of every method first: something to look at early
            for name in study.bases
            for trial in trials[name]
            if trial.seed == seed and trial.must_run(retry_failed=retry_failed)
        ]

    def next(self) -> Trial | None:
        """The next training, its plan written."""
        if not self._waiting:
            return None
        trial = self._waiting.pop(0)
        run = self._study.run_of(
            trial.parameters["method"], seed=trial.seed, output_dir=str(trial.folder / "run")
        )
        trial.write_plan(run, None, final_benchmarks=self._study.file.benchmarks)
        return trial

    def ended(self, trial: Trial) -> None:
        """Nothing follows from one training for the others."""

    def remaining(self) -> int:
        """Trainings that wait."""
        return len(self._waiting)


def trials_of(study: StudyFile, folder: SearchFolder) -> dict[str, list[Trial]]:
    """Trained method -> its trials, one per seed."""
    numbers = {line["parameters"]["method"]: line["point"] for line in folder.points()}
    return {
        name: [folder.trial(numbers[name], seed, {"method": name}) for seed in study.seeds]
        for name in study.trained()
        if name in numbers
    }


def evaluations_of(study: StudyFile, folder: SearchFolder, label: str) -> dict[str, list[Path]]:
    """Method -> its evaluation folders on a benchmark, seeds in order, those that exist."""
    trials = trials_of(study, folder)
    found: dict[str, list[Path]] = {}
    for name, method in study.methods.items():
        places = [
            trial.folder / "evaluation" / ("final" if method.trained_as is None else name) / label
            for trial in trials.get(method.trained_as or name, [])
        ]
        found[name] = [place for place in places if (place / "results.json").is_file()]
    return found


def study_job(
    path: str,
    overrides: Sequence[str] = (),
    *,
    dry_run: bool = False,
    retry_failed: bool = False,
    quiet: bool = False,
) -> Path:
    """Run or continue a study and write its report.

    Returns:
        the folder of the study; the report is in `report/`.

    Raises:
        UserError: the study cannot be done as asked, or no seed of a method gave results.
    """
    from hbt_dist.data.benchmarks.load import check_benchmarks
    from hbt_dist.orchestration.tune import run_trials
    from hbt_dist.study.bases import check_bases

    say: Say = (lambda text: None) if quiet else say_line
    study = Study.load(path, overrides)
    folder = SearchFolder(Path(study.file.output_dir))
    check_bases(study, folder)
    if dry_run:
        from hbt_dist.jobs.dry_run import describe_study

        print(describe_study(study))
        return Path(study.file.output_dir)
    fingerprints = check_benchmarks(study.file.all_benchmarks())
    folder.open(
        _described(study.file),
        {"study.yaml": study.file.model_dump(mode="json")},
        may_grow=("methods", "seeds"),
    )
    try:
        if study.file.check_leaks:
            _say_overlaps(study, say)
        source = StudySource(study, folder, retry_failed=retry_failed)
        if source.remaining():
            run_trials(
                source,
                folder,
                next(iter(study.runs.values())).workers,
                trial_resources=study.file.trial_resources,
                max_concurrent=study.file.max_concurrent,
                say=say,
            )
        _evaluate_the_rest(study, folder, fingerprints, say)
        _count_overlaps(study, folder, say)
        from hbt_dist.reports.study.report import write_study_report

        write_study_report(study.file, folder, say=say)
    finally:
        folder.close()
    return folder.root


def _say_overlaps(study: Study, say: Say) -> None:
    from hbt_dist.jobs.train import overlap_of

    told: set[str] = set()
    for run in study.runs.values():
        text = overlap_of(run)
        if text not in told:
            say(text)
            told.add(text)


def _count_overlaps(study: Study, folder: SearchFolder, say: Say) -> None:
    """How many training examples repeat the later benchmarks, into `OVERLAPS`: label -> source -> number.

    Counted again when a benchmark, or a method with other training data, has been added.
    """
    from hbt_dist.data.benchmarks.load import load
    from hbt_dist.data.corpus.convert import build_corpus
    from hbt_dist.data.leakage.report import find_leaks

    later = study.file.later_benchmarks
    if not later:
        return
    corpora = {
        corpus.fingerprint: corpus
        for corpus in (build_corpus(run.data, Path(run.data.cache_dir)) for run in study.runs.values())
    }
    of = {"corpora": sorted(corpora), "benchmarks": [one.model_dump(mode="json") for one in later]}
    file = folder.root / OVERLAPS
    if file.is_file() and json.loads(file.read_text("utf-8")).get("of") == of:
        return
    labels = [benchmark.label for benchmark in later]
    benchmarks = [load(benchmark) for benchmark in later]
    most: dict[str, dict[str, int]] = {label: {} for label in labels}
    for fingerprint, corpus in corpora.items():
        say(f"compare training data {fingerprint[:8]} with {', '.join(labels)}")
        for source, counts in find_leaks(corpus, benchmarks, labels).counts.items():
            for label, number in counts.items():
                most[label][source] = max(number, most[label].get(source, 0))
    write_json(file, {"of": of, "counts": most})


def _evaluate_the_rest(study: Study, folder: SearchFolder, fingerprints: Mapping[str, str], say: Say) -> None:
    """Measure on the later benchmarks, and the methods that use the models of another one on all of them.

    What was measured on another version of a benchmark is measured again.

    Args:
        fingerprints: label -> fingerprint of the benchmark as it is now.

    Raises:
        UserError: the model of such a measurement is gone.
    """
    from hbt_dist.evaluation.run import score_model
    from hbt_dist.methods.language_removal import build_removal

    trials = trials_of(study.file, folder)
    for name, method in study.file.methods.items():
        own = method.trained_as is None
        run = study.runs[method.trained_as or name]
        scoring = _scoring(run, method, name)
        for trial in trials[method.trained_as or name]:
            model = trial.folder / "run" / "model"
            for benchmark in study.file.all_benchmarks():
                out = trial.folder / "evaluation" / ("final" if own else name) / benchmark.label
                found = _measured_on(out)
                if found == fingerprints[benchmark.label]:
                    continue
                if found is None and own and benchmark not in study.file.later_benchmarks:
                    continue  # a training measures these itself when it ends
                if found is not None and not model.is_dir():
                    raise UserError(
                        str(out),
                        f"was made on another version of {benchmark.label} (fingerprint {found[:12]})",
                        "the model is gone: remove the folder, or give the old files or languages again",
                    )
                if model.is_dir():
                    again = "" if found is None else " (its texts or languages have changed)"
                    say(f"evaluate {name}: seed {trial.seed}, {benchmark.label}{again}")
                    score_model(
                        model,
                        benchmark,
                        out,
                        text=run.model.text,
                        scoring=scoring,
                        trust_remote_code=run.model.trust_remote_code,
                        build_transform=build_removal,
                    )


def _measured_on(out: Path) -> str | None:
    """Fingerprint of the benchmark that an evaluation folder was made on; none if there is no such folder."""
    if not (out / "results.json").is_file():
        return None
    return str(read_results(out)["benchmark"]["fingerprint"])


def _described(study: StudyFile) -> dict[str, Any]:
    """What makes a study this study: what is computed, not where or how much at a time."""
    data = study.model_dump(mode="json")
    for key in _MAY_CHANGE:
        del data[key]
    for method in data["methods"].values():
        del method["about"], method["against"]
    return {"kind": "study", **data}

"""Run a study: train every method with every seed, evaluate, compare, report; the same command continues.

Ray runs as many trainings at a time as fit in the cluster. Methods that only evaluate differently are
measured when all trainings have ended.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hbt_dist.common.console import Say
from hbt_dist.common.console import say as say_line
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import write_json
from hbt_dist.config.difference import changed_settings, first_of
from hbt_dist.config.settings import validate
from hbt_dist.data.benchmarks.load import check_benchmarks, load
from hbt_dist.data.corpus.convert import build_corpus, overlap_text
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.leakage.report import find_leaks
from hbt_dist.evaluation.read_results import read_results
from hbt_dist.jobs.search import CHANGES_NO_FIGURE
from hbt_dist.run_file import RunFile
from hbt_dist.search.folder import SearchFolder, Trial
from hbt_dist.study.settings import StudyFile
from hbt_dist.study.study import (
    OVERLAPS,
    Study,
    StudySource,
    evaluation_folder,
    scoring_of,
    start_folder,
    trials_of,
)
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.teacher_checks import check_models

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
        UserError: the study is impossible, or no seed of a method gave results.
        KeyboardInterrupt: Ctrl-C; the running trainings are saved.
    """
    from hbt_dist.orchestration.tune import run_trials
    from hbt_dist.reports.study.report import write_study_report

    say: Say = (lambda text: None) if quiet else say_line
    study = Study.load(path, overrides)
    folder = SearchFolder(Path(study.file.output_dir))
    check_bases(study, folder)
    for run in study.runs.values():
        check_models(run)
    if dry_run:
        from hbt_dist.jobs.dry_run import describe_study

        print(describe_study(study))
        return folder.root
    fingerprints = check_benchmarks(study.file.all_benchmarks())
    folder.open(
        _identity(study.file),
        {"study.yaml": study.file.model_dump(mode="json")},
        may_grow=("methods", "seeds"),
    )
    try:
        if study.file.check_leaks:
            for text in dict.fromkeys(overlap_text(corpus) for corpus in _corpora(study)):
                say(text)
        source = StudySource(study, folder, retry_failed=retry_failed)
        if source.remaining() and not run_trials(
            source,
            folder,
            next(iter(study.runs.values())).workers,
            trial_resources=study.file.trial_resources,
            max_concurrent=study.file.max_concurrent,
            say=say,
        ):
            return folder.root
        _evaluate_starts(study, folder, fingerprints, say)
        _evaluate_missing(study, folder, fingerprints, say)
        _count_overlaps(study, folder, say)
        write_study_report(study.file, folder, say=say)
    finally:
        folder.close()
    return folder.root


def check_bases(study: Study, folder: SearchFolder) -> None:
    """Compare the methods' runs with the runs of the trainings so far, in their `plan.json`.

    A training that failed before its first step does not count.

    Raises:
        UserError: they differ; it names the training and the settings.
    """
    for name, trials in trials_of(study.file, folder).items():
        for trial in trials:
            evaluated = (trial.folder / "evaluation").is_dir()  # a model may have been removed since
            if not evaluated and not RunFolder(trial.folder / "run").has_begun():
                continue
            differences = changed_settings(
                _run_of(trial).plain(),
                study.runs[name].plain(),
                may_change=(*CHANGES_NO_FIGURE, "training.checkpoint_every"),
                may_move=("made",),
            )
            if differences:
                raise UserError(
                    str(folder.root),
                    f"{name} with seed {trial.seed} was trained from another run ({first_of(differences)})",
                    f"undo the change of {study.bases[name].file}, choose another output_dir, or remove\n"
                    f"{trial.folder} to train again",
                )


def _run_of(trial: Trial) -> RunFile:
    """Return the run of a training so far."""
    file = trial.folder / "plan.json"
    try:
        return validate(RunFile, json.loads(file.read_text("utf-8"))["run"], str(file))
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            str(file), "expected the plan of a training", f"remove {trial.folder} to train again"
        ) from None


def _corpora(study: Study) -> list[Corpus]:
    return [build_corpus(run.data, Path(run.data.cache_dir)) for run in study.runs.values()]


def _count_overlaps(study: Study, folder: SearchFolder, say: Say) -> None:
    """Write how many training examples repeat the later benchmarks to `OVERLAPS`: label -> source -> number.

    Counts again if a benchmark, or a method with different training data, has been added.
    """
    later = study.file.later_benchmarks
    if not later:
        return
    corpora = {corpus.fingerprint: corpus for corpus in _corpora(study)}
    compared = {
        "corpora": sorted(corpora),
        "benchmarks": [benchmark.model_dump(mode="json") for benchmark in later],
    }
    file = folder.root / OVERLAPS
    if file.is_file() and json.loads(file.read_text("utf-8")).get("of") == compared:
        return
    labels = [benchmark.label for benchmark in later]
    benchmarks = [load(benchmark) for benchmark in later]
    most: dict[str, dict[str, int]] = {label: {} for label in labels}
    for fingerprint, corpus in corpora.items():
        say(f"compare training data {fingerprint[:8]} with {', '.join(labels)}")
        for source, counts in find_leaks(corpus, benchmarks, labels).counts.items():
            for label, number in counts.items():
                most[label][source] = max(number, most[label].get(source, 0))
    write_json(file, {"of": compared, "counts": most})


def _evaluate_missing(study: Study, folder: SearchFolder, fingerprints: Mapping[str, str], say: Say) -> None:
    """Evaluate on later benchmarks, and the methods that use models of another method on all benchmarks.

    Evaluates again if a benchmark has changed since.

    Args:
        fingerprints: label -> current fingerprint of the benchmark.

    Raises:
        UserError: a benchmark has changed and the model has been removed.
    """
    from hbt_dist.evaluation.run import score_model
    from hbt_dist.methods.language_removal import build_removal

    trials = trials_of(study.file, folder)
    for name, method in study.file.methods.items():
        trains = method.trained_as is None
        run = study.runs[method.trained_as or name]
        scoring = scoring_of(run, method, name)
        for trial in trials[method.trained_as or name]:
            model = trial.folder / "run" / "model"
            for benchmark in study.file.all_benchmarks():
                out = evaluation_folder(study.file, name, trial, benchmark.label)
                measured = _measured_on(out)
                if measured == fingerprints[benchmark.label]:
                    continue
                if measured is None and trains and benchmark not in study.file.later_benchmarks:
                    continue  # a training evaluates on these when it ends
                if measured is not None and not model.is_dir():
                    raise UserError(
                        str(out),
                        f"was made on another version of {benchmark.label} (fingerprint {measured[:12]})",
                        "its model has been removed: remove the folder, or restore the benchmark's files or "
                        "languages",
                    )
                if model.is_dir():
                    reason = "" if measured is None else " (its texts or languages have changed)"
                    say(f"evaluate {name}: seed {trial.seed}, {benchmark.label}{reason}")
                    score_model(
                        model,
                        benchmark,
                        out,
                        **run.evaluated_text(),
                        scoring=scoring,
                        trust_remote_code=run.model.trust_remote_code,
                        build_transform=build_removal,
                    )


def _evaluate_starts(study: Study, folder: SearchFolder, fingerprints: Mapping[str, str], say: Say) -> None:
    """Evaluate every start model once on all benchmarks; methods with equal model settings share it.

    A start model that has been removed since is reported: the report does not need it.
    """
    from hbt_dist.training.checkpoints.measure import measure_model

    trials = trials_of(study.file, folder)
    models: dict[str, str] = {}
    for name, run in study.runs.items():
        models.setdefault(json.dumps(run.plain()["model"], sort_keys=True), name)
    for name in models.values():
        run = study.runs[name]
        model = Path(run.model.name_or_path or RunFolder(trials[name][0].folder / "run").start)
        for benchmark in study.file.all_benchmarks():
            out = start_folder(folder, name, benchmark.label)
            if _measured_on(out) == fingerprints[benchmark.label]:
                continue
            say(f"evaluate before training: {benchmark.label}")
            try:
                measure_model(run, model, benchmark, out)
            except UserError as error:
                say(f"the report has no figures before training: {error.location}: {error.problem}")
                break


def _measured_on(out: Path) -> str | None:
    """Return the fingerprint of an evaluation folder's benchmark; None without such a folder."""
    if not (out / "results.json").is_file():
        return None
    return str(read_results(out)["benchmark"]["fingerprint"])


def _identity(study: StudyFile) -> dict[str, Any]:
    """Return the settings that a continued study must keep: what is computed, not where and how fast."""
    data = study.model_dump(mode="json", exclude=set(_MAY_CHANGE))
    for method in data["methods"].values():
        del method["about"], method["against"]
    return {"kind": "study", **data}

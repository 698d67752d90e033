"""Write the page of an evaluation, a search or a study."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hbt_dist.common.console import say
from hbt_dist.common.errors import UserError
from hbt_dist.config.settings import load_settings
from hbt_dist.search.folder import SearchFolder
from hbt_dist.study.settings import StudyFile

#: The file that identifies the kind of a folder.
_FILES = {"evaluation": "results.json", "study": "study.yaml", "search": "search.json"}
_ARTICLES = {"evaluation": "an", "study": "a", "search": "a"}


def report_job(
    folder: Path,
    output: Path | None = None,
    *,
    baseline: Path | None = None,
    trials: Sequence[str] | None = None,
    study: Path | None = None,
    as_json: bool = False,
    quiet: bool = False,
) -> str:
    """Write the page of a folder and return the text for the terminal.

    Args:
        folder: of an evaluation, a search or a study.
        output: folder to write to; default: the evaluation's folder, or the subfolder `report`.
        baseline: of an evaluation: an older evaluation on the same benchmark.
        trials: of a search: two trials to compare.
        study: of a study: the file whose texts and contrasts the report has.
        as_json: of a search: return the findings as JSON.
        quiet: return the path of the page alone.

    Raises:
        UserError: the folder holds none of them, or an option belongs to a different kind of folder.
    """
    kind = _kind(folder)
    for option, given, needed in (
        ("--baseline", baseline, "evaluation"),
        ("--compare", trials, "search"),
        ("--json", as_json, "search"),
        ("--study", study, "study"),
    ):
        if given and kind != needed:
            problem = f"is {_ARTICLES[kind]} {kind}, but {option} needs {_ARTICLES[needed]} {needed}"
            raise UserError(str(folder), problem, f"remove {option}")
    if kind == "evaluation":
        from hbt_dist.reports.evaluation.page import write_report

        page = write_report(folder, baseline, output)
        return str(page) if quiet else f"written: {page}, report.md, figures"
    if kind == "study":
        from hbt_dist.reports.study.report import write_study_report

        listener = (lambda text: None) if quiet else say
        settings = _study_settings(folder, study)
        written = write_study_report(settings, SearchFolder(folder.absolute()), output, say=listener)
        return f"{written}/study.html" if quiet else ""
    from hbt_dist.reports.search.report import write_search_report

    if trials is not None and len(trials) != 2:
        remedy = "name two: --compare p0000-s0,p0001-s0"
        raise UserError("--compare", f"expected 2 trials, got {len(trials)}", remedy)
    written = write_search_report(folder, output, None if trials is None else (trials[0], trials[1]))
    if as_json:
        return (written / "summary.json").read_text("utf-8").rstrip()
    if quiet:
        return f"{written}/report.html"
    summary = (written / "summary.txt").read_text("utf-8").rstrip()
    return f"{summary}\nwritten: {written}/report.html, summary.json, tables, figures"


def _kind(folder: Path) -> str:
    for kind, file in _FILES.items():
        if (folder / file).is_file():
            return kind
    remedy = "name the folder of an evaluation, a search or a study"
    if not folder.is_dir():
        raise UserError(str(folder), "no such folder", remedy)
    evaluations = sorted(path.parent for path in folder.glob("evaluation/*/*/results.json"))
    raise UserError(
        str(folder),
        "is not an evaluation (results.json), a search (search.json) or a study (study.yaml)",
        f"the run's evaluations: {', '.join(map(str, evaluations[:4]))}" if evaluations else remedy,
    )


def _study_settings(folder: Path, file: Path | None) -> StudyFile:
    """Return the study of a folder, with the texts and contrasts of `file`.

    Raises:
        UserError: `file` trains or scores a method differently.
    """
    study = load_settings(StudyFile, folder / "study.yaml")
    if file is None:
        return study
    edited = load_settings(StudyFile, file)
    for name, method in edited.methods.items():
        trained = study.methods.get(name)
        keys = ("run", "overrides", "trained_as", "scoring")
        if trained is None or any(getattr(trained, key) != getattr(method, key) for key in keys):
            raise UserError(
                f"{file}, methods.{name}",
                f"is not how {folder} trained it",
                "change only the texts and contrasts: question, notes, about, against, primary, baseline",
            )
    return edited.model_copy(update={"benchmarks": study.benchmarks, "seeds": study.seeds})

"""`hbt-dist report`: the page of a search, of a study or of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hbt_dist.cli.options import QuietOption
from hbt_dist.common.errors import UserError

if TYPE_CHECKING:
    from hbt_dist.study.settings import StudyFile


def report(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER", help="folder of a search or a study, which may still run, or of an evaluation"
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            help="folder to write to; default: FOLDER/report of a search or a study, an evaluation's FOLDER"
        ),
    ] = None,
    baseline: Annotated[
        Path | None, typer.Option(help="evaluation: an older one on the same benchmark, to compare with")
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="TRIAL,TRIAL", help="search: two trials, how the second's language pairs differ"
        ),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            metavar="STUDY.yaml",
            help="study: the file whose question, notes, references and primary contrasts the report has; "
            "default: the one that the folder was made with",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="search: print the findings as JSON")] = False,
    quiet: QuietOption = False,
) -> None:
    """Write a page to read offline about a search (trade-off, best run, cost), a study or an evaluation."""
    if (folder / "results.json").is_file():
        from hbt_dist.reports.evaluation.page import write_report

        if compare or as_json:
            raise UserError(str(folder), "is an evaluation", "give --compare and --json with a search only")
        page = write_report(folder, baseline, output)
        typer.echo(str(page) if quiet else f"written: {page}, report.md, figures")
        return
    if baseline is not None:
        raise UserError(str(folder), "is no evaluation folder", "give --baseline with an evaluation only")
    if study is not None and not (folder / "study.yaml").is_file():
        raise UserError(str(folder), "is no study folder", "give --study with the folder of a study only")
    if (folder / "study.yaml").is_file():
        if compare or as_json:
            raise UserError(str(folder), "is a study", "give --compare and --json with a search only")
        _report_study(folder, output, study, quiet)
        return
    if not (folder / "search.json").is_file():
        raise _nothing_to_report(folder)
    from hbt_dist.reports.search.report import write_search_report

    written = write_search_report(folder, output, _two_trials(compare))
    if quiet and not as_json:
        typer.echo(f"{written}/report.html")
        return
    typer.echo((written / ("summary.json" if as_json else "summary.txt")).read_text("utf-8").rstrip())
    if not as_json:
        typer.echo(f"written: {written}/report.html, summary.json, tables, figures")


def _nothing_to_report(folder: Path) -> UserError:
    if not folder.is_dir():
        return UserError(
            str(folder), "no such folder", "name the folder of an evaluation, a search or a study"
        )
    found = sorted(path.parent for path in folder.glob("evaluation/*/*/results.json"))
    return UserError(
        str(folder),
        "is no folder of an evaluation (results.json), a search (search.json) or a study (study.yaml)",
        f"the run's evaluations: {', '.join(map(str, found[:4]))}" if found else "name one",
    )


def _report_study(folder: Path, output: Path | None, file: Path | None, quiet: bool) -> None:
    from hbt_dist.config.settings import load_settings
    from hbt_dist.reports.study.report import write_study_report
    from hbt_dist.search.folder import SearchFolder
    from hbt_dist.study.settings import StudyFile

    study = load_settings(StudyFile, folder / "study.yaml")
    if file is not None:
        told = load_settings(StudyFile, file)
        changed = [name for name in told.methods if not _trained_alike(study, told, name)]
        if changed:
            raise UserError(
                f"{file}, methods.{changed[0]}",
                f"is not how {folder} trained it",
                "change only what the report says: question, notes, about, against, primary, baseline",
            )
        study = told.model_copy(update={"benchmarks": study.benchmarks, "seeds": study.seeds})
    say = (lambda text: None) if quiet else typer.echo
    written = write_study_report(study, SearchFolder(folder.absolute()), output, say=say)
    if quiet:
        typer.echo(f"{written}/study.html")


def _trained_alike(study: StudyFile, told: StudyFile, name: str) -> bool:
    """Whether a method is the same training and measurement in both files."""
    keys = ("run", "overrides", "trained_as", "scoring")
    return name in study.methods and all(
        getattr(study.methods[name], key) == getattr(told.methods[name], key) for key in keys
    )


def _two_trials(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    names = [part.strip() for part in text.split(",") if part.strip()]
    if len(names) != 2:
        raise UserError(
            f"--compare {text}", f"names {len(names)} trials", "name two: --compare p0000-s0,p0001-s0"
        )
    return names[0], names[1]

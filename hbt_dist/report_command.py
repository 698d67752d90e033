"""`hbt-dist report`: the page of a search, of a study or of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hbt_dist.command_line import QuietOption
from hbt_dist.errors import UserError


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
    as_json: Annotated[bool, typer.Option("--json", help="search: print the findings as JSON")] = False,
    quiet: QuietOption = False,
) -> None:
    """Write a page to read offline about a search (trade-off, best run, cost), a study or an evaluation."""
    if (folder / "results.json").is_file():
        from hbt_dist.evaluation.report import write_report

        if compare or as_json:
            raise UserError(str(folder), "is an evaluation", "give --compare and --json with a search only")
        page = write_report(folder, baseline, output)
        typer.echo(str(page) if quiet else f"written: {page}, report.md, figures")
        return
    if baseline is not None:
        raise UserError(str(folder), "is no evaluation folder", "give --baseline with an evaluation only")
    if (folder / "study.yaml").is_file():
        if compare or as_json:
            raise UserError(str(folder), "is a study", "give --compare and --json with a search only")
        _report_study(folder, output, quiet)
        return
    if not (folder / "search.json").is_file():
        raise _nothing_to_report(folder)
    from hbt_dist.analysis import write_search_report

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


def _report_study(folder: Path, output: Path | None, quiet: bool) -> None:
    from hbt_dist.search.folder import SearchFolder
    from hbt_dist.settings import load_settings
    from hbt_dist.study.config import StudyFile
    from hbt_dist.study.report import write_study_report

    study = load_settings(StudyFile, folder / "study.yaml")
    say = (lambda text: None) if quiet else typer.echo
    written = write_study_report(study, SearchFolder(folder.absolute()), output, say=say)
    if quiet:
        typer.echo(f"{written}/study.html")


def _two_trials(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    names = [part.strip() for part in text.split(",") if part.strip()]
    if len(names) != 2:
        raise UserError(
            f"--compare {text}", f"names {len(names)} trials", "name two: --compare p0000-s0,p0001-s0"
        )
    return names[0], names[1]

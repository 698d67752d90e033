"""The command line. Thin: parse, load the typed file, call a job, turn a user's mistake into one message.

Exit codes: 0 done; 1 a bug or an unexpected failure (with a traceback), or a problem that doctor has found;
2 something given cannot be used (one message on stderr); 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from hbt_dist import __version__
from hbt_dist.cli.evaluate import evaluate
from hbt_dist.cli.expand import expand
from hbt_dist.cli.files import files
from hbt_dist.cli.options import Commands, InterruptError, OverrideArgument, QuietOption, RunArgument
from hbt_dist.cli.report import report
from hbt_dist.common.console import quiet_libraries
from hbt_dist.common.errors import UserError

app = typer.Typer(
    name="hbt-dist",
    cls=Commands,
    help="Hybrid batch training of multilingual dense retrievers; exact evaluation.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(no_args_is_help=True, help="Look into training data and batches.")
app.add_typer(data_app, name="data")
app.command()(evaluate)
app.command()(expand)
app.command()(files)
app.command()(report)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


@app.command()
def train(
    run: RunArgument,
    overrides: OverrideArgument = None,
    launcher: Annotated[
        Literal["ray", "local"],
        typer.Option(
            help="ray: Ray starts the workers; local: this process is one (torchrun, deepspeed, Slurm, alone)"
        ),
    ] = "ray",
    as_json: Annotated[
        bool, typer.Option("--json", help="print how the training ended as JSON; all else to stderr")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Train a run; the same command continues an interrupted one.

    Ctrl-C saves after the running step and ends; a second one ends at once.
    """
    from hbt_dist.jobs.train import train_job
    from hbt_dist.run_file import load_run
    from hbt_dist.training.metrics_log import outcome

    with redirect_stdout(sys.stderr) if as_json else nullcontext():
        folder = train_job(loaded := load_run(run, overrides or []), launcher, quiet=quiet)
    if os.environ.get("RANK", "0") != "0":
        return
    trained = outcome(folder, loaded.training.steps)
    if as_json:
        typer.echo(json.dumps(asdict(trained)))
    elif trained.finished:
        typer.echo(str(trained))


@data_app.command("inspect")
def data_inspect(
    run: RunArgument,
    overrides: OverrideArgument = None,
    step: Annotated[int | None, typer.Option(min=0, help="also show the rows of this step")] = None,
    rows: Annotated[int, typer.Option(min=1, help="how many rows of the step")] = 20,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="lengths in tokens: tokenises the corpus first")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON instead of tables")] = False,
) -> None:
    """Show what the corpus holds and what the plan will draw from it."""
    from hbt_dist.jobs.inspect import inspect_job
    from hbt_dist.run_file import load_run

    typer.echo(
        inspect_job(load_run(run, overrides or []), step=step, rows=rows, tokens=tokens, as_json=as_json)
    )


@app.command()
def export(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CHECKPOINT", help="folder of a checkpoint, or of a run: its newest complete checkpoint"
        ),
    ],
    to: Annotated[Path, typer.Option("--to", help="new model folder")],
    as_json: Annotated[bool, typer.Option("--json", help="print step and folder as JSON")] = False,
) -> None:
    """Write a checkpoint's model for transformers and sentence-transformers; the run may go on meanwhile."""
    from hbt_dist.training.checkpoints.export import export_checkpoint

    found = export_checkpoint(checkpoint, to)
    if as_json:
        typer.echo(json.dumps({"step": found.step, "model": str(to)}))
    else:
        typer.echo(f"model after step {found.step}: {to}")


@app.command()
def doctor(
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="run file whose workers, folders and engine are tried")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Look whether this machine and its Ray cluster are ready to train; exit code 1 if there is a problem."""
    from hbt_dist.doctor.report import examine
    from hbt_dist.doctor.report import report as tell
    from hbt_dist.run_file import load_run

    found = examine(load_run(run) if run else None)
    if tell(found, as_json=as_json, say=typer.echo):
        raise typer.Exit(1)


@app.command()
def compare(
    systems: Annotated[
        list[str],
        typer.Argument(
            metavar="FOLDER[,FOLDER...]...",
            help="evaluation folders; the seeds of one system joined by commas",
        ),
    ],
    baseline: Annotated[
        str, typer.Option(help="evaluation folder or folders that the others are compared with")
    ],
    output: Annotated[Path | None, typer.Option(help="folder for comparison.json and its tables")] = None,
    cluster: Annotated[
        Literal["question", "paragraph"],
        typer.Option(help="what is resampled: question ids, or their paragraphs"),
    ] = "question",
    as_json: Annotated[
        bool, typer.Option("--json", help="print comparison.json instead of the text")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="with --output: print nothing")] = False,
) -> None:
    """Say whether evaluations differ from a baseline: effects, intervals, tests, language distance."""
    from hbt_dist.comparison.compare import compare as compare_folders
    from hbt_dist.comparison.compare import comparison_json, comparison_text, write_comparison

    if quiet and output is None:
        raise UserError("--quiet", "leaves nothing", "name a folder for the tables with --output")
    groups = [[part for part in system.split(",") if part] for system in systems]
    document = compare_folders(groups, [part for part in baseline.split(",") if part], cluster=cluster)
    if output is not None:
        write_comparison(document, output)
    if as_json:
        typer.echo(comparison_json(document))
    elif not quiet:
        typer.echo(comparison_text(document))


@app.command()
def search(
    file: Annotated[
        str, typer.Argument(metavar="SEARCH.yaml", help="search file: base run, space, benchmark")
    ],
    overrides: OverrideArgument = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="check everything, tell what would run, start nothing")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run failed trials again")] = False,
    quiet: QuietOption = False,
) -> None:
    """Search over settings of a run with Ray Tune; the same command continues an interrupted search."""
    from hbt_dist.jobs.search import search_job

    folder = search_job(file, overrides or [], dry_run=dry_run, retry_failed=retry_failed, quiet=quiet)
    if quiet and not dry_run:
        typer.echo(str(folder))
    elif not dry_run:
        typer.echo(f"search: {folder}\nanalyse it with: hbt-dist report {folder}")


@app.command()
def study(
    file: Annotated[str, typer.Argument(metavar="STUDY.yaml", help="study file: methods, seeds, benchmarks")],
    overrides: OverrideArgument = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="resolve everything, estimate what it costs, start nothing")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="run failed trainings again")] = False,
    quiet: QuietOption = False,
) -> None:
    """Compare ways of training over seeds and benchmarks, with a report; the same command continues."""
    from hbt_dist.jobs.study import study_job

    study_job(file, overrides or [], dry_run=dry_run, retry_failed=retry_failed, quiet=quiet)


@app.command()
def schema(
    of: Annotated[Literal["run", "search", "study"], typer.Argument(help="which file")] = "run",
) -> None:
    """Print the JSON schema of the run file, the search file or the study file."""
    from hbt_dist.config.settings import Settings
    from hbt_dist.run_file import RunFile
    from hbt_dist.search.settings import SearchFile
    from hbt_dist.study.settings import StudyFile

    kinds: dict[str, type[Settings]] = {"run": RunFile, "search": SearchFile, "study": StudyFile}
    typer.echo(json.dumps(kinds[of].model_json_schema(), indent=2))


def main() -> None:
    """Entry point of the `hbt-dist` command."""
    quiet_libraries()
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except InterruptError as error:
        if os.environ.get("RANK", "0") == "0":
            print(error, file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

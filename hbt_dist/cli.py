"""The command line. Thin: parse, load the typed file, call a job, turn a user's mistake into one message.

Exit codes: 0 done; 1 a bug or an unexpected failure (with a traceback); 2 something given cannot be used
(one message on stderr); 130 interrupted.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from hbt_dist import __version__
from hbt_dist.calm import calm_libraries
from hbt_dist.errors import UserError
from hbt_dist.expansion.command import expand
from hbt_dist.files_command import files
from hbt_dist.report_command import report

#: Commands that take up what an interrupted one has left; the others start again.
CONTINUING = ("train", "search", "study", "expand")


class _InterruptError(Exception):
    """Ctrl-C, past typer, which would end without a word."""


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            verb = "continues" if ctx.invoked_subcommand in CONTINUING else "starts again"
            raise _InterruptError(str(error) or f"interrupted; the same command {verb}") from None


app = typer.Typer(
    name="hbt-dist",
    cls=_Commands,
    help="Hybrid batch training of multilingual dense retrievers; exact evaluation of every language pair.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(no_args_is_help=True, help="Look into training data and batches.")
app.add_typer(data_app, name="data")
app.command()(expand)
app.command()(files)
app.command()(report)

RunArgument = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="run file (YAML), or the name of one that comes with the package: quickstart"
    ),
]
OverrideArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="overrides, such as batches.alpha=0.25", show_default=False
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]


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
    quiet: QuietOption = False,
) -> None:
    """Train a run; the same command continues an interrupted one."""
    from hbt_dist.config import load_run
    from hbt_dist.jobs import train_job

    folder = train_job(load_run(run, overrides or []), launcher, quiet=quiet)
    if os.environ.get("RANK", "0") == "0" and folder.model.is_dir():
        typer.echo(f"model: {folder.model}")


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Option(help="folder or hub name: hbt-dist, sentence-transformers or transformers")
    ],
    benchmark: Annotated[
        str, typer.Option(help="xquad-r, mlqa-r, ntrex, mkqa, squad-parallel, sample, jsonl, ...")
    ],
    output: Annotated[Path, typer.Option(help="folder for report.html, results.json, pair_matrix.csv, ...")],
    data_dir: Annotated[
        Path | None, typer.Option(help="folder of the benchmark's files; default: from the hub")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="such as sentence or sentence+context")] = None,
    languages: Annotated[str | None, typer.Option(help="only these, separated by commas")] = None,
    training_languages: Annotated[
        str | None,
        typer.Option(
            help="languages seen in training, to report others apart; default: what the model recorded"
        ),
    ] = None,
    question_prefix: Annotated[str | None, typer.Option(help="put before every question")] = None,
    passage_prefix: Annotated[str | None, typer.Option(help="put before every passage")] = None,
    pooling: Annotated[
        Literal["mean", "cls", "last"] | None, typer.Option(help="default: what the model recorded")
    ] = None,
    max_question_tokens: Annotated[int | None, typer.Option(min=4)] = None,
    max_passage_tokens: Annotated[int | None, typer.Option(min=4)] = None,
    launcher: Annotated[
        Literal["local", "ray"], typer.Option(help="local: in this process; ray: on actors of a Ray cluster")
    ] = "local",
    actors: Annotated[int, typer.Option(min=1, help="Ray actors; each encodes and scores a part")] = 2,
    address: Annotated[str | None, typer.Option(help="Ray cluster; default as in workers.address")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="scoring settings, such as num_shards=4"),
    ] = None,
    expansions: Annotated[
        Path | None, typer.Option(help="expansion file (hbt-dist expand): ask with expanded questions")
    ] = None,
    combine: Annotated[
        Literal["concatenate", "mean", "rrf"] | None,
        typer.Option(
            help="with --expansions: one text, mean of embeddings, or fused rankings; default concatenate"
        ),
    ] = None,
    repeat_question: Annotated[
        int | None, typer.Option(help="concatenate: how often the question stands before its expansions")
    ] = None,
    expansion_languages: Annotated[
        str | None, typer.Option(help="use only expansions in these languages, separated by commas")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace an evaluation of another model or benchmark")
    ] = False,
    trec: Annotated[bool, typer.Option("--trec", help="also write TREC run and qrels")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="run Python code that comes with the model")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the means as JSON instead of a table")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Evaluate a model on every pair of question and candidate language, and on the pool of all languages."""
    from hbt_dist.config import BenchmarkSettings
    from hbt_dist.evaluation.config import EvaluationSettings
    from hbt_dist.expansion.config import CombineSettings
    from hbt_dist.jobs import evaluate_job
    from hbt_dist.settings import settings_from_items, settings_from_options

    if expansions is None and (combine or repeat_question or expansion_languages):
        raise UserError(
            "--combine, --repeat-question, --expansion-languages", "need --expansions", "name the file"
        )
    asked = BenchmarkSettings(
        name=benchmark,
        data_dir=str(data_dir) if data_dir else None,
        variant=variant,
        languages=_split(languages),
    )
    text = {
        "question_prefix": question_prefix,
        "passage_prefix": passage_prefix,
        "pooling": pooling,
        "max_question_tokens": max_question_tokens,
        "max_passage_tokens": max_passage_tokens,
    }
    summary = evaluate_job(
        model,
        asked,
        output,
        text={key: value for key, value in text.items() if value is not None},
        scoring=settings_from_items(EvaluationSettings, set_ or []),
        training_languages=_split(training_languages),
        trust_remote_code=trust_remote_code,
        trec=trec,
        actors=actors if launcher == "ray" else None,
        address=address,
        quiet=quiet or as_json,
        expansions=expansions,
        combine=settings_from_options(
            CombineSettings,
            combine=combine,
            repeat=repeat_question,
            expansion_languages=_split(expansion_languages),
        ),
        report=True,
        overwrite=overwrite,
    )
    if as_json:
        results = json.loads((output / "results.json").read_text("utf-8"))
        typer.echo(json.dumps({"means": results["means"], "bias": results["bias"], "folder": str(output)}))
    else:
        typer.echo(summary)
        typer.echo(f"written: {output}/report.html, results.json, pair_matrix.csv, heatmap.png")


def _split(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


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
    from hbt_dist.config import load_run
    from hbt_dist.jobs import inspect_job

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
) -> None:
    """Write a checkpoint's model for transformers and sentence-transformers; the run may go on meanwhile."""
    from hbt_dist.training.export import export_checkpoint

    found = export_checkpoint(checkpoint, to)
    typer.echo(f"model after step {found.step}: {to}")


@app.command()
def doctor(
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="run file whose workers, folders and engine are tried")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
) -> None:
    """Look whether this machine and its Ray cluster are ready to train; exit code 1 if there is a problem."""
    from hbt_dist.config import load_run
    from hbt_dist.doctor import examine
    from hbt_dist.doctor import report as tell

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
) -> None:
    """Say whether evaluations differ from a baseline: effects, intervals, tests, language distance."""
    from hbt_dist.evaluation.compare import compare as compare_folders
    from hbt_dist.evaluation.compare import comparison_text, write_comparison

    groups = [[part for part in system.split(",") if part] for system in systems]
    document = compare_folders(groups, [part for part in baseline.split(",") if part], cluster=cluster)
    if output is not None:
        write_comparison(document, output)
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
    from hbt_dist.search.job import search_job

    folder = search_job(file, overrides or [], dry_run=dry_run, retry_failed=retry_failed, quiet=quiet)
    if not dry_run:
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
    from hbt_dist.study.job import study_job

    study_job(file, overrides or [], dry_run=dry_run, retry_failed=retry_failed, quiet=quiet)


@app.command()
def schema(
    of: Annotated[Literal["run", "search", "study"], typer.Argument(help="which file")] = "run",
) -> None:
    """Print the JSON schema of the run file, the search file or the study file."""
    from hbt_dist.config import RunFile
    from hbt_dist.search.config import SearchFile
    from hbt_dist.settings import Settings
    from hbt_dist.study.config import StudyFile

    kinds: dict[str, type[Settings]] = {"run": RunFile, "search": SearchFile, "study": StudyFile}
    typer.echo(json.dumps(kinds[of].model_json_schema(), indent=2))


def main() -> None:
    """Entry point of the `hbt-dist` command."""
    calm_libraries()
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except _InterruptError as error:
        if os.environ.get("RANK", "0") == "0":
            print(error, file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

"""`hbt-dist evaluate`, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from hbt_dist.command_line import QuietOption
from hbt_dist.errors import UserError

MODEL, BENCHMARK, SCORING, EXPANSION, OUTPUT = "Model", "Benchmark", "Scoring", "Expansion", "Output"


def evaluate(
    model: Annotated[
        str,
        typer.Option(
            help="folder or hub name: hbt-dist, sentence-transformers or transformers", rich_help_panel=MODEL
        ),
    ],
    benchmark: Annotated[
        str,
        typer.Option(
            help="xquad-r, mlqa-r, ntrex, mkqa, sample, jsonl, ..., or your own, module:function",
            rich_help_panel=BENCHMARK,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            help="folder for report.html, results.json, pair_matrix.csv, ...", rich_help_panel=OUTPUT
        ),
    ],
    data_dir: Annotated[
        Path | None,
        typer.Option(
            help="folder of the benchmark's files; default: from the hub", rich_help_panel=BENCHMARK
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="such as sentence or sentence+context", rich_help_panel=BENCHMARK)
    ] = None,
    languages: Annotated[
        str | None, typer.Option(help="only these, separated by commas", rich_help_panel=BENCHMARK)
    ] = None,
    training_languages: Annotated[
        str | None,
        typer.Option(
            help="languages seen in training, to report others apart; default: what the model recorded",
            rich_help_panel=MODEL,
        ),
    ] = None,
    question_prefix: Annotated[
        str | None, typer.Option(help="put before every question", rich_help_panel=MODEL)
    ] = None,
    passage_prefix: Annotated[
        str | None, typer.Option(help="put before every passage", rich_help_panel=MODEL)
    ] = None,
    pooling: Annotated[
        Literal["mean", "cls", "last"] | None,
        typer.Option(help="default: what the model recorded", rich_help_panel=MODEL),
    ] = None,
    max_question_tokens: Annotated[
        int | None, typer.Option(min=4, help="default: what the model recorded", rich_help_panel=MODEL)
    ] = None,
    max_passage_tokens: Annotated[
        int | None, typer.Option(min=4, help="default: what the model recorded", rich_help_panel=MODEL)
    ] = None,
    launcher: Annotated[
        Literal["local", "ray"],
        typer.Option(help="local: in this process; ray: on actors of a Ray cluster", rich_help_panel=SCORING),
    ] = "local",
    actors: Annotated[
        int, typer.Option(min=1, help="Ray actors; each encodes and scores a part", rich_help_panel=SCORING)
    ] = 2,
    address: Annotated[
        str | None, typer.Option(help="Ray cluster; default as in workers.address", rich_help_panel=SCORING)
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="scoring settings, such as num_shards=4",
            rich_help_panel=SCORING,
        ),
    ] = None,
    expansions: Annotated[
        Path | None,
        typer.Option(
            help="expansion file (hbt-dist expand): ask with expanded questions", rich_help_panel=EXPANSION
        ),
    ] = None,
    combine: Annotated[
        Literal["concatenate", "mean", "rrf"] | None,
        typer.Option(
            help="with --expansions: one text, mean of embeddings, or fused rankings; default concatenate",
            rich_help_panel=EXPANSION,
        ),
    ] = None,
    repeat_question: Annotated[
        int | None,
        typer.Option(
            help="concatenate: how often the question stands before its expansions", rich_help_panel=EXPANSION
        ),
    ] = None,
    expansion_languages: Annotated[
        str | None,
        typer.Option(
            help="use only expansions in these languages, separated by commas", rich_help_panel=EXPANSION
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="replace an evaluation of another model or benchmark", rich_help_panel=OUTPUT
        ),
    ] = False,
    trec: Annotated[
        bool, typer.Option("--trec", help="also write TREC run and qrels", rich_help_panel=OUTPUT)
    ] = False,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="run Python code that comes with the model", rich_help_panel=MODEL
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="print the means as JSON instead of a table", rich_help_panel=OUTPUT),
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

"""Provide `hbt-dist evaluate`."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from hbt_dist.cli.completion import complete_benchmark
from hbt_dist.cli.options import QuietOption, comma_list
from hbt_dist.common.errors import UserError

in_model = partial(typer.Option, rich_help_panel="Model")
in_benchmark = partial(typer.Option, rich_help_panel="Benchmark")
in_scoring = partial(typer.Option, rich_help_panel="Scoring")
in_expansion = partial(typer.Option, rich_help_panel="Expansion")
in_output = partial(typer.Option, rich_help_panel="Output")


def evaluate(
    model: Annotated[
        str,
        in_model(help="folder or hub name: hbt-dist, sentence-transformers or transformers"),
    ],
    benchmark: Annotated[
        str,
        in_benchmark(
            autocompletion=complete_benchmark,
            help="xquad-r, mlqa-r, miracl, beir, sample, jsonl, ..., a folder, mteb:TASK, or module:function",
        ),
    ],
    output: Annotated[
        Path,
        in_output(help="folder for report.html, results.json, pair_matrix.csv, ..."),
    ],
    data_dir: Annotated[
        Path | None,
        in_benchmark(help="folder of the benchmark's files; default: download from the hub"),
    ] = None,
    variant: Annotated[
        str | None, in_benchmark(help="variant of the benchmark, such as sentence or sentence+context")
    ] = None,
    label: Annotated[
        str | None, in_benchmark(help="name in results; default: the folder's, or benchmark and variant")
    ] = None,
    languages: Annotated[str | None, in_benchmark(help="only these languages, separated by commas")] = None,
    judgements: Annotated[
        Literal["strict", "as_published"] | None,
        in_benchmark(
            help="empty or absent documents, judged questions that are not asked: refuse, or score as BEIR "
            "and MTEB do; default: as_published for published collections, else strict"
        ),
    ] = None,
    identical_ids: Annotated[
        Literal["drop", "keep"] | None,
        in_benchmark(help="the document with the question's id in its rankings; default: drop for beir"),
    ] = None,
    training_languages: Annotated[
        str | None,
        in_model(help="training languages, scored separately; default: recorded by the model"),
    ] = None,
    question_prefix: Annotated[str | None, in_model(help="text before every question")] = None,
    passage_prefix: Annotated[str | None, in_model(help="text before every passage")] = None,
    pooling: Annotated[
        Literal["mean", "cls", "last"] | None,
        in_model(help="default: recorded by the model"),
    ] = None,
    max_question_tokens: Annotated[int | None, in_model(min=4, help="default: recorded by the model")] = None,
    max_passage_tokens: Annotated[int | None, in_model(min=4, help="default: recorded by the model")] = None,
    launcher: Annotated[
        Literal["local", "ray"],
        in_scoring(help="local: in this process; ray: on actors of a Ray cluster"),
    ] = "local",
    actors: Annotated[
        int, in_scoring(min=1, help="number of Ray actors; each encodes and scores a part")
    ] = 2,
    address: Annotated[str | None, in_scoring(help="Ray cluster; default as in workers.address")] = None,
    widths: Annotated[
        str | None,
        in_scoring(help="also score embeddings cut to these widths, separated by commas: 192,96,192:int8"),
    ] = None,
    precisions: Annotated[
        str | None, in_scoring(help="also score quantised embeddings, separated by commas: int8,binary")
    ] = None,
    set_: Annotated[
        list[str] | None,
        in_scoring("--set", metavar="KEY=VALUE", help="scoring settings, such as num_shards=4"),
    ] = None,
    expansions: Annotated[
        Path | None,
        in_expansion(help="expansion file of hbt-dist expand: evaluate with expanded questions"),
    ] = None,
    combine: Annotated[
        Literal["concatenate", "mean", "rrf"] | None,
        in_expansion(
            help="with --expansions: one text, mean of embeddings, or fused rankings; default concatenate"
        ),
    ] = None,
    repeat_question: Annotated[
        int | None,
        in_expansion(help="concatenate: repetitions of the question before its expansions"),
    ] = None,
    expansion_languages: Annotated[
        str | None,
        in_expansion(help="use only expansions in these languages, separated by commas"),
    ] = None,
    overwrite: Annotated[
        bool,
        in_output("--overwrite", help="replace an evaluation of a different model or benchmark"),
    ] = False,
    trec: Annotated[bool, in_output("--trec", help="also write TREC run and qrels")] = False,
    trust_remote_code: Annotated[
        bool,
        in_model("--trust-remote-code", help="run Python code of the model"),
    ] = False,
    as_json: Annotated[
        bool,
        in_output("--json", help="print means, bias and language pairs as JSON instead of tables"),
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Score a model on every pair of question and candidate language, and on the pool of all languages."""
    from hbt_dist.config.settings import settings_from_items, settings_from_options
    from hbt_dist.data.benchmarks.judgements import judgement_lines
    from hbt_dist.evaluation.read_results import pairs_of, read_results
    from hbt_dist.evaluation.results import pair_lines
    from hbt_dist.evaluation.settings import EvaluationSettings
    from hbt_dist.jobs.evaluate import evaluate_job
    from hbt_dist.methods.expansion.settings import CombineSettings
    from hbt_dist.run_file import BenchmarkSettings

    if expansions is None and (combine or repeat_question or expansion_languages):
        raise UserError(
            "--combine, --repeat-question, --expansion-languages", "need --expansions", "name the file"
        )
    requested = settings_from_options(
        BenchmarkSettings,
        name=benchmark,
        data_dir=str(data_dir) if data_dir else None,
        variant=variant,
        label=label,
        languages=comma_list(languages) or None,
        judgements=judgements,
        identical_ids=identical_ids,
    )
    text = {
        "question_prefix": question_prefix,
        "passage_prefix": passage_prefix,
        "pooling": pooling,
        "max_question_tokens": max_question_tokens,
        "max_passage_tokens": max_passage_tokens,
    }
    lists = {"widths": widths, "precisions": precisions}
    items = [f"{key}=[{', '.join(comma_list(text))}]" for key, text in lists.items() if text is not None]
    summary = evaluate_job(
        model,
        requested,
        output,
        text={key: value for key, value in text.items() if value is not None},
        scoring=settings_from_items(EvaluationSettings, [*(set_ or []), *items]),
        training_languages=comma_list(training_languages) or None,
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
            expansion_languages=comma_list(expansion_languages) or None,
        ),
        report=True,
        overwrite=overwrite,
    )
    results = read_results(output)
    if as_json:
        printed = {key: results[key] for key in ("means", "bias")}
        notes = judgement_lines(results["benchmark"]["judgements"])
        pairs = pairs_of(results)
        typer.echo(json.dumps({**printed, "pairs": pairs, "notes": notes, "folder": str(output)}))
    else:
        typer.echo("\n".join([summary, *pair_lines(results)]))
        typer.echo(f"written: {output}/report.html, results.json, pair_matrix.csv, heatmap.png")

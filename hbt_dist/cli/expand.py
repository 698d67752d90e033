"""Provide `hbt-dist expand`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hbt_dist.cli.options import QuietOption, comma_list


def expand(
    model: Annotated[str, typer.Option(help="folder or hub name of a causal language model")],
    benchmark: Annotated[str, typer.Option(help="benchmark of the questions: xquad-r, mkqa, ...")],
    output: Annotated[Path, typer.Option(help="expansion file to write or continue (.jsonl)")],
    strategy: Annotated[
        Literal["zero-shot", "few-shot", "chain-of-thought", "rephrase-and-respond"],
        typer.Option(help="prompt of the model"),
    ] = "zero-shot",
    data_dir: Annotated[
        Path | None, typer.Option(help="folder of the benchmark's files; default: download from the hub")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="variant of the benchmark")] = None,
    order: Annotated[
        Literal["before", "after"] | None,
        typer.Option(help="with --translations: expand before or after translation"),
    ] = None,
    translations: Annotated[
        Path | None, typer.Option(help="translated questions (after) or expansions (before), JSON Lines")
    ] = None,
    samples: Annotated[int, typer.Option(help="expansions per question")] = 1,
    seed: Annotated[int, typer.Option(help="seed of the sampling")] = 0,
    languages: Annotated[
        str | None, typer.Option(help="only questions in these languages, separated by commas")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="prompts per batch")] = 16,
    max_new_tokens: Annotated[int, typer.Option(help="maximum tokens of an expansion")] = 128,
    temperature: Annotated[
        float | None, typer.Option(help="0: most likely tokens; default: 0, or 0.7 with several samples")
    ] = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="precision of the model")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="run Python code of the model")
    ] = False,
    quiet: QuietOption = False,
) -> None:
    """Expand a benchmark's questions with a language model; the same command continues an interrupted run."""
    from hbt_dist.config.settings import settings_from_options
    from hbt_dist.jobs.expand import expand_job
    from hbt_dist.methods.expansion.settings import ExpansionSettings
    from hbt_dist.run_file import BenchmarkSettings

    settings = settings_from_options(
        ExpansionSettings,
        strategy=strategy,
        order=order,
        samples=samples,
        seed=seed,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        languages=comma_list(languages) or None,
        dtype=dtype,
    )
    folder = str(data_dir) if data_dir else None
    written = expand_job(
        model,
        BenchmarkSettings(name=benchmark, data_dir=folder, variant=variant),
        output,
        settings,
        translations=translations,
        device=device,
        trust_remote_code=trust_remote_code,
        quiet=quiet,
    )
    typer.echo(f"written: {written}")

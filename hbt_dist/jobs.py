"""What the command line does, as functions: train a run, evaluate a model.

train     [evaluate the start model] -> train -> [evaluate the trained model] -> compare the two
evaluate  load -> encode -> rank -> write a folder with report.html, results.json, pair_matrix.csv
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from hbt_dist.config import BenchmarkSettings, RunFile
from hbt_dist.errors import UserError
from hbt_dist.training.beside import beside_training, own_storage, teller
from hbt_dist.training.run_folder import RunFolder, environment_facts
from hbt_dist.training.validation import measure_in_a_process

Launcher = Literal["ray", "local"]


def train_job(run: RunFile, launcher: Launcher, *, quiet: bool = False) -> RunFolder:
    """Train as the run file says and measure the model as it asks.

    Args:
        run: the run file with absolute paths.
        launcher: ``ray`` starts workers; ``local`` trains in this process, which torchrun, deepspeed,
            accelerate or Slurm may have started with others.
        quiet: print results only.

    Raises:
        UserError: the run cannot be done as asked.
    """
    folder = RunFolder(run.output_dir)
    first = int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0
    measure = first and bool(run.evaluation.benchmarks)
    if first:
        folder.check(run.plain())
    if measure:
        check_benchmarks(run.evaluation.benchmarks)
    if first and run.data.exclude_overlap_with and not quiet:
        _say(overlap_of(run))
    with own_storage(run, folder, teller(folder, None if quiet else _say)) if first else nullcontext():
        finished = _train_and_measure(run, folder, launcher, measure=measure, first=first, quiet=quiet)
    if first and not finished and not quiet:
        step = max(folder.checkpoint_steps(), default=0)
        _say(f"stopped at step {step} as asked; the same command continues from there")
    return folder


def _train_and_measure(
    run: RunFile, folder: RunFolder, launcher: Launcher, *, measure: bool, first: bool, quiet: bool
) -> bool:
    """Whether the training reached its last step."""
    if launcher == "ray":
        if measure and "start" in run.evaluation.when:
            _measure(run, folder, "start", quiet)
        from hbt_dist.orchestration.train import train_on_ray

        finished = train_on_ray(run, quiet=quiet)
    else:
        finished = train_in_process(run, first=first, quiet=quiet)
        if measure and "start" in run.evaluation.when:
            _measure(run, folder, "start", quiet)
    if measure and "end" in run.evaluation.when and finished:
        _measure(run, folder, "end", quiet)
    if measure and {"start", "end"} <= set(run.evaluation.when) and finished:
        from hbt_dist.evaluation.report import write_report
        from hbt_dist.evaluation.results import before_and_after

        for benchmark in run.evaluation.benchmarks:
            before, after = (folder.evaluation / when / benchmark.label for when in ("start", "end"))
            page = write_report(after, baseline=before)
            if not quiet:
                _say(f"{before_and_after(before, after)}\n  report: {page}")
    return finished


def train_in_process(run: RunFile, *, first: bool = True, quiet: bool = False) -> bool:
    """Be one of the processes that a launcher started (or the only one).

    Args:
        first: whether this is the one that follows the checkpoints.

    Returns:
        whether the last step was reached.
    """
    from hbt_dist.runtime import EnvironmentRuntime
    from hbt_dist.training.trainer import train_loop

    folder = RunFolder(run.output_dir)
    say = teller(folder, None if quiet else _say)
    timeout = timedelta(seconds=run.training.hang_timeout_seconds)
    with EnvironmentRuntime(timeout) as runtime:
        followers = beside_training(run, folder, measure_in_a_process(run), say) if first else nullcontext()
        with followers:
            return train_loop(run, runtime, quiet=quiet).finished


def overlap_of(run: RunFile) -> str:
    """What the run's corpus left out because it repeats a benchmark, source by source."""
    from hbt_dist.data.conversion import overlap_text
    from hbt_dist.data.corpus import build_corpus

    return overlap_text(build_corpus(run.data, Path(run.data.cache_dir)))


def check_benchmarks(benchmarks: Sequence[BenchmarkSettings]) -> None:
    """Read the benchmarks before hours of training rather than after.

    Raises:
        UserError: one cannot be read.
    """
    for benchmark in benchmarks:
        load(benchmark)


def load(benchmark: BenchmarkSettings, cache_dir: str | None = None) -> Any:
    """Read a benchmark as the run file names it.

    Args:
        cache_dir: where a large one is kept converted, see `load_benchmark`.
    """
    from hbt_dist.data.benchmark import load_benchmark

    return load_benchmark(
        benchmark.name,
        benchmark.data_dir,
        variant=benchmark.variant,
        languages=benchmark.languages,
        cache_dir=cache_dir,
    )


def _measure(run: RunFile, folder: RunFolder, when: Literal["start", "end"], quiet: bool) -> None:
    from hbt_dist.data.corpus import build_corpus

    model = str(folder.model)
    if when == "start":
        model = _start_model(run, folder)
    languages = build_corpus(run.data, Path(run.data.cache_dir)).languages
    for benchmark in run.evaluation.benchmarks:
        out = folder.evaluation / when / benchmark.label
        if when == "start" and (out / "results.json").is_file():
            continue  # a resumed run: the start model has not changed
        title = "before training" if when == "start" else "after training"
        if not quiet:
            _say(f"evaluate {title}: {benchmark.label}")
        text = evaluate_job(
            model,
            benchmark,
            out,
            text=run.model.text,
            scoring=run.evaluation.scoring,
            trust_remote_code=run.model.trust_remote_code,
            training_languages=languages,
            quiet=quiet,
            report=True,
        )
        if not quiet:
            _say(text)


def _start_model(run: RunFile, folder: RunFolder) -> str:
    from hbt_dist.training.preparation import prepare

    if run.model.scratch is None:
        assert run.model.name_or_path is not None
        return run.model.name_or_path
    prepare(run)
    return str(folder.start)


def evaluate_job(
    model: str,
    benchmark: BenchmarkSettings,
    out: Path,
    *,
    training_languages: Sequence[str] | None = None,
    text: dict[str, Any] | None = None,
    scoring: Any = None,
    trust_remote_code: bool = False,
    trec: bool = False,
    actors: int | None = None,
    address: str | None = None,
    quiet: bool = False,
    expansions: Path | None = None,
    combine: Any = None,
    report: bool = False,
) -> str:
    """Evaluate one model on one benchmark and write the folder `out`.

    Args:
        model: folder or hub name of an encoder.
        benchmark: what to measure on.
        out: folder for the results; an older evaluation there is replaced.
        training_languages: to report seen and unseen languages apart; by default what the model recorded.
        text: text settings that replace the model's own.
        scoring: `EvaluationSettings`; by default the run's, else the defaults.
        trust_remote_code: run code that comes with the model.
        trec: also write TREC run and qrels files.
        actors: encode and score on so many Ray actors instead of in this process; the digits are the same.
        address: Ray cluster for the actors, see `WorkerSettings.address`.
        quiet: no progress.
        expansions: expansion file of the benchmark; questions are asked with these.
        combine: `CombineSettings`, how they are.
        report: also write report.html and report.md.

    Returns:
        the summary for the terminal.

    Raises:
        UserError: model, benchmark or folder cannot be used.
    """
    from hbt_dist.encoder import load_encoder
    from hbt_dist.evaluation.config import EvaluationSettings
    from hbt_dist.evaluation.encode import encode_texts
    from hbt_dist.evaluation.evaluation import evaluate
    from hbt_dist.evaluation.language_removal import read_language_texts
    from hbt_dist.evaluation.results import summary
    from hbt_dist.evaluation.writing import check_target, write_evaluation

    scoring = scoring or EvaluationSettings()
    check_target(out)
    data = load(benchmark, scoring.cache_dir)
    if scoring.cache_dir is None and (data.on_disk or actors is not None):
        scoring = scoring.model_copy(update={"cache_dir": str(Path(".cache/hbt_dist/embeddings").absolute())})
    loaded = load_encoder(model, trust_remote_code=trust_remote_code, text=text)
    if expansions is not None:
        if actors is not None:
            raise UserError(
                "--expansions", "is not supported on Ray actors", "evaluate with --launcher local"
            )
        _make_room(loaded, combine, text)
    seen = training_languages if training_languages is not None else loaded.facts.get("languages")
    facts = {
        "model": model,
        "text": loaded.text.model_dump(),
        "scoring": scoring.model_dump(mode="json"),
        "training": loaded.facts,
        **environment_facts(),
    }
    vectors = None
    if scoring.language_removal_texts is not None:
        by_language = read_language_texts(scoring.language_removal_texts, data.languages)
        vectors = {
            code: encode_texts(loaded, texts, "question", settings=scoring, progress=not quiet)
            for code, texts in by_language.items()
        }
    if expansions is not None:
        evaluation = _evaluate_expanded(loaded, data, expansions, combine, scoring, seen, facts, quiet)
    elif actors is not None:
        arguments = {"name_or_path": model, "trust_remote_code": trust_remote_code, "text": text}
        evaluation = _evaluate_on_ray(arguments, data, scoring, actors, address, seen, facts, vectors, quiet)
    else:
        questions = encode_texts(
            loaded, data.question_texts, "question", settings=scoring, progress=not quiet
        )
        candidates = encode_texts(
            loaded, data.candidate_texts, "passage", settings=scoring, progress=not quiet
        )
        evaluation = evaluate(
            data,
            questions,
            candidates,
            settings=scoring,
            seen_languages=seen,
            provenance=facts,
            language_vectors=vectors,
        )
    write_evaluation(evaluation, out, trec=trec, report=report)
    return summary(evaluation)


def _make_room(loaded: Any, combine: Any, text: dict[str, Any] | None) -> None:
    """Raise the question limit for concatenated expansions, unless the caller set it."""
    from hbt_dist.expansion.combine import make_room

    if combine.combine == "concatenate" and "max_question_tokens" not in (text or {}):
        make_room(loaded, combine)


def _evaluate_expanded(
    loaded: Any,
    data: Any,
    file: Path,
    combine: Any,
    scoring: Any,
    seen: Sequence[str] | None,
    facts: dict[str, Any],
    quiet: bool,
) -> Any:
    from hbt_dist.expansion.combine import evaluate_expanded
    from hbt_dist.expansion.files import read_expansions

    return evaluate_expanded(
        loaded,
        data,
        read_expansions(file, data, combine.expansion_languages),
        combine,
        settings=scoring,
        seen_languages=seen,
        provenance=facts,
        progress=not quiet,
    )


def expand_job(
    model: str,
    benchmark: BenchmarkSettings,
    output: Path,
    settings: Any,
    *,
    translations: Path | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> Path:
    """Write the expansion file of a benchmark with a causal language model; an interrupted one is continued.

    Args:
        model: folder or hub name of a causal language model.
        settings: `ExpansionSettings`.
        translations: see `hbt_dist.expansion.files`.
        device: where the model runs: auto, cpu, cuda, ...

    Raises:
        UserError: model, benchmark, translations or file cannot be used.
    """
    from hbt_dist.expansion.expand import expand_benchmark
    from hbt_dist.expansion.generate import load_generator

    data = load(benchmark)
    loaded = load_generator(model, dtype=settings.dtype, device=device, trust_remote_code=trust_remote_code)
    return expand_benchmark(loaded, data, output, settings, translations=translations, progress=not quiet)


def _evaluate_on_ray(
    model: dict[str, Any],
    data: Any,
    scoring: Any,
    actors: int,
    address: str | None,
    seen: Sequence[str] | None,
    facts: dict[str, Any],
    vectors: Any,
    quiet: bool,
) -> Any:
    from hbt_dist.orchestration.cluster import connect
    from hbt_dist.orchestration.config import WorkerSettings
    from hbt_dist.orchestration.evaluation import ActorSettings, evaluate_with_actors, evaluation_actors

    if Path(model["name_or_path"]).is_dir():
        model = {**model, "name_or_path": str(Path(model["name_or_path"]).absolute())}
    with (
        connect(WorkerSettings(num_workers=actors, address=address)),
        evaluation_actors(ActorSettings(num_actors=actors)) as pool,
    ):
        return evaluate_with_actors(
            pool,
            model,
            data,
            scoring,
            seen_languages=seen,
            provenance=facts,
            progress=not quiet,
            language_vectors=vectors,
        )


def inspect_job(run: RunFile, *, step: int | None, rows: int, tokens: bool, as_json: bool) -> str:
    """What the corpus of a run holds and what its plan draws, as tables or JSON.

    Args:
        step: also show the rows of this step.
        rows: how many of them.
        tokens: tokenise first, and tell lengths in tokens instead of characters.

    Raises:
        UserError: the data or the batches cannot be used.
    """
    from hbt_dist.batching.inspect import inspect, render
    from hbt_dist.batching.plan import BatchPlan
    from hbt_dist.data.corpus import build_corpus

    if tokens:
        from hbt_dist.training.preparation import prepare

        prepared = prepare(run)
        corpus, plan, store = prepared.corpus, prepared.plan, prepared.tokens
    else:
        corpus = build_corpus(run.data, Path(run.data.cache_dir))
        plan, store = BatchPlan(corpus, run.batches, run.seed), None
    report = inspect(plan, run.training.steps, step=step, tokens=store, texts=corpus, rows=rows)
    return json.dumps(report.as_dict(), ensure_ascii=False) if as_json else render(report).rstrip()


def _say(text: str) -> None:
    print(text, file=sys.stdout, flush=True)

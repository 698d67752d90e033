"""Evaluate a model: load -> encode -> rank -> a folder with report.html, results.json, pair_matrix.csv.

Encodes and ranks in this process or on Ray actors; both give the same digits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.comparison.significance import step_down_by_column
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.data.fields import languages_at
from hbt_dist.data.instructions import check_language_names
from hbt_dist.evaluation.encode import with_arithmetic
from hbt_dist.evaluation.export import check_trec_ids
from hbt_dist.evaluation.read_results import title_of
from hbt_dist.evaluation.results import summary
from hbt_dist.evaluation.run import (
    check_before_encoding,
    check_encoder,
    languages_seen,
    score_encoder,
    scoring_facts,
    with_cache,
)
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.writing import write_evaluation
from hbt_dist.methods.expansion.combine import check_prefixes, evaluate_expanded, make_room
from hbt_dist.methods.expansion.files import read_expansions
from hbt_dist.methods.expansion.settings import CombineSettings
from hbt_dist.methods.language_removal import build_removal
from hbt_dist.models.loading import load_encoder
from hbt_dist.orchestration.cluster import connect
from hbt_dist.orchestration.settings import WorkerSettings


def evaluate_job(
    model: str,
    benchmark: BenchmarkSettings,
    out: Path,
    *,
    training_languages: Sequence[str] | None = None,
    text: dict[str, Any] | None = None,
    at_least: dict[str, int] | None = None,
    scoring: EvaluationSettings | None = None,
    trust_remote_code: bool = False,
    trec: bool = False,
    actors: int | None = None,
    address: str | None = None,
    quiet: bool = False,
    announce: Callable[[Benchmark], None] | None = None,
    expansions: Path | None = None,
    combine: CombineSettings | None = None,
    report: bool = False,
    overwrite: bool = True,
) -> str:
    """Evaluate one model on one benchmark and write the folder `out`.

    Args:
        model: folder or hub name of an encoder.
        benchmark: the benchmark to evaluate on.
        out: folder for the results; an older evaluation in it is replaced, see `overwrite`.
        training_languages: languages that count as seen; default: those that the model recorded.
        text: text settings that replace the model's.
        at_least: limits below which the model's are raised, such as those of its training.
        scoring: default: `EvaluationSettings()`.
        trust_remote_code: run code that comes with the model.
        trec: also write TREC run and qrels files.
        actors: number of Ray actors that encode and score; default: this process. The digits are the same.
        address: Ray cluster for the actors, see `WorkerSettings.address`.
        quiet: no progress.
        announce: called with the benchmark before anything is encoded.
        expansions: expansion file of the benchmark; questions are expanded with it.
        combine: how questions and expansions are combined; default: `CombineSettings()`.
        report: also write report.html and report.md.
        overwrite: replace an evaluation of a different model or benchmark, too.

    Returns:
        the summary for the terminal.

    Raises:
        UserError: model, benchmark or folder cannot be used.
    """
    scoring, combine = scoring or EvaluationSettings(), combine or CombineSettings()
    text = (text or {}) | benchmark.prefixes
    if expansions is not None:
        _check_expansions(combine, scoring, actors, text)
    if training_languages is not None:
        training_languages = languages_at(training_languages, "training languages")
    check_before_encoding(out, scoring)
    data = load(benchmark, scoring.cache_dir)
    check_language_names(text, data.languages)
    if trec:
        check_trec_ids(data)
    if not overwrite:
        refuse_to_replace(out, model, data.fingerprint)
    if announce is not None:
        announce(data)
    scoring = with_cache(scoring, needed=data.on_disk or actors is not None)
    loaded = load_encoder(model, trust_remote_code=trust_remote_code, text=text, at_least=at_least)
    check_encoder(loaded, data, scoring)
    if expansions is not None:
        check_prefixes(loaded.text.model_dump())
        if "max_question_tokens" not in text:
            make_room(loaded, combine)
    seen = languages_seen(loaded, training_languages)
    if actors is not None:
        from hbt_dist.orchestration.evaluation import EvaluationActors, evaluate_with_actors

        location = str(Path(model).absolute()) if Path(model).is_dir() else model
        with (
            connect(WorkerSettings(num_workers=actors, address=address)) as cluster,
            EvaluationActors(cluster, actors) as pool,
        ):
            scoring = pool.with_arithmetic(scoring)
            evaluation = evaluate_with_actors(
                pool,
                {
                    "name_or_path": location,
                    "trust_remote_code": trust_remote_code,
                    "text": text,
                    "at_least": at_least,
                },
                data,
                scoring,
                transform=build_removal(loaded, data, scoring, not quiet),
                seen_languages=seen,
                provenance=scoring_facts(model, loaded, benchmark, scoring),
                progress=not quiet,
                loaded=loaded,
            )
    else:
        scoring = with_arithmetic(scoring)
        options: dict[str, Any] = {
            "settings": scoring,
            "transform": build_removal(loaded, data, scoring, not quiet),
            "seen_languages": seen,
            "provenance": scoring_facts(model, loaded, benchmark, scoring),
            "progress": not quiet,
        }
        if expansions is None:
            evaluation = score_encoder(loaded, data, **options)
        else:
            texts = read_expansions(expansions, data, combine.expansion_languages)
            evaluation = evaluate_expanded(loaded, data, texts, combine, **options)
    write_evaluation(
        evaluation,
        out,
        trec=trec,
        add_files=_write_report if report else None,
        test_losses=step_down_by_column,
    )
    return summary(evaluation)


def _check_expansions(
    combine: CombineSettings, scoring: EvaluationSettings, actors: int | None, text: dict[str, Any]
) -> None:
    """Refuse what an evaluation with expansions does not support, before anything is loaded."""
    if actors is not None:
        raise UserError("--expansions", "is not supported on Ray actors", "evaluate with --launcher local")
    if combine.combine == "rrf" and (scoring.widths or scoring.precisions):
        raise UserError(
            "--widths, --precisions",
            "expected one ranking for each question, got --combine rrf, which fuses several",
            "leave them out, or combine by concatenate or mean",
        )
    check_prefixes(text)


def refuse_to_replace(out: Path, model: str, fingerprint: str) -> None:
    """Check that `out` holds no evaluation of a different model or benchmark.

    Raises:
        UserError: it holds one.
    """
    file = out / "results.json"
    if not file.is_file():
        return
    try:
        results = json.loads(file.read_text("utf-8"))
        evaluated = str(results["provenance"]["model"])
        same = results["benchmark"]["fingerprint"] == fingerprint and (
            evaluated == model
            or (Path(model).is_dir() and Path(evaluated).resolve() == Path(model).resolve())
        )
        content = f"of {evaluated} on {title_of(results)}"
    except (ValueError, KeyError, TypeError):
        same, content = False, "that cannot be read"
    if not same:
        raise UserError(
            str(out),
            f"holds another evaluation, {content}",
            "name another folder, or replace it with --overwrite",
        )


def _write_report(folder: Path) -> object:
    """Write the report of an evaluation; loads matplotlib, which a training does without."""
    from hbt_dist.reports.evaluation.page import write_report

    return write_report(folder)

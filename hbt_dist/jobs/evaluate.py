"""Evaluate a model: load -> encode -> rank -> a folder with report.html, results.json, pair_matrix.csv.

In this process, or on Ray actors with the same digits.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hbt_dist.common.environment import environment_facts
from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import is_user_function, user_digests
from hbt_dist.data.benchmarks.load import load
from hbt_dist.data.settings import BenchmarkSettings
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.run_file import RunFile


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
    overwrite: bool = True,
) -> str:
    """Evaluate one model on one benchmark and write the folder `out`.

    Args:
        model: folder or hub name of an encoder.
        benchmark: what to measure on.
        out: folder for the results; an older evaluation there is replaced, see `overwrite`.
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
        overwrite: replace an evaluation of another model or on another benchmark, too.

    Returns:
        the summary for the terminal.

    Raises:
        UserError: model, benchmark or folder cannot be used.
    """
    from hbt_dist.evaluation.encode import encode_texts
    from hbt_dist.evaluation.evaluation import evaluate
    from hbt_dist.evaluation.metrics import user_metrics
    from hbt_dist.evaluation.results import summary
    from hbt_dist.evaluation.settings import EvaluationSettings
    from hbt_dist.evaluation.writing import check_target, write_evaluation
    from hbt_dist.methods.expansion.combine import evaluate_expanded
    from hbt_dist.methods.expansion.files import read_expansions
    from hbt_dist.methods.language_removal import read_language_texts
    from hbt_dist.models.encoder import load_encoder

    scoring = scoring or EvaluationSettings()
    check_target(out)
    user_metrics(scoring.metrics)  # a mistake shows before anything is encoded
    data = load(benchmark, scoring.cache_dir)
    if not overwrite:
        keep_another(out, model, data.fingerprint)
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
        **({"label": benchmark.label} if benchmark.is_labelled else {}),
        "text": loaded.text.model_dump(),
        "scoring": scoring.model_dump(mode="json"),
        "training": loaded.facts,
        **({"own": user_digests([benchmark.name])} if is_user_function(benchmark.name) else {}),
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
        asked = read_expansions(expansions, data, combine.expansion_languages)
        evaluation = evaluate_expanded(
            loaded,
            data,
            asked,
            combine,
            settings=scoring,
            seen_languages=seen,
            provenance=facts,
            progress=not quiet,
            language_vectors=vectors,
        )
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


def keep_another(out: Path, model: str, fingerprint: str) -> None:
    """Refuse to replace an evaluation of another model or on another benchmark.

    Raises:
        UserError: there is one in `out`.
    """
    file = out / "results.json"
    if not file.is_file():
        return
    try:
        there = json.loads(file.read_text("utf-8"))
        benchmark, evaluated = there["benchmark"], str(there["provenance"]["model"])
        same = benchmark["fingerprint"] == fingerprint and _same_model(evaluated, model)
        what = f"of {evaluated} on {benchmark['name']} ({benchmark['variant']})"
    except (ValueError, KeyError, TypeError):
        same, what = False, "that cannot be read"
    if not same:
        raise UserError(
            str(out),
            f"holds another evaluation, {what}",
            "name another folder, or replace it with --overwrite",
        )


def _same_model(one: str, other: str) -> bool:
    return one == other or (Path(one).is_dir() and Path(one).resolve() == Path(other).resolve())


def evaluate_for_run(
    run: RunFile,
    model: Path | str,
    benchmark: BenchmarkSettings,
    out: Path,
    *,
    scoring: EvaluationSettings | None = None,
    training_languages: Sequence[str] | None = None,
    report: bool = False,
    quiet: bool = True,
) -> str:
    """Evaluate a model of a run with the run's own text settings and scoring, see `evaluate_job`.

    Args:
        scoring: instead of the run's.
    """
    return evaluate_job(
        str(model),
        benchmark,
        out,
        text=run.model.text,
        scoring=scoring or run.evaluation.scoring,
        trust_remote_code=run.model.trust_remote_code,
        training_languages=training_languages,
        quiet=quiet,
        report=report,
    )


def _make_room(loaded: Any, combine: Any, text: dict[str, Any] | None) -> None:
    """Raise the question limit for concatenated expansions, unless the caller set it."""
    from hbt_dist.methods.expansion.combine import make_room

    if combine.combine == "concatenate" and "max_question_tokens" not in (text or {}):
        make_room(loaded, combine)


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
    from hbt_dist.orchestration.evaluation import ActorSettings, evaluate_with_actors, evaluation_actors
    from hbt_dist.orchestration.settings import WorkerSettings

    if Path(model["name_or_path"]).is_dir():
        model = {**model, "name_or_path": str(Path(model["name_or_path"]).absolute())}
    with (
        connect(WorkerSettings(num_workers=actors, address=address)) as cluster,
        evaluation_actors(ActorSettings(num_actors=actors), cluster) as pool,
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

"""Evaluate a model from Python: one call for a folder, a SentenceTransformer or vectors.

evaluation = hbt_dist.evaluate_model("runs/mine/model", "my_benchmark")
evaluation.pairs()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hbt_dist.common.environment import environment_facts
from hbt_dist.common.errors import UserError, expected
from hbt_dist.common.hushed import hushed
from hbt_dist.config.settings import plain_copy, validate
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.evaluation.settings import EvaluationSettings

if TYPE_CHECKING:
    from hbt_dist.data.benchmarks.benchmark import Benchmark
    from hbt_dist.evaluation.evaluation import Evaluation
    from hbt_dist.models.encoder import LoadedEncoder

_MODELS = "a model folder or name, a LoadedEncoder, a SentenceTransformer, or (questions, candidates) vectors"
_BENCHMARKS = "a benchmark's name or folder, a dict of its settings, or a Benchmark"


def evaluate_model(
    model: Any,
    benchmark: str | Path | Mapping[str, Any] | BenchmarkSettings | Benchmark,
    *,
    output: str | Path | None = None,
    training_languages: Sequence[str] | None = None,
    scoring: EvaluationSettings | Mapping[str, Any] | None = None,
    trust_remote_code: bool = False,
    quiet: bool = False,
) -> Evaluation:
    """Measure a model on every language pair of a benchmark, exactly.

    Args:
        model: folder or hub name; a `LoadedEncoder`; a `SentenceTransformer`, which encodes with its prompts
            and limits; or a pair of arrays: vectors of the questions (Q, D) and of the candidates (N, D), in
            the order of the benchmark, whose inner product is the score.
        benchmark: name such as ``"xquad-r"``, a folder, a dict such as ``{"name": "xquad-r",
            "languages": ["en", "de"]}``, or what `load_benchmark` returned.
        output: folder for report.html, results.json and the tables; default: nothing is written.
        training_languages: to report seen and unseen languages apart; default: what the model recorded.
        scoring: the block `evaluation.scoring` of a run file, such as ``{"device": "cpu"}``.
        trust_remote_code: run code that comes with the model's folder.
        quiet: print nothing.

    Raises:
        UserError: an argument is of another type, or model, benchmark or folder cannot be used.
    """
    settings = _scoring(scoring)
    with hushed(quiet):
        from hbt_dist.evaluation.encode import with_arithmetic
        from hbt_dist.evaluation.run import check_before_encoding, with_cache
        from hbt_dist.models.encoder import LoadedEncoder

        _check_model(model)
        chosen = _benchmark_settings(benchmark)
        _check_prefixes(model, chosen)
        if output is not None:
            check_before_encoding(Path(output), settings)
        data = _loaded_benchmark(benchmark, chosen, settings)
        settings = with_arithmetic(with_cache(settings, needed=data.on_disk))
        if isinstance(model, str | Path):
            model = _load(str(model), chosen, data, trust_remote_code, quiet)
        score = _score_encoder if isinstance(model, LoadedEncoder) else _score_vectors
        evaluation = score(model, chosen, data, settings, training_languages, quiet)
        if output is not None:
            _write(evaluation, Path(output))
    return evaluation


def _scoring(given: EvaluationSettings | Mapping[str, Any] | None) -> EvaluationSettings:
    if given is None or isinstance(given, EvaluationSettings):
        return given or EvaluationSettings()
    if not isinstance(given, Mapping):
        raise expected("scoring", "a dict or EvaluationSettings", given, 'for example {"device": "cpu"}')
    return validate(EvaluationSettings, plain_copy(given), "scoring")


def _check_model(model: Any) -> None:
    """Refuse an argument that is not a model before a benchmark is read."""
    from hbt_dist.models.encoder import LoadedEncoder

    if isinstance(model, str | Path | LoadedEncoder) or callable(getattr(model, "encode", None)):
        return
    if not isinstance(model, tuple | list) or len(model) != 2:
        raise expected("model", _MODELS, model, "give the folder of a trained model: RUN/model")


def _benchmark_settings(benchmark: Any) -> BenchmarkSettings | None:
    """Return the settings of a benchmark; None if it is loaded."""
    from hbt_dist.data.benchmarks.benchmark import Benchmark

    if isinstance(benchmark, Benchmark):
        return None
    if isinstance(benchmark, BenchmarkSettings):
        return benchmark
    if isinstance(benchmark, Mapping):
        return validate(BenchmarkSettings, plain_copy(benchmark), "benchmark")
    if isinstance(benchmark, str | Path):
        return BenchmarkSettings(name=str(benchmark))
    raise expected("benchmark", _BENCHMARKS, benchmark, "for example 'sample', or a folder of yours")


def _check_prefixes(model: Any, chosen: BenchmarkSettings | None) -> None:
    """Refuse prefixes of a benchmark that cannot reach the texts: of a model that is loaded, of vectors."""
    if chosen is None or not chosen.prefixes or isinstance(model, str | Path):
        return
    raise UserError(
        f"benchmark, {', '.join(chosen.prefixes)}",
        f"expected a model folder, got {type(model).__name__}, which is evaluated without it",
        "give the folder or name of the model, or encode with the prefix and remove it here",
    )


def _loaded_benchmark(
    benchmark: Any, chosen: BenchmarkSettings | None, settings: EvaluationSettings
) -> Benchmark:
    from hbt_dist.data.benchmarks.load import load

    loaded: Benchmark = benchmark if chosen is None else load(chosen, settings.cache_dir)
    return loaded


def _load(
    model: str, chosen: BenchmarkSettings | None, data: Benchmark, trust_remote_code: bool, quiet: bool
) -> LoadedEncoder:
    from hbt_dist.data.instructions import check_language_names
    from hbt_dist.models.loading import load_encoder

    prefixes = {} if chosen is None else chosen.prefixes
    check_language_names(prefixes, data.languages)
    return load_encoder(model, trust_remote_code=trust_remote_code, text=prefixes, quiet=quiet)


def _score_encoder(
    loaded: LoadedEncoder,
    chosen: BenchmarkSettings | None,
    data: Benchmark,
    settings: EvaluationSettings,
    training_languages: Sequence[str] | None,
    quiet: bool,
) -> Evaluation:
    from hbt_dist.evaluation.run import check_encoder, languages_seen, score_encoder, scoring_facts
    from hbt_dist.methods.language_removal import build_removal

    check_encoder(loaded, data, settings)
    return score_encoder(
        loaded,
        data,
        settings=settings,
        transform=build_removal(loaded, data, settings, not quiet),
        seen_languages=languages_seen(loaded, training_languages),
        provenance=scoring_facts(
            loaded.source, loaded, chosen or BenchmarkSettings(name=data.name), settings
        ),
        progress=not quiet,
    )


def _score_vectors(
    model: Any,
    chosen: BenchmarkSettings | None,
    data: Benchmark,
    settings: EvaluationSettings,
    training_languages: Sequence[str] | None,
    quiet: bool,
) -> Evaluation:
    """Score vectors, or the vectors of a SentenceTransformer."""
    from hbt_dist.data.benchmarks.load import title_given
    from hbt_dist.evaluation.evaluation import evaluate

    if settings.language_removal != "none":
        raise UserError(
            "scoring.language_removal",
            f"expected none, got {settings.language_removal}: it needs a model folder",
            "leave it out, or give the folder of the model",
        )
    if isinstance(model, tuple | list):
        name, (questions, candidates) = "vectors", map(_array, model)
        normalized = False
    else:
        name, normalized, questions, candidates = _encoded(model, data, quiet)
    label = None if chosen is None else title_given(chosen)
    labelled = {} if label is None else {"label": label}
    return evaluate(
        data,
        questions,
        candidates,
        settings=settings,
        seen_languages=training_languages,
        provenance={
            "model": name,
            **labelled,
            "scoring": settings.model_dump(mode="json"),
            "training": {},
            **environment_facts(),
        },
        normalized=normalized,
    )


def _array(vectors: Any) -> Any:
    """Return vectors as an array: (n, D)."""
    import numpy as np

    if hasattr(vectors, "detach"):  # a tensor, on any device
        vectors = vectors.detach().cpu().float().numpy()
    try:
        array = np.asarray(vectors)
    except ValueError:  # rows of different lengths
        array = np.empty(0, object)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise expected("model", "two arrays of numbers, (Q, D) and (N, D)", vectors)
    return array if array.dtype.kind == "f" else array.astype(np.float32)


def _encoded(model: Any, data: Benchmark, quiet: bool) -> tuple[str, bool, Any, Any]:
    """Return name, whether the vectors have length 1, and vectors of a SentenceTransformer.

    Its similarity decides whether the vectors are normalised; distances are refused.
    """
    similarity = str(getattr(model, "similarity_fn_name", None) or "cosine")
    if similarity not in ("cosine", "dot"):
        raise UserError(
            "model",
            f"expected similarity cosine or dot, got {similarity}",
            "set model.similarity_fn_name to 'cosine'",
        )
    cosine = similarity == "cosine"
    options = {"normalize_embeddings": cosine, "convert_to_numpy": True, "show_progress_bar": not quiet}
    encode_question = getattr(model, "encode_query", model.encode)
    encode_passage = getattr(model, "encode_document", model.encode)
    questions = encode_question(list(data.question_texts), **options)
    candidates = encode_passage(list(data.candidate_texts), **options)
    card = getattr(model, "model_card_data", None)
    name = getattr(card, "model_id", None) or getattr(card, "base_model", None) or type(model).__name__
    return str(name), cosine, questions, candidates


def _write(evaluation: Evaluation, output: Path) -> None:
    from hbt_dist.comparison.significance import step_down_by_column
    from hbt_dist.evaluation.writing import write_evaluation
    from hbt_dist.reports.evaluation.page import write_report

    write_evaluation(evaluation, output, add_files=write_report, test_losses=step_down_by_column)

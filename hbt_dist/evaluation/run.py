"""Score an encoder on a benchmark in this process: load -> encode -> rank -> write the folder.

    print(score_model("runs/mine/model", BenchmarkSettings(name="xquad-r"), Path("out")))

No Ray and no report: `hbt_dist.jobs.evaluate` adds both, and expanded questions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hbt_dist.common.environment import environment_facts
from hbt_dist.config.user_functions import is_user_function, user_digests
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load, title_given
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.data.instructions import check_language_names
from hbt_dist.evaluation.encode import encode_with_flags, prefixes_by_language, with_arithmetic
from hbt_dist.evaluation.evaluation import EmbeddingTransform, Evaluation, evaluate
from hbt_dist.evaluation.metrics import user_metrics
from hbt_dist.evaluation.results import summary
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.text_counts import text_counts
from hbt_dist.evaluation.writing import check_target, write_evaluation
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.loading import load_encoder
from hbt_dist.models.tokenising import check_readable

DEFAULT_CACHE = Path(".cache/hbt_dist/embeddings")


#: Builds the transform that the settings name (encoder, benchmark, settings, progress), such as
#: `hbt_dist.methods.language_removal.build_removal`.
BuildTransform = Callable[[LoadedEncoder, Benchmark, EvaluationSettings, bool], EmbeddingTransform | None]


def score_model(
    model: str | Path,
    benchmark: BenchmarkSettings,
    out: Path,
    *,
    text: dict[str, Any] | None = None,
    at_least: dict[str, int] | None = None,
    scoring: EvaluationSettings | None = None,
    trust_remote_code: bool = False,
    build_transform: BuildTransform | None = None,
    training_languages: Sequence[str] | None = None,
    quiet: bool = True,
) -> str:
    """Score one model on one benchmark, write the folder `out` and return the summary for the terminal.

    Args:
        model: folder or hub name of an encoder.
        benchmark: what to measure on.
        out: folder for the results; an older evaluation in it is replaced.
        text: text settings that replace the model's.
        at_least: limits below which the model's are raised.
        scoring: default: `EvaluationSettings()`.
        trust_remote_code: run code that comes with the model.
        build_transform: builds what changes the embeddings before they are scored.
        training_languages: to report seen and unseen languages apart; default: what the model recorded.
        quiet: no progress.

    Raises:
        UserError: model, benchmark or folder cannot be used.
    """
    scoring = scoring or EvaluationSettings()
    check_before_encoding(out, scoring)
    data = load(benchmark, scoring.cache_dir)
    text = (text or {}) | benchmark.prefixes
    check_language_names(text, data.languages)
    scoring = with_arithmetic(with_cache(scoring, needed=data.on_disk))
    loaded = load_encoder(
        model, trust_remote_code=trust_remote_code, text=text, at_least=at_least, quiet=quiet
    )
    check_encoder(loaded, data, scoring)
    evaluation = score_encoder(
        loaded,
        data,
        settings=scoring,
        transform=None if build_transform is None else build_transform(loaded, data, scoring, not quiet),
        seen_languages=languages_seen(loaded, training_languages),
        provenance=scoring_facts(str(model), loaded, benchmark, scoring),
        progress=not quiet,
    )
    write_evaluation(evaluation, out)
    return summary(evaluation)


def score_encoder(
    loaded: LoadedEncoder,
    benchmark: Benchmark,
    *,
    settings: EvaluationSettings,
    transform: EmbeddingTransform | None = None,
    seen_languages: Sequence[str] | None = None,
    provenance: dict[str, Any] | None = None,
    progress: bool = True,
) -> Evaluation:
    """Encode a benchmark and evaluate the embeddings, see `evaluate`."""
    how: Any = {"settings": settings, "progress": progress}
    questions, question_flags = encode_with_flags(
        loaded,
        benchmark.question_texts,
        "question",
        prefixes=prefixes_by_language(loaded, benchmark, "question"),
        **how,
    )
    candidates, candidate_flags = encode_with_flags(
        loaded,
        benchmark.candidate_texts,
        "passage",
        prefixes=prefixes_by_language(loaded, benchmark, "passage"),
        **how,
    )
    return evaluate(
        benchmark,
        questions,
        candidates,
        texts=text_counts(benchmark, loaded.text, question_flags, candidate_flags),
        settings=settings,
        transform=transform,
        seen_languages=seen_languages,
        provenance=provenance,
        normalized=loaded.text.normalize,
    )


def check_before_encoding(out: Path, settings: EvaluationSettings) -> None:
    """Check the target folder and the user-defined metrics before hours of encoding rather than after.

    Raises:
        UserError: `out` holds something else, or a metric cannot be imported.
    """
    check_target(out)
    user_metrics(settings.metrics)


def check_encoder(loaded: LoadedEncoder, benchmark: Benchmark, settings: EvaluationSettings) -> None:
    """Check that the encoder has the widths of the settings, and its tokenizer the texts of a benchmark.

    Raises:
        UserError: a width is larger than the embeddings', or nearly all questions or candidates are unknown.
    """
    settings.representations(loaded.encoder.width)
    check_language_names(loaded.text.model_dump(), benchmark.languages)
    for texts in (benchmark.question_texts, benchmark.candidate_texts):
        check_readable(loaded.tokenizer, texts, loaded.source)


def with_cache(settings: EvaluationSettings, *, needed: bool) -> EvaluationSettings:
    """Return the settings with the default cache folder where embeddings need one and none is set."""
    if settings.cache_dir is not None or not needed:
        return settings
    return settings.model_copy(update={"cache_dir": str(DEFAULT_CACHE.absolute())})


def languages_seen(loaded: LoadedEncoder, languages: Sequence[str] | None) -> Sequence[str] | None:
    """Return the training languages that the caller names, else those that the model recorded."""
    return languages if languages is not None else loaded.facts.get("languages")


def scoring_facts(
    model: str, loaded: LoadedEncoder, benchmark: BenchmarkSettings, settings: EvaluationSettings
) -> dict[str, Any]:
    """Return the provenance of an evaluation: model, text settings, scoring, training, versions."""
    return {
        "model": model,
        **({} if title_given(benchmark) is None else {"label": title_given(benchmark)}),
        "text": loaded.text.model_dump(),
        "scoring": settings.model_dump(mode="json"),
        "training": loaded.facts,
        **({"user_functions": user_digests([benchmark.name])} if is_user_function(benchmark.name) else {}),
        **environment_facts(),
    }

"""Evaluate with expanded questions: concatenation, mean of embeddings, or reciprocal rank fusion.

    concatenate   question, `repeat` times, then its expansions, as one question with its prefix once
    mean          mean of the question's embedding and those of its expansions, which are encoded as passages;
                  normalised again where the model normalises
    rrf           the ranking by the question and those by each expansion (as a passage), fused

An expansion without text counts as none. All settings, matrices and bias measures are those of a plain
evaluation (`hbt_dist.evaluation`); only the ranking consistency is missing for rrf. Where language components
are removed, a question with its expansions loses those of the question's language, and so does every run that
is fused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hbt_dist.common.console import Progress
from hbt_dist.common.errors import UserError
from hbt_dist.config.placeholders import LANGUAGE
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.evaluation.embedding_files import Role
from hbt_dist.evaluation.encode import encode_with_flags
from hbt_dist.evaluation.evaluation import EmbeddingTransform, Evaluation, assemble, evaluate
from hbt_dist.evaluation.matrix_rows import Float32, Int64, Rows
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.text_counts import Flags, text_counts
from hbt_dist.methods.expansion.files import Expansions
from hbt_dist.methods.expansion.fusion import fuse_rankings
from hbt_dist.methods.expansion.settings import CombineSettings
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.positions import most_tokens


def concatenated(question: str, expansions: Sequence[str], repeat: int) -> str:
    """One text: the question `repeat` times, then the expansions that aren't empty."""
    return " ".join([question] * repeat + [text for text in expansions if text])


def mean_embeddings(questions: Float32, expansions: Float32, question_of: Int64, normalize: bool) -> Float32:
    """(Q, D) means of each question's vector and those of its expansions.

    Args:
        questions: (Q, D).
        expansions: (X, D).
        question_of: (X,) question row of each expansion.
        normalize: to length 1.
    """
    total = questions.astype(np.float64)
    np.add.at(total, question_of, expansions.astype(np.float64))
    total /= 1.0 + np.bincount(question_of, minlength=len(questions))[:, None]
    if normalize:
        total /= np.linalg.norm(total, axis=1, keepdims=True)
    return total.astype(np.float32)


def evaluate_expanded(
    loaded: LoadedEncoder,
    benchmark: Benchmark,
    expansions: Expansions,
    how: CombineSettings,
    *,
    settings: EvaluationSettings | None = None,
    seen_languages: Sequence[str] | None = None,
    provenance: dict[str, Any] | None = None,
    progress: bool = True,
    transform: EmbeddingTransform | None = None,
) -> Evaluation:
    """Encode and score a benchmark with expanded questions.

    Args:
        loaded: the encoder; for `concatenate` its question limit should hold the expansions (`make_room`).
        expansions: from `read_expansions` with this benchmark.
        how: how they are combined; recorded in the evaluation's provenance with the file's fingerprint.
        transform: changes the embeddings first, see `evaluate`.

    Raises:
        UserError: a vector that cannot be ranked, a language with too few vectors to remove components.
    """
    settings = settings or EvaluationSettings()
    facts = {
        **(provenance or {}),
        "expansions": {
            **how.model_dump(mode="json"),
            "file": expansions.path.name,
            "fingerprint": expansions.fingerprint,
            "num_expansions": sum(map(len, expansions.texts)),
            "num_empty": sum(not text for texts in expansions.texts for text in texts),
            "made_with": expansions.header,
        },
    }

    def encode(texts: Sequence[str], role: Role) -> tuple[Float32, Flags]:
        vectors, flags = encode_with_flags(loaded, texts, role, settings=settings, progress=progress)
        return np.asarray(vectors[:]), flags

    candidates, candidate_flags = encode_with_flags(
        loaded, benchmark.candidate_texts, "passage", settings=settings, progress=progress
    )
    if how.combine == "concatenate":
        pairs = zip(benchmark.question_texts, expansions.texts, strict=True)
        questions, flags = encode([concatenated(*pair, how.repeat) for pair in pairs], "question")
    else:
        questions, flags = encode(benchmark.question_texts, "question")
        flat = [
            (row, text)
            for row, texts_of_question in enumerate(expansions.texts)
            for text in texts_of_question
            if text
        ]
        question_of = np.array([row for row, _ in flat], np.int64)
        pseudo = (
            encode([text for _, text in flat], "passage")[0]
            if flat
            else np.zeros((0, questions.shape[1]), np.float32)
        )
        if how.combine == "rrf":
            return _fused(
                benchmark,
                questions,
                pseudo,
                question_of,
                candidates,
                how,
                settings,
                seen_languages,
                facts,
                progress,
                transform,
                text_counts(benchmark, loaded.text, flags, candidate_flags),
            )
        questions = mean_embeddings(questions, pseudo, question_of, loaded.text.normalize)
    return evaluate(
        benchmark,
        questions,
        candidates,
        settings=settings,
        seen_languages=seen_languages,
        provenance=facts,
        transform=transform,
        texts=text_counts(benchmark, loaded.text, flags, candidate_flags),
        normalized=loaded.text.normalize,
    )


def _fused(
    benchmark: Benchmark,
    questions: Float32,
    pseudo: Float32,
    question_of: Int64,
    candidates: Rows,
    how: CombineSettings,
    settings: EvaluationSettings,
    seen_languages: Sequence[str] | None,
    facts: dict[str, Any],
    progress: bool,
    transform: EmbeddingTransform | None,
    texts: dict[str, Any],
) -> Evaluation:
    owner = np.concatenate([np.arange(len(questions)), question_of])
    order = np.argsort(owner, kind="stable")  # each question's own run first
    owner = owner[order]
    runs: Rows = np.concatenate([questions, pseudo])[order]
    removed: dict[str, Any] = {}
    if transform is not None:
        runs, candidates, removed = transform(benchmark, runs, candidates, owner)
    with Progress(benchmark.num_questions, "fuse rankings", "question", disable=not progress) as bar:
        ranks, top = fuse_rankings(
            benchmark,
            runs,
            owner,
            candidates,
            k=how.rrf_k,
            settings=settings,
            progress=lambda done: bar.update(done - bar.n),
        )
    return assemble(
        benchmark,
        ranks,
        top,
        seen_languages=seen_languages,
        provenance={**facts, **removed},
        metrics=settings.metrics,
        texts=texts,
    )


def check_prefixes(text: Mapping[str, Any]) -> None:
    """Refuse prefixes with the name of a language: an expansion has none.

    Raises:
        UserError: it names the setting.
    """
    for key in ("question_prefix", "passage_prefix"):
        if LANGUAGE in (text.get(key) or ""):
            raise UserError(
                key,
                f"expected a prefix without {LANGUAGE}, as expansions are used, got {text[key][:60]!r}",
                f"write a name in place of {LANGUAGE}, or leave out --expansions",
            )


def make_room(loaded: LoadedEncoder, how: CombineSettings) -> None:
    """Raise the question limit for concatenated expansions: `how.max_tokens`, or the encoder's positions."""
    if how.combine != "concatenate":
        return
    most = most_tokens(loaded.encoder.backbone) or how.max_tokens
    room = max(loaded.text.max_question_tokens, min(how.max_tokens, most))
    loaded.encoder.text = loaded.text.model_copy(update={"max_question_tokens": room})

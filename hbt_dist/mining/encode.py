"""Encode the questions and the passages of a corpus for a miner, with the prefixes of training."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from hbt_dist.batching.flat_prefixes import flat_prefixes
from hbt_dist.data.corpus.corpus import Corpus, Role
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.evaluation.embedding_files import EmbeddingFiles
from hbt_dist.evaluation.encode import encode_with_flags, with_arithmetic
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.tokenising import check_readable

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers(Protocol):
    """Encode texts into files, and compute functions of files: this process, or actors of a cluster."""

    def with_arithmetic(self, settings: EvaluationSettings) -> EvaluationSettings:
        """Return the settings with the arithmetic that `dtype: auto` means on the workers."""

    def encode(
        self,
        model: dict[str, Any],
        texts: Sequence[str],
        role: Role,
        settings: EvaluationSettings,
        *,
        prefixes: Sequence[str] | None,
        loaded: LoadedEncoder,
        progress: bool,
    ) -> EmbeddingFiles:
        """Return the vectors of texts by a model, given by the arguments of `load_encoder` and loaded."""

    def run(self, call: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield the results of a pure function of files, as they finish."""


class LocalWorker:
    """Work in this process, see `Workers`."""

    def with_arithmetic(self, settings: EvaluationSettings) -> EvaluationSettings:
        """Return the settings with the arithmetic of this process's device."""
        return with_arithmetic(settings)

    def encode(
        self,
        model: dict[str, Any],
        texts: Sequence[str],
        role: Role,
        settings: EvaluationSettings,
        *,
        prefixes: Sequence[str] | None,
        loaded: LoadedEncoder,
        progress: bool,
    ) -> EmbeddingFiles:
        """Encode where an earlier encode of the same texts left off."""
        options: Any = {"prefixes": prefixes, "settings": settings, "progress": progress}
        vectors, _ = encode_with_flags(loaded, texts, role, **options)
        assert isinstance(vectors, EmbeddingFiles)
        return vectors

    def run(self, call: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yield the results in order."""
        return map(call, items)


def encode_corpus(
    workers: Workers,
    model: dict[str, Any],
    loaded: LoadedEncoder,
    corpus: Corpus,
    settings: EvaluationSettings,
    *,
    progress: bool,
) -> tuple[EmbeddingFiles, EmbeddingFiles]:
    """Return the vectors of the questions and of the passages, in the order of `FlatTexts`.

    Args:
        workers: encode.
        model: arguments of `load_encoder` that give `loaded`.
        corpus: questions and passages.
        settings: precision, batches, and the folder of the embeddings.

    Raises:
        UserError: the tokenizer knows nearly nothing of the texts, or a vector cannot be ranked.
    """
    roles: tuple[Role, Role] = ("question", "passage")
    texts = {role: FlatTexts(corpus, role) for role in roles}
    for role in roles:
        check_readable(loaded.tokenizer, texts[role], loaded.source)
    questions, passages = (
        workers.encode(
            model,
            texts[role],
            role,
            settings,
            prefixes=flat_prefixes(texts[role], loaded.text),
            loaded=loaded,
            progress=progress,
        )
        for role in roles
    )
    return questions, passages

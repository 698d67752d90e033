"""Score pairs of question and passage with a second model, the judge of a miner.

A judge gets the candidates of a block's lists and its positives. It is a pure function of them, so that a
repeated block has the same scores.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.common.devices import torch_device
from hbt_dist.common.errors import UserError, first_line
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.evaluation.matrix_rows import Float32, Int64, Rows
from hbt_dist.mining.settings import JudgeSettings
from hbt_dist.models.loading import check_source
from hbt_dist.models.weights import explained, quiet_transformers

_KEY = "mining.judge"
_PAIRS_AT_ONCE = 1 << 16
_SCORING = ("ForSequenceClassification", "ForCausalLM")


@dataclass(frozen=True)
class CrossEncoderJudge:
    """Score pairs with a cross-encoder of sentence-transformers: its `predict`, with its activation.

    A passage is read with the question in its language. Where the example has no such question, the passage
    is read with each of its questions, and the highest score counts.
    """

    corpus: Corpus
    settings: JudgeSettings
    device: str

    def __call__(self, examples: Int64, passages: Int64, languages: Int64) -> Float32:
        """Return the score of each pair of example and passage text: (n,) each."""
        cells = self.corpus.cell_questions[self.corpus.example_cell[examples]]
        pairs: list[tuple[str, str]] = []
        owners: list[int] = []
        for number, (example, passage, language) in enumerate(
            zip(examples.tolist(), passages.tolist(), languages.tolist(), strict=True)
        ):
            text = self.corpus.passage_text(passage, language)
            spoken = [language] if cells[number, language] else np.flatnonzero(cells[number]).tolist()
            pairs += [(self.corpus.question_text(example, code), text) for code in spoken]
            owners += [number] * len(spoken)
        scores = self._predict(pairs)
        best = np.full(len(examples), -np.inf, np.float32)
        np.maximum.at(best, owners, scores)
        return best

    def _predict(self, pairs: list[tuple[str, str]]) -> Float32:
        model = load_cross_encoder(self.settings, self.device)
        scores = model.predict(pairs, batch_size=self.settings.pairs_per_batch, show_progress_bar=False)
        return np.asarray(scores, np.float32)


@dataclass(frozen=True)
class EncoderJudge:
    """Score pairs by the product of the vectors of another encoder, with the best of an example's questions.

    Attributes:
        corpus: examples and passages.
        questions: vectors of the texts of `FlatTexts(corpus, "question")`.
        passages: vectors of the texts of `FlatTexts(corpus, "passage")`.
    """

    corpus: Corpus
    questions: Rows
    passages: Rows

    @cached_property
    def _texts(self) -> tuple[FlatTexts, FlatTexts]:
        return FlatTexts(self.corpus, "question"), FlatTexts(self.corpus, "passage")

    def __call__(self, examples: Int64, passages: Int64, languages: Int64) -> Float32:
        """Return the score of each pair of example and passage text: (n,) each."""
        scores = [
            self._scores(*(part[start : start + _PAIRS_AT_ONCE] for part in (examples, passages, languages)))
            for start in range(0, len(examples), _PAIRS_AT_ONCE)
        ]
        return np.concatenate([np.empty(0, np.float32), *scores])

    def _scores(self, examples: Int64, passages: Int64, languages: Int64) -> Float32:
        questions, candidates = self._texts
        numbers = np.empty(len(passages), np.int64)
        for language in np.unique(languages).tolist():
            where = languages == language
            numbers[where] = candidates.numbers(passages[where], language)
        vectors_nD = self.passages[numbers]
        cells = self.corpus.cell_questions[self.corpus.example_cell[examples]]
        best = np.full(len(examples), -np.inf, np.float32)
        for language in np.flatnonzero(cells.any(0)).tolist():
            rows = np.flatnonzero(cells[:, language])
            questions_nD = self.questions[questions.numbers(examples[rows], language)]
            sums = np.einsum("nd,nd->n", questions_nD, vectors_nD[rows], dtype=np.float64)
            best[rows] = np.maximum(best[rows], sums.astype(np.float32))
        return best


@functools.lru_cache(maxsize=1)
def _loaded(name: str, max_tokens: int | None, trust_remote_code: bool, device: str) -> Any:
    try:
        from sentence_transformers import CrossEncoder
    except ImportError as error:
        raise UserError(
            _KEY,
            f"a cross-encoder needs sentence-transformers, which cannot be imported: {first_line(error)}",
            "pip install 'sentence-transformers>=6,<7'",
        ) from None
    check_source(name)
    with explained(name), quiet_transformers():
        _check_scores(name, trust_remote_code)
        model: Any = CrossEncoder(
            name, max_length=max_tokens, trust_remote_code=trust_remote_code, device=str(torch_device(device))
        )
    if model.num_labels != 1:
        raise UserError(
            f"{_KEY}: {name}",
            f"expected a cross-encoder with one score, got {model.num_labels} labels",
            "name a reranker, which scores a passage for a question",
        )
    return model


def load_cross_encoder(settings: JudgeSettings, device: str) -> Any:
    """Return a cross-encoder, loaded once per process.

    Raises:
        UserError: sentence-transformers is not installed, or the folder has no cross-encoder with one score.
    """
    return _loaded(settings.name_or_path, settings.max_tokens, settings.trust_remote_code, device)


def _check_scores(name: str, trust_remote_code: bool) -> None:
    """Refuse an encoder: sentence-transformers would draw the weights of its score at random."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    kinds = config.architectures or []
    if kinds and not any(kind.endswith(_SCORING) for kind in kinds) and not _is_saved_cross_encoder(name):
        raise UserError(
            f"{_KEY}: {name}",
            f"expected a cross-encoder, got {kinds[0]}, which has no weights of a score",
            "set mining.judge.kind: encoder, or name a cross-encoder",
        )


def _is_saved_cross_encoder(name: str) -> bool:
    """Return whether sentence-transformers saved a folder as a cross-encoder of several modules."""
    file = Path(name) / "config_sentence_transformers.json"
    return file.is_file() and '"CrossEncoder"' in file.read_text("utf-8")

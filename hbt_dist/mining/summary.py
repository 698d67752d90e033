"""Describe mined negatives: by language share, by language, their scores, what was left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.console import counted
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.mining.mined import MinedNegatives

#: Languages of a negative, seen from its example; each negative counts in the first that holds.
_RELATIONS = {
    "passage": "in a language of the passage",
    "question": "in a language of the question",
    "other": "in another language",
}
_QUANTILES = (0.05, 0.5, 0.95)


def describe(corpus: Corpus, mined: MinedNegatives, count: int) -> dict[str, Any]:
    """Return the figures of the table, for the record.

    Args:
        corpus: of the examples.
        mined: their negatives.
        count: negatives that each example was to get.
    """
    per_example = np.diff(mined.offsets)
    owners = np.repeat(np.arange(mined.num_examples), per_example)
    cells = corpus.example_cell[owners]
    in_passage = corpus.cell_passages[cells, mined.language]
    in_question = corpus.cell_questions[cells, mined.language] & ~in_passage
    relations = dict(zip(_RELATIONS, (in_passage, in_question, ~(in_passage | in_question)), strict=True))
    by_language = np.bincount(mined.language, minlength=len(corpus.languages)).tolist()
    return {
        "requested": count * mined.num_examples,
        "negatives": len(mined.passage),
        "examples": mined.num_examples,
        "examples_without": int(np.count_nonzero(per_example == 0)),
        "examples_with_fewer": int(np.count_nonzero(per_example < count)),
        "relations": {
            name: {"negatives": int(np.count_nonzero(has)), "scores": _quantiles(mined.score[has])}
            for name, has in relations.items()
        },
        "languages": dict(zip(corpus.languages, by_language, strict=True)),
        "positive_scores": _quantiles(mined.positive_score),
    }


def _quantiles(scores: NDArray[np.float32]) -> list[float] | None:
    """Return the 5 %, 50 % and 95 % quantiles; None without scores."""
    finite = scores[np.isfinite(scores)]
    return [round(float(value), 6) for value in np.quantile(finite, _QUANTILES)] if len(finite) else None


def summary(record: dict[str, Any]) -> str:
    """Return the table for the screen from the record of a mining."""
    return "\n".join(_lines(record))


def _lines(record: dict[str, Any]) -> Iterator[str]:
    figures, file = record["figures"], record["file"]
    negatives, requested = figures["negatives"], figures["requested"]
    yield (
        f"{counted(negatives, 'negative')} for {counted(figures['examples'], 'question')}, "
        f"{negatives / max(requested, 1):.1%} of {requested:,} requested"
    )
    yield f"  {'negatives':<32} {'number':>10} {'share':>7}   score at 5 %, 50 %, 95 %"
    for name, words in _RELATIONS.items():
        row = figures["relations"][name]
        number = row["negatives"]
        yield f"  {words:<32} {number:>10,} {number / max(negatives, 1):>7.1%}   {_scores(row['scores'])}"
    yield f"  {'positives':<32} {figures['examples']:>10,} {'':>7}   {_scores(figures['positive_scores'])}"
    languages = sorted(figures["languages"].items(), key=lambda item: (-item[1], item[0]))
    yield "  languages: " + ", ".join(f"{code} {number:,}" for code, number in languages if number)
    if figures["examples_with_fewer"]:
        yield (
            f"  {counted(figures['examples_with_fewer'], 'question')} with fewer negatives than requested, "
            f"{figures['examples_without']:,} of them without any"
        )
    yield f"written: {file['path']}"


def _scores(quantiles: list[float] | None) -> str:
    return "-" if quantiles is None else "  ".join(f"{value:.3f}" for value in quantiles)

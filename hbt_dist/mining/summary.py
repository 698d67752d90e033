"""Describe mined negatives: shares of languages and what stayed unfilled, scores, candidates left out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.console import counted
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.mining.mined import MinedNegatives

#: Language of a negative, seen from its example; a negative counts in the first that holds.
_RELATIONS = {
    "passage": "in a language of the passage",
    "question": "in a language of the question",
    "other": "in another language",
}
#: Reasons of `hbt_dist.mining.selection` for which a candidate was left out.
_REASONS = {
    "group": "of the example's group",
    "margin": "by a margin",
    "score": "by min_score or max_score",
    "rank": "by rank_min",
}
_QUANTILES = (0.05, 0.5, 0.95)


def describe(corpus: Corpus, mined: MinedNegatives) -> dict[str, Any]:
    """Return numbers and scores by the language of a negative, seen from its example, for the record."""
    owners = np.repeat(np.arange(mined.num_examples), np.diff(mined.offsets))
    cells = corpus.example_cell[owners]
    in_passage = corpus.cell_passages[cells, mined.language]
    in_question = corpus.cell_questions[cells, mined.language] & ~in_passage
    masks = (in_passage, in_question, ~(in_passage | in_question))
    rows = {
        name: {"number": int(np.count_nonzero(mask)), "scores": _quantiles(mined.score[mask])}
        for name, mask in zip(_RELATIONS, masks, strict=True)
    }
    return {**rows, "positives": {"number": mined.num_examples, "scores": _quantiles(mined.positive_score)}}


def _quantiles(scores: NDArray[np.float32]) -> list[float] | None:
    """Return the 5 %, 50 % and 95 % quantiles; None without scores."""
    return [round(float(value), 6) for value in np.quantile(scores, _QUANTILES)] if len(scores) else None


def summary(record: dict[str, Any]) -> str:
    """Return the table for the screen from the record of a mining."""
    return "\n".join(_lines(record["scores"], record["counts"], record["file"]["path"]))


def _lines(scores: dict[str, Any], counts: dict[str, Any], path: str) -> Iterator[str]:
    negatives = sum(scores[name]["number"] for name in _RELATIONS)
    shares = counts["shares"]
    requested = sum(share["requested"] for share in shares.values())
    yield (
        f"{counted(negatives, 'negative')} for {counted(counts['examples'], 'question')}: "
        f"{negatives / max(requested, 1):.1%} of {requested:,} requested"
    )
    yield f"  {'':<30} {'number':>10} {'share':>7}   scores at 5 %, 50 %, 95 %"
    for name, words in {**_RELATIONS, "positives": "positives"}.items():
        number, part = scores[name]["number"], ""
        if name in _RELATIONS:
            part = f"{number / max(negatives, 1):.1%}"
        yield f"  {words:<30} {number:>10,} {part:>7}   {_shown(scores[name]['scores'])}"
    languages = {code: values["negatives"] for code, values in counts["languages"].items()}
    ordered = sorted(languages.items(), key=lambda item: (-item[1], item[0]))
    yield "  by language: " + ", ".join(f"{code} {number:,}" for code, number in ordered)
    for name, share in shares.items():
        relaxed = f", {share['relaxed']:,} of them by fill: relax" if share["relaxed"] else ""
        number = share["requested"] - share["unfilled"]
        yield f"  share {name}: {number:,} of {share['requested']:,}{relaxed}"
    left_out = {
        words: sum(values[reason] for values in counts["languages"].values())
        for reason, words in _REASONS.items()
    }
    if parts := [f"{number:,} {words}" for words, number in left_out.items() if number]:
        yield f"  candidates left out: {', '.join(parts)}"
    if fewer := counts["examples_with_fewer"]:
        yield (
            f"  {counted(fewer, 'question')} with fewer negatives than requested, "
            f"{counts['examples_without']:,} without any ({counts['examples_all_excluded']:,} because every "
            "candidate was left out); mining.fill: relax fills them"
        )
    yield f"written: {path}"


def _shown(quantiles: list[float] | None) -> str:
    return "-" if quantiles is None else "  ".join(f"{value:.3f}" for value in quantiles)

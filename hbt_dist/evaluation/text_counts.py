"""Count the texts of a benchmark that the length limit cut, and those that gave no token.

Tokenising knows both for nothing. The counts stand next to every figure: a limit hides what a model can do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.models.settings import TextSettings
from hbt_dist.models.tokenising import Tokenised

CUT, SPECIAL_ONLY = 1, 2
Flags = NDArray[np.uint8]  # (n,) sums of CUT and SPECIAL_ONLY


def flags_of(tokens: Tokenised) -> Flags:
    """Return one byte per text."""
    return (CUT * tokens.cut + SPECIAL_ONLY * tokens.special_only).astype(np.uint8)


def text_counts(
    benchmark: Benchmark, text: TextSettings, questions: Flags, candidates: Flags
) -> dict[str, Any]:
    """Return the counts of questions and candidates by language, as results.json has them.

    Args:
        benchmark: whose texts were tokenised.
        text: the limits in force.
        questions: (Q,) flags.
        candidates: (N,) flags.
    """
    return {
        "questions": {
            "max_tokens": text.max_question_tokens,
            **_by_language(benchmark, benchmark.question_language, questions),
        },
        "candidates": {
            "max_tokens": text.max_passage_tokens,
            **_by_language(benchmark, benchmark.candidate_language, candidates),
        },
    }


def _by_language(
    benchmark: Benchmark, language: NDArray[np.int32], flags: Flags
) -> dict[str, dict[str, int]]:
    def count(chosen: NDArray[np.bool_]) -> dict[str, int]:
        counts = np.bincount(language[chosen], minlength=len(benchmark.languages)).tolist()
        return {**dict(zip(benchmark.languages, counts, strict=True)), "total": int(chosen.sum())}

    every = np.ones(len(flags), bool)
    return {
        "num_texts": count(every),
        "cut": count((flags & CUT) > 0),
        "special_only": count((flags & SPECIAL_ONLY) > 0),
    }


def text_lines(texts: dict[str, Any] | None) -> list[str]:
    """Return lines for terminal and report; an empty list for results without the counts."""
    if texts is None:
        return []
    parts = [_cut_share(role, counts) for role, counts in texts.items()]
    lines = [f"cut texts: {', '.join(parts)}"]
    for role, counts in texts.items():
        languages = {code: number for code, number in counts["special_only"].items() if number}
        if total := languages.pop("total", 0):
            lines.append(
                f"without any token: {total:,} of {counts['num_texts']['total']:,} {role} "
                f"({', '.join(languages)}); their vectors are equal"
            )
    return lines


def _cut_shares(counts: dict[str, Any]) -> dict[str, float]:
    """Return language -> share of its texts that were cut, and that of all as `total`."""
    return {code: counts["cut"][code] / max(1, number) for code, number in counts["num_texts"].items()}


def _cut_share(role: str, counts: dict[str, Any]) -> str:
    shares = _cut_shares(counts)
    total = shares.pop("total")
    worst = max(shares, key=lambda code: shares[code])
    most = f", {shares[worst]:.1%} in {worst}" if shares[worst] > total else ""
    return f"{total:.1%} of {role} (at {counts['max_tokens']:,} tokens{most})"

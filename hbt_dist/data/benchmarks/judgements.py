"""Decide how judgements that do not fit their collection are scored, and count them.

Published collections hold empty documents (FiQA, SciDocs), judgements of documents that are not in the corpus
(ArguAna), judgements of queries that are not asked (NFCorpus), and queries that are documents themselves
(ArguAna, Quora). `as_published` scores them as BEIR, MTEB and trec_eval do, `strict` refuses them:

| case | strict | as_published |
|---|---|---|
| empty text | refused | an empty text |
| relevant document that is absent | refused | counts in R, never found |
| judged question that is not asked | refused | left out |
| question without a relevant document | refused | left out (trec_eval counts it as 0) |

`identical_ids: drop` takes the document with a question's id out of that question's rankings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hbt_dist.data.benchmarks.settings import IdenticalIds, Judgements


@dataclass(frozen=True)
class Rules:
    """How judgements that do not fit their collection are scored."""

    judgements: Judgements = "strict"
    identical_ids: IdenticalIds = "keep"


STRICT = Rules()
#: Last line of the remedy in every refusal of `strict`.
WAY_OUT = "or score the collection as published: judgements: as_published, --judgements as_published"

#: What is counted, and its wording.
_WORDING = {
    "empty_questions": "questions with an empty text",
    "empty_documents": "documents with an empty text",
    "absent_relevant": "relevant documents outside the pool, which count in R and are never found",
    "questions_not_asked": "judged questions that are not among the questions, left out",
    "questions_without_relevant": "questions without a relevant document, left out",
    "questions_with_own_document": "questions with the id of a document, which their rankings {treatment}",
    "own_document_relevant": "of those, judged relevant, which count in R and are never found",
}
_TREATMENT = {"drop": "leave out", "keep": "keep (identical_ids: keep)"}


@dataclass(frozen=True)
class JudgementCounts:
    """Rules of a benchmark's judgements, and how often each case occurred if it did."""

    rules: Rules = STRICT
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def plain(self) -> dict[str, Any]:
        """Return rules and counts for results.json."""
        return {
            "judgements": self.rules.judgements,
            "identical_ids": self.rules.identical_ids,
            "counts": {name: self.counts.get(name, 0) for name in _WORDING},
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> JudgementCounts:
        """Return the rules and counts of `plain`."""
        counts = {name: count for name, count in plain["counts"].items() if count}
        return cls(Rules(plain["judgements"], plain["identical_ids"]), counts)


def judgement_lines(plain: Mapping[str, Any]) -> list[str]:
    """Return a line for each count above 0 of `JudgementCounts.plain`."""
    treatment = _TREATMENT[plain["identical_ids"]]
    return [
        f"{_WORDING[name].format(treatment=treatment)}: {count:,}"
        for name, count in plain["counts"].items()
        if count
    ]

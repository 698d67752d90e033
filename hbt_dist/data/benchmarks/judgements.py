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

from dataclasses import asdict, dataclass
from typing import Any, Literal

Judgements = Literal["strict", "as_published"]
IdenticalIds = Literal["drop", "keep"]


@dataclass(frozen=True)
class Rules:
    """How judgements that do not fit their collection are scored."""

    judgements: Judgements = "strict"
    identical_ids: IdenticalIds = "keep"


STRICT = Rules()
#: Second half of the remedy in every refusal of `strict`.
WAY_OUT = "or score the collection as published: judgements: as_published, --judgements as_published"


@dataclass(frozen=True)
class JudgementCounts:
    """Rules of a benchmark's judgements, and how often each was needed."""

    judgements: Judgements = "strict"
    identical_ids: IdenticalIds = "keep"
    empty_questions: int = 0
    empty_documents: int = 0
    absent_relevant: int = 0  # judgements of absent documents as relevant
    questions_not_asked: int = 0  # ids
    questions_without_relevant: int = 0  # ids
    questions_with_own_document: int = 0  # rows whose id is also the id of a candidate
    own_document_relevant: int = 0  # judgements of a dropped document as relevant

    @property
    def plain(self) -> dict[str, Any]:
        """Return the rules and counts for results.json."""
        return asdict(self)


def judgement_lines(counts: dict[str, Any]) -> list[str]:
    """Return a line for each count above 0 of `JudgementCounts.plain`."""
    dropped = counts["identical_ids"] == "drop"
    wording = {
        "empty_questions": "questions are empty texts",
        "empty_documents": "documents are empty texts",
        "absent_relevant": "relevant documents are not in the pool: they count in R and are never found",
        "questions_not_asked": "judged questions are not among the questions and are left out",
        "questions_without_relevant": "questions have no relevant document and are left out",
        "questions_with_own_document": "questions have the id of a document, which "
        + ("their rankings leave out" if dropped else "their rankings keep (identical_ids: keep)"),
        "own_document_relevant": "documents that the rankings leave out are judged relevant: "
        "they count in R and are never found",
    }
    return [f"{counts[key]:,} {words}" for key, words in wording.items() if counts[key]]

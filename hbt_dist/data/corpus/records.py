"""Define the records that training readers yield for every file format.

Texts are keyed by language code (`hbt_dist.data.languages`). Ids are unique inside one source; the corpus
puts the source's name before them where sources meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NegativeRecord:
    """A hard negative: a passage that doesn't answer the question, in one or more languages.

    Attributes:
        passage_id: as that of a `TrainingRecord`.
        passage: language -> text; a translation of one passage.
        language: in which a miner chose it; one of those of `passage`. None: not recorded.
        score: of a teacher, for the question and this passage; None: not scored.
    """

    passage_id: str
    passage: dict[str, str]
    language: str | None = None
    score: float | None = None


@dataclass(frozen=True, slots=True)
class TrainingRecord:
    """One example: a question, the passage that answers it, and hard negatives if there are any.

    Attributes:
        example_id: unique in its source.
        passage_id: the same id may come with many examples, always with the same texts.
        question: language -> text; a translation of one question.
        passage: language -> text; a translation of one passage.
        negatives: may be empty. The passage itself is left out of them (refused under an explicit id).
        prefix: instruction before the question; None: the source's, else the model's.
        score: of a teacher, for the question and the passage; None: not scored.
        location: where the record was read, for error messages: ``"train.jsonl line 12"``.
    """

    example_id: str
    passage_id: str
    question: dict[str, str]
    passage: dict[str, str]
    negatives: tuple[NegativeRecord, ...] = field(default=())
    location: str = ""
    prefix: str | None = None
    score: float | None = None

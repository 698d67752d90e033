"""Settings of the terms that a contrastive loss can have next to plain InfoNCE."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hbt_dist.config.schedule import Number, Schedule
from hbt_dist.config.settings import Settings
from hbt_dist.data.languages import LanguageCode

Denominator = Literal["question_question", "passage_passage", "passage_question"]


class HardnessSettings(Settings):
    """Weights of negatives: exp(strength * score), the score without temperature and without gradient."""

    columns: Literal["hard_negatives", "in_batch", "both"] = Field(
        "hard_negatives",
        description="hard_negatives: a row's hard negatives (EmbeddingGemma, arXiv 2509.20354); in_batch: "
        "the passages of other rows (arXiv 2503.04812); both: all but the positive",
    )
    strength: float = Field(5.0, gt=0, description="5 in EmbeddingGemma; 9 in arXiv 2503.04812, for in_batch")


class SpreadOutSettings(Settings):
    """Mean squared cosine of different texts of the global batch, sub-batches or not (EmbeddingGemma)."""

    weight: float = Field(1.0, gt=0, description="of the regulariser, which is added to the rest of the loss")
    texts: list[Literal["questions", "passages"]] = Field(
        ["questions", "passages"],
        min_length=1,
        description="whose mean is added: of the questions, of the positive passages, or the sum of both",
    )
    mask_groups: bool = Field(
        True, description="leave out pairs of one group, such as translations and equal passages"
    )

    @model_validator(mode="after")
    def _check(self) -> SpreadOutSettings:
        if len(set(self.texts)) < len(self.texts):
            raise ValueError(f"texts must differ from each other, got {self.texts}")
        return self


class FalseNegativeSettings(Settings):
    """Leave out columns whose similarity to a row is above that of the row's positive by a margin."""

    margin: float | None = Field(
        None,
        description="in units of the similarity: 0.1 (Qwen3-Embedding) leaves out what exceeds the positive "
        "by more than 0.1; below 0: also what comes close to it (GIST, whose margins have the other sign); "
        "default: relative_margin",
    )
    relative_margin: float | None = Field(
        None,
        ge=-1,
        description="instead of margin: a share of the positive's similarity; -0.05 leaves out what is above "
        "95 % of it; default: margin",
    )
    guide: str | None = Field(
        None,
        description="name in `teachers` of a frozen model whose similarities decide (GIST); default: those "
        "of the trained model",
    )
    columns: Literal["all", "in_batch", "hard_negatives"] = Field(
        "all",
        description="hard_negatives: leave out only a row's hard negatives; in_batch: only columns of other "
        "rows; all: both",
    )
    languages: Literal["all", "positive"] = Field(
        "all",
        description="positive: leave out only columns in the language of the row's positive, so that a "
        "model's preference for the question's language leaves out nothing",
    )

    @model_validator(mode="after")
    def _check(self) -> FalseNegativeSettings:
        if (self.margin is None) == (self.relative_margin is None):
            raise ValueError("set either margin, such as 0.1, or relative_margin")
        return self


class TargetSettings(Settings):
    """Draw the vectors of the rows' texts to those that a frozen teacher gives the same texts."""

    teacher: str = Field(description="name of the teacher in `teachers`; its vectors have the model's width")
    weight: Number | Schedule = Field(
        1.0, description="weight of this part of the loss next to info_nce_weight; a number or a schedule"
    )
    form: Literal["cosine", "mse"] = Field(
        "cosine",
        description="cosine: 1 - cosine of the two vectors; mse: mean squared difference of their values, "
        "with similarity: cosine after scaling both to length 1",
    )
    language: LanguageCode | None = Field(
        None,
        description="draw to the teacher's vector of the text's translation into this language, such as en; "
        "a text without one has no target; default: of the text itself",
    )
    on: Literal["questions", "passages", "both"] = Field(
        "both",
        description="texts that have targets; passages: positives and hard negatives; both: the mean of the "
        "two parts",
    )


class DistillationSettings(Settings):
    """Distil a teacher's scores of each row's positive and hard negatives into the model."""

    weight: float = Field(
        1.0,
        gt=0,
        description="w in InfoNCE + w KL(softmax(teacher's scores / temperature) || softmax(scores / "
        "loss.temperature)), over the scored candidates of a row; the mean runs over all rows of the batch",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="the teacher's scores are divided by it: about 1 for logits of cross-encoders, 0.02 to "
        "0.1 for cosines. The start of a training measures whether it fits the scores",
    )

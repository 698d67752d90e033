"""Settings of the contrastive loss and of the step that computes it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from hbt_dist.common.errors import UserError
from hbt_dist.config.schedule import Number, Schedule, at_steps
from hbt_dist.config.settings import Settings
from hbt_dist.contrastive.term_settings import (
    Denominator,
    DistillationSettings,
    FalseNegativeSettings,
    HardnessSettings,
    SpreadOutSettings,
    TargetSettings,
)

Kernel = Literal["auto", "rows", "liger"]


class LossSettings(Settings):
    """InfoNCE over the global batch."""

    similarity: Literal["cosine", "dot"] = Field(
        "cosine",
        description="score of a question and a passage: cosine with model.text.normalize, dot without",
    )
    temperature: float = Field(
        0.05,
        gt=0,
        description="scores are divided by it; values from 0.05 to 0.01 are usual. The printed equation of "
        "hybrid batch training has no temperature: with cosine and 1.0 the softmax is nearly flat",
    )
    learn_temperature: bool = Field(
        False, description="train the temperature (its inverse's logarithm) together with the encoder"
    )
    min_temperature: float = Field(0.005, gt=0, description="lower bound of a learned temperature")
    max_temperature: float = Field(1.0, gt=0, description="upper bound of a learned temperature")
    directions: Literal["question_to_passage", "both"] = Field(
        "question_to_passage",
        description="both: the mean of question -> passage and positive passage -> question",
    )
    negatives: Literal["global", "sub_batch"] = Field(
        "global",
        description="a row is contrasted with the whole global batch, or with its sub-batch of it",
    )
    equation: Literal["standard", "paper_eq1"] = Field(
        "standard",
        description="standard: every other row's positive and all hard negatives are negatives; paper_eq1: "
        "hard negatives only, as Eq. 1 of arXiv 2408.10536 is printed",
    )
    mask_false_negatives: bool = Field(
        True, description="leave out columns whose passage is in the same group as the row's positive"
    )
    false_negatives: FalseNegativeSettings | None = Field(
        None,
        description="also leave out columns by similarity, such as {margin: 0.1}, in every direction and at "
        "every width; alignment keeps all columns; default: none",
    )
    info_nce_weight: Number | Schedule = Field(
        1.0,
        description="weight of InfoNCE next to `targets`; a number or a schedule. 0: InfoNCE is computed and "
        "reported, and trains nothing",
    )
    targets: TargetSettings | None = Field(
        None, description="distillation from a teacher's vectors; default: none"
    )
    alignment_weight: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="a in (1-a) InfoNCE + a KL(question in language B || in language A) (LaKDA, arXiv "
        "2509.06195; 0.5 in the paper). The batch needs a second question language",
    )
    alignment_temperature: float = Field(
        1.0, gt=0, description="temperature of the alignment's softmax; the paper uses plain cosines, 1.0"
    )
    distillation: DistillationSettings | None = Field(
        None,
        description="learn from a teacher's scores in the data (docs/negatives.md), with embeddings of the "
        "full width; default: scores are not used",
    )
    widths: list[Annotated[int, Field(ge=1)]] | None = Field(
        None,
        min_length=1,
        description="Matryoshka: the mean of InfoNCE at several widths, each of embeddings cut to that many "
        "values (and for cosine scaled to length 1 again), such as [768, 384, 192, 96]; alignment has the "
        "full width only; default: the full width",
    )
    width_weights: list[Annotated[float, Field(gt=0)]] | None = Field(
        None,
        description="weight of each of the widths, relative to their sum; default: equal weights",
    )
    denominators: list[Denominator] | None = Field(
        None,
        min_length=1,
        description="further negatives in the partition function. question_question: questions of other "
        "rows; passage_passage: the positive passage against all passages of other rows; passage_question: "
        "the positive passage against all questions. All three: GTE (arXiv 2308.03281). Groups are masked "
        "like passages; default: none",
    )
    hardness: HardnessSettings | None = Field(
        None, description="weigh negatives by how hard they are; {} takes the defaults; default: weight 1"
    )
    spread_out: SpreadOutSettings | None = Field(
        None, description="add the spread-out regulariser; {} takes the defaults; default: none"
    )
    row_chunk: int = Field(
        256,
        ge=1,
        description="questions scored at once: row_chunk x columns x 4 bytes of scores exist, never B x B",
    )
    kernel: Kernel = Field(
        "auto",
        description="rows: plain PyTorch, in place; liger: the same with Liger-Kernel's fused cross entropy "
        "(CUDA, hbt-dist[fused]; use row_chunk 1024 or more). Masked columns always take rows. auto: rows",
    )

    products: Literal["auto", "ieee", "tf32"] = Field(
        "auto",
        description="float32 products of embeddings on GPUs. tf32: factors of 10 bits, faster; auto: tf32 "
        "if the encoder computes in bf16 or fp16, whose rounding is ten times that of tf32, else ieee",
    )

    @model_validator(mode="after")
    def _check(self) -> LossSettings:
        if self.equation == "paper_eq1" and self.directions == "both":
            raise ValueError("equation paper_eq1 has one direction: set directions to question_to_passage")
        if self.equation == "paper_eq1" and self.kernel == "liger":
            raise ValueError("equation paper_eq1 needs masks: set kernel to auto or rows")
        if self.false_negatives is not None:
            if self.kernel == "liger":
                raise ValueError("false_negatives needs masks: set kernel to auto or rows")
            is_cosine = self.similarity == "cosine" or self.false_negatives.guide is not None
            if is_cosine and abs(self.false_negatives.margin or 0.0) >= 2:
                raise ValueError(
                    "false_negatives.margin must be between -2 and 2, as cosines differ by at most 2; got "
                    f"{self.false_negatives.margin:g}"
                )
        if self.min_temperature > self.max_temperature:
            raise ValueError("min_temperature is above max_temperature")
        if self.learn_temperature and not self.min_temperature <= self.temperature <= self.max_temperature:
            raise ValueError("temperature is outside min_temperature..max_temperature")
        if self.learn_temperature and self.info_nce_weight == 0 and self.distillation is None:
            raise ValueError(
                "learn_temperature trains nothing with info_nce_weight 0, as no other part of the loss has a "
                "temperature: set it to false, or raise info_nce_weight"
            )
        if len(set(self.widths or ())) < len(self.widths or ()):
            raise ValueError(f"widths must differ from each other, got {self.widths}")
        if self.width_weights is not None and len(self.width_weights) != len(self.widths or ()):
            raise ValueError(
                f"width_weights needs one weight per entry of widths, got {len(self.width_weights)} weights "
                f"for {len(self.widths or ())} widths"
            )
        return self

    @model_validator(mode="after")
    def _trains_at_every_step(self) -> LossSettings:
        weights = [self.info_nce_weight, self.alignment_weight]
        if self.targets is not None:
            weights.append(self.targets.weight)
        if self.distillation is not None:
            weights.append(self.distillation.weight)
        schedules = [weight for weight in weights if isinstance(weight, Schedule)]
        moments = np.array(sorted({0}.union(*(schedule.moments() for schedule in schedules))), np.int64)
        total = np.sum([at_steps(weight, moments) for weight in weights], axis=0)
        if (total == 0).any():
            raise ValueError(
                f"every weight of the loss is 0 at step {moments[total == 0][0]}: raise info_nce_weight or "
                "targets.weight"
            )
        return self

    def at(self, step: int) -> LossSettings:
        """Return the settings with the weights of a step as numbers."""
        targets, moment = self.targets, np.array([step])
        changed: dict[str, Any] = {}
        if isinstance(self.info_nce_weight, Schedule):
            changed["info_nce_weight"] = float(self.info_nce_weight.at(moment)[0])
        if targets is not None and isinstance(targets.weight, Schedule):
            weight = float(targets.weight.at(moment)[0])
            changed["targets"] = targets.model_copy(update={"weight": weight})
        return self.model_copy(update=changed) if changed else self

    @model_validator(mode="after")
    def _check_optional_terms(self) -> LossSettings:
        for key in ("denominators", "hardness"):
            if getattr(self, key) is not None and self.equation == "paper_eq1":
                raise ValueError(f"{key} changes equation paper_eq1: set equation to standard")
            if getattr(self, key) is not None and self.kernel == "liger":
                raise ValueError(f"{key} needs the row loop: set kernel to auto or rows")
        names = self.denominators or []
        if len(set(names)) < len(names):
            raise ValueError(f"denominators must differ from each other, got {names}")
        if names and self.directions == "both":
            raise ValueError(
                "denominators belong to one partition function per row, and directions: both has two: set "
                "directions to question_to_passage, and add passage_question to denominators"
            )
        if self.spread_out is not None and self.similarity == "dot":
            raise ValueError(
                "spread_out needs vectors of length 1, or it would shorten them: set similarity to cosine"
            )
        return self

    @property
    def gathers_questions(self) -> bool:
        """Whether the loss needs the questions of all ranks."""
        spread_out = self.spread_out is not None and "questions" in self.spread_out.texts
        return self.directions == "both" or self._scores_questions or spread_out

    @property
    def has_passages_as_rows(self) -> bool:
        """Whether a part of a partition function scores columns with the positive passage."""
        return self.directions == "both" or bool(set(self.denominators or ()) - {"question_question"})

    @property
    def _scores_questions(self) -> bool:
        """Whether questions are columns of a part of the partition function."""
        return bool({"question_question", "passage_question"} & set(self.denominators or ()))

    @property
    def scatters_questions(self) -> bool:
        """Whether ranks have parts of the gradient of one another's questions."""
        return self.directions == "both" or self._scores_questions

    def teachers(self) -> dict[str, str]:
        """Return the frozen models that the loss uses: key of the run file -> name in `teachers`."""
        named = {}
        if self.false_negatives is not None and self.false_negatives.guide is not None:
            named["loss.false_negatives.guide"] = self.false_negatives.guide
        if self.targets is not None:
            named["loss.targets.teacher"] = self.targets.teacher
        return named

    def shares_of_widths(self, width: int) -> dict[int, float]:
        """Return the share of each width in the loss; shares sum to 1.

        Args:
            width: of the embeddings.

        Raises:
            UserError: the embeddings are narrower than one of the widths.
        """
        widths = self.widths or [width]
        if max(widths) > width:
            raise UserError(
                "loss.widths",
                f"expected at most {width}, the width of the model's embeddings, got {max(widths)}",
                "remove it from loss.widths; model.text.width, where it is set, cuts the embeddings before",
            )
        weights = self.width_weights or [1.0] * len(widths)
        return {each: weight / sum(weights) for each, weight in zip(widths, weights, strict=True)}


class StepSettings(Settings):
    """How the gradient of a global batch is computed; the result does not depend on it."""

    mode: Literal["auto", "direct", "cached"] = Field(
        "auto",
        description="rows are encoded in chunks of similar length. direct: the activations of all chunks are "
        "kept for the backward pass; cached (GradCache): of one chunk, each is encoded twice; auto: those of "
        "as many chunks as kept_tokens allows",
    )
    chunk_rows: int | Literal["auto"] | None = Field(
        None,
        description="most rows of a chunk, at least 1; auto finds the largest that fits the device at the "
        "start; default: 64 on CPUs, on GPUs chunk_tokens decides",
    )
    chunk_tokens: int | None = Field(
        None,
        ge=1,
        description="most tokens of a chunk, padding included; chunks of short texts get more rows; default: "
        "no limit on CPUs or if chunk_rows is set, else 65,536 on GPUs of 80 GB and less on smaller ones",
    )
    kept_tokens: int | Literal["auto"] = Field(
        "auto",
        description="most tokens whose activations mode auto keeps, in whole chunks of chunk_tokens; auto: "
        "measured on GPUs at the start; elsewhere all, if a worker's texts are at most chunk_rows, or none",
    )
    grad_reduction: Literal["auto", "coalesce", "boundary"] = Field(
        "auto",
        description="coalesce: full gradients stay on every rank until one reduction at the end; boundary: "
        "ZeRO 2 and 3 reduce after every chunk, less memory and more traffic; auto: coalesce where they fit",
    )
    self_check: bool = Field(
        True,
        description="before the first step, compare the chunked, distributed gradient of a tiny batch with "
        "the plain one and refuse to start if they differ",
    )

    @model_validator(mode="after")
    def _check(self) -> StepSettings:
        if isinstance(self.chunk_rows, int) and self.chunk_rows < 1:
            raise ValueError("chunk_rows must be at least 1")
        if isinstance(self.kept_tokens, int):
            if self.kept_tokens < 0:
                raise ValueError("kept_tokens must be at least 0")
            if self.chunk_tokens is None:
                raise ValueError("kept_tokens counts chunks of chunk_tokens: set chunk_tokens too")
        return self

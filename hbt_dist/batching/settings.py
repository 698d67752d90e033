"""Define the `batches` block of the run file: the content of a global batch.

    batches: {global_batch_size: 256, alpha: 0.5}            # the paper's hybrid batches

    batches:
      global_batch_size: 1024
      mixture: {monolingual: 0.4, crosslingual: 0.4, any_pair: 0.2}
      languages: {temperature: 0.5}                          # or uniform, size, {en: 2, fi: 1}
      datasets: {temperature: 0.7, max_share: 0.5}
      hard_negatives: {count: 1}

    batches:                                                 # 70 % of every batch from one source
      global_batch_size: 1024
      mixing: shares
      mixture:
        - {kind: monolingual, weight: 0.7, sources: [faq]}
        - {kind: crosslingual, weight: 0.3}

`alpha` and `mixture` exclude each other: alpha is a mixture of two kinds.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from hbt_dist.batching.kinds import KINDS, Kind
from hbt_dist.config.schedule import Number, Schedule, at_steps
from hbt_dist.config.settings import Settings
from hbt_dist.config.user_functions import UserFunction, is_user_function
from hbt_dist.data.languages import LanguageCodes, language_code, pair_label, spelled_keys
from hbt_dist.methods.code_switching.settings import CodeSwitchingSettings

Share = Annotated[float, Field(ge=0, le=1)]


class MixtureEntry(Settings):
    """One kind of batch in the mixture."""

    kind: Kind | UserFunction = Field(
        description="monolingual: every row of the batch in one language. crosslingual: every row in an "
        "ordered pair of two languages. mixed_monolingual: question and passage of a row in one language, "
        "languages mixed in the batch. any_pair: both languages drawn independently, also twice the same. "
        "module:function: a user-defined kind (docs/extending.md)."
    )
    weight: Number | Schedule = Field(1.0, description="Weight against the other entries; may be a schedule.")
    languages: LanguageCodes | None = Field(None, description="Only these languages; default: all.")
    sources: list[str] | None = Field(
        None,
        min_length=1,
        description="Only examples of these sources, by name of data.sources; default: all. With mixing: "
        "shares, a share of every global batch comes from them.",
    )
    sub_batches: int = Field(
        1,
        ge=1,
        description="With mixing: shares, the number of sub-batches that the rows of this entry make; "
        "each monolingual sub-batch draws a language.",
    )

    def unknown_source(self, names: Sequence[str]) -> tuple[str, str] | None:
        """Return problem and remedy of the first source that is not among the names of the data."""
        for name in self.sources or ():
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                remedy = f"did you mean {close[0]!r}?" if close else "give names of data.sources"
                return f"expected names of sources ({', '.join(names)}), got {name!r}", remedy
        return None

    def weight_at(self, steps: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the weight at each step."""
        return at_steps(self.weight, steps)

    def weight_extremes(self) -> tuple[float, float]:
        """Return the smallest and the largest weight over the training."""
        weight = self.weight
        return weight.extremes() if isinstance(weight, Schedule) else (weight, weight)


class Temperature(Settings):
    """Weights proportional to size ** temperature."""

    temperature: float = Field(ge=0, le=1, description="1: proportional to size; 0: uniform.")


def _form(value: Any) -> str:
    """Return the form of weights, so that a mistake in one form isn't reported as one in another."""
    if isinstance(value, Mapping):
        return "temperature" if "temperature" in value else "weights"
    return "temperature" if isinstance(value, Temperature) else "rule"


_Rule = Annotated[Literal["uniform", "size"], Tag("rule")]
_Tempered = Annotated[Temperature, Tag("temperature")]
_ByLanguage = Annotated[dict[str, Number], AfterValidator(partial(spelled_keys, spell=language_code))]
_ByPair = Annotated[dict[str, Number], AfterValidator(partial(spelled_keys, spell=pair_label))]
Weights = Literal["uniform", "size"] | Temperature | dict[str, Number]


class DatasetSettings(Settings):
    """Shares of the datasets."""

    temperature: float = Field(
        1.0, ge=0, le=1, description="Weight of a dataset is its size ** temperature. 1 (the paper): by size."
    )
    weights: dict[str, Number] | None = Field(
        None,
        description="Explicit weights by name of the source, all sources named; default: by temperature.",
    )
    min_share: Share = Field(0.0, description="Floor of the share of a dataset.")
    max_share: Share = Field(1.0, description="Cap of the share of a dataset.")
    per: Literal["row", "batch"] = Field(
        "row",
        description="row: datasets mix inside a batch. batch: every batch (or sub-batch) comes from one "
        "dataset, so each needs enough passages for a whole batch.",
    )
    order: Literal["language_first", "dataset_first"] = Field(
        "language_first",
        description="The choice that keeps its weights where some dataset lacks a language. "
        "language_first: the language or pair is drawn, then a dataset among those that have it. "
        "dataset_first: the reverse. The paper requires both, which its data cannot give.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> DatasetSettings:
        if self.min_share > self.max_share:
            raise ValueError(f"min_share {self.min_share} is above max_share {self.max_share}")
        if self.weights is not None and self.temperature != 1.0:
            raise ValueError("`weights` and `temperature` exclude each other")
        return self


#: Languages of a hard negative: that of the row's passage, that of its question, or a further one.
NegativeShare = Literal["passage", "question", "other"]
NEGATIVE_SHARES: tuple[NegativeShare, ...] = get_args(NegativeShare)


class HardNegativeSettings(Settings):
    """Hard negatives next to the positive of each row."""

    count: int = Field(
        0,
        ge=0,
        description="Hard negatives per question. Examples with fewer in the data are filled up with "
        "random passages of the same language, never of the row's group.",
    )
    language: Literal["passage", "question", "random", "mined"] | dict[NegativeShare, Share] = Field(
        "passage",
        description="Language of the hard negatives: that of the row's passage (otherwise the language alone "
        "reveals them), that of its question, any of the run's (random), or the one in which a miner chose "
        "the negative (mined; the passage's where none is recorded). Or shares with the sum 1, drawn per "
        "negative: {passage: 0.5, question: 0.25, other: 0.25}; other is a language of neither.",
    )

    @model_validator(mode="after")
    def _shares_make_1(self) -> HardNegativeSettings:
        if isinstance(self.language, dict) and abs((total := sum(self.language.values())) - 1) > 1e-6:
            raise ValueError(f"language: shares must have the sum 1, got {total:g}")
        return self

    def shares(self) -> dict[NegativeShare, float]:
        """Return the shares above 0 of languages that depend on the row's question and passage."""
        if isinstance(self.language, dict):
            return {name: share for name, share in self.language.items() if share > 0}
        return {name: 1.0 for name in NEGATIVE_SHARES if name == self.language}


class BatchSettings(Settings):
    """Content of a global batch. All randomness comes from the run's seed and the step."""

    global_batch_size: int = Field(
        ge=1, description="Rows that one optimizer step contrasts, over all ranks. The paper: 100 on one GPU."
    )
    alpha: Share | Schedule | None = Field(
        None,
        description="Probability that a global batch is monolingual; otherwise it is crosslingual. A "
        "number or a schedule. Default without a mixture: 0.5, the paper's choice (stable from 0.4 to 0.6).",
    )
    mixture: list[MixtureEntry] | None = Field(
        None,
        min_length=1,
        description="Any mixture of kinds instead of alpha: {monolingual: 0.5, crosslingual: 0.5}, or a list "
        "of entries with kind, weight, languages. Default: alpha decides.",
    )
    mixing: Literal["per_batch", "shares"] = Field(
        "per_batch",
        description="per_batch: each global batch is of one kind, drawn by weight. shares: every "
        "global batch holds each kind in proportion to its weight, as sub-batches.",
    )
    languages: Annotated[_Rule | _Tempered | Annotated[_ByLanguage, Tag("weights")], Discriminator(_form)] = (
        Field(
            "uniform",
            description="Weights of the languages in monolingual, mixed_monolingual and any_pair batches: "
            "uniform (the paper), size, {temperature: t}, or {en: 2, fi: 1} (only those named).",
        )
    )
    pairs: Annotated[_Rule | _Tempered | Annotated[_ByPair, Tag("weights")], Discriminator(_form)] = Field(
        "uniform",
        description="Weights of the ordered pairs question-passage in crosslingual batches: uniform, size, "
        "{temperature: t}, or {en-fi: 2, fi-en: 1} (only those named).",
    )
    datasets: DatasetSettings = Field(DatasetSettings(), description="Shares of the datasets.")
    hard_negatives: HardNegativeSettings = Field(
        HardNegativeSettings(), description="Hard negatives per row."
    )
    code_switching: CodeSwitchingSettings | None = Field(
        None, description="Replaces words of the rows by translations; default: texts stay as they are."
    )

    @model_validator(mode="before")
    @classmethod
    def _short_mixture(cls, data: Any) -> Any:
        short = data.get("mixture") if isinstance(data, Mapping) else None
        if not isinstance(short, Mapping):
            return data
        for kind in short:
            if kind not in KINDS and not is_user_function(str(kind)):
                raise ValueError(
                    f"mixture: unknown kind {kind!r}; the kinds are {', '.join(KINDS)}, "
                    "or a user-defined kind, module:function"
                )
        return {**data, "mixture": [{"kind": kind, "weight": weight} for kind, weight in short.items()]}

    @model_validator(mode="after")
    def _one_choice(self) -> BatchSettings:
        if self.alpha is not None and self.mixture is not None:
            raise ValueError(
                "`alpha` and `mixture` exclude each other: alpha is the mixture "
                "{monolingual: alpha, crosslingual: 1 - alpha}; leave one out, or set it to null"
            )
        if isinstance(self.alpha, Schedule) and self.alpha.extremes()[1] > 1:
            raise ValueError(f"alpha is a probability; its schedule reaches {self.alpha.extremes()[1]}")
        self._some_weight_at_every_step()
        if self.mixing == "per_batch" and any(entry.sub_batches > 1 for entry in self.entries()):
            raise ValueError("`sub_batches` belongs to mixing: shares")
        if self.code_switching is not None and self.code_switching.kinds is not None:
            unused = set(self.code_switching.kinds) - {entry.kind for entry in self.entries()}
            if unused:
                raise ValueError(f"code_switching.kinds: the mixture has no {', '.join(sorted(unused))} rows")
        return self

    def _some_weight_at_every_step(self) -> None:
        """Check the total of the weights where it can be 0: between these steps weights are monotonic."""
        steps = {0}
        for entry in self.entries():
            if isinstance(entry.weight, Schedule):
                steps |= entry.weight.moments()
        moments = np.array(sorted(steps), np.int64)
        totals = np.sum([entry.weight_at(moments) for entry in self.entries()], axis=0)
        if (totals <= 0).any():
            raise ValueError(f"every weight of the mixture is 0 at step {moments[totals <= 0][0]}")

    def entries(self) -> list[MixtureEntry]:
        """Return the mixture, alpha spelled out."""
        if self.mixture is not None:
            return self.mixture
        alpha = 0.5 if self.alpha is None else self.alpha
        beta = alpha.complement() if isinstance(alpha, Schedule) else 1.0 - alpha
        return [
            MixtureEntry(kind="monolingual", weight=alpha),
            MixtureEntry(kind="crosslingual", weight=beta),
        ]

    def canonical(self) -> dict[str, Any]:
        """Return plain data in which equal plans look equal: alpha is spelled out as a mixture.

        Code-switching is left out: the content of its dictionaries counts, see `CodeSwitching.state`.
        """
        spelled_out = {"alpha", "mixture", "code_switching"}
        mixture = [entry.model_dump(mode="json") for entry in self.entries()]
        for entry in mixture:  # plans without the key keep the fingerprint that they had before it existed
            if entry["sources"] is None:
                del entry["sources"]
        return {**self.model_dump(mode="json", exclude=spelled_out), "mixture": mixture}

"""Settings of query expansion: how texts are generated, and how they join the question."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hbt_dist.config.settings import Settings
from hbt_dist.data.languages import LanguageCodes

Strategy = Literal["zero-shot", "few-shot", "chain-of-thought", "rephrase-and-respond"]
Combine = Literal["concatenate", "mean", "rrf"]


class ExpansionSettings(Settings):
    """What decides the texts of an expansion file, besides model, benchmark and translations."""

    strategy: Strategy = Field("zero-shot", description="prompting strategy (prompts.py has the texts)")
    order: Literal["before", "after"] | None = Field(
        None,
        description="with translations: after expands the translated question; before expands the question "
        "in its language and takes the translation of the expansion. default: no translation",
    )
    samples: int = Field(1, ge=1, description="expansions of each question")
    seed: int = Field(0, ge=0, lt=2**63, description="fixes the drawn tokens, separately for each question")
    temperature: float | None = Field(
        None,
        ge=0,
        description="0: likeliest token; above 0, tokens are drawn. default: 0 for one sample, 0.7 (that of "
        "HyDE) for several",
    )
    max_new_tokens: int = Field(128, ge=1, description="longest expansion, in the model's tokens")
    batch_size: int = Field(16, ge=1, description="prompts generated at once")
    languages: LanguageCodes | None = Field(
        None, description="languages of the questions to expand; default: all of the benchmark"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="arithmetic of the language model")

    @model_validator(mode="after")
    def _several_differ(self) -> ExpansionSettings:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("several samples at temperature 0 would all be the same; raise the temperature")
        return self

    @property
    def drawn_at(self) -> float:
        """The temperature in use."""
        if self.temperature is not None:
            return self.temperature
        return 0.0 if self.samples == 1 else 0.7


class CombineSettings(Settings):
    """How the expansions of a question take part in retrieval."""

    combine: Combine = Field(
        "concatenate",
        description="concatenate: question and expansions are one text. mean: mean of the embeddings of the "
        "question and of each expansion as a passage, normalised (HyDE, arXiv 2212.10496). rrf: the rankings "
        "by the question and by each expansion as a passage are fused by reciprocal rank",
    )
    repeat: int = Field(1, ge=1, description="concatenate: repetitions of the question before its expansions")
    max_tokens: int = Field(
        256,
        ge=4,
        description="concatenate: tokens of the whole text, prefix once at the front (the question limit "
        "would cut off the expansion); the model's positions limit it further",
    )
    rrf_k: int = Field(
        60, ge=0, description="rrf: score 1 / (k + rank), summed; 60 is that of Cormack et al. 2009"
    )
    expansion_languages: LanguageCodes | None = Field(
        None, description="use only expansions in these languages; default: all in the file"
    )

"""Define the block `mining` of the run file: which passages become hard negatives of a question.

mining:
  count: 4
  languages: {passage: 0.5, question: 0.25, other: 0.25}
  rank_max: 100
  relative_margin: 0.05
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from hbt_dist.config.settings import Settings
from hbt_dist.evaluation.settings import EvaluationSettings

#: The candidates of a list. passage: in a language of the example's passage. question: in a language of its
#: question. other: in neither's. any: in every language.
Share = Literal["any", "passage", "question", "other"]
SHARES: tuple[Share, ...] = get_args(Share)


class JudgeSettings(Settings):
    """A second model that scores the candidates again; margins, score range and order use its scores."""

    name_or_path: str = Field(description="folder or hub name of the judge")
    kind: Literal["cross_encoder", "encoder"] = Field(
        "cross_encoder",
        description="cross_encoder: a cross-encoder of sentence-transformers reads question and passage "
        "together; encoder: the product of the vectors of another encoder",
    )
    text: dict[str, Any] = Field(
        default_factory=dict, description="settings of the texts, as model.text; for encoders"
    )
    max_tokens: int | None = Field(
        None,
        ge=8,
        description="maximum of tokens per pair of question and passage; for cross-encoders; default: the "
        "model's",
    )
    pairs_per_batch: int = Field(32, ge=1, description="pairs per forward pass; for cross-encoders")
    trust_remote_code: bool = Field(False, description="run code that comes with the judge")


class EncodingSettings(Settings):
    """How the miner encodes questions and passages."""

    device: str = Field("auto", description="where to encode and to search: auto, cpu, cuda, cuda:1, ...")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="arithmetic of the encoder; auto: bfloat16 on GPUs that have it, else float32. Scores "
        "are exact sums of the stored float32 vectors",
    )
    max_tokens_per_batch: int = Field(
        0,
        ge=0,
        description="padded tokens per forward pass; 0: 2,048 on a CPU and 32,768 on a GPU",
    )
    rows_per_file: int = Field(
        65536,
        ge=1,
        description="embeddings per file: what an interrupted encode repeats at most per worker",
    )

    def for_encoder(self, cache_dir: str) -> EvaluationSettings:
        """Return the settings of `hbt_dist.evaluation.encode`, with a folder for the embeddings."""
        return EvaluationSettings(**self.model_dump(), cache_dir=cache_dir)


class MiningSettings(Settings):
    """Which passages become hard negatives: as in sentence-transformers, and by language."""

    count: int = Field(4, ge=1, description="negatives per question")
    languages: Share | dict[Share, Annotated[float, Field(ge=0, le=1)]] = Field(
        "any",
        description="languages of the negatives: any; passage: those of the example's passage; question: "
        "those of its question; other: all except both; or shares with the sum 1, such as {passage: 0.5, "
        "question: 0.25, other: 0.25}. Each share has a list of candidates, to which ranks, scores and "
        "margins apply; a remainder rotates over the examples",
    )
    pool: str | None = Field(
        None,
        description="file of further passages that can become negatives: JSON lines such as {id: p9, text: "
        "{en: ...}}. The passages of the data are candidates, too: an equal text is never a negative of its "
        "example. Default: the passages of the data alone",
    )
    rank_min: int = Field(
        0,
        ge=0,
        description="skip the best candidates, this many, of those that scores and margins leave",
    )
    rank_max: int | None = Field(
        None,
        ge=1,
        description="consider the best candidates of a list, this many; the example's group does not count. "
        "Default: rank_min + 10 count + 1, as in sentence-transformers",
    )
    min_score: float | None = Field(None, description="lowest score of a negative; default: no limit")
    max_score: float | None = Field(None, description="highest score of a negative; default: no limit")
    margin: float | None = Field(
        None,
        description="a negative scores at least this much below the positive in its language, else the best "
        "positive; default: no margin",
    )
    relative_margin: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="a negative scores at least this share of the positive's score below it; 0.05 in "
        "arXiv 2407.15831; default: no margin",
    )
    sampling: Literal["top", "random"] = Field(
        "top", description="top: the best of those that remain; random: drawn among them, with the run's seed"
    )
    fill: Literal["leave", "relax"] = Field(
        "leave",
        description="where too few candidates remain. leave: fewer negatives; relax: the best of the list "
        "without margins, scores and rank_min. Both are counted; never a passage of the example's group",
    )
    examples_per_block: int = Field(
        4096,
        ge=1,
        description="examples that are searched at once: the unit of resuming and of the workers. The "
        "negatives are the same for every number",
    )
    encoding: EncodingSettings = Field(EncodingSettings(), description="device and batches of the encoder")
    judge: JudgeSettings | None = Field(
        None,
        description="a second model that scores the candidates up to rank_max again; default: no judge",
    )

    @model_validator(mode="after")
    def _possible(self) -> MiningSettings:
        if abs((total := sum(self.shares().values())) - 1) > 1e-6:
            raise ValueError(f"languages: shares must have the sum 1, got {total:g}")
        left = self.window - self.rank_min
        if self.count > left:
            raise ValueError(
                f"rank_max {self.window} and rank_min {self.rank_min} leave {max(left, 0)} candidates for "
                f"count {self.count}"
            )
        if None not in (self.min_score, self.max_score) and self.min_score > self.max_score:  # type: ignore[operator]
            raise ValueError(f"min_score {self.min_score:g} is above max_score {self.max_score:g}")
        return self

    @property
    def window(self) -> int:
        """Return the number of candidates of a list that are considered."""
        return self.rank_min + 10 * self.count + 1 if self.rank_max is None else self.rank_max

    def shares(self) -> dict[Share, float]:
        """Return the share of each list that gives negatives, in the order in which lists choose."""
        shares = {self.languages: 1.0} if isinstance(self.languages, str) else self.languages
        return {name: shares[name] for name in SHARES if shares.get(name, 0.0) > 0}

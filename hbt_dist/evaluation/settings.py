"""The run file's block for evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hbt_dist.config.settings import Settings
from hbt_dist.config.user_functions import UserFunction


class EvaluationSettings(Settings):
    """Settings of encoding and scoring. Only `dtype` and `language_removal` can change a reported digit."""

    num_shards: int = Field(
        default=1,
        ge=1,
        description="number of parts of the candidate pool; ranks are the same for every number",
    )
    num_threads: int = Field(
        default=0,
        ge=0,
        description="scoring threads of a process; 0: as many as torch uses",
    )
    device: str = Field(default="auto", description="where scores are computed: auto, cpu, cuda, cuda:1, ...")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="arithmetic of the encoder. auto: bfloat16 on GPUs that have it, else float32; results "
        "record which. bfloat16 takes an eighth of the time there (predicted) and moves scores by about "
        "1e-3. Scores are always float32 sums, without TF32",
    )
    max_tokens_per_batch: int = Field(
        default=0,
        ge=0,
        description="padded tokens per forward pass; 0: 2,048 on a CPU (the size that fits its cache) and "
        "32,768 on a GPU. The encoder's memory grows with it",
    )
    rows_per_file: int = Field(
        default=65536,
        ge=1,
        description="embeddings per file of the cache: an interrupted encode repeats at most this number of "
        "rows per worker, and sorting by length happens inside a file",
    )
    top_k: int = Field(
        default=100,
        ge=0,
        description="length of the ranked lists for the TREC run and the same-language share; 0: no lists",
    )
    ranked_lists: Literal["counted", "faiss"] = Field(
        default="counted",
        description="source of the ranked lists. counted: the pass that counts ranks; faiss: a flat search "
        "of each shard (on `device`, if faiss is built for it), merged exactly. Ranks and all metrics of "
        "relevant candidates are counted in both cases",
    )
    metrics: tuple[UserFunction, ...] = Field(
        default=(),
        description="user-defined metrics, module:function each (docs/extending.md); reported under the "
        "function's name",
    )
    consistency_questions: int | None = Field(
        default=100,
        ge=0,
        description="question ids (drawn with a fixed seed) on which the rank correlation between a "
        "question's language versions is taken: full rankings must be sorted, about 2 ms per "
        "question and 10,000 candidates; null: all; 0: no question",
    )
    cache_dir: str | None = Field(
        default=None,
        description="folder for embeddings, reused when model, texts and settings are the same; default: "
        ".cache/hbt_dist/embeddings for large pools and on Ray, else embeddings are not saved",
    )
    language_removal: Literal["none", "lir"] = Field(
        default="none",
        description="lir: remove the first principal components of each language from its questions and "
        "candidates before scoring (arXiv 2109.04727); needs no training",
    )
    language_removal_rank: int = Field(
        default=1, ge=1, description="components removed per language; the authors found 1 best"
    )
    language_removal_texts: str | None = Field(
        default=None,
        description="folder with a file of texts per language, such as fi.txt, one text per line, on which "
        "components are fitted (encoded as questions; the paper: 10,000 sentences of Wikipedia); null: the "
        "candidates of the benchmark, which is transductive",
    )

    @model_validator(mode="after")
    def _texts_are_used(self) -> EvaluationSettings:
        if self.language_removal == "none" and self.language_removal_texts is not None:
            raise ValueError("language_removal_texts belongs to language_removal: lir")
        return self

"""The run file's block for evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hbt_dist.config.settings import Settings
from hbt_dist.config.user_functions import UserFunction


class EvaluationSettings(Settings):
    """How embeddings are made and scored. Only `dtype` and `language_removal` can change a reported digit."""

    num_shards: int = Field(
        default=1,
        ge=1,
        description="parts into which the candidate pool is cut; ranks are the same for every number",
    )
    num_threads: int = Field(
        default=0,
        ge=0,
        description="scoring threads of a process; 0 takes the CPU threads that torch may use",
    )
    device: str = Field(default="auto", description="where scores are computed: auto, cpu, cuda, cuda:1, ...")
    dtype: Literal["float32", "bfloat16"] = Field(
        default="float32",
        description="arithmetic of the encoder; bfloat16 halves the time on GPUs that have it and moves "
        "scores by about 1e-3. Scores are always float32 sums",
    )
    max_tokens_per_batch: int = Field(
        default=0,
        ge=0,
        description="padded tokens encoded at once; 0 takes 2,048 on a CPU, where its cache decides, and "
        "32,768 on a GPU. The encoder's memory grows with it",
    )
    rows_per_file: int = Field(
        default=65536,
        ge=1,
        description="embeddings per file of the cache: an interrupted encode repeats at most so many rows "
        "per worker, and sorting by length happens inside a file",
    )
    top_k: int = Field(
        default=100,
        ge=0,
        description="length of the ranked lists kept for the TREC run and the same-language share; 0 keeps "
        "none",
    )
    ranked_lists: Literal["counted", "faiss"] = Field(
        default="counted",
        description="where the lists of top_k come from: counted, beside the ranks in the same pass; faiss, "
        "a flat search of each shard (on `device`, if faiss is built for it), merged exactly. Ranks and all "
        "metrics of relevant candidates are counted either way",
    )
    metrics: tuple[UserFunction, ...] = Field(
        default=(),
        description="metrics of your own beside the package's, module:function each (docs/extending.md); "
        "reported under the function's name",
    )
    consistency_questions: int | None = Field(
        default=100,
        ge=0,
        description="question ids (drawn with a fixed seed) on which the rank correlation between a "
        "question's language versions is taken: full rankings must be sorted, about 2 ms per "
        "question and 10,000 candidates; null takes all, 0 none",
    )
    cache_dir: str | None = Field(
        default=None,
        description="folder for embeddings, reused when model, texts and settings are the same; none: "
        "they are not kept, but for large pools and on Ray (.cache/hbt_dist/embeddings)",
    )
    language_removal: Literal["none", "lir"] = Field(
        default="none",
        description="lir: take the first principal components of each language out of its questions and "
        "candidates before scoring (arXiv 2109.04727); needs no training",
    )
    language_removal_rank: int = Field(
        default=1, ge=1, description="components taken out per language; for the authors 1 was best"
    )
    language_removal_texts: str | None = Field(
        default=None,
        description="folder with a file of texts per language, such as fi.txt, one text per line, on which "
        "components are fitted (encoded as questions; the paper: 10,000 sentences of Wikipedia); null takes "
        "the benchmark's own candidates, which is transductive",
    )

    @model_validator(mode="after")
    def _texts_for_something(self) -> EvaluationSettings:
        if self.language_removal == "none" and self.language_removal_texts is not None:
            raise ValueError("language_removal_texts belongs to language_removal: lir")
        return self

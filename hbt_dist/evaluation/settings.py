"""The run file's block for evaluation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from hbt_dist.common.errors import UserError
from hbt_dist.config.settings import Settings
from hbt_dist.config.user_functions import UserFunction

Precision = Literal["float32", "int8", "binary"]
_WIDTH = re.compile(rf"([1-9][0-9]{{0,8}})(?::({'|'.join(get_args(Precision))}))?", re.ASCII)


def _checked_width(entry: Any) -> int | str:
    match = _WIDTH.fullmatch(str(entry))
    if match is None:
        raise ValueError("must be a whole number above 0, or one with a precision, such as 192:int8")
    return int(match[1]) if match[2] is None else match[0]


#: A width, or a width with a precision: 192, "192:int8".
Width = Annotated[int | str, BeforeValidator(_checked_width)]


@dataclass(frozen=True)
class Representation:
    """The numbers of an embedding that are scored."""

    width: int
    precision: Precision
    is_cut: bool  # the embedding has more than `width` numbers

    @property
    def name(self) -> str:
        """full, 192, int8, 192:int8."""
        if not self.is_cut:
            return "full" if self.precision == "float32" else self.precision
        return str(self.width) if self.precision == "float32" else f"{self.width}:{self.precision}"

    @property
    def bytes_per_vector(self) -> int:
        """Size of an embedding in an index."""
        return {"float32": 4 * self.width, "int8": self.width, "binary": -(-self.width // 8)}[self.precision]


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
    widths: tuple[Width, ...] = Field(
        default=(),
        description="also score embeddings that are cut to their first values, such as [192, 96], and scaled "
        "to length 1 again where the model does; 192:int8 adds a precision. Texts are encoded once",
    )
    precisions: tuple[Precision, ...] = Field(
        default=(),
        description="also score embeddings of full width as int8 or binary codes; float32 is always scored",
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

    def representations(self, width: int) -> tuple[Representation, ...]:
        """Return what is scored in addition to the embeddings as they are, without repetitions.

        Args:
            width: of the embeddings.

        Raises:
            UserError: a width is larger.
        """
        entries = [str(entry).partition(":") for entry in self.widths]
        pairs: list[tuple[int, Any]] = [(int(number), text or "float32") for number, _, text in entries]
        if too_wide := sorted({number for number, _ in pairs if number > width}):
            raise UserError(
                "evaluation.scoring.widths",
                f"expected widths of at most {width}, the model's, got {', '.join(map(str, too_wide))}",
                f"lower the widths (of the run file, or --widths), for example to {width // 2 or 1}",
            )
        pairs += [(width, precision) for precision in self.precisions]
        requested = dict.fromkeys(Representation(*pair, is_cut=pair[0] < width) for pair in pairs)
        return tuple(item for item in requested if item.is_cut or item.precision != "float32")

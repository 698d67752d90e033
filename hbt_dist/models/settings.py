"""Describe the model of a run: where it starts from, and how a text becomes a vector."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from hbt_dist.config.older import renamed_keys
from hbt_dist.config.placeholders import checked_prefix
from hbt_dist.config.settings import Settings
from hbt_dist.data.languages import LanguageCodes, script_parts

Role = Literal["question", "passage"]
ROLES: tuple[Role, ...] = ("question", "passage")
LIMITS = ("max_question_tokens", "max_passage_tokens")
AttentionImplementation = Literal["auto", "sdpa", "eager", "flash_attention_2"]


class TextSettings(Settings):
    """How a text becomes one vector; recorded in the model folder so that evaluation repeats it."""

    pooling: Literal["mean", "cls", "last"] = Field(
        "mean",
        description="which token embeddings make the text's embedding: their mean, the first, the last; "
        "default of a causal model: last",
    )
    normalize: bool = Field(
        True, description="scale embeddings to length 1, so that a dot product is a cosine"
    )
    question_prefix: str = Field("", description="put before every question, such as 'query: '")
    passage_prefix: str = Field("", description="put before every passage, such as 'passage: '")
    include_prompt: bool = Field(
        True,
        description="whether pooling counts the tokens of the prefix; false leaves them out",
    )
    lowercase: bool = Field(
        False, description="lower-case texts before the tokenizer reads them; accents stay"
    )
    max_question_tokens: int = Field(
        64, ge=4, description="maximum of tokens per question; longer ones are cut"
    )
    max_passage_tokens: int = Field(
        256, ge=4, description="maximum of tokens per passage; longer ones are cut"
    )

    width: int | None = Field(
        None,
        ge=1,
        description="keep the first values of each embedding, this many, before normalize; default: all",
    )
    append_eos: bool | None = Field(
        None,
        description="end every text, also a cut one, in the tokenizer's end token if it adds none; default: "
        "if pooling takes the last token, except in a folder trained without",
    )
    attention: Literal["model", "causal", "bidirectional"] = Field(
        "model",
        description="which tokens a token sees: as the model's configuration says, its past, or all; "
        "bidirectional makes an encoder of a decoder, which needs training",
    )

    def max_tokens(self, role: Role) -> int:
        """Return the length limit of a role, including special tokens."""
        return self.max_question_tokens if role == "question" else self.max_passage_tokens

    def prefix(self, role: Role) -> str:
        """Return the prefix of every text of a role."""
        return self.question_prefix if role == "question" else self.passage_prefix


def _checked_text(value: dict[str, Any]) -> dict[str, Any]:
    if unknown := sorted(value.keys() - TextSettings.model_fields.keys()):
        known = ", ".join(sorted(TextSettings.model_fields))
        raise ValueError(f"unknown key {unknown[0]!r}, known keys: {known}")
    text = TextSettings(**value)
    for role in ROLES:
        checked_prefix(text.prefix(role))
    return value


#: Some of the `TextSettings`, which replace those of a model folder.
TextOverrides = Annotated[dict[str, Any], AfterValidator(_checked_text)]
_TEXT = (
    "pooling, normalize, question_prefix, passage_prefix, include_prompt, lowercase, max_question_tokens, "
    "max_passage_tokens, width, append_eos, attention; what is not given is taken from the model folder, "
    "else the default"
)


class ScratchSettings(Settings):
    """A randomly initialised encoder with a tokenizer trained on the corpus."""

    architecture: dict[str, Any] = Field(
        default_factory=lambda: {
            "model_type": "bert",
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 512,
        },
        description="transformers configuration: model_type and the keys of its configuration class; the "
        "vocabulary size is filled in",
    )
    lowercase: bool = Field(True, description="lower-case texts; accents stay, they carry meaning")
    vocabulary_size: int = Field(8000, ge=100, description="entries of the tokenizer trained on the corpus")
    tokenizer_texts: int = Field(
        200_000,
        ge=1,
        description="maximum of texts that train the tokenizer, spread evenly over the corpus",
    )


class LoraSettings(Settings):
    """Train low-rank adapters (arXiv 2106.09685) of linear layers instead of the backbone's weights.

    The update of a layer of weight W is alpha / rank * B A, with `rank` rows in A and columns in B.
    """

    rank: int = Field(16, ge=1, description="rank of the update of each layer")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of each adapter's input, in training only")
    targets: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="names of the linear layers that get an adapter, such as [q_proj, v_proj]; default: all "
        "linear layers of the transformer, in decoders q, k, v, o, gate, up and down",
    )


class ModelSettings(Settings):
    """Which encoder, and how a text becomes a vector."""

    name_or_path: str | None = Field(
        None,
        description="folder or hub name of a transformers or sentence-transformers model to start from; "
        "default: scratch",
    )
    scratch: ScratchSettings | None = Field(
        None, description="start from random weights instead; default: name_or_path"
    )
    text: TextOverrides = Field(default_factory=dict, description=_TEXT)
    attention_implementation: AttentionImplementation = Field(
        "auto",
        description="auto: without padding where model and device allow it (BERT, ELECTRA, DistilBERT, "
        "RoBERTa, XLM-R; on GPUs in bf16 and without attention dropout), else transformers' default; or one "
        "of transformers' own, over padded rows",
    )
    compile: bool = Field(
        False,
        description="compile the model's layers with torch.compile, for GPUs; takes a minute at the start",
    )
    lora: LoraSettings | None = Field(
        None,
        description="train adapters and leave the backbone's weights as they are; `{}` takes the defaults; "
        "default: train all weights",
    )
    vocabulary: Literal["keep", "used"] = Field(
        "keep",
        description="used: cut tokenizer and word embeddings, before training, to the pieces in the corpus' "
        "texts and `vocabulary_languages`, with equal vectors for such texts; single characters stay",
    )
    vocabulary_languages: LanguageCodes | None = Field(
        None,
        description="with vocabulary: used, keep every piece in the scripts of these languages, for "
        "evaluations in languages that the corpus lacks; default: only pieces in the corpus' texts",
    )
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the model; off unless you trust it"
    )

    @model_validator(mode="before")
    @classmethod
    def _older(cls, data: Any) -> Any:
        return renamed_keys(data)

    @model_validator(mode="after")
    def _one_start(self) -> Self:
        if (self.name_or_path is None) == (self.scratch is None):
            raise ValueError(
                "give exactly one of name_or_path (a pre-trained model) and scratch (random weights), "
                "and null for the other one: model.scratch=null"
            )
        if self.lora is not None and self.scratch is not None:
            raise ValueError("lora needs name_or_path: adapters of random weights would learn nothing useful")
        if self.vocabulary == "keep" and self.vocabulary_languages is not None:
            raise ValueError("vocabulary_languages needs vocabulary: used")
        if self.vocabulary == "used" and (self.scratch is not None or self.lora is not None):
            what = "scratch, whose tokenizer is made for the corpus" if self.scratch else "lora"
            raise ValueError(f"vocabulary: used cannot be combined with {what}; set vocabulary: keep")
        return self

    @field_validator("vocabulary_languages")
    @classmethod
    def _known_scripts(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if unknown := [code for code in value or () if not script_parts(code)]:
            raise ValueError(f"CLDR knows no script of {unknown[0]}: name a language in the same script")
        return value

    @property
    def made(self) -> bool:
        """Whether the start model is made for the run, into its folder."""
        return self.scratch is not None or self.vocabulary == "used"


class TeacherSettings(Settings):
    """A frozen model, whose vectors the loss uses; it may be the model that the run starts from."""

    name_or_path: str = Field(
        description="folder or hub name of a transformers or sentence-transformers model, or of this project"
    )
    text: TextOverrides = Field(default_factory=dict, description=_TEXT)
    trust_remote_code: bool = Field(
        False, description="run Python code that comes with the model; off unless you trust it"
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic of the encoder; auto: bfloat16 on GPUs that have it, else float32"
    )
    storage: Literal["float32", "float16"] = Field(
        "float32",
        description="numbers of the vectors' files in data.cache_dir: 4 bytes each, or 2, which rounds a "
        "vector of length 1 by about 0.0003",
    )
    max_tokens_per_batch: int = Field(
        0,
        ge=0,
        description="padded tokens per forward pass; 0: 2,048 on a CPU and 32,768 on a GPU; lower it for a "
        "model that fills the GPU",
    )

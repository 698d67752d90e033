"""Define the block `batches.code_switching`: words replaced by translations (arXiv 2305.05295).

code_switching:
  dictionaries: dictionaries/            # files en-fi.txt, en-de.txt, ... in MUSE format; or: sample
  source_languages: [en]
  variant: multilingual
  question_probability: 0.5
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from hbt_dist.batching.kinds import Kind
from hbt_dist.config.settings import Settings
from hbt_dist.config.user_functions import UserFunction
from hbt_dist.data.languages import LanguageCodes, language_code, language_pair, spelled_keys

Probability = Annotated[float, Field(ge=0, le=1)]


class CodeSwitchingSettings(Settings):
    """Replace words of rows by translations; texts without a dictionary stay as they are."""

    dictionaries: str | dict[str, str] | None = Field(
        None,
        description="Word translations: a folder with files such as en-fi.txt in MUSE format (one pair "
        "`source target` per line, separated by white space or a tab; a tab lets the target hold spaces; of "
        "several translations the first counts) or freedict-eng-fin.index (FreeDict, as Debian's package "
        "dict-freedict-eng-fin puts it into /usr/share/dictd), a mapping {en-fi: FILE}, or `sample` (names "
        "of countries, languages, currencies, ... of the embedded sample). Default: vectors.",
    )
    vectors: dict[str, str] | None = Field(
        None,
        description="Instead: word vectors of several languages in one space, {en: FILE, fi: FILE}, in the "
        "text format of fastText (.vec). A word becomes its nearest neighbour by cosine, as in the paper. "
        "Default: dictionaries.",
    )
    max_source_words: int = Field(
        50_000, ge=1, description="Vectors read of a source language: the first of its file, which are the "
        "most frequent words. 50,000 against 200,000 take about 6 TFLOP per pair, once."
    )  # fmt: skip
    max_target_words: int = Field(
        200_000, ge=1, description="Vectors read of a target language; MUSE publishes 200,000 each."
    )
    cache_dir: str = Field(
        ".cache/hbt_dist/neighbours", description="Folder for the nearest neighbours, found once."
    )
    source_languages: LanguageCodes | None = Field(
        None,
        min_length=1,
        description="Only texts in these languages are switched; default: every language of the corpus that "
        "has a dictionary. The paper: English.",
    )
    target_languages: LanguageCodes | None = Field(
        None,
        min_length=1,
        description="Only into these languages; default: all that the dictionaries have (the embedded "
        "sample: its training languages).",
    )
    variant: Literal["bilingual", "multilingual"] = Field(
        "bilingual",
        description="bilingual: a row draws one target language for its question and, independently, one "
        "for its passages. multilingual: every word draws its own.",
    )
    question_probability: Probability = Field(
        0.5, description="Probability that a word of a question is replaced (if a dictionary has it)."
    )
    passage_probability: Probability = Field(
        0.5, description="The same for passages, hard negatives included. The paper's best: 0.5 for both."
    )
    row_probability: Probability = Field(1.0, description="Probability that a row is switched at all.")
    kinds: tuple[Kind | UserFunction, ...] | None = Field(
        None, min_length=1, description="Only rows of these kinds; default: all of the mixture."
    )

    @field_validator("vectors")
    @classmethod
    def _vector_languages(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        if value is None:
            return None
        if len(value) < 2:
            raise ValueError("vectors of two languages at least are needed: {en: FILE, fi: FILE}")
        return spelled_keys(value, language_code)

    @field_validator("dictionaries")
    @classmethod
    def _pairs(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        if not isinstance(value, dict):
            return value
        if not value:
            raise ValueError("no dictionary is named: {en-fi: FILE}")
        return spelled_keys(value, lambda pair: "-".join(split_pair(pair)))

    @model_validator(mode="after")
    def _one_source(self) -> CodeSwitchingSettings:
        if (self.dictionaries is None) == (self.vectors is None):
            raise ValueError("give exactly one of `dictionaries` and `vectors`")
        return self

    def decisive(self) -> dict[str, Any]:
        """Return what decides the switched texts, next to the content of the dictionaries."""
        excluded = {"dictionaries", "vectors", "max_source_words", "max_target_words", "cache_dir"}
        return self.model_dump(mode="json", exclude={*excluded, "source_languages", "target_languages"})


def split_pair(pair: str) -> tuple[str, str]:
    """Return source and target language of a pair such as ``"en-fi"``.

    Raises:
        ValueError: the text is not a pair of two different languages.
    """
    codes = language_pair(pair)
    if codes[0] == codes[1]:
        raise ValueError(f"{pair!r} names one language twice")
    return codes

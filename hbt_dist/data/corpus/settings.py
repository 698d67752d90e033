"""Describe the `data` block of the run file: which sources to train on, in which languages."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from hbt_dist.config.placeholders import Prefix
from hbt_dist.config.settings import Settings
from hbt_dist.config.user_functions import UserFunction, is_user_function
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.data.languages import LanguageCode, LanguageCodes, language_code
from hbt_dist.data.splits import Split

Format = Literal[
    "jsonl",
    "csv",
    "tsv",
    "parquet",
    "arrow",
    "squad-parallel",
    "squad",
    "mkqa",
    "exams",
    "ntrex",
    "hub",
    "sample",
]  # fmt: skip
Missing = Literal["refuse", "skip"]

#: The options that have a meaning for a format, besides name, format, languages and limit.
OPTIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "jsonl": frozenset({"path", "missing", "columns"}),
        "csv": frozenset({"path", "missing", "columns"}),
        "tsv": frozenset({"path", "missing", "columns"}),
        "parquet": frozenset({"path", "missing", "columns"}),
        "arrow": frozenset({"path", "missing", "columns", "hub_split"}),
        "squad-parallel": frozenset({"path", "missing", "split"}),
        "squad": frozenset({"path", "missing"}),
        "mkqa": frozenset({"path", "missing", "split", "content"}),
        "exams": frozenset({"path", "split"}),
        "ntrex": frozenset({"path", "missing", "split"}),
        "hub": frozenset({"path", "missing", "columns", "hub_config", "hub_split", "hub_revision"}),
        "sample": frozenset({"split"}),
    }
)
#: Formats whose examples come in some of the languages only, by their nature: `missing` has no meaning there.
RAGGED = frozenset(name for name, options in OPTIONS.items() if "missing" not in options)
_EVERYWHERE = frozenset({"name", "format", "languages", "limit", "question_prefix", "passage_prefix"})
_USER_DEFINED = frozenset({"path", "missing", "split", "options"})


def options_of(format_name: str) -> frozenset[str]:
    """Return the options that have a meaning for a format, or for a user-defined reader."""
    return _USER_DEFINED if is_user_function(format_name) else OPTIONS[format_name]


def _no_column_name(written: object) -> object:
    """Point from a column's name to the setting that reads it."""
    try:
        return language_code(written) if isinstance(written, str) else written
    except ValueError as error:
        raise ValueError(
            f"{error}; if it is the column with the language of each row, name it in language_column or "
            "passage_language_column"
        ) from None


_FixedLanguage = Annotated[LanguageCode, BeforeValidator(_no_column_name)]


#: The columns with the scores of a teacher, which may be absent.
SCORE_COLUMNS = ("passage_score", "negative_scores")


class ColumnSettings(Settings):
    """Which column of a table, or field of a JSON line, holds what; `{language}` stands for each code."""

    example_id: str | None = Field(
        None, description="Column of the example's id; default: the number of the row, from 0."
    )
    passage_id: str | None = Field(
        None, description="Column of the passage's id; default: passages with equal texts are one passage."
    )
    question: str = Field(
        "question",
        description="Column of the question: an object of texts by language, or one column per language "
        "named with {language}, e.g. question_{language}, or a plain text column when language is given.",
    )
    passage: str = Field(
        "passage",
        description="Column of the passage, written like question; or objects of docid, title and text; or "
        "a list of passages: one example each.",
    )
    negatives: str | None = Field(
        "negatives",
        description="Column of the hard negatives, written like passage: a list or a single negative; or "
        "the columns negative_{number}.",
    )
    passage_score: str | None = Field(
        "pos_scores",
        description="Column of a teacher's score of question and passage: a number, or a list of one per "
        "passage; null: not read.",
    )
    negative_scores: str | None = Field(
        "neg_scores",
        description="Column of a teacher's scores of question and negatives: a list of one per negative, or "
        "the columns negative_score_{number}; null: not read.",
    )
    prefix: str | None = Field(
        "prefix",
        description="Column of the instruction before the question, if there is one; null in a row: the "
        "source's question_prefix, else the model's.",
    )
    language: _FixedLanguage | None = Field(
        None,
        description="Language of question and passage, where they are plain text columns; default: "
        "the columns hold several languages.",
    )
    passage_language: _FixedLanguage | None = Field(
        None,
        description="Language of plain passages and negatives, where it is not the "
        "question's; default: language.",
    )
    language_column: str | None = Field(
        None,
        description="Column with the language of each row's plain texts, such as lang in lines of "
        "{..., lang: fi}; default: language names one for all rows.",
    )
    passage_language_column: str | None = Field(
        None,
        description="Column with the language of each row's plain passages and negatives, where it is not "
        "the question's; default: language_column.",
    )

    @model_validator(mode="after")
    def _one_language_each(self) -> ColumnSettings:
        for setting in ("language", "passage_language"):
            if getattr(self, setting) is not None and getattr(self, f"{setting}_column") is not None:
                raise ValueError(f"{setting} and {setting}_column exclude each other: leave one out")
        return self


class SourceSettings(Settings):
    """One source of training examples. Options that its format doesn't have are refused."""

    name: str = Field(
        description="Name of the source in reports, weights and ids; unique in the run.",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
    )
    format: Format | UserFunction = Field(
        description="jsonl: one example per line (hbt_dist/data/corpus/readers/jsonl.py), or lines of any "
        "form with columns; csv, tsv, parquet, arrow, hub: tables with a column mapping; arrow reads what "
        "datasets saved, too; squad-parallel: passages.jsonl.gz and questions.jsonl.gz; squad: one SQuAD "
        "file per language, parallel by question id; mkqa, exams, ntrex: the public data sets; sample: the "
        "embedded sample. module:function: a user-defined reader "
        "(docs/extending.md).",
    )
    path: str | None = Field(
        None,
        description="File or folder of the source, or its address (s3://, gs://); for hub the data set's "
        "name; default: the format needs no file (sample).",
    )
    languages: LanguageCodes | None = Field(
        None, description="Languages to take from this source; default: those of the data block."
    )
    missing: Missing | None = Field(
        None, description="Overrides data.missing for this source; default: data.missing."
    )
    split: Split = Field(
        "train",
        description="Which part to train on. train leaves out what the benchmark of the same data asks: "
        "squad-parallel holds out every 20th article, ntrex every 3rd document (both by SHA-256 of the id), "
        "mkqa the questions with answers, exams its dev part, sample its held-out facts. eval is what is "
        "held out; dev and test are its two halves (hbt_dist/data/splits.py).",
    )
    content: Literal["questions", "answers"] = Field(
        "questions",
        description="mkqa only. questions: a question and the same question in another language (alignment "
        "rows: question and passage are the same text in the same language). answers: question and first "
        "answer; weak positives, as many answers are the English name in every language.",
    )
    columns: ColumnSettings = Field(
        default=ColumnSettings.model_construct(),
        description="Column mapping of tables, and of JSON lines of another form; default: the usual names "
        "of FlagEmbedding, Tevatron and sentence-transformers.",
    )
    hub_config: str | None = Field(
        None, description="Configuration (subset) of a hub data set; default: its only one."
    )
    hub_split: str = Field("train", description="Split of a hub data set, or of a saved DatasetDict.")
    hub_revision: str | None = Field(
        None, description="Commit, tag or branch of a hub data set; default: the newest."
    )
    question_prefix: Prefix | None = Field(
        None,
        description="Text before every question of the source, such as an instruction; {language} is the "
        "English name of the question's language; default: model.text.question_prefix.",
    )
    passage_prefix: Prefix | None = Field(
        None,
        description="Text before every passage and hard negative of the source; default: "
        "model.text.passage_prefix.",
    )
    limit: int | None = Field(None, ge=1, description="Take only the first N examples; default: all.")
    options: dict[str, Any] = Field({}, description="Options of a user-defined reader, any keys.")

    @model_validator(mode="after")
    def _only_what_applies(self) -> SourceSettings:
        options = options_of(self.format)
        inapplicable = self.model_fields_set - options - _EVERYWHERE
        # A default that is written out (as in a resolved run file) is as good as left out.
        defaults = type(self).model_fields
        strange = sorted(key for key in inapplicable if getattr(self, key) != defaults[key].default)
        if strange:
            raise ValueError(
                f"format {self.format} has no option {', '.join(strange)}; it has "
                f"{', '.join(sorted(options))} and {', '.join(sorted(_EVERYWHERE))}"
            )
        if "path" in options and not self.path and not is_user_function(self.format):
            raise ValueError(f"format {self.format} needs a path")
        if self.content == "answers" and self.split == "train":
            raise ValueError(
                "mkqa's training part has no answers; take split: all, eval, dev or test, "
                "or content: questions"
            )
        return self


class DataSettings(Settings):
    """What the run trains on."""

    sources: tuple[SourceSettings, ...] = Field(
        min_length=1, description="The sources; their examples are kept apart by the source's name."
    )
    languages: LanguageCodes | None = Field(
        None,
        description="Languages to train on, in the order of their indices; default: all of the sources.",
    )
    missing: Missing = Field(
        "refuse",
        description="What to do when an example's question or passage lacks one of its source's languages. "
        "refuse: stop and name the example. skip: keep the example in the languages it has; an example "
        "without any question or passage language left is dropped and counted.",
    )
    exclude_overlap_with: tuple[BenchmarkSettings, ...] = Field(
        (),
        description="Benchmarks whose texts must not be trained on: an example whose question or passage is "
        "the same or nearly the same as a text of one of them, in any language of the benchmark, is dropped, "
        "and such hard negatives too (hbt_dist/data/leakage/report.py). Counts are printed, and recorded in "
        "the corpus' manifest.",
    )
    cache_dir: str = Field(
        ".cache/hbt_dist",
        min_length=1,
        description="Folder for converted corpora; may be deleted at any time when no run uses it.",
    )

    @model_validator(mode="after")
    def _unique_names(self) -> DataSettings:
        names = [source.name for source in self.sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two sources are named {', '.join(twice)}; names must differ")
        for source in self.sources if self.languages is not None else ():
            outside = sorted(set(source.languages or ()) - set(self.languages or ()))
            if outside:
                raise ValueError(
                    f"source {source.name} asks for {', '.join(outside)}, not listed in data.languages"
                )
        return self

    def languages_of(self, source: SourceSettings) -> tuple[str, ...] | None:
        """Return the requested languages of a source; None for all that it has."""
        return source.languages if source.languages is not None else self.languages

    def missing_of(self, source: SourceSettings) -> Missing:
        """Return what to do about missing languages in a source."""
        if source.format in RAGGED:
            return "skip"
        return source.missing or self.missing

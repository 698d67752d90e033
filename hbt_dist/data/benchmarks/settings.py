"""Describe a benchmark of the run file: which one, which part of it, and its name in results."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationInfo, field_validator, model_serializer

from hbt_dist.config.placeholders import Prefix
from hbt_dist.config.settings import Settings
from hbt_dist.data.languages import LanguageCodes

#: Rules for judgements that do not fit their collection (judgements.py).
Judgements = Literal["strict", "as_published"]
IdenticalIds = Literal["drop", "keep"]
#: Forms of folders of the user, whose names say what the benchmark is.
_NAMED_BY_FOLDER = ("jsonl", "beir")


class BenchmarkSettings(Settings):
    """One benchmark to evaluate on."""

    name: str = Field(
        description="xquad-r, mlqa-r, ntrex, mkqa, tatoeba, belebele, exams, miracl, mewsli-x, mr-tydi, "
        "mmarco, neuclir, clirmatrix, beir, squad-parallel, sample, jsonl (a folder of yours), the path of a "
        "folder in the form of one of them, mteb:NAME, a task of MTEB, or module:function, a user-defined "
        "reader (docs/extending.md)"
    )
    data_dir: str | None = Field(
        None,
        description="its folder; default: the files on the hub. The embedded sample needs no folder",
    )
    variant: str | None = Field(
        None,
        description="candidate text or task variant, where the benchmark has several; default: the first",
    )
    languages: LanguageCodes | None = Field(None, description="only these languages; default: all it has")

    judgements: Judgements | None = Field(
        None,
        description="judgements that do not fit the collection (docs/evaluation.md). strict: refused; "
        "as_published: scored as BEIR, MTEB and trec_eval do, and counted. Default: as_published for "
        "published collections (beir, miracl, mteb:NAME, ...), else strict",
    )
    identical_ids: IdenticalIds | None = Field(
        None,
        description="a question whose id is the id of a document (ArguAna, Quora). drop: its rankings leave "
        "the document out; keep: they rank it. Default: drop for beir, else keep",
    )
    question_prefix: Prefix | None = Field(
        None,
        description="text before every question, such as an instruction; {language} is the English name of "
        "the question's language; default: the model's",
    )
    passage_prefix: Prefix | None = Field(
        None, description="text before every candidate; default: the model's"
    )
    label: str = Field(
        "",
        description="name in folders, figures and tables; default: the folder's name for jsonl, beir and "
        "paths, else name and variant",
    )

    @field_validator("label", mode="before")
    @classmethod
    def _default(cls, value: Any, info: ValidationInfo) -> Any:
        return default_label(info.data) if value is None or value == "" else value

    @field_validator("label")
    @classmethod
    def _name_of_a_folder(cls, value: str, info: ValidationInfo) -> str:
        if value != default_label(info.data) and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
            raise ValueError(
                "must be at most 100 letters, digits, dots, dashes and underscores, a letter or digit first"
            )
        return value

    @model_serializer(mode="wrap")
    def _without_defaults(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave default label and rules out of what is stored and compared with older files."""
        plain: dict[str, Any] = dump(self)
        if not self.is_labelled:
            plain.pop("label", None)
        for rule in ("judgements", "identical_ids", "question_prefix", "passage_prefix"):
            if plain.get(rule) is None:
                plain.pop(rule, None)
        return plain

    @property
    def prefixes(self) -> dict[str, str]:
        """Return the prefixes that replace the model's, by key of its text settings."""
        given = {"question_prefix": self.question_prefix, "passage_prefix": self.passage_prefix}
        return {key: prefix for key, prefix in given.items() if prefix is not None}

    @property
    def is_labelled(self) -> bool:
        """Return whether its label differs from the default."""
        return self.label != default_label(
            {"name": self.name, "data_dir": self.data_dir, "variant": self.variant}
        )

    @property
    def title(self) -> str | None:
        """Return its label, if it says more than name and variant."""
        return None if self.label == _with_variant(self.name, self.variant) else self.label


def default_label(benchmark: Mapping[str, Any]) -> str:
    """Return a folder name with the benchmark's folder or name, and its variant.

    Args:
        benchmark: name, data_dir, variant.
    """
    name, folder = benchmark.get("name") or "", benchmark.get("data_dir")
    if name not in _NAMED_BY_FOLDER:
        folder = name if _is_path(name) else None
    stem = "" if folder is None else os.path.basename(os.path.abspath(os.path.expanduser(folder)))
    return _with_variant(stem or name, benchmark.get("variant"))


def _is_path(name: str) -> bool:
    return "/" in name and ":" not in name


def _with_variant(name: str, variant: str | None) -> str:
    name = re.sub(r"[:/\\\s]+", "-", name).strip("-.")  # module:function, or a folder
    return name if variant is None else f"{name}-{variant.replace('+', '-')}"


def check_labels(**benchmarks: BenchmarkSettings | Sequence[BenchmarkSettings]) -> None:
    """Refuse two benchmarks with one label: the results of one would replace those of the other.

    Args:
        benchmarks: key of the file -> its benchmark or benchmarks.

    Raises:
        ValueError: it names both; for a validator.
    """
    first: dict[str, str] = {}
    for key, given in benchmarks.items():
        alone = isinstance(given, BenchmarkSettings)
        for number, benchmark in enumerate([given] if isinstance(given, BenchmarkSettings) else given):
            languages = benchmark.languages and " ".join(benchmark.languages)
            parts = [benchmark.name, benchmark.variant, benchmark.data_dir, languages]
            location = f"{key if alone else f'{key}.{number}'} ({', '.join(part for part in parts if part)})"
            label = benchmark.label
            if label in first:
                raise ValueError(
                    f"{first[label]} and {location} have one label, {label!r}: their results would overwrite "
                    f"each other; give one of them another, such as label: {label}-2"
                )
            first[label] = location

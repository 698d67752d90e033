"""Describe a benchmark of the run file: which one, which part of it, and its name in results."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, ValidationInfo, field_validator, model_serializer

from hbt_dist.config.settings import Settings


class BenchmarkSettings(Settings):
    """One benchmark to evaluate on."""

    name: str = Field(
        description="xquad-r, mlqa-r, ntrex, mkqa, tatoeba, belebele, exams, miracl, mewsli-x, beir, "
        "squad-parallel, sample, jsonl (a folder of your own), or module:function, a reader of your own "
        "(docs/extending.md)"
    )
    data_dir: str | None = Field(
        None,
        description="its folder; none: from the hub, where it has the files. The embedded sample needs none",
    )
    variant: str | None = Field(
        None,
        description="candidate text or task variant, where the benchmark has several; none: its first one",
    )
    languages: tuple[str, ...] | None = Field(None, description="only these languages; none: all it has")

    label: str = Field(
        "",
        description="what folder, figures and tables call it, for two benchmarks of one name and variant; "
        "none: name and variant",
    )

    @field_validator("label", mode="before")
    @classmethod
    def _default(cls, value: Any, info: ValidationInfo) -> Any:
        left_out = value is None or value == ""
        return _label_of(info.data.get("name", ""), info.data.get("variant")) if left_out else value

    @field_validator("label")
    @classmethod
    def _name_of_a_folder(cls, value: str, info: ValidationInfo) -> str:
        given = value != _label_of(info.data.get("name", ""), info.data.get("variant"))
        if given and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", value):
            raise ValueError(
                "must be at most 100 letters, digits, dots, dashes and underscores, a letter or digit first"
            )
        return value

    @model_serializer(mode="wrap")
    def _without_the_default(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A label that was not given stays out of what is stored and compared with older files."""
        plain: dict[str, Any] = dump(self)
        if not self.is_labelled:
            plain.pop("label", None)
        return plain

    @property
    def is_labelled(self) -> bool:
        """Whether it has another label than name and variant."""
        return self.label != _label_of(self.name, self.variant)


def _label_of(name: str, variant: str | None) -> str:
    """A folder name that tells the benchmark and its variant."""
    name = name.replace(":", "-")  # of one's own, module:function
    return name if variant is None else f"{name}-{variant.replace('+', '-')}"


def check_labels(**told_together: BenchmarkSettings | Sequence[BenchmarkSettings]) -> None:
    """Refuse two benchmarks of one label: the results of one would replace those of the other.

    Args:
        told_together: key of the file -> its benchmark or benchmarks.

    Raises:
        ValueError: it names both; for a validator.
    """
    first: dict[str, str] = {}
    for key, given in told_together.items():
        alone = isinstance(given, BenchmarkSettings)
        for number, one in enumerate([given] if isinstance(given, BenchmarkSettings) else given):
            parts = [one.name, one.variant, one.data_dir, one.languages and " ".join(one.languages)]
            place = f"{key if alone else f'{key}.{number}'} ({', '.join(part for part in parts if part)})"
            if one.label in first:
                raise ValueError(
                    f"{first[one.label]} and {place} have one label, {one.label!r}: their results could not "
                    f"be told apart; give one of them another, such as label: {one.label}-2"
                )
            first[one.label] = place

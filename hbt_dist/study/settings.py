"""Describe the study file: methods to compare, benchmarks, seeds.

name: sample
output_dir: studies/sample
question: Do hybrid batches help across languages?
run: quickstart
methods:
  multilingual: {overrides: {batches.alpha: 1.0}}
  hybrid: {overrides: {batches.alpha: 0.5}}
  hybrid-lir: {trained_as: hybrid, scoring: {language_removal: lir}}
baseline: multilingual
primary: [{method: hybrid, against: multilingual, setting: crosslingual}]
seeds: [0, 1, 2]
benchmarks: [{name: sample}]
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from hbt_dist.config.settings import Settings
from hbt_dist.data.benchmarks.settings import BenchmarkSettings, check_labels


class Method(Settings):
    """One way of training, or of using the models of another method."""

    about: str = Field("", description="one sentence for the report")
    run: str | None = Field(None, description="run file of this method; default: that of the study")
    overrides: dict[str, Any] = Field({}, description="dotted key of the run file -> value")
    trained_as: str | None = Field(
        None,
        description="use the models of this method, only evaluate differently (see scoring); default: train",
    )
    scoring: dict[str, Any] = Field(
        {}, description="keys of evaluation.scoring that differ, such as language_removal: lir"
    )

    against: list[str] = Field(
        [], description="methods to compare with, a test each; default: the study's baseline"
    )

    @model_validator(mode="after")
    def _trains_or_reuses(self) -> Method:
        if self.trained_as is not None and (self.overrides or self.run):
            raise ValueError("a method with trained_as trains nothing: remove run and overrides")
        return self


class Primary(Settings):
    """A contrast that answers the study's question; all further contrasts are exploratory."""

    method: str = Field(description="name of one of the methods")
    against: str | None = Field(
        None, description="method to compare with; default: the first of the method's `against`"
    )
    setting: Literal["monolingual", "crosslingual", "multilingual"] = Field(
        "crosslingual", description="the deciding figure: mAP of this setting"
    )


class StudyFile(Settings):
    """One study."""

    name: str = Field(description="name of the study in its report", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output_dir: str = Field(description="folder of the study; on a cluster it must be shared by all nodes")
    question: str = Field(description="the study's question, as a sentence for the report")
    notes: list[str] = Field([], description="choices and limits for readers of the report, a paragraph each")
    run: str = Field(description="base run file, or the name of a shipped run file")
    overrides: list[str] = Field([], description="KEY=VALUE, applied to the base run of every method")
    methods: dict[str, Method] = Field(
        min_length=2, description="name of a method -> its training or evaluation"
    )
    baseline: str = Field(description="the method that the remaining methods are compared with")
    primary: tuple[Primary, ...] = Field(
        (),
        max_length=3,
        description="the contrasts that answer the question, stated before the results are seen; default: "
        "the method named hybrid, else the first method, against its reference, crosslingual",
    )
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="seeds of every method's trainings")
    benchmarks: tuple[BenchmarkSettings, ...] = Field(min_length=1, description="benchmarks of all methods")
    later_benchmarks: tuple[BenchmarkSettings, ...] = Field(
        (),
        description="further benchmarks of all methods, which can be added to a finished study: their texts "
        "stay in the training data, and the report counts the training examples that repeat them",
    )
    check_leaks: bool = Field(
        True, description="drop training examples that repeat texts of a benchmark, exactly or nearly"
    )
    resampled: Literal["question", "paragraph"] = Field(
        "question", description="unit of the intervals: question ids, or their paragraphs"
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="number of concurrent trainings; default: as many as fit in the cluster"
    )
    trial_resources: dict[str, float] = Field(
        {"CPU": 1},
        description="resources of the process that drives a training, in addition to its workers",
    )

    @model_validator(mode="after")
    def _consistent(self) -> StudyFile:
        if self.baseline not in self.methods:
            raise ValueError(f"baseline: {self.baseline!r} is none of the methods {', '.join(self.methods)}")
        for name, method in self.methods.items():
            if method.trained_as is not None and method.trained_as not in self.trained():
                raise ValueError(
                    f"methods.{name}: trained_as {method.trained_as!r} is not a method that trains"
                )
        for name, reference in self.contrasts():
            if reference not in self.methods or reference == name:
                raise ValueError(f"methods.{name}: against {reference!r} is not another method")
        for primary in self.primary:
            name = primary.method
            if name not in self.methods:
                raise ValueError(f"primary: {name!r} is none of the methods {', '.join(self.methods)}")
            reference = self._against(primary)
            if (name, reference) not in self.contrasts():
                raise ValueError(
                    f"primary: {name!r} against {reference!r} is none of the contrasts; "
                    "add it to the method's `against`"
                )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: expected each seed once, got {self.seeds}")
        check_labels(benchmarks=self.benchmarks, later_benchmarks=self.later_benchmarks)
        return self

    def all_benchmarks(self) -> tuple[BenchmarkSettings, ...]:
        """Return the benchmarks of all methods."""
        return self.benchmarks + self.later_benchmarks

    def references(self, name: str) -> list[str]:
        """Return the methods that a method is compared with; by default none for the baseline."""
        return self.methods[name].against or ([] if name == self.baseline else [self.baseline])

    def contrasts(self) -> list[tuple[str, str]]:
        """Return every tested (method, reference), in the order of the file."""
        return [(name, reference) for name in self.methods for reference in self.references(name)]

    def primaries(self) -> list[tuple[str, str, str]]:
        """Return the contrasts that answer the question: method, reference, setting."""
        if self.primary:
            return [(primary.method, self._against(primary), primary.setting) for primary in self.primary]
        names = [name for name in self.methods if name != self.baseline]
        name = "hybrid" if "hybrid" in names else names[0]
        references = self.references(name)
        return [(name, self.baseline if self.baseline in references else references[0], "crosslingual")]

    def _against(self, primary: Primary) -> str:
        return primary.against or next(iter(self.references(primary.method)), "")

    def trained(self) -> dict[str, Method]:
        """Return the methods that train models."""
        return {name: method for name, method in self.methods.items() if method.trained_as is None}

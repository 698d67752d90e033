"""The study file: methods that are compared, on what, with how many seeds.

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
    """One way of training, or of using what another method trained."""

    about: str = Field("", description="one sentence for the report")
    run: str | None = Field(None, description="its own run file; none: the study's")
    overrides: dict[str, Any] = Field({}, description="dotted key of the run file -> value")
    trained_as: str | None = Field(
        None,
        description="use the models of this method and only evaluate otherwise (see scoring); none: train",
    )
    scoring: dict[str, Any] = Field(
        {}, description="keys of evaluation.scoring that differ, such as language_removal: lir"
    )

    against: list[str] = Field(
        [], description="methods that this one is compared with, a test each; none: the study's baseline"
    )

    @model_validator(mode="after")
    def _trains_or_reuses(self) -> Method:
        if self.trained_as is not None and (self.overrides or self.run):
            raise ValueError("a method with trained_as trains nothing: it has no run and no overrides")
        return self


class Primary(Settings):
    """A contrast that the study was made to test; all others are exploratory."""

    method: str = Field(description="name of one of the methods")
    against: str | None = Field(
        None, description="what it is compared with; none: the first of the method's `against`"
    )
    setting: Literal["monolingual", "crosslingual", "multilingual"] = Field(
        "crosslingual", description="the figure that decides: mAP of this setting"
    )


class StudyFile(Settings):
    """One study."""

    name: str = Field(description="name of the study in its report", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output_dir: str = Field(description="folder of the study; on a cluster it must be shared by all nodes")
    question: str = Field(description="what the study asks, as a sentence for the report")
    notes: list[str] = Field(
        [], description="choices and limits that a reader of the report must know, a paragraph each"
    )
    run: str = Field(description="base run file, or the name of one that comes with the package")
    overrides: list[str] = Field([], description="KEY=VALUE, applied to the base run of every method")
    methods: dict[str, Method] = Field(
        min_length=2, description="name of a method -> how it is trained or evaluated"
    )
    baseline: str = Field(description="the method that the others are compared with")
    primary: tuple[Primary, ...] = Field(
        (),
        max_length=3,
        description="the contrasts that answer the question, stated before the results are seen; none: the "
        "method named hybrid, else the first one, against its reference, crosslingual",
    )
    seeds: list[int] = Field([0, 1, 2], min_length=1, description="every method is trained once with each")
    benchmarks: tuple[BenchmarkSettings, ...] = Field(min_length=1, description="what all are measured on")
    later_benchmarks: tuple[BenchmarkSettings, ...] = Field(
        (),
        description="all are measured on these too, but their texts are not kept out of training, so that "
        "they can be added to a finished study; the report counts the training examples that repeat them",
    )
    check_leaks: bool = Field(
        True, description="drop training examples whose texts are those of a benchmark, or nearly"
    )
    resampled: Literal["question", "paragraph"] = Field(
        "question", description="what intervals are drawn over: question ids, or their paragraphs"
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="trainings at one time; by default as many as the cluster holds"
    )
    trial_resources: dict[str, float] = Field(
        {"CPU": 1},
        description="what Ray reserves for the process that drives a training, besides its workers",
    )

    @model_validator(mode="after")
    def _consistent(self) -> StudyFile:
        if self.baseline not in self.methods:
            raise ValueError(f"baseline: {self.baseline!r} is none of the methods {', '.join(self.methods)}")
        for name, method in self.methods.items():
            other = method.trained_as
            if other is not None and (
                other not in self.methods or self.methods[other].trained_as is not None
            ):
                raise ValueError(f"methods.{name}: trained_as {other!r} is not a method that trains")
        for name, reference in self.contrasts():
            if reference not in self.methods or reference == name:
                raise ValueError(f"methods.{name}: against {reference!r} is not another method")
        for one in self.primary:
            if one.method not in self.methods:
                raise ValueError(f"primary: {one.method!r} is none of the methods {', '.join(self.methods)}")
            if (one.method, self._against(one)) not in self.contrasts():
                raise ValueError(
                    f"primary: {one.method!r} against {self._against(one)!r} is none of the contrasts; "
                    "add it to the method's `against`"
                )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: each seed once, found {self.seeds}")
        check_labels(benchmarks=self.benchmarks, later_benchmarks=self.later_benchmarks)
        return self

    def all_benchmarks(self) -> tuple[BenchmarkSettings, ...]:
        """What all methods are measured on."""
        return self.benchmarks + self.later_benchmarks

    def references(self, name: str) -> list[str]:
        """What a method is compared with; the baseline with nothing, unless it says so."""
        own = self.methods[name].against
        return own or ([] if name == self.baseline else [self.baseline])

    def contrasts(self) -> list[tuple[str, str]]:
        """Every (method, reference) that is tested, in the order of the file."""
        return [(name, reference) for name in self.methods for reference in self.references(name)]

    def primaries(self) -> list[tuple[str, str, str]]:
        """The contrasts that answer the question: method, reference, setting."""
        if self.primary:
            return [(one.method, self._against(one), one.setting) for one in self.primary]
        others = [name for name in self.methods if name != self.baseline]
        name = "hybrid" if "hybrid" in others else others[0]
        references = self.references(name)
        return [(name, self.baseline if self.baseline in references else references[0], "crosslingual")]

    def _against(self, one: Primary) -> str:
        return one.against or next(iter(self.references(one.method)), "")

    def trained(self) -> dict[str, Method]:
        """The methods that train models of their own."""
        return {name: method for name, method in self.methods.items() if method.trained_as is None}

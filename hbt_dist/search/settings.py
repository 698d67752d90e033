"""Describe the search file: a base run, the space over its keys, the sampler, the objectives.

name: alpha
output_dir: searches/alpha
run: quickstart
space: {batches.alpha: {range: [0, 1, 0.1]}}
seeds: [0, 1, 2]
benchmark: {name: sample, variant: dev}
"""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from hbt_dist.batching.kinds import KINDS
from hbt_dist.config.settings import Settings
from hbt_dist.config.user_functions import UserFunction, is_user_function
from hbt_dist.data.benchmarks.settings import check_labels
from hbt_dist.run_file import BenchmarkSettings

Direction = Literal["max", "min"]

#: Objectives that a trial reports, and their better direction.
OBJECTIVES: dict[str, Direction] = {
    "monolingual": "max",
    "crosslingual": "max",
    "multilingual": "max",
    "rank_distance": "min",
}
Objective = Literal["monolingual", "crosslingual", "multilingual", "rank_distance"]
_MOST_GRID_POINTS = 10_000


class Dimension(Settings):
    """The values of one key, in exactly one form."""

    choice: list[Any] | None = Field(
        None, min_length=1, description="a list of any values, including schedules"
    )
    range: tuple[float, float, float] | None = Field(
        None, description="first, last, step: evenly spaced numbers including the last"
    )
    uniform: tuple[float, float] | None = Field(None, description="lowest, highest: any number between them")
    log_uniform: tuple[float, float] | None = Field(
        None, description="lowest, highest, above 0: uniform in the logarithm"
    )
    integer: tuple[int, int] | None = Field(
        None, description="lowest, highest: any whole number from lowest to highest"
    )
    simplex: list[str] | None = Field(
        None,
        min_length=2,
        description="shares of these batch kinds, uniform over all mixtures; for batches.mixture",
    )
    simplex_step: float | None = Field(
        None,
        gt=0,
        le=0.5,
        description="with simplex and a grid: distance of the shares, such as 0.25; default: continuous",
    )

    @model_validator(mode="after")
    def _one_form(self) -> Dimension:
        forms = [name for name in FORMS if getattr(self, name) is not None]
        if len(forms) != 1:
            raise ValueError(f"expected one of {', '.join(FORMS)}, got {', '.join(forms) or 'none'}")
        for name in ("uniform", "log_uniform", "integer"):
            bounds = getattr(self, name)
            if bounds is not None and not bounds[0] < bounds[1]:
                raise ValueError(f"{name}: expected lowest < highest, got {bounds[0]} and {bounds[1]}")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform: expected a lowest value above 0, got {self.log_uniform[0]}")
        if self.range is not None:
            first, last, step = self.range
            if step <= 0 or last < first:
                raise ValueError(
                    f"range: expected [first, last, step] with first <= last and step > 0, got {self.range}"
                )
        if self.simplex is not None:
            unknown = [kind for kind in self.simplex if kind not in KINDS and not is_user_function(kind)]
            if unknown or len(set(self.simplex)) < len(self.simplex):
                raise ValueError(f"simplex names each of its batch kinds once: {', '.join(KINDS)}")
        elif self.simplex_step is not None:
            raise ValueError("simplex_step belongs to simplex")
        return self

    def values(self) -> list[Any] | None:
        """Return all values of a finite dimension in order; None for a continuous one."""
        if self.choice is not None:
            return list(self.choice)
        if self.range is not None:
            first, last, step = self.range
            count = int((last - first) / step + 1e-9) + 1
            return [round(first + i * step, 12) for i in range(count)]
        if self.integer is not None:
            return list(range(self.integer[0], self.integer[1] + 1))
        if self.simplex is not None and self.simplex_step is not None:
            parts = round(1 / self.simplex_step)
            counts = itertools.product(range(parts + 1), repeat=len(self.simplex))
            return [
                {kind: count / parts for kind, count in zip(self.simplex, shares, strict=True) if count}
                for shares in counts
                if sum(shares) == parts
            ]
        return None

    def corners(self) -> list[Any]:
        """Return the values to check before the first trial: all of a finite dimension, else the ends."""
        values = self.values()
        if values is not None:
            return values
        if self.simplex is not None:
            return [dict.fromkeys(self.simplex, 1 / len(self.simplex))]
        return list(self.uniform or self.log_uniform or ())

    def describe(self) -> str:
        """Describe the dimension in one short phrase."""
        name = next(name for name in FORMS if getattr(self, name) is not None)
        return f"{name} {getattr(self, name)}"


FORMS = ("choice", "range", "uniform", "log_uniform", "integer", "simplex")


class SamplerSettings(Settings):
    """The points of the space to try."""

    kind: Literal["grid", "random", "optuna"] | UserFunction = Field(
        "grid",
        description="grid: every combination; random: independent draws; optuna: draws that learn from the "
        "finished points (multi-objective TPE); module:function: makes a searcher of Ray Tune or a sampler "
        "of Optuna from the search (docs/ray_tune.md)",
    )
    points: int | None = Field(
        None, ge=1, description="number of points; required for all kinds but grid, absent for grid"
    )
    seed: int = Field(0, ge=0, description="seed of the draws (random, optuna)")
    startup_points: int = Field(10, ge=1, description="optuna: random points before it begins to learn")
    weights: dict[Objective, float] | None = Field(
        None,
        description="optuna: maximise one weighted sum of the objectives instead of all at once; "
        "rank_distance takes a negative weight; default: all at once",
    )

    @model_validator(mode="after")
    def _points_where_needed(self) -> SamplerSettings:
        if (self.points is None) != (self.kind == "grid"):
            raise ValueError("points: required for random, optuna and module:function, not for grid")
        if self.weights is not None and self.kind != "optuna":
            raise ValueError("weights: allowed for kind: optuna only")
        return self


class EarlyStopping(Settings):
    """Stop bad trials early (asynchronous successive halving, arXiv 1810.05934)."""

    metric: Objective = Field("multilingual", description="objective that compares trials at equal steps")
    first_step: int = Field(
        ge=1, description="first step at which a trial can stop; comparisons happen at evaluated checkpoints"
    )
    reduction: float = Field(3, gt=1, description="about 1 of this many trials continues at each comparison")
    scheduler: UserFunction | None = Field(
        None,
        description="module:function that makes a scheduler of Ray Tune from the search, which can stop "
        "trials, not pause them (docs/ray_tune.md); default: successive halving",
    )


class SearchFile(Settings):
    """One search."""

    dotted_fields: ClassVar[frozenset[str]] = frozenset({"space"})

    name: str = Field(description="name of the search in reports", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    output_dir: str = Field(description="folder of the search; on a cluster it must be shared by all nodes")
    run: str = Field(description="base run file, or the name of a shipped run file")
    overrides: list[str] = Field([], description="KEY=VALUE, applied to the base run for every trial")
    space: dict[str, Dimension] = Field(min_length=1, description="dotted key of the run file -> its values")
    seeds: list[int] = Field([0], min_length=1, description="every point is trained once with each seed")
    sampler: SamplerSettings = Field(default_factory=SamplerSettings, description="which points are tried")
    objectives: list[Objective] = Field(
        ["monolingual", "crosslingual", "multilingual", "rank_distance"],
        min_length=1,
        description="objectives of the search",
    )
    benchmark: BenchmarkSettings = Field(description="development benchmark that measures the trials")
    test_benchmarks: tuple[BenchmarkSettings, ...] = Field(
        (),
        description="test benchmarks of the winner, in addition to those of the base run; the development "
        "benchmark must not share questions with them",
    )
    evaluate_checkpoints: bool = Field(
        True, description="measure every checkpoint of a trial, not only the trained model"
    )
    early_stopping: EarlyStopping | None = Field(
        None, description="stop bad trials early; default: every trial runs to its end"
    )
    max_concurrent: int | None = Field(
        None, ge=1, description="number of concurrent trials; default: as many as fit in the cluster"
    )
    trial_resources: dict[str, float] = Field(
        {"CPU": 1},
        description="resources of the process that drives a trial and measures its checkpoints, in addition "
        "to the workers; without a share of a GPU it measures on the CPU; a custom resource keeps it on the "
        "nodes that have it",
    )
    warm_start: list[str] = Field([], description="folders of earlier searches that optuna learns from")
    trackers: list[Literal["tensorboard", "wandb", "mlflow"]] = Field(
        ["tensorboard"],
        description="further destinations of the metrics; wandb and mlflow must be installed",
    )

    @model_validator(mode="after")
    def _consistent(self) -> SearchFile:
        check_labels(benchmark=self.benchmark, test_benchmarks=self.test_benchmarks)
        stopping, space = self.early_stopping, set(self.space)
        for holds, error in (
            (len(set(self.seeds)) < len(self.seeds), f"seeds: expected each seed once, got {self.seeds}"),
            (
                len(set(self.objectives)) < len(self.objectives),
                f"objectives: expected each once, got {self.objectives}",
            ),
            (
                self.warm_start and self.sampler.kind in ("grid", "random"),
                f"warm_start: {self.sampler.kind} does not learn from earlier searches, optuna does",
            ),
            (
                stopping and not self.evaluate_checkpoints,
                "early_stopping needs evaluate_checkpoints: true",
            ),
            (
                stopping and stopping.metric not in self.objectives,
                f"early_stopping: {stopping and stopping.metric} is none of the objectives",
            ),
            (
                min(self.trial_resources.values(), default=0) <= 0,
                "trial_resources: expected a positive amount of at least one resource",
            ),
            (
                {"batches.alpha", "batches.mixture"} <= space,
                "space: batches.alpha and batches.mixture exclude each other",
            ),
            (
                {"seed", "output_dir"} & space,
                "space: list seeds in `seeds`; the search sets output_dir",
            ),
        ):
            if holds:
                raise ValueError(error)
        return self

    @model_validator(mode="after")
    def _space_is_sound(self) -> SearchFile:
        for key, dimension in self.space.items():
            if (dimension.simplex is not None) != (key == "batches.mixture" and dimension.choice is None):
                raise ValueError(
                    f"space: {key} cannot be {dimension.describe()}; simplex is for batches.mixture"
                )
            if self.sampler.kind == "grid" and dimension.values() is None:
                raise ValueError(
                    f"sampler: a grid needs listed values, {key} is continuous; use range or choice"
                )
        if self.sampler.kind == "grid" and self.num_points() > _MOST_GRID_POINTS:
            raise ValueError(
                f"sampler: the grid has {self.num_points():,} points, more than {_MOST_GRID_POINTS:,}"
            )
        return self

    def num_points(self) -> int:
        """Return the number of points of the search: sampler.points, or all of the grid."""
        if self.sampler.points is not None:
            return self.sampler.points
        return math.prod(len(dimension.values() or []) for dimension in self.space.values())

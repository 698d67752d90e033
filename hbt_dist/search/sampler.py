"""Choose the next point of a search: the grid in order, or Optuna's draws.

Optuna (optuna.org) draws random points and multi-objective TPE points. Each start rebuilds the study in
memory from the search's folder: finished points enter with their objectives, so a resumed search knows every
earlier result, independent of the order in which trials ended.
"""

from __future__ import annotations

import itertools
import logging
import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import is_user_function
from hbt_dist.search.settings import OBJECTIVES, Dimension, SearchFile
from hbt_dist.search.space import Point
from hbt_dist.search.user_sampler import SearcherSampler, call_user_function

#: Bounds of the uniform draws behind a simplex.
_SIMPLEX_DRAWS = (1e-6, 1.0)


class GridSampler:
    """Returns every combination, the last key fastest."""

    def __init__(self, space: Mapping[str, Dimension]) -> None:
        values = [dimension.values() or [] for dimension in space.values()]
        self._points: Iterator[tuple[Any, ...]] = itertools.product(*values)
        self._keys = list(space)

    def draw(self) -> Point | None:
        """Return the next combination, or None after the last."""
        values = next(self._points, None)
        return None if values is None else dict(zip(self._keys, values, strict=True))

    def record(self, number: int, point: Point, objectives: Mapping[str, float] | None) -> None:
        """Do nothing: a grid does not learn."""

    def learn(self, point: Point, objectives: Mapping[str, float]) -> bool:
        """Return False: a grid does not learn."""
        return False


class OptunaSampler:
    """Draws random or multi-objective TPE points.

    Draws of a simplex are uniform: K draws of -log(u), divided by their sum (the Dirichlet(1, ..., 1)
    distribution).

    Args:
        search: space, sampler, objectives.
        known: recorded points, with their objectives if they have finished.
        user_sampler: Optuna's sampler that draws; default: that of `search.sampler`.
    """

    def __init__(
        self,
        search: SearchFile,
        known: list[tuple[Point, Mapping[str, float] | None]],
        user_sampler: Any = None,
    ) -> None:
        import optuna

        optuna.logging.set_verbosity(logging.ERROR)
        settings = search.sampler
        self._optuna = optuna
        self._space, self._settings = search.space, settings
        self._distributions: dict[str, Any] = {}
        for key, dimension in search.space.items():
            self._distributions |= _distributions(key, dimension)
        self._objectives = list(search.objectives)
        self._num_drawn = len(known)
        self._trials: dict[int, Any] = {}
        # A fresh stream for each start: draws of an earlier start must not repeat.
        seed = settings.seed + 1_000_003 * len(known)
        sampler: Any = user_sampler or optuna.samplers.RandomSampler(seed=seed)
        if settings.kind == "optuna":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                sampler = optuna.samplers.TPESampler(
                    n_startup_trials=settings.startup_points, multivariate=True, constant_liar=True, seed=seed
                )
        directions: Any = ["maximize"]  # of one weighted sum
        if settings.weights is None:
            directions = [f"{OBJECTIVES[name]}imize" for name in self._objectives]
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        for point, objectives in known:
            if objectives is not None:
                self.learn(point, objectives)

    def draw(self) -> Point | None:
        """Return the next draw, until the search has its number of points."""
        assert self._settings.points is not None
        if self._num_drawn >= self._settings.points:
            return None
        trial = self._study.ask(self._distributions)
        self._trials[self._num_drawn] = trial
        self._num_drawn += 1
        return {key: _value(key, dimension, trial.params) for key, dimension in self._space.items()}

    def record(self, number: int, point: Point, objectives: Mapping[str, float] | None) -> None:
        """Record the result of the point that `draw` returned as number `number`; no result is None.

        A point of an earlier start enters as finished.
        """
        trial = self._trials.pop(number, None)
        if trial is not None and objectives is not None:
            self._study.tell(trial, self._values(objectives))
        elif trial is not None:
            self._study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
        elif objectives is not None:
            self.learn(point, objectives)

    def learn(self, point: Point, objectives: Mapping[str, float]) -> bool:
        """Add a finished point; return False if it is outside the space or lacks an objective."""
        parameters: dict[str, Any] = {}
        for key, dimension in self._space.items():
            drawn = _parameters(key, dimension, point[key]) if key in point else None
            if drawn is None:
                return False
            parameters |= drawn
        if any(name not in objectives or not math.isfinite(objectives[name]) for name in self._objectives):
            return False
        try:
            trial = self._optuna.trial.create_trial(
                params=parameters, distributions=self._distributions, values=self._values(objectives)
            )
        except ValueError:  # a value outside its bounds
            return False
        self._study.add_trial(trial)
        return True

    def _values(self, objectives: Mapping[str, float]) -> list[float]:
        weights = self._settings.weights
        if weights is not None:
            return [sum(weight * objectives[name] for name, weight in weights.items())]
        return [float(objectives[name]) for name in self._objectives]


def _distributions(key: str, dimension: Dimension) -> dict[str, Any]:
    """Return Optuna's distributions of a dimension: name -> distribution; a simplex has one per kind."""
    import optuna.distributions as kinds

    if dimension.simplex is not None:
        return {f"{key}.{kind}": kinds.FloatDistribution(*_SIMPLEX_DRAWS) for kind in dimension.simplex}
    if dimension.choice is not None:
        return {key: kinds.CategoricalDistribution(tuple(range(len(dimension.choice))))}
    if dimension.range is not None:
        values = dimension.values() or []
        return {key: kinds.FloatDistribution(values[0], values[-1], step=dimension.range[2])}
    if dimension.integer is not None:
        return {key: kinds.IntDistribution(*dimension.integer)}
    bounds = dimension.log_uniform or dimension.uniform
    assert bounds is not None
    return {key: kinds.FloatDistribution(*bounds, log=dimension.log_uniform is not None)}


def _value(key: str, dimension: Dimension, parameters: Mapping[str, Any]) -> Any:
    """Return the value of a dimension from Optuna's parameters."""
    if dimension.simplex is not None:
        weights = [1e-12 - math.log(parameters[f"{key}.{kind}"]) for kind in dimension.simplex]
        return {
            kind: round(weight / sum(weights), 6)
            for kind, weight in zip(dimension.simplex, weights, strict=True)
        }
    if dimension.choice is not None:
        return dimension.choice[parameters[key]]
    return parameters[key] if dimension.range is None else round(parameters[key], 12)


def _parameters(key: str, dimension: Dimension, value: Any) -> dict[str, Any] | None:
    """Return Optuna's parameters of a value; None if the dimension does not have the value."""
    if dimension.simplex is not None:
        if not isinstance(value, dict) or not set(value) <= set(dimension.simplex):
            return None
        # Any positive multiple of the shares gives the same mixture; draws have a mean of 1.
        count = len(dimension.simplex)
        return {
            f"{key}.{kind}": max(math.exp(-count * float(value.get(kind, 0.0))), _SIMPLEX_DRAWS[0])
            for kind in dimension.simplex
        }
    if dimension.choice is not None:
        return {key: dimension.choice.index(value)} if value in dimension.choice else None
    return {key: value} if isinstance(value, int | float) and not isinstance(value, bool) else None


Sampler = GridSampler | OptunaSampler | SearcherSampler


def make_sampler(search: SearchFile, known: list[tuple[Point, Mapping[str, float] | None]]) -> Sampler:
    """Return the sampler of a search in its state after the recorded points.

    Args:
        known: recorded points in order, with their objectives if they have finished.

    Raises:
        UserError: a function of the user makes no sampler.
    """
    kind = search.sampler.kind
    if is_user_function(kind):
        return _user_sampler(search, known)
    if kind != "grid":
        return OptunaSampler(search, known)
    sampler = GridSampler(search.space)
    for _ in known:
        sampler.draw()
    return sampler


def _user_sampler(search: SearchFile, known: list[tuple[Point, Mapping[str, float] | None]]) -> Sampler:
    import optuna

    name = search.sampler.kind
    made = call_user_function(name, search, "sampler.kind")
    if isinstance(made, optuna.samplers.BaseSampler):
        return OptunaSampler(search, known, made)
    if callable(getattr(made, "suggest", None)) and callable(getattr(made, "on_trial_complete", None)):
        return SearcherSampler(search, made, known)
    raise UserError(
        "sampler.kind",
        f"{name}: expected a searcher of Ray Tune or a sampler of Optuna, got {type(made).__name__}",
        "return a ray.tune.search.Searcher or an optuna.samplers.BaseSampler",
    )

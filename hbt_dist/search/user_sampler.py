"""Let a function of the user choose the points of a search: a searcher of Ray Tune, or a sampler of Optuna.

`sampler.kind: module:function` names a function that takes the `SearchFile`. Its searcher suggests points
with the dotted keys of the space, and learns from the means over seeds. After a new start it receives the
finished points through `add_evaluated_point`; a searcher without this method knows nothing of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hbt_dist.common.console import note_once
from hbt_dist.common.errors import UserError
from hbt_dist.config.user_functions import load_user_function, user_error
from hbt_dist.search.settings import SearchFile
from hbt_dist.search.space import Point

_LOCATION = "sampler.kind"


def call_user_function(name: str, search: SearchFile, location: str) -> Any:
    """Return what a function of the user makes from the search.

    Raises:
        UserError: the function does not exist or raises.
    """
    function = load_user_function(name, location)
    try:
        return function(search)
    except UserError:
        raise
    except Exception as error:  # the user's function can raise anything
        raise user_error(error, name, location) from error


class SearcherSampler:
    """Draws the suggestions of a searcher of Ray Tune.

    Args:
        search: space, number of points.
        searcher: has `suggest` and `on_trial_complete` of `ray.tune.search.Searcher`.
        known: recorded points, with their objectives if they have finished.
    """

    def __init__(
        self, search: SearchFile, searcher: Any, known: list[tuple[Point, Mapping[str, float] | None]]
    ) -> None:
        self._name, self._searcher = search.sampler.kind, searcher
        self._keys, self._points = set(search.space), search.num_points()
        self._num_drawn = len(known)
        self._open: set[int] = set()
        for point, objectives in known:
            if objectives is not None:
                self.learn(point, objectives)

    def draw(self) -> Point | None:
        """Return the next suggestion, until the searcher ends or the search has its number of points.

        Raises:
            UserError: the searcher raises, or suggests no point of the space.
        """
        if self._num_drawn >= self._points:
            return None
        point = self._call("suggest", str(self._num_drawn))
        if isinstance(point, str):  # `Searcher.FINISHED`
            return None
        if not isinstance(point, dict) or set(point) != self._keys:
            keys = ", ".join(sorted(map(str, point))) if isinstance(point, dict) else repr(point)
            raise UserError(
                _LOCATION,
                f"{self._name}: expected a point with {', '.join(sorted(self._keys))}, got {keys}",
                "suggest a dict with the keys of `space`; max_concurrent limits concurrent trials",
            )
        self._open.add(self._num_drawn)
        self._num_drawn += 1
        return point

    def record(self, number: int, point: Point, objectives: Mapping[str, float] | None) -> None:
        """Report the result of a point to the searcher; no result is None."""
        if number in self._open:
            self._open.discard(number)
            result = None if objectives is None else dict(objectives)
            self._call("on_trial_complete", str(number), result, error=objectives is None)
        elif objectives is not None:
            self.learn(point, objectives)

    def learn(self, point: Point, objectives: Mapping[str, float]) -> bool:
        """Report a finished point that the searcher did not suggest; return whether it can take one."""
        metric = self._searcher.metric
        value = [objectives[name] for name in metric] if isinstance(metric, list) else objectives.get(metric)
        try:
            self._call("add_evaluated_point", dict(point), value)
        except UserError as error:
            if not isinstance(error.__cause__, NotImplementedError):
                raise
            note_once(f"{self._name} has no add_evaluated_point: it does not learn from earlier points")
            return False
        return True

    def _call(self, method: str, *arguments: Any, **options: Any) -> Any:
        try:
            return getattr(self._searcher, method)(*arguments, **options)
        except Exception as error:  # the user's searcher can raise anything
            raise user_error(error, self._name, f"{_LOCATION}, {method}") from error

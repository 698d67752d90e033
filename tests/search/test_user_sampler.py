"""Points that a function of the user chooses: searchers of Ray Tune, samplers of Optuna, a new start."""

from __future__ import annotations

import sys
import types
from typing import Any

import optuna
import pytest
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from hbt_dist.common.errors import UserError
from hbt_dist.config.settings import validate
from hbt_dist.search.sampler import make_sampler
from hbt_dist.search.settings import SamplerSettings
from tests.search.test_sampler import ask_all, make_search

SPACE = {"optimizer.learning_rate": {"uniform": [0, 1]}}
POINT = {"optimizer.learning_rate": 0.5}


class Halfway(Searcher):
    """Suggests points ever nearer to 0, and keeps what it was told."""

    def __init__(self, last: int = 99) -> None:
        super().__init__(metric="crosslingual", mode="max")
        self.last, self.told = last, {}

    def suggest(self, trial_id: str) -> Any:
        number = int(trial_id)
        return self.FINISHED if number > self.last else {"optimizer.learning_rate": 0.5**number}

    def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
        self.told[trial_id] = (result, error)


def sampler_of(monkeypatch: pytest.MonkeyPatch, function: Any, known: Any = (), points: int = 3) -> Any:
    module = types.ModuleType("chosen")
    module.points = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "chosen", module)
    search = make_search(SPACE, sampler={"kind": "chosen:points", "points": points})
    return make_sampler(search, list(known))


def test_a_searcher_suggests_and_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = Halfway()
    sampler = sampler_of(monkeypatch, lambda search: searcher)
    points = ask_all(sampler)
    assert [point["optimizer.learning_rate"] for point in points] == [1, 0.5, 0.25]
    sampler.record(1, points[1], {"crosslingual": 0.3, "monolingual": 0.4})
    sampler.record(0, points[0], None)
    assert searcher.told == {"1": ({"crosslingual": 0.3, "monolingual": 0.4}, False), "0": (None, True)}
    assert len(ask_all(sampler_of(monkeypatch, lambda search: Halfway(last=1)))) == 2


def test_a_new_start_gives_a_searcher_the_finished_points(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ray's Optuna searcher takes them; a searcher that cannot is named once, and goes on."""

    def searcher(search: Any) -> Any:
        space = {name: optuna.distributions.FloatDistribution(0, 1) for name in search.space}
        return OptunaSearch(space, metric="crosslingual", mode="max")

    known = [(POINT, {"crosslingual": 0.7}), ({"optimizer.learning_rate": 0.1}, None)]
    sampler = sampler_of(monkeypatch, searcher, known, points=4)
    trials = sampler._searcher._ot_study.trials
    assert [(trial.params, trial.value) for trial in trials] == [(POINT, 0.7)]
    sampler.record(1, known[1][0], {"crosslingual": 0.2})  # of the earlier start, ended in this one
    assert [trial.value for trial in sampler._searcher._ot_study.trials] == [0.7, 0.2]
    assert len(ask_all(sampler)) == 2
    assert len(ask_all(sampler_of(monkeypatch, lambda search: Halfway(), known * 2, points=5))) == 1
    assert capsys.readouterr().err.count("does not learn from earlier points") == 1


def test_a_sampler_of_optuna_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    sampler = sampler_of(monkeypatch, lambda search: optuna.samplers.QMCSampler(seed=1), points=4)
    assert isinstance(sampler._study.sampler, optuna.samplers.QMCSampler)
    assert len({point["optimizer.learning_rate"] for point in ask_all(sampler)}) == 4


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda search: object(), "expected a searcher of Ray Tune or a sampler of Optuna, got object"),
        (lambda search: 1 / 0, "chosen:points raised ZeroDivisionError"),
        (lambda search: type("S", (Halfway,), {"suggest": lambda *_: None})(), "got None"),
        (lambda search: type("S", (Halfway,), {"suggest": lambda *_: {"lr": 1}})(), "got lr"),
        (lambda search: type("S", (Halfway,), {"suggest": lambda *_: 1 / 0})(), "ZeroDivisionError"),
    ],
)
def test_refused_with_one_message(monkeypatch: pytest.MonkeyPatch, function: Any, expected: str) -> None:
    with pytest.raises(UserError) as refused:
        ask_all(sampler_of(monkeypatch, function))
    assert expected in str(refused.value)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"kind: .*'bayes'|kind: bayes"):
        validate(SamplerSettings, {"kind": "bayes", "points": 3}, "search.yaml")

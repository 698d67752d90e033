"""The record of a search: half lines, foreign folders, and means over seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import append_line, read_json_lines, write_json
from hbt_dist.search.folder import SearchFolder

DESCRIBED = {"name": "s", "space": {"batches.alpha": "range"}}


def opened(root: Path) -> SearchFolder:
    folder = SearchFolder(root)
    folder.open(DESCRIBED, {"search.yaml": {"name": "s"}})
    return folder


def test_half_a_line_is_not_read_and_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "points.jsonl"
    append_line(path, {"point": 0})
    with path.open("a") as file:
        file.write('{"point": 1, "para')
    assert read_json_lines(path) == [{"point": 0}]
    append_line(path, {"point": 1})
    assert read_json_lines(path) == [{"point": 0}, {"point": 1}]
    path.write_text("nonsense\n")
    with pytest.raises(UserError, match="line 1"):
        read_json_lines(path)


def test_the_same_search_is_continued_and_another_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    again = SearchFolder(tmp_path)
    assert again.open(DESCRIBED, {})
    again.close()
    with pytest.raises(UserError, match=r"another search \(space\..*there, .* now\)"):
        SearchFolder(tmp_path).open({**DESCRIBED, "space": {}}, {})


def test_what_may_grow_keeps_what_it_held(tmp_path: Path) -> None:
    grows = ("methods", "seeds")
    first = {"name": "s", "methods": {"a": {"alpha": 1.0}}, "seeds": [0]}

    def open_(**changed: object) -> dict[str, object]:
        folder = SearchFolder(tmp_path)
        try:
            folder.open({**first, **changed}, {}, may_grow=grows)
        finally:
            folder.close()
        found = json.loads((tmp_path / "search.json").read_text("utf-8"))
        return {key: found[key] for key in first}

    open_()
    started = json.loads((tmp_path / "search.json").read_text("utf-8"))["started"]
    more: dict[str, object] = {"methods": {"a": {"alpha": 1.0}, "b": {}}, "seeds": [0, 1]}
    assert open_(**more) == {**first, **more}
    assert open_(**more) == {**first, **more}
    assert json.loads((tmp_path / "search.json").read_text("utf-8"))["started"] == started
    for wrong in (
        {**more, "methods": {"a": {"alpha": 0.5}, "b": {}}},
        {**more, "methods": {"a": {"alpha": 1.0}}},
        {**more, "seeds": [1, 2]},
        {**more, "name": "other"},
    ):
        with pytest.raises(UserError, match="another search"):
            open_(**wrong)
    with pytest.raises(UserError, match=r"another search \(seeds\.2: nothing there, 2 now"):
        SearchFolder(tmp_path).open({**first, **more, "seeds": [0, 1, 2]}, {})


def test_two_processes_do_not_write_one_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = opened(tmp_path)
    second = SearchFolder(tmp_path)
    monkeypatch.setattr(
        second._lock, "acquire", lambda timeout: type(second._lock).acquire(second._lock, 0.1)
    )
    with pytest.raises(UserError, match="another process"):
        second.open(DESCRIBED, {})
    folder.close()


def test_folders_that_are_no_search_of_this_version(tmp_path: Path) -> None:
    head = tmp_path / "search.json"
    opened(tmp_path).close()
    write_json(head, {**json.loads(head.read_text()), "format": 99})
    with pytest.raises(UserError, match="format 99"):
        SearchFolder(tmp_path).open(DESCRIBED, {})
    head.write_text("{half")
    with pytest.raises(UserError, match="not JSON"):
        SearchFolder(tmp_path).open(DESCRIBED, {})
    head.unlink()
    (tmp_path / "trials" / "p0000-s0").mkdir(parents=True)
    with pytest.raises(UserError, match=r"no search\.json"):
        SearchFolder(tmp_path).open(DESCRIBED, {})


def test_points_are_compared_at_the_last_step_that_all_seeds_have(tmp_path: Path) -> None:
    folder = opened(tmp_path)
    point = {"batches.alpha": 0.5}
    assert folder.add_point(point, "grid") == 0
    trials = [folder.trial(0, seed, point) for seed in (0, 1)]
    for trial, values in zip(trials, ([0.1, 0.2, 0.9], [0.3, 0.4]), strict=True):
        trial.folder.mkdir(parents=True)
        facts = {"point": 0, "seed": trial.seed, "parameters": point}
        write_json(trial.folder / "trial.json", {**facts, "status": "finished"})
        for step, value in enumerate(values, 1):
            append_line(trial.folder / "history.jsonl", {"step": step, "monolingual": value})
    assert [trial.name for trial in folder.trials()] == ["p0000-s0", "p0000-s1"]
    assert folder.outcome(trials, ["monolingual"]) == {"monolingual": pytest.approx(0.3)}
    write_json(trials[1].folder / "trial.json", {"status": "failed"})
    assert folder.outcome(trials, ["monolingual"]) is None
    folder.close()

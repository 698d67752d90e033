"""The one table of paths: what is made absolute, what nodes must have, and what makes a run another run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hbt_dist.common.errors import UserError
from hbt_dist.config.difference import changed_settings
from hbt_dist.config.paths import PATHS, paths_in
from hbt_dist.jobs.mine_file import load_mine_file
from hbt_dist.jobs.search import load_search_file
from hbt_dist.orchestration.nodes import inputs_of
from hbt_dist.run_file import RunFile, load_run, resolve_paths
from hbt_dist.study.study import Study
from hbt_dist.training.checkpoints.start_model import start_digest
from hbt_dist.training.run_folder import RunFolder
from tests.helpers.runs import tiny_run, write_run

SOURCE = {"name": "own", "format": "jsonl", "path": "train.jsonl"}
HUB = {"name": "hub", "format": "hub", "path": "some/set"}


def full_run(dictionaries: Any = "dictionaries") -> RunFile:
    """A run with every kind of path, relative ones, and names that are none."""
    switching = {"cache_dir": "neighbours", "dictionaries": dictionaries}
    if dictionaries is None:
        switching["vectors"] = {"en": "en.vec", "fi": "fi.vec"}
    scoring = {"cache_dir": "embeddings", "language_removal": "lir", "language_removal_texts": "lir"}
    run = tiny_run(
        Path("out"),
        Path("cache"),
        data__sources=[SOURCE, HUB],
        data__exclude_overlap_with=[{"name": "mkqa", "data_dir": "mkqa"}, {"name": "sample"}],
        batches__code_switching=switching,
        model={"name_or_path": "/models/e5"},
        teachers={"base": {"name_or_path": "/models/labse"}, "hub": {"name_or_path": "some/model"}},
        deepspeed__config="own/zero2.json",
        training__storage="copies",
        mining={"pool": "pool.jsonl", "judge": {"name_or_path": "/models/judge"}},
        evaluation={
            "benchmarks": [{"name": "xquad-r", "data_dir": "xquad-r"}],
            "checkpoint_benchmarks": [{"name": "mlqa-r", "data_dir": "mlqa-r"}],
            "scoring": scoring,
        },
    )
    return RunFile.model_validate(run)


BENCH = {"name": "jsonl", "data_dir": "bench"}
SEARCH = {"space": {"batches.alpha": {"choice": [0, 1]}}, "benchmark": {"name": "sample", "variant": "dev"}}
STUDY = {
    "question": "?",
    "methods": {"a": {}, "b": {"overrides": {"batches.alpha": 0}}},
    "baseline": "a",
    "benchmarks": [{"name": "sample"}],
}


@pytest.mark.parametrize(
    ("load", "changes", "key", "path"),
    [
        (load_run, {"data__sources": [SOURCE]}, "data.sources.0.path", "train.jsonl"),
        (load_run, {"model": {"name_or_path": "bench"}}, "model.name_or_path", "bench"),
        (load_mine_file, {"data__sources": [SOURCE]}, "data.sources.0.path", "train.jsonl"),
        (load_search_file, {**SEARCH, "run": "run.yaml"}, "run", "run.yaml"),
        (load_search_file, {**SEARCH, "benchmark": BENCH}, "benchmark.data_dir", "bench"),
        (Study.load, {**STUDY, "run": "run.yaml"}, "run", "run.yaml"),
        (Study.load, {**STUDY, "benchmarks": [BENCH]}, "benchmarks.0.data_dir", "bench"),
    ],
)
def test_a_path_that_starts_at_its_file_is_refused(
    load: Callable[[str], object],
    changes: dict[str, Any],
    key: str,
    path: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The path exists next to the file, and not in the working directory."""
    (tmp_path / "own" / "bench").mkdir(parents=True)
    (tmp_path / "own" / "train.jsonl").write_text("")
    of_run = load in (load_run, load_mine_file)
    run = tiny_run(tmp_path / "out", tmp_path / "cache", **(changes if of_run else {}))
    if load is load_mine_file:
        run |= {"mining": {"count": 2}, "model": {"name_or_path": "a/b"}}
    file = write_run(tmp_path / "own" / "run.yaml", run)
    if not of_run:
        common = {"name": "x", "output_dir": "x", "run": "own/run.yaml", "seeds": [1]}
        file = write_run(tmp_path / "own" / "file.yaml", common | changes)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as refused:
        load(str(file.relative_to(tmp_path)))
    assert refused.value.location == f"own/{file.name}, {key}"
    assert refused.value.problem == (
        f"{path} is not in {tmp_path}, where relative paths start (the working directory), but own/{path} "
        "exists"
    )
    assert refused.value.remedy == f"write {key}: own/{path}, or change the directory: cd own"


def test_every_line_of_the_table_is_found_and_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: set[str] = set()
    for dictionaries in ("dictionaries", {"en-fi": "en-fi.txt"}, None, "sample"):
        run = resolve_paths(full_run(dictionaries))
        for found in paths_in(run.plain()):
            seen.add(found.pattern)
            assert Path(found.path).is_absolute(), found
        assert run.data.sources[1].path == "some/set"
        assert run.data.exclude_overlap_with[1].data_dir is None
        if dictionaries == "sample":
            assert run.batches.code_switching.dictionaries == "sample"  # type: ignore[union-attr]
    assert seen == set(PATHS)


def test_nodes_must_have_all_that_is_read_there() -> None:
    names = {Path(path).name for path in inputs_of(full_run())}
    assert names == {
        "train.jsonl",
        "mkqa",
        "dictionaries",
        "e5",
        "judge",
        "labse",
        "zero2.json",
        "mlqa-r",
        "lir",
    }
    assert {Path(path).name for path in inputs_of(full_run(None))} >= {"en.vec", "fi.vec"}
    run = full_run()
    unmeasured = run.model_copy(
        update={"evaluation": run.evaluation.model_copy(update={"checkpoint_benchmarks": ()})}
    )
    assert "mlqa-r" not in {Path(path).name for path in inputs_of(unmeasured)}


def test_a_run_that_was_moved_is_the_same_run(tmp_path: Path) -> None:
    """Another working directory, user or machine; what is in the files, fingerprints guard."""
    here, there = (
        RunFile.model_validate(
            full_run().plain()
            | {
                "data": {
                    "sources": [{**SOURCE, "path": f"{home}/train.jsonl"}, HUB],
                    "exclude_overlap_with": [{"name": "mkqa", "data_dir": f"{home}/mkqa"}],
                    "cache_dir": f"{home}/cache",
                },
                "model": {"name_or_path": f"{home}/model"},
                "deepspeed": {"config": f"{home}/zero2.json"},
            }
        )
        for home in ("/home/a", "/home/b")
    )
    folder = RunFolder(tmp_path)
    folder.write_run_file(here.plain())
    folder.checkpoints.mkdir()  # a run that has not begun may be any other
    folder.check(there.plain())
    for block, key, value, found in (
        ("optimizer", "learning_rate", 0.5, "optimizer.learning_rate: 0.01 there, 0.5 now"),
        ("model", "name_or_path", "hub/name", "model.name_or_path: a path there, hub/name now"),
        ("deepspeed", "config", "/home/b/zero3.json", "deepspeed.config: zero2.json there"),
    ):
        other = there.plain()
        other[block][key] = value
        with pytest.raises(UserError, match=found):
            folder.check(other)
    assert changed_settings(here.plain(), there.plain(), may_move=("made",))


def test_a_model_is_known_by_its_content(tmp_path: Path) -> None:
    digests, backbone = [], torch.nn.Linear(3, 2)
    for place, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "config.json").write_text("{}")
        (tmp_path / place / "model.safetensors").write_text(content)
        (tmp_path / place / "README.md").write_text(place)
        model = {"name_or_path": str(tmp_path / place)}
        run = RunFile.model_validate(tiny_run(tmp_path, tmp_path, model=model))
        digests.append(start_digest(run.model, backbone, tmp_path))
    assert digests[0] == digests[1]
    assert digests[2] not in {digests[0], None}
    scratch = RunFile.model_validate(tiny_run(tmp_path, tmp_path))
    assert start_digest(scratch.model, backbone, tmp_path) is None
    hub = RunFile.model_validate(tiny_run(tmp_path, tmp_path, model={"name_or_path": "organisation/model"}))
    before = start_digest(hub.model, backbone, tmp_path)
    assert before == start_digest(hub.model, backbone.to(torch.bfloat16).float(), tmp_path)
    assert before != start_digest(hub.model, torch.nn.Linear(3, 2), tmp_path)

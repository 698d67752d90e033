"""A miner that is killed continues with the same bytes: its driver, its actors, any number of actors."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from hbt_dist.jobs.mine import mine_job
from hbt_dist.jobs.mine_file import load_mine_file
from hbt_dist.orchestration.cluster import connect
from hbt_dist.orchestration.evaluation import EvaluationActors
from hbt_dist.orchestration.settings import WorkerSettings
from tests.helpers.runs import BIN, finish, hbt_dist, start, tiny_run, write_run
from tests.jobs.made_mining import LANGUAGES, mine_file, read_lines

SECONDS = 400  # a start of Ray takes 20 seconds on two quiet cores, minutes on busy ones
BLOCKS = {"count": 2, "examples_per_block": 2, "languages": {"passage": 0.5, "question": 0.5}}


def wait_until(condition: Callable[[], bool], process: object, seconds: float = SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()  # type: ignore[attr-defined]
        time.sleep(0.001)


def blocks(folder: Path) -> int:
    return len(list(folder.glob("blocks-*/block-*.npz")))


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """mine.yaml, and the file that one process writes without a fault."""
    folder = tmp_path_factory.mktemp("mining") / "made"
    file = mine_file(folder, 200, mining=BLOCKS)
    code, _, err = hbt_dist("mine", file, "--launcher", "local", cwd=folder)
    assert code == 0, err
    return file, (folder / "out" / "negatives.jsonl").read_bytes()


@pytest.mark.slow
def test_killed_driver_continues_with_the_same_bytes(expected: tuple[Path, bytes], tmp_path: Path) -> None:
    file, want = expected
    out = tmp_path / "out"
    command: list[str | Path] = [BIN / "hbt-dist", "mine", file, "--launcher", "local", f"output_dir={out}"]
    for more in (3, 20):
        process = start(command, tmp_path)
        wait_until(lambda number=more: blocks(out) >= number, process)  # type: ignore[misc]
        os.kill(process.pid, signal.SIGKILL)
        assert finish(process)[0] == -signal.SIGKILL
        assert not (out / "negatives.jsonl").exists()
    kept = blocks(out)
    assert 20 <= kept < 100
    code, _, err = finish(start(command, tmp_path))
    assert code == 0, err
    assert "mining for 200 questions among" in err
    assert (out / "negatives.jsonl").read_bytes() == want
    assert blocks(out) == 0


@pytest.mark.ray
@pytest.mark.slow
def test_any_number_of_actors_and_a_killed_one_give_the_same_bytes(
    expected: tuple[Path, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One cluster for all: 1, 2 and 3 actors; of several, one is killed once five blocks are written."""
    import ray

    file, want = expected
    begin = EvaluationActors.__init__
    killed: list[int] = []

    def kill_one(actors: EvaluationActors, out: Path) -> None:
        process = ray.get(actors.handles[0].process_id.remote())
        for _ in range(SECONDS * 1000):
            if blocks(out) >= 5:
                os.kill(process, signal.SIGKILL)
                killed.append(process)
                return
            time.sleep(0.001)

    with connect(WorkerSettings(address="local", num_workers=3)):
        for number in (1, 2, 3):
            out = tmp_path / str(number)
            overrides = [f"output_dir={out}", f"workers.num_workers={number}", f"data.cache_dir={out}/cache"]

            def watched(actors: EvaluationActors, *arguments: Any, out: Path = out, **options: Any) -> None:
                begin(actors, *arguments, **options)
                if len(actors.handles) > 1:
                    Thread(target=kill_one, args=(actors, out), daemon=True).start()

            monkeypatch.setattr(EvaluationActors, "__init__", watched)
            mine_job(load_mine_file(str(file), overrides), "ray", quiet=True)
            assert (out / "negatives.jsonl").read_bytes() == want
            assert len(killed) == number - 1


@pytest.mark.slow
def test_mined_negatives_are_inspected_and_trained_on(tmp_path: Path) -> None:
    """The README's command on a run file, then its output in the same run with the mined languages."""
    made = mine_file(tmp_path / "made", 60).parent
    source = {"name": "made", "format": "jsonl", "path": str(made / "train.jsonl")}
    run = tiny_run(
        tmp_path / "runs" / "mine",
        tmp_path / "cache",
        data={"sources": [source], "missing": "skip", "cache_dir": str(tmp_path / "cache")},
        model={"name_or_path": "absent/model", "text": {"max_passage_tokens": 32}},
        batches__hard_negatives={"count": 2, "language": "mined"},
        training__steps=2,
    )
    file = write_run(tmp_path / "run.yaml", run)
    model = f"model.name_or_path={made}/model"
    overrides = ["mining.count=4", "output_dir=mined", "mining.languages={passage: 0.5, question: 0.5}"]
    code, out, err = hbt_dist("mine", file, model, *overrides, "--launcher", "local", cwd=tmp_path)
    assert code == 0, err
    assert "share passage: " in out
    negatives = tmp_path / "mined" / "negatives.jsonl"
    languages = [item["language"] for row in read_lines(negatives) for item in row["negatives"]]
    assert set(languages) == set(LANGUAGES)

    on_mined = [model, f"data.sources.0.path={negatives}"]
    code, out, err = hbt_dist("data", "inspect", file, *on_mined, "--json", cwd=tmp_path)
    assert code == 0, err
    shown = json.loads(out)
    assert "unused columns" not in " ".join(shown["notes"])
    (table,) = [each for each in shown["corpus"] if "language in which they were mined" in each["title"]]
    assert {row[0]: row[1] for row in table["rows"]} == Counter(languages)
    code, out, err = hbt_dist("train", file, *on_mined, "--launcher", "local", "--quiet", cwd=tmp_path)
    assert code == 0, err
    assert out.startswith("trained 2 steps")

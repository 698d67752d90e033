"""A run's copy on other storage: complete or not counted, one writer, and enough to go on from."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from moto.server import ThreadedMotoServer
from pyarrow import fs

from hbt_dist.common.errors import UserError
from hbt_dist.run_file import load_run
from hbt_dist.training.checkpoints.store import verify
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.storage import RunStorage
from tests.helpers.runs import losses, weights_digest
from tests.training.conftest import Launch
from tests.training.test_watcher import save

RUN = {"name": "one", "seed": 3}


def run_folder(root: Path, steps: tuple[int, ...] = (1, 2)) -> RunFolder:
    folder = RunFolder(root)
    folder.root.mkdir(parents=True)
    folder.write_run_file(RUN)
    folder.metrics.write_text('{"step": 1}\n', "utf-8")
    for step in steps:
        save(folder, step)
    return folder


def nothing(steps: list[int]) -> set[int]:
    return set()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an object store on this machine."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    try:
        yield f"127.0.0.1:{server.get_host_and_port()[1]}"
    finally:
        server.stop()


@pytest.fixture(params=["folder", "file://", "s3://"])
def where(request: pytest.FixtureRequest, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "s3://":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "for-the-test")
        bucket = f"b{uuid.uuid4().hex}"
        options = f"region=us-east-1&scheme=http&endpoint_override={s3}&allow_bucket_creation=true"
        fs.FileSystem.from_uri(f"s3://{bucket}?{options}")[0].create_dir(bucket)
        return f"s3://{bucket}/runs?{options}"
    place = tmp_path / "storage"
    place.mkdir()
    return f"file://{place}" if request.param == "file://" else str(place)


@pytest.fixture
def storage(where: str) -> RunStorage:
    return RunStorage(where, "one")


def remove(storage: RunStorage, name: str) -> None:
    storage._fs.delete_file(storage._path(name))


def test_there_and_back(storage: RunStorage, tmp_path: Path) -> None:
    here, said = run_folder(tmp_path / "here"), list[str]()
    for step in (1, 2):
        storage.put(here, here.checkpoint(step), step, nothing)
    assert storage.steps() == [1, 2]
    there = RunFolder(tmp_path / "there")
    storage.fetch(there, RUN, said.append)
    assert said == [f"fetched the checkpoint of step 2 from {storage.where}"]
    assert there.checkpoint_steps() == [2]
    for name in ("manifest.json", "state/weights"):
        assert (there.checkpoint(2) / name).read_bytes() == (here.checkpoint(2) / name).read_bytes()
    assert yaml.safe_load(there.run_file.read_text("utf-8")) == RUN
    assert there.metrics.read_bytes() == here.metrics.read_bytes()
    storage.fetch(here, RUN, said.append)  # nothing is newer there
    assert len(said) == 1


def test_old_ones_go_as_asked(storage: RunStorage, tmp_path: Path) -> None:
    here = run_folder(tmp_path / "here", (1, 2, 3))
    for step in (1, 2, 3):
        storage.put(here, here.checkpoint(step), step, lambda steps: set(steps[:-1]) - {1})
    assert storage.steps() == [1, 3]


def test_a_damaged_checkpoint_here_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "storage").mkdir()
    storage, here, said = (
        RunStorage(str(tmp_path / "storage"), "one"),
        run_folder(tmp_path / "here"),
        list[str](),
    )
    for step in (1, 2):
        storage.put(here, here.checkpoint(step), step, nothing)
    (here.checkpoint(2) / "state" / "weights").write_bytes(b"x")
    storage.fetch(here, RUN, said.append)
    assert said == [f"fetched the checkpoint of step 2 from {storage.where}"]
    assert verify(here.checkpoint(2), 2)[0] is None


@pytest.mark.parametrize("damage", ["manifest", "weights", "truncated"])
def test_a_damaged_copy_is_passed_over(damage: str, storage: RunStorage, tmp_path: Path) -> None:
    here, said = run_folder(tmp_path / "here"), list[str]()
    for step in (1, 2):
        storage.put(here, here.checkpoint(step), step, nothing)
    copy = "checkpoints/step-0000000002"
    if damage == "manifest":
        remove(storage, f"{copy}/manifest.json")  # it was being written when its writer died
    else:
        storage._write(f"{copy}/state/weights", b"?" * (1000 if damage == "weights" else 1))
    there = RunFolder(tmp_path / "there")
    storage.fetch(there, RUN, said.append)
    assert there.checkpoint_steps() == [1]
    assert ("is passed over: state/weights" in said[0]) == (damage != "manifest")
    assert storage.steps() == [1]
    storage.put(here, here.checkpoint(2), 2, nothing)  # the run has reached the step again
    storage.fetch(there, RUN, said.append)
    assert there.checkpoint_steps() == [1, 2]


def test_what_an_interrupted_copy_left_does_not_spoil_the_next(storage: RunStorage, tmp_path: Path) -> None:
    """Another number of workers writes other files for the same step."""
    here, said = run_folder(tmp_path / "here"), list[str]()
    storage._write("checkpoints/step-0000000002/rank-3", b"of an earlier start")
    storage._write("checkpoints/notes/manifest.json", b"{}")  # somebody else's
    storage.put(here, here.checkpoint(2), 2, nothing)
    assert storage.steps() == [2]
    storage.fetch(RunFolder(tmp_path / "there"), RUN, said.append)
    assert said == [f"fetched the checkpoint of step 2 from {storage.where}"]


def test_a_storage_below_a_folder_of_the_same_name(tmp_path: Path) -> None:
    here, storage = run_folder(tmp_path / "here"), RunStorage(str(tmp_path / "start" / "runs"), "one")
    (here.start / "deep").mkdir(parents=True)
    for name in ("config.json", "deep/start"):
        (here.start / name).write_text("{}", "utf-8")
    storage.put(here, here.checkpoint(2), 2, nothing)
    there = RunFolder(tmp_path / "there")
    storage.fetch(there, RUN, print)
    assert sorted(path.relative_to(there.start).as_posix() for path in there.start.rglob("*")) == [
        "config.json",
        "deep",
        "deep/start",
    ]


def test_half_a_word_of_an_owner_goes_stale(tmp_path: Path) -> None:
    storage = RunStorage(str(tmp_path), "one", renew=0.02, silence=0.1)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "owner.json").write_text('{"own', "utf-8")
    with storage.owned_by(RunFolder(tmp_path / "here")):
        assert "owner" in json.loads((tmp_path / "one" / "owner.json").read_text("utf-8"))


def test_a_storage_that_goes_away_is_told(tmp_path: Path) -> None:
    storage = RunStorage(str(tmp_path / "storage"), "one")
    (tmp_path / "storage" / "one").mkdir(parents=True)
    (tmp_path / "storage" / "one" / "checkpoints").write_text("no folder", "utf-8")
    with pytest.raises(UserError, match=r"training\.storage"):
        storage.steps()


def test_another_run_is_refused(storage: RunStorage, tmp_path: Path) -> None:
    here = run_folder(tmp_path / "here")
    storage.put(here, here.checkpoint(2), 2, nothing)
    there = RunFolder(tmp_path / "there")
    with pytest.raises(UserError, match=r"holds another run .seed: 3 there, 4 now") as refused:
        storage.fetch(there, {**RUN, "seed": 4}, print)
    assert refused.value.location == storage.where
    assert there.checkpoint_steps() == []


def test_a_model_has_only_its_own_files_there(storage: RunStorage, tmp_path: Path) -> None:
    here = run_folder(tmp_path / "here")
    here.model.mkdir()
    for names in (("config.json", "model-1-of-2", "model-2-of-2"), ("config.json", "model")):
        shutil.rmtree(here.model)
        here.model.mkdir()
        for name in names:
            (here.model / name).write_text(name, "utf-8")
        storage.put_results(here)
        assert sorted(storage._files_below("model")) == sorted(names)
    shutil.rmtree(here.model)
    storage.put_results(here)
    assert sorted(storage._files_below("model")) == ["config.json", "model"]


def test_one_writer(where: str, tmp_path: Path) -> None:
    first = RunStorage(where, "one", renew=0.02, silence=0.5)
    second = RunStorage(where, "one", renew=0.02, silence=0.5)
    here, there = RunFolder(tmp_path / "here"), RunFolder(tmp_path / "there")
    with first.owned_by(here):
        with pytest.raises(UserError, match="another run is writing there"), second.owned_by(there):
            pass
        with second.owned_by(here):
            pass  # the folder itself has a lock; the same folder may come back from elsewhere
    second._write("owner.json", json.dumps({"owner": "dead", "time": 0}).encode())
    with second.owned_by(there):
        assert json.loads(second._read("owner.json") or b"")["owner"] != "dead"
    assert second._read("owner.json") is None
    assert "storage-owner" not in [thread.name for thread in threading.enumerate()]


@pytest.mark.parametrize("where", ["nonsense://bucket/x", "/proc/nowhere"])
def test_storage_that_does_not_work(where: str, tmp_path: Path) -> None:
    here = run_folder(tmp_path / "here")
    with pytest.raises(UserError, match=r"training\.storage"), RunStorage(where, "one").owned_by(here):
        pass


def test_credentials_in_the_address_are_refused(launch: Launch, tmp_path: Path) -> None:
    file, _ = launch.file(tmp_path, training__storage="s3://key:secret@bucket/runs")
    with pytest.raises(UserError, match="the address holds credentials") as refused:
        load_run(str(file))
    assert "s3://***@bucket/runs" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.timeout(600)
def test_a_lost_machine_is_continued_elsewhere(
    launch: Launch, finished: Callable[..., Path], tmp_path: Path
) -> None:
    """Killed at step 5, its folder lost; the same command, with the storage, ends bitwise the same."""
    storage = tmp_path / "storage"
    changes = {"deepspeed__config": 1, "training__storage": str(storage)}
    file, output = launch.file(tmp_path / "run", **changes)
    group = launch.start(file, 2, HBT_DIST_FAULT="rank=1,step=5,where=hang")
    steps = RunStorage(str(storage), load_run(str(file)).name).steps
    deadline = threading.Event()
    for _ in range(1200):
        if steps() == [2, 4]:
            break
        deadline.wait(0.1)
    assert steps() == [2, 4], group.error()
    for rank in (0, 1):
        group.signal(rank, signal.SIGKILL)
    assert group.wait() == [-signal.SIGKILL] * 2
    shutil.rmtree(output)
    (storage / load_run(str(file)).name / "owner.json").unlink()  # or wait a minute
    launch.finish(file, 2)
    log = (output / "log.txt").read_text("utf-8")
    assert "fetched the checkpoint of step 4 from" in log
    assert "continuing from the checkpoint of step 4" in log
    reference = finished(1)
    assert losses(output) == losses(reference)
    assert weights_digest(output) == weights_digest(reference)
    copy = storage / load_run(str(file)).name
    assert (copy / "model" / "model.safetensors").read_bytes() == (
        output / "model" / "model.safetensors"
    ).read_bytes()
    assert (copy / "metrics.jsonl").read_bytes() == (output / "metrics.jsonl").read_bytes()
    assert steps() == [4, 6]

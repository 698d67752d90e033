"""A run's copy on other storage: complete or not counted, one writer, and enough to go on from."""

from __future__ import annotations

import shutil
import signal
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from pyarrow import fs

from hbt_dist.common.errors import UserError
from hbt_dist.run_file import load_run
from hbt_dist.training.background import use_storage
from hbt_dist.training.checkpoints.manifest import verify
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.storage import RunStorage
from tests.helpers.faults import fault
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


@pytest.fixture(params=["folder", "file://", "s3://"])
def where(request: pytest.FixtureRequest, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "s3://":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "for-the-test")
        bucket = f"b{uuid.uuid4().hex}"
        options = f"region=us-east-1&scheme=http&endpoint_override={s3}&allow_bucket_creation=true"
        fs.FileSystem.from_uri(f"s3://{bucket}?{options}")[0].create_dir(bucket)
        return f"s3://{bucket}/runs?{options}"
    folder = tmp_path / "storage"
    return folder.as_uri() if request.param == "file://" else str(folder)


def storage_of(where: str, folder: RunFolder, said: list[str] | None = None) -> RunStorage:
    """The storage of a start in `folder`, taken over."""
    storage = RunStorage(where, "one", folder)
    storage.take_over(RUN, print if said is None else said.append)
    return storage


def write(storage: RunStorage, name: str, content: bytes) -> None:
    storage._fs.create_dir(name.rpartition("/")[0], recursive=True)
    with storage._fs.open_output_stream(name) as stream:
        stream.write(content)


def names_below(storage: RunStorage, name: str) -> list[str]:
    infos = storage._fs.get_file_info(fs.FileSelector(name, recursive=True))
    return sorted(info.path.removeprefix(f"{name}/") for info in infos if info.is_file)


def test_there_and_back(where: str, tmp_path: Path) -> None:
    first, said = run_folder(tmp_path / "first"), list[str]()
    storage = storage_of(where, first)
    for step in (1, 2):
        storage.put(first.checkpoint(step), step, nothing)
    assert storage.steps() == [1, 2]
    second = RunFolder(tmp_path / "second")
    storage_of(where, second, said)
    assert said == [f"fetched the checkpoint of step 2 from {storage.address}"]
    assert second.checkpoint_steps() == [2]
    for name in ("manifest.json", "state/weights"):
        assert (second.checkpoint(2) / name).read_bytes() == (first.checkpoint(2) / name).read_bytes()
    assert yaml.safe_load(second.run_file.read_text("utf-8")) == RUN
    assert second.metrics.read_bytes() == first.metrics.read_bytes()
    storage_of(where, first, said)  # the copy is not newer
    assert len(said) == 1


def test_removable_copies_are_deleted(where: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "first", (1, 2, 3))
    storage = storage_of(where, folder)
    for step in (1, 2, 3):
        storage.put(folder.checkpoint(step), step, lambda steps: set(steps[:-1]) - {1})
    assert storage.steps() == [1, 3]


def test_a_damaged_local_checkpoint_is_replaced(tmp_path: Path) -> None:
    folder, said = run_folder(tmp_path / "first"), list[str]()
    storage = storage_of(str(tmp_path / "storage"), folder)
    for step in (1, 2):
        storage.put(folder.checkpoint(step), step, nothing)
    (folder.checkpoint(2) / "state" / "weights").write_bytes(b"x")
    storage.take_over(RUN, said.append)
    assert said == [f"fetched the checkpoint of step 2 from {storage.address}"]
    assert verify(folder.checkpoint(2), 2)[0] is None


@pytest.mark.parametrize("damage", ["manifest", "weights", "truncated"])
def test_a_damaged_copy_is_passed_over(damage: str, where: str, tmp_path: Path) -> None:
    first, said = run_folder(tmp_path / "first"), list[str]()
    storage = storage_of(where, first)
    for step in (1, 2):
        storage.put(first.checkpoint(step), step, nothing)
    copy = "checkpoints/step-0000000002"
    if damage == "manifest":
        storage._fs.delete_file(f"{copy}/manifest.json")  # its writer died before it
    else:
        write(storage, f"{copy}/state/weights", b"?" * (1000 if damage == "weights" else 1))
    second = RunFolder(tmp_path / "second")
    storage_of(where, second, said)
    assert second.checkpoint_steps() == [1]
    assert ("is passed over: state/weights" in said[0]) == (damage != "manifest")
    assert storage.steps() == [1]
    storage.take_over(RUN, print)
    storage.put(first.checkpoint(2), 2, nothing)  # the run has reached the step again
    storage_of(where, second)
    assert second.checkpoint_steps() == [1, 2]


def test_an_interrupted_copy_is_replaced(where: str, tmp_path: Path) -> None:
    """Another number of workers writes other files for the same step."""
    folder, said = run_folder(tmp_path / "first"), list[str]()
    storage = storage_of(where, folder)
    write(storage, "checkpoints/step-0000000002/rank-3", b"of an earlier start")
    write(storage, "checkpoints/notes/manifest.json", b"{}")  # not a checkpoint
    storage.put(folder.checkpoint(2), 2, nothing)
    assert storage.steps() == [2]
    storage_of(where, RunFolder(tmp_path / "second"), said)
    assert said == [f"fetched the checkpoint of step 2 from {storage.address}"]


def test_a_storage_below_a_folder_of_the_same_name(tmp_path: Path) -> None:
    first, where = run_folder(tmp_path / "first"), str(tmp_path / "start" / "runs")
    (first.start / "deep").mkdir(parents=True)
    for name in ("config.json", "deep/start"):
        (first.start / name).write_text("{}", "utf-8")
    storage_of(where, first).put(first.checkpoint(2), 2, nothing)
    second = RunFolder(tmp_path / "second")
    storage_of(where, second)
    assert sorted(path.relative_to(second.start).as_posix() for path in second.start.rglob("*")) == [
        "config.json",
        "deep",
        "deep/start",
    ]


def test_a_storage_that_goes_away_is_reported(tmp_path: Path) -> None:
    (tmp_path / "storage" / "one").mkdir(parents=True)
    (tmp_path / "storage" / "one" / "checkpoints").write_text("no folder", "utf-8")
    with pytest.raises(UserError, match=r"training\.storage"):
        RunStorage(str(tmp_path / "storage"), "one", RunFolder(tmp_path / "first")).steps()


@pytest.mark.parametrize("copied", [False, True])
def test_a_different_run_is_refused(copied: bool, where: str, tmp_path: Path) -> None:
    """Before the first copy too; it takes nothing over, so the run that is there goes on."""
    first = run_folder(tmp_path / "first")
    storage = storage_of(where, first)
    if copied:
        storage.put(first.checkpoint(2), 2, nothing)
    second = RunFolder(tmp_path / "second")
    with pytest.raises(UserError, match=r"holds another run .seed: 3 there, 4 now") as refused:
        RunStorage(where, "one", second).take_over({**RUN, "seed": 4}, print)
    assert refused.value.location == storage.address
    assert refused.value.remedy == "choose another training.storage or name, or move the folder away"
    assert second.checkpoint_steps() == []
    storage.put(first.checkpoint(1), 1, nothing)
    storage.put_results()
    assert storage.steps() == ([1, 2] if copied else [1])


@pytest.mark.parametrize("copied", [False, True])
def test_a_start_that_fails_before_its_first_copy_leaves_the_address(
    copied: bool, where: str, tmp_path: Path
) -> None:
    first = run_folder(tmp_path / "first")
    storage = storage_of(where, first)
    if copied:
        storage.put(first.checkpoint(2), 2, nothing)
    storage.release()
    different = RunStorage(where, "one", RunFolder(tmp_path / "second"))
    if copied:
        with pytest.raises(UserError, match="holds another run"):
            different.take_over({**RUN, "seed": 4}, print)
    else:
        different.take_over({**RUN, "seed": 4}, print)
        storage.release()  # of an earlier start: the address is not its anymore
        with pytest.raises(UserError, match="holds another run"):
            storage.take_over(RUN, print)


def test_a_start_that_the_folders_lock_refuses_takes_nothing_over(
    launch: Launch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command twice on one machine: the first keeps its copies."""
    monkeypatch.setattr(RunFolder.acquire, "__defaults__", (0,))  # seconds to wait for a lock that is held
    file, output = launch.file(tmp_path, training__storage=str(tmp_path / "storage"))
    run, folder = load_run(str(file)), RunFolder(output)
    recorded = tmp_path / "storage" / run.name / "run.yaml"
    with use_storage(run, folder, print):
        owner = recorded.with_name("owner.json")
        owner.write_text("the first start", "utf-8")
        folder.acquire()
        with (
            pytest.raises(UserError, match="another run is writing to this folder"),
            use_storage(run, RunFolder(output), print),
        ):
            pytest.fail("the lock is held")
        folder.release()
        assert owner.read_text("utf-8") == "the first start"
        RunStorage(str(tmp_path / "storage"), run.name, folder).take_over(run.plain(), print)
    assert yaml.safe_load(recorded.read_text("utf-8")) == run.plain()


def test_a_failed_start_leaves_the_address(launch: Launch, tmp_path: Path) -> None:
    file, output = launch.file(tmp_path, training__storage=str(tmp_path / "storage"))
    run, folder = load_run(str(file)), RunFolder(output)
    recorded = tmp_path / "storage" / run.name / "run.yaml"

    def fail() -> None:
        with use_storage(run, folder, print):
            assert recorded.exists()
            raise UserError("workers", "no worker")

    with pytest.raises(UserError, match="no worker"):
        fail()
    assert not recorded.exists()


def test_a_model_has_only_its_files_in_the_storage(where: str, tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "first")
    storage = storage_of(where, folder)
    folder.model.mkdir()
    for names in (("config.json", "model-1-of-2", "model-2-of-2"), ("config.json", "model")):
        shutil.rmtree(folder.model)
        folder.model.mkdir()
        for name in names:
            (folder.model / name).write_text(name, "utf-8")
        storage.put_results()
        assert names_below(storage, "model") == sorted(names)
    shutil.rmtree(folder.model)
    storage.put_results()
    assert names_below(storage, "model") == ["config.json", "model"]


def test_the_newest_start_is_the_only_writer(where: str, tmp_path: Path) -> None:
    first, second = run_folder(tmp_path / "first"), run_folder(tmp_path / "second")
    earlier = storage_of(where, first)
    earlier.put(first.checkpoint(1), 1, nothing)
    later = storage_of(where, second)
    for copy in (lambda: earlier.put(first.checkpoint(2), 2, nothing), earlier.put_results):
        with pytest.raises(UserError, match=f"a later start of the run writes there: .*{second.root}"):
            copy()
    assert later.steps() == [1]
    later.put(second.checkpoint(2), 2, nothing)
    assert later.steps() == [1, 2]


@pytest.mark.parametrize("where", ["nonsense://bucket/x", "/proc/nowhere"])
def test_storage_that_does_not_work(where: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"training\.storage"):
        storage_of(where, run_folder(tmp_path / "first"))


def test_credentials_in_the_address_are_refused(launch: Launch, tmp_path: Path) -> None:
    file, _ = launch.file(tmp_path, training__storage="s3://key:secret@bucket/runs")
    with pytest.raises(UserError, match="the address holds credentials") as refused:
        load_run(str(file))
    assert "s3://***@bucket/runs" in str(refused.value)
    assert "secret" not in str(refused.value)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lost_machine_is_continued_elsewhere(
    launch: Launch, finished: Callable[..., Path], tmp_path: Path
) -> None:
    """Killed at step 5, its folder lost; the same command, with the storage, ends bitwise the same."""
    storage = tmp_path / "storage"
    changes = {"deepspeed__config": 1, "training__storage": str(storage)}
    file, output = launch.file(tmp_path / "run", **changes)
    group = launch.start(file, 2, HBT_DIST_FAULT=fault("rank=1,step=5,where=hang"))
    steps = RunStorage(str(storage), load_run(str(file)).name, RunFolder(output)).steps
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

"""Checkpoints are complete or absent: every damage is noticed, every death leaves a complete one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hbt_dist.training.checkpoints.manifest import FORMAT, MANIFEST, read_manifest, verify, write_manifest
from hbt_dist.training.checkpoints.store import share_of
from tests.helpers.ranks import run_ranks

BODIES = "tests.training.checkpoint_bodies"


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of steps 2, 4 and 6, written by two processes."""
    folder = tmp_path_factory.mktemp("three") / "checkpoints"
    run_ranks(2, f"{BODIES}:save_steps", folder=str(folder), steps=[2, 4, 6], keep=3)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def newest(folder: Path) -> Path:
    return folder / names(folder)[-1]


FILES = ("state/rank_0.bin", "state/rank_1.bin", MANIFEST)


def damages() -> Iterator[tuple[str, str]]:
    for file in FILES:
        for kind in ("truncated", "emptied", "longer", "flipped first", "flipped middle", "flipped last"):
            yield kind, file
        for kind in ("deleted", "swapped", "a folder"):
            yield kind, file
    yield from (("added", "state/rank_2.bin"), ("added", "evil_model_states.pt"), ("renamed", ""))


def damage(folder: Path, kind: str, name: str) -> None:
    """Do it to the newest checkpoint."""
    checkpoint = newest(folder)
    file = checkpoint / name
    content = bytearray(file.read_bytes()) if file.is_file() else bytearray()
    if kind == "truncated":
        file.write_bytes(content[:-1])
    elif kind == "emptied":
        file.write_bytes(b"")
    elif kind == "longer":
        file.write_bytes(content + b"\n")
    elif kind.startswith("flipped"):
        place = {"first": 0, "middle": len(content) // 2, "last": len(content) - 1}[kind.split()[1]]
        content[place] ^= 1
        file.write_bytes(content)
    elif kind == "deleted":
        file.unlink()
    elif kind == "swapped":
        file.write_bytes((folder / "step-0000000004" / name).read_bytes())
    elif kind == "a folder":
        file.unlink()
        file.mkdir()
    elif kind == "added":
        file.write_bytes(b"x")
    else:
        checkpoint.rename(folder / "step-0000000008")


@pytest.mark.slow
def test_every_damage_is_noticed_and_the_previous_one_used(three: Path, tmp_path: Path) -> None:
    cases = list(damages())
    folders = []
    for number, (kind, name) in enumerate(cases):
        folders.append(tmp_path / str(number) / "checkpoints")
        shutil.copytree(three, folders[-1])
        damage(folders[-1], kind, name)
    found = run_ranks(2, f"{BODIES}:look_at_all", folders=[str(folder) for folder in folders])
    assert len(cases) == 30
    for case, folder, ours, others in zip(cases, folders, *found, strict=True):
        assert ours[0] == others[0] == 4, case
        assert len(ours[1]) == 1, case
        assert ours[1][0].startswith(f"warning: checkpoint {newest(folder)} is passed over: "), case
        assert newest(folder).is_dir(), "what is passed over stays for a person to look at"


def test_undamaged_is_used(three: Path) -> None:
    for step, said in run_ranks(2, f"{BODIES}:look", folder=str(three)):
        assert step == 6
        assert said == []


def test_every_byte_of_a_manifest_counts(three: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(newest(three), folder)
    good = (folder / MANIFEST).read_bytes()
    for place in range(len(good)):
        changed = bytearray(good)
        changed[place] ^= 1 << place % 8
        (folder / MANIFEST).write_bytes(changed)
        with pytest.raises((ValueError, AttributeError)):
            read_manifest(folder)
    (folder / MANIFEST).write_bytes(good)
    assert verify(folder, 6)[0] is None


def test_hidden_files_do_not_count(three: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(newest(three), folder)
    (folder / "state" / ".nfs000000000123").write_bytes(b"left by a network file system")
    assert verify(folder)[0] is None


def test_a_newer_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"x")
    write_manifest(tmp_path, {"step": 1, "format": FORMAT + 1}, {})
    assert verify(tmp_path)[0] == f"its format is {FORMAT + 1}, this version reads {FORMAT}"


def test_all_damaged(three: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    shutil.copytree(three, folder)
    for checkpoint in folder.iterdir():
        (checkpoint / MANIFEST).unlink()
    for problem, said in run_ranks(2, f"{BODIES}:refused", folder=str(folder)):
        assert problem.startswith(f"{folder}: holds 3 checkpoints, and all are damaged")
        assert len(said) == 3
        assert all("it has no manifest" in line for line in said)


@pytest.mark.slow
def test_a_folder_on_disks_of_their_own_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for start, save, *left in run_ranks(2, f"{BODIES}:on_disks_of_their_own", folder=str(folder)):
        assert "is not the same folder for all workers" in start
        assert "rank 1 on " in start
        assert "does not see what rank 0 writes there" in start
        assert "rank 0: it does not see state/rank_1.bin: output_dir must be one folder" in save
        assert [name for name in left if not name.endswith(".tmp")] == []
    assert run_ranks(2, f"{BODIES}:shared_by_all", folder=str(tmp_path)) == [["out-0", "out-1"]] * 2


def test_all_hear_that_rank_0_cannot_write(tmp_path: Path) -> None:
    for problems in run_ranks(2, f"{BODIES}:rank_0_cannot_write", folder=str(tmp_path)):
        assert len(problems) == 2
        for problem in problems:
            assert problem.startswith(f"{tmp_path}: cannot be written: No such file or directory ")


def test_retention_and_leftovers(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    leftover = folder / "step-0000000009.tmp" / "state"
    leftover.mkdir(parents=True)
    (leftover / "rank_0.bin").write_bytes(b"half")
    run_ranks(2, f"{BODIES}:save_steps", folder=str(folder), steps=[1, 2, 3, 4], keep=2)
    assert names(folder) == ["step-0000000003", "step-0000000004", "step-0000000009.tmp"]
    run_ranks(2, f"{BODIES}:look", folder=str(folder))
    assert names(folder) == ["step-0000000003", "step-0000000004"]


def test_invalid_newer_ones_never_push_out_good_ones(tmp_path: Path) -> None:
    """A run that fell back to step 2 and stops at step 3 must keep 2 and 3, not the broken 4 and 6."""
    folder = tmp_path / "checkpoints"
    run_ranks(1, f"{BODIES}:save_steps", folder=str(folder), steps=[2, 4, 6], keep=3)
    for step in (4, 6):
        (folder / f"step-{step:010d}" / MANIFEST).write_text("{}")
    run_ranks(1, f"{BODIES}:save_steps", folder=str(folder), steps=[3], keep=2)
    assert names(folder) == [f"step-{step:010d}" for step in (2, 3, 4, 6)]
    run_ranks(1, f"{BODIES}:save_steps", folder=str(folder), steps=[4], keep=2)  # replaces the broken one
    assert names(folder) == [f"step-{step:010d}" for step in (3, 4, 6)]
    assert verify(folder / "step-0000000004", 4)[0] is None


def test_each_file_is_hashed_once_by_a_rank_that_sees_it() -> None:
    seen = [["a", "b", "c", "model"], ["a", "b", "late"], ["a", "b", "c"]]
    shares = [share_of(seen, rank) for rank in range(3)]
    assert sorted(name for share in shares for name in share) == ["a", "b", "c", "late", "model"]
    assert all(set(share) <= set(visible) for share, visible in zip(shares, seen, strict=True))


DYING = """
import os, shutil, signal, sys
import torch.distributed as dist
from pathlib import Path
from hbt_dist.contrastive.world import World
from tests.training.checkpoint_bodies import save_steps

EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.listdir", "os.scandir"}
root = Path(sys.argv[1])

def save_in_child(folder, steps, operations):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    def count(event, arguments):
        nonlocal operations
        if event in EVENTS and str(root) in str(arguments[0]):
            operations -= 1
            if operations < 0:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    save_steps(World.alone(), str(folder), steps)
    os._exit(0)

assert save_in_child(root / "start", [1, 2], 10_000) == 0
deaths = 0
while True:
    folder = root / f"death-{deaths}"
    shutil.copytree(root / "start", folder)
    code = save_in_child(folder, [3], deaths)
    if code == 0:
        break
    assert code == -signal.SIGKILL, code
    deaths += 1
print(deaths)
"""


@pytest.mark.slow
def test_killed_before_every_single_file_operation_of_a_save(tmp_path: Path) -> None:
    """Whatever the operation, what is left is step 2 or step 3, complete."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", DYING, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    deaths = int(done.stdout)
    assert deaths > 10
    folders = [tmp_path / f"death-{number}" for number in range(deaths + 1)]
    (found,) = run_ranks(1, f"{BODIES}:look_at_all", folders=[str(folder) for folder in folders])
    steps = [step for step, _ in found]
    assert set(steps) == {2, 3}
    assert steps == sorted(steps), "once the new one is complete it stays so"
    assert all(said == [] for _, said in found)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_full_disk(stage: int | None, small_disk: Path) -> None:
    results = run_ranks(2, f"{BODIES}:save_until_full", folder=str(small_disk / "checkpoints"), stage=stage)
    for result in results:
        assert result["step"] == 1
        assert result["said"] == []
        assert result["left"] == ["step-0000000001"]
        assert "the checkpoint could not be written: rank " in result["problem"]
        assert "No space left on device" in result["problem"]
        assert "the previous checkpoint is untouched" in result["problem"]

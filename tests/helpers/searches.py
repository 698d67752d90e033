"""A search as a user runs it, in its own session, so that it can be killed and its leftovers be found."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]


def write_search(folder: Path, points: list[float], seeds: list[int], steps: int, **changes: Any) -> Path:
    """A search over alpha on the embedded sample with a tiny encoder; two workers per trial."""
    run = yaml.safe_load((ROOT / "hbt_dist" / "run_files" / "quickstart.yaml").read_text("utf-8"))
    run["data"]["cache_dir"] = str(folder / "cache")
    run["batches"]["global_batch_size"] = 64
    run["model"]["scratch"]["vocabulary_size"] = 1500
    run["model"]["scratch"]["architecture"] |= {"hidden_size": 32, "intermediate_size": 64}
    run["training"] = {"steps": steps, "checkpoint_every": steps // 2, "trackers": []}
    run["evaluation"] = {"benchmarks": []}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "base.yaml").write_text(yaml.safe_dump(run), "utf-8")
    search = {
        "name": "interrupted",
        "output_dir": str(folder / "search"),
        "run": str(folder / "base.yaml"),
        "space": {"batches.alpha": {"choice": points}},
        "seeds": seeds,
        "benchmark": {"name": "sample", "variant": "dev"},
        "trackers": [],
        **changes,
    }
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(search), "utf-8")
    return path


class SearchProcess:
    """`hbt-dist search FILE` on a private Ray cluster; everything it starts can be found afterwards.

    Args:
        command: search or study.
    """

    def __init__(self, file: Path, command: str = "search") -> None:
        search = yaml.safe_load(file.read_text("utf-8"))
        self.folder = Path(search["output_dir"])
        self.log = file.with_suffix(".log")
        environment = {**os.environ, "RAY_ADDRESS": "local", "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hbt_dist.cli.main", command, str(file)],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
                cwd=file.parent,
            )
        self._seen: set[psutil.Process] = set()

    def statuses(self) -> dict[str, str]:
        """Trial -> status."""
        found = {}
        for path in sorted(self.folder.glob("trials/*/trial.json")):
            with contextlib.suppress(ValueError, FileNotFoundError):
                found[path.parent.name] = json.loads(path.read_text("utf-8"))["status"]
        return found

    def wait_until(self, condition: Callable[[], bool], timeout: float) -> None:
        """Wait for a condition while the search runs; it may not end before."""
        deadline = time.monotonic() + timeout
        while not condition():
            self._look()
            if self._process.poll() is not None:
                raise AssertionError(
                    f"the search ended ({self._process.returncode}) too early:\n{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout:g} s; {self.statuses()}\n{self.tail()}")
            time.sleep(0.2)

    def signal(self, number: int) -> None:
        """Send SIGINT as a terminal does, to all processes of the group; other signals to the search only."""
        self._look()
        if number == signal.SIGINT:
            os.killpg(self._process.pid, number)
        else:
            self._process.send_signal(number)

    def kill_driver(self) -> None:
        """End the search's own process with SIGKILL."""
        self._look()
        self._process.kill()
        self._process.wait(timeout=30)

    def kill_a_worker(self) -> int:
        """End one training worker with SIGKILL and tell its process id."""
        self._look()
        workers = [one for one in self._alive() if "RayTrainWorker" in _title(one)]
        assert workers, [_title(one) for one in self._alive()]
        workers[-1].send_signal(signal.SIGKILL)
        return int(workers[-1].pid)

    def end(self, timeout: float) -> int:
        """Wait for the end and return the exit code."""
        deadline = time.monotonic() + timeout
        while self._process.poll() is None:
            self._look()
            if time.monotonic() > deadline:
                self._process.kill()
                raise AssertionError(f"not finished within {timeout:g} s; {self.statuses()}\n{self.tail()}")
            time.sleep(0.5)
        return int(self._process.returncode)

    def leftovers(self, timeout: float = 30) -> list[str]:
        """What it started and what is still alive after so many seconds."""
        deadline = time.monotonic() + timeout
        while self._alive() and time.monotonic() < deadline:
            time.sleep(0.2)
        return [_title(one) for one in self._alive()]

    def tail(self) -> str:
        """The end of what it printed."""
        return self.log.read_text("utf-8", errors="replace")[-4000:]

    def _look(self) -> None:
        with contextlib.suppress(psutil.Error):
            self._seen.update(psutil.Process(self._process.pid).children(recursive=True))

    def _alive(self) -> list[psutil.Process]:
        return [one for one in self._seen if one.is_running() and _status(one) != psutil.STATUS_ZOMBIE]


def _status(process: psutil.Process) -> str:
    try:
        return str(process.status())
    except psutil.Error:
        return str(psutil.STATUS_ZOMBIE)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:120]
    except psutil.Error:
        return ""


def steps_of(folder: Path, trial: str) -> list[int]:
    """The measured steps of a trial, in the order of its history."""
    lines = (folder / "trials" / trial / "history.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line)["step"] for line in lines]


def search_of_quickstart(folder: Path, **changes: Any) -> Path:
    """Write a search file over the quickstart's alpha, its output and cache in the same folder."""
    data = {
        "name": "s",
        "output_dir": str(folder / "search"),
        "run": "quickstart",
        "overrides": ["evaluation.benchmarks.0.variant=test", f"data.cache_dir={folder / 'cache'}"],
        "space": {"batches.alpha": {"range": [0, 1, 0.5]}},
        "benchmark": {"name": "sample", "variant": "dev"},
    }
    file = folder / "search.yaml"
    file.write_text(yaml.safe_dump({**data, **changes}), "utf-8")
    return file

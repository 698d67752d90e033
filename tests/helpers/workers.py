"""The command line in forked processes: real workers, signals and deaths, without the price of imports.

    group = Workers(2, ["train", "run.yaml", "--launcher", "local"], tmp_path)
    group.kill(1)
    codes = group.wait()

Each process runs `hbt_dist.cli.main.main` with the environment that torchrun gives its workers, forked from a
server (forkserver.py). tests/training/test_resume.py also does it once with torchrun itself.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

from hbt_dist.orchestration.private_cluster import free_port
from tests.helpers.forkserver import forkserver

ROOT = Path(__file__).resolve().parents[2]


STARTED: list[Workers] = []


def kill_all() -> None:
    """End every process that is still there, such as those of a test that failed half-way."""
    while STARTED:
        for process in STARTED.pop().processes:
            if process.is_alive():
                process.kill()
            process.join()


class Workers:
    """Processes of one launch.

    Args:
        world_size: how many; with one the process is started without any RANK.
        arguments: of the command line.
        folder: working directory.
        environment: more variables.
    """

    def __init__(
        self, world_size: int, arguments: list[str | Path], folder: Path, **environment: str
    ) -> None:
        context = forkserver()
        self.logs = Path(tempfile.mkdtemp(prefix="workers-", dir=folder))
        port = str(free_port())
        self.processes = []
        for rank in range(world_size):
            env = dict(environment)
            if world_size > 1:
                env |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(rank)}
                env |= {"LOCAL_WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            job = self.logs / f"job-{rank}.pickle"
            job.write_bytes(pickle.dumps(([str(part) for part in arguments], env, str(folder))))
            self.processes.append(context.Process(target=_main, args=(str(self.logs), rank)))
        STARTED.append(self)
        for process in self.processes:
            process.start()

    def signal(self, rank: int, number: int = signal.SIGKILL) -> None:
        """Send a signal to one process."""
        pid = self.processes[rank].pid
        assert pid is not None
        os.kill(pid, number)

    def wait(self, timeout: float = 300) -> list[int]:
        """Exit codes, rank by rank; minus the signal for a process that died of one.

        Raises:
            AssertionError: not all ended in time (the rest is killed).
        """
        deadline = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, deadline - time.monotonic()))
        late = [rank for rank, process in enumerate(self.processes) if process.is_alive()]
        for rank in late:
            self.processes[rank].kill()
            self.processes[rank].join()
        assert not late, f"rank {late} has not ended after {timeout} s\n{self.error(late[0])[-3000:]}"
        return [process.exitcode or 0 for process in self.processes]

    def output(self, rank: int = 0) -> str:
        """What a process wrote to stdout."""
        return self._log(f"out-{rank}.txt")

    def error(self, rank: int = 0) -> str:
        """What a process wrote to stderr."""
        return self._log(f"err-{rank}.txt")

    def _log(self, name: str) -> str:
        file = self.logs / name
        return file.read_text("utf-8", errors="replace") if file.exists() else ""


def run_workers(
    world_size: int, arguments: list[str | Path], folder: Path, timeout: float = 300, **environment: str
) -> Workers:
    """Start and expect success."""
    group = Workers(world_size, arguments, folder, **environment)
    codes = group.wait(timeout)
    assert codes == [0] * world_size, f"exit codes {codes}\n{group.error()[-4000:]}"
    return group


def _main(logs: str, rank: int) -> None:
    os.setsid()
    for name, descriptor in (("out", 1), ("err", 2)):
        with Path(logs, f"{name}-{rank}.txt").open("wb") as log:
            os.dup2(log.fileno(), descriptor)
    arguments, environment, folder = pickle.loads(Path(logs, f"job-{rank}.pickle").read_bytes())
    os.chdir(folder)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
    os.environ.update(environment)
    sys.argv = ["hbt-dist", *arguments]
    code = 0
    try:
        from hbt_dist.cli.main import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of a broken process group may never end

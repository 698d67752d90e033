"""A Ray cluster of a test's own on this machine."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from hbt_dist.orchestration.private_cluster import free_port
from tests.helpers.runs import BIN, run_command, session_of, start


class Head:
    """A Ray head of one test alone, on loopback, ended by its session and never by `ray stop`.

    Args:
        folder: short, below /tmp: the paths of Ray's sockets have 107 characters at most.
        num_cpus: that it offers.
    """

    def __init__(self, folder: Path, num_cpus: int = 3) -> None:
        self.port, self.dashboard = free_port(), free_port()
        options = {
            "port": self.port,
            "dashboard-port": self.dashboard,
            "dashboard-host": "127.0.0.1",
            "node-ip-address": "127.0.0.1",
            "ray-client-server-port": free_port(),
            "dashboard-agent-listen-port": free_port(),
            "num-cpus": num_cpus,
            "object-store-memory": 10**8,
            "temp-dir": folder,
        }
        command: list[str | Path] = [BIN / "ray", "start", "--head", "--block", "--disable-usage-stats"]
        self.folder = folder
        self.nodes: list[subprocess.Popen[str]] = []
        self.process = self._start([*command, *(f"--{name}={value}" for name, value in options.items())])

    def add_node(self, num_cpus: int, own_folder: Path | None = None) -> subprocess.Popen[str]:
        """A second raylet on this machine, as if it were another one.

        Args:
            own_folder: has another content there, as on another machine's disk. Needs root.
        """
        private = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {own_folder} && exec "$@"', "sh"]
        command: list[str | Path] = [] if own_folder is None else [*private]
        command += [BIN / "ray", "start", "--block", f"--address=127.0.0.1:{self.port}"]
        command += ["--disable-usage-stats", "--node-ip-address=127.0.0.1", f"--num-cpus={num_cpus}"]
        command += ["--object-store-memory=100000000", f"--dashboard-agent-listen-port={free_port()}"]
        self.nodes.append(self._start(command))
        return self.nodes[-1]

    def _start(self, command: list[str | Path]) -> subprocess.Popen[str]:
        return start(command, self.folder, RAY_AUTH_MODE="disabled")

    def job(self, *arguments: str | Path, timeout: float = 240) -> tuple[int, str]:
        code, out, err = run_command(
            [
                BIN / "ray",
                "job",
                arguments[0],
                "--address",
                f"http://127.0.0.1:{self.dashboard}",
                *arguments[1:],
            ],
            Path.cwd(),
            timeout,
        )
        return code, out + err

    def wait(self, seconds: float = 240) -> None:
        deadline = time.monotonic() + seconds
        while self.job("list")[0] != 0:
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, f"the head does not answer after {seconds} s"
            time.sleep(1)

    def close(self) -> None:
        for node in [*self.nodes, self.process]:
            end(node)


@contextlib.contextmanager
def running_head(num_cpus: int = 3) -> Iterator[Head]:
    """A head that answers, in a short folder below /tmp that goes with it."""
    folder = Path(tempfile.mkdtemp(prefix="hbt-head-", dir="/tmp"))
    head = Head(folder, num_cpus)
    try:
        head.wait()
        yield head
    finally:
        head.close()
        shutil.rmtree(folder, ignore_errors=True)


def end(node: subprocess.Popen[str]) -> None:
    """End a node and all its processes."""
    node.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        node.wait(20)
    cut_off(node)
    node.communicate()


def cut_off(node: subprocess.Popen[str]) -> None:
    """Kill all processes of a node at once."""
    for process in session_of(node.pid):
        process.kill()

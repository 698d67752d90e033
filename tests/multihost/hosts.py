"""Several hosts on one machine: Linux namespaces with own addresses, own sshd, own home folder and processes.

    with Hosts(folder, ["desk", "head", "worker-1", "worker-2"]) as hosts:
        hosts.run("desk", ["ssh", "head", "hostname"])
        hosts.unplug("worker-1")

Each host is a network, mount, process and name namespace; a bridge in a namespace of its own joins them.
Nothing of it is visible outside: addresses are of the block reserved for documentation (192.0.2.0/24), and
all of it ends with the block. /mnt is the one folder that all hosts share, as an NFS mount would be; programs
(the virtual environment, ssh, rsync) are the machine's. Needs root, iproute2, util-linux, openssh-server.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import psutil

INIT = Path(__file__).with_name("host_init.sh")
VENV = Path(sys.prefix)
NETWORK = "192.0.2"
FIRST_ADDRESS = 9  # so that the second host is 192.0.2.10, the head of ray_configs/on_premises.yaml
NEEDED = ("ip", "unshare", "nsenter", "setpriv", "ssh", "ssh-keygen", "rsync")


def missing() -> str | None:
    """Why hosts cannot be made here; none if they can."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "simulated hosts need root on Linux"
    absent = [name for name in NEEDED if shutil.which(name) is None]
    if not Path("/usr/sbin/sshd").exists():
        absent.append("sshd (package openssh-server)")
    if absent:
        return f"simulated hosts need {', '.join(absent)}"
    if Path(__file__).resolve().is_relative_to("/tmp") or VENV.is_relative_to("/tmp"):
        return "simulated hosts have their own /tmp: the checkout and its environment must lie elsewhere"
    probe = ["unshare", "--net", "--mount", "--pid", "--fork", "mount", "-t", "tmpfs", "none", "/mnt"]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        return "this machine (a container without CAP_SYS_ADMIN?) does not allow new namespaces"
    return None


class Hosts:
    """Hosts that live as long as the block.

    Args:
        folder: an empty folder; `folder/shared` is /mnt of every host.
        names: host names; the first gets 192.0.2.9, the next .10 and so on.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self.shared = folder / "shared"
        self.address = {name: f"{NETWORK}.{FIRST_ADDRESS + i}" for i, name in enumerate(names)}
        self._switch = f"hbt{os.getpid()}"
        self._inits: dict[str, subprocess.Popen[bytes]] = {}
        self._first: dict[str, int] = {}

    def __enter__(self) -> Self:
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _make(self) -> None:
        _remove_networks_of_the_dead()
        self.shared.mkdir(parents=True)
        key = self.folder / "key"
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        _do("ip", "netns", "add", self._switch)
        _do("ip", "-n", self._switch, "link", "add", "switch", "type", "bridge")
        _do("ip", "-n", self._switch, "link", "set", "switch", "up")
        for name in self.address:
            self._add_network(name)
            self._add_files(name, key)
            self._boot(name)
        for name in self.address:
            self._wait_for_sshd(name)

    def _add_network(self, name: str) -> None:
        network = f"{self._switch}-{name}"
        _do("ip", "netns", "add", network)
        _do(
            *("ip", "-n", self._switch, "link", "add", name, "type", "veth"),
            *("peer", "name", "eth0", "netns", network),
        )
        _do("ip", "-n", self._switch, "link", "set", name, "master", "switch", "up")
        _do("ip", "-n", network, "addr", "add", f"{self.address[name]}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _do("ip", "-n", network, "link", "set", device, "up")

    def _add_files(self, name: str, key: Path) -> None:
        place = self.folder / name
        home, ssh, sshd = place / "home/root", place / "home/root/.ssh", place / "home/root/.sshd"
        for folder in (place / "tmp", ssh, sshd):
            folder.mkdir(parents=True)
        (place / "tmp").chmod(0o1777)
        for skeleton in (".profile", ".bashrc"):
            if (Path("/etc/skel") / skeleton).exists():
                shutil.copy(Path("/etc/skel") / skeleton, home)
        shutil.copy(key, ssh / "id_ed25519")
        shutil.copy(key.with_suffix(".pub"), ssh / "authorized_keys")
        quiet = "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n"
        (ssh / "config").write_text(quiet)
        (ssh / "config").chmod(0o600)
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", sshd / "key")
        (sshd / "config").write_text(
            f"HostKey /home/root/.sshd/key\nListenAddress {self.address[name]}\nPermitRootLogin yes\n"
            "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPidFile none\n"
            "MaxStartups 100\nMaxSessions 100\n"
        )
        lines = [line.split(":") for line in Path("/etc/passwd").read_text().splitlines()]
        lines = [[*parts[:5], "/home/root", "/bin/bash"] if parts[0] == "root" else parts for parts in lines]
        (place / "passwd").write_text("\n".join(":".join(parts) for parts in lines) + "\n")
        names = [f"{address} {host}" for host, address in self.address.items()]
        (place / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names]) + "\n")

    def _boot(self, name: str) -> None:
        log = (self.folder / name / "boot.log").open("wb")
        self._inits[name] = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),  # hosts end with this process, however it ends
                *("nsenter", f"--net=/run/netns/{self._switch}-{name}"),
                *("unshare", "--mount", "--uts", "--pid", "--ipc", "--fork", "--kill-child"),
                *("bash", INIT, name, self.folder / name, self.shared),
            ],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        log.close()
        deadline = time.monotonic() + 10
        while name not in self._first:
            children = psutil.Process(self._inits[name].pid).children()
            if children:
                self._first[name] = children[0].pid
            elif time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not boot")
            else:
                time.sleep(0.02)

    def _wait_for_sshd(self, name: str) -> None:
        deadline = time.monotonic() + 20
        while self.run(name, ["ssh", self.address[name], "true"], check=False)[0] != 0:
            if self._inits[name].poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name}: {(self.folder / name / 'boot.log').read_text()}")
            time.sleep(0.2)

    def command(self, name: str, command: Sequence[str | Path]) -> list[str]:
        """`command` as it must be started here to run on host `name`."""
        env = [
            "HOME=/home/root",
            "USER=root",
            "LANG=C.UTF-8",
            "TERM=dumb",
            f"PATH={VENV}/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        ]
        enter = ["nsenter", "-t", str(self._first[name]), "--mount", "--uts", "--pid", "--net", "--ipc"]
        return [*enter, "env", "-i", *env, *(str(part) for part in command)]

    def run(
        self, name: str, command: Sequence[str | Path], *, timeout: float = 60, check: bool = True
    ) -> tuple[int, str]:
        """Run a command on a host and wait: (exit code, stdout and stderr)."""
        process = self.start(name, command)
        try:
            out, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            raise AssertionError(f"{name}: {command} did not end in {timeout} s:\n{out[-6000:]}") from None
        if check and process.returncode != 0:
            raise AssertionError(f"{name}: {command} ended with {process.returncode}:\n{out[-6000:]}")
        return process.returncode, out

    def start(self, name: str, command: Sequence[str | Path]) -> subprocess.Popen[str]:
        """Start a command on a host."""
        return subprocess.Popen(
            self.command(name, command),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def processes(self, name: str, words: str) -> int:
        """How many processes of a host have `words` in their command line."""
        _, out = self.run(name, ["ps", "-eo", "args"])
        return sum(words in line for line in out.splitlines())

    def unplug(self, name: str) -> None:
        """Cut the host's network; nobody is told."""
        _do("ip", "-n", self._switch, "link", "set", name, "down")

    def plug(self, name: str) -> None:
        """Join the host's network again."""
        _do("ip", "-n", self._switch, "link", "set", name, "up")

    def close(self) -> None:
        """End every process of every host and remove the networks."""
        for name, init in self._inits.items():
            if name in self._first and init.poll() is None:
                os.kill(self._first[name], signal.SIGKILL)  # the kernel ends all others of that host
            init.kill()
            init.wait()
        for name in [*(f"{self._switch}-{host}" for host in self.address), self._switch]:
            if Path("/run/netns", name).exists():
                _do("ip", "netns", "del", name)


def _remove_networks_of_the_dead() -> None:
    """What a test that was killed could not remove."""
    for path in Path("/run/netns").glob("hbt*"):
        owner = path.name.removeprefix("hbt").partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            _do("ip", "netns", "del", path.name)


def _do(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, stdin=subprocess.DEVNULL)

"""Start a Ray cluster on this machine for one command, and remove everything of it afterwards.

One temporary folder holds its logs, its sockets, its access token and, without a usable HOME, its home. The
path of a socket has at most 107 bytes, and Ray adds 64 to the folder's: a short one replaces a long TMPDIR.

The dashboard of a search runs on a free loopback port: Ray frees the workers of stopped trials through the
dashboard's server, and without it they never end. Workers run at the priority of this process; by default Ray
lowers it (nice +15). `Cleanup` removes the cluster of a killed driver.
"""

from __future__ import annotations

import logging
import math
import os
import random
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from hbt_dist.common.console import note
from hbt_dist.common.errors import UserError
from hbt_dist.common.processors import num_processors
from hbt_dist.common.signals import TerminationError, handlers_kept
from hbt_dist.orchestration.cleanup import Cleanup

_TOKEN_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
_NICENESS = "RAY_worker_niceness"
_PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"  # no other node can go away
_WORKERS_IN_ADVANCE = "RAY_prestart_worker_first_driver"  # one per CPU; most are not used
_REMEDY = "'hbt-dist doctor' checks folders, HOME and packages; --launcher local trains without Ray"


@contextmanager
def private_cluster(
    num_cpus: float, variables: Mapping[str, str], *, dashboard: bool = False
) -> Iterator[str | None]:
    """Start a private cluster and connect this process to it; the cluster ends with the block.

    Args:
        num_cpus: CPUs that it must offer at least; it offers all of this machine.
        variables: environment of its workers.
        dashboard: also start Ray's dashboard.

    Yields:
        the address of the dashboard.

    Raises:
        UserError: Ray does not start.
    """
    with ExitStack() as stack:
        try:
            page = stack.enter_context(_cluster(num_cpus, variables, dashboard))
        except _LateError:
            note("Ray did not start within its 30 s: the machine is busy; starting it once more")
            page = stack.enter_context(_cluster(num_cpus, variables, dashboard))
        yield page


class _LateError(UserError):
    """Ray's processes needed more time than Ray gives them."""


@contextmanager
def _cluster(num_cpus: float, variables: Mapping[str, str], dashboard: bool) -> Iterator[str | None]:
    import ray

    folder = make_folder()
    cleanup = Cleanup(folder)
    remove = True
    try:
        with _variables(_environment(folder)), _new_token():
            port = free_port() if dashboard else None
            _start(folder, math.ceil(num_cpus), variables, port)
            try:
                yield None if port is None else f"http://127.0.0.1:{port}"
            except Exception:
                remove = False  # the logs can explain it
                raise
            finally:
                ray.shutdown()
    finally:
        cleanup.finish(remove=remove)


def make_folder(parents: Sequence[str | Path] = ()) -> Path:
    """Make the folder of a cluster, in the first parent folder where a socket of Ray can be opened.

    Args:
        parents: default: the folder for temporary files (TMPDIR), then the usual short ones.

    Raises:
        UserError: no parent is short and writable.
    """
    parents = parents or (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm", f"/run/user/{os.getuid()}")
    problems = {}
    for parent in parents:
        try:
            folder = Path(tempfile.mkdtemp(prefix="hbt-ray-", dir=parent))
        except OSError as error:
            problems[str(parent)] = error.strerror or str(error)
            continue
        try:
            _open_socket(folder)
            return folder
        except OSError as error:
            problems[str(parent)] = error.strerror or str(error)
            shutil.rmtree(folder, ignore_errors=True)
    raise UserError(
        "TMPDIR",
        "expected a folder for Ray's sockets, got "
        + "; ".join(f"{parent}: {problem}" for parent, problem in problems.items()),
        "export TMPDIR=FOLDER with a folder that you can write to and whose path has at most 26 characters",
    )


def _open_socket(folder: Path) -> None:
    """Open a socket with the longest path that Ray will use in `folder`, and remove it.

    Raises:
        OSError: the path is too long, or the file system has no sockets.
    """
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S_%f")
    session = folder / f"session_{now}_{os.getpid()}"
    (session / "sockets").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(str(session / "sockets" / "plasma_store"))
    shutil.rmtree(session)


def home_problem() -> str | None:
    """Return why this process cannot use its home folder, or None."""
    try:
        home = Path.home()
        os.listdir(home)
    except (RuntimeError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return (
            f"HOME={os.environ['HOME']}: {reason}" if "HOME" in os.environ else f"HOME is not set: {reason}"
        )
    return None if os.access(home, os.W_OK) else f"HOME={home}: cannot be written"


def _environment(folder: Path) -> dict[str, str]:
    """Return variables for this process and those of the cluster."""
    variables = {
        _NICENESS: os.environ.get(_NICENESS, "0"),
        _PREEMPTION_WATCHER: "0",
        _WORKERS_IN_ADVANCE: os.environ.get(_WORKERS_IN_ADVANCE, "0"),
    }
    if not any(name in os.environ for name in _TOKEN_VARIABLES):
        token = folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32), "utf-8")
        variables["RAY_AUTH_TOKEN_PATH"] = str(token)  # Ray would write it below HOME
    if home_problem() and not os.access(os.environ.get("HOME", ""), os.X_OK):
        variables["HOME"] = str(folder)
    return variables


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables while the block runs, and restore those that Ray sets."""
    changed = {*values, *_TOKEN_VARIABLES}
    before = {name: os.environ[name] for name in changed if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in changed:
            os.environ.pop(name, None)
        os.environ.update(before)


@contextmanager
def _new_token() -> Iterator[None]:
    """Make Ray read its token and the kind of access again: it keeps both for the whole process."""
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]

    AuthenticationTokenLoader.instance().reset_cache()
    Config.initialize("")
    try:
        yield
    finally:
        AuthenticationTokenLoader.instance().reset_cache()


def init_ray(**options: Any) -> None:
    """Call `ray.init`, and keep this process's handlers of signals, which Ray replaces."""
    import ray

    try:
        with handlers_kept():
            ray.init(logging_level=logging.ERROR, **options)
    except SystemExit:  # Ray's handler of SIGTERM
        raise TerminationError from None


def _start(folder: Path, num_cpus: int, variables: Mapping[str, str], dashboard_port: int | None) -> None:
    options: dict[str, Any] = {
        "address": "local",
        "log_to_driver": False,
        "num_cpus": max(num_processors(), num_cpus),
        "include_dashboard": dashboard_port is not None,
        "object_store_memory": 200 * 1024**2,
        "_temp_dir": str(folder),
    }
    ours = dict(variables)  # a process with an environment of its job would import Ray twice
    if dashboard_port is not None:
        # Every process receives the address, so that none joins a different cluster on the host.
        address = {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard_port}"}
        options |= {
            "dashboard_host": "127.0.0.1",
            "dashboard_port": dashboard_port,
            "runtime_env": {"env_vars": {**address, "TMPDIR": tempfile.gettempdir(), **variables}},
        }
        ours["TMPDIR"] = str(folder)  # the dashboard's processes leave files there
    try:
        with _variables(ours):
            init_ray(**options)
    except Exception as error:  # Ray raises plain exceptions, too
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        kind = _LateError if "timed out during startup" in reason else UserError
        raise kind("Ray", f"cannot start on this machine, in {folder}: {reason}", _REMEDY) from error


def free_port() -> int:
    """Return a free TCP port on loopback that no outgoing connection will take.

    Connections use ports from 32768 (Linux's default), and Ray's workers 10002 to 19999: a free port of those
    ranges is sometimes taken before a server listens on it.
    """
    for port in random.SystemRandom().sample(range(20000, 30000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free TCP port from 20000 to 29999 on 127.0.0.1")

"""Check that all nodes of a Ray cluster have the same packages and see the same folders before training.

One small task per node (0 CPUs, so that a busy cluster answers too) runs each check. A task carries its code,
so that a node without this package can report it. A check takes a second or two per cluster; a cluster of one
node needs none.

An autoscaler adds nodes later, and Ray starts workers on them without these checks. So the driver keeps a
marker file in the output folder during the training, and every worker looks for it.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError, last_line
from hbt_dist.common.files import wait_for
from hbt_dist.config.paths import paths_in
from hbt_dist.run_file import RunFile

#: Packages whose versions must be equal on all nodes: one node reads what the other nodes write.
SAME_VERSIONS = ("torch", "deepspeed", "transformers", "tokenizers", "numpy")
SHARED_STORAGE = "(NFS, Lustre, FSx, Filestore, a read-write-many volume)"
SAME_PACKAGES = "install the same versions on every node (setup_commands of the cluster file, or one image)"
_LATE_SECONDS = 10.0  # a network file system may show a new file with this delay


@dataclass(frozen=True)
class Node:
    """A living node."""

    node_id: str
    host: str
    address: str

    def __str__(self) -> str:
        return f"{self.host} ({self.address})"


def living_nodes() -> list[Node]:
    """Return the nodes of the connected cluster, the driver's node first."""
    import ray

    driver = ray.get_runtime_context().get_node_id()
    nodes = [
        Node(node["NodeID"], node["NodeManagerHostname"], node["NodeManagerAddress"])
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(nodes, key=lambda node: (node.node_id != driver, node.host, node.node_id))


def ask_nodes(
    nodes: Sequence[Node], question: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], seconds: float
) -> list[Any]:
    """Call `question(*arguments[i])` on `nodes[i]`, on all nodes at once.

    Args:
        question: a function defined inside a function, so that Ray sends its code.
        arguments: one tuple per node.
        seconds: time limit for all nodes together.

    Returns:
        per node the answer, or the exception that replaced it (a `TimeoutError` if no answer came).
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote: Any = ray.remote(num_cpus=0, max_retries=0)(question)
    pinned = [NodeAffinitySchedulingStrategy(node.node_id, soft=False) for node in nodes]
    references = [
        remote.options(scheduling_strategy=strategy).remote(*given)
        for strategy, given in zip(pinned, arguments, strict=True)
    ]
    deadline = time.monotonic() + seconds
    answers: list[Any] = []
    for reference in references:
        try:
            answers.append(ray.get(reference, timeout=max(0.1, deadline - time.monotonic())))
        except ray.exceptions.GetTimeoutError:
            answers.append(TimeoutError(f"no answer within {seconds:g} s"))
            ray.cancel(reference, force=True)
        except ray.exceptions.RayError as error:
            answers.append(error)
    return answers


def _problems(nodes: Sequence[Node], answers: Sequence[Any]) -> list[str]:
    """Return one line per node whose answer is an error or names a problem."""
    return [
        f"{node}: {last_line(answer) if isinstance(answer, Exception) else answer}"
        for node, answer in zip(nodes, answers, strict=True)
        if answer
    ]


def _version_question() -> Callable[..., Any]:
    packages = SAME_VERSIONS

    def versions() -> dict[str, str | None]:
        from importlib import metadata

        installed: dict[str, str | None] = dict.fromkeys(["hbt-dist", *packages])
        try:
            import hbt_dist

            installed["hbt-dist"] = hbt_dist.__version__
        except ImportError:
            pass
        for name in packages:
            try:
                installed[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                continue
        return installed

    return versions


def package_versions() -> dict[str, str | None]:
    """Return the local versions of this package and of `SAME_VERSIONS`; None for a missing package."""
    return dict(_version_question()())


def differing_versions(remote: dict[str, str | None], local: dict[str, str | None]) -> list[str]:
    """Return how remote packages differ from local ones, one entry per package."""
    return [
        f"{name} {remote[name] or 'is missing'}, here {version or 'missing'}"
        for name, version in local.items()
        if remote[name] != version
    ]


def version_problems(nodes: Sequence[Node], seconds: float = 120) -> list[str]:
    """Return how the nodes' packages differ from the driver's, one line per node that differs."""
    local = package_versions()
    answers = ask_nodes(nodes, _version_question(), [()] * len(nodes), seconds)
    return _problems(
        nodes,
        [
            answer if isinstance(answer, Exception) else "; ".join(differing_versions(answer, local))
            for answer in answers
        ],
    )


def _folder_question() -> Callable[..., Any]:
    def problem(folder: str, driver_file: str, node_file: str) -> str | None:
        from pathlib import Path

        path = Path(folder)
        if not (path / driver_file).is_file():
            return "another folder of that name" if path.is_dir() else "absent"
        try:
            (path / node_file).write_text(node_file)
        except OSError as error:
            return f"read-only ({error.strerror})"
        return None

    return problem


def shared_folder_problems(folder: Path, nodes: Sequence[Node], seconds: float = 120) -> list[str]:
    """Return why `folder` (which exists) is not one folder for all nodes; one line per node that differs.

    Every node must see a file of the driver, and the driver must see a file of every node.
    """
    driver_file = f".seen-{secrets.token_hex(6)}"
    node_files = [f"{driver_file}-{number}" for number in range(len(nodes))]
    try:
        (folder / driver_file).write_text(driver_file)
        arguments = [(str(folder), driver_file, name) for name in node_files]
        answers = ask_nodes(nodes, _folder_question(), arguments, seconds)
        for i, name in enumerate(node_files):
            if answers[i] is None and not wait_for(folder / name, _LATE_SECONDS):
                answers[i] = "the driver does not see a file that the node wrote"
        return _problems(nodes, answers)
    finally:
        for name in (driver_file, *node_files):
            (folder / name).unlink(missing_ok=True)


def _path_question() -> Callable[..., Any]:
    def missing(paths: list[str]) -> str:
        from pathlib import Path

        return ", ".join(path for path in paths if not Path(path).exists())

    return missing


def missing_paths(paths: Sequence[str], nodes: Sequence[Node], seconds: float = 120) -> list[str]:
    """Return which of `paths` are absent, one line per node that lacks some."""
    answers = ask_nodes(nodes, _path_question(), [(list(paths),)] * len(nodes), seconds)
    return _problems(nodes, answers)


def inputs_of(run: RunFile) -> list[str]:
    """Return the files and folders that every node must have, for workers or for measuring checkpoints."""
    users = {"workers", "checkpoints"} if run.evaluation.checkpoint_benchmarks else {"workers"}
    return list(dict.fromkeys(path.path for path in paths_in(run.plain()) if path.user in users))


def check_nodes(run: RunFile, seconds: float = 120) -> None:
    """Reject a cluster whose nodes do not see the run's folders or have different packages.

    Raises:
        UserError: it names the node, the folder or package, and the remedy.
    """
    driver, *nodes = living_nodes()
    if not nodes:
        return
    if problems := version_problems(nodes, seconds):
        problem = "have other packages than this one: " + "\n       ".join(problems)
        raise UserError("Ray nodes", problem, SAME_PACKAGES)
    Path(run.output_dir).mkdir(parents=True, exist_ok=True)
    if problems := shared_folder_problems(Path(run.output_dir), nodes, seconds):
        raise UserError(
            f"output_dir {run.output_dir}",
            f"is not the same folder on every node; {driver} is not seen from " + "; ".join(problems),
            "all workers write their part of each checkpoint to it: name a folder on shared storage\n"
            f"{SHARED_STORAGE}, or run on one node",
        )
    if problems := missing_paths(inputs_of(run), nodes, seconds):
        raise UserError(
            "data",
            "does not exist on " + "; ".join(problems),
            "every node reads these: put them on shared storage, or copy them to each node",
        )


@contextmanager
def driver_marker(file: Path) -> Iterator[dict[str, Any]]:
    """Keep a marker file while the block runs.

    Args:
        file: a name below the output folder that no earlier start has used.

    Yields:
        the facts that `check_node` needs in a worker (plain data).
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    facts = {"marker": str(file), "host": socket.gethostname(), "versions": package_versions()}
    file.write_text(json.dumps(facts), "utf-8")
    try:
        yield facts
    finally:
        file.unlink(missing_ok=True)


def check_node(output_dir: str, driver: dict[str, Any], seconds: float = 10) -> None:
    """Reject training, in a worker, on a node that differs from the driver's.

    Args:
        driver: from `driver_marker`.
        seconds: delay with which a network file system may show a new file.

    Raises:
        UserError: the node's output folder is a different one, or its packages differ.
    """
    host = socket.gethostname()
    if differences := differing_versions(package_versions(), driver["versions"]):
        problem = f"has other packages than the driver on {driver['host']}: {'; '.join(differences)}"
        raise UserError(f"Ray node {host}", problem, SAME_PACKAGES)
    if not wait_for(Path(driver["marker"]), seconds):
        raise UserError(
            f"output_dir {output_dir}",
            f"is another folder on {host} than on {driver['host']}, where the run was started",
            "all workers write their part of each checkpoint to it: name a folder on shared storage\n"
            f"{SHARED_STORAGE} that is mounted on every node",
        )

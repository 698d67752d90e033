"""What every node of a Ray cluster must have in common before training starts: versions, and folders.

Asked with one small task per node (0 CPUs, so that a busy cluster answers too), pinned to it. A task carries
its code with it, so a node without this package can say so. A second or two per cluster; nothing is asked of
a cluster of one node.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.config.paths import paths_in
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.store import appears

#: Packages whose versions must be equal on all nodes: they write or read what others get.
SAME_VERSIONS = ("torch", "deepspeed", "transformers", "tokenizers", "numpy")
_LATE_SECONDS = 10.0  # a network file system may show a new file so much later


@dataclass(frozen=True)
class Node:
    """A living node."""

    node_id: str
    host: str
    address: str
    resources: dict[str, float]

    def __str__(self) -> str:
        return f"{self.host} ({self.address})"


def living_nodes() -> list[Node]:
    """The nodes of the connected cluster, the driver's own first."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    found = [
        Node(node["NodeID"], node["NodeManagerHostname"], node["NodeManagerAddress"], dict(node["Resources"]))
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: (node.node_id != here, node.host, node.node_id))


def ask_nodes(
    nodes: Sequence[Node], question: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], seconds: float
) -> list[Any]:
    """Call `question(*arguments[i])` on `nodes[i]`, all at once.

    Args:
        nodes: where to ask.
        question: a function defined inside another one, so that its code travels with it.
        arguments: one tuple per node.
        seconds: for all nodes together.

    Returns:
        per node the answer, or the exception that came instead of it (a `TimeoutError` if nothing came).
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote: Any = ray.remote(num_cpus=0, max_retries=0)(question)
    asked = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.node_id, soft=False)).remote(
            *mine
        )
        for node, mine in zip(nodes, arguments, strict=True)
    ]
    deadline = time.monotonic() + seconds
    answers: list[Any] = []
    for reference in asked:
        try:
            answers.append(ray.get(reference, timeout=max(0.1, deadline - time.monotonic())))
        except ray.exceptions.GetTimeoutError:
            answers.append(TimeoutError(f"no answer within {seconds:g} s"))
            ray.cancel(reference, force=True)
        except ray.exceptions.RayError as error:
            answers.append(error)
    return answers


def _node_facts() -> Callable[..., Any]:
    packages = SAME_VERSIONS

    def facts() -> dict[str, str | None]:
        from importlib import metadata

        found: dict[str, str | None] = {}
        try:
            import hbt_dist

            found["hbt-dist"] = hbt_dist.__version__
        except ImportError:
            found["hbt-dist"] = None
        for name in packages:
            try:
                found[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                found[name] = None
        return found

    return facts


def package_versions() -> dict[str, str | None]:
    """The versions here of this package and of those that must be equal; none: it is missing."""
    return dict(_node_facts()())


def differing_versions(there: dict[str, str | None], here: dict[str, str | None]) -> list[str]:
    """How the packages there differ from those here, one entry per package."""
    return [
        f"{name} {there[name] or 'is missing'}, here {here[name] or 'missing'}"
        for name in here
        if there[name] != here[name]
    ]


def version_problems(nodes: Sequence[Node], seconds: float = 120) -> list[str]:
    """How the nodes' packages differ from the driver's, one line per node that does."""
    here = package_versions()
    problems = []
    for node, answer in zip(nodes, ask_nodes(nodes, _node_facts(), [()] * len(nodes), seconds), strict=True):
        if isinstance(answer, Exception):
            problems.append(f"{node}: {_first_line(answer)}")
            continue
        odd = differing_versions(answer, here)
        if odd:
            problems.append(f"{node}: {'; '.join(odd)}")
    return problems


def _seen_from_node() -> Callable[..., Any]:
    def seen(folder: str, token: str, own: str) -> str | None:
        from pathlib import Path

        place = Path(folder)
        if not (place / token).is_file():
            return "absent" if not place.is_dir() else "another folder of that name"
        try:
            (place / own).write_text(own)
        except OSError as error:
            return f"read-only ({error.strerror})"
        return None

    return seen


def shared_folder_problems(folder: Path, nodes: Sequence[Node], seconds: float = 120) -> list[str]:
    """Why `folder` (which exists here) is not one folder for all nodes; one line per node that differs.

    A file written here must be seen there, and one written there must be seen here.
    """
    token = f".seen-{secrets.token_hex(6)}"
    mine = folder / token
    own = [f"{token}-{number}" for number in range(len(nodes))]
    try:
        mine.write_text(token)
        arguments = [(str(folder), token, name) for name in own]
        answers = ask_nodes(nodes, _seen_from_node(), arguments, seconds)
        problems = []
        for node, answer, name in zip(nodes, answers, own, strict=True):
            if isinstance(answer, Exception):
                problems.append(f"{node}: {_first_line(answer)}")
            elif answer is not None:
                problems.append(f"{node}: {answer}")
            elif not appears(folder / name, _LATE_SECONDS):
                problems.append(f"{node}: a file written there does not arrive here")
        return problems
    finally:
        for name in (token, *own):
            (folder / name).unlink(missing_ok=True)


def _missing_on_node() -> Callable[..., Any]:
    def missing(paths: list[str]) -> list[str]:
        from pathlib import Path

        return [path for path in paths if not Path(path).exists()]

    return missing


def missing_paths(paths: Sequence[str], nodes: Sequence[Node], seconds: float = 120) -> list[str]:
    """Which of `paths` are absent on which node, one line per node that lacks some."""
    answers = ask_nodes(nodes, _missing_on_node(), [(list(paths),)] * len(nodes), seconds)
    return [
        f"{node}: {_first_line(answer) if isinstance(answer, Exception) else ', '.join(answer)}"
        for node, answer in zip(nodes, answers, strict=True)
        if answer
    ]


def inputs_of(run: RunFile) -> list[str]:
    """The files and folders that every node must have: workers read them, or what measures checkpoints."""
    users = {"workers", "checkpoints"} if run.evaluation.checkpoint_benchmarks else {"workers"}
    return list(dict.fromkeys(found.path for found in paths_in(run.plain()) if found.user in users))


def check_nodes(run: RunFile, seconds: float = 120) -> None:
    """Refuse a cluster whose nodes do not see the run's folders or have other packages; before training.

    Raises:
        UserError: it names the node, the folder or package, and the remedy.
    """
    nodes = living_nodes()
    others = nodes[1:]
    if not others:
        return
    problems = version_problems(others, seconds)
    if problems:
        raise UserError(
            "Ray nodes",
            "have other packages than this one: " + "\n       ".join(problems),
            "install the same versions on every node (setup_commands of the cluster file, or one image)",
        )
    Path(run.output_dir).mkdir(parents=True, exist_ok=True)
    problems = shared_folder_problems(Path(run.output_dir), others, seconds)
    if problems:
        raise UserError(
            f"output_dir {run.output_dir}",
            f"is not the same folder on every node; {nodes[0]} is not seen from " + "; ".join(problems),
            "all workers write their part of each checkpoint there: name a folder on shared storage\n"
            "(NFS, Lustre, FSx, Filestore, a read-write-many volume), or run on one node",
        )
    problems = missing_paths(inputs_of(run), others, seconds)
    if problems:
        raise UserError(
            "data",
            "does not exist on " + "; ".join(problems),
            "every node reads these: put them on shared storage, or copy them to each node",
        )


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__

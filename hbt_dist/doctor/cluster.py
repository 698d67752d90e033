"""Check a running Ray cluster: nodes, resources, versions, folders, collectives.

The check queries a running cluster and starts none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError, last_line
from hbt_dist.doctor.verdict import Verdict
from hbt_dist.orchestration.cluster import (
    Cluster,
    check_resources,
    connect,
    describe_nodes,
    find_cluster,
    planned_cluster,
)
from hbt_dist.orchestration.nodes import (
    Node,
    ask_nodes,
    inputs_of,
    living_nodes,
    missing_paths,
    shared_folder_problems,
    version_problems,
)
from hbt_dist.orchestration.settings import WorkerSettings
from hbt_dist.run_file import RunFile

SECONDS = 120.0


def check_cluster(run: RunFile | None) -> Iterator[Verdict]:
    """Check the cluster that the run file or the environment names, or a cluster on this machine.

    Raises:
        UserError: the named cluster (run file, RAY_ADDRESS) cannot be used.
    """
    workers = run.workers if run is not None else WorkerSettings()
    if find_cluster(workers) is None:
        yield Verdict("ok", "no cluster on this machine: `hbt-dist train` starts a private one")
        if run is not None:
            yield _check_workers(planned_cluster(workers), workers)
        return
    with connect(workers) as cluster:
        nodes = living_nodes()
        total = {"CPU": cluster.num_cpus, "GPU": cluster.num_gpus}
        yield Verdict("ok", f"cluster {cluster.address}: {describe_nodes(cluster.nodes, total)}")
        if run is not None:
            yield _check_workers(cluster, workers)
        fine = f"{len(nodes)} nodes have the packages of this machine"
        remedy = "install the same versions on every node"
        yield from _verdicts(version_problems(nodes, SECONDS), "", remedy, fine)
        yield from _check_niceness(nodes)
        if run is not None:
            yield from _check_folders(run, nodes)
        if len(nodes) > 1:
            yield _check_collective(nodes)


def _check_workers(cluster: Cluster, workers: WorkerSettings) -> Verdict:
    try:
        use_gpu = check_resources(cluster, workers)
    except UserError as error:
        return Verdict("problem", error.problem, error.remedy)
    share = f"{workers.cpus_per_worker:g} CPU{' + 1 GPU' if use_gpu else ''}"
    return Verdict("ok", f"the run's {workers.num_workers} workers x ({share}) fit")


def _check_folders(run: RunFile, nodes: Sequence[Node]) -> Iterator[Verdict]:
    """Check that all nodes see the output folder as one folder, and have the data."""
    remedy = "name a folder on storage that all nodes share"
    folder = Path(run.output_dir)
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        problems = shared_folder_problems(folder, nodes, SECONDS)
    finally:
        for parent in made:
            parent.rmdir()
    fine = f"output_dir {folder} is one folder for {len(nodes)} nodes"
    yield from _verdicts(problems, f"output_dir {folder} is not one folder for all: ", remedy, fine)
    if inputs := inputs_of(run):
        problems = missing_paths(inputs, nodes, SECONDS)
        fine = f"{len(inputs)} data paths exist on {len(nodes)} nodes"
        yield from _verdicts(problems, "data are missing on ", remedy, fine)


def _check_niceness(nodes: Sequence[Node]) -> Iterator[Verdict]:
    """Warn about workers with a low priority, Ray's default."""
    answers = ask_nodes(nodes, _niceness(), [()] * len(nodes), SECONDS)
    if low := [str(node) for node, answer in zip(nodes, answers, strict=True) if answer in range(1, 20)]:
        yield Verdict(
            "warning",
            f"Ray's workers run at nice {max(answer for answer in answers if answer in range(20)):+d} "
            f"on {', '.join(low)}: next to other work they starve",
            "set RAY_worker_niceness=0 in the environment of 'ray start'",
        )


def _niceness() -> Callable[..., Any]:
    def niceness() -> int:
        import os

        return os.nice(0)

    return niceness


def _verdicts(problems: Sequence[str], prefix: str, remedy: str, fine: str) -> Iterator[Verdict]:
    for problem in problems:
        yield Verdict("problem", prefix + problem, remedy)
    if not problems:
        yield Verdict("ok", fine)


def _check_collective(nodes: Sequence[Node]) -> Verdict:
    """Run an all-reduce (gloo) with one process per node: the nodes must reach each other on any port."""
    size = len(nodes)
    port = ask_nodes(nodes[:1], _free_port(), [()], SECONDS)[0]
    arguments = [(rank, size, nodes[0].address, port, SECONDS / 2) for rank in range(size)]
    answers = ask_nodes(nodes, _sum_ranks(), arguments, SECONDS)
    wrong = [
        f"{node}: {last_line(answer)[-200:] if isinstance(answer, Exception) else answer}"
        for node, answer in zip(nodes, answers, strict=True)
        if answer != size * (size + 1) / 2
    ]
    if not wrong:
        return Verdict("ok", f"all-reduce over {size} nodes (gloo)")
    return Verdict(
        "problem",
        f"all-reduce over {size} nodes failed: {'; '.join(wrong)}",
        "open all TCP ports between the nodes; the name of each node must resolve to the address that the "
        "other nodes see (not 127.0.1.1), or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface",
    )


def _free_port() -> Callable[..., Any]:
    def free_port() -> int:
        import socket

        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    return free_port


def _sum_ranks() -> Callable[..., Any]:
    def sum_ranks(rank: int, size: int, address: str, port: int, seconds: float) -> float:
        import datetime

        import torch
        import torch.distributed as dist

        limit = datetime.timedelta(seconds=seconds)
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, size, rank == 0, timeout=limit
        )
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
        try:
            total = torch.full((100_000,), float(rank + 1))
            dist.all_reduce(total)
            return float(total.max())
        finally:
            dist.destroy_process_group()

    return sum_ranks

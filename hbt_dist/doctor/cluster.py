"""The part of `hbt-dist doctor` that asks a Ray cluster: nodes, resources, versions, folders, collectives.

A cluster that runs is only asked; none is started. Where there is none, that is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from hbt_dist.common.errors import UserError
from hbt_dist.orchestration.cluster import Cluster, check_resources, connect, describe_nodes, find_cluster
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

Finding = tuple[Literal["ok", "warning", "problem"], str, str]
SECONDS = 120.0


def examine_cluster(run: RunFile | None) -> Iterator[Finding]:
    """What is found, level first: (level, what, remedy).

    Raises:
        UserError: a cluster is named (run file, RAY_ADDRESS) and cannot be used.
    """
    workers = run.workers if run is not None else WorkerSettings()
    if find_cluster(workers) is None:
        yield "ok", "no cluster here: `hbt-dist train` starts a private one on this machine", ""
        if run is not None:
            yield from _resources(_this_machine(workers), workers)
        return
    with connect(workers) as cluster:
        nodes = living_nodes()
        total = {"CPU": cluster.num_cpus, "GPU": cluster.num_gpus}
        yield "ok", f"cluster {cluster.address}: {describe_nodes(cluster.nodes, total)}", ""
        if run is not None:
            yield from _resources(cluster, workers)
        yield from _versions(nodes)
        if run is not None:
            yield from _folders(run, nodes)
        if len(nodes) > 1:
            yield from _collective(nodes)


def _this_machine(workers: WorkerSettings) -> Cluster:
    """What a private cluster would be: as many CPUs as asked, and the GPUs that are here."""
    import torch

    num_cpus = workers.num_workers * workers.cpus_per_worker
    num_gpus = float(torch.cuda.device_count() if torch.cuda.is_available() else 0)
    node = {"CPU": num_cpus, "GPU": num_gpus, "memory": float("inf")}
    return Cluster("this machine", True, num_cpus, num_gpus, (node,))


def _resources(cluster: Cluster, workers: WorkerSettings) -> Iterator[Finding]:
    try:
        use_gpu = check_resources(cluster, workers)
    except UserError as error:
        yield "problem", error.problem, error.remedy
        return
    share = f"{workers.cpus_per_worker:g} CPU{' + 1 GPU' if use_gpu else ''}"
    yield "ok", f"the run's {workers.num_workers} workers x ({share}) fit", ""


def _versions(nodes: Sequence[Node]) -> Iterator[Finding]:
    problems = version_problems(nodes, SECONDS)
    for problem in problems:
        yield "problem", problem, "install the same versions on every node"
    if not problems:
        yield "ok", f"the packages of {len(nodes)} nodes are those of this one", ""


def _folders(run: RunFile, nodes: Sequence[Node]) -> Iterator[Finding]:
    """Whether all nodes see the output folder as one folder, and the data."""
    remedy = "name a folder on storage that all nodes share"
    folder = Path(run.output_dir)
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        problems = shared_folder_problems(folder, nodes, SECONDS)
    finally:
        for parent in made:
            parent.rmdir()
    for problem in problems:
        yield "problem", f"output_dir {folder} is not one folder for all: {problem}", remedy
    if not problems:
        yield "ok", f"output_dir {folder} is one folder for {len(nodes)} nodes", ""
    inputs = inputs_of(run)
    if inputs:
        problems = missing_paths(inputs, nodes, SECONDS)
        for problem in problems:
            yield "problem", f"data are missing on {problem}", remedy
        if not problems:
            yield "ok", f"{len(inputs)} data paths exist on {len(nodes)} nodes", ""


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


def _free_port() -> Callable[..., Any]:
    def free_port() -> int:
        import socket

        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    return free_port


def _collective(nodes: Sequence[Node]) -> Iterator[Finding]:
    """An all-reduce (gloo) with one process on each node: that they reach each other on any port."""
    remedy = (
        "open all TCP ports between the nodes; each node's own name must resolve to the address that the "
        "others see (not 127.0.1.1), or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to their interface"
    )
    port = ask_nodes(nodes[:1], _free_port(), [()], SECONDS)[0]
    size = len(nodes)
    arguments = [(rank, size, nodes[0].address, port, SECONDS / 2) for rank in range(size)]
    answers = ask_nodes(nodes, _sum_ranks(), arguments, SECONDS)
    wrong = [
        f"{node}: {' '.join(str(answer).split())[-200:]}"
        for node, answer in zip(nodes, answers, strict=True)
        if answer != size * (size + 1) / 2
    ]
    if wrong:
        yield "problem", f"all-reduce over {size} nodes failed: {'; '.join(wrong)}", remedy
    else:
        yield "ok", f"all-reduce over {size} nodes (gloo)", ""

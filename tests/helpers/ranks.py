"""Run a function in real processes that form a torch process group, and get what each returned.

    results = run_ranks(2, "tests.contrastive.bodies:one_step", seed=7)

The function is called as ``function(world, **kwargs)`` with a `hbt_dist.contrastive.world.World`; its result
must pickle. Processes meet through a file, so no port can be taken. A process that fails, or the time limit,
ends all of them.

Processes are forked from a server (forkserver.py). A script that uses this needs
``if __name__ == "__main__":``.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess, SpawnProcess
from pathlib import Path
from typing import Any
from unittest import mock

from tests.helpers.forkserver import forkserver

ROOT = Path(__file__).resolve().parents[2]
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo"}


def run_ranks(
    world_size: int, target: str, *, timeout: float = 200, env: dict[str, str] | None = None, **kwargs: Any
) -> list[Any]:
    """Call `target` ("package.module:function", a file below the repository root) on every rank.

    Args:
        env: variables that libraries read when they are imported; the ranks are then new interpreters.

    Returns:
        the results, rank by rank.

    Raises:
        RuntimeError: a rank failed (with its traceback), or the time is over.
    """
    context = forkserver() if env is None else multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        job = {"target": target, "world_size": world_size, "kwargs": kwargs, "env": env or {}}
        Path(folder, "job.pickle").write_bytes(pickle.dumps(job))
        processes = [context.Process(target=_main, args=(folder, rank)) for rank in range(world_size)]
        with mock.patch.dict(os.environ, {**_ENVIRONMENT, **(env or {})}):
            for process in processes:
                process.start()
        try:
            _wait(processes, Path(folder), time.monotonic() + timeout, target)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join()
        return [
            pickle.loads(Path(folder, f"result-{rank}.pickle").read_bytes()) for rank in range(world_size)
        ]


def _wait(
    processes: Sequence[ForkServerProcess | SpawnProcess], folder: Path, deadline: float, target: str
) -> None:
    while any(process.is_alive() for process in processes):
        if any(process.exitcode not in (None, 0) for process in processes) or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    codes = [process.exitcode for process in processes]
    wrong = [rank for rank, code in enumerate(codes) if code != 0]
    if not wrong:
        return
    first = next((rank for rank in wrong if codes[rank] is not None), wrong[0])
    reason = "ran out of time" if codes[first] is None else f"failed ({codes[first]})"
    log = folder / f"log-{first}.txt"
    text = log.read_text(errors="replace")[-6000:] if log.exists() else "it wrote nothing"
    raise RuntimeError(f"{target}: rank {first} of {len(processes)} {reason}\n{text}")


def load_target(target: str) -> Any:
    """The function behind "package.module:function", loaded from its file below the repository root."""
    module_name, function = target.split(":")
    if module_name not in sys.modules:
        path = ROOT / (module_name.replace(".", "/") + ".py")
        spec = importlib.util.spec_from_file_location(module_name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        spec.loader.exec_module(module)
    return getattr(sys.modules[module_name], function)


def _main(folder: str, rank: int) -> None:
    """One rank. Ends by `os._exit`: threads of a broken process group may never end, and teardown is slow."""
    with Path(folder, f"log-{rank}.txt").open("wb") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    code = 0
    try:
        _run(folder, rank)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run(folder: str, rank: int) -> None:
    job = pickle.loads(Path(folder, "job.pickle").read_bytes())
    os.environ.update({"LOCAL_RANK": str(rank), **job["env"]})
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    import torch
    import torch.distributed as dist

    from hbt_dist.contrastive.world import World

    torch.set_num_threads(1)
    for attempt in range(3):  # on a busy machine gloo's first connection may be closed by its peer
        method = f"file://{folder}/store-{attempt}"
        try:
            dist.init_process_group("gloo", init_method=method, rank=rank, world_size=job["world_size"])
            break
        except RuntimeError as error:
            if "connectFullMesh" not in str(error) or attempt == 2:
                raise
    result = load_target(job["target"])(World.of_process_group(), **job["kwargs"])
    Path(folder, f"result-{rank}.pickle").write_bytes(pickle.dumps(result))
    dist.barrier()

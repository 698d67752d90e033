"""Run a function in real processes that form a torch process group, and get what each returned.

    results = run_ranks(2, "tests.contrastive.bodies:one_step", seed=7)

The function is called as ``function(world, **kwargs)`` with a `hbt_dist.contrastive.world.World`; its result
must pickle. Processes meet through a file, so no port can be taken. A process that fails, or the time limit,
ends all of them.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def run_ranks(
    world_size: int, target: str, *, timeout: float = 150, env: dict[str, str] | None = None, **kwargs: Any
) -> list[Any]:
    """Call `target` ("package.module:function", a file below the repository root) on every rank.

    Returns:
        the results, rank by rank.

    Raises:
        RuntimeError: a rank failed (with its traceback), or the time is over.
    """
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        job = {"target": target, "world_size": world_size, "kwargs": kwargs}
        Path(folder, "job.pickle").write_bytes(pickle.dumps(job))
        processes = [_start(folder, rank, env or {}) for rank in range(world_size)]
        try:
            _wait(processes, Path(folder), time.monotonic() + timeout, target)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.kill()
                process.wait()
        return [
            pickle.loads(Path(folder, f"result-{rank}.pickle").read_bytes()) for rank in range(world_size)
        ]


def _start(folder: str, rank: int, env: dict[str, str]) -> subprocess.Popen[bytes]:
    settings = {
        "OMP_NUM_THREADS": "1",
        "DS_ACCELERATOR": "cpu",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        "LOCAL_RANK": str(rank),
        **env,
    }
    with Path(folder, f"log-{rank}.txt").open("wb") as log:
        return subprocess.Popen(
            [sys.executable, __file__, folder, str(rank)],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _wait(processes: list[subprocess.Popen[bytes]], folder: Path, deadline: float, target: str) -> None:
    while any(process.poll() is None for process in processes):
        failed = [rank for rank, process in enumerate(processes) if process.poll() not in (None, 0)]
        if failed or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    wrong = [rank for rank, process in enumerate(processes) if process.poll() != 0]
    if not wrong:
        return
    first = next((rank for rank in wrong if processes[rank].poll() is not None), wrong[0])
    reason = "ran out of time" if processes[first].poll() is None else "failed"
    log = folder.joinpath(f"log-{first}.txt").read_text(errors="replace")[-6000:]
    raise RuntimeError(f"{target}: rank {first} of {len(processes)} {reason}\n{log}")


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
    import torch
    import torch.distributed as dist

    from hbt_dist.contrastive.world import World

    torch.set_num_threads(1)
    job = pickle.loads(Path(folder, "job.pickle").read_bytes())
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=job["world_size"]
    )
    result = load_target(job["target"])(World.of_process_group(), **job["kwargs"])
    Path(folder, f"result-{rank}.pickle").write_bytes(pickle.dumps(result))
    dist.barrier()


if __name__ == "__main__":
    try:
        _main(sys.argv[1], int(sys.argv[2]))
    except BaseException:
        traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)  # other threads of a broken process group may never end
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # all ranks are past the barrier; skip slow teardown

"""Pretend a GPU on a machine without one: the rules of CUDA with the numbers of the CPU.

In a fresh process, before anything imports torch:

    from tests.pretended_gpu import install
    recorder = install()            # from here on there is one GPU, "cuda:0"

    import torch
    x = torch.ones(3, device="cuda")    # a PretendedTensor; x + torch.ones(3) raises
    x.sum().item()
    print(recorder.synchronisations)    # the item above, with its line; also recorder.lines(), .clear()

A test has torch imported already, so it calls a function in a new process (2 to 3 seconds of imports, so do
much in one call) and gets what the function returns, through JSON:

    pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
    result = call("tests.pretended_gpu.steps:variants", names=["cached"])     # with ranks=2: a list of two

Inside, `tests.pretended_gpu.tensors.RECORDER` is the recorder. Code under FakeTensorMode needs `load_guard()`
alone.

These are real: numbers, CUDA's rules of autocast, a random generator apart from the CPU's, CUDA's errors for
mixed devices, and every wait of the host. Kernels, memory, speed and NCCL are not; gloo runs for NCCL.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.pretended_gpu.guard import load_guard, why_not

if TYPE_CHECKING:
    from tests.pretended_gpu.recorder import Recorder

__all__ = ["call", "install", "load_guard", "why_not"]

_ROOT = Path(__file__).resolve().parents[2]


def install() -> Recorder:
    """Load the guard, import torch and switch the pretended GPU on; return what records its events."""
    load_guard()
    from tests.pretended_gpu.driver import install as switch_on
    from tests.pretended_gpu.tensors import RECORDER

    switch_on()
    return RECORDER


def call(target: str | Callable[..., Any], *, ranks: int = 1, timeout: float = 200, **kwargs: Any) -> Any:
    """Call a function on the pretended GPU, in new processes.

    Args:
        target: the function, or "package.module:function" if its module cannot be imported here.
        ranks: processes that form a process group; each has a GPU of its own, called "cuda:0".
        timeout: seconds.
        kwargs: of the function, as JSON.

    Returns:
        the function's result after a way through JSON; with several ranks the list of all.

    Raises:
        RuntimeError: a process failed, with its last output, or the time is over.
    """
    if not isinstance(target, str):
        target = f"{target.__module__}:{target.__qualname__}"
    with tempfile.TemporaryDirectory(prefix="pretended-gpu-") as folder:
        command = [sys.executable, "-m", "tests.pretended_gpu.run", target, json.dumps(kwargs)]
        command += [str(Path(folder, "store"))] if ranks > 1 else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        environment.pop("DS_ACCELERATOR", None)  # tests on the CPU set it
        environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), environment.get("PYTHONPATH", "")])
        processes = []
        for rank in range(ranks):
            names = {"RANK": str(rank), "LOCAL_RANK": "0", "WORLD_SIZE": str(ranks)} if ranks > 1 else {}
            with Path(folder, f"log-{rank}").open("wb") as log:
                process = subprocess.Popen(
                    command, cwd=_ROOT, env=environment | names, stdout=subprocess.PIPE, stderr=log
                )
            processes.append(process)
        try:
            outputs = [process.communicate(timeout=timeout)[0] for process in processes]
        except subprocess.TimeoutExpired:
            outputs = [b""] * ranks
        for process in processes:
            process.kill()
            process.wait()
        for rank, process in enumerate(processes):
            if process.returncode != 0:
                text = Path(folder, f"log-{rank}").read_text(errors="replace")[-6000:]
                raise RuntimeError(f"{target}: rank {rank} of {ranks} failed ({process.returncode})\n{text}")
    results = [json.loads(output) for output in outputs]
    return results if ranks > 1 else results[0]

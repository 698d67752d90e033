"""Call a function on the pretended GPU in this fresh process, and print its result as JSON.

    python -m tests.pretended_gpu.run tests.pretended_gpu.training:chunk_rows '{"messages": [null]}'

`tests.pretended_gpu.call` starts this. The function's output goes to stderr. With RANK and WORLD_SIZE set and
a third argument, a file that all ranks share, the ranks first form a process group, with gloo for NCCL.
"""

from __future__ import annotations

import importlib
import json
import os
import sys

from tests.pretended_gpu import install


def main(target: str, arguments: str = "{}", store: str | None = None) -> None:
    """Install the GPU, call the function and write its result to the first stdout."""
    stdout = os.dup(1)
    os.dup2(2, 1)  # libraries print to stdout, too
    install()
    import torch

    torch.set_num_threads(1)
    if store is not None:
        import torch.distributed as dist

        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        dist.init_process_group("nccl", init_method=f"file://{store}", rank=rank, world_size=size)
    module, function = target.split(":")
    result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    sys.stdout.flush()
    os.write(stdout, json.dumps(result).encode())
    sys.stderr.flush()
    os._exit(0)  # threads of a process group may never end


if __name__ == "__main__":
    main(*sys.argv[1:])

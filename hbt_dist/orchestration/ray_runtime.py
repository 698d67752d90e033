"""Run the training loop in a worker of Ray Train."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from hbt_dist.common.console import quiet_libraries
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import write_json
from hbt_dist.orchestration.nodes import check_node
from hbt_dist.run_file import RunFile
from hbt_dist.training.deepspeed.setup import load_deepspeed
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.runtime import Request, name_accelerator
from hbt_dist.training.train import train


class RayRuntime:
    """Describe a worker of Ray Train, which has made the process group.

    Args:
        stop_file: rank 0 requests STOP once this file exists.
    """

    launcher = "ray"
    # When a node is cut off, its processes end only when Ray on that node gives up the head (60 s), and an
    # NFS server frees the locks of a lost client after its lease (90 s).
    folder_wait_seconds = 180.0

    def __init__(self, stop_file: str | None = None) -> None:
        import ray.train
        import ray.train.torch

        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.local_rank = context.get_local_rank()
        self._notice: Any = None
        self._stop_file = stop_file if self.rank == 0 else None
        # Torch sees all GPUs of the node even if the worker reserved none; Ray knows the reserved device.
        self.device = name_accelerator(ray.train.torch.get_device())

    def report(self, metrics: dict[str, float]) -> None:
        """Report to Ray. Waits for the controller's next poll: call it at checkpoints, not at steps."""
        import ray.train

        ray.train.report(metrics)

    def request(self) -> Request:
        """Return STOP once the stop file exists, and SAVE once per notice that a node of the run will end.

        After a notice Ray restarts the run without that node. Reads what Ray's watcher left in this process:
        the public `get_preemption_info` adds a barrier over all workers, and the training loop compares the
        ranks' requests anyway.
        """
        if self._stop_file is not None and os.path.exists(self._stop_file):
            return Request.STOP
        from ray.train.v2._internal.execution.context import get_train_context

        notice = get_train_context().preemption_context.preemption_info
        if notice is None or notice == self._notice:
            return Request.NONE
        self._notice = notice
        return Request.SAVE

    def close(self) -> None:
        """Do nothing: Ray owns the process group."""


def train_worker(config: dict[str, Any]) -> None:
    """Train in one Ray worker, unless a rank of this start has rejected the run already.

    Args:
        config: from `hbt_dist.orchestration.train`: run, start, driver, stop_file, ready, quiet.

    Raises:
        UserError: this node or the run cannot be used; the error is also in the refusal file.
    """
    quiet_libraries()
    run = RunFile.model_validate(config["run"])
    refusal = refusal_file(RunFolder(run.output_dir), config["start"])
    if (refused := read_refusal(refusal)) is not None:  # a restart cannot help
        raise refused
    try:
        check_node(run.output_dir, config["driver"])
        runtime = RayRuntime(config["stop_file"])
        _load_libraries(run)
        _wait_until_prepared(Path(config["ready"]), Path(config["driver"]["marker"]))
        train(run, runtime, quiet=config["quiet"])
    except UserError as error:
        with suppress(OSError):  # the folder may be the problem
            refusal.parent.mkdir(parents=True, exist_ok=True)
            write_json(refusal, [error.location, error.problem, error.remedy])
        raise


def _load_libraries(run: RunFile) -> None:
    """Import the slow libraries while the driver prepares the data."""
    import transformers.modeling_utils  # noqa: F401

    if run.deepspeed.config is not None:
        load_deepspeed()


def _wait_until_prepared(ready: Path, marker: Path) -> None:
    """Wait for a file of the driver, unless the driver has ended."""
    while not ready.exists() and marker.exists():
        time.sleep(0.05)


def refusal_file(folder: RunFolder, start: str) -> Path:
    """Return the file in which a rank leaves the `UserError` of one start of the run."""
    return folder.root / "ray" / f"refused-{start}.json"


def read_refusal(file: Path) -> UserError | None:
    """Return the error of a refusal file, or None without a file."""
    return UserError(*json.loads(file.read_text("utf-8"))) if file.is_file() else None

"""What a worker checks of its node before it trains: that it sees the driver's folder and has its packages.

`hbt_dist.orchestration.nodes` asks the nodes that are alive when a run starts. An autoscaler adds nodes
later, and Ray starts workers there without asking anybody. So the driver leaves a mark in the output folder
for as long as the training lasts, and every worker looks for it: a stat and a few package look-ups.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.orchestration.nodes import differing_versions, package_versions
from hbt_dist.training.checkpoints.store import appears


@contextmanager
def marked(file: Path) -> Iterator[dict[str, Any]]:
    """Leave a mark while the block runs.

    Args:
        file: a name that no earlier start has used, below the output folder.

    Yields:
        what `check_arrival` needs on the other side (plain data).
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    facts = {"mark": str(file), "host": socket.gethostname(), "versions": package_versions()}
    file.write_text(json.dumps(facts), "utf-8")
    try:
        yield facts
    finally:
        file.unlink(missing_ok=True)


def check_arrival(output_dir: str, driver: dict[str, Any], seconds: float = 10) -> None:
    """Refuse to train on a node that is not like the driver's.

    Args:
        driver: from `marked`.
        seconds: how long a network file system may take to show a new file.

    Raises:
        UserError: the output folder here is another one, or the packages are others.
    """
    here = socket.gethostname()
    odd = differing_versions(package_versions(), driver["versions"])
    if odd:
        raise UserError(
            f"Ray node {here}",
            f"has other packages than the driver on {driver['host']}: {'; '.join(odd)}",
            "install the same versions on every node (setup_commands of the cluster file, or one image)",
        )
    if not appears(Path(driver["mark"]), seconds):
        raise UserError(
            f"output_dir {output_dir}",
            f"is another folder on {here} than on {driver['host']}, where the run was started",
            "all workers write their part of each checkpoint there: name a folder on shared storage\n"
            "(NFS, Lustre, FSx, Filestore, a read-write-many volume) that is mounted on every node",
        )

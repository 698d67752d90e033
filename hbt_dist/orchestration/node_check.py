"""Check in a worker that its node sees the driver's folder and has the driver's packages.

`hbt_dist.orchestration.nodes` checks the nodes that exist when a run starts. An autoscaler adds nodes later,
and Ray starts workers on them without a check. So the driver keeps a marker file in the output folder during
the training, and every worker looks for it: a stat and a few package look-ups.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import wait_for
from hbt_dist.orchestration.nodes import SAME_PACKAGES, SHARED_STORAGE, differing_versions, package_versions


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
    """Reject training on a node that differs from the driver's.

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

"""Record versions, host and command of this process."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from hbt_dist import __version__

PACKAGES = (
    "torch",
    "deepspeed",
    "ray",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "faiss-cpu",
    "faiss-gpu",
)


def environment_facts() -> dict[str, Any]:
    """Versions, place and command of this process; no secrets, no environment variables."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    program, *arguments = sys.argv
    typed = Path(program).name == "hbt-dist"  # a process of Ray or of a launcher tells nothing by its own
    return {
        **({"command": shlex.join(["hbt-dist", *arguments])} if typed else {}),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hbt_dist": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "versions": versions,
    }

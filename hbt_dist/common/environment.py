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
from hbt_dist.common.errors import UserError
from hbt_dist.common.processors import num_processors

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
    """Return versions, host and command of this process; no secrets, no environment variables."""
    program, *arguments = sys.argv
    typed = Path(program).name == "hbt-dist"  # the command of a Ray worker or a launcher would not help
    return {
        **({"command": shlex.join(["hbt-dist", *arguments])} if typed else {}),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "hbt_dist": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "cpus": num_processors(),
        "versions": {name: version for name in PACKAGES if (version := installed_version(name))},
    }


def installed_version(package: str) -> str | None:
    """Return the installed version of a package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment_number(name: str, default: int) -> int:
    """Return the whole number in a variable, or the default if it is unset.

    Raises:
        UserError: the variable holds something else.
    """
    value = os.environ.get(name)
    try:
        return default if value is None else int(value)
    except ValueError:
        raise UserError(
            f"environment, {name}",
            f"expected a whole number, got {value!r}",
            f"unset {name}, or start with torchrun, deepspeed or srun",
        ) from None


def launched_rank(launcher: str) -> int:
    """Return the rank that a launcher gave this process; with Ray this process is the only driver."""
    if launcher == "ray":
        return 0
    slurm = environment_number("SLURM_PROCID", 0) if environment_number("SLURM_NTASKS", 1) > 1 else 0
    return environment_number("RANK", slurm)

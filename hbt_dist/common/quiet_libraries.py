"""The libraries' notices about their own inner workings stay off the user's terminal."""

from __future__ import annotations

import glob
import os
import warnings
from pathlib import Path


def calm_libraries() -> None:
    """Ask the libraries for less: before they are imported, as far as they read the environment."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")  # nothing forks afterwards
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not glob.glob("/dev/nvidia[0-9]*") and not any(Path(one).exists() for one in ("/dev/kfd", "/dev/dxg")):
        # DeepSpeed warns when it finds no accelerator by itself. For this process: a worker sets its own.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # a line for every retry
    os.environ.setdefault("DS_LOG_LEVEL", "error")
    os.environ.setdefault("LOG_LEVEL", "error")
    for module in ("deepspeed", "torch", "ray", "transformers"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=rf"{module}(\.|$)")
    # matplotlib measures itself: on a busy machine a small legend takes longer than it allows
    warnings.filterwarnings("ignore", message=r"Creating legend with loc=.best.")

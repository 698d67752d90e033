"""Compile and load the device guard of `guard.cpp`; imports no torch.

The library is compiled once per version of torch and kept in the user's cache folder; processes that start
together wait for the first one. Takes about 10 seconds of one core.
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("guard.cpp")


def why_not() -> str | None:
    """Return why this machine cannot pretend a GPU, or None."""
    if _torch() is None:
        return "torch is not installed"
    if re.search(r"^cuda\b.*= *['\"]", (_folder() / "version.py").read_text("utf-8"), re.MULTILINE):
        return "this torch has CUDA: install its CPU build to pretend a GPU"
    if _compiler() is None:
        return "no C++ compiler: install g++"
    if not (_folder() / "include" / "ATen").is_dir():
        return "this torch came without its C++ headers"
    return None


def load_guard() -> None:
    """Make torch accept "cuda:0" as a device, in this process.

    Enough for FakeTensorMode; `tests.pretended_gpu.install` also gives tensors with numbers.

    Raises:
        RuntimeError: torch is imported already, or see `why_not`.
    """
    if "torch" in sys.modules:
        raise RuntimeError("load the guard before `import torch`")
    if (reason := why_not()) is not None:
        raise RuntimeError(reason)
    ctypes.CDLL(str(build_guard()), mode=ctypes.RTLD_GLOBAL)


def build_guard() -> Path:
    """Return the compiled library; compile it if no process has done so."""
    version = (_folder() / "version.py").read_bytes()
    key = hashlib.sha256(SOURCE.read_bytes() + version + os.fsencode(_folder())).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hbt-dist-pretended-gpu"
    library = cache / f"guard-{key}.so"
    if library.is_file():
        return library
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.is_file():
            _compile(library)
    return library


def _compile(library: Path) -> None:
    lib = _folder() / "lib"
    unfinished = library.with_suffix(".unfinished")
    command = [str(_compiler()), "-std=c++20", "-O1", "-shared", "-fPIC", "-I", str(_folder() / "include")]
    command += [
        str(SOURCE),
        "-o",
        str(unfinished),
        "-L",
        str(lib),
        "-lc10",
        "-ltorch_cpu",
        f"-Wl,-rpath,{lib}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    unfinished.rename(library)


def _torch() -> str | None:
    spec = importlib.util.find_spec("torch")
    return None if spec is None else spec.origin


@functools.cache
def _folder() -> Path:
    return Path(str(_torch())).parent


def _compiler() -> str | None:
    return next((path for name in ("g++", "clang++", "c++") if (path := shutil.which(name))), None)

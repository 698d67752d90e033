"""Load functions that the user wrote and names as `module:function` in a run file.

A training is many processes, so each worker imports the module by its name and needs no registration. Python
finds a module as usual (installed, PYTHONPATH) or in the working directory, which child processes learn from
`HBT_DIST_MODULE_PATH`. A cluster of several machines receives the module from the driver
(orchestration/cluster.py).
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from hbt_dist.common.errors import UserError

#: Environment variable with the folders in which child processes also search.
_MODULE_PATH = "HBT_DIST_MODULE_PATH"
#: Top modules of all loaded functions, in the order of loading.
_loaded: dict[str, None] = {}
_LONGEST_PROBLEM = 200
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def is_user_function(name: str) -> bool:
    """Return whether a name stands for a function that the user wrote; `mteb:` begins names of tasks."""
    return ":" in name and not name.startswith("mteb:")


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("must be a user-defined function, written module:function")
    return name


#: The type of a setting that names such a function.
UserFunction = Annotated[
    str,
    AfterValidator(_checked),
    WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$", "description": "module:function"}),
]


def load_user_function(name: str, location: str) -> Callable[..., Any]:
    """Import the module of a user's function and return the function.

    Args:
        name: ``module:function``.
        location: the file or key that names it, for messages.

    Raises:
        UserError: the module does not exist, fails when it is imported, or has no such function.
    """
    module_name, _, attribute = name.partition(":")
    if not _NAME.fullmatch(name):
        raise UserError(location, f"expected module:function, got {name!r}", "write module:function")
    _search_working_directory(module_name.partition(".")[0])
    try:
        module = importlib.import_module(module_name)
    except UserError:
        raise
    except Exception as error:  # the user's module can raise anything
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{module_name}.".startswith(f"{missing}."):
            raise UserError(
                location,
                f"{name!r}: module {missing} was not found",
                "install it, add its folder to PYTHONPATH, or start in its folder; every worker must find it",
            ) from None
        raise UserError(
            location,
            f"module {module_name} cannot be imported: {type(error).__name__}: "
            + " ".join(str(error).split())[:_LONGEST_PROBLEM],
            f"python -c 'import {module_name}' shows where",
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        problem = "has no" if function is None else "has no function under"
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        close = difflib.get_close_matches(attribute, names, n=1)
        raise UserError(
            location,
            f"{name!r}: module {module_name} {problem} {attribute}",
            f"did you mean {module_name}:{close[0]}?" if close else f"define it in {module.__file__}",
        )
    _loaded[module_name.partition(".")[0]] = None
    return function  # type: ignore[no-any-return]


def user_error(error: Exception, name: str, location: str) -> UserError:
    """Return the error of a user's function as a `UserError` with the line of the user's file; chain it.

    Args:
        error: what the function raised.
        name: ``module:function``, which is loaded.
        location: what the function was reading, for the message.
    """
    frames = traceback.extract_tb(error.__traceback__)
    file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    frame = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1])
    problem = " ".join(str(error).split())[:_LONGEST_PROBLEM]
    return UserError(
        location,
        f"{name} raised {type(error).__name__}: {problem}",
        f"at {frame.filename} line {frame.lineno}, in {frame.name}: {frame.line}\n"
        "correct the function, or raise UserError with file and line for a mistake in a file",
    )


def _has_code(module: str) -> bool:
    """Return whether the path leads to a module, rather than to nothing or a folder of data with its name."""
    spec = importlib.util.find_spec(module)
    return spec is not None and spec.origin is not None


def _search_working_directory(module: str) -> None:
    """Make a top module importable from the working directory of this process or of its parent.

    The folder goes to the end of the path: a file in it hides no installed module.
    """
    inherited = [path for path in os.environ.get(_MODULE_PATH, "").split(os.pathsep) if path]
    for folder in dict.fromkeys([str(Path.cwd()), *inherited]):
        path = Path(folder) / module
        if not (path.is_dir() or path.with_suffix(".py").is_file()):
            continue
        if module not in sys.modules and not _has_code(module):
            sys.path.append(folder)
            importlib.invalidate_caches()
        if folder not in inherited:
            os.environ[_MODULE_PATH] = os.pathsep.join([*inherited, folder])


def user_digest(name: str) -> str:
    """Return the SHA-256 of the file that defines a loaded function; "" for a module without a file.

    Fingerprints and provenance use it for the function. Modules that the file imports do not count.
    """
    file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def user_digests(names: Iterable[str]) -> dict[str, str]:
    """Return the `user_digest` of each loaded function, for provenance."""
    return {name: user_digest(name) for name in names}


def user_modules() -> list[str]:
    """Return the file or folder of the top module of each loaded function, as Ray's `py_modules` takes them.

    Installed modules are left out: a cluster has its installations.
    """
    paths: list[Path] = []
    for name in _loaded:
        if spec := importlib.util.find_spec(name):
            locations = spec.submodule_search_locations or [spec.origin or ""]
            paths += [Path(location).resolve() for location in locations if location]
    return [str(path) for path in paths if not {"site-packages", "dist-packages"} & set(path.parts)]

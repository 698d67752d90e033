"""Functions of the user's own, named `module:function` where a run file names a part of the package.

A name and not a registration, since a training is many processes: each worker resolves the same name by
importing the same module, and nothing has to be sent or called before. A module is found as Python finds it
(installed, PYTHONPATH), and also in the working directory, of which the processes that are started from here
learn by `HBT_DIST_MODULE_PATH`. To a cluster of other machines it goes with the driver
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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, WithJsonSchema

from hbt_dist.common.errors import UserError

#: Folders where processes that this one starts look, too.
_PLACES = "HBT_DIST_MODULE_PATH"
#: Top modules of all functions that were loaded, in their order.
_loaded: dict[str, None] = {}
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)


def is_user_function(name: str) -> bool:
    """Whether a name stands for a function of the user's own."""
    return ":" in name


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("must be a function of your own, written module:function")
    return name


#: The type of a setting that names such a function.
UserFunction = Annotated[
    str,
    AfterValidator(_checked),
    WithJsonSchema({"type": "string", "pattern": f"^{_NAME.pattern}$", "description": "module:function"}),
]


def load_user_function(name: str, place: str) -> Callable[..., Any]:
    """The function that a name stands for; its module is imported.

    Args:
        name: ``module:function``.
        place: where it is named, for messages: a file, a key, or both.

    Raises:
        UserError: the module is not found or fails when it is imported, or has no such function.
    """
    module_name, _, attribute = name.partition(":")
    if not _NAME.fullmatch(name):
        raise UserError(place, f"{name!r} is no name of a function", "write module:function")
    _look_here(module_name)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _broken(place, module_name, error) from error
        raise UserError(
            place,
            f"{name!r}: there is no module {error.name}",
            "install it, name its folder in PYTHONPATH, or start where it lies; every worker must find it",
        ) from None
    except UserError:
        raise
    except Exception as error:  # whatever the module does while it is imported
        raise _broken(place, module_name, error) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        found = "has no" if function is None else "holds no function under"
        names = [one for one in vars(module) if callable(getattr(module, one)) and not one.startswith("_")]
        close = difflib.get_close_matches(attribute, names, n=1)
        raise UserError(
            place,
            f"{name!r}: module {module_name} {found} {attribute}",
            f"did you mean {module_name}:{close[0]}?" if close else f"define it in {module.__file__}",
        )
    _loaded[module_name.partition(".")[0]] = None
    return function  # type: ignore[no-any-return]


def _broken(place: str, module: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200]
    return UserError(
        place,
        f"module {module} cannot be imported: {type(error).__name__}: {reason}",
        f"python -c 'import {module}' shows where",
    )


def _look_here(module: str) -> None:
    """Let a module that is found nowhere else be found where this process, or its parent, was started.

    Last on the path, in every process: a file there shadows no installed module.
    """
    top = module.partition(".")[0]
    here = str(Path.cwd())
    inherited = [path for path in os.environ.get(_PLACES, "").split(os.pathsep) if path]
    for place in dict.fromkeys([here, *inherited]):
        there = Path(place) / top
        if not (there.is_dir() or there.with_suffix(".py").is_file()):
            continue
        if top not in sys.modules and importlib.util.find_spec(top) is None:
            sys.path.append(place)
            importlib.invalidate_caches()
        if place == here and here not in inherited:
            os.environ[_PLACES] = os.pathsep.join([*inherited, here])


def user_digest(name: str) -> str:
    """SHA-256 of the file that a loaded function's module is in; "" for a module without a file.

    It stands for the function in fingerprints and provenance. What the module imports is not looked at.
    """
    file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def user_digests(names: Iterable[str]) -> dict[str, str]:
    """Name -> `user_digest` of loaded functions: what provenance records of them."""
    return {name: user_digest(name) for name in names}


def user_modules() -> list[str]:
    """File or folder of the top module of each function loaded so far, as Ray's `py_modules` takes them.

    Installed ones are left out: a cluster has its own installations.
    """
    found = []
    for name in _loaded:
        spec = importlib.util.find_spec(name)
        places = [*(spec.submodule_search_locations or [spec.origin or ""])] if spec else []
        found += [
            str(Path(place).resolve())
            for place in places
            if place and not {"site-packages", "dist-packages"} & set(Path(place).parts)
        ]
    return found

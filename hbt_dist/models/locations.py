"""Report model names that cannot be loaded, with the probable correction."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from urllib.parse import urlsplit

from hbt_dist.common.errors import UserError, first_line

SECONDS_TO_ANSWER = 5.0
_PROXIES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")


def no_model_folder(folder: Path) -> UserError:
    """Return the error about a folder without a model; a run's folder has it in a subfolder."""
    inside = folder / "model"
    remedy = "give a transformers model folder"
    if (inside / "config.json").is_file():
        remedy = f"did you mean {inside}?"
    return UserError(str(folder), "not a model folder: it has no config.json", remedy)


def check_hub_reachable(name: str) -> None:
    """Reject a hub name if the hub does not answer: the retries of the hub's client take a minute.

    Raises:
        UserError: there is neither such a folder, nor a copy in the hub's cache, nor a connection.
    """
    from huggingface_hub import constants, try_to_load_from_cache

    try:
        cached = try_to_load_from_cache(name, "config.json")
    except ValueError as error:  # no name of a repository
        problem = f"is neither a folder nor a name on the model hub ({first_line(error)})"
        raise UserError(name, problem, "check the path or the name") from None
    if isinstance(cached, str):
        return
    if constants.is_offline_mode() or any(os.environ.get(proxy) for proxy in _PROXIES):
        return  # it fails at once, or a proxy decides
    address = urlsplit(constants.ENDPOINT)
    try:
        port = address.port or (80 if address.scheme == "http" else 443)
        socket.create_connection((address.hostname or "", port), timeout=SECONDS_TO_ANSWER).close()
    except OSError:
        raise UserError(
            name,
            f"is not a folder, and the model hub ({address.hostname}) does not answer",
            "check the name and the connection",
        ) from None

"""Push a model folder to the model hub. What the hub can refuse is checked before the export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hbt_dist.common.errors import UserError, first_line

_LOG_IN = "run `hf auth login`, or set HF_TOKEN"


def prepare_repository(name: str, *, private: bool = False, revision: str | None = None) -> None:
    """Create a repository on the hub if it does not exist, and check that files can be pushed to it.

    Args:
        name: ORGANISATION/NAME.
        private: only the organisation sees a new repository.
        revision: branch to push to; it is created if it does not exist.

    Raises:
        UserError: offline mode, a bad name, no token or a wrong one, no connection, no right to write, or a
            public repository where a private one is asked for.
    """
    from huggingface_hub import HfApi, constants, get_token

    if constants.is_offline_mode():
        raise UserError(
            "--push", "the hub cannot be reached: HF_HUB_OFFLINE is set", "unset it, or leave out --push"
        )
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(
            "--push", f"expected ORGANISATION/NAME, got {name!r}", "give a name such as me/my-model"
        )
    if get_token() is None:
        raise UserError(f"--push {name}", "there is no token of the hub", _LOG_IN)
    api = HfApi()
    with _explained(name):
        api.whoami()
        api.create_repo(name, private=private or None, exist_ok=True)
        api.auth_check(name, write=True)
        if private and not api.model_info(name).private:
            raise UserError(
                f"--push {name}",
                "expected a private repository, got an existing public one",
                "give a new name, or leave out --private",
            )
        if revision is not None:
            api.create_branch(name, branch=revision, exist_ok=True)


def push_folder(folder: Path, name: str, *, revision: str | None = None, message: str) -> str:
    """Upload a model folder or an adapter folder in one commit, and return its address.

    Args:
        folder: its files replace those of equal name.
        name: ORGANISATION/NAME of a repository, see `prepare_repository`.
        revision: branch; default: main.
        message: of the commit.

    Raises:
        UserError: the hub refuses the files or does not answer; the folder stays.
    """
    from huggingface_hub import HfApi

    with _explained(name):
        commit = HfApi().upload_folder(
            repo_id=name, folder_path=folder, revision=revision, commit_message=message
        )
    return commit.commit_url


@contextmanager
def _explained(name: str) -> Iterator[None]:
    """Raise a `UserError` for what the hub answers, and for a hub that does not answer."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # OSError, and the base of all errors of the HTTP library that the client uses
    network = tuple(
        kind for kind in HfHubHTTPError.__mro__ if issubclass(kind, Exception) and kind is not Exception
    )

    try:
        yield
    except HFValidationError as error:
        raise UserError(f"--push {name}", first_line(error), "give a name such as me/my-model") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        problem, remedy = f"the hub refused it ({status}): {first_line(error)}", "check name and revision"
        if status == 401:
            problem, remedy = "the hub does not accept the token", _LOG_IN
        elif status in (403, 404):
            owner = name.partition("/")[0]
            problem = f"the token has no right to write to {name}"
            remedy = f"take a token with write access to {owner}, or a name of yours"
        raise UserError(f"--push {name}", problem, remedy) from error
    except network as error:
        raise UserError(
            f"--push {name}",
            f"the hub ({constants.ENDPOINT}) does not answer: {first_line(error)}",
            "check the connection, or leave out --push and upload the folder later: hf upload NAME DIR",
        ) from error

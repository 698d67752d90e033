"""Export the model of a checkpoint, and push it to the model hub on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.models.publishing import prepare_repository, push_folder
from hbt_dist.training.checkpoints.export import export_checkpoint


def export_job(
    source: Path,
    target: Path,
    *,
    as_adapter: bool = False,
    width: int | None = None,
    push: str | None = None,
    private: bool = False,
    revision: str | None = None,
) -> dict[str, Any]:
    """Write the model of a checkpoint, see `export_checkpoint`; `push` is asked of the hub before.

    Args:
        source: folder of a checkpoint, or of a run: its newest complete checkpoint.
        target: the new model folder.
        as_adapter: write the adapters alone.
        width: keep the first values of each embedding, this many.
        push: ORGANISATION/NAME on the model hub.
        private: only the organisation sees a new repository.
        revision: branch of the repository; default: main.

    Returns:
        step, model (folder) and pushed (address, with `push`).

    Raises:
        UserError: see `export_checkpoint`, `prepare_repository` and `push_folder`.
    """
    for option, value in (("--private", private), ("--revision", revision)):
        if value and push is None:
            raise UserError(
                option, "expected --push ORGANISATION/NAME with it", "add --push, or leave it out"
            )
    if push is not None:
        prepare_repository(push, private=private, revision=revision)
    step = export_checkpoint(source, target, as_adapter=as_adapter, width=width).step
    exported = {"step": step, "model": str(target)}
    if push is not None:
        exported["pushed"] = push_folder(target, push, revision=revision, message=f"Model after step {step}")
    return exported

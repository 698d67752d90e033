"""Refuse a start model that has changed since a run began with it.

Checkpoints hold trained weights only: frozen ones come from the start model, at a resume and at every export.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from hbt_dist.common.errors import UserError
from hbt_dist.models.adapters import fingerprint_of
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.files import folder_digest
from hbt_dist.models.settings import ModelSettings


def start_digest(settings: ModelSettings, backbone: nn.Module, made: Path) -> str | None:
    """Return a digest of the model that the run starts from; None from scratch.

    None also for adapters of a hub model: `TrainedAdapter.fingerprint` identifies their base. With a cut
    vocabulary the digest is that of the cut model, from which the run starts.

    Cost: reading its folder once, about a second per GiB; of a hub model, whose files may lie anywhere, a
    sample of the weights.

    Args:
        settings: the `model` block.
        backbone: as loaded, on the CPU.
        made: folder of the model that is made for the run, if it is.
    """
    if settings.name_or_path is None:
        return None
    folder = made if settings.made else Path(settings.name_or_path)
    if folder.is_dir():
        return folder_digest(folder)
    return fingerprint_of(backbone) if settings.lora is None else None


def start_facts(digest: str | None, model: LoadedEncoder) -> dict[str, str | None]:
    """Return what a manifest records about the start model, see `start_digest`.

    The digest of an adapter folder is that of its files; its base has a fingerprint.
    """
    return {"start_model": digest, "base": None if model.adapter is None else model.adapter.fingerprint}


def check_start_model(
    name: str | None, step: int, recorded: Mapping[str, Any], now: Mapping[str, str | None], remedy: str
) -> None:
    """Refuse a start model that differs from the recorded start model.

    Args:
        name: folder or hub name of the model.
        step: of the checkpoint.
        recorded: `start_facts` at that time, or a manifest with them.
        now: `start_facts` of the model as loaded now.
        remedy: what to do.

    Raises:
        UserError: they differ.
    """
    pairs = ((recorded.get(key), value) for key, value in now.items())
    if any(None not in pair and pair[0] != pair[1] for pair in pairs):
        raise UserError(
            f"model.name_or_path {name}",
            f"is not the model that the checkpoint of step {step} began with",
            remedy,
        )

"""A model folder out of a checkpoint, at any time, in one process, from any engine and ZeRO stage.

Reads what the run's folder holds and nothing else: ``run.yaml``, the start model's architecture and
tokenizer, the checkpoint. No process group and no GPU is needed; the run may go on meanwhile.

Cost: the weights once in memory as float32, and for ZeRO the shards that hold them.

DeepSpeed's files are pickles. Their checksums are verified first, which tells damage, not malice: export
checkpoints of your own runs only. What comes out is safetensors and JSON.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from hbt_dist.common.errors import UserError
from hbt_dist.models.encoder import LoadedEncoder, load_encoder, save_encoder
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.engine_state import PLAIN_FILE, TAG, split_weights
from hbt_dist.training.checkpoints.store import Checkpoint, newest_below, verify
from hbt_dist.training.run_folder import RunFolder


def export_checkpoint(source: Path, to: Path) -> Checkpoint:
    """Write the model of a checkpoint as a folder that transformers and sentence-transformers load.

    Args:
        source: folder of a checkpoint, or of a run: then its newest complete checkpoint is taken.
        to: the new model folder.

    Returns:
        the checkpoint that was exported.

    Raises:
        UserError: `to` is taken, there is no complete checkpoint, or its run's folder is not around it.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(str(to), "exists and is not empty", "give a new folder")
    found = _find(source.absolute())
    root = RunFolder(found.folder.parent.parent)
    try:
        run = RunFile.recorded(yaml.safe_load(root.run_file.read_text("utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        first = str(error).splitlines()[0]
        raise UserError(
            str(root.run_file),
            f"is not the run file of the checkpoint: {first}",
            "export a checkpoint where it lies: RUN_FOLDER/checkpoints/step-...",
        ) from error
    start = str(root.start) if run.model.scratch is not None else str(run.model.name_or_path)
    model = load_encoder(start, trust_remote_code=run.model.trust_remote_code, text=run.model.text)
    described = found.manifest["model"]
    write_model_folder(model, read_weights(found), to, card=described["card"], facts=described["facts"])
    return found


def _find(source: Path) -> Checkpoint:
    if (source / "checkpoints").is_dir():
        found = newest_below(source / "checkpoints")
        if found is None:
            raise UserError(str(source), "holds no complete checkpoint", "let the run reach its first one")
        return found
    if not source.is_dir():
        raise UserError(str(source), "no such folder", "give the folder of a checkpoint or of a run")
    problem, manifest = verify(source)
    if problem is not None:
        raise UserError(
            str(source),
            f"is not a complete checkpoint: {problem}",
            "give another checkpoint of the run, or the run's folder",
        )
    return Checkpoint(source, manifest["step"], manifest)


def read_weights(found: Checkpoint) -> dict[str, Tensor]:
    """The encoder's weights (float32, CPU) from a checkpoint whose checksums were verified."""
    if found.manifest["engine"] == "plain":
        state = torch.load(found.folder / PLAIN_FILE, map_location="cpu", weights_only=True)["model"]
    elif found.manifest["zero_stage"] == 0:
        file = found.folder / TAG / "mp_rank_00_model_states.pt"
        state = torch.load(file, map_location="cpu", weights_only=False)["module"]
    else:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            state = get_fp32_state_dict_from_zero_checkpoint(str(found.folder), tag=TAG)
    prefix = "encoder."
    return {
        name.removeprefix(prefix): value.float() if value.is_floating_point() else value
        for name, value in state.items()
        if name.startswith(prefix)
    }


def write_model_folder(
    model: LoadedEncoder, weights: Mapping[str, Tensor], folder: Path, *, card: str, facts: dict[str, Any]
) -> None:
    """Write trained weights with the model's tokenizer and settings; beside first, then renamed.

    Args:
        model: architecture, tokenizer, settings; its dense layers are overwritten with the trained ones.
        weights: of the `Encoder`.
        folder: is replaced if it exists.
        card: Markdown.
        facts: kept in ``hbt_dist.json``.
    """
    backbone, dense = split_weights(dict(weights))
    if dense:
        model.encoder.dense.load_state_dict(dense)
    beside = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_encoder(model.encoder, model.tokenizer, beside, backbone_state=backbone, card=card, facts=facts)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)

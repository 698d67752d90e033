"""Export the model of a checkpoint, in one process, from every engine and ZeRO stage.

Reads only the run's folder (``run.yaml``, the start model's architecture and tokenizer, the checkpoint).
Needs no process group and no GPU; the run may go on meanwhile.

Cost: the weights once in memory as float32, and for ZeRO the shards that contain them.

DeepSpeed's files are pickles. Verified checksums prove that nothing was damaged, not who wrote
the file: export only checkpoints of runs that you trust. The result is safetensors and JSON.
"""

from __future__ import annotations

import contextlib
import io
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_folder, check_new_folder
from hbt_dist.config.settings import read_yaml, validate
from hbt_dist.models.adapters import merge_adapter
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.head import whole_copy
from hbt_dist.models.initial import load_start
from hbt_dist.models.saving import save_encoder
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.card import card_with_results
from hbt_dist.training.checkpoints.engine_state import PLAIN_FILE, TAG, weights_below
from hbt_dist.training.checkpoints.manifest import verify
from hbt_dist.training.checkpoints.start_model import check_start_model, start_digest, start_facts
from hbt_dist.training.checkpoints.store import Checkpoint, newest_complete
from hbt_dist.training.run_folder import RunFolder


def export_checkpoint(
    source: Path, target: Path, *, as_adapter: bool = False, width: int | None = None
) -> Checkpoint:
    """Write the model of a checkpoint as a folder that transformers and sentence-transformers load.

    Args:
        source: folder of a checkpoint, or of a run: its newest complete checkpoint.
        target: the new model folder.
        as_adapter: write the adapters of a run with `model.lora` alone instead of merging them.
        width: embeddings of the exported model keep their first values, this many; default: as in the run.

    Returns:
        the checkpoint that was exported.

    Raises:
        UserError: `target` is not empty or cannot be written, no checkpoint is complete, it is not in its
            run's folder, `width` is above that of the model, or weights are frozen and the start model has
            changed.
    """
    check_new_folder(target)
    checkpoint = _find(source.absolute())
    root = RunFolder(checkpoint.folder.parent.parent)
    try:
        recorded, lines = read_yaml(root.run_file)
    except UserError as error:
        raise UserError(
            str(root.run_file),
            f"is not the run file of the checkpoint: {error.problem}",
            "export a checkpoint from its run's folder: RUN_FOLDER/checkpoints/step-...",
        ) from error
    run = validate(RunFile, recorded, str(root.run_file), lines)
    settings = run.model
    if width is not None:
        settings = settings.model_copy(update={"text": {**settings.text, "width": width}})
    model = load_start(settings, run.seed, root.start)
    if as_adapter and model.adapter is None:
        raise UserError(
            "--adapter",
            f"{root.root} trains all weights (model.lora is not set)",
            "export the whole model: leave --adapter out",
        )
    weights = read_weights(checkpoint)
    if model.encoder.state_dict().keys() - weights.keys():  # frozen ones are those of the start model
        now = start_facts(start_digest(settings, model.encoder.backbone, root.start), model)
        remedy = "restore that model: the checkpoint holds the trained weights alone"
        check_start_model(settings.name_or_path, checkpoint.step, checkpoint.manifest, now, remedy)
    record = checkpoint.manifest["model"]
    card = (
        record["card"] if width is not None else card_with_results(record["card"], run, root, checkpoint.step)
    )
    write_model_folder(model, weights, target, as_adapter=as_adapter, **{**record, "card": card})
    return checkpoint


def _find(source: Path) -> Checkpoint:
    if (source / "checkpoints").is_dir():
        newest = newest_complete(source / "checkpoints")
        if newest is None:
            raise UserError(str(source), "holds no complete checkpoint", "let the run reach its first one")
        return newest
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


def read_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the encoder's trained weights (float32, CPU) of a checkpoint whose checksums were verified."""
    folder = checkpoint.folder
    if checkpoint.manifest["engine"] == "plain":
        state = torch.load(folder / PLAIN_FILE, map_location="cpu", weights_only=True)["model"]
    elif checkpoint.manifest["zero_stage"] == 0:
        file = folder / TAG / "mp_rank_00_model_states.pt"
        state = torch.load(file, map_location="cpu", weights_only=False)["module"]
    else:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            state = get_fp32_state_dict_from_zero_checkpoint(
                str(folder), tag=TAG, exclude_frozen_parameters=True
            )
    return {
        name: value.float() if value.is_floating_point() else value
        for name, value in weights_below(state, "encoder.").items()
    }


def write_model_folder(
    model: LoadedEncoder,
    weights: Mapping[str, Tensor],
    folder: Path,
    *,
    card: str,
    facts: dict[str, Any],
    as_adapter: bool = False,
) -> None:
    """Write trained weights with the model's tokenizer and settings.

    Args:
        model: architecture, tokenizer, settings, frozen weights; it receives trained ones and is changed.
        weights: the trained ones of the `Encoder`.
        folder: is replaced if it exists.
        card: Markdown.
        facts: recorded in ``hbt_dist.json``.
        as_adapter: write adapters alone instead of merging them.
    """
    encoder = model.encoder
    for number, layer in enumerate(encoder.dense):
        if trained := weights_below(weights, f"dense.{number}."):
            encoder.dense[number] = whole_copy(layer, trained)
    backbone: dict[str, Tensor] | None = weights_below(weights, "backbone.")
    state = encoder.state_dict()
    if state.keys() - weights.keys():  # frozen ones
        encoder.load_state_dict({**state, **weights})
        backbone = None
    if model.adapter is not None and not as_adapter:
        merge_adapter(encoder.backbone)
    with atomic_folder(folder) as temporary:
        save_encoder(
            model.encoder,
            model.tokenizer,
            temporary,
            text=model.exported_text,
            backbone_state=backbone,
            adapter=model.adapter if as_adapter else None,
            card=card,
            facts=facts,
            prompts=model.prompts,
        )
        shutil.rmtree(folder, ignore_errors=True)

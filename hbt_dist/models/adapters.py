"""Train low-rank adapters of a backbone, merge them into its weights, and write and read adapter folders.

Layers and formats are those of `peft`. Adapted layers replace the linear layers of the backbone in place, so
that the rest of an `Encoder` does not change: weight W becomes `base_layer.weight`, frozen, and the factors
become `lora_A.default.weight` (rank, in) and `lora_B.default.weight` (out, rank), in float32.

An adapter folder names its base in ``adapter_config.json``. The fingerprint of the base's weights, which
``hbt_dist.json`` records, reveals a base whose weights have changed.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hbt_dist.common.errors import UserError, first_line
from hbt_dist.models.files import check_file, read_json
from hbt_dist.models.folders import MODULES_FILE, SETTINGS_FILE, has_tokenizer, has_weights
from hbt_dist.models.locations import check_hub_reachable
from hbt_dist.models.settings import LoraSettings

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_NAME = "default"  # peft's name of an adapter in a model
_PREFIX = "base_model.model."  # peft's prefix of names in a file
_SAMPLE = 256


@dataclass(frozen=True)
class TrainedAdapter:
    """The base of the adapters that a backbone has in training.

    Attributes:
        base: folder or hub name of the base model.
        fingerprint: of the base's weights, see `fingerprint_of`.
    """

    base: str
    fingerprint: str

    @property
    def facts(self) -> dict[str, Any]:
        """What ``hbt_dist.json`` of an adapter folder records."""
        return {"adapter": {"base_fingerprint": self.fingerprint}}


@dataclass(frozen=True)
class AdapterFolder:
    """A folder with an adapter and, optionally, a tokenizer and text settings; the base has the rest."""

    folder: Path
    base: str

    @property
    def tokenizer_source(self) -> str:
        """Folder or hub name that has the tokenizer."""
        return str(self.folder) if has_tokenizer(self.folder) else self.base

    @property
    def settings_source(self) -> str:
        """Folder or hub name that has the text settings and the dense layers."""
        files = (self.folder / SETTINGS_FILE, self.folder / MODULES_FILE)
        return str(self.folder) if any(file.is_file() for file in files) else self.base

    @property
    def note(self) -> str:
        """A line on the base, and on what the folder lacks."""
        sources = {"tokenizer": self.tokenizer_source, "text settings": self.settings_source}
        lacking = " and ".join(name for name, source in sources.items() if source == self.base)
        rest = f", which gives {lacking}" if lacking else ""
        return f"{self.folder}: adapter of {self.base}{rest}"


def add_adapter(backbone: nn.Module, lora: LoraSettings, seed: int) -> None:
    """Give linear layers an adapter, whose update is zero, and freeze all other weights of the backbone.

    Args:
        backbone: a transformers model on the CPU.
        lora: which layers, and the size of their adapters.
        seed: of the first factors; equal seeds give equal weights on every rank.

    Raises:
        UserError: a target is not a linear layer of the backbone.
    """
    from peft import LoraConfig, inject_adapter_in_model

    check_targets(backbone, lora)
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft divides it
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets or linear_layers(backbone)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, backbone, _NAME)
    _in_float32(backbone)


def _in_float32(backbone: nn.Module) -> None:
    """Keep adapters in float32 next to a base in bf16: their updates are small."""
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def linear_layers(backbone: nn.Module) -> list[str]:
    """Return the last part of the names of all linear layers, such as q_proj, in alphabetic order."""
    from transformers.pytorch_utils import Conv1D

    linear = (nn.Linear, Conv1D)
    return sorted({name.rpartition(".")[2] for name, m in backbone.named_modules() if isinstance(m, linear)})


def check_targets(backbone: nn.Module, lora: LoraSettings) -> None:
    """Refuse targets that are not linear layers of the backbone.

    Raises:
        UserError: names the linear layers that exist.
    """
    existing = linear_layers(backbone)
    if unknown := [target for target in lora.targets or () if target not in existing]:
        raise UserError(
            "model.lora.targets",
            f"expected linear layers of the model, got {unknown[0]!r}",
            f"choose among {', '.join(existing)}; or remove the key to adapt all of them",
        )


def fingerprint_of(backbone: nn.Module) -> str:
    """Return a digest of names, shapes and evenly spread values of all weights, before adapters are added.

    Values are rounded to bf16: a base that was loaded in bf16 has the fingerprint of the one in float32.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted(backbone.named_parameters()):
        values = parameter.detach().flatten()
        sample = values[:: max(1, len(values) // _SAMPLE)].to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
        digest.update(sample.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def merge_adapter(backbone: nn.Module) -> None:
    """Add the updates to the weights of the base, in place, and restore the base's layers."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    adapted = [(name, m) for name, m in backbone.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in adapted:
        layer.merge()
        backbone.set_submodule(name, layer.get_base_layer())
    del backbone.peft_config


def save_adapter(backbone: Any, adapter: TrainedAdapter, folder: Path) -> None:
    """Write adapters as `peft`, transformers and sentence-transformers load them."""
    from peft import get_peft_model_state_dict

    state: dict[str, Tensor] = get_peft_model_state_dict(
        backbone, adapter_name=_NAME, save_embedding_layers=False
    )
    state = {f"{_PREFIX}{name}": value.detach().cpu().contiguous() for name, value in state.items()}
    save_file(state, folder / WEIGHTS_FILE, {"format": "pt"})
    config = backbone.peft_config[_NAME]
    changes = {"base_model_name_or_path": adapter.base, "inference_mode": True}
    replace(config, **changes, target_modules=sorted(config.target_modules)).save_pretrained(str(folder))


def find_adapter(source: str) -> AdapterFolder | None:
    """Return the adapter of a folder or hub name; None for a whole model. Reads small files only.

    Raises:
        UserError: the folder holds a whole model as well, or the base cannot be found.
    """
    folder = Path(source)
    if not folder.is_dir():
        fetched = _hub_adapter(source)
        if fetched is None:
            return None
        folder = fetched
    file = folder / CONFIG_FILE
    if not file.is_file():
        return None
    config = read_json(file)
    base = config.get("base_model_name_or_path")
    if has_weights(folder):
        raise UserError(
            source,
            f"holds a whole model and an adapter of {base}: libraries disagree on which weights the adapter "
            "belongs to",
            f"to use the whole model alone, remove {CONFIG_FILE}; to use the adapter, move its files\n"
            f"({CONFIG_FILE}, {WEIGHTS_FILE}) to a folder without model weights",
        )
    return AdapterFolder(folder, _find_base(folder, base))


def _find_base(folder: Path, base: Any) -> str:
    file, remedy = folder / CONFIG_FILE, "set base_model_name_or_path to the folder or hub name of the base"
    if not isinstance(base, str) or not base:
        raise UserError(str(file), "names no base model (base_model_name_or_path)", remedy)
    for path in (folder / base, Path(base)):
        if path.is_dir():
            if (path / CONFIG_FILE).is_file():
                raise UserError(str(file), f"its base {base} is an adapter too", "merge that one first")
            return str(path.resolve())
    if base.count("/") > 1 or base.startswith((".", "~", "/")):
        raise UserError(str(file), f"its base model {base} does not exist", remedy)
    return base


def _hub_adapter(name: str) -> Path | None:
    """Fetch an adapter of the model hub, or take it from the cache; None if the name is not an adapter's."""
    from huggingface_hub import snapshot_download, try_to_load_from_cache
    from transformers.utils.peft_utils import find_adapter_config_file

    if name.count("/") > 1 or name.startswith((".", "~", "/")) or Path(name).exists():
        return None
    check_hub_reachable(name)
    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return None
    try:
        config = find_adapter_config_file(name)
        return None if config is None else Path(snapshot_download(name))
    except OSError:  # every error of the hub: loading the model explains it
        return None


@contextmanager
def explained_base(adapter: AdapterFolder | None) -> Iterator[None]:
    """Report an error of the base, inside the block, at the adapter that names it."""
    try:
        yield
    except UserError as error:
        if adapter is None:
            raise
        location = str(adapter.folder / CONFIG_FILE)
        raise UserError(location, f"its base model {adapter.base} {error.problem}", error.remedy) from error


def apply_adapter(backbone: nn.Module, adapter: AdapterFolder, lora: LoraSettings | None) -> nn.Module:
    """Load an adapter into its base: merged, or to be trained further.

    Args:
        backbone: the base, on the CPU; it is changed.
        adapter: of any kind that `peft` can merge; to train it further, LoRA.
        lora: settings to train it further; None: merge it.

    Raises:
        UserError: the adapter belongs to a different base, cannot be merged, or differs from `lora`.
    """
    from peft import PeftConfig, PeftModel

    source, file = str(adapter.folder), adapter.folder / CONFIG_FILE
    recorded = read_json(adapter.folder / SETTINGS_FILE).get("adapter", {}).get("base_fingerprint")
    if recorded is not None and recorded != fingerprint_of(backbone):
        raise _different_base(adapter, "its weights differ from those that the adapter was trained on")
    try:
        config = PeftConfig.from_pretrained(source)
    except Exception as error:  # peft raises plain exceptions for kinds that it does not know
        raise UserError(
            str(file), f"peft cannot read it: {first_line(error)}", "check peft_type and its keys"
        ) from error
    kind = str(getattr(config.peft_type, "value", config.peft_type))
    if config.is_prompt_learning or config.is_adaption_prompt:
        raise UserError(
            str(file),
            f"expected an adapter that can be merged into weights, got kind {kind}",
            "give a LoRA adapter, or another kind that peft can merge",
        )
    if lora is not None:
        _check_continued(config, kind, lora, file)
        config = replace(config, lora_dropout=lora.dropout)
    # A plain task adds no head; peft's wrapper of a task asks the base for methods of one.
    config = replace(config, task_type=None, inference_mode=lora is None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft's remarks on its own initial values
            model = PeftModel(backbone, config, adapter_name=_NAME)
    except (ValueError, RuntimeError, TypeError, AttributeError) as error:
        raise _different_base(adapter, first_line(error)) from error
    _load_weights(model, adapter)
    if lora is not None:
        _in_float32(backbone)
        return backbone
    try:
        merged: nn.Module = model.merge_and_unload()  # type: ignore[operator]
        return merged.requires_grad_(True)  # peft has frozen the base
    except Exception as error:
        problem = f"an adapter of kind {kind} cannot be merged: {first_line(error)}"
        raise UserError(str(file), problem, "give a LoRA adapter") from error


def _load_weights(model: Any, adapter: AdapterFolder) -> None:
    """Load the file of an adapter, whose names and shapes must be those of the adapted layers."""
    from peft import get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

    pickled = adapter.folder / "adapter_model.bin"  # of older versions of peft
    check_file(pickled if pickled.is_file() else adapter.folder / WEIGHTS_FILE)
    weights = load_peft_weights(str(adapter.folder), device="cpu")
    expected = get_peft_model_state_dict(model, adapter_name=_NAME, save_embedding_layers=False)
    if different := sorted(set(expected) ^ set(weights)):
        holder = "the file has" if different[0] in weights else "the base needs"
        raise _different_base(adapter, f"{len(different)} weights do not fit, {holder} {different[0]}")
    for name, value in sorted(weights.items()):
        if value.shape != expected[name].shape:
            shapes = f"{tuple(value.shape)} in the file, {tuple(expected[name].shape)} for the base"
            raise _different_base(adapter, f"{name} has shape {shapes}")
    set_peft_model_state_dict(model, weights, adapter_name=_NAME)


def _different_base(adapter: AdapterFolder, reason: str) -> UserError:
    return UserError(
        str(adapter.folder),
        f"the adapter does not belong to its base {adapter.base}: {reason}",
        f"set base_model_name_or_path in {CONFIG_FILE} to the model that it was trained on",
    )


def _check_continued(config: Any, kind: str, lora: LoraSettings, file: Path) -> None:
    """Refuse to train an adapter further that is not the one of the settings."""
    alone = "train from the merged model instead: remove model.lora, or merge the adapter (hbt-dist export)"
    plain = not (
        config.modules_to_save
        or getattr(config, "use_dora", False)
        or getattr(config, "bias", "none") != "none"
        or getattr(config, "rank_pattern", None)
        or getattr(config, "alpha_pattern", None)
    )
    if kind != "LORA" or not plain:
        raise UserError(str(file), f"only a plain LoRA adapter can be trained further, got {kind}", alone)
    recorded = {"rank": config.r, "alpha": config.lora_alpha}
    if lora.targets is not None:
        targets = config.target_modules
        recorded["targets"] = [targets] if isinstance(targets, str) else sorted(targets)
    for key, value in recorded.items():
        expected = getattr(lora, key)
        if (sorted(expected) if key == "targets" else expected) != value:
            shown = f"[{', '.join(value)}]" if key == "targets" else value
            raise UserError(
                f"model.lora.{key}",
                f"is {expected}, but the adapter of {file.parent}, which is trained further, has {shown}",
                f"set model.lora.{key}: {shown}; or start from the merged model",
            )

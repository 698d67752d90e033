"""Merge trained models of one architecture: weighted average, or spherical interpolation of two.

    average   sum_i w_i x_i
    slerp     (sin((1 - t) a) x + sin(t a) y) / sin(a),  cos(a) = <x, y> / (|x| |y|),  t: weight of the second

slerp takes each tensor as one vector. Source: K. Shoemake, "Animating Rotation with Quaternion Curves",
SIGGRAPH 1985. Where x and y are nearly parallel, sin(a) vanishes, and slerp is the average.

The files of the first model are copied, and each tensor is replaced in the copy. The sums are in float64; in
memory are one tensor of each of two models and its sum, for models of any size and number.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import safe_open
from torch import Tensor

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import sha256_of
from hbt_dist.models.files import NEUTRAL_KEYS, check_file, read_json
from hbt_dist.models.folders import MODULES_FILE, SETTINGS_FILE, recorded_text
from hbt_dist.models.locations import no_model_folder
from hbt_dist.models.settings import TextSettings

Method = Literal["average", "slerp"]
#: |cos(a)| above which slerp is the average, see the module's text.
PARALLEL = 0.9995
#: Files of a model folder that are copied; further weights (ONNX, PyTorch's pickles) would be stale.
_COPIED = (".json", ".txt", ".model", ".tiktoken", ".vocab", ".jinja", ".py", ".safetensors")
_SAME_START = "merge models that were trained from the same start model"


@dataclass(frozen=True)
class Source:
    """A model to merge.

    Attributes:
        name: what the user gave, for messages and the record.
        folder: the model's folder.
        weight: its share of the result.
    """

    name: str
    folder: Path
    weight: Fraction

    def facts(self) -> dict[str, Any]:
        """Return what the merged folder records: name, weight, SHA-256 of the weights, training."""
        return {
            "source": self.name,
            "weight": str(self.weight),
            "sha256": {
                str(file.relative_to(self.folder)): sha256_of(file) for file in weight_files(self.folder)
            },
            "training": read_json(self.folder / SETTINGS_FILE).get("training", {}),
        }


def check_folder(folder: Path, name: str) -> None:
    """Refuse a folder that holds no whole model in safetensors.

    Raises:
        UserError: names the folder.
    """
    if (folder / "adapter_config.json").is_file():
        raise UserError(
            name,
            "holds an adapter: expected a whole model. The product of averaged factors is not the average of "
            "the updates",
            "merge the adapter into its base first: hbt-dist export RUN --to DIR writes the whole model",
        )
    if not (folder / "config.json").is_file():
        raise no_model_folder(folder)
    files = weight_files(folder)
    if not any(file.parent == folder for file in files):
        raise UserError(
            name, "has no model.safetensors", "load it with transformers and save it: save_pretrained(folder)"
        )
    for file in files:
        check_file(file)


def check_mergeable(sources: Sequence[Source]) -> None:
    """Refuse models whose tensors, tokenizer or text settings differ; reads no tensor.

    Raises:
        UserError: names the model that differs from the first one, and in what.
    """
    first = sources[0]
    for source in sources[1:]:
        _refuse_difference(source, first, "config.json", _configuration(source), _configuration(first))
        if _tokenizer_files(source) != _tokenizer_files(first):
            raise UserError(
                source.name,
                f"its tokenizer differs from that of {first.name}: rows of the word embeddings are different "
                "tokens",
                _SAME_START,
            )
        _refuse_difference(source, first, "text settings", _text_settings(source), _text_settings(first))
        _refuse_difference(source, first, "weights", _shapes(source), _shapes(first))


def merge_models(sources: Sequence[Source], folder: Path, method: Method) -> None:
    """Fill a folder with the merged model, without card and facts; see `check_mergeable`.

    Args:
        sources: models with weights whose sum is 1; two of them for slerp.
        folder: exists and is empty. The caller renames it afterwards.
        method: see the module's text.
    """
    _copy(sources[0].folder, folder)
    with ExitStack() as stack:
        models = [_open_tensors(source.folder, stack) for source in sources]
        for file in weight_files(folder):
            below = file.parent.relative_to(folder)
            for name, start in _data_offsets(file):
                tensors = (model[below, name].get_tensor(name) for model in models)
                merged = _merged(tensors, [float(source.weight) for source in sources], method)
                with file.open("r+b") as opened:
                    opened.seek(start)
                    opened.write(merged.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _merged(tensors: Iterator[Tensor], weights: Sequence[float], method: Method) -> Tensor:
    """Return the merged tensor in the dtype of the tensors; integers are equal and stay as they are."""
    first = next(tensors)
    if not first.is_floating_point():
        return first
    if method == "slerp":
        return slerp(first, next(tensors), weights[1]).to(first.dtype)
    total = first.double().mul_(weights[0])
    for tensor, weight in zip(tensors, weights[1:], strict=True):
        total.add_(tensor, alpha=weight)
    return total.to(first.dtype)


def slerp(x: Tensor, y: Tensor, t: float) -> Tensor:
    """Return the spherical interpolation of two tensors of equal shape, float64; t = 0 gives x."""
    x, y = x.double(), y.double()
    norms = x.norm() * y.norm()
    cosine = float((x * y).sum() / norms) if norms > 0 else 1.0
    if abs(cosine) > PARALLEL:
        return x * (1 - t) + y * t
    angle = torch.arccos(torch.tensor(cosine, dtype=torch.float64))
    return (torch.sin((1 - t) * angle) * x + torch.sin(t * angle) * y) / torch.sin(angle)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors of the backbone and of the modules behind it."""
    paths = {".", *(str(module.get("path", ".")) for module in read_json(folder / MODULES_FILE, list))}
    return sorted({file for path in paths for file in (folder / path).glob("model*.safetensors")})


def _open_tensors(folder: Path, stack: ExitStack) -> dict[tuple[Path, str], Any]:
    """Return the open file of each tensor, by sub-folder and name."""
    files: dict[tuple[Path, str], Any] = {}
    for file in weight_files(folder):
        opened = stack.enter_context(safe_open(file, "pt"))
        below, names = file.parent.relative_to(folder), sorted(opened.keys())
        files |= dict.fromkeys([(below, name) for name in names], opened)
    return files


def _data_offsets(file: Path) -> list[tuple[str, int]]:
    """Return the name of each tensor of a safetensors file, and where in the file its data begin."""
    with file.open("rb") as opened:
        size = int.from_bytes(opened.read(8), "little")
        header = json.loads(opened.read(size))
    header.pop("__metadata__", None)
    return [(name, 8 + size + facts["data_offsets"][0]) for name, facts in header.items()]


def _copy(source: Path, folder: Path) -> None:
    """Copy the files that make a model, without card and facts."""
    modules = {str(module.get("path", "")) for module in read_json(source / MODULES_FILE, list)}
    for path in {source, *(source / module for module in modules)}:
        (folder / path.relative_to(source)).mkdir(parents=True, exist_ok=True)
        for file in path.iterdir():
            if file.is_file() and file.suffix in _COPIED and file.name != SETTINGS_FILE:
                shutil.copyfile(file, folder / file.relative_to(source))


def _refuse_difference(
    source: Source, first: Source, part: str, values: dict[str, Any], expected: dict[str, Any]
) -> None:
    keys = sorted(key for key in values.keys() | expected.keys() if values.get(key) != expected.get(key))
    if keys:
        listed = "; ".join(f"{key}: expected {expected.get(key)}, got {values.get(key)}" for key in keys[:3])
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise UserError(
            source.name, f"its {part} differs from that of {first.name}: {listed}{more}", _SAME_START
        )


def _configuration(source: Source) -> dict[str, Any]:
    """Return what the configurations of the backbone and of the modules say."""
    config = {
        key: value
        for key, value in read_json(source.folder / "config.json").items()
        if key not in NEUTRAL_KEYS
    }
    modules = read_json(source.folder / MODULES_FILE, list)
    return config | {
        f"{module['path']}/config.json": read_json(source.folder / module["path"] / "config.json")
        for module in modules
        if module.get("path")
    }


def _text_settings(source: Source) -> dict[str, Any]:
    return TextSettings(**recorded_text(source.folder)).model_dump()


def _tokenizer_files(source: Source) -> Any:
    """Return what identifies the tokens: tokenizer.json without its state, else the vocabulary's files.

    `tokenizer_digest` needs a loaded tokenizer, and for some models their code; merging runs neither.
    """
    content = read_json(source.folder / "tokenizer.json")
    if content:
        return {key: value for key, value in content.items() if key not in ("truncation", "padding")}
    names = sorted(
        path for pattern in ("vocab*", "*.model", "merges.txt") for path in source.folder.glob(pattern)
    )
    return {path.name: sha256_of(path) for path in names}


def _shapes(source: Source) -> dict[str, str]:
    """Return dtype and shape of every tensor."""
    with ExitStack() as stack:
        slices = {
            str(below / name): opened.get_slice(name)
            for (below, name), opened in _open_tensors(source.folder, stack).items()
        }
        return {name: f"{part.get_dtype()} {part.get_shape()}" for name, part in slices.items()}

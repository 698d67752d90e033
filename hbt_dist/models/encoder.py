"""Embed texts with a transformers backbone, pooling, optional dense layers and normalisation; load and save.

Question and passage go through the same weights. A model on disk is one folder that three readers
understand: `transformers.AutoModel` (backbone and tokenizer), `sentence_transformers.SentenceTransformer`
(the whole encoder) and `load_encoder` (the whole encoder with its prefixes and lengths, kept in
``hbt_dist.json``). A plain transformers or sentence-transformers folder is read as well.

Shapes: n texts, T tokens (longest text of the n), H hidden width, D embedding width.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hbt_dist.common.devices import move
from hbt_dist.common.errors import UserError, first_line
from hbt_dist.common.files import write_json
from hbt_dist.models.attention import (
    Rows,
    can_pack,
    first_position,
    has_row_attention,
    positions,
    use_row_attention,
)
from hbt_dist.models.head import DenseLayer, load_dense, pool, pool_packed, save_dense
from hbt_dist.models.locations import check_hub_reachable, no_model_folder
from hbt_dist.models.settings import Attention, TextSettings

SETTINGS_FILE = "hbt_dist.json"
_write_json = partial(write_json, indent=2)


class Encoder(nn.Module):
    """Backbone, pooling, dense layers, normalisation: token ids to one vector per text."""

    def __init__(
        self, backbone: nn.Module, text: TextSettings, dense: list[DenseLayer] | None = None
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.text = text
        self.dense = nn.ModuleList(dense or [])

    @property
    def width(self) -> int:
        """Return D, the embedding width."""
        if len(self.dense):
            last = self.dense[-1]
            assert isinstance(last, DenseLayer)
            return last.linear.out_features
        return int(self.backbone.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, lengths: Sequence[int] | None = None
    ) -> Tensor:
        """Encode texts.

        Where `hbt_dist.models.attention` covers the backbone, and the lengths are known without asking an
        accelerator for them, rows are packed (`can_pack`) or get a ready mask.

        Args:
            input_ids: (n, T) int64, padded on either side.
            attention_mask: (n, T), 1 for tokens and 0 for padding.
            lengths: (n,) tokens of each row, which is padded on the right; default: counted, on a CPU.

        Returns:
            (n, D) embeddings, of length 1 if `text.normalize`.
        """
        if lengths is None and input_ids.device.type == "cpu":
            lengths = attention_mask.sum(1).tolist()
        if lengths is None or not has_row_attention(self.backbone):
            hidden_nTH = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            pooled = pool(hidden_nTH, attention_mask, self.text.pooling)
        elif min(lengths) > 0 and self.packs(input_ids.device):
            pooled = self._pooled_packed(input_ids, attention_mask, lengths)
        else:
            is_padded = min(lengths) < input_ids.shape[1]
            rows = Rows(lengths, attention_mask[:, None, None, :].bool() if is_padded else None)
            hidden_nTH = self.backbone(input_ids=input_ids, rows=rows).last_hidden_state
            pooled = pool(hidden_nTH, attention_mask, self.text.pooling)
        for layer in self.dense:
            pooled = layer(pooled)
        return nn.functional.normalize(pooled, dim=-1) if self.text.normalize else pooled

    def packs(self, device: torch.device, dtype: torch.dtype | None = None) -> bool:
        """Return whether rows are encoded without padding on a device.

        Args:
            device: of the inputs.
            dtype: of the products; default: that of autocast if it is on, else of the weights.
        """
        if dtype is None:
            autocast = torch.is_autocast_enabled(device.type)
            dtype = torch.get_autocast_dtype(device.type) if autocast else self.dtype
        return can_pack(self.backbone, device, dtype)

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the backbone's weights."""
        return next(self.backbone.parameters()).dtype

    def _pooled_packed(self, input_ids: Tensor, mask: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return the pooled embeddings (n, H) of rows that the backbone reads as one row of S tokens."""
        device, width = input_ids.device, input_ids.shape[1]
        in_row = positions(lengths)
        if device.type == "cpu":
            tokens_S = input_ids[mask.bool()]
        else:  # without asking the device where its ones are
            index = np.repeat(np.arange(len(lengths)) * width, lengths) + in_row
            tokens_S = input_ids.flatten()[move(torch.from_numpy(index), device)]
        ends = np.cumsum(lengths)
        starts = move(torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)), device)
        rows = Rows(lengths, starts=None if device.type == "cpu" else starts, packed=True)
        position_ids = move(torch.from_numpy(in_row + first_position(self.backbone)), device)
        output = self.backbone(input_ids=tokens_S[None], position_ids=position_ids[None], rows=rows)
        hidden_SH = output.last_hidden_state[0]
        return pool_packed(hidden_SH, starts, self.text.pooling)


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder with what is needed to give it texts."""

    encoder: Encoder
    tokenizer: Any
    source: str
    facts: dict[str, Any] = field(default_factory=dict)  # what its training recorded: languages, run, data

    @property
    def text(self) -> TextSettings:
        """Return how texts become vectors."""
        return self.encoder.text


def load_encoder(
    name_or_path: str | Path,
    *,
    trust_remote_code: bool = False,
    text: dict[str, Any] | None = None,
    attention: Attention = "auto",
) -> LoadedEncoder:
    """Load an encoder from a folder or from the model hub.

    Each setting comes from the first source that has it: `text`, the folder's ``hbt_dist.json``, its
    sentence-transformers files, the defaults of `TextSettings`.

    Args:
        name_or_path: folder of this project, of sentence-transformers or of transformers; or a hub name.
        trust_remote_code: run Python code of the model folder. Off by default.
        text: settings that replace what the folder records.
        attention: see `ModelSettings`.

    Raises:
        UserError: the folder holds no model, or an unsupported sentence-transformers module.
    """
    import transformers

    source = str(name_or_path)
    folder = Path(source)
    if folder.exists() and not (folder / "config.json").is_file():
        raise no_model_folder(folder)
    is_hub_name = source.count("/") <= 1 and not source.startswith((".", "~", "/"))
    if not folder.exists() and not is_hub_name:
        raise UserError(source, "no such model folder", "give an existing folder or a name on the model hub")
    if not folder.exists():
        check_hub_reachable(source)
    try:
        backbone = load_backbone(source, trust_remote_code, attention)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise UserError(
            source,
            f"cannot be loaded as a model: {first_line(error)}",
            "check the name, or the folder's files",
        ) from error
    recorded, dense = _recorded_settings(folder) if folder.is_dir() else _hub_settings(source)
    settings = TextSettings(**{**recorded, **(text or {})})
    return LoadedEncoder(Encoder(backbone, settings, dense).eval(), tokenizer, source, _facts(folder))


def _facts(folder: Path) -> dict[str, Any]:
    return dict(_read_json(folder / SETTINGS_FILE).get("training", {}))


def load_backbone(source: str, trust_remote_code: bool = False, attention: Attention = "auto") -> nn.Module:
    """Load `AutoModel` without the pooler of some architectures: unused weights never get a gradient."""
    import transformers

    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "dtype": torch.float32}
    if attention != "auto":
        options["attn_implementation"] = attention
    try:
        backbone = transformers.AutoModel.from_pretrained(source, add_pooling_layer=False, **options)
    except TypeError:
        backbone = transformers.AutoModel.from_pretrained(source, **options)
    if attention == "auto":
        use_row_attention(backbone)
    return backbone


def _hub_settings(name: str) -> tuple[dict[str, Any], list[DenseLayer]]:
    """Return the settings of a hub model: fetch its small files (and dense layers) into the hub's cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [SETTINGS_FILE, "modules.json", "*sentence_*.json", "*_*/config.json", "*_Dense/*"]
    try:
        return _recorded_settings(Path(snapshot_download(name, allow_patterns=patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        return {}, []  # the model itself came from the local cache of plain transformers files


def _recorded_settings(folder: Path) -> tuple[dict[str, Any], list[DenseLayer]]:
    settings_file = folder / SETTINGS_FILE
    modules = _read_json(folder / "modules.json")
    settings, dense = _sentence_transformers_settings(folder, modules) if modules else ({}, [])
    if settings_file.is_file():
        try:
            settings = TextSettings(**_read_json(settings_file)["text"]).model_dump()
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                str(settings_file), f"unreadable settings: {error}", "export the model again"
            ) from error
    return settings, dense


_POOLING = {
    "mean": "mean",
    "cls": "cls",
    "lasttoken": "last",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


def _sentence_transformers_settings(
    folder: Path, modules: list[dict[str, Any]]
) -> tuple[dict[str, Any], list[DenseLayer]]:
    settings: dict[str, Any] = {}
    dense: list[DenseLayer] = []
    normalized = False
    for module in modules:
        kind = module["type"].rsplit(".", 1)[-1]
        path = folder / module["path"]
        if kind == "Transformer":
            limit = _read_json(path / "sentence_bert_config.json").get("max_seq_length")
            if limit is None:
                limit = _tokenizer_limit(path)
            if limit is not None:
                settings |= {"max_question_tokens": int(limit), "max_passage_tokens": int(limit)}
        elif kind == "Pooling":
            settings["pooling"] = _pooling_of(path / "config.json")
        elif kind == "Dense":
            dense.append(load_dense(path))
        elif kind == "Normalize":
            normalized = True
        else:
            raise UserError(
                str(folder / "modules.json"),
                f"the sentence-transformers module {kind!r} is not supported",
                "supported: Transformer, Pooling (mean, cls, last token), Dense, Normalize",
            )
    file = folder / "config_sentence_transformers.json"
    config = _read_json(file)
    prompts = config.get("prompts") or {}
    if file.is_file():
        settings["question_prefix"] = prompts.get("query", "")
        settings["passage_prefix"] = prompts.get("passage", prompts.get("document", ""))
    # By default sentence-transformers compares by cosine, for embeddings of any length.
    similarity = config.get("similarity_fn_name") or "cosine"
    if similarity not in ("cosine", "dot") and (similarity, normalized) != ("euclidean", True):
        raise UserError(
            str(file),
            f"similarity_fn_name {similarity!r} is not supported",
            "supported: cosine, dot; euclidean after a Normalize module, where it orders as cosine does",
        )
    settings["normalize"] = normalized or similarity == "cosine"
    return settings, dense


def _tokenizer_limit(folder: Path) -> int | None:
    limit = _read_json(folder / "tokenizer_config.json").get("model_max_length")
    return int(limit) if limit is not None and limit < 100_000 else None


def _read_json(file: Path) -> Any:
    """Return the content of a JSON file; an empty object if it does not exist."""
    return json.loads(file.read_text("utf-8")) if file.is_file() else {}


def _pooling_of(file: Path) -> str:
    config = json.loads(file.read_text("utf-8"))
    active = [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    modes = active or [str(config.get("pooling_mode"))]
    if len(modes) != 1 or modes[0] not in _POOLING:
        raise UserError(
            str(file), f"pooling {', '.join(modes)} is not supported", "supported: mean, cls, last token"
        )
    return _POOLING[modes[0]]


def save_encoder(
    encoder: Encoder,
    tokenizer: Any,
    folder: Path,
    *,
    backbone_state: dict[str, Tensor] | None = None,
    card: str = "",
    facts: dict[str, Any] | None = None,
) -> None:
    """Write a model folder that transformers, sentence-transformers and `load_encoder` read.

    This function fills `folder`, which must exist and be empty. The caller renames it afterwards.

    Args:
        backbone_state: weights of the backbone where `encoder` does not hold them (ZeRO-3 shards).
        card: the model card, Markdown.
        facts: what the training was (languages, run, data), kept in ``hbt_dist.json``.
    """
    backbone: Any = encoder.backbone
    state = backbone_state if backbone_state is not None else backbone.state_dict()
    # transformers would write on rank 0 of a process group only; here the calling rank writes.
    backbone.should_save_on_this_rank = bool
    try:
        backbone.save_pretrained(
            folder, state_dict={name: value.contiguous() for name, value in state.items()}
        )
    finally:
        del backbone.should_save_on_this_rank
    limit = max(encoder.text.max_question_tokens, encoder.text.max_passage_tokens)
    tokenizer.model_max_length = limit
    tokenizer.save_pretrained(folder)
    _write_json(
        folder / SETTINGS_FILE,
        {"format": 1, "text": encoder.text.model_dump(), "training": facts or {}},
    )
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": False})
    pooling = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}[encoder.text.pooling]
    config = {f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "lasttoken")}
    (folder / "1_Pooling").mkdir()
    width = int(backbone.config.hidden_size)
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": width, **config})
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    for layer in encoder.dense:
        assert isinstance(layer, DenseLayer)
        name = f"{len(modules)}_Dense"
        save_dense(layer, folder / name)
        modules.append((name, "Dense"))
    if encoder.text.normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
        (folder / modules[-1][0]).mkdir()
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    _write_json(folder / "modules.json", listed)
    prompts = {"query": encoder.text.question_prefix, "passage": encoder.text.passage_prefix}
    similarity = "cosine" if encoder.text.normalize else "dot"
    _write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {
                package: importlib.import_module(package).__version__ for package in ("transformers", "torch")
            },
            "prompts": {**prompts, "document": prompts["passage"]},
            "default_prompt_name": None,
            "similarity_fn_name": similarity,
        },
    )
    if card:
        (folder / "README.md").write_text(card, "utf-8")

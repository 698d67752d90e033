"""Write model folders that transformers, sentence-transformers and `load_encoder` read."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from hbt_dist.common.console import note
from hbt_dist.common.files import write_json
from hbt_dist.models.adapters import TrainedAdapter, save_adapter
from hbt_dist.models.encoder import Encoder
from hbt_dist.models.files import read_json
from hbt_dist.models.folders import CONFIG_FILE, SETTINGS_FILE, Prompts
from hbt_dist.models.head import DenseLayer, cut_layer, save_dense
from hbt_dist.models.pooler import pooler_weights
from hbt_dist.models.settings import TextSettings
from hbt_dist.models.weights import quiet_transformers

_write_json = partial(write_json, indent=2)


def save_encoder(
    encoder: Encoder,
    tokenizer: Any,
    folder: Path,
    *,
    text: TextSettings | None = None,
    backbone_state: dict[str, Tensor] | None = None,
    adapter: TrainedAdapter | None = None,
    card: str = "",
    facts: dict[str, Any] | None = None,
    prompts: Prompts | None = None,
) -> None:
    """Write a model folder that transformers, sentence-transformers and `load_encoder` read.

    This function fills `folder`, which must exist and be empty. The caller renames it afterwards.

    Args:
        text: settings to record; default: the encoder's.
        backbone_state: weights of the backbone where `encoder` does not hold them (ZeRO-3 shards).
        adapter: write the adapters of the backbone alone, and the name of this base.
        card: the model card, Markdown.
        facts: what the training was (languages, run, data), kept in ``hbt_dist.json``.
        prompts: of the start model; names except query, document and passage are kept.
    """
    backbone: Any = encoder.backbone
    text = text or encoder.text
    if adapter is not None:
        save_adapter(backbone, adapter, folder)
        if text.attention == "bidirectional" and getattr(backbone.config, "is_causal", None) is False:
            note(
                "an adapter folder has no direction of attention: sentence-transformers needs "
                "config_kwargs={'is_causal': False} to load this one, or export the merged model"
            )
    else:
        _save_backbone(backbone, folder, backbone_state)
    limit = max(text.max_question_tokens, text.max_passage_tokens)
    tokenizer.model_max_length = limit
    tokenizer.save_pretrained(folder)
    _write_json(
        folder / SETTINGS_FILE,
        {
            "format": 1,
            "text": text.model_dump(),
            "training": facts or {},
            **({} if adapter is None else adapter.facts),
        },
    )
    _write_json(
        folder / "sentence_bert_config.json", {"max_seq_length": limit, "do_lower_case": text.lowercase}
    )
    pooling = {"mean": "mean_tokens", "cls": "cls_token", "last": "lasttoken"}[text.pooling]
    config: dict[str, Any] = {
        f"pooling_mode_{mode}": mode == pooling for mode in ("cls_token", "mean_tokens", "lasttoken")
    }
    (folder / "1_Pooling").mkdir()
    config |= {"word_embedding_dimension": int(backbone.config.hidden_size)}
    config |= {"include_prompt": text.include_prompt}
    _write_json(folder / "1_Pooling" / "config.json", config)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    cut = [] if text.width in (None, encoder.full_width) else [cut_layer(encoder.full_width, text.width)]
    for layer in [*encoder.dense, *cut]:
        assert isinstance(layer, DenseLayer)
        name = f"{len(modules)}_Dense"
        save_dense(layer, folder / name)
        modules.append((name, "Dense"))
    if text.normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
        (folder / modules[-1][0]).mkdir()
    listed = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(modules)
    ]
    _write_json(folder / "modules.json", listed)
    prompts = prompts or Prompts()
    of_roles = {
        "query": text.question_prefix,
        "document": text.passage_prefix,
        "passage": text.passage_prefix,
    }
    similarity = "cosine" if text.normalize else "dot"
    _write_json(
        folder / CONFIG_FILE,
        {
            "__version__": {
                package: importlib.import_module(package).__version__ for package in ("transformers", "torch")
            },
            "prompts": {**prompts.by_name, **of_roles},
            "default_prompt_name": prompts.default,
            "similarity_fn_name": similarity,
        },
    )
    if card:
        (folder / "README.md").write_text(card, "utf-8")


def _save_backbone(backbone: Any, folder: Path, state: dict[str, Tensor] | None) -> None:
    state = state if state is not None else backbone.state_dict()
    state = {**state, **pooler_weights(backbone)}
    # transformers would write on rank 0 of a process group only; here the calling rank writes.
    backbone.should_save_on_this_rank = bool
    try:
        with quiet_transformers():
            backbone.save_pretrained(
                folder, state_dict={name: value.contiguous() for name, value in state.items()}
            )
    finally:
        del backbone.should_save_on_this_rank
    # A backbone in bf16 has trained weights in float32; readers load what `dtype` names.
    stored = next(value.dtype for value in state.values() if value.is_floating_point())
    config_file = folder / "config.json"
    _write_json(config_file, read_json(config_file) | {"dtype": str(stored).removeprefix("torch.")})

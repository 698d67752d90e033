"""Fit decoders for embeddings: direction of attention, end token, pooling; refuse what cannot embed a text.

transformers and sentence-transformers read the direction from `is_causal` of ``config.json``, and the end
token from ``tokenizer.json``. Both are changed there, so that all readers of an exported folder repeat them.
"""

from __future__ import annotations

import json
from typing import Any

import torch
from tokenizers import processors
from torch import Tensor, nn

from hbt_dist.common.errors import UserError
from hbt_dist.models.layers import word_embeddings
from hbt_dist.models.settings import TextSettings
from hbt_dist.models.tokenizer import ends_texts

_PROBE_TOKENS = 8


class _FirstLayerError(Exception):
    """Ends a forward pass after its first layer."""


def is_causal(backbone: Any) -> bool | None:
    """Return whether the first token of a text ignores the tokens behind it, by trying. Cost: one layer.

    Returns:
        None if the trial shows nothing: it fails, or no token depends on another one, as in models whose
        kernel this machine lacks.
    """
    rows = _vocabulary_rows(backbone)
    text = torch.arange(_PROBE_TOKENS) % rows
    changed = (text + rows // 2) % rows
    try:
        tokens = _first_layer(backbone, text)
        if not torch.equal(tokens[0], _first_layer(backbone, torch.cat([text[:1], changed[1:]]))[0]):
            return False
        after = _first_layer(backbone, torch.cat([changed[:1], text[1:]]))
    except Exception:  # the code of any model
        return None
    return None if torch.equal(tokens[1:], after[1:]) else True


def _vocabulary_rows(backbone: Any) -> int:
    rows = getattr(word_embeddings(backbone), "num_embeddings", 0)
    return int(rows or getattr(backbone.config, "vocab_size", 2 * _PROBE_TOKENS))


def _first_layer(backbone: Any, text: Tensor) -> Tensor:
    """Return what the first layer, or a model without marked layers, makes of a text (T,): (T, H)."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    outputs: list[Any] = []

    def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output)
        raise _FirstLayerError

    layers = [module for module in backbone.modules() if isinstance(module, GradientCheckpointingLayer)]
    hooks = [layer.register_forward_hook(keep) for layer in layers[:1]]
    was_training, implementation = backbone.training, backbone.config._attn_implementation
    needs_gpu = "flash" in str(implementation)
    if needs_gpu:
        backbone.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            ids = text[None].to(next(backbone.parameters()).device)
            no_keys = {"use_cache": False} if getattr(backbone.config, "use_cache", False) else {}
            outputs.append(backbone.eval()(input_ids=ids, attention_mask=torch.ones_like(ids), **no_keys)[0])
    except _FirstLayerError:
        pass
    finally:
        backbone.train(was_training)
        if needs_gpu:
            backbone.set_attn_implementation(implementation)
        for hook in hooks:
            hook.remove()
    hidden = outputs[0][0] if isinstance(outputs[0], tuple) else outputs[0]
    return hidden.flatten(0, -2)


def set_direction(backbone: Any, attention: str, source: str) -> tuple[bool, list[str]]:
    """Let a model attend in the direction that the text settings ask for.

    Returns:
        whether the model is causal now, and a line if no trial shows it.

    Raises:
        UserError: the model cannot attend in that direction.
    """
    config, notes = backbone.config, []
    causal = is_causal(backbone)
    if causal is None:
        causal = _is_usually_causal(config)
        notes.append(
            f"{source}: no text shows in which direction {type(backbone).__name__} attends; by its "
            f"configuration, {'a token sees its past' if causal else 'tokens see the whole text'}"
        )
    if attention == "model" or causal == (attention == "causal"):
        return causal, notes
    if attention == "bidirectional" or getattr(config, "is_causal", None) is False:
        config.is_causal = attention == "causal"
        if is_causal(backbone) is (attention == "causal"):
            return not causal, notes
    raise UserError(
        "model.text.attention",
        f"is {attention}, but {type(backbone).__name__} of {source} cannot attend so",
        "set it to model",
    )


def _is_usually_causal(config: Any) -> bool:
    """Return what a configuration says of the direction, or that of models for the same tasks."""
    from transformers.models.auto import modeling_auto

    if (declared := getattr(config, "is_causal", None)) is not None:
        return bool(declared)
    generates = config.model_type in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    fills_gaps = config.model_type in modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return bool(getattr(config, "is_decoder", False)) or (generates and not fills_gaps)


def check_pooling(settings: TextSettings, causal: bool, source: str) -> tuple[TextSettings, list[str]]:
    """Return settings whose pooling fits the direction of attention, and a line on a doubtful one.

    Args:
        settings: of the run and the folder; if neither names the pooling, causal models take the last token.
        causal: whether a token sees its past only.
        source: folder or hub name, for messages.

    Raises:
        UserError: the first token, which sees nothing else, would be every text's embedding.
    """
    if not causal or settings.pooling == "last":
        return settings, []
    if "pooling" not in settings.model_fields_set:
        line = f"{source}: a causal model without a recorded pooling takes the last token"
        return settings.model_copy(update={"pooling": "last"}), [line]
    if settings.pooling == "cls" and settings.include_prompt:  # else the first token behind the prompt
        raise UserError(
            source,
            "pooling cls of a causal model: the first token sees no other token, so that vectors are equal",
            "set model.text.pooling: last, or model.text.attention: bidirectional",
        )
    return settings, [
        f"{source}: pooling {settings.pooling} of a causal model takes tokens that have not seen its end; "
        "last, or attention: bidirectional, is usual"
    ]


def add_end_token(
    tokenizer: Any, settings: TextSettings, source: str, *, is_trained: bool
) -> tuple[TextSettings, list[str]]:
    """Let the tokenizer end every text in its end token if the settings ask for one.

    Args:
        tokenizer: is changed in place; it then cuts texts before the end token, and saves so.
        settings: `append_eos` None becomes true if pooling takes the last token and no end token is added.
        source: folder or hub name, for messages.
        is_trained: the folder records pooling `last`; unless it also records `append_eos`, its vectors have
            been made without an end token and stay so.

    Returns:
        settings with `append_eos` resolved, and a line on texts without an end.

    Raises:
        UserError: an end token is needed, but the tokenizer has none or cannot be changed.
    """
    if ends_texts(tokenizer):
        return settings.model_copy(update={"append_eos": bool(settings.append_eos)}), []
    append = settings.append_eos
    if append is None:
        append = settings.pooling == "last" and not is_trained
    settings = settings.model_copy(update={"append_eos": append})
    if not append:
        line = (
            f"{source}: the tokenizer adds no end token, so pooling 'last' takes the last word of each text; "
            "set model.text.append_eos: true to train with one"
        )
        return settings, [line] if settings.pooling == "last" else []
    if tokenizer.eos_token_id is None:
        raise UserError(
            source,
            "expected an end token for model.text.append_eos and pooling last, got a tokenizer without one",
            "set eos_token in its tokenizer_config.json, or model.text.append_eos: false",
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            source,
            f"{type(tokenizer).__name__} is written in Python, and gets no end token",
            "save a tokenizer.json into the folder, or set model.text.append_eos: false",
        )
    backend.post_processor = _with_end(backend.post_processor, tokenizer.eos_token, tokenizer.eos_token_id)
    return settings, []


def _with_end(processor: Any, token: str, token_id: int) -> Any:
    """Return a post-processor that also puts a token behind every text."""
    parts = [] if processor is None else _parts(processor)
    templates = [part for part in parts if part["type"] == "TemplateProcessing"]
    if not templates:
        templates = _parts(processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[]))
        parts += templates
    template = templates[-1]
    for pieces in (template["single"], template["pair"]):
        (last,) = pieces[-1].values()
        pieces.append({"SpecialToken": {"id": token, "type_id": last["type_id"]}})
    template["special_tokens"][token] = {"id": token, "ids": [token_id], "tokens": [token]}
    ending = processors.Sequence([])
    ending.__setstate__(json.dumps({"type": "Sequence", "processors": parts}).encode())
    return ending


def _parts(processor: Any) -> list[dict[str, Any]]:
    """Return the parts of a post-processor as JSON: tokenizers gives no access to a template."""
    state = json.loads(processor.__getstate__())
    return list(state["processors"]) if state["type"] == "Sequence" else [state]

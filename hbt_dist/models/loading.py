"""Load an encoder from a folder or from the model hub, and refuse what would compute something else.

A model on disk is one folder that three readers understand: `transformers.AutoModel` (backbone and
tokenizer), `sentence_transformers.SentenceTransformer` (the whole encoder) and `load_encoder` (the whole
encoder with its prefixes and lengths, kept in ``hbt_dist.json``). A plain transformers or
sentence-transformers folder is read as well.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from hbt_dist.common.console import note
from hbt_dist.common.errors import UserError
from hbt_dist.models.adapters import (
    TrainedAdapter,
    apply_adapter,
    explained_base,
    find_adapter,
    fingerprint_of,
)
from hbt_dist.models.attention import use_row_attention
from hbt_dist.models.decoders import add_end_token, check_pooling, set_direction
from hbt_dist.models.encoder import Encoder, LoadedEncoder
from hbt_dist.models.files import read_json
from hbt_dist.models.folders import (
    SETTINGS_FILE,
    Prompts,
    check_files,
    recorded_dense,
    recorded_prompts,
    recorded_text,
)
from hbt_dist.models.head import DenseLayer
from hbt_dist.models.locations import check_hub_reachable
from hbt_dist.models.positions import most_tokens
from hbt_dist.models.settings import LIMITS, AttentionImplementation, LoraSettings, TextSettings
from hbt_dist.models.tokenizer import check_vocabulary, load_tokenizer, lower_case, set_padding, unheeded
from hbt_dist.models.weights import explained, load_weights

#: Encoder-decoders -> class of their encoder, which sentence-transformers takes too.
_T5_ENCODERS = {"t5": "T5EncoderModel", "mt5": "MT5EncoderModel", "umt5": "UMT5EncoderModel"}


def load_encoder(
    name_or_path: str | Path,
    *,
    trust_remote_code: bool = False,
    text: dict[str, Any] | None = None,
    at_least: dict[str, int] | None = None,
    attention_implementation: AttentionImplementation = "auto",
    lora: LoraSettings | None = None,
    dtype: torch.dtype = torch.float32,
    quiet: bool = False,
) -> LoadedEncoder:
    """Load an encoder from a folder or from the model hub.

    Each setting comes from the first source that has it: `text`, the folder's ``hbt_dist.json``, its
    sentence-transformers files, the defaults of `TextSettings`. Length limits of the folder or of the
    defaults are lowered to the positions of the model.

    Args:
        name_or_path: folder of this project, of sentence-transformers or of transformers, or of an adapter,
            which is merged into its base; or a hub name.
        trust_remote_code: run Python code of the model folder. Off by default.
        text: settings that replace what the folder records.
        at_least: max_question_tokens, max_passage_tokens: the folder's limits are raised to these.
        attention_implementation: see `ModelSettings`.
        lora: train the adapter of an adapter folder further instead of merging it; the backbone of other
            folders gets no adapter (see `hbt_dist.models.adapters.add_adapter`).
        dtype: of the backbone's weights, read so from the file: no float32 copy is made for bfloat16.
        quiet: do not print the notes, see `LoadedEncoder.notes`.

    Raises:
        UserError: the folder holds no whole encoder or no fitting tokenizer, something in it is not
            supported, or a limit in `text` is above the positions of the model.
    """
    source = str(name_or_path)
    adapter = find_adapter(source)
    weights_source = adapter.base if adapter else source
    with explained_base(adapter):
        check_source(weights_source)
        backbone, notes = load_backbone(weights_source, trust_remote_code, attention_implementation, dtype)
    trained = None
    if adapter is not None:
        trained = TrainedAdapter(adapter.base, fingerprint_of(backbone)) if lora else None
        backbone = apply_adapter(backbone, adapter, lora)
        notes.append(adapter.note)
    tokenizer = load_tokenizer(adapter.tokenizer_source if adapter else source, trust_remote_code)
    check_vocabulary(tokenizer, backbone, source)
    described = adapter.settings_source if adapter else source
    folder = Path(described) if Path(described).is_dir() else hub_settings_folder(described)
    (dense, recorded), prompts = _recorded(folder), recorded_prompts(folder)
    text = text or {}
    raised = {key: max(limit, recorded.get(key, 0)) for key, limit in (at_least or {}).items()}
    settings, lowered = _fitting(TextSettings(**{**recorded, **raised, **text}), text, backbone, source)
    causal, direction = set_direction(backbone, settings.attention, source)
    settings, pooled = check_pooling(settings, causal, source)
    is_trained = recorded.get("pooling") == "last"
    settings, ends = add_end_token(tokenizer, settings, source, is_trained=is_trained)
    notes += [
        *lowered,
        *direction,
        *pooled,
        *ends,
        *set_padding(tokenizer, source),
        *_prompt_notes(prompts, text, folder),
        *unheeded(tokenizer, text, source),
    ]
    if settings.lowercase:
        lower_case(tokenizer, source)
    encoder = Encoder(backbone, settings, dense).eval()
    _check_widths(encoder, source)
    if not quiet:
        for line in notes:
            note(line)
    facts = dict(read_json(folder / SETTINGS_FILE).get("training", {}))
    most = most_tokens(backbone)
    limits = {key: min(recorded[key], most or recorded[key]) for key in LIMITS if key in recorded}
    return LoadedEncoder(encoder, tokenizer, source, facts, tuple(notes), limits, trained, prompts)


def check_source(source: str) -> None:
    """Refuse a damaged folder, and what is neither a folder nor a name that the hub can have.

    Raises:
        UserError: see `hbt_dist.models.folders.check_files`.
    """
    check_present(source)
    if Path(source).is_dir():
        check_files(Path(source))
    else:
        check_hub_reachable(source)


def check_present(source: str, key: str | None = None) -> None:
    """Refuse a path that is not a folder; names of the hub pass.

    Args:
        source: folder or hub name.
        key: the setting that names it, for messages.

    Raises:
        UserError: there is a file, or nothing.
    """
    folder = Path(source)
    location = source if key is None else f"{key} {source}"
    if folder.is_file():
        raise UserError(location, "expected a model folder, got a file", f"give the folder: {folder.parent}")
    if not folder.exists() and (source.count("/") > 1 or source.startswith((".", "~", "/"))):
        raise UserError(
            location, "no such model folder", "give an existing folder or a name on the model hub"
        )


def load_backbone(
    source: str, trust_remote_code: bool, implementation: AttentionImplementation, dtype: torch.dtype
) -> tuple[nn.Module, list[str]]:
    """Load `AutoModel` without the pooler of some architectures: unused weights never get a gradient.

    Returns:
        the backbone, and a line on weights of the file that it does not use.

    Raises:
        UserError: the files do not hold exactly the weights of a text encoder.
    """
    import transformers

    options: dict[str, Any] = {"trust_remote_code": trust_remote_code, "dtype": dtype}
    with explained(source):
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
    kind = transformers.AutoModel
    if config.model_type in _T5_ENCODERS:
        kind = getattr(transformers, _T5_ENCODERS[config.model_type])
    elif config.is_encoder_decoder:
        raise UserError(
            source,
            f"is an encoder-decoder ({config.model_type}), which is not supported",
            "give an encoder (BERT, XLM-R, T5, ...) or a decoder",
        )
    if implementation != "auto":
        options["attn_implementation"] = implementation
    backbone, notes = load_weights(kind, source, **options)
    if getattr(backbone, "main_input_name", "input_ids") != "input_ids":
        raise UserError(
            source,
            f"{type(backbone).__name__} takes no token ids (input_ids), which is not supported",
            "give an encoder (BERT, XLM-R, T5, ...) or a decoder",
        )
    if implementation == "auto":
        use_row_attention(backbone)
    return backbone, notes


def _recorded(folder: Path) -> tuple[list[DenseLayer], dict[str, Any]]:
    """Return the dense layers and the text settings of a folder; a layer that only cuts is the width."""
    dense, cut = recorded_dense(folder)
    text = recorded_text(folder)
    if cut is not None:
        text["width"] = min(cut, text.get("width") or cut)
    return dense, text


def _fitting(
    settings: TextSettings, given: dict[str, Any], backbone: nn.Module, source: str
) -> tuple[TextSettings, list[str]]:
    """Return the settings with limits within the model's positions, and a line per lowered limit."""
    most = most_tokens(backbone)
    lowered = {}
    for key in LIMITS:
        limit = getattr(settings, key)
        if most is None or limit <= most:
            continue
        if key in given:
            raise UserError(
                key,
                f"is {limit}, but {source} has positions for {most} tokens",
                f"set it to {most} or less",
            )
        lowered[key] = most
    lines = [
        f"{source}: {key} {getattr(settings, key)} is lowered to {most}, the positions of the model"
        for key in lowered
    ]
    return settings.model_copy(update=lowered), lines


def _check_widths(encoder: Encoder, source: str) -> None:
    """Refuse dense layers that do not fit the backbone, and a cut that is wider than the embeddings."""
    config: Any = encoder.backbone.config
    width = int(config.hidden_size)
    for layer in encoder.dense:
        assert isinstance(layer, DenseLayer)
        if layer.linear.in_features != width:
            raise UserError(
                source,
                f"a Dense module expects width {layer.linear.in_features}, got {width}",
                "check its modules.json",
            )
        width = layer.linear.out_features
    if encoder.width > encoder.full_width:
        raise UserError(
            f"width of {source}",
            f"expected at most {encoder.full_width}, the values of its embeddings, got {encoder.width}",
            "lower the width: model.text.width, export --width, or truncate_dim of the model's files",
        )


def _prompt_notes(prompts: Prompts, given: dict[str, Any], folder: Path) -> list[str]:
    """Return a line if the folder has prompts whose names let expect that they are used."""
    unused = prompts.unused()
    if not unused or "passage_prefix" in given or (folder / SETTINGS_FILE).is_file():
        return []
    return [
        f"{folder}: prompts {', '.join(map(repr, unused))} are not used, as in encode_query and "
        "encode_document of sentence-transformers; question_prefix and passage_prefix replace its prompts"
    ]


def hub_settings_folder(name: str) -> Path:
    """Fetch the small files (and dense layers) of a hub model into the hub's cache; return their folder."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = [SETTINGS_FILE, "modules.json", "*sentence_*.json", "*_*/config.json", "*_Dense/*"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError):
        return Path(name)  # has no files; the model came from the local cache of plain transformers files

"""Tokenizers of every kind that a vocabulary cut knows, trained on given texts, and tiny models with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.models.kinds import SPECIAL, special_tokens

SIZE = 1500


def unigram() -> tuple[Tokenizer, Any]:
    """As XLM-R has it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        show_progress=False, vocab_size=SIZE, special_tokens=special_tokens(), unk_token="<unk>"
    )


def word_pieces() -> tuple[Tokenizer, Any]:
    """As BERT has it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, trainers.WordPieceTrainer(
        show_progress=False, vocab_size=SIZE, special_tokens=special_tokens()
    )


def character_pairs() -> tuple[Tokenizer, Any]:
    """As this project's models from scratch have it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    return tokenizer, trainers.BpeTrainer(
        show_progress=False, vocab_size=SIZE, special_tokens=special_tokens()
    )


def byte_fallback() -> tuple[Tokenizer, Any]:
    """As Llama 2 has it: a text is one word for the merges."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    return tokenizer, trainers.BpeTrainer(
        show_progress=False, vocab_size=SIZE, special_tokens=special_tokens() + bytes_
    )


def byte_level() -> tuple[Tokenizer, Any]:
    """As ModernBERT, GPT-2 and Qwen have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        show_progress=False, vocab_size=SIZE, special_tokens=special_tokens()[:3], initial_alphabet=alphabet
    )
    return tokenizer, trainer


#: Kind of tokenizer -> (its parts, architecture, keys of the configuration, whether words are independent).
KINDS: dict[str, tuple[Any, str, dict[str, Any], bool]] = {
    "unigram": (unigram, "xlm-roberta", {"max_position_embeddings": 66}, True),
    "word pieces": (word_pieces, "bert", {}, True),
    "character pairs": (character_pairs, "bert", {}, True),
    "byte fallback": (byte_fallback, "llama", {}, False),
    "byte level": (byte_level, "qwen3", {"head_dim": 8}, True),
}


def tokenizer_of(kind: str, texts: list[str]) -> Any:
    """A tokenizer with `<mask>` behind all pieces."""
    tokenizer, trainer = KINDS[kind][0]()
    tokenizer.train_from_iterator(texts, trainer)
    start, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    if kind == "word pieces":
        tokenizer.post_processor = processors.BertProcessing(("</s>", end), ("<s>", start))
    else:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
        )
    special = {key: token for key, token in SPECIAL.items() if kind != "byte level" or key != "unk_token"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, mask_token="<mask>", **special)


def save_model(folder: Path, kind: str, texts: list[str]) -> Path:
    """Write a model folder of transformers; it has five rows more than pieces."""
    tokenizer = tokenizer_of(kind, texts)
    _, architecture, keys, _ = KINDS[kind]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        architecture,
        vocab_size=len(tokenizer) + 5,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        intermediate_size=24,
        **{"max_position_embeddings": 64, **keys},
        **{f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")},
    )
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

"""Tiny model folders of today's architectures, with a tokenizer of that architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXTS = ["what is the capital of finland", "helsinki", "mikä on suomen pääkaupunki ja missä se on"] * 4
POSITIONS = 64
SPECIAL = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "cls_token": "<s>",
    "sep_token": "</s>",
}


def word_pieces() -> Tokenizer:
    """As BERT has it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    train(
        tokenizer,
        trainers.WordPieceTrainer(vocab_size=120, show_progress=False, special_tokens=special_tokens()),
    )
    return tokenizer


def unigram() -> Tokenizer:
    """As XLM-R has it."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=90, show_progress=False, special_tokens=special_tokens(), unk_token="<unk>"
    )
    train(tokenizer, trainer)
    return tokenizer


def bytes_without_words() -> Tokenizer:
    """As Llama 2 has it: no pre-tokenizer, so that a text is one word for the merges."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    tokenizer.decoder = decoders.ByteFallback()
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    train(
        tokenizer,
        trainers.BpeTrainer(vocab_size=400, show_progress=False, special_tokens=special_tokens() + bytes_),
    )
    return tokenizer


def byte_level() -> Tokenizer:
    """As ModernBERT and Qwen have it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=360, special_tokens=special_tokens(), initial_alphabet=alphabet, show_progress=False
    )
    train(tokenizer, trainer)
    return tokenizer


def special_tokens() -> list[str]:
    return ["<s>", "<pad>", "</s>", "<unk>"]


def train(tokenizer: Tokenizer, trainer: Any) -> None:
    tokenizer.train_from_iterator(TEXTS, trainer)
    start, end = tokenizer.token_to_id("<s>"), tokenizer.token_to_id("</s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )


#: Architecture -> (tokenizer, keys of its configuration).
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "bert": (word_pieces, {}),
    "xlm-roberta": (unigram, {"max_position_embeddings": POSITIONS + 2}),
    "llama": (bytes_without_words, {}),
    "modernbert": (byte_level, {"global_attn_every_n_layers": 1}),
    "qwen3": (byte_level, {"head_dim": 8}),
}


def save_kind(folder: Path, kind: str, **changes: Any) -> Path:
    """Write a model folder of transformers; positions for 64 tokens unless `changes` of its keys say more."""
    make_tokenizer, keys = KINDS[kind]
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=make_tokenizer(), **SPECIAL)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        kind,
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "intermediate_size": 24,
            "max_position_embeddings": POSITIONS,
            "pad_token_id": 1,
            **keys,
            **changes,
        },
    )
    transformers.AutoModel.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder

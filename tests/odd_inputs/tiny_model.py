"""Write a model whose scores can be computed by hand: the cosine of two bags of words."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from hbt_dist.models.encoder import Encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import TextSettings

WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
POSITIONS = 64


def save_bag_of_words(folder: Path) -> Path:
    """Write a model without layers, whose word vectors are orthogonal."""
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    size = len(vocabulary)
    backbone = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=size,
            hidden_size=size,
            num_hidden_layers=0,
            num_attention_heads=1,
            intermediate_size=4,
            max_position_embeddings=POSITIONS,
        ),
        add_pooling_layer=False,
    )
    with torch.no_grad():
        backbone.embeddings.word_embeddings.weight.copy_(torch.eye(size))
        backbone.embeddings.position_embeddings.weight.zero_()
        backbone.embeddings.token_type_embeddings.weight.zero_()
    text = TextSettings(max_question_tokens=32, max_passage_tokens=32)
    folder.mkdir()
    save_encoder(Encoder(backbone, text).eval(), fast, folder, card="# tiny\n")
    return folder

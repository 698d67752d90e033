"""Prepare the model that a run starts from: pre-trained, or small and from scratch with a new tokenizer.

Preparing is deterministic and idempotent: each node may do it and gets the same files, which
the trainer checks by comparing fingerprints over all ranks.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from hbt_dist.common.console import note
from hbt_dist.common.errors import UserError, first_line
from hbt_dist.common.files import atomic_folder
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.models.adapters import (
    TrainedAdapter,
    add_adapter,
    check_targets,
    find_adapter,
    fingerprint_of,
)
from hbt_dist.models.decoders import check_pooling, set_direction
from hbt_dist.models.encoder import Encoder, LoadedEncoder
from hbt_dist.models.loading import check_source, load_encoder
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import ModelSettings, ScratchSettings, TextSettings
from hbt_dist.models.tokenising import check_readable
from hbt_dist.models.weights import explained

_ARCHITECTURE = "model.scratch.architecture"
_CHECKED_TEXTS = 500  # that the tokenizer of a pre-trained model must know
PAD, UNKNOWN, START, END = "[PAD]", "[UNK]", "[CLS]", "[SEP]"


def prepare_model(
    settings: ModelSettings, corpus: Corpus, seed: int, folder: Path, *, dtype: torch.dtype = torch.float32
) -> LoadedEncoder:
    """Return the encoder that the run starts from.

    A scratch model is built once into `folder` (tokenizer trained on the corpus, weights drawn with
    `seed`) and read from there afterwards; a pre-trained model is loaded from its folder. Safe when all
    processes of a node call it at once. Weights are read in `dtype`.

    Raises:
        UserError: the model cannot be loaded, its tokenizer knows nearly no text of the corpus, or its
            architecture is impossible.
    """
    if settings.scratch is not None:
        _build_scratch(settings.scratch, TextSettings(**settings.text), corpus, seed, folder)
        return load_start(settings, seed, folder, dtype=dtype)
    loaded = load_start(settings, seed, folder, dtype=dtype)
    check_readable(loaded.tokenizer, list(_some_texts(corpus, _CHECKED_TEXTS)), loaded.source)
    return loaded


def load_start(
    settings: ModelSettings, seed: int, folder: Path, *, dtype: torch.dtype = torch.float32
) -> LoadedEncoder:
    """Load the encoder that a run starts from, with its new adapters if it trains some.

    Args:
        settings: the `model` block.
        seed: of the run.
        folder: of the model that is made for the run, if it is.
        dtype: of the backbone's weights.

    Raises:
        UserError: see `load_encoder` and `hbt_dist.models.adapters.add_adapter`.
    """
    name, lora = str(folder if settings.made else settings.name_or_path), settings.lora
    if lora is not None and lora.targets is not None and find_adapter(name) is None:
        check_targets(empty_backbone(name, settings.trust_remote_code), lora)  # before weights are read
    loaded = load_encoder(
        name,
        trust_remote_code=settings.trust_remote_code,
        text=settings.text,
        attention_implementation=settings.attention_implementation,
        lora=lora,
        dtype=dtype,
        quiet=True,
    )
    if lora is None or loaded.adapter is not None:
        return loaded
    backbone = loaded.encoder.backbone
    adapter = TrainedAdapter(name, fingerprint_of(backbone))
    add_adapter(backbone, lora, seed)
    return replace(loaded, adapter=adapter)


def empty_backbone(source: str, trust_remote_code: bool) -> nn.Module:
    """Return the backbone of a folder or hub name without its weights, on torch's meta device.

    Raises:
        UserError: its configuration cannot be read.
    """
    import transformers

    check_source(source)
    with explained(source), torch.device("meta"):
        config = transformers.AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code)
        model: nn.Module = transformers.AutoModel.from_config(config, trust_remote_code=trust_remote_code)
    return model


def _build_scratch(
    settings: ScratchSettings, text: TextSettings, corpus: Corpus, seed: int, folder: Path
) -> None:
    recipe = {
        "scratch": settings.model_dump(),
        "text": text.model_dump(),
        "corpus": corpus.fingerprint,
        "seed": seed,
    }

    def write(target: Path) -> None:
        note(f"training a tokenizer of {settings.vocabulary_size:,} entries")
        tokenizer = train_tokenizer(settings, corpus)
        save_encoder(_random_encoder(settings, text, seed, tokenizer), tokenizer, target)

    made_once(folder, recipe, write)


def made_once(folder: Path, recipe: dict[str, Any], write: Callable[[Path], None]) -> None:
    """Make a model folder unless it was made by the same recipe; safe in several processes at once.

    Args:
        recipe: everything that decides the model, as plain data.
        write: fills an empty folder.
    """
    mark = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        made_from = folder / "made_from.sha256"
        if made_from.is_file() and made_from.read_text() == mark:
            return
        with atomic_folder(folder) as temporary:
            write(temporary)
            (temporary / made_from.name).write_text(mark)
            shutil.rmtree(folder, ignore_errors=True)


def _random_encoder(settings: ScratchSettings, text: TextSettings, seed: int, tokenizer: Any) -> Encoder:
    import transformers

    architecture = dict(settings.architecture)
    kind = str(architecture.pop("model_type", ""))
    longest = max(text.max_question_tokens, text.max_passage_tokens)
    architecture.setdefault("max_position_embeddings", longest + 2)  # RoBERTa-like models count from pad + 1
    for name in ("bos", "eos", "cls", "sep"):  # the defaults are of another vocabulary
        architecture.setdefault(f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
    try:
        config = transformers.AutoConfig.for_model(
            kind, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **architecture
        )
        random_state = torch.get_rng_state()
        torch.manual_seed(seed)
        try:
            backbone = transformers.AutoModel.from_config(config, add_pooling_layer=False)
        except TypeError:
            torch.manual_seed(seed)
            backbone = transformers.AutoModel.from_config(config)
        finally:
            torch.set_rng_state(random_state)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            _ARCHITECTURE,
            first_line(error),
            "use keys of the transformers configuration class",
        ) from error
    causal, _ = set_direction(backbone, text.attention, _ARCHITECTURE)
    text, _ = check_pooling(text, causal, _ARCHITECTURE)
    return Encoder(backbone, text)


def train_tokenizer(settings: ScratchSettings, corpus: Corpus) -> Any:
    """Train a byte-pair tokenizer on the corpus' questions and passages.

    Text is NFKC-normalised and lower-cased on request; accents and vowel signs stay: they carry meaning.
    Words are split at white space and punctuation, Han characters are separate, and the first piece of words
    carries a mark. Byte-pair merges, because their trainer gives the same tokenizer every time: trainers of
    word pieces and unigrams break ties by the order of a hash map.
    """
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.BertNormalizer(strip_accents=False, lowercase=settings.lowercase),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary_size,
        special_tokens=[PAD, UNKNOWN, START, END],
        show_progress=False,
    )
    tokenizer.train_from_iterator(_some_texts(corpus, settings.tokenizer_texts), trainer)
    start, end = tokenizer.token_to_id(START), tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(START, start), (END, end)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, cls_token=START, sep_token=END
    )


def _some_texts(corpus: Corpus, limit: int) -> Iterator[str]:
    """Yield questions and passages of all languages, evenly spread, at most about `limit`."""
    per_language = max(1, limit // (2 * len(corpus.languages)))
    for language in corpus.languages:
        yield from _spread(corpus.question_texts, language, corpus.num_examples, per_language)
        yield from _spread(corpus.passage_texts, language, corpus.num_passages, per_language)


def _spread(texts: Any, language: str, rows: int, limit: int) -> Iterable[str]:
    blocks = min(100, max(1, rows // 1000 + 1))
    size = max(1, limit // blocks)
    for block in range(blocks):
        start = block * rows // blocks
        for text in texts(language, start, min(rows, start + size, (block + 1) * rows // blocks)):
            if text is not None:
                yield text

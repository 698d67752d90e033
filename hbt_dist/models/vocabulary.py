"""Cut a tokenizer and the word embeddings of its model to some of the pieces.

Texts whose pieces all stay give the same pieces, renumbered, and so the same vectors:

    Unigram     The best segmentation stays the best of those that are left, ties included. The lowest score
                stays, because the score of unknown characters is counted from it.
    BPE         A merge that a text does not use changes nothing in it. Every merge into a piece that stays is
                kept, with both of its parts.
    WordPiece   The longest match stays the longest. Words that end as unknown keep the pieces before their
                unknown character, or a shorter match could find a way through.

Single characters, byte pieces, added and special tokens always stay, so that any text remains readable.
New ids follow the order of the old ones.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import regex
import torch
from numpy.typing import NDArray
from torch import nn

from hbt_dist.common.errors import UserError
from hbt_dist.data.languages import script_parts
from hbt_dist.models.folders import TOKENIZER_FILE
from hbt_dist.models.layers import word_embeddings
from hbt_dist.models.tokenizer import load_tokenizer

_REMEDY = "set model.vocabulary: keep"
_BYTE = regex.compile(r"<0x[0-9A-F]{2}>")


class PieceTable:
    """The pieces of a fast tokenizer, as its tokenizer.json describes them.

    Args:
        tokenizer: of transformers.
        source: of the model, for messages.

    Raises:
        UserError: a tokenizer in Python, or of another kind than the three above.
    """

    def __init__(self, tokenizer: Any, source: str) -> None:
        backend: Any = getattr(tokenizer, "backend_tokenizer", None)
        described = {} if backend is None else json.loads(backend.to_str())
        kind = described.get("model", {}).get("type", type(tokenizer).__name__)
        if kind not in ("Unigram", "BPE", "WordPiece"):
            raise UserError(
                source, f"expected a Unigram, BPE or WordPiece tokenizer to cut, got {kind}", _REMEDY
            )
        self.source, self.kind, self.tokenizer, self.backend = source, kind, tokenizer, backend
        self.described: dict[str, Any] = described
        self.model: dict[str, Any] = described["model"]
        vocabulary = self.model["vocab"]
        self.ids: dict[str, int] = (
            {piece: i for i, (piece, _) in enumerate(vocabulary)} if kind == "Unigram" else vocabulary
        )
        self.added: dict[str, int] = {token["content"]: token["id"] for token in described["added_tokens"]}

    def __len__(self) -> int:
        return len(self.ids.keys() | self.added.keys())

    def always_kept(self) -> set[int]:
        """Return the ids of single characters, bytes, added and special tokens."""
        prefix = self.model.get("continuing_subword_prefix") or ""
        suffix = self.model.get("end_of_word_suffix") or ""
        kept = set(self.added.values()) | set(self.tokenizer.all_special_ids)
        for piece, i in self.ids.items():
            if len(piece.removeprefix(prefix).removesuffix(suffix)) <= 1 or _BYTE.fullmatch(piece):
                kept.add(i)
        if self.kind == "Unigram":
            scores = [score for _, score in self.model["vocab"]]
            kept.add(int(np.argmin(scores)))
            kept |= {self.model["unk_id"]} - {None}
        elif (unknown := self.model.get("unk_token")) in self.ids:
            kept.add(self.ids[unknown])
        return kept

    def written_in(self, scripts: Iterable[str]) -> set[int]:
        """Return the ids of pieces whose characters all belong to scripts (ISO 15924), or to every script."""
        classes = "".join(rf"\p{{Script={script}}}" for script in (*sorted(scripts), "Common", "Inherited"))
        pattern, decoder = regex.compile(f"[{classes}]+"), self.backend.decoder
        read = {i: decoder.decode([piece]) if decoder else piece for piece, i in self.ids.items()}
        return {i for i, text in read.items() if pattern.fullmatch(text) and "\ufffd" not in text}

    def with_parts(self, kept: set[int]) -> set[int]:
        """Return the ids with those of all pieces that merges make them of."""
        if self.kind != "BPE":
            return kept
        prefix = self.model.get("continuing_subword_prefix") or ""
        parts: dict[int, list[int]] = defaultdict(list)
        for first, second in self.model["merges"]:
            parts[self.ids[first + second.removeprefix(prefix)]] += [self.ids[first], self.ids[second]]
        complete, waiting = set(kept), list(kept)
        while waiting:
            new = set(parts[waiting.pop()]) - complete
            complete |= new
            waiting += new
        return complete

    def pieces_of_unknown_words(self, texts: Iterable[str]) -> set[int]:
        """Return the ids of the pieces that WordPiece passes before it gives up a word."""
        if self.kind != "WordPiece":
            return set()
        passed: set[int] = set()
        for text in texts:
            normal = self.backend.normalizer.normalize_str(text) if self.backend.normalizer else text
            for word, _ in self.backend.pre_tokenizer.pre_tokenize_str(normal):
                passed.update(self._longest_matches(word))
        return passed

    def _longest_matches(self, word: str) -> Iterator[int]:
        start = 0
        while start < len(word):
            prefix = self.model["continuing_subword_prefix"] if start else ""
            ends = (end for end in range(len(word), start, -1) if prefix + word[start:end] in self.ids)
            end = next(ends, None)
            if end is None:
                return
            yield self.ids[prefix + word[start:end]]
            start = end


@dataclass(frozen=True)
class Cut:
    """A tokenizer with some of its pieces.

    Attributes:
        described: the content of its tokenizer.json.
        old_ids: (n,) the old id of each new id.
    """

    described: dict[str, Any]
    old_ids: NDArray[np.int64]

    @property
    def new_ids(self) -> dict[int, int]:
        """Return old id -> new id."""
        return {old: new for new, old in enumerate(self.old_ids.tolist())}


def cut_pieces(table: PieceTable, kept: set[int]) -> Cut:
    """Return the tokenizer with the pieces `kept`, which must hold `always_kept` and `with_parts`."""
    pieces = sorted((i, piece) for piece, i in table.ids.items() if i in kept)
    behind = sorted(i for token, i in table.added.items() if token not in table.ids)
    old_ids = np.array([i for i, _ in pieces] + behind, np.int64)
    new = {old: number for number, old in enumerate(old_ids.tolist())}
    model = dict(table.model)
    if table.kind == "Unigram":
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in kept]
        model["unk_id"] = new.get(model["unk_id"])
    else:
        model["vocab"] = {piece: new[i] for i, piece in pieces}
    if table.kind == "BPE":
        prefix = model.get("continuing_subword_prefix") or ""
        model["merges"] = [
            pair for pair in model["merges"] if pair[0] + pair[1].removeprefix(prefix) in model["vocab"]
        ]
    described = {
        **table.described,
        "model": model,
        "added_tokens": sorted(
            ({**token, "id": new[token["id"]]} for token in table.described["added_tokens"]),
            key=lambda token: token["id"],
        ),
        "post_processor": _renumbered(table.described["post_processor"], new),
        "truncation": None,
        "padding": None,
    }
    return Cut(described, old_ids)


def _renumbered(processor: Any, new: Mapping[int, int]) -> Any:
    """Return a post-processor's description with the new ids of its special tokens."""
    if not isinstance(processor, dict):
        return processor
    if "processors" in processor:
        return {**processor, "processors": [_renumbered(part, new) for part in processor["processors"]]}
    if processor["type"] == "TemplateProcessing":
        special = {
            name: {**token, "ids": [new[i] for i in token["ids"]]}
            for name, token in processor["special_tokens"].items()
        }
        return {**processor, "special_tokens": special}
    ends = {key: [processor[key][0], new[processor[key][1]]] for key in ("sep", "cls") if key in processor}
    return {**processor, **ends}


def rebuild_tokenizer(tokenizer: Any, cut: Cut, folder: Path, trust_remote_code: bool = False) -> Any:
    """Write the cut tokenizer into an empty folder, in transformers' form, and load it from there."""
    tokenizer.save_pretrained(folder)
    (folder / TOKENIZER_FILE).write_text(json.dumps(cut.described, ensure_ascii=False), "utf-8")
    config_file = folder / "tokenizer_config.json"
    config = json.loads(config_file.read_text("utf-8"))
    if decoder := config.get("added_tokens_decoder"):
        config["added_tokens_decoder"] = {str(cut.new_ids[int(i)]): token for i, token in decoder.items()}
        config_file.write_text(json.dumps(config, ensure_ascii=False, indent=2), "utf-8")
    for file in folder.iterdir():  # vocabularies in older forms hold all pieces
        if file.suffix == ".model" or file.name in ("vocab.txt", "vocab.json", "merges.txt"):
            file.unlink()
    return load_tokenizer(str(folder), trust_remote_code)


def cut_embeddings(backbone: Any, cut: Cut, source: str) -> int:
    """Leave the word embeddings of the kept pieces, and renumber the ids of the configuration; in place.

    Returns:
        the number of parameters that are gone.

    Raises:
        UserError: another weight has a row per piece.
    """
    module = word_embeddings(backbone)
    if not isinstance(module, nn.Embedding):
        raise UserError(source, "expected word embeddings in a table, got none to cut", _REMEDY)
    weight, rows = module.weight, torch.from_numpy(cut.old_ids)
    for name, parameter in backbone.named_parameters():
        if parameter is not weight and parameter.shape[:1] == weight.shape[:1]:
            raise UserError(source, f"{name} has a row for each piece, too: it cannot be cut", _REMEDY)
    before = weight.numel()
    with torch.no_grad():
        weight[: len(rows)] = weight[rows]
    backbone.resize_token_embeddings(len(rows), mean_resizing=False)
    new = cut.new_ids
    for key, value in backbone.config.to_dict().items():
        if key.endswith("_token_id") and isinstance(value, int):
            setattr(backbone.config, key, new.get(value))
        elif key.endswith("_token_id") and isinstance(value, list):
            setattr(backbone.config, key, [new[i] for i in value if i in new])
    return before - int(backbone.get_input_embeddings().weight.numel())


def scripts_of(languages: Iterable[str]) -> set[str]:
    """Return the scripts (ISO 15924, in parts: Hira, Kana and Hani for Japanese) of languages."""
    return {part for language in languages for part in script_parts(language)}

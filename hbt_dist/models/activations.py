"""Predict from a configuration the bytes that autograd keeps for the backward pass of a chunk.

Per token and layer, with c bytes per value (float32 4, bf16 2), s bytes of the residual stream (4 under
autocast), h hidden, I intermediate width, A heads, K key-value heads of width d, q = A d, T tokens of a text:

    gated   Llama, Mistral, Qwen2, Qwen3: RMS norms and a gated feed-forward layer
            2 norms       2 (4 h + s h + c h)   float32 input, its scaled value, what the matrices read
            attention     4 c q + 4 A + c T     q, k, v and result; sums of the softmax; mask
            feed-forward  4 c I                 gate, its activation, up, their product
            Qwen3         (4 + c) (A + K) d + 4 (A + K)   norms of the heads
    plain   BERT, RoBERTa, XLM-R: layer norms and a feed-forward layer
            8 c h + 2 c I + 4 A + c T + 16, and 2 h with dropout

Keys and values are repeated to the number of heads, as with a mask. Autocast keeps one bf16 copy of an input
for each matrix that reads it, and a bf16 copy of the matrices. With frozen weights, norms keep no scaled
value, and matrices no input unless an adapter reads it. An adapter of rank r keeps c r, and with dropout its
dropped input, (c + 1) times the width. Checkpointing keeps s h per layer, and one layer in full.

tests/models/test_activations.py compares with what autograd saves.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

GATED = ("llama", "mistral", "qwen2", "qwen3")
PLAIN = ("bert", "roberta", "xlm-roberta", "camembert", "electra")
#: Matrices of a layer by what they read: the attention's input, its result, the input of the feed-forward
#: layer, its inner value.
READERS = {
    "gated": (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",)),
    "plain": (("query", "key", "value"), ("dense",), ("dense",), ("dense",)),
}


@dataclass(frozen=True)
class Numbers:
    """Bytes per value while a run computes."""

    compute: int  # c
    stream: int  # s

    @property
    def autocast(self) -> bool:
        """Whether matrices read bf16 copies of float32 values."""
        return self.compute < self.stream


FLOAT32, BFLOAT16, AUTOCAST = Numbers(4, 4), Numbers(2, 2), Numbers(2, 4)


@dataclass(frozen=True)
class Adapters:
    """Low-rank adapters of a frozen model: rank, dropout, and the last parts of the names of their layers."""

    rank: int
    dropout: float
    targets: Collection[str]


@dataclass(frozen=True)
class Shape:
    """What the formula reads of a configuration."""

    kind: str  # gated or plain
    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_width: int
    head_norms: bool = False
    dropout: bool = False

    @classmethod
    def of(cls, config: Any) -> Shape | None:
        """Return the shape of a transformers configuration; None for a family without formula."""
        kind = config.model_type
        if kind not in (*GATED, *PLAIN):
            return None
        heads = config.num_attention_heads
        return cls(
            kind="gated" if kind in GATED else "plain",
            layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            heads=heads,
            key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
            head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
            head_norms=kind == "qwen3",
            dropout=getattr(config, "hidden_dropout_prob", 0.0) > 0,
        )

    def layer_bytes(self, numbers: Numbers, longest: int, adapters: Adapters | None = None) -> int:
        """Return the bytes per token that autograd keeps of a layer.

        Args:
            numbers: bytes per value.
            longest: T, tokens of a text.
            adapters: of a frozen model; None: all weights are trained.
        """
        c, s, h, inner = numbers.compute, numbers.stream, self.hidden, self.intermediate
        width = self.heads * self.head_width
        attention = 4 * c * width + 4 * self.heads + c * longest
        if self.kind == "plain":
            norms = 2 * (s * h + 8) + (2 * h if self.dropout else 0)
            return norms + attention + c * inner + self._read(numbers, adapters)
        scaled = 0 if adapters else s * h
        norms = 2 * (4 * h + 4 + scaled)
        if self.head_norms:
            both = self.heads + self.key_value_heads
            norms += both * ((4 + (0 if adapters else c)) * self.head_width + 4)
        return norms + attention + 3 * c * inner + self._read(numbers, adapters)

    def _read(self, numbers: Numbers, adapters: Adapters | None) -> int:
        """Return the bytes of what the matrices read; the attention keeps its result anyway."""
        c, width = numbers.compute, self.heads * self.head_width
        kept = 0
        for group, (names, size) in enumerate(
            zip(READERS[self.kind], (self.hidden, width, self.hidden, self.intermediate), strict=True)
        ):
            matrices = len(names)
            shared_with_attention = group == 1
            if adapters is not None:
                matrices = sum(name in adapters.targets for name in names)
                kept += matrices * c * adapters.rank
                if adapters.dropout > 0:
                    kept += matrices * (c + 1) * size
                    continue
            if not shared_with_attention:
                copies = matrices if numbers.autocast and group != 3 else min(matrices, 1)
                kept += copies * c * size
        return kept

    def matrix_elements(self) -> int:
        """Return the elements of a layer's matrices."""
        width, narrow = self.heads * self.head_width, self.key_value_heads * self.head_width
        feed_forward = (3 if self.kind == "gated" else 2) * self.hidden * self.intermediate
        return 2 * self.hidden * (width + narrow) + feed_forward

    def graph_bytes(
        self,
        numbers: Numbers,
        tokens: int,
        longest: int,
        *,
        checkpointing: bool,
        adapters: Adapters | None = None,
    ) -> int:
        """Return the bytes that autograd keeps of a chunk when its backward pass begins.

        Args:
            numbers: bytes per value.
            tokens: of the chunk, padding included.
            longest: T, tokens of a text.
            checkpointing: whether layers are computed again; the layer in work is counted in full.
            adapters: of a frozen model; None: all weights are trained.
        """
        layer = tokens * self.layer_bytes(numbers, longest, adapters)
        if numbers.autocast:
            layer += 2 * self.matrix_elements()
        ends = tokens * (4 if self.kind == "gated" else numbers.stream) * self.hidden * 2
        if checkpointing:
            return ends + layer + self.layers * tokens * numbers.stream * self.hidden
        return ends + self.layers * layer

    def working_bytes(self, numbers: Numbers, tokens: int) -> int:
        """Return the bytes of gradients of activations that exist at once, in the feed-forward layer."""
        inner = (3 if self.kind == "gated" else 2) * numbers.compute * self.intermediate
        return tokens * (inner + 2 * numbers.stream * self.hidden)

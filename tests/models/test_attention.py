"""Packed rows against padded rows, for every family that `hbt_dist.models.attention` covers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from hbt_dist.models import attention
from hbt_dist.models.attention import AFTER_PADDING, Rows, has_row_attention, positions, use_row_attention
from hbt_dist.models.encoder import Encoder
from hbt_dist.models.settings import TextSettings

LENGTHS = [9, 7, 7, 7, 4, 1]


def backbone_of(family: str, dropout: float = 0.0) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if family == "distilbert":
        sizes = {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "dropout": 0.0}
        sizes["attention_dropout"] = dropout
    else:
        sizes |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": dropout}
    config = transformers.AutoConfig.for_model(
        family, vocab_size=60, max_position_embeddings=24, pad_token_id=1, initializer_range=0.3, **sizes
    )
    try:
        return transformers.AutoModel.from_config(config, add_pooling_layer=False).train()
    except TypeError:
        return transformers.AutoModel.from_config(config).train()


def batch(side: str = "right") -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(1)
    ids, mask = (
        np.ones((len(LENGTHS), max(LENGTHS)), np.int64),
        np.zeros((len(LENGTHS), max(LENGTHS)), np.int64),
    )
    for row, length in enumerate(LENGTHS):
        columns = slice(length) if side == "right" else slice(max(LENGTHS) - length, None)
        ids[row, columns], mask[row, columns] = generator.integers(4, 60, length), 1
    return torch.from_numpy(ids), torch.from_numpy(mask)


def vectors_and_gradients(encoder: Encoder, *inputs: Any) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(5)
    vectors = encoder(*inputs)
    weights = torch.linspace(-1, 1, vectors.numel()).view_as(vectors)
    encoder.zero_grad()
    (vectors * weights).sum().backward()
    gradients = [p.grad.flatten() for p in encoder.parameters() if p.grad is not None]
    return vectors.detach(), torch.cat(gradients)


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("family", sorted(AFTER_PADDING))
def test_packed_rows_give_the_vectors_and_gradients_of_padded_rows(family: str, pooling: Any) -> None:
    encoder = Encoder(backbone_of(family), TextSettings(pooling=pooling))
    want = vectors_and_gradients(encoder, *batch())
    use_row_attention(encoder.backbone)
    assert encoder.packs(torch.device("cpu"))
    for got in (vectors_and_gradients(encoder, *batch()), vectors_and_gradients(encoder, *batch(), LENGTHS)):
        for a, b in zip(got, want, strict=True):
            assert float((a - b).norm() / b.norm()) < 2e-6


@pytest.mark.parametrize("fault", ["positions", "neighbours"])
def test_the_comparison_sees_a_wrong_position_and_a_look_at_another_row(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(backbone_of("xlm-roberta"), TextSettings())
    want = vectors_and_gradients(encoder, *batch())
    use_row_attention(encoder.backbone)
    if fault == "positions":
        monkeypatch.setattr("hbt_dist.models.encoder.first_position", lambda _: 0)
    else:
        monkeypatch.setattr("hbt_dist.models.encoder.Rows", lambda lengths, **_: Rows(lengths))
    got = vectors_and_gradients(encoder, *batch())
    assert all(float((a - b).norm() / b.norm()) > 1e-3 for a, b in zip(got, want, strict=True))


def test_a_row_without_tokens_and_padding_on_the_left() -> None:
    encoder = Encoder(backbone_of("bert").eval(), TextSettings())
    use_row_attention(encoder.backbone)
    right, left = (encoder(*batch(side)) for side in ("right", "left"))
    assert torch.allclose(right, left, atol=1e-6)  # positions count from the row's own first token
    ids, mask = batch()
    mask[2] = 0
    rest = [0, 1, 3, 4, 5]
    assert torch.allclose(encoder(ids, mask)[rest], right[rest], atol=1e-6)


def test_padded_rows_with_a_ready_mask_and_rows_of_equal_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU gets where rows cannot be packed."""
    encoder = Encoder(backbone_of("xlm-roberta"), TextSettings())
    want = vectors_and_gradients(encoder, *batch())
    equal = vectors_and_gradients(encoder, batch()[0][1:4, :7], batch()[1][1:4, :7])
    use_row_attention(encoder.backbone)
    monkeypatch.setattr(Encoder, "packs", lambda *_: False)
    masks: list[Any] = []
    attend = attention.attend
    transformers.AttentionInterface.register(
        attention.NAME, lambda *a, rows, **k: (masks.append(rows.mask), attend(*a, rows=rows, **k))[1]
    )
    try:
        for inputs, expected in ((batch(), want), ((batch()[0][1:4, :7], batch()[1][1:4, :7]), equal)):
            got = vectors_and_gradients(encoder, *inputs)
            assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, expected, strict=True))
    finally:
        transformers.AttentionInterface.register(attention.NAME, attend)
    assert [mask is None for mask in masks] == [False, False, True, True]


def test_packed_rows_with_dropout_repeat_from_the_same_random_numbers() -> None:
    encoder = Encoder(backbone_of("bert", dropout=0.3), TextSettings())
    use_row_attention(encoder.backbone)
    first, second = (vectors_and_gradients(encoder, *batch()) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], encoder(*batch()))


def test_other_families_keep_the_attention_of_transformers() -> None:
    config = transformers.AutoConfig.for_model(
        "gpt_neox", hidden_size=16, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=16, vocab_size=60,
    )  # fmt: skip
    backbone = transformers.AutoModel.from_config(config)
    use_row_attention(backbone)
    assert not has_row_attention(backbone)


def test_positions_count_in_each_row() -> None:
    assert positions([3, 1, 2]).tolist() == [0, 1, 2, 0, 0, 1]

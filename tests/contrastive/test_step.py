"""The step on one process: chunks, dropout, temperature, accumulation, bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive import step as step_module
from hbt_dist.contrastive.chunks import Limits, RandomState
from hbt_dist.contrastive.finite import NonFiniteError, check_gradient_norm
from hbt_dist.contrastive.settings import StepSettings
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.engine import build_engine
from tests.contrastive.tiny import Case, Texts, build_encoder, locals_of, reference_loss, seed_of
from tests.training.bodies import OPTIMIZER, reference, run_case

ALONE = World.alone()


def assert_like_reference(case: Case, tolerance: float = 1e-5) -> dict[str, Any]:
    got, want = run_case(ALONE, case), reference(case, 1)
    assert got["loss"] == pytest.approx(want["loss"], rel=1e-5)
    total = math.sqrt(sum(float(g.square().sum()) for g in want["gradients"].values()))
    for name, gradient in want["gradients"].items():
        error = float((got["gradients"][name] - gradient).norm()) / max(float(gradient.norm()), 1e-3 * total)
        assert error < tolerance, name
    for name, parameter in want["parameters"].items():
        assert float((got["parameters"][name] - parameter).norm() / parameter.norm()) < tolerance, name
    return got


@pytest.mark.parametrize(
    "step",
    [
        {"chunk_rows": 1},
        {"chunk_rows": 4},
        {"chunk_rows": 5},
        {"chunk_rows": 100},
        {"chunk_rows": 8, "chunk_tokens": 30},
        {"mode": "direct"},
        {"mode": "direct", "chunk_rows": 100},
        {"mode": "auto", "chunk_tokens": 30, "kept_tokens": 100},
        {"mode": "auto", "chunk_tokens": 30, "kept_tokens": 10_000},
    ],
)
@pytest.mark.parametrize("directions", ["question_to_passage", "both"])
def test_chunks_change_nothing(step: dict[str, Any], directions: str) -> None:
    loss = {"directions": directions}
    assert_like_reference(Case(stage=None, step=step, loss=loss, num_negatives=1, duplicates=True))


@pytest.mark.parametrize(
    "loss",
    [
        {"similarity": "dot", "temperature": 5.0},
        {"equation": "paper_eq1", "temperature": 1.0},
        {"negatives": "sub_batch"},
        {"alignment_weight": 0.5},
        {"alignment_weight": 0.3, "directions": "both", "negatives": "sub_batch"},
        {"learn_temperature": True},
        {"learn_temperature": True, "directions": "both"},
        {"learn_temperature": True, "directions": "both", "widths": [16, 5]},
        {"distillation": {"weight": 2.0, "temperature": 0.7}, "directions": "both", "alignment_weight": 0.3},
        {"distillation": {"weight": 2.0}, "learn_temperature": True, "widths": [16, 5]},
        {"similarity": "dot", "temperature": 5.0, "widths": [9, 4], "width_weights": [1.0, 3.0]},
        {"false_negatives": {"margin": 0.02}, "learn_temperature": True, "negatives": "sub_batch"},
        {"targets": {"teacher": "t", "weight": 0.8}, "info_nce_weight": 0.2},
        {"targets": {"teacher": "t", "weight": 2.0, "on": "passages"}, "widths": [16, 5]},
        {"targets": {"teacher": "t", "form": "mse", "weight": 9.0}, "similarity": "dot", "temperature": 5.0},
        {"targets": {"teacher": "t", "on": "questions"}, "similarity": "dot", "info_nce_weight": 0.0},
    ],
)
@pytest.mark.parametrize("mode", ["direct", "cached"])
def test_objectives(loss: dict[str, Any], mode: str) -> None:
    assert_like_reference(Case(stage=None, loss=loss, step={"mode": mode}, num_negatives=1))


def test_another_dropout_would_be_noticed() -> None:
    """Without replay the cached gradient belongs to other embeddings: the comparison above must see it."""
    case = Case(stage=None, dropout=0.3)
    want = reference(case, 1)["gradients"]
    engine = build_engine(build_encoder(case), optimizer=OPTIMIZER, total_steps=5, world=ALONE)
    original = RandomState.replay
    try:
        RandomState.replay = lambda self: torch.random.fork_rng(devices=[])  # type: ignore[assignment, method-assign, return-value]
        torch.manual_seed(1000)
        contrastive_step(engine, locals_of(case, 1, 0)[0], case.loss_settings, case.step_settings, ALONE)
    finally:
        RandomState.replay = original  # type: ignore[method-assign]
    got = {name: p.grad for name, p in engine.model.named_parameters()}
    assert (
        max(float((got[name] - g).norm() / g.norm()) for name, g in want.items() if "tokens" in name) > 0.01
    )


def test_dropout_of_adapters_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dropout in adapters alone: the cached gradient is that of autograd, and not so without replay."""
    case = Case(stage=None, dropout=0.3, model="lora")

    def encoder() -> torch.nn.Module:
        model = build_encoder(case)
        for name, module in model.named_modules():
            if isinstance(module, torch.nn.Dropout) and "lora_dropout" not in name:
                module.p = 0.0
        return model

    def gradients() -> dict[str, Any]:
        engine = build_engine(encoder(), optimizer=OPTIMIZER, total_steps=5, world=ALONE)
        torch.manual_seed(seed_of(0, 0))
        contrastive_step(engine, locals_of(case, 1, 0)[0], case.loss_settings, case.step_settings, ALONE)
        return {name.removeprefix("encoder."): p.grad for name, p in engine.model.named_parameters()}

    plain = encoder()
    reference_loss(plain, case, locals_of(case, 1, 0), 0, None).backward()
    want = {name: p.grad for name, p in plain.named_parameters() if p.grad is not None}

    def error(got: dict[str, Any]) -> float:
        return max(float((got[name] - g).norm() / g.norm()) for name, g in want.items())

    assert error(gradients()) < 1e-5
    monkeypatch.setattr(RandomState, "replay", lambda self: torch.random.fork_rng(devices=[]))
    assert error(gradients()) > 0.01


@pytest.mark.parametrize("bounds", [(0.05, 1.0), (0.01, 0.011), (5.0, 9.0)])
def test_a_learned_temperature_stays_within_its_bounds_and_comes_back(bounds: tuple[float, float]) -> None:
    case = Case(stage=None, dropout=0.0, loss={"learn_temperature": True})
    engine = build_engine(
        build_encoder(case), optimizer=OPTIMIZER, total_steps=5, world=ALONE, loss=case.loss_settings
    )
    local = locals_of(case, 1, 0)[0]
    log_scale = engine.model.temperature.log_scale  # type: ignore[union-attr]

    def gradient_at(temperature: float, low: float, high: float) -> tuple[float, float]:
        with torch.no_grad():
            log_scale.fill_(-math.log(temperature))
        log_scale.grad = None
        limits = {"min_temperature": low, "max_temperature": high, "temperature": low}
        loss = case.but(loss={"learn_temperature": True, **limits}).loss_settings
        result = contrastive_step(engine, local, loss, case.step_settings, ALONE)
        return result.temperature, float(log_scale.grad)

    low, high = bounds
    for outside, bound in ((low / 2, low), (high * 2, high)):
        used, gradient = gradient_at(outside, low, high)
        _, free = gradient_at(bound, 1e-4, 1e4)
        assert used == pytest.approx(bound)
        # log_scale moves against its gradient; a higher log_scale is a lower temperature.
        leads_further_out = free < 0 if bound == low else free > 0
        assert gradient == pytest.approx(0 if leads_further_out else free, rel=1e-5)


def test_auto_keeps_all_graphs_of_a_small_slice_and_none_of_a_large_one() -> None:
    """Small: questions, passages and aligned questions together, for all of them are held."""
    aligned = {"alignment_weight": 0.5}
    cases = [(24, "direct", {}), (23, "cached", {}), (12, "cached", {}), (5, "cached", {})]
    cases += [(36, "direct", aligned), (35, "cached", aligned)]
    for rows, mode, loss in cases:
        case = Case(stage=None, step={"mode": "auto", "chunk_rows": rows}, loss=loss, steps=1)
        got = run_case(ALONE, case)
        result = got["results"][0]
        assert result.num_kept_chunks == (result.num_chunks if mode == "direct" else 0)
        want = run_case(ALONE, case.but(step={"mode": mode, "chunk_rows": rows}))
        assert got["loss"] == want["loss"]
        assert all(torch.equal(got["gradients"][name], g) for name, g in want["gradients"].items())
        encoded = _encoded(case)
        assert max(encoded) <= rows if mode == "cached" else sum(encoded) <= rows


@pytest.mark.parametrize("kept_tokens", [0, 29, 30, 99, 10_000])
def test_kept_graphs_are_whole_chunks_and_change_no_digit(kept_tokens: int) -> None:
    """Kept or encoded again: the same products in the same chunks; only the order of the sum differs."""
    case = Case(stage=None, step={"chunk_rows": 8, "chunk_tokens": 30}, loss={"learn_temperature": True})
    want = run_case(ALONE, case)
    got = run_case(ALONE, case.but(step={**case.step, "mode": "auto", "kept_tokens": kept_tokens}))
    (num_chunks, num_kept) = got["results"][0].num_chunks, got["results"][0].num_kept_chunks
    assert num_kept == min(num_chunks, kept_tokens // 30)
    assert got["loss"] == pytest.approx(want["loss"], rel=1e-6)
    for name, gradient in want["gradients"].items():
        assert float((got["gradients"][name] - gradient).norm()) <= 2e-5 * float(gradient.norm()), name


def test_a_kept_graph_whose_gradient_is_scaled_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    surrogate = step_module._surrogate

    def scaled(embeddings: Any, gradients: Any, *rest: Any) -> torch.Tensor:
        return surrogate(embeddings, [g * (2 if len(gradients) > 1 else 1) for g in gradients], *rest)

    monkeypatch.setattr(step_module, "_surrogate", scaled)
    step = {"mode": "auto", "chunk_tokens": 30, "kept_tokens": 100}
    with pytest.raises(AssertionError):
        assert_like_reference(Case(stage=None, step=step))


def _encoded(case: Case) -> list[int]:
    """Rows of every call of the encoder in a step."""
    engine = build_engine(build_encoder(case), optimizer=OPTIMIZER, total_steps=5, world=ALONE)
    seen: list[int] = []
    engine.model.encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    contrastive_step(engine, locals_of(case, 1, 0)[0], case.loss_settings, case.step_settings, ALONE)
    return seen


def test_the_two_forwards_of_a_chunk_share_its_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    padded: list[int] = []
    pad = Texts.pad
    monkeypatch.setattr(Texts, "pad", lambda texts, rows: (padded.append(len(rows)), pad(texts, rows))[1])
    result = run_case(ALONE, Case(stage=None, step={"chunk_rows": 5}, steps=1))["results"][0]
    assert len(padded) == result.num_chunks == 6


def test_figures_of_a_step() -> None:
    case = Case(stage=None, num_negatives=1, dropout=0.0, loss={"temperature": 0.2})
    result = run_case(ALONE, case)["results"][0]
    local = locals_of(case, 1, 0)[0]
    encoder = build_encoder(case)
    with torch.no_grad():
        q, p = (
            torch.nn.functional.normalize(encoder(*t.pad(np.arange(len(t.rows)))), dim=-1)
            for t in (local.questions, local.passages)
        )
    scores = q @ p.T
    positives = scores.diagonal()
    assert result.positive_score == pytest.approx(float(positives.mean()), rel=1e-4)
    others = (float(scores.sum()) - float(positives.sum())) / (scores.numel() - len(positives))
    assert result.negative_score == pytest.approx(others, rel=1e-4)
    assert result.num_tokens == sum(len(row) for row in local.questions.rows + local.passages.rows)
    assert result.num_padded_tokens >= result.num_tokens
    assert result.temperature == pytest.approx(0.2)


def test_a_gradient_that_is_not_finite_names_step_and_examples() -> None:
    batch = locals_of(Case(), 1, 3)[0].batch
    check_gradient_norm(1.0, batch)
    for norm in (float("nan"), float("inf")):
        with pytest.raises(
            NonFiniteError, match=r"step 3 \(mixed\): NaN or infinity in the gradient"
        ) as caught:
            check_gradient_norm(norm, batch)
        assert caught.value.examples.tolist() == list(range(12))


def test_an_overflowing_loss_is_told_from_broken_embeddings() -> None:
    case = Case(stage=None, loss={"similarity": "dot", "temperature": 1e-30})
    engine = build_engine(build_encoder(case), optimizer=OPTIMIZER, total_steps=5, world=ALONE)
    with torch.no_grad():
        engine.model.encoder.layers[0].norm2.weight.mul_(1e10)  # type: ignore[union-attr, index]
    with pytest.raises(NonFiniteError) as caught:
        contrastive_step(engine, locals_of(case, 1, 0)[0], case.loss_settings, case.step_settings, ALONE)
    assert caught.value.what == "loss"
    assert all(p.grad is None for p in engine.model.parameters())


def test_a_text_without_tokens_is_refused_by_name() -> None:
    case = Case(stage=None)
    engine = build_engine(build_encoder(case), optimizer=OPTIMIZER, total_steps=5, world=ALONE)
    local = locals_of(case, 1, 0)[0]
    local.passages.rows[4] = np.zeros(0, dtype=int)
    with pytest.raises(UserError, match=r"step 0, rank 0, passage 4 of its slice"):
        contrastive_step(engine, local, case.loss_settings, case.step_settings, ALONE)


def test_alignment_without_a_second_language_is_refused() -> None:
    case = Case(stage=None, loss={"alignment_weight": 0.5})
    engine = build_engine(build_encoder(case), optimizer=OPTIMIZER, total_steps=5, world=ALONE)
    local = replace(locals_of(case, 1, 0)[0], aligned_questions=None)
    with pytest.raises(UserError, match="second question language"):
        contrastive_step(engine, local, case.loss_settings, case.step_settings, ALONE)


def test_a_model_whose_noise_no_seed_repeats_is_refused() -> None:
    case = Case(stage=None)
    engine = build_engine(build_encoder(case), optimizer=OPTIMIZER, total_steps=5, world=ALONE)
    local, forward, noise = locals_of(case, 1, 0)[0], engine.model.encoder.forward, np.random.default_rng(1)

    def step(how: dict[str, Any]) -> None:
        settings = case.but(step=how).step_settings
        contrastive_step(engine, local, case.loss_settings, settings, ALONE, engine.replay_tolerance)

    step({"mode": "cached"})
    engine.model.encoder.forward = lambda *a: forward(*a) + torch.tensor(noise.normal(0, 0.1))  # type: ignore[method-assign]
    with pytest.raises(UserError, match="expected equal embeddings in both forwards of a chunk"):
        step({"mode": "cached"})
    step({"mode": "direct"})


@pytest.mark.parametrize(
    ("step", "device", "want"),
    [
        ({}, "cpu", Limits(64, None, 0.1, 64)),
        ({"chunk_rows": 8}, "cpu", Limits(8, None, 0.1, 64)),
        ({"chunk_tokens": 100}, "cuda", Limits(32_768, 100, 0.1, 4096)),
        ({"chunk_rows": 8}, "cuda", Limits(8, None, 0.1, 4096)),
    ],
)
def test_what_ends_a_chunk_by_default(step: dict[str, Any], device: str, want: Limits) -> None:
    assert Limits.of(StepSettings(**step), torch.device(device), packs=False) == want
    assert Limits.of(StepSettings(**step), torch.device(device), packs=True) == replace(want, padding=None)


def test_kept_tokens_need_chunks_of_tokens() -> None:
    with pytest.raises(ValidationError, match="set chunk_tokens too"):
        StepSettings(kept_tokens=1000)

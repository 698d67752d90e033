"""The start-up self-check passes with every shipped configuration and refuses a wrong scale."""

from __future__ import annotations

import pytest
import torch

from hbt_dist.contrastive.settings import LossSettings
from hbt_dist.contrastive.widths import Cut
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.settings import shipped_configs
from hbt_dist.training.self_check import self_check
from tests.helpers.ranks import run_ranks


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_shipped_configuration_passes_on_two_ranks() -> None:
    """All run on the CPU: offload moves nowhere, bf16 is emulated."""
    configs = [None, 0, 1, 2, 3, *shipped_configs()]
    for rank in run_ranks(2, "tests.training.bodies:self_checks", configs=configs, timeout=280):
        for config, check in zip(configs, rank, strict=True):
            assert not isinstance(check, str), f"{config}: {check}"
            assert check.passed, config
            if isinstance(config, int) or config in (None, "cpu"):
                assert check.gradient_error < 1e-5, config


@pytest.mark.slow
def test_bf16_passes_where_dropout_depends_on_the_dtype() -> None:
    configs = ["zero1", "zero2_bf16"]
    (found,) = run_ranks(1, "tests.training.bodies:self_checks", configs=configs, dropout_of_cuda=True)
    assert all(not isinstance(check, str) for check in found), found


@pytest.mark.slow
def test_a_wrong_scale_is_refused_on_every_rank() -> None:
    for scale in (2.0, 0.5):
        found = run_ranks(2, "tests.training.bodies:self_checks", configs=[None, "zero2"], wrong_scale=scale)
        for message in [message for rank in found for message in rank]:
            assert "the distributed gradient is not that of one process" in message


def test_one_process_passes_and_leaves_the_random_state_alone() -> None:
    state = torch.get_rng_state()
    check = self_check(World.alone())
    assert check.passed
    assert "PlainEngine, 1 processes on cpu" in check.engine
    assert torch.equal(torch.get_rng_state(), state)


def test_widths_of_the_run_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    nested = LossSettings(widths=[64, 32])
    assert self_check(World.alone(), loss=nested).passed
    monkeypatch.setattr(Cut, "carry_back", lambda _: None)
    assert self_check(World.alone()).passed
    assert not self_check(World.alone(), loss=nested).passed

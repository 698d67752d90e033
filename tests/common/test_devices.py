"""Devices by name, and the width of batches on them."""

from __future__ import annotations

import pytest
import torch

from hbt_dist.common.devices import prepare_device, token_width, torch_device
from hbt_dist.common.errors import UserError

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_a_device_that_is_missing_is_named() -> None:
    assert torch_device("cpu") == CPU
    with pytest.raises(UserError, match="device 'meteor'"):
        torch_device("meteor")


def test_attention_of_cudnn_is_off_where_a_gpu_is_used() -> None:
    torch.backends.cuda.enable_cudnn_sdp(True)
    prepare_device(CPU)
    assert torch.backends.cuda.cudnn_sdp_enabled()
    prepare_device(GPU)
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(True)


def test_widths_on_a_gpu_are_few() -> None:
    assert [token_width(n, 60, GPU) for n in (1, 16, 17, 48, 49, 60)] == [16, 16, 32, 48, 60, 60]
    assert [token_width(n, 60, CPU) for n in (1, 16, 17, 60)] == [1, 16, 17, 60]
    assert token_width(70, 60, GPU) == 70  # a text is never cut here

"""Generate text with a causal language model: batched, left-padded, with a seed per prompt.

A token is drawn by the Gumbel-max trick: the largest of logit / temperature + noise, which is a draw from the
softmax of logit / temperature. The noise is a hash of (seed of the prompt, step, token), so the text of a
prompt does not depend on the other prompts, on their order or on the device. What remains is the last
bits of the logits, which depend on the shape of the batch; they can turn a draw only where two tokens are
equal to about 1e-6.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hbt_dist.common.devices import torch_device
from hbt_dist.common.errors import UserError
from hbt_dist.models.loading import check_source
from hbt_dist.models.tokenizer import check_vocabulary, load_tokenizer, set_padding
from hbt_dist.models.weights import load_weights


@dataclass(frozen=True)
class LoadedGenerator:
    """A causal language model, ready to generate."""

    model: Any
    tokenizer: Any
    source: str
    device: torch.device

    @property
    def identity(self) -> dict[str, Any]:
        """Name, size and a digest over configuration and a sample of every weight (milliseconds per GB)."""
        digest = hashlib.sha256()
        config = {  # without the folder and the library that wrote it
            key: value
            for key, value in self.model.config.to_diff_dict().items()
            if key not in ("_name_or_path", "transformers_version")
        }
        digest.update(json.dumps(config, sort_keys=True, default=str).encode())
        for name, value in self.model.state_dict().items():
            sample = value.detach().reshape(-1)[:: max(1, value.numel() // 1024)].double().cpu().numpy()
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(sample.tobytes())
        return {
            "name_or_path": self.source,
            "num_parameters": sum(value.numel() for value in self.model.parameters()),
            "fingerprint": digest.hexdigest(),
            "chat_template": self.tokenizer.chat_template is not None,
        }


def load_generator(
    source: str,
    *,
    dtype: Literal["float32", "bfloat16"] = "float32",
    device: str = "auto",
    trust_remote_code: bool = False,
) -> LoadedGenerator:
    """Load a causal language model and its tokenizer with transformers.

    Raises:
        UserError: the model cannot be loaded, or its tokenizer has no padding.
    """
    from transformers import AutoModelForCausalLM

    check_source(source)
    model, _ = load_weights(
        AutoModelForCausalLM, source, trust_remote_code=trust_remote_code, dtype=getattr(torch, dtype)
    )
    tokenizer = load_tokenizer(source, trust_remote_code, padding_side="left")
    check_vocabulary(tokenizer, model, source)
    where = torch_device(device)
    set_padding(tokenizer, source)
    placed: Any = model.eval()
    return LoadedGenerator(placed.to(where), tokenizer, source, where)


def prompt_tokens(loaded: LoadedGenerator, prompts: Sequence[str], max_new_tokens: int) -> list[list[int]]:
    """Token ids of each prompt, in the model's chat template if it has one.

    Raises:
        UserError: a prompt leaves no room for the expansion in the model's positions.
    """
    tokenizer = loaded.tokenizer
    if tokenizer.chat_template is not None:
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
            )
            for prompt in prompts
        ]
    # A template writes its special tokens itself.
    ids: list[list[int]] = tokenizer(list(prompts), add_special_tokens=tokenizer.chat_template is None)[
        "input_ids"
    ]
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    longest = max(map(len, ids), default=0)
    if limit is not None and longest + max_new_tokens > limit:
        raise UserError(
            loaded.source,
            f"a prompt of {longest} tokens and {max_new_tokens} new ones exceed its {limit} positions",
            "lower --max-new-tokens, or take a shorter strategy or another model",
        )
    return ids


def generate(
    loaded: LoadedGenerator,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    *,
    max_new_tokens: int,
    temperature: float,
) -> list[str]:
    """The texts that follow some prompts, without special tokens.

    Args:
        prompts: token ids of one batch, of any lengths.
        seeds: one 63-bit number for each; without meaning at temperature 0.
    """
    from transformers import GenerationConfig, LogitsProcessorList

    padding = loaded.tokenizer.pad_token_id
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), padding, dtype=torch.int64)
    mask = torch.zeros((len(prompts), longest), dtype=torch.int64)
    for row, tokens in enumerate(prompts):
        ids[row, longest - len(tokens) :] = torch.tensor(tokens, dtype=torch.int64)
        mask[row, longest - len(tokens) :] = 1
    ends = loaded.model.generation_config.eos_token_id
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=padding,
        eos_token_id=ends if ends is not None else loaded.tokenizer.eos_token_id,
    )
    processors = LogitsProcessorList()
    if temperature > 0:
        processors.append(SeededNoise(torch.tensor(list(seeds)), temperature, longest))  # type: ignore[arg-type]
    with torch.inference_mode():
        out = loaded.model.generate(
            ids.to(loaded.device),
            attention_mask=mask.to(loaded.device),
            generation_config=config,
            logits_processor=processors,
        )
    texts: list[str] = loaded.tokenizer.batch_decode(out[:, longest:], skip_special_tokens=True)
    return texts


class SeededNoise:
    """Adds Gumbel noise to logits / temperature, so that the largest one is a draw."""

    def __init__(self, seeds_B: Tensor, temperature: float, prompt_length: int) -> None:
        self._seeds, self._temperature, self._prompt_length = seeds_B, temperature, prompt_length

    def __call__(self, input_ids: Tensor, scores_BV: Tensor) -> Tensor:
        """Scores over temperature plus the noise of this step: the largest is a draw."""
        step = input_ids.shape[1] - self._prompt_length
        noise = gumbel_noise(self._seeds.to(scores_BV.device), step, scores_BV.shape[1])
        return scores_BV.float() / self._temperature + noise


def gumbel_noise(seeds_B: Tensor, step: int, size: int) -> Tensor:
    """(B, size) float32 standard Gumbel noise, a pure function of (seed, step, column)."""
    column = torch.arange(size, device=seeds_B.device, dtype=torch.int64)
    row = _mix(_mix(seeds_B) + step)
    bits = _mix(row[:, None] + column[None, :] * -7046029254386353131)
    uniform = ((bits >> 11) & (2**53 - 1)).double().add(0.5).div(2**53)
    return (-(-uniform.log()).log()).float()


def _mix(values: Tensor) -> Tensor:
    """The finaliser of splitmix64 on int64 (products wrap around; shifts are made logical)."""
    values = values + -7046029254386353131
    values = (values ^ _shift(values, 30)) * -4658895280553007687
    values = (values ^ _shift(values, 27)) * -7723592293110705685
    return values ^ _shift(values, 31)


def _shift(values: Tensor, by: int) -> Tensor:
    return (values >> by) & ((1 << (64 - by)) - 1)

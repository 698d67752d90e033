"""Generation: greedy as transformers does it, draws that depend on the prompt's own seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hbt_dist.common.errors import UserError
from hbt_dist.methods.expansion.generate import (
    LoadedGenerator,
    generate,
    gumbel_noise,
    load_generator,
    prompt_tokens,
)
from hbt_dist.methods.expansion.prompts import PROMPTS, build_prompt, clean

PROMPTS_SHOWN = ["Hi", "A much longer prompt, to be padded against", "Middle one", "x"]


def test_greedy_is_that_of_one_prompt_alone(generator: LoadedGenerator) -> None:
    ids = prompt_tokens(generator, PROMPTS_SHOWN, 12)
    together = generate(generator, ids, [0] * 4, max_new_tokens=12, temperature=0.0)
    for tokens, text in zip(ids, together, strict=True):
        state = torch.tensor([tokens])
        for _ in range(12):  # by hand: no padding, no cache, no generate()
            logits = generator.model(state).logits[0, -1]
            state = torch.cat([state, logits.argmax().reshape(1, 1)], dim=1)
            if int(state[0, -1]) == 0:
                break
        assert text == generator.tokenizer.decode(state[0, len(tokens) :], skip_special_tokens=True)
    assert len(set(together)) > 1


def test_draws_don_t_depend_on_the_batch(generator: LoadedGenerator) -> None:
    ids = prompt_tokens(generator, PROMPTS_SHOWN, 16)
    seeds = [11, 22, 33, 44]

    def draw(rows: list[int]) -> dict[int, str]:
        texts = generate(
            generator, [ids[i] for i in rows], [seeds[i] for i in rows], max_new_tokens=16, temperature=1.0
        )
        return dict(zip(rows, texts, strict=True))

    whole = draw([0, 1, 2, 3])
    assert draw([3, 1]) | draw([2]) | draw([0]) == whole
    assert generate(generator, ids, [1, 2, 3, 4], max_new_tokens=16, temperature=1.0) != list(whole.values())


def test_noise_is_gumbel_and_draws_follow_the_softmax() -> None:
    noise = gumbel_noise(torch.arange(4_000), 3, 5)
    assert noise.dtype == torch.float32
    assert abs(float(noise.mean()) - 0.5772) < 0.03
    assert abs(float(noise.var()) - np.pi**2 / 6) < 0.08
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    share = torch.bincount((logits + noise).argmax(dim=1), minlength=5) / 4_000
    assert float((share - logits.softmax(0)).abs().max()) < 0.025
    assert not torch.equal(noise, gumbel_noise(torch.arange(4_000), 4, 5))
    assert torch.equal(noise[7:8], gumbel_noise(torch.tensor([7]), 3, 5))
    correlation = np.corrcoef(noise.double().numpy().T)
    assert float(np.abs(correlation - np.eye(5)).max()) < 0.06


def test_noise_is_splitmix() -> None:
    """Against plain Python integers."""

    def mix(value: int) -> int:
        value = (value + 0x9E3779B97F4A7C15) % 2**64
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
        return value ^ (value >> 31)

    seed, step, column = 2**62 + 12345, 7, 3
    bits = mix((mix((mix(seed) + step) % 2**64) + column * 0x9E3779B97F4A7C15) % 2**64)
    uniform = ((bits >> 11) + 0.5) / 2**53
    wanted = -np.log(-np.log(uniform))
    assert float(gumbel_noise(torch.tensor([seed]), step, 5)[0, column]) == pytest.approx(wanted, rel=1e-6)


def test_chat_template_is_used(chat_model: Path, generator: LoadedGenerator) -> None:
    chat = load_generator(str(chat_model), device="cpu")
    shown = chat.tokenizer.decode(prompt_tokens(chat, ["Hello"], 4)[0])
    assert shown == "[user] Hello [you]"
    assert chat.identity["chat_template"]
    assert not generator.identity["chat_template"]
    assert generator.tokenizer.decode(prompt_tokens(generator, ["Hello"], 4)[0]) == "Hello"


def test_identity_follows_the_weights(language_model: Path, generator: LoadedGenerator) -> None:
    other = load_generator(str(language_model), device="cpu")
    assert other.identity == generator.identity
    with torch.no_grad():
        other.model.transformer.h[0].mlp.c_fc.bias[0] += 1
    assert other.identity["fingerprint"] != generator.identity["fingerprint"]


def test_refuses_what_it_cannot_use(generator: LoadedGenerator, tmp_path: Path, encoder_folder: Path) -> None:
    with pytest.raises(UserError, match="exceed its 1024 positions"):
        prompt_tokens(generator, ["short"], 1020)
    with pytest.raises(UserError, match=r"no config\.json"):
        load_generator(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(UserError, match="has no tokenizer files"):
        load_generator(str(tmp_path))
    generator.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot be loaded as a model"):
        load_generator(str(tmp_path))


def test_prompts() -> None:
    for strategy in PROMPTS:
        prompt = build_prompt(strategy, "What is {this} {language}?", "fi")
        assert prompt.count("What is {this} {language}?") == 1
        assert "Finnish" in prompt
        assert "{question}" not in prompt
        assert prompt.endswith(":")
    assert PROMPTS["few-shot"].count("Question:") == 4
    assert clean("  one\ttwo \n three\nQuestion: next") == "one two three"
    assert clean("\nQuestion: next") == ""

"""The memory that a dry run predicts from a configuration alone."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from hbt_dist.common.errors import UserError
from hbt_dist.jobs.memory import GIB, describe_memory, predict, read_model
from hbt_dist.run_file import RunFile, load_run

#: Published hyper-parameters.
CONFIGS: dict[str, dict[str, Any]] = {
    "Qwen3-Embedding-8B": {
        "model_type": "qwen3",
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151665,
        "max_position_embeddings": 40960,
        "tie_word_embeddings": False,
    },
    "Qwen3-Embedding-0.6B": {
        "model_type": "qwen3",
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151669,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
    },
    "e5-mistral-7b-instruct": {
        "model_type": "mistral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "sliding_window": 4096,
    },
}
#: Parameters without the output matrix: embeddings, layers, norms.
PARAMETERS = {
    "Qwen3-Embedding-8B": 7_567_000_000,
    "Qwen3-Embedding-0.6B": 595_800_000,
    "e5-mistral-7b-instruct": 7_110_660_096,
}


def folder_of(name: str, tmp_path: Path) -> str:
    """Write a folder that has a configuration and nothing else."""
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    return str(folder)


def run_of(tmp_path: Path, *overrides: str, name: str = "Qwen3-Embedding-8B") -> RunFile:
    return load_run("decoder_lora", [f"model.name_or_path={folder_of(name, tmp_path)}", *overrides])


def sizes(run: RunFile) -> dict[str, float]:
    prediction = predict(run, read_model(run), 79 * GIB)
    return {term.name: term.size for term in prediction.terms} | {"host": prediction.host.size}


@pytest.mark.parametrize("name", CONFIGS)
def test_parameters_of_published_models(name: str, tmp_path: Path) -> None:
    model = read_model(run_of(tmp_path, "model.lora=null", name=name))
    assert model.parameters == pytest.approx(PARAMETERS[name], rel=2e-4)
    assert model.trained == model.sizes


def test_adapters_are_counted_as_peft_makes_them(tmp_path: Path) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    run = run_of(tmp_path, "model.lora={rank: 8, targets: [q_proj, down_proj]}")
    with torch.device("meta"):
        real = transformers.AutoModel.from_config(
            transformers.AutoConfig.from_pretrained(str(run.model.name_or_path))
        )
    inject_adapter_in_model(LoraConfig(r=8, target_modules=["q_proj", "down_proj"]), real)
    model = read_model(run)
    assert sum(model.trained) == sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert model.parameters == sum(p.numel() for p in real.parameters())


def test_the_run_file_under_zero_3_and_zero_2(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    parameters, trained = read_model(run).parameters, sum(read_model(run).trained)
    three = sizes(run)
    two = sizes(
        run.model_copy(update={"deepspeed": run.deepspeed.model_copy(update={"config": "zero2_bf16"})})
    )
    assert three["weights"] == 2 * parameters / 8
    assert two["weights"] == 2 * parameters
    assert three["AdamW's moments"] == two["AdamW's moments"] == 8 * trained / 8
    assert three["layers in use"] == 2e9
    assert "layers in use" not in two
    assert three["host"] == 2 * parameters * 8
    assert sum(three.values()) - three["host"] < sum(two.values()) - two["host"] < 79 * GIB


def test_full_training_of_8_billion_fits_under_zero_3_only(tmp_path: Path) -> None:
    run = run_of(tmp_path, "model.lora=null", "deepspeed.config=zero2_bf16")
    parameters = read_model(run).parameters
    held = sizes(run)
    states = ("weights", "gradients", "float32 weights", "AdamW's moments")
    assert sum(held[name] for name in states) == (2 + 16 / 8) * parameters
    text = describe_memory(run, 34 * GIB)
    assert text.endswith("does not fit: set deepspeed.config=zero3_bf16"), text


@pytest.mark.parametrize(
    ("overrides", "gib", "remedy"),
    [
        (["deepspeed.gradient_checkpointing=false"], 79, "set deepspeed.gradient_checkpointing=true"),
        (["step.chunk_tokens=131072"], 79, "set step.chunk_tokens=32768"),
        ([], 2, "use more or larger GPUs, or deepspeed.config=zero3_offload"),
    ],
)
def test_what_does_not_fit_gets_a_remedy_that_fits(
    overrides: list[str], gib: float, remedy: str, tmp_path: Path
) -> None:
    text = describe_memory(run_of(tmp_path, *overrides), gib * GIB)
    assert text.splitlines()[-1] == f"  does not fit: {remedy}"


def test_every_term_has_a_formula_and_the_sum_is_theirs(tmp_path: Path) -> None:
    text = describe_memory(run_of(tmp_path), 79 * GIB)
    rows = [re.match(r"  (.+?) +([\d.]+) GiB  (.+)", line) for line in text.splitlines()[1:]]
    values = [(row[1], float(row[2])) for row in rows if row]
    assert len(values) == len(rows)
    total = dict(values)["sum"]
    terms = [value for name, value in values if name not in ("sum", "host, at the start")]
    assert sum(terms) == pytest.approx(total, abs=0.01)


def test_further_denominators_need_more_columns_and_the_questions(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    names = ["question_question", "passage_passage"]
    more = run.model_copy(update={"loss": run.loss.model_copy(update={"denominators": names})})
    before, after = sizes(run), sizes(more)
    batch, passages = run.batches.global_batch_size, 1 + run.batches.hard_negatives.count
    assert after["scores"] / before["scores"] == pytest.approx(
        (batch + 2 * batch * passages) / (batch * passages)
    )
    assert after["embeddings"] - before["embeddings"] == 8 * 4096 * batch


def test_a_folder_without_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        describe_memory(load_run("decoder_lora", [f"model.name_or_path={tmp_path}"]), 79 * GIB)
    assert "expected a model with a readable config.json, got none" in str(refused.value)
    assert "weights are not needed" in str(refused.value)


def test_unknown_targets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected linear layers of the model, got 'query'"):
        describe_memory(run_of(tmp_path, "model.lora.targets=[query]"), 79 * GIB)


def test_a_model_type_without_formula_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 1, "n_embd": 48}))
    text = describe_memory(
        load_run("decoder_lora", [f"model.name_or_path={tmp_path}", "model.lora=null"]), 79 * GIB
    )
    assert "not in the sum: activations: there is no formula for model type gpt2" in text


def test_a_run_on_a_cpu(tmp_path: Path) -> None:
    text = describe_memory(load_run("quickstart"), 79 * GIB)
    assert "each of 2 workers" in text
    assert "context" not in text
    assert "128 rows of 96" in text or "all of a worker" in text

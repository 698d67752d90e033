"""Every engine, over real processes, against one process on the whole global batch.

Loss of every step, gradient of every parameter and the parameters after 3 AdamW steps with clipping; dropout
on. The reference (`bodies.reference`) builds the whole B x N matrix, uses autograd, `clip_grad_norm_` and
AdamW, and knows nothing of engines; it draws each rank's dropout from that rank's seed.
"""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.settings import LossSettings
from hbt_dist.contrastive.world import World
from hbt_dist.training.deepspeed.engine import DeepSpeedEngine, TrainedModel, build_engine
from hbt_dist.training.deepspeed.partition import move_unless_partitioned
from hbt_dist.training.deepspeed.settings import DeepSpeedSettings, ResolvedDeepSpeed, resolve_deepspeed
from hbt_dist.training.optimizer import learning_rate, parameter_groups
from hbt_dist.training.settings import OptimizerSettings
from tests.contrastive.tiny import Case, build_encoder, locals_of, reference_loss
from tests.helpers.ranks import run_ranks
from tests.training.bodies import FROZEN, FROZEN_LAYERS, PARTS, reference, run_case

TOLERANCE = 1e-5
STAGES: list[int | None] = [None, 0, 1, 2, 3]
MATRIX = {
    f"zero{stage}-{mode}-{negatives}neg-{directions}".replace("zeroNone", "plain"): Case(
        stage=stage,
        step={"mode": mode, "chunk_rows": 2},
        num_negatives=negatives,
        loss={"directions": directions},
    )
    for stage, mode, negatives, directions in itertools.product(
        STAGES, ["direct", "cached"], [0, 1], ["question_to_passage", "both"]
    )
}
#: Cases of the default tests, on two processes: every two choices meet in one of them. The rest is slow.
_PATTERNS = (
    ("direct-0neg-both", "cached-1neg-question_to_passage"),
    ("direct-1neg-question_to_passage", "cached-0neg-both"),
    ("direct-1neg-both", "cached-0neg-question_to_passage"),
)
PAIRWISE = [
    f"{stage}-{pattern}"
    for stage, patterns in zip(["plain", "zero0", "zero1", "zero2", "zero3"], itertools.cycle(_PATTERNS))
    for pattern in patterns
]
BASE = Case(num_negatives=1, duplicates=True, loss={"directions": "both"})
WITH_HEAD: dict[str, Any] = {"model": "dense", "layers": 2}
OFFLOAD = {"offload_optimizer": {"device": "cpu"}}
VARIANTS = {
    **{f"chunk{rows}": BASE.but(stage=2, step={"chunk_rows": rows}) for rows in (1, 3, 4, 100)},
    **{f"boundary-zero{s}": BASE.but(stage=s, step={"grad_reduction": "boundary"}) for s in (1, 2, 3)},
    "direct-zero2": BASE.but(stage=2, step={"mode": "direct"}),
    **{
        f"kept-zero{s}": BASE.but(
            stage=s, step={"mode": "auto", "chunk_tokens": 20, "kept_tokens": 40, "grad_reduction": reduction}
        )
        for s, reduction in ((1, "auto"), (2, "boundary"), (3, "auto"))
    },
    "temperature-plain": BASE.but(stage=None, loss={"learn_temperature": True}),
    "temperature-zero0": BASE.but(stage=0, loss={"learn_temperature": True}),
    "temperature-zero1": BASE.but(stage=1, loss={"learn_temperature": True, "directions": "both"}),
    "temperature-boundary-zero2": BASE.but(
        stage=2, loss={"learn_temperature": True}, step={"grad_reduction": "boundary"}
    ),
    "temperature-zero3": BASE.but(stage=3, loss={"learn_temperature": True}),
    "offload-zero2": BASE.but(stage=2, deepspeed={"zero": OFFLOAD}),
    "offload-zero3": BASE.but(stage=3, deepspeed={"zero": {**OFFLOAD, "offload_param": {"device": "cpu"}}}),
    "xlmr-zero2": BASE.but(stage=2, model="xlmr", layers=2),
    "packed-zero2": BASE.but(stage=2, model="packed", layers=2),
    "packed-checkpointing-zero1": BASE.but(stage=1, model="packed", layers=2, checkpointing=True),
    "checkpointing-zero2": BASE.but(stage=2, model="xlmr", layers=2, checkpointing=True),
    "checkpointing-zero3": BASE.but(stage=3, model="xlmr", layers=2, checkpointing=True),
    **{
        f"lora-{mode}-zero{s}".replace("zeroNone", "plain"): BASE.but(
            stage=s, model="lora", step={"mode": mode}
        )
        for s, mode in itertools.product(STAGES, ("direct", "cached"))
    },
    "lora-temperature-zero2": BASE.but(stage=2, model="lora", loss={"learn_temperature": True}),
    **{f"lora-checkpointing-zero{s}": BASE.but(stage=s, model="lora", checkpointing=True) for s in (2, 3)},
    **{
        f"decoder-{mode}-zero{s}".replace("zeroNone", "plain"): BASE.but(
            stage=s, model="decoder", step={"mode": mode, "chunk_rows": 2}
        )
        for s, mode in itertools.product(STAGES, ("direct", "cached"))
    },
    "sub-batch-alignment-zero1": BASE.but(stage=1, loss={"negatives": "sub_batch", "alignment_weight": 0.5}),
    **{
        f"{name}-{stage}": BASE.but(
            stage=None if stage == "plain" else int(stage[-1]), parts=parts, **WITH_HEAD
        )
        for stage in ("plain", "zero0", "zero1", "zero2", "zero3")
        for name, parts in {"parts": PARTS, "frozen": FROZEN, "layers": FROZEN_LAYERS}.items()
    },
    "parts-temperature-zero1": BASE.but(stage=1, parts=PARTS, loss={"learn_temperature": True}, **WITH_HEAD),
    "parts-boundary-zero2": BASE.but(stage=2, parts=PARTS, step={"grad_reduction": "boundary"}, **WITH_HEAD),
    "eq1-zero1": BASE.but(stage=1, loss={"equation": "paper_eq1", "temperature": 1.0}),
}
DECODER = {name: case for name, case in VARIANTS.items() if name.startswith("decoder")}
LORA = {name: case for name, case in VARIANTS.items() if name.startswith("lora")}
#: Losses at several widths, with a learned temperature, over every engine; one of them is a default test.
NESTED = {
    f"widths-temperature-{stage}-{mode}": BASE.but(
        stage=stage,
        step={"mode": mode, "chunk_rows": 2},
        loss={
            "directions": "both",
            "widths": [16, 6, 3],
            "width_weights": [1.0, 0.5, 2.0],
            "learn_temperature": True,
        },
    )
    for stage, mode in itertools.product(STAGES, ["direct", "cached"])
}
#: Every optional term of the loss, alone and with what it shares its vectors, masks and widths with.
ALL = ["question_question", "passage_passage", "passage_question"]
TERMS = {
    f"{name}-{stage}-{mode}": BASE.but(stage=stage, step={"mode": mode, "chunk_rows": 2}, loss=loss)
    for name, loss in {
        "denominators": {"denominators": ALL, "negatives": "sub_batch", "learn_temperature": True},
        "hardness": {"hardness": {"columns": "both"}, "directions": "both", "widths": [16, 6]},
        "spread_out": {"spread_out": {"weight": 2.0}, "denominators": ["passage_passage"]},
        "terms": {
            **{"denominators": ALL, "hardness": {}, "spread_out": {}},
            **{"widths": [16, 6], "learn_temperature": True},
        },
    }.items()
    for stage, mode in itertools.product([None, 2, 3], ["direct", "cached"])
}
VARIANTS["terms-temperature-zero2"] = TERMS["terms-2-cached"]
VARIANTS["widths-temperature-zero2"] = NESTED["widths-temperature-2-cached"]
#: False negatives by similarity, with a learned temperature, the model's scores or a guide's.
SIMILAR = {
    f"similar-{name}-{'plain' if stage is None else stage}-{mode}": BASE.but(
        stage=stage,
        step={"mode": mode, "chunk_rows": 2},
        loss={"directions": "both", "learn_temperature": True, "false_negatives": masks},
    )
    for stage, mode in itertools.product((None, 2), ["direct", "cached"])
    for name, masks in {"model": {"margin": 0.02}, "guide": {"margin": 0.1, "guide": "guide"}}.items()
}
VARIANTS["similar-zero2"] = SIMILAR["similar-model-2-cached"]
#: Distillation of a teacher's scores, with a learned temperature; default tests take those without ZeRO.
DISTILLED = {
    f"distilled-{stage}-{mode}": BASE.but(
        stage=stage,
        num_negatives=2,
        step={"mode": mode, "chunk_rows": 2},
        loss={"learn_temperature": True, "distillation": {"weight": 1.5, "temperature": 0.5}},
    )
    for stage, mode in itertools.product(STAGES, ["direct", "cached"])
}
#: InfoNCE and distances to a teacher's vectors by weights that change; default tests take those without ZeRO.
SWITCHED = {"schedule": "steps", "values": {0: 0.0, 1: 0.3}}
DRAWN = {
    f"{form}-{similarity}-{stage}-{mode}": BASE.but(
        stage=stage,
        step={"mode": mode, "chunk_rows": 2},
        loss={
            "similarity": similarity,
            "temperature": 5.0 if similarity == "dot" else 0.1,
            "info_nce_weight": SWITCHED,
            "targets": {"teacher": "t", "form": form, "weight": 0.8},
        },
    )
    for stage, mode in itertools.product([None, 1, 3], ["direct", "cached"])
    for form, similarity in itertools.product(["cosine", "mse"], ["cosine", "dot"])
    if stage is None or (form == "mse") == (similarity == "dot")
}
BF16: dict[str, dict[str, Any]] = {
    "bf16": {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}},
    "autocast": {
        "torch_autocast": {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
    },
}
LOW = {f"{name}-zero{s}": BASE.but(stage=s, deepspeed=BF16[name]) for name in BF16 for s in (1, 2, 3)}
# The loss is scaled by 256: gradients below float16's 6e-8 count, and none overflows.
FP16 = {"fp16": {"enabled": True, "initial_scale_power": 8}}
LOW |= {f"fp16-zero{s}": BASE.but(stage=s, deepspeed=FP16) for s in (1, 2, 3)}
_SHIPPED: Any = resolve_deepspeed(DeepSpeedSettings(config="zero1_fp16")).config
LOW |= {
    f"copy-{name}".replace("None", "plain"): BASE.but(stage=stage, precision="bf16_copy", model="xlmr")
    for name, stage in ((f"zero{s}", s) for s in (None, 0, 1, 2))
}
LOW |= {
    f"lora-{name}-zero{s}": BASE.but(stage=s, deepspeed=BF16[name], model="lora")
    for name in BF16
    for s in (2, 3)
}
LOW |= {
    f"lora-half-{name}-zero{s}": BASE.but(stage=s, deepspeed=BF16[name], model="lora-half")
    for name in BF16
    for s in (2, 3)
}
LOW["lora-copy-zero2"] = BASE.but(stage=2, precision="bf16_copy", model="lora")
LOW["fp16-shipped"] = BASE.but(
    stage=1,
    deepspeed={
        **{name: _SHIPPED[name] for name in _SHIPPED if name != "zero_optimization"},
        "zero": {
            **_SHIPPED["zero_optimization"],
            "reduce_bucket_size": 10_000,
            "allgather_bucket_size": 10_000,
        },
        "fp16": {**_SHIPPED["fp16"], "initial_scale_power": 8},
    },
)

DEFAULT_VARIANTS = [
    "chunk3",
    "kept-zero3",
    "packed-zero2",
    "decoder-cached-zero2",
    "temperature-zero1",
    "offload-zero2",
    "parts-zero1",
    "frozen-zero3",
    "lora-cached-zero1",
    "widths-temperature-zero2",
    "similar-zero2",
    "terms-temperature-zero2",
]
DEFAULT_LOW = ["bf16-zero1", "copy-zero2", "fp16-zero2"]
_results: dict[str, dict[str, list[dict[str, Any]]]] = {}


def results(group: str, world_size: int, cases: dict[str, Case], **kwargs: Any) -> dict[str, Any]:
    """Results of a group of cases, [rank] per name; one start of the processes per group and world size."""
    key = f"{group}-{world_size}"
    if key not in _results:
        found = run_ranks(
            world_size,
            "tests.training.bodies:run_cases",
            cases=list(cases.values()),
            timeout=280,
            **kwargs,
        )
        _results[key] = {name: [rank[i] for rank in found] for i, name in enumerate(cases)}
    return _results[key]


def in_tiers(cases: dict[str, Case], default: list[str]) -> list[Any]:
    """Names of cases; those that are not default carry the mark `slow`."""
    return [name if name in default else pytest.param(name, marks=pytest.mark.slow) for name in cases]


def results_of_tier(
    group: str, name: str, cases: dict[str, Case], default: list[str]
) -> list[dict[str, Any]]:
    """Results of a case on two processes; default cases start their processes alone, the rest together."""
    if name in default:
        return results(f"{group}-{name}", 2, {name: cases[name]})[name]  # type: ignore[no-any-return]
    return results(group, 2, {key: case for key, case in cases.items() if key not in default})[name]  # type: ignore[no-any-return]


def error_of(got: list[dict[str, Any]], want: dict[str, Any]) -> dict[str, float]:
    """Largest relative errors. A gradient that is zero by symmetry is measured against the whole gradient."""
    total = math.sqrt(sum(float(g.double().square().sum()) for g in want["gradients"].values()))

    def gradient_error(name: str) -> float:
        wanted = want["gradients"][name].double()
        difference = got[0]["gradients"][name].double() - wanted
        return float(difference.norm()) / max(float(wanted.norm()), 1e-3 * total)

    def parameter_error(name: str) -> float:
        wanted = want["parameters"][name].double()
        return float((got[0]["parameters"][name].double() - wanted).norm() / wanted.norm())

    assert got[0]["gradients"].keys() >= want["gradients"].keys()
    return {
        "gradient": max(gradient_error(name) for name in want["gradients"]),
        "parameter": max(parameter_error(name) for name in want["parameters"]),
        "loss": max(abs(a / b - 1) for rank in got for a, b in zip(rank["loss"], want["loss"], strict=True)),
        "norm": max(abs(a / b - 1) for rank in got for a, b in zip(rank["norm"], want["norm"], strict=True)),
    }


@pytest.mark.parametrize("name", PAIRWISE)
def test_two_processes_equal_one(name: str) -> None:
    stage = name.split("-", maxsplit=1)[0]
    cases = {case: MATRIX[case] for case in PAIRWISE if case.startswith(stage)}
    error = error_of(results(f"pairwise-{stage}", 2, cases)[name], reference(MATRIX[name], 2))
    assert max(error.values()) <= TOLERANCE, error


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", MATRIX)
def test_equals_one_process(world_size: int, name: str) -> None:
    got = results("matrix", world_size, MATRIX)[name]
    error = error_of(got, reference(MATRIX[name], world_size))
    assert max(error.values()) <= TOLERANCE, error


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", NESTED)
def test_several_widths_equal_one_process(world_size: int, name: str) -> None:
    got = results("nested", world_size, NESTED)[name]
    error = error_of(got, reference(NESTED[name], world_size))
    assert max(error.values()) <= 3 * TOLERANCE, error


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", SIMILAR)
def test_false_negatives_by_similarity_equal_one_process(world_size: int, name: str) -> None:
    got = results("similar", world_size, SIMILAR)[name]
    error = error_of(got, reference(SIMILAR[name], world_size))
    assert max(error.values()) <= 3 * TOLERANCE, error
    masked = [result.masked for result in got[0]["results"]]
    assert all(0 < sum(map(sum, each.masked_LL)) < sum(map(sum, each.columns_LL)) for each in masked)


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", TERMS)
def test_optional_terms_equal_one_process(world_size: int, name: str) -> None:
    error = error_of(results("terms", world_size, TERMS)[name], reference(TERMS[name], world_size))
    assert max(error.values()) <= 3 * TOLERANCE, error


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", DRAWN)
def test_targets_equal_one_process(world_size: int, name: str) -> None:
    error = error_of(results("drawn", world_size, DRAWN)[name], reference(DRAWN[name], world_size))
    assert max(error.values()) <= TOLERANCE, error


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("name", DISTILLED)
def test_distillation_equals_one_process(world_size: int, name: str) -> None:
    got = results("distilled", world_size, DISTILLED)[name]
    error = error_of(got, reference(DISTILLED[name], world_size))
    assert max(error.values()) <= 3 * TOLERANCE, error
    assert all(result.terms["distilled_rows"] == pytest.approx(9 / 12) for result in got[0]["results"])


def test_distillation_of_two_processes_equals_one() -> None:
    cases = {name: case for name, case in DISTILLED.items() if "None" in name}
    found = results("distilled-plain", 2, cases)
    for name, case in cases.items():
        error = error_of(found[name], reference(case, 2))
        assert max(error.values()) <= 3 * TOLERANCE, (name, error)


def test_targets_of_two_processes_equal_one() -> None:
    cases = {name: case for name, case in DRAWN.items() if "None" in name}
    found = results("drawn-plain", 2, cases)
    for name, case in cases.items():
        error = error_of(found[name], reference(case, 2))
        assert max(error.values()) <= TOLERANCE, (name, error)


def test_a_wrong_scale_of_the_targets_would_fail() -> None:
    """Times the number of processes, as if the mean were over the rank's rows alone."""
    cases = {name: case for name, case in DRAWN.items() if "None-cached" in name}
    twice = {name: case.but(loss=_times_two(case.loss)) for name, case in cases.items()}
    found = results("drawn-twice", 2, twice)
    for name, case in cases.items():
        assert error_of(found[name], reference(case, 2))["gradient"] > 0.9


def _times_two(loss: dict[str, Any]) -> dict[str, Any]:
    return {**loss, "targets": {**loss["targets"], "weight": 2 * loss["targets"]["weight"]}}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", in_tiers(VARIANTS, DEFAULT_VARIANTS))
def test_variants_equal_one_process(name: str) -> None:
    got = results_of_tier("variants", name, VARIANTS, DEFAULT_VARIANTS)
    error = error_of(got, reference(VARIANTS[name], 2))
    # The temperature's gradient is a difference of large sums.
    assert max(error.values()) <= (3 * TOLERANCE if "temperature" in name else TOLERANCE), error
    if name.startswith("boundary"):
        assert got[0]["reduction"] == "boundary"
    assert_exported(got)


PART_CASES = {name: case for name, case in VARIANTS.items() if case.parts}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world_size", [1, 4])
@pytest.mark.parametrize("name", PART_CASES)
def test_rates_by_part_equal_hand_made_groups(world_size: int, name: str) -> None:
    got = results("parts", world_size, PART_CASES)[name]
    error = error_of(got, reference(PART_CASES[name], world_size))
    assert max(error.values()) <= (3 * TOLERANCE if "temperature" in name else TOLERANCE), error


@pytest.mark.parametrize("key", ["embedding_rate", "layer_decay", "head_rate"])
def test_a_wrong_factor_of_a_part_would_fail(key: str) -> None:
    case = VARIANTS["parts-plain"]
    wrong = run_case(World.alone(), case.but(parts={**PARTS, key: 0.95 * PARTS[key]}))
    assert error_of([wrong], reference(case, 1))["parameter"] > 10 * TOLERANCE


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world_size", [1, 4])
@pytest.mark.parametrize("name", DECODER)
def test_decoders_equal_one_process(world_size: int, name: str) -> None:
    error = error_of(results("decoder", world_size, DECODER)[name], reference(DECODER[name], world_size))
    assert max(error.values()) <= TOLERANCE, error


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("world_size", [1, 4])
@pytest.mark.parametrize("name", LORA)
def test_adapters_equal_one_process(world_size: int, name: str) -> None:
    got = results("lora", world_size, LORA)[name]
    error = error_of(got, reference(LORA[name], world_size))
    assert max(error.values()) <= (3 * TOLERANCE if "temperature" in name else TOLERANCE), error
    trained = got[0]["gradients"].keys() - {"temperature.log_scale"}
    assert all(".lora_A." in key or ".lora_B." in key for key in trained)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", in_tiers(LOW, DEFAULT_LOW))
def test_half_precision_is_close_to_float32_on_one_process(name: str) -> None:
    got = results_of_tier("low", name, LOW, DEFAULT_LOW)
    error = error_of(got, reference(LOW[name], 2))
    assert max(error["loss"], error["norm"]) <= 0.05, error
    # The biases of XLM-R's keys have no gradient but rounding, and AdamW takes steps of it.
    assert error["parameter"] <= (0.1 if name.startswith("copy") else 0.05), error
    assert error["gradient"] <= 0.3, error
    assert_exported(got)


def test_a_bf16_copy_equals_a_model_in_bf16_whose_gradients_are_added_in_float32() -> None:
    case = BASE.but(stage=None, precision="bf16_copy", model="xlmr", dropout=0.0, steps=1)
    got = run_case(World.alone(), case)["gradients"]
    encoder = build_encoder(case)
    halves = {name: p.to(torch.bfloat16) for name, p in encoder.named_parameters()}
    want = _naive_gradients(encoder, case, lambda *inputs: functional_call(encoder, halves, inputs))
    exact = _naive_gradients(encoder, case, encoder)

    def error(gradients: dict[str, Any], reference: dict[str, Any]) -> float:
        pairs = [(gradients[f"encoder.{name}"], g) for name, g in reference.items()]
        return math.sqrt(
            sum(float((a - b).square().sum()) for a, b in pairs)
            / sum(float(b.square().sum()) for _, b in pairs)
        )

    rounding = error({f"encoder.{name}": g for name, g in want.items()}, exact)
    assert 1e-3 < rounding < 0.05  # what bf16 costs
    assert error(got, want) < rounding  # chunks add less than that
    assert error({name: 1.1 * g for name, g in got.items()}, want) > rounding  # and a wrong scale more


def _naive_gradients(encoder: torch.nn.Module, case: Case, encode: Any) -> dict[str, torch.Tensor]:
    encoder.zero_grad()
    reference_loss(encode, case, locals_of(case, 1, 0), 0, None).backward()
    return {name: p.grad.clone() for name, p in encoder.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"config": 3}, "got 3, which never holds all weights at once"),
        ({"config": "zero2_bf16"}, "expected a DeepSpeed file in float32 with bf16_copy"),
        ({"config": None, "gradient_checkpointing": True}, "cannot compute activations again"),
    ],
)
def test_where_a_bf16_copy_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resolve_deepspeed(DeepSpeedSettings(**settings, precision="bf16_copy"))
    assert resolve_deepspeed(DeepSpeedSettings(config=1, precision="bf16_copy")).computes_in_bf16


def assert_exported(got: list[dict[str, Any]]) -> None:
    """The model that is written is the one the optimizer moves, not its copy in bf16 or fp16."""
    for name, parameter in got[0]["parameters"].items():
        if name.startswith("encoder."):
            assert torch.equal(got[0]["exported"][name.removeprefix("encoder.")], parameter), name


ENCODERS = {
    "lora": VARIANTS["lora-cached-zero2"],
    "decoder": VARIANTS["decoder-cached-zero2"],
    "widths": NESTED["widths-temperature-3-cached"],
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("wrong_scale", [2.0, 0.5])
@pytest.mark.parametrize(
    "cases",
    [
        {name: case for name, case in MATRIX.items() if "1neg-both" in name},
        pytest.param(ENCODERS, marks=pytest.mark.slow),
    ],
    ids=["engines", "encoders"],
)
def test_a_wrong_scale_would_fail(cases: dict[str, Case], wrong_scale: float) -> None:
    """Times or divided by the world size, as in half of the public trainers: every case must notice.

    In the gradient and its norm: clipping and AdamW hide a wrong scale from the parameters here.
    """
    found = results(f"wrong{wrong_scale}-{len(cases)}", 2, cases, wrong_scale=wrong_scale)
    for name, case in cases.items():
        error = error_of(found[name], reference(case, 2))
        assert error["gradient"] == pytest.approx(abs(wrong_scale - 1), rel=1e-3)
        assert error["norm"] > 0.4


@pytest.mark.timeout(300)
def test_plain_backward_per_chunk_is_wrong_and_would_be_noticed() -> None:
    """Why `accumulate` exists: without it ZeRO-1 and 2 lose chunks and say nothing."""
    cases = {f"zero{s}": BASE.but(stage=s, step={"chunk_rows": 2}) for s in (1, 2)}
    found = results("plain-backward", 2, cases, plain_backward=True)
    for name, case in cases.items():
        assert error_of(found[name], reference(case, 2))["gradient"] > 0.1


@pytest.mark.timeout(300)
def test_a_gradient_that_is_not_finite_is_reported_and_moves_nothing() -> None:
    cases = {f"{s}": BASE.but(stage=s, steps=1) for s in STAGES}
    for stage, ranks in results("nan", 2, cases, wrong_scale=float("nan")).items():
        assert not any(math.isfinite(rank["norm"][0]) for rank in ranks), stage
        if stage != "3":  # ZeRO-3 in float32 does not look; the run ends all the same
            assert all(p.isfinite().all() for p in ranks[0]["parameters"].values()), stage


def test_learning_rate() -> None:
    settings = OptimizerSettings(learning_rate=1.0, warmup_steps=4, schedule="linear")
    rates = [learning_rate(step, 10, settings) for step in range(10)]
    assert rates[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert rates[4:] == pytest.approx([1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])
    cosine = OptimizerSettings(learning_rate=1.0, warmup_ratio=0, schedule="cosine")
    assert [learning_rate(s, 4, cosine) for s in (0, 2)] == pytest.approx([1.0, 0.5])
    constant = OptimizerSettings(learning_rate=1.0, warmup_ratio=0.5, schedule="constant")
    assert learning_rate(9, 10, constant) == 1.0


def test_a_learned_temperature_has_its_own_rate_and_no_decay() -> None:
    settings = OptimizerSettings(learning_rate=1e-5, weight_decay=0.1)
    loss = LossSettings(learn_temperature=True)
    matrices, vectors, temperature = parameter_groups(TrainedModel(build_encoder(Case()), loss), settings)
    assert [p.shape for p in temperature["params"]] == [(1,)]
    assert [group["lr"] for group in (matrices, vectors, temperature)] == [1e-5, 1e-5, 1e-3]
    assert [group["weight_decay"] for group in (matrices, vectors, temperature)] == [0.1, 0, 0]
    assert len(parameter_groups(TrainedModel(build_encoder(Case())), settings)) == 2
    assert learning_rate(0, 10, settings, 1e-3) == pytest.approx(100 * learning_rate(0, 10, settings))


def test_full_gradients_may_take_what_torch_has_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    """After `chunk_rows: auto` most of a GPU is reserved by torch, and free for whoever asks torch."""
    sizes = {"mem_get_info": (10, 1000), "memory_reserved": 700, "memory_allocated": 400}
    for name, size in sizes.items():
        monkeypatch.setattr(torch.cuda, name, lambda _, size=size: size)
    engine = DeepSpeedEngine.__new__(DeepSpeedEngine)
    engine.world = World.alone("cuda")
    for elements, fits in ((19, True), (20, False)):  # 4 bytes each in a quarter of 310
        engine.model = torch.nn.Linear(elements, 1, bias=False)  # type: ignore[assignment]
        assert engine._full_gradients_fit() == fits


def test_coalesce_is_refused_where_deepspeed_has_none() -> None:
    engine = DeepSpeedEngine.__new__(DeepSpeedEngine)
    engine.zero_stage, engine.world, engine.resolved = 0, World.alone(), ResolvedDeepSpeed()
    engine.deepspeed = type("Fake", (), {"optimizer": None})()
    with pytest.raises(UserError, match="coalesce does not work with ZeRO stage 0"):
        engine._choose("coalesce")
    assert engine._choose("auto") == "boundary"


@pytest.mark.parametrize("low", [{}, BF16["bf16"]], ids=["float32", "bf16"])
def test_zero3_cuts_a_model_before_deepspeed_moves_it(low: dict[str, Any]) -> None:
    case = BASE.but(stage=3, deepspeed=low)
    parameters = list(build_encoder(case).parameters())
    for found in run_ranks(2, "tests.training.bodies:whole_when_deepspeed_starts", case=case):
        assert (found["whole"], found["cut"]) == (0, sum(p.numel() for p in parameters))
        assert found["dtypes"] == {torch.bfloat16 if low else torch.float32}
        assert found["groups"] == [sum(p.ndim > 1 for p in parameters), sum(p.ndim == 1 for p in parameters)]


@pytest.mark.parametrize(("config", "stays"), [(3, True), ("zero3_offload", True), (2, False), (None, False)])
def test_what_zero3_will_cut_stays_in_host_memory(config: Any, stays: bool) -> None:
    encoder = move_unless_partitioned(
        build_encoder(Case()), resolve_deepspeed(DeepSpeedSettings(config=config)), torch.device("meta")
    )
    assert {p.device.type for p in encoder.parameters()} == {"cpu" if stays else "meta"}


def test_gradient_checkpointing_is_refused_by_an_encoder_without_it() -> None:
    with pytest.raises(UserError, match="SmallEncoder does not support it"):
        build_engine(
            build_encoder(Case()),
            optimizer=OptimizerSettings(),
            total_steps=1,
            world=World.alone(),
            deepspeed=ResolvedDeepSpeed(gradient_checkpointing=True),
        )


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_deepspeed_waits_for_a_lost_worker_no_longer_than_we_do(stage: int, tmp_path: Path) -> None:
    """It makes a process group of its own; groups that others make afterwards keep torch's 30 minutes."""
    limits = run_ranks(2, "tests.training.bodies:group_limits", store=str(tmp_path / "store"), stage=stage)
    assert limits == [[3777.0, 1800.0]] * 2


def test_deepspeed_does_not_wait_for_the_gpu_to_measure_itself() -> None:
    """Its throughput clock would, from the third step on: in every forward, and once per step."""
    clock = {"timers": {"throughput": {"enabled": True, "synchronized": True}}}
    (waits,) = run_ranks(1, "tests.training.bodies:waits_of_the_throughput_clock", timers=[{}, clock])
    assert waits[0] == 0
    assert waits[1] > 10, "the user's file decides"


def error_of_means(results: list[dict[str, Any]]) -> float:
    """Largest difference to the naive mean over all ranks; a missing gradient counts as zero."""
    errors = []
    for at in range(len(results[0]["after"])):
        parts = [result["before"][at] for result in results if result["before"][at] is not None]
        mean = torch.stack(parts).double().sum(0) / len(results)
        errors += [float((result["after"][at].double() - mean).abs().max()) for result in results]
    return max(errors)


def test_gradients_are_averaged_in_place_bucket_by_bucket() -> None:
    """A large gradient travels alone and is not copied; a wrong number of ranks would show."""
    messages = {1: [12, 7, 100, 1, 4, 9], 20: [19, 100, 14], 200: [133]}
    ranks = run_ranks(3, "tests.training.bodies:gradient_means", bucket_elements=list(messages))
    for number, expected in enumerate(messages.values()):
        results = [rank[number] for rank in ranks]
        assert error_of_means(results) <= 1e-6
        assert [result["messages"] for result in results] == [expected] * 3
        assert all(result["in_place"] for result in results)
    wrong = run_ranks(3, "tests.training.bodies:gradient_means", bucket_elements=[20], wrong_size=2)
    assert error_of_means([rank[0] for rank in wrong]) > 0.1

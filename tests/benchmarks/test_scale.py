"""The scale model: its traffic is what was counted, and its limits are what they must be."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from benchmarks.contrastive import collectives
from benchmarks.scale import many_ranks, model, report
from benchmarks.scale.model import Assumptions, Cluster, Encoder, Traffic, Workload
from tests.helpers.ranks import ROOT, run_ranks

RESULTS = ROOT / "benchmarks" / "results"
COUNTED: list[dict[str, Any]] = json.loads((RESULTS / "collectives.json").read_text("utf-8"))
BASE = report.ENCODERS[0]
NDR = report.CLUSTERS[0]
#: Round figures: 1 GB/s everywhere, 1 TFLOP/s of each kind.
ROUND = Cluster("round", 1e12, 1e12, 1e10, 1e12, 1e9, 1e9)
PERFECT = Assumptions(utilisation=1.0, loss_utilisation=1.0, link=1.0)


@pytest.mark.parametrize("case", COUNTED, ids=lambda case: "-".join(str(v) for v in list(case.values())[:6]))
def test_the_traffic_is_what_was_counted(case: dict[str, Any]) -> None:
    assert many_ranks.differences(case) == []


@pytest.mark.skipif(torch.__version__ < "2.13", reason="older fake process groups skip optimizer steps")
@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_a_step_of_8_ranks_moves_what_the_model_gives(stage: int | None) -> None:
    """The real step as rank 0 of torch's fake process group, with and without reductions per chunk."""
    if stage is not None and many_ranks.fake_options() is None:
        pytest.skip("DeepSpeed's groups need a fake group with options: torch 2.13")
    cases = [case for case in collectives.ways() if case["stage"] == stage and case["chunk_rows"] == 4]
    [counted] = run_ranks(1, "tests.benchmarks.fake_group:counted", num_ranks=8, cases=cases)
    assert [case["world_size"] for case in counted] == [8] * len(cases)
    assert [line for case in counted for line in many_ranks.differences(case)] == []


def test_a_wrong_number_of_bytes_is_seen() -> None:
    case = json.loads(json.dumps(COUNTED[0]))
    case["contrastive_step"]["allgather"][1] += 4
    assert "allgather" in many_ranks.differences(case)[0]


def test_what_many_ranks_move_was_counted() -> None:
    counted = json.loads((RESULTS / "collectives_many_ranks.json").read_text("utf-8"))
    assert {case["world_size"] for case in counted} == {8, 64, 512}
    assert len(counted) == 3 * len(collectives.ways())
    assert [line for case in counted for line in many_ranks.differences(case)] == []


def test_every_stage_and_way_was_counted() -> None:
    assert len(COUNTED) == 48
    assert {case["stage"] for case in COUNTED} == {None, 0, 1, 2, 3}


@pytest.mark.parametrize("stage", [None, 0, 1, 2, 3])
def test_one_gpu_sends_nothing(stage: int | None) -> None:
    step = model.step_time(BASE, Workload(rows=64, stage=stage), 1, NDR)
    assert set(step.traffic.values()) == {0.0}
    assert step.seconds == step.encoder + step.loss + step.optimizer


def test_a_ring_by_hand() -> None:
    # 16 ranks on 2 nodes, 1.6 GB at 1 GB/s: an all-gather moves 15 / 16 of it over 14 near hops and 1 far one
    gather = model.ring_seconds(Traffic("embeddings", "all_gather", 1, 1.6e9), 16, ROUND, PERFECT)
    assert gather == pytest.approx(1.5 + (8.4 + 14 * 3.4 + 14.0) * 1e-6, rel=1e-12)
    reduce = model.ring_seconds(Traffic("gradient", "all_reduce", 1, 1.6e9), 16, ROUND, PERFECT)
    assert reduce == pytest.approx(3.0 + (8.4 + 28 * 3.4 + 2 * 14.0) * 1e-6, rel=1e-12)
    # inside a node the network does not matter; 8 bytes are all latency, of the protocol LL
    slow = replace(ROUND, network=1.0)
    scalars = model.ring_seconds(Traffic("scalars", "all_reduce", 1, 8), 8, slow, PERFECT)
    assert scalars == pytest.approx((6.6 + 14 * 0.6) * 1e-6, rel=1e-2)


def test_operations_by_hand() -> None:
    encoder = Encoder("by hand", 1000, 400, layers=2, width=10, heads=1)
    load = Workload(rows=3, negatives=1, question_tokens=4, passage_tokens=8)
    # tokens 3 x (4 + 16) = 60; squares 16 + 2 x 64 = 144 per row
    forward = 2 * 600 * 60 + 4 * 2 * 10 * 144 * 3
    assert model.encoder_flops(encoder, load, kept=0.0) == 4 * forward
    assert model.encoder_flops(encoder, load, kept=1.0) == 3 * forward
    # 3 questions x (2 ranks x 3 rows x 2 passages) x 10 wide, 3 products of 2 operations
    assert model.loss_flops(10, load, 2) == 6 * 3 * 12 * 10


def test_operations_are_those_of_the_gpu_script() -> None:
    """Three forwards are the model FLOPs of benchmarks/gpu/check.py: 6 per parameter and token, attention."""
    load = Workload(rows=5, negatives=0)
    attention = sum(12 * BASE.layers * BASE.width * length**2 * 5 for length in (32, 128))
    assert model.encoder_flops(BASE, load, kept=1.0) == 6 * BASE.matrices * load.tokens + attention


@pytest.mark.parametrize("encoder", report.ENCODERS, ids=lambda one: one.name)
def test_shapes_are_those_of_the_published_models(encoder: Encoder) -> None:
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    config = XLMRobertaConfig(
        vocab_size=250_002,
        hidden_size=encoder.width,
        num_hidden_layers=encoder.layers,
        num_attention_heads=encoder.heads,
        intermediate_size=4 * encoder.width,
        max_position_embeddings=514,
        type_vocab_size=1,
    )
    with torch.device("meta"):
        built = XLMRobertaModel(config)
    assert sum(p.numel() for p in built.parameters()) == encoder.parameters
    assert sum(p.numel() for p in built.embeddings.parameters()) == encoder.embedding_parameters


def test_states_by_hand() -> None:
    whole = {stage: model.memory(BASE, Workload(rows=8, stage=stage), 4)["states"] for stage in (0, 1, 2)}
    assert whole == {0: 16 * BASE.parameters, 1: 11 * BASE.parameters, 2: 11 * BASE.parameters}
    boundary = model.memory(BASE, Workload(rows=8, stage=2, reduction="boundary"), 4)["states"]
    assert boundary == 8 * BASE.parameters
    # B = 32 rows, 64 passages of width 768, and their gradient
    assert model.memory(BASE, Workload(rows=8), 4)["embeddings"] == 64 * 768 * 4 * 2


@pytest.mark.parametrize("cluster", report.CLUSTERS, ids=lambda one: one.name)
@pytest.mark.parametrize("encoder", report.ENCODERS, ids=lambda one: one.name)
def test_more_gpus_never_raise_efficiency(encoder: Encoder, cluster: Cluster) -> None:
    for strong, rows in ((False, 1024), (True, 8192)):
        shares = [
            model.efficiency(
                encoder,
                report.load_of(rows, world, encoder, cluster, strong=strong, kept=0.0),
                world,
                cluster,
                Assumptions(),
                strong=strong,
            )
            for world in report.WORLDS
        ]
        assert shares[0] == 1.0
        assert all(after <= before + 1e-9 for before, after in pairwise(shares))


def test_chunks_are_halved_until_they_fit() -> None:
    large, p4d = report.ENCODERS[1], report.CLUSTERS[2]
    load = report.load_of(1024, 8, large, p4d, strong=False)
    assert 4096 < load.chunk_tokens < 65_536
    assert sum(model.memory(large, load, 8).values()) <= 0.9 * p4d.memory
    assert report.load_of(1024, 8, BASE, NDR, strong=False).chunk_tokens == 65_536


def test_faster_networks_and_slower_encoders_raise_efficiency() -> None:
    def share(cluster: Cluster, utilisation: float) -> float:
        assumed = Assumptions(utilisation=utilisation)
        return model.efficiency(BASE, Workload(rows=128), 64, cluster, assumed, strong=True)

    networks = [replace(NDR, network=speed) for speed in (12.5e9, 50e9, 200e9, 400e9)]
    over_networks = [share(cluster, 0.35) for cluster in networks]
    over_utilisations = [share(NDR, one) for one in (0.5, 0.35, 0.2)]
    assert over_networks == sorted(over_networks)
    assert over_utilisations == sorted(over_utilisations)


def test_the_loss_shares_out_a_fixed_batch_and_grows_with_a_fixed_share() -> None:
    fixed = [model.loss_flops(768, Workload(rows=8192 // world), world) for world in (1, 8, 64)]
    assert fixed == [fixed[0], fixed[0] / 8, fixed[0] / 64]
    growing = [model.loss_flops(768, Workload(rows=8192), world) for world in (1, 8, 64)]
    assert growing == [growing[0], growing[0] * 8, growing[0] * 64]


def test_kept_graphs_take_what_memory_is_left() -> None:
    few, many = Workload(rows=256), Workload(rows=8192)
    assert model.kept_share(BASE, few, 64, 80e9) == 1.0
    share = model.kept_share(BASE, many, 1, 80e9)
    assert 0 < share < 0.2
    held = sum(model.memory(BASE, many, 1).values()) + share * many.tokens * model.graph_bytes(BASE)
    assert held == pytest.approx(0.9 * 80e9)
    assert model.kept_share(BASE, many, 1, 8e9) == 0.0
    # Kept graphs save the second forward.
    saved = [model.step_time(BASE, replace(few, kept=kept), 1, NDR).encoder for kept in (0.0, 1.0)]
    assert saved[0] / saved[1] == pytest.approx(4 / 3)


def test_a_graph_holds_what_the_roofline_counts() -> None:
    document = json.loads((RESULTS / "roofline.json").read_text("utf-8"))
    for encoder, name in zip(report.ENCODERS, ("xlmr-base", "560M"), strict=True):
        [row] = [row for row in document[name] if row["code"]["name"] == "no masks"]
        assert model.graph_bytes(encoder) == pytest.approx(1e3 * row["graph_kb_per_token"], rel=0.02)


def test_utilisations_are_those_of_the_roofline() -> None:
    document = json.loads((RESULTS / "roofline.json").read_text("utf-8"))
    hfu = {row["code"]["name"]: row["hfu"] for row in document["xlmr-base"]}
    low, middle, high = report.utilisations_of(Assumptions())
    assert low < hfu["the same, 65,536 tokens"] < hfu["no masks"] < hfu["compiled layers"] < high
    assert middle == pytest.approx(hfu["no masks"], abs=0.02)


def test_measured_figures_take_the_place_of_assumed_ones() -> None:
    document = {
        "training": {"a": {"mfu": 0.24}, "b": {"mfu": 0.3}, "c": {"skipped": "out of memory"}},
        "loss": {"rows tf32, 32,768 x 32,768, row_chunk 1024": {"seconds": 0.02}},
    }
    measured = Assumptions.measured(document, 494e12)
    assert measured.utilisation == pytest.approx(0.4)
    assert measured.loss_utilisation == pytest.approx(6 * 32_768**2 * 768 / 0.02 / 494e12)
    assert Assumptions.measured({}, 494e12) == Assumptions()


def test_the_shipped_page_is_what_the_model_says() -> None:
    rows = report.curves(Assumptions())
    notes = (RESULTS / "scale_notes.md").read_text("utf-8").strip()
    assert (RESULTS / "scale.md").read_text("utf-8") == report.page(rows, notes, Assumptions())
    shipped = json.loads((RESULTS / "scale.json").read_text("utf-8"))
    assert shipped["curves"] == [list(row.values()) for row in rows]

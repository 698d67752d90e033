"""A model of step time and memory for 1 to 512 GPUs. Nothing in it was measured on a GPU.

What is counted is the traffic: which collectives a step issues and their bytes (`collectives.json`, 2 and 4
ranks; `collectives_many_ranks.json`, 8, 64 and 512). `step_traffic` and `optimizer_traffic` are those
formulas, tested against every case. Time is then

    encoder    operations / (utilisation x peak): a forward is 2 P' T + 4 L h sum(length^2), a backward twice
               that. Chunks whose graph is not kept are encoded twice: 4 forwards instead of 3. As many graphs
               are kept as memory allows (`kept_share`). P' are the parameters outside the embeddings, T the
               tokens of one GPU
    loss       6 b N D in TF32: scores, gradient of questions, gradient of passages, for the b = B / W own
               questions against all N = B (1 + n) passages
    optimizer  28 bytes per parameter of the own share through the GPU's memory (4 reads, 3 writes of float32)
    traffic    ring collectives, alpha + beta, as NCCL estimates them itself: start + steps x latency per hop
               + factor x bytes x (W - 1) / W / bandwidth, over the best of its three protocols; factor 2 for
               an all-reduce. Rings run through nodes of 8 GPUs, so the slower of NVLink and network counts

Nothing overlaps, except ZeRO-3's gathers of weights, which DeepSpeed fetches ahead: they cost only what
exceeds the encoder's time (the best case). Not modelled: input, stragglers, contention, trees and in-network
reduction, and that a GPU with few tokens is used worse than one with many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

GPUS_PER_NODE = 8
#: Elements of a DeepSpeed bucket in deepspeed_configs/.
BUCKET = 200_000_000
#: Bytes of the scalars that a step sums over ranks (measured).
STEP_SCALARS = 72
#: Bytes of the numbers of chunks on which ranks agree, of questions and of passages, where rows are padded.
CHUNK_COUNTS = 16
#: NCCL's own figures for rings, src/graph/tuning.cc (baseLat, hwLat): microseconds to start, per NVLink hop
#: and per network hop, and the share of bandwidth, for the protocols Simple, LL128 and LL.
PROTOCOLS = ((8.4, 3.4, 14.0, 1.0), (14.0, 1.9, 4.0, 0.92), (6.6, 0.6, 2.7, 0.25))


@dataclass(frozen=True)
class Encoder:
    """Shape of a backbone; counts from its published configuration."""

    name: str
    parameters: int
    embedding_parameters: int
    layers: int
    width: int
    heads: int

    @property
    def matrices(self) -> int:
        """Parameters that multiply every token: all outside the embeddings."""
        return self.parameters - self.embedding_parameters


@dataclass(frozen=True)
class Cluster:
    """GPUs and wires; bytes per second and direction, operations per second without sparsity."""

    name: str
    bf16_flops: float
    tf32_flops: float
    memory: float
    memory_bandwidth: float
    nvlink: float  # per GPU
    network: float  # per node of 8 GPUs


@dataclass(frozen=True)
class Workload:
    """One step: rows of one GPU, lengths in tokens, and how the gradient is computed."""

    rows: int
    negatives: int = 1
    question_tokens: int = 32
    passage_tokens: int = 128
    chunk_tokens: int = 65_536
    stage: int | None = 1
    reduction: str = "coalesce"
    both_directions: bool = False
    row_chunk: int = 256
    kept: float | None = None  # share of the graphs that are kept; None: as many as memory allows

    @property
    def tokens(self) -> int:
        """Tokens of one GPU."""
        return self.rows * (self.question_tokens + (1 + self.negatives) * self.passage_tokens)

    @property
    def chunks(self) -> int:
        """Chunks of one GPU, those of questions and those of passages."""
        questions = math.ceil(self.rows / (self.chunk_tokens // self.question_tokens))
        return questions + math.ceil(
            self.rows * (1 + self.negatives) / (self.chunk_tokens // self.passage_tokens)
        )


@dataclass(frozen=True)
class Assumptions:
    """What is assumed and not measured.

    The first two are the predictions of benchmarks/gpu/roofline.py for an H200: a bf16 copy of the weights
    reaches 0.41 of the bf16 peak, compiled layers 0.45, both with the second forward counted.
    """

    utilisation: float = 0.4  # of the bf16 peak, by everything that the encoder computes
    loss_utilisation: float = 0.4  # of the TF32 peak, by the loss
    link: float = 0.8  # of a link's published bandwidth; NCCL counts on 235 of an A100's 300 GB/s

    @classmethod
    def measured(cls, document: dict[str, Any], tf32_peak: float) -> Assumptions:
        """Return the assumptions with what a JSON of benchmarks/gpu/check.py measured in their place.

        Args:
            document: the JSON; what it does not hold stays assumed.
            tf32_peak: of the GPU that it was measured on, FLOP/s.
        """
        assumed = cls()
        steps = [step["mfu"] for step in document.get("training", {}).values() if step.get("mfu")]
        if steps:  # of cached steps, whose second forward is work too
            assumed = replace(assumed, utilisation=max(steps) * 4 / 3)
        rows = 32_768
        losses = [
            value["seconds"]
            for name, value in document.get("loss", {}).items()
            if name.startswith(f"rows tf32, {rows:,} x {rows:,}") and "seconds" in value
        ]
        if losses:
            assumed = replace(assumed, loss_utilisation=6.0 * rows * rows * 768 / min(losses) / tf32_peak)
        return assumed


@dataclass(frozen=True)
class Traffic:
    """Some collectives of one kind: ``count`` of them with ``num_bytes`` together, full tensors."""

    what: str  # embeddings, gradient, weights or scalars
    kind: str  # all_gather, reduce_scatter or all_reduce
    count: int
    num_bytes: float


def step_traffic(
    load: Workload, width: int, parameters: int, world: int, gathers_per_chunk: int = 0, chunks: int = 0
) -> list[Traffic]:
    """Collectives of one contrastive step, before the optimizer.

    Args:
        load: rows per rank, stage and the way of reduction.
        width: D, of an embedding.
        parameters: P.
        world: W, which does not change a count.
        gathers_per_chunk: ZeRO-3: gathers of weights per chunk, three passes together.
        chunks: instead of the load's own, for a case whose chunks are counted otherwise.
    """
    chunks = chunks or load.chunks
    passages = world * load.rows * (1 + load.negatives) * width * 4
    questions = world * load.rows * width * 4
    found = [
        Traffic("embeddings", "all_gather", 1, passages),
        Traffic("embeddings", "reduce_scatter", 1, passages),
        Traffic("scalars", "all_reduce", 2, STEP_SCALARS + CHUNK_COUNTS),
    ]
    if load.both_directions:
        found += [
            Traffic("embeddings", "all_gather", 1, questions),
            Traffic("embeddings", "reduce_scatter", 1, questions),
        ]
    boundary = load.reduction == "boundary" and load.stage in {2, 3}
    times = chunks if boundary else 1
    kind = "reduce_scatter" if load.stage == 3 else "all_reduce"
    buckets = math.ceil(parameters / BUCKET)
    found.append(Traffic("gradient", kind, buckets * times, 4 * parameters * times))
    if load.stage == 3:
        found.append(
            Traffic("weights", "all_gather", gathers_per_chunk * chunks, 3 * 4 * parameters * chunks)
        )
    return found


def padded_parameters(groups: Sequence[Sequence[int]], world: int, stage: int | None) -> int:
    """Return the elements that DeepSpeed moves for the parameters, with its padding (measured).

    ZeRO-1 and 2 pad each optimizer group to a multiple of 2 W, ZeRO-3 each tensor to a multiple of W: of an
    encoder with hundreds of millions of parameters nothing.

    Args:
        groups: elements of each tensor of each optimizer group.
        world: W.
        stage: of ZeRO; None and 0 pad nothing.
    """
    if stage == 3:
        return sum(math.ceil(size / world) * world for group in groups for size in group)
    unit = 2 * world if stage in {1, 2} else 1
    return sum(math.ceil(sum(group) / unit) * unit for group in groups)


def optimizer_traffic(stage: int | None, parameters: int, groups: int = 2) -> list[Traffic]:
    """Collectives of the optimizer: weights after ZeRO-1 and 2, and the scalars of norm and overflow."""
    if stage is None:
        return []
    if stage == 0:
        return [Traffic("scalars", "all_reduce", 1, 4)]
    scalars = Traffic("scalars", "all_reduce", 2, 16 if stage == 3 else 8)
    if stage == 3:
        return [scalars]
    count = max(groups, math.ceil(parameters / BUCKET))
    return [Traffic("weights", "all_gather", count, 4 * parameters), scalars]


def ring_seconds(one: Traffic, world: int, cluster: Cluster, assumed: Assumptions) -> float:
    """Time of the collectives on a ring over all ranks; 0 for one rank."""
    if world == 1 or one.count == 0:
        return 0.0
    passes = 2 if one.kind == "all_reduce" else 1
    nodes = math.ceil(world / GPUS_PER_NODE)
    far = passes * (nodes - 1)
    near = passes * (world - 1) - far
    speed = assumed.link * (min(cluster.nvlink, cluster.network) if nodes > 1 else cluster.nvlink)
    moved = passes * one.num_bytes * (world - 1) / world
    return min(
        one.count * (start + near * hop + far * network_hop) * 1e-6 + moved / (speed * share)
        for start, hop, network_hop, share in PROTOCOLS
    )


def kept_share(encoder: Encoder, load: Workload, world: int, memory_bytes: float) -> float:
    """Share of the graphs of a step that one GPU holds next to everything else, in 0.9 of its memory."""
    if load.kept is not None:
        return load.kept
    room = 0.9 * memory_bytes - sum(memory(encoder, load, world).values())
    return min(1.0, max(0.0, room / (graph_bytes(encoder) * load.tokens)))


def graph_bytes(encoder: Encoder) -> float:
    """Bytes per token that a graph holds from its forward to its backward, with fused attention in 16 bit.

    34 x layers x width (Korthikanti et al. 2022, arXiv 2205.05198, without the attention scores);
    benchmarks/gpu/roofline.py counts 316 kB for XLM-R base and 841 kB for XLM-R large, 1 % more.
    """
    return 34.0 * encoder.layers * encoder.width


def encoder_flops(encoder: Encoder, load: Workload, kept: float) -> float:
    """Operations of one GPU's encoder in one step, if a share of the graphs is kept, the rest recomputed."""
    squares = load.question_tokens**2 + (1 + load.negatives) * load.passage_tokens**2
    forward = 2 * encoder.matrices * load.tokens + 4 * encoder.layers * encoder.width * squares * load.rows
    return forward * (4 - kept)


def loss_flops(width: int, load: Workload, world: int) -> float:
    """Operations of one GPU's loss: own questions against every passage, three matrix products."""
    columns = world * load.rows * (1 + load.negatives)
    return 6.0 * load.rows * columns * width * (2 if load.both_directions else 1)


@dataclass(frozen=True)
class Step:
    """Seconds of one step, by part."""

    encoder: float
    loss: float
    optimizer: float
    traffic: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """All parts, one after the other."""
        return self.encoder + self.loss + self.optimizer + sum(self.traffic.values())

    @property
    def largest_cost(self) -> str:
        """The part with the most time after the encoder."""
        parts = {"loss": self.loss, "optimizer": self.optimizer, **self.traffic}
        return max(parts, key=lambda name: parts[name])


def step_time(
    encoder: Encoder, load: Workload, world: int, cluster: Cluster, assumed: Assumptions | None = None
) -> Step:
    """One step of ``world`` GPUs with ``load.rows`` rows each."""
    assumed = assumed or Assumptions()
    kept = kept_share(encoder, load, world, cluster.memory)
    compute = encoder_flops(encoder, load, kept) / (assumed.utilisation * cluster.bf16_flops)
    loss = loss_flops(encoder.width, load, world) / (assumed.loss_utilisation * cluster.tf32_flops)
    share = world if load.stage in {1, 2, 3} else 1
    optimizer = 28 * encoder.parameters / share / cluster.memory_bandwidth
    traffic: dict[str, float] = {"embeddings": 0.0, "gradient": 0.0, "weights": 0.0, "scalars": 0.0}
    gathers = 3 * (encoder.layers + 1)
    ahead = compute if load.stage == 3 else 0.0
    for one in [
        *step_traffic(load, encoder.width, encoder.parameters, world, gathers),
        *optimizer_traffic(load.stage, encoder.parameters),
    ]:
        seconds = ring_seconds(one, world, cluster, assumed)
        traffic[one.what] += max(0.0, seconds - ahead) if one.what == "weights" else seconds
    return Step(compute, loss, optimizer, traffic)


def memory(encoder: Encoder, load: Workload, world: int) -> dict[str, float]:
    """Bytes of one GPU, by part, at the peak of the step.

    States follow deepspeed_configs/README.md: float32 weights (4), full gradients while chunks add up (4),
    two AdamW moments (8) and, for ZeRO-1 and 2, DeepSpeed's own copy of the weights (4), sharded as the
    stage says, and the bf16 copy of the weights. Activations are those of one chunk (`graph_bytes`); kept
    graphs take what is left. The loss holds passages and their gradient, N x D x 4 bytes each, and
    row_chunk x N scores, twice (measured: 2.1 times the scores with D = 768, loss_memory.json).
    """
    count = encoder.parameters
    sharded = {None: 16.0, 0: 16.0, 1: 8 + 12 / world, 2: 8 + 12 / world, 3: 4 + 16 / world}[load.stage]
    boundary = load.reduction == "boundary" and load.stage in {2, 3}
    if boundary:
        sharded = 4 + 16 / world if load.stage == 2 else 20 / world
    live = 4 * max(encoder.embedding_parameters, encoder.matrices // encoder.layers) if load.stage == 3 else 0
    columns = world * load.rows * (1 + load.negatives)
    tokens = min(load.chunk_tokens, load.rows * (1 + load.negatives) * load.passage_tokens)
    return {
        "states": count * sharded + live,
        "buckets": 0.0 if load.stage is None else 2 * 4.0 * min(BUCKET, count),
        "activations": tokens * graph_bytes(encoder) + 2 * count,
        "embeddings": 2 * 4.0 * columns * encoder.width,
        "scores": 2 * 4.0 * min(load.row_chunk, load.rows) * columns,
    }


def efficiency(
    encoder: Encoder, load: Workload, world: int, cluster: Cluster, assumed: Assumptions, *, strong: bool
) -> float:
    """Time of one GPU over time of ``world`` GPUs, per row and GPU; ``load.rows`` are those of one of them.

    Weak scaling compares with one GPU that has as many rows (and so a smaller global batch), strong scaling
    with one GPU that has the whole global batch.
    """
    alone = replace(load, rows=load.rows * world) if strong else load
    before = step_time(encoder, alone, 1, cluster, assumed).seconds / (world if strong else 1)
    return before / step_time(encoder, load, world, cluster, assumed).seconds

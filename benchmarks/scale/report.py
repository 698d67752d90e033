"""Step time, efficiency and memory for 1 to 512 GPUs as a page, from the formulas of model.py.

    python benchmarks/scale/report.py --output benchmarks/results

Writes scale.md, scale.json and scale.png; nothing runs on a GPU. To see other hardware, lengths or
utilisations, change the tables below. scale_notes.md of that folder follows the first table.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.scale.model import (
    Assumptions,
    Cluster,
    Encoder,
    Workload,
    efficiency,
    memory,
    step_time,
    step_traffic,
)

ENCODERS = (
    Encoder("XLM-R base", 278_043_648, 192_398_592, layers=12, width=768, heads=12),
    Encoder("XLM-R large", 559_890_432, 256_531_456, layers=24, width=1024, heads=16),
)
#: bf16 peaks without sparsity; NVLink per direction: half of the published sum of both.
CLUSTERS = (
    Cluster("H100, NDR", 989e12, 67e12, 80e9, 3.35e12, 450e9, 400e9),
    Cluster("A100, HDR", 312e12, 19.5e12, 80e9, 2.039e12, 300e9, 200e9),
    Cluster("A100, p4d EFA", 312e12, 19.5e12, 40e9, 1.555e12, 300e9, 50e9),
    Cluster("H100, 100 GbE", 989e12, 67e12, 80e9, 3.35e12, 450e9, 12.5e9),
)
SOURCES = (
    (
        "H100 SXM: 1,979 TFLOP/s bf16 with sparsity (989 without), 67 float32, 80 GB, 3.35 TB/s; NVLink 900",
        "NVIDIA H100",
        "https://www.nvidia.com/en-us/data-center/h100/",
    ),
    (
        "A100 SXM: 312 TFLOP/s bf16, 19.5 float32, 80 GB at 2,039 GB/s or 40 GB at 1,555, NVLink 600 GB/s",
        "NVIDIA A100",
        "https://www.nvidia.com/en-us/data-center/a100/",
    ),
    (
        "InfiniBand NDR: 400 Gb/s per ConnectX-7 port, one per GPU",
        "ConnectX-7 manual; DGX H100 user guide",
        "https://docs.nvidia.com/networking/display/ConnectX7VPI/Introduction",
    ),
    (
        "InfiniBand HDR: 200 Gb/s per ConnectX-6 port, one per GPU",
        "DGX A100 user guide",
        "https://docs.nvidia.com/dgx/dgxa100-user-guide/",
    ),
    (
        "p4d.24xlarge: 8 A100 of 40 GB, EFA 400 Gb/s per node",
        "AWS, P4d deep dive",
        "https://aws.amazon.com/blogs/compute/amazon-ec2-p4d-instances-deep-dive/",
    ),
    (
        "p5.48xlarge: 8 H100, EFA 3,200 Gb/s per node: 400 GB/s as `H100, NDR`, whose curve it shares",
        "AWS, P5",
        "https://aws.amazon.com/ec2/instance-types/p5/",
    ),
    (
        "100 GbE: one port of 100 Gb/s per node",
        "IEEE 802.3ba",
        "https://standards.ieee.org/ieee/802.3ba/4336/",
    ),
    (
        "Latency of rings and shares of bandwidth by protocol; 235 of 300 GB/s on A100",
        "NCCL, src/graph/tuning.cc",
        "https://github.com/NVIDIA/nccl/blob/master/src/graph/tuning.cc",
    ),
    (
        "Meaning of bus bandwidth",
        "nccl-tests",
        "https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md",
    ),
    ("Activations of a layer", "Korthikanti et al. 2022", "https://arxiv.org/abs/2205.05198"),
)
WORLDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
UTILISATIONS = (0.2, 0.35, 0.5)
#: name, rows per GPU (weak) or in all (strong), strong
SCALINGS = (
    ("weak, 1,024 rows per GPU", 1024, False),
    ("weak, 4,096 rows per GPU", 4096, False),
    ("strong, 8,192 rows", 8192, True),
    ("strong, 32,768 rows", 32_768, True),
    ("strong, 131,072 rows", 131_072, True),
)
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")


def load_of(rows: int, world: int, *, strong: bool, **others: Any) -> Workload:
    """The share of one GPU."""
    return Workload(rows=rows // world if strong else rows, **others)


def curves() -> list[dict[str, Any]]:
    """Every encoder, cluster, scaling, utilisation and world size."""
    found = []
    for encoder in ENCODERS:
        for cluster in CLUSTERS:
            for scaling, rows, strong in SCALINGS:
                for utilisation in UTILISATIONS:
                    assumed = Assumptions(utilisation=utilisation)
                    for world in WORLDS:
                        load = load_of(rows, world, strong=strong)
                        step = step_time(encoder, load, world, cluster, assumed)
                        bytes_used = sum(memory(encoder, load, world).values())
                        found.append(
                            {
                                "encoder": encoder.name,
                                "cluster": cluster.name,
                                "scaling": scaling,
                                "utilisation": utilisation,
                                "gpus": world,
                                "rows_per_gpu": load.rows,
                                "seconds": round(step.seconds, 5),
                                "encoder_seconds": round(step.encoder, 5),
                                "loss_seconds": round(step.loss, 5),
                                **{f"{k}_seconds": round(v, 5) for k, v in step.traffic.items()},
                                "largest_cost": step.largest_cost,
                                "efficiency": round(
                                    efficiency(encoder, load, world, cluster, assumed, strong=strong), 4
                                ),
                                "memory_gb": round(bytes_used / 1e9, 2),
                                "fits": bytes_used <= cluster.memory,
                            }
                        )
    return found


def pick(rows: list[dict[str, Any]], **wanted: Any) -> list[dict[str, Any]]:
    """Rows with these values."""
    return [row for row in rows if all(row[key] == value for key, value in wanted.items())]


def end_of(rows: list[dict[str, Any]]) -> str:
    """The first number of GPUs below half efficiency, and why."""
    for row in rows:
        if not row["fits"]:
            return f"{row['gpus']} (memory)"
        if row["efficiency"] < 0.5:
            return f"{row['gpus']} ({row['largest_cost']})"
    return "above 512"


def ends_table(rows: list[dict[str, Any]]) -> str:
    """Where each case ends, for three utilisations."""
    lines = [
        "| encoder | scaling | " + " | ".join(cluster.name for cluster in CLUSTERS) + " |",
        "|---" * (2 + len(CLUSTERS)) + "|",
    ]
    for encoder in ENCODERS:
        for scaling, _, _ in SCALINGS:
            cells = []
            for cluster in CLUSTERS:
                case = {"encoder": encoder.name, "scaling": scaling, "cluster": cluster.name}
                ends = [end_of(pick(rows, utilisation=one, **case)) for one in UTILISATIONS]
                cells.append(ends[0] if len(set(ends)) == 1 else "; ".join(ends))
            lines.append(f"| {encoder.name} | {scaling} | {' | '.join(cells)} |")
    return "\n".join(lines)


def steps_table(rows: list[dict[str, Any]], scaling: str) -> str:
    """Seconds and efficiency over the number of GPUs at the middle utilisation."""
    shown = (1, 8, 16, 64, 128, 512)
    lines = [
        "| encoder | cluster | " + " | ".join(f"{world} GPUs" for world in shown) + " |",
        "|---" * (2 + len(shown)) + "|",
    ]
    for encoder in ENCODERS:
        for cluster in CLUSTERS:
            case = pick(
                rows, encoder=encoder.name, cluster=cluster.name, scaling=scaling, utilisation=UTILISATIONS[1]
            )
            cells = [
                f"{row['seconds']:.3g} s, {100 * row['efficiency']:.0f} %"
                for row in case
                if row["gpus"] in shown
            ]
            lines.append(f"| {encoder.name} | {cluster.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parts_table(world: int, rows: int) -> str:
    """Milliseconds of one step by part."""
    lines = [
        "| encoder | cluster | encoder | loss | optimizer | embeddings | gradient | weights | scalars |",
        "|---" * 9 + "|",
    ]
    for encoder in ENCODERS:
        for cluster in CLUSTERS:
            step = step_time(encoder, Workload(rows=rows), world, cluster)
            parts = [step.encoder, step.loss, step.optimizer, *step.traffic.values()]
            cells = " | ".join(f"{1000 * part:.1f}" for part in parts)
            lines.append(f"| {encoder.name} | {cluster.name} | {cells} |")
    return "\n".join(lines)


def stages_table(world: int, rows: int) -> str:
    """Step time, gradient and weight traffic, and memory by ZeRO stage."""
    ways = (
        (0, "coalesce"),
        (1, "coalesce"),
        (2, "coalesce"),
        (2, "boundary"),
        (3, "coalesce"),
        (3, "boundary"),
    )
    lines = [
        "| encoder | ZeRO | GB of gradient | GB of weights | "
        + " | ".join(f"{cluster.name}" for cluster in CLUSTERS)
        + " | GB per GPU |",
        "|---" * (5 + len(CLUSTERS)) + "|",
    ]
    for encoder in ENCODERS:
        for stage, reduction in ways:
            load = Workload(rows=rows, stage=stage, reduction=reduction)
            sent = step_traffic(load, encoder.width, encoder.parameters, world, 3 * (encoder.layers + 1))
            gradient = sum(one.num_bytes for one in sent if one.what == "gradient") / 1e9
            weights = sum(one.num_bytes for one in sent if one.what == "weights") / 1e9
            weights += 4 * encoder.parameters / 1e9 if stage in {1, 2} else 0
            seconds = " | ".join(
                f"{step_time(encoder, load, world, cluster).seconds:.3g} s" for cluster in CLUSTERS
            )
            used = sum(memory(encoder, load, world).values()) / 1e9
            sizes = f"{gradient:.1f} | {weights:.1f}"
            lines.append(f"| {encoder.name} | {stage} {reduction} | {sizes} | {seconds} | {used:.1f} |")
    return "\n".join(lines)


def memory_table() -> str:
    """Gigabytes of one GPU by part, ZeRO-1."""
    lines = [
        "| encoder | GPUs x rows | B | states | buckets | activations | embeddings | scores | sum |",
        "|---" * 9 + "|",
    ]
    for encoder in ENCODERS:
        for world, rows in ((1, 8192), (8, 1024), (64, 2048), (512, 1024), (512, 4096), (512, 16_384)):
            parts = memory(encoder, Workload(rows=rows), world)
            cells = " | ".join(f"{value / 1e9:.1f}" for value in parts.values())
            total = sum(parts.values()) / 1e9
            lines.append(
                f"| {encoder.name} | {world} x {rows:,} | {world * rows:,} | {cells} | {total:.1f} |"
            )
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Efficiency over GPUs: a line per cluster at the middle utilisation, a band for the others."""
    figure = Figure(figsize=(3.1 * len(SCALINGS), 6.2), layout="constrained")
    axes = figure.subplots(len(ENCODERS), len(SCALINGS), sharex=True, sharey=True)
    for line, encoder in zip(axes, ENCODERS, strict=True):
        for axis, (scaling, _, _) in zip(line, SCALINGS, strict=True):
            for cluster, colour in zip(CLUSTERS, COLOURS, strict=True):
                case = {"encoder": encoder.name, "scaling": scaling, "cluster": cluster.name}
                low, middle, high = (
                    [row["efficiency"] for row in pick(rows, utilisation=one, **case)] for one in UTILISATIONS
                )
                axis.plot(WORLDS, middle, color=colour, marker="o", markersize=3, label=cluster.name)
                axis.fill_between(WORLDS, high, low, color=colour, alpha=0.15, linewidth=0)
            axis.axhline(0.5, color="#555555", linewidth=0.8, linestyle="--")
            axis.set_xscale("log", base=2)
            axis.set_ylim(0, 1.05)
            axis.set_title(f"{encoder.name}\n{scaling}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("GPUs")
        axis.set_xticks([1, 8, 64, 512], labels=["1", "8", "64", "512"])
    for line in axes:
        line[0].set_ylabel("efficiency")
    axes[0][0].legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=110)


def page(rows: list[dict[str, Any]], notes: str) -> str:
    """The whole page as Markdown."""
    sources = "\n".join(f"| {what} | [{name}]({link}) |" for what, name, link in SOURCES)
    steps = "\n\n".join(
        f"### {scaling[0].upper()}{scaling[1:]}\n\n{steps_table(rows, scaling)}" for scaling, _, _ in SCALINGS
    )
    return f"""# Scale model: 1 to 512 GPUs

    python benchmarks/scale/report.py --output benchmarks/results

**Nothing here was measured on a GPU.** Measured is the traffic of a step: collectives and bytes
([contrastive](contrastive.md), `collectives.json`), whose formulas the model uses and
`tests/benchmarks/test_scale.py` checks against every case. The rest is arithmetic on published figures with
three assumptions: the encoder reaches 0.2 to 0.5 of the bf16 peak, the loss half of the float32 peak, a link
0.8 of its bandwidth. `benchmarks/gpu/check.py` measures the first two on a real GPU; the formulas are in
the docstring of [model.py](../scale/model.py).

Questions of 32 tokens, passages of 128, one hard negative, cached step (4 forwards' worth of work instead
of 3) in chunks of 16,384 tokens, ZeRO-1 with one reduction per step, float32 gradients, 8 GPUs per node.
Efficiency is the time of one GPU over the time of W, per row and GPU: 100 % is W times as many rows per
second.

![efficiency over the number of GPUs](scale.png)

Lines: utilisation 0.35. Bands: 0.5 (lower edge: the faster the encoder, the more the rest weighs) to 0.2.

## Where it ends

The first number of GPUs (a power of two) with less than half the efficiency and the largest cost after the
encoder, or the first with more memory than the GPU has. Three values: utilisation 0.2; 0.35; 0.5.

{ends_table(rows)}

{notes}

## Step time and efficiency, utilisation 0.35

{steps}

## One step by part, milliseconds: 512 GPUs x 1,024 rows

{parts_table(512, 1024)}

## ZeRO stages: 64 GPUs x 512 rows

Bytes are those of full tensors in one step; with "boundary" ZeRO-2 and 3 reduce after every chunk. ZeRO-3 is
shown at its best: its gathers of weights run in parallel to the encoder and cost only what exceeds it.

{stages_table(64, 512)}

## Memory per GPU, GB, ZeRO-1

{memory_table()}

Embeddings are all passages of the global batch and their gradient, on every GPU; scores are those of 256
questions. Both grow with the global batch, for every number of GPUs.

## Published figures

| figure | source |
|---|---|
{sources}

## What the model leaves out

Input pipeline, stragglers, contention and failures in the network; NCCL's trees and in-network reduction,
which shorten large rings; sockets instead of RDMA, which lengthen them (100 GbE without RoCE is slower than
shown); overlap of the gradient's reduction with the last backward; the direct step, which saves the second
forward where all rows fit one chunk; and that a GPU with few tokens is used worse than one with many: at
512 GPUs and 8,192 rows each has 16 questions and 32 passages. """


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    rows = curves()
    notes = given.output / "scale_notes.md"
    document = {
        "encoders": [asdict(one) for one in ENCODERS],
        "clusters": [asdict(one) for one in CLUSTERS],
        "workload": asdict(replace(Workload(rows=1), rows=0)),
        "assumptions": asdict(Assumptions()),
        "sources": [{"figure": what, "source": name, "url": link} for what, name, link in SOURCES],
        "columns": list(rows[0]),
    }
    text = page(rows, notes.read_text("utf-8").strip() if notes.is_file() else "")
    (given.output / "scale.md").write_text(text, "utf-8")
    lines = ",\n".join(json.dumps(list(row.values())) for row in rows)
    head = json.dumps(document, indent=1)[:-2]
    (given.output / "scale.json").write_text(f'{head},\n "curves": [\n{lines}\n]\n}}\n', "utf-8")
    draw(rows, given.output / "scale.png")


if __name__ == "__main__":
    main()

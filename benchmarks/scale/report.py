"""Step time, efficiency and memory for 1 to 512 GPUs as a page, from the formulas of model.py.

    python benchmarks/scale/report.py --output benchmarks/results

Writes scale.md, scale.json and scale.png; nothing runs on a GPU. To see other hardware, lengths or
utilisations, change the tables below and in published.py, or give measured ones (`--measured gpu.json`).
scale_notes.md of that folder follows the first table.
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
from benchmarks.scale.published import CLUSTERS, ENCODERS, SOURCES

WORLDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
#: name, rows per GPU (weak) or in all (strong), strong
SCALINGS = (
    ("weak, 1,024 rows per GPU", 1024, False),
    ("weak, 4,096 rows per GPU", 4096, False),
    ("strong, 8,192 rows", 8192, True),
    ("strong, 32,768 rows", 32_768, True),
    ("strong, 131,072 rows", 131_072, True),
)
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7")


def load_of(
    rows: int, world: int, encoder: Encoder, cluster: Cluster, *, strong: bool, kept: float | None = None
) -> Workload:
    """The share of one GPU, in the largest chunks of 65,536, 32,768, ... tokens that fit its memory."""
    load = Workload(rows=rows // world if strong else rows, kept=kept)
    while load.chunk_tokens > 4096 and sum(memory(encoder, load, world).values()) > 0.9 * cluster.memory:
        load = replace(load, chunk_tokens=load.chunk_tokens // 2)
    return load


def utilisations_of(assumed: Assumptions) -> tuple[float, float, float]:
    """The assumed or measured utilisation in the middle, and a tenth of the peak to either side."""
    middle = round(assumed.utilisation, 3)
    return round(middle - 0.1, 3), middle, round(middle + 0.1, 3)


def curves(assumptions: Assumptions) -> list[dict[str, Any]]:
    """Every encoder, cluster, scaling, utilisation and world size."""
    found = []
    for encoder in ENCODERS:
        for cluster in CLUSTERS:
            for scaling, rows, strong in SCALINGS:
                for utilisation in utilisations_of(assumptions):
                    assumed = replace(assumptions, utilisation=utilisation)
                    for world in WORLDS:
                        load = load_of(rows, world, encoder, cluster, strong=strong)
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


def three(rows: list[dict[str, Any]]) -> list[float]:
    """The utilisations of the curves, ascending."""
    return sorted({row["utilisation"] for row in rows})


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
                ends = [end_of(pick(rows, utilisation=one, **case)) for one in three(rows)]
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
                rows, encoder=encoder.name, cluster=cluster.name, scaling=scaling, utilisation=three(rows)[1]
            )
            cells = [
                f"{row['seconds']:.3g} s, {100 * row['efficiency']:.0f} %"
                for row in case
                if row["gpus"] in shown
            ]
            lines.append(f"| {encoder.name} | {cluster.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parts_table(world: int, rows: int, assumed: Assumptions) -> str:
    """Milliseconds of one step by part."""
    lines = [
        "| encoder | cluster | encoder | loss | optimizer | embeddings | gradient | weights | scalars |",
        "|---" * 9 + "|",
    ]
    for encoder in ENCODERS:
        for cluster in CLUSTERS:
            step = step_time(encoder, Workload(rows=rows), world, cluster, assumed)
            parts = [step.encoder, step.loss, step.optimizer, *step.traffic.values()]
            cells = " | ".join(f"{1000 * part:.1f}" for part in parts)
            lines.append(f"| {encoder.name} | {cluster.name} | {cells} |")
    return "\n".join(lines)


def stages_table(world: int, rows: int, assumed: Assumptions) -> str:
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
                f"{step_time(encoder, load, world, cluster, assumed).seconds:.3g} s" for cluster in CLUSTERS
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
                    [row["efficiency"] for row in pick(rows, utilisation=one, **case)] for one in three(rows)
                )
                axis.plot(WORLDS, middle, color=colour, marker="o", markersize=3, label=cluster.name)
                axis.fill_between(WORLDS, high, low, color=colour, alpha=0.15, linewidth=0)
            axis.axhline(0.5, color="#555555", linewidth=0.8, linestyle="--")
            axis.set_xscale("log", base=2)
            axis.set_ylim(0, 1.3)
            axis.set_title(f"{encoder.name}\n{scaling}", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("GPUs")
        axis.set_xticks([1, 8, 64, 512], labels=["1", "8", "64", "512"])
    for line in axes:
        line[0].set_ylabel("efficiency")
    axes[0][0].legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=110)


def basis_text(assumed: Assumptions) -> str:
    """Whether utilisations were measured."""
    if assumed == Assumptions():
        return "**Nothing here was measured on a GPU**; `--measured` takes the JSON of `check.py`."
    return "**Utilisations were measured on one GPU**, with `benchmarks/gpu/check.py`."


def page(rows: list[dict[str, Any]], notes: str, assumed: Assumptions) -> str:
    """The whole page as Markdown."""
    low, middle, high = three(rows)
    sources = "\n".join(f"| {what} | [{name}]({link}) |" for what, name, link in SOURCES)
    steps = "\n\n".join(
        f"### {scaling[0].upper()}{scaling[1:]}\n\n{steps_table(rows, scaling)}" for scaling, _, _ in SCALINGS
    )
    return f"""# Scale model: 1 to 512 GPUs

    python benchmarks/scale/report.py --output benchmarks/results

{basis_text(assumed)} Counted is the traffic of a step: collectives
and bytes of 2 and 4 real ranks ([contrastive](contrastive.md), `collectives.json`) and of 8, 64 and 512 ranks
of a fake process group (`collectives_many_ranks.json`); `tests/benchmarks/test_scale.py` compares the
formulas with every case. The rest is arithmetic on published figures: the encoder reaches {low:g} to {high:g}
of the bf16 peak ([roofline](roofline.md)), the loss {assumed.loss_utilisation:.2g} of the TF32 peak, a link
{assumed.link:g} of its bandwidth. The formulas are in the docstring of [model.py](../scale/model.py).

Questions of 32 tokens, passages of 128, one hard negative, chunks of at most 65,536 tokens that fit, a bf16
copy of the weights, as many kept graphs as fit, ZeRO-1 with one reduction per step, float32 gradients, 8 GPUs
per node. Efficiency is the time of one GPU over the time of W, per row and GPU: 100 % is W times as many rows
per second. It exceeds 100 % where W GPUs keep the graphs that one GPU must recompute.

![efficiency over the number of GPUs](scale.png)

Lines: utilisation {middle:g}. Bands: {high:g} (the faster the encoder, the more the rest weighs) to {low:g}.

## Where it ends

The first number of GPUs (a power of two) with less than half the efficiency and the largest cost after the
encoder, or the first with more memory than the GPU has. Three values: utilisation {low:g}; {middle:g};
{high:g}.

{ends_table(rows)}

{notes}

## Step time and efficiency, utilisation {middle:g}

{steps}

## One step by part, milliseconds: 512 GPUs x 1,024 rows

{parts_table(512, 1024, assumed)}

## ZeRO stages: 64 GPUs x 512 rows

Bytes are those of full tensors in one step; with "boundary" ZeRO-2 and 3 reduce after every chunk. ZeRO-3 is
shown at its best: its gathers of weights run in parallel to the encoder and cost only what exceeds it.

{stages_table(64, 512, assumed)}

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
shown); overlap of the gradient's reduction with the last backward; and that a GPU with few tokens is used
worse than one with many: at 512 GPUs and 8,192 rows each has 16 questions and 32 passages. """


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--measured", type=Path, help="JSON of benchmarks/gpu/check.py")
    given = parser.parse_args()
    assumed = Assumptions()
    if given.measured is not None:  # on an H100 or H200, which have one peak
        document = json.loads(given.measured.read_text("utf-8"))
        assumed = Assumptions.measured(document, CLUSTERS[0].tf32_flops)
    rows = curves(assumed)
    notes = given.output / "scale_notes.md"
    document = {
        "encoders": [asdict(one) for one in ENCODERS],
        "clusters": [asdict(one) for one in CLUSTERS],
        "workload": asdict(replace(Workload(rows=1), rows=0)),
        "assumptions": asdict(assumed),
        "sources": [{"figure": what, "source": name, "url": link} for what, name, link in SOURCES],
        "columns": list(rows[0]),
    }
    text = page(rows, notes.read_text("utf-8").strip() if notes.is_file() else "", assumed)
    (given.output / "scale.md").write_text(text, "utf-8")
    lines = ",\n".join(json.dumps(list(row.values())) for row in rows)
    head = json.dumps(document, indent=1)[:-2]
    (given.output / "scale.json").write_text(f'{head},\n "curves": [\n{lines}\n]\n}}\n', "utf-8")
    draw(rows, given.output / "scale.png")


if __name__ == "__main__":
    main()

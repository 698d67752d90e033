"""Peak extra memory of the loss, forward and backward, on given embeddings: ours against others.

    python benchmarks/contrastive/loss_memory.py --out benchmarks/results/loss_memory.json

Each measurement runs in its own process: embeddings are made, the kernel's peak of the resident memory is
reset (/proc/self/clear_refs), loss and gradients are computed, the new peak is read. Embeddings and their
gradients are left out of what is reported. B questions and B passages of width 768, float32, one process.

Methods: ours (row loop), the same for one rank of 16 (B / 16 questions against B passages),
the plain matrix with `cross_entropy`, and the two losses of sentence-transformers. A method
whose matrices alone would take more memory than there is is skipped and the size said. Not in the list of
all methods: "ours, widths" has the loss at 768, 384, 192 and 96 values; "ours, similar" leaves out columns
by similarity and counts them by pairs of 10 languages; "ours, similar, guide" does so by vectors of width 384
of a frozen model (--methods ours "ours, similar" "ours, similar, guide").
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from hbt_dist.contrastive.false_negatives import FalseNegatives
    from hbt_dist.contrastive.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

METHODS = (
    "ours",
    "ours, one rank of 16",
    "plain matrix",
    "ST MultipleNegativesRanking",
    "ST Cached",
)
# Matrices of B x B floats that a method holds at once, at least; to skip what cannot fit.
MATRICES = {"plain matrix": 3, "ST MultipleNegativesRanking": 3}
WIDTH, CHUNK, SCALE = 768, 256, 20.0


def resident(key: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {key}")


def loss_and_gradients(method: str, q: Tensor, p: Tensor) -> tuple[float, Tensor]:
    """Loss and the gradient of the passages; the gradient of the questions is computed too."""
    if method.startswith("ours"):
        from hbt_dist.contrastive.layout import Layout
        from hbt_dist.contrastive.loss import contrast
        from hbt_dist.contrastive.settings import LossSettings

        widths = [WIDTH, WIDTH // 2, WIDTH // 4, WIDTH // 8] if "widths" in method else None
        settings = LossSettings(row_chunk=CHUNK, widths=widths)
        ranks = 16 if "16" in method else 1
        own = len(q) // ranks
        layout = Layout(0, ranks, own, 0)
        masks = _masks(layout, len(p), guided="guide" in method) if "similar" in method else None
        part = contrast(q[:own], p, layout, settings, scale=SCALE, masks=masks)
        if masks is not None:
            masks.counts()
        return float(part.loss), part.passages_ND
    q.requires_grad_()
    p.requires_grad_()
    if method == "plain matrix":
        loss = F.cross_entropy(q @ p.T * SCALE, torch.arange(len(q)))
        loss.backward()
    else:
        from sentence_transformers.sentence_transformer import losses

        if method == "ST Cached":
            cached = losses.CachedMultipleNegativesRankingLoss(
                torch.nn.Sequential(torch.nn.Identity()), SCALE, mini_batch_size=CHUNK
            )  # type: ignore[arg-type]
            loss = cached.calculate_loss([[q], [p]], with_backward=True)
        else:
            loss = losses.MultipleNegativesRankingLoss(
                torch.nn.Identity(), SCALE
            ).compute_loss_from_embeddings(  # type: ignore[arg-type]
                [q, p], None
            )
            loss.backward()
    assert p.grad is not None
    return loss.item(), p.grad


def _masks(layout: Layout, rows: int, *, guided: bool) -> FalseNegatives:
    """Masks of texts in 10 languages; the guide's vectors are random."""
    from hbt_dist.batching.frozen import FrozenVectors
    from hbt_dist.contrastive.false_negatives import FalseNegatives
    from hbt_dist.contrastive.term_settings import FalseNegativeSettings

    language = np.arange(rows) % 10
    frozen = {}
    if guided:
        vectors = F.normalize(torch.randn(2, rows, WIDTH // 2), dim=-1).numpy()
        frozen["guide"] = FrozenVectors(vectors[0][: layout.num_rows], vectors[1], vectors[0], vectors[1])
    settings = FalseNegativeSettings(margin=0.05, guide="guide" if guided else None)
    device = torch.device("cpu")
    return FalseNegatives(settings, layout, (language, language), frozen, scale=SCALE, device=device)


def measure(method: str, rows: int) -> dict[str, Any]:
    """Measure one method; runs in a separate process."""
    torch.manual_seed(0)
    small = [F.normalize(torch.randn(64, WIDTH), dim=-1) for _ in range(2)]
    loss_and_gradients(method, *small)  # imports, threads, workspaces of the matrix library
    q, p = (F.normalize(torch.randn(rows, WIDTH), dim=-1) for _ in range(2))
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    wall, cpu = time.perf_counter(), time.process_time()
    loss, gradient = loss_and_gradients(method, q, p)
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    own = rows // 16 if "16" in method else rows
    extra = resident("VmHWM") - before - (rows + own) * WIDTH * 4
    return {
        "method": method,
        "rows": rows,
        "extra_mb": round(extra / 1e6, 1),
        **{name: round(value, 2) for name, value in seconds.items()},
        "loss": loss,
        "gradient_norm": float(gradient.norm()),
    }


def main() -> None:
    """Measure every method at every size, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", nargs="+", type=int, default=[4096, 16384, 65536])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(measure(chosen.one[0], int(chosen.one[1]))))
        return
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    found = []
    for rows in chosen.rows:
        for method in chosen.methods:
            needed = MATRICES.get(method, 0) * rows * rows * 4
            if needed > 0.6 * available:
                found.append(
                    {"method": method, "rows": rows, "skipped": f"at least {needed / 1e9:.0f} GB of scores"}
                )
            else:
                command = [sys.executable, __file__, "--one", method, str(rows)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    found.append({"method": method, "rows": rows, "failed": done.stderr[-300:]})
                else:
                    found.append(json.loads(done.stdout.splitlines()[-1]))
            print(json.dumps(found[-1]), flush=True)
            if chosen.out:
                chosen.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Draw docs/images/batch_kinds.png: the first global batches of each kind, from the plan.

    python docs/draw_batches.py

The corpus is the embedded sample in five languages.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from hbt_dist.batching.kinds import KINDS
from hbt_dist.batching.plan import BatchPlan, GlobalBatch
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.settings import DataSettings

LANGUAGES = ("en", "de", "fi", "hu", "tr")
# Okabe and Ito's colours, which colour-blind readers can distinguish; the boxes also have the codes.
COLOURS = dict(zip(LANGUAGES, ("#56B4E9", "#E69F00", "#009E73", "#F0E442", "#CC79A7"), strict=True))
ROWS = 6
PANELS = {
    "alpha: 0.5, the paper's hybrid: each global batch monolingual or cross-lingual": ({"alpha": 0.5}, 8),
    **{kind: ({"mixture": {kind: 1.0}}, 4) for kind in KINDS},
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = {"sources": [{"name": "sample", "format": "sample"}], "languages": list(LANGUAGES)}
        corpus = build_corpus(DataSettings.model_validate(data), Path(folder))
        figure = plt.figure(figsize=(9.6, 8.6), dpi=110)
        grid = figure.add_gridspec(3, 2)
        cells = [grid[0, :], grid[1, 0], grid[1, 1], grid[2, 0], grid[2, 1]]
        for cell, (title, (block, steps)) in zip(cells, PANELS.items(), strict=True):
            panel = figure.add_subplot(cell)
            plan = BatchPlan(
                corpus, BatchSettings.model_validate({"global_batch_size": ROWS, **block}), seed=4
            )
            for step in range(steps):
                draw_batch(panel, plan.batch(step), corpus.languages)
            panel.set_title(title, fontsize=10, pad=18)
            panel.set(xlim=(0, steps), ylim=(ROWS, 0))
            panel.axis("off")
        caption = (
            "rows of global batches: language of the question \N{RIGHTWARDS ARROW} language of its passage"
        )
        figure.text(0.5, 0.01, caption, ha="center", fontsize=9)
        figure.tight_layout(rect=(0, 0.03, 1, 1))
        figure.savefig(Path(__file__).parent / "images" / "batch_kinds.png")


def draw_batch(panel: plt.Axes, batch: GlobalBatch, languages: Sequence[str]) -> None:
    """Draw a column of rows under the number of their step."""
    panel.text(batch.step + 0.5, -0.1, f"step {batch.step}", ha="center", va="bottom", fontsize=8)
    for row, pair in enumerate(zip(batch.question_language, batch.passage_language, strict=True)):
        for left, code in zip((0.08, 0.58), (languages[i] for i in pair), strict=True):
            corner = (batch.step + left, row + 0.1)
            panel.add_patch(
                plt.Rectangle(corner, 0.34, 0.8, facecolor=COLOURS[code], edgecolor="#333333", lw=0.5)
            )
            panel.text(corner[0] + 0.17, row + 0.5, code, ha="center", va="center", fontsize=8)
        tail, head = (batch.step + 0.42, row + 0.5), (batch.step + 0.58, row + 0.5)
        panel.annotate("", head, tail, arrowprops={"arrowstyle": "->", "lw": 0.8})


if __name__ == "__main__":
    main()

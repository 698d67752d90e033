"""Draw the summary of a study; its further figures are those of evaluation reports."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hbt_dist.evaluation.read_results import SETTINGS
from hbt_dist.reports.evaluation.sections import SETTING_TITLES
from hbt_dist.reports.pages.figures import SERIES, few_ticks, new_figure, png


def draw_summary(table: pd.DataFrame, title: str) -> bytes:
    """Return a PNG: mean mAP of each method in three settings, standard deviation over seeds."""
    figure = new_figure(6, 0.3 * len(table) + 1.0)
    rows = np.arange(len(table))
    panels = figure.subplots(1, len(SETTINGS), sharey=True)
    for colour, setting, axes in zip(SERIES, SETTINGS, panels, strict=False):
        axes.barh(rows, table[setting], xerr=table[f"{setting}_sd"].fillna(0), color=colour, capsize=2)
        axes.set_title(f"{SETTING_TITLES[setting]} mAP", fontsize=9)
        axes.set_yticks(rows, table["method"], fontsize=8, parse_math=False)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        few_ticks(axes, 3)
    panels[0].set_ylim(len(table) - 0.4, -0.6)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return png(figure)

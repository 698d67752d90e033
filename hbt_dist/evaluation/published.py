"""Published result tables, one value per row (data/SOURCES.txt), to set own results beside."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Any

import pandas as pd

TABLES = ("hybrid_batch_xquad_r", "hybrid_batch_mlqa_r", "hybrid_batch_miracl", "lareqa_baselines")
SUMMARIES = ("mean", "median", "all")
KEYS = ["model", "benchmark", "setting", "metric", "sampling"]


@lru_cache
def published_table(name: str) -> pd.DataFrame:
    """Columns model, benchmark, setting, metric, language, sampling, value.

    `language` is the question language, or `mean`, `median` (over languages), `all` (over questions).
    """
    with (files("hbt_dist.evaluation") / "data" / "published" / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False)


@dataclass(frozen=True)
class PublishedMean:
    """A mean recomputed from a table's languages beside the printed one."""

    model: str
    benchmark: str
    setting: str
    metric: str
    sampling: str
    num_languages: int
    recomputed: float
    printed: float


def recomputed_means(name: str) -> list[PublishedMean]:
    """Means over the languages of every group of a table that prints one."""
    table = published_table(name)
    printed = table[table.language == "mean"].set_index(KEYS)["value"].to_dict()
    languages: Any = table[~table.language.isin(SUMMARIES)].groupby(KEYS)["value"]
    found = languages.agg(["count", "mean"]).reset_index()
    return [
        PublishedMean(
            **dict(zip(KEYS, row, strict=False)),
            num_languages=int(row[-2]),
            recomputed=float(row[-1]),
            printed=float(printed[row[: len(KEYS)]]),
        )
        for row in found.itertuples(index=False, name=None)
        if row[: len(KEYS)] in printed
    ]


def published_means(benchmark: str, variant: str = "") -> pd.DataFrame:
    """Printed summary figures for a benchmark, or its variant: KEYS, language (`mean` or `all`) and value."""
    tables = [published_table(name) for name in TABLES]
    both = pd.concat([table[[*KEYS, "language", "value"]] for table in tables], ignore_index=True)
    return both[
        both.benchmark.isin((benchmark, f"{benchmark}-{variant}")) & both.language.isin(("mean", "all"))
    ].reset_index(drop=True)

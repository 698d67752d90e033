"""Read published result tables, one value per row (data/SOURCES.txt).

A figure is comparable with an evaluation of the same languages (different languages mean a different pool and
mean) and of the same candidate text, so each table names both.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import lru_cache
from importlib.resources import files
from types import MappingProxyType

import pandas as pd

#: arXiv 2408.10536 does not state whether a candidate is the sentence alone or with its paragraph.
NOT_STATED = "not stated"
#: Table -> its candidate text, a variant of the benchmark; LAReQA's models encode sentence and paragraph.
TABLES: Mapping[str, str] = MappingProxyType({
    "hybrid_batch_xquad_r": NOT_STATED,
    "hybrid_batch_mlqa_r": NOT_STATED,
    "hybrid_batch_miracl": "passage",
    "lareqa_baselines": "sentence+context",
})  # fmt: skip
#: Benchmark as the tables name it -> the languages that they searched and averaged.
LANGUAGES: Mapping[str, frozenset[str]] = MappingProxyType({
    "xquad-r": frozenset(("ar", "de", "el", "en", "es", "hi", "ru", "th", "tr", "vi", "zh")),
    "mlqa-r": frozenset(("ar", "de", "en", "es", "hi", "vi", "zh")),
    "miracl-dev": frozenset(
        ("ar", "bn", "es", "fa", "fi", "fr", "hi", "id", "ja", "ko", "ru", "sw", "te", "th", "zh")
    ),
})  # fmt: skip
_CANDIDATE_TEXTS = ("sentence", "sentence+context")  # variants that are candidate texts
KEYS = ["model", "benchmark", "setting", "metric", "sampling"]


@lru_cache
def published_table(name: str) -> pd.DataFrame:
    """Columns model, benchmark, setting, metric, language, sampling, value.

    `language` is the question language, or `mean`, `median` (over languages), `all` (over questions).
    """
    with (files("hbt_dist.comparison") / "data" / "published" / f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False)


def published_means(benchmark: str, variant: str, languages: Collection[str]) -> pd.DataFrame:
    """Return the printed summary figures that are comparable with an evaluation.

    Args:
        benchmark: name.
        variant: its variant; of XQuAD-R and MLQA-R the candidate text.
        languages: the evaluated languages; only tables of the same languages have figures.

    Returns:
        KEYS, language (`mean` over languages, or `all` questions), value, and candidate_text: that of the
        table, or NOT_STATED.
    """
    names = [
        name for name in (benchmark, f"{benchmark}-{variant}") if LANGUAGES.get(name) == frozenset(languages)
    ]
    tables = []
    for name, text in TABLES.items():
        table = published_table(name)
        if variant not in _CANDIDATE_TEXTS or text in (variant, NOT_STATED):
            chosen = table.benchmark.isin(names) & table.language.isin(("mean", "all"))
            tables.append(table.loc[chosen, [*KEYS, "language", "value"]].assign(candidate_text=text))
    return pd.concat(tables, ignore_index=True)

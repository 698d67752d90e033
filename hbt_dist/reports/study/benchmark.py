"""Compute the means and comparisons of a study's benchmark, and write its section of the report."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hbt_dist.common.console import counted
from hbt_dist.common.numbers import digits_of, p_value, plain, signed, span
from hbt_dist.comparison.compare import compare, write_comparison
from hbt_dist.evaluation.read_results import SETTINGS, read_results
from hbt_dist.pages.document import Document
from hbt_dist.pages.figures import SERIES, new_figure, png
from hbt_dist.reports.evaluation.figures import draw_gains, gains_finding
from hbt_dist.reports.evaluation.sections import SETTING_TITLES, add_cell_changes, add_distances, add_tests
from hbt_dist.search.settings import OBJECTIVES
from hbt_dist.study.settings import StudyFile
from hbt_dist.study.tables import seed_values, summary_table
from hbt_dist.study.verdicts import Finding

_CORRECTED = "Holm within the benchmark, the primary contrasts apart"


class BenchmarkPart:
    """Results of a study on one benchmark.

    Args:
        folders: method -> its evaluation folders, one per seed.
        starts: name -> evaluation of a start model, before training.

    Attributes:
        label: of the benchmark.
        before: means of the start models, one row each.
        facts: `benchmark` of its results.json.
        comparisons: reference -> document of `compare` with the methods that are compared with it.
    """

    def __init__(
        self,
        study: StudyFile,
        label: str,
        folders: Mapping[str, list[Path]],
        starts: Mapping[str, Path] | None = None,
    ) -> None:
        self.label = label
        self.seeds = seed_values(dict(folders))
        self.before = summary_table(seed_values({name: [path] for name, path in (starts or {}).items()}))
        self.summary = pd.concat([self.before, summary_table(self.seeds)], ignore_index=True)
        self.facts: dict[str, Any] = read_results(next(iter(folders.values()))[0])["benchmark"]
        self.comparisons: dict[str, dict[str, Any]] = {}
        seeds = {name: _seeds(paths) for name, paths in folders.items()}
        methods_of: dict[str, list[str]] = {}
        for name, reference in study.contrasts():
            if set(seeds.get(name, ())) & set(seeds.get(reference, ())):
                methods_of.setdefault(reference, []).append(name)
        for reference, names in methods_of.items():
            self.comparisons[reference] = compare(
                [folders[name] for name in names],
                folders[reference],
                names=[reference, *names],
                seeds=[seeds[name] for name in (reference, *names)],
                cluster=study.resampled,
            )

    def families(self, method: str, reference: str) -> dict[str, Any]:
        """Return `typology` of a comparison; empty without the comparison."""
        typology: dict[str, Any] = self.comparisons.get(reference, {}).get("typology", {}).get(method, {})
        return typology

    def write_tables(self, out: Path, root: Path, findings: list[Finding]) -> None:
        """Write tables and tests as files below `out`, with evaluation folders relative to `root`."""
        tables, label = out / "tables", self.label
        for reference, document in self.comparisons.items():
            write_comparison(document, out / "comparison" / label / f"against_{reference}")
        self.summary.to_csv(tables / f"{label}_summary.csv", index=False)
        folders = [os.path.relpath(folder, root) for folder in self.seeds["folder"]]
        self.seeds.assign(folder=folders).to_csv(tables / f"{label}_seeds.csv", index=False)
        _verdict_frame(findings).to_csv(tables / f"{label}_verdicts.csv", index=False)
        pairs = self._family_rows()
        if pairs:
            frame = pd.json_normalize([{"method": name, **row} for name, row in pairs], sep="_")
            frame.drop(columns="seeds", errors="ignore").to_csv(tables / f"{label}_families.csv", index=False)

    def write(self, document: Document, primaries: Collection[tuple[str, str]] = ()) -> None:
        """Add means and language pairs, and tests, distances and families folded away.

        Args:
            primaries: method and reference of the contrasts whose language pairs are not folded away.
        """
        document.heading(self.label)
        document.paragraph(self._about())
        before = set(self.before["method"])
        columns = ["method", "seeds", *(f"{SETTING_TITLES[name]} mAP" for name in SETTINGS), "rank distance"]
        rows = [
            [
                str(row["method"]),
                "-" if row["method"] in before else str(row["seeds"]),
                *(_with_spread(row[name], row[f"{name}_sd"], name) for name in OBJECTIVES),
            ]
            for row in self.summary.to_dict("records")
        ]
        caption = f"{self.label}: mean over seeds, standard deviation between them in brackets"
        document.table(caption, columns, rows)
        about = f"{self.label}: "
        compared = [
            (name, reference)
            for reference, comparison in self.comparisons.items()
            for name in comparison["cell_gain"]
        ]
        for name, reference in sorted(compared, key=lambda pair: pair not in primaries):
            file = f"figures/{self.label}_{name}_against_{reference}.png"
            title = f"{about}every language pair, {name} minus {reference}"
            with nullcontext() if (name, reference) in primaries else document.details(title):
                add_cell_changes(document, self.comparisons[reference], name, file, about=about)
        with document.details(f"{self.label}: the means as bars"):
            document.figure(
                f"figures/{self.label}_summary.png",
                draw_summary(self.summary, self.label),
                f"mAP of each method on {self.label}",
                f"Bars of the mAP of each method on {self.label}. {self._best()}",
            )
        for reference, comparison in self.comparisons.items():
            with document.details(f"{self.label}: all tests against {reference}"):
                add_tests(document, comparison, about, corrected=_CORRECTED)
            if any(part["distances"] for part in comparison["typology"].values()):
                with document.details(f"{self.label}: gain and distance of languages, against {reference}"):
                    add_distances(document, comparison, about)
        if any("Uralic" in row["pair"] for _, row in self._family_rows()):
            with document.details(f"{self.label}: gain by families"):
                self._families(document)

    def _about(self) -> str:
        facts = self.facts
        trivial = (
            " A question's own text is among its candidates: monolingual figures are trivial, and the pool "
            "of all languages contains one hit that is nearly always at rank 1."
        )
        return (
            f"{counted(len(facts['languages']), 'language')}, {facts['num_questions']['total']:,} questions, "
            f"{facts['num_candidates']['total']:,} candidates.{trivial if facts['own_text_relevant'] else ''}"
        )

    def _best(self) -> str:
        """Return the method with the highest mAP of each setting in words."""
        columns = self.summary.set_index("method")[list(SETTINGS)].dropna(axis=1, how="all").items()
        highest = [
            f"{SETTING_TITLES[str(name)]} {column.idxmax()} ({plain(column.max())})"
            for name, column in columns
        ]
        return f"Highest: {', '.join(highest)}."

    def _family_rows(self) -> list[tuple[str, dict[str, Any]]]:
        return [
            (f"{name} - {reference}", row)
            for reference, document in self.comparisons.items()
            for name, part in document["typology"].items()
            for row in part["family_pairs"]
        ]

    def _families(self, document: Document) -> None:
        rows = []
        for name, row in self._family_rows():
            seeds = row["seeds"] or {}
            rows.append(
                [
                    f"{name}: {row['pair']}",
                    str(row["cells"]),
                    f"{row['questions']:,}",
                    plain(row["baseline"]),
                    signed(row["gain"]),
                    span(row["low"], row["high"]),
                    span(seeds.get("low"), seeds.get("high")),
                    p_value(seeds.get("p")),
                ]
            )
        document.table(
            f"{self.label}: cross-lingual mAP by families (question -> candidate): level of the reference, "
            "gain, 95 % intervals over questions (none under 30) and over seeds (paired t, p not corrected)",
            ["methods: families", "pairs", "questions", "level", "gain", "over questions", "over seeds", "p"],
            rows,
        )
        frame = pd.DataFrame(
            [{**row, "group": row["pair"], "methods": name} for name, row in self._family_rows()]
        )
        # Comparisons have None for NaN, which makes a column of objects if no row has an interval.
        frame = frame.astype({"low": float, "high": float})
        named = {str(name): part for name, part in frame.groupby("methods", sort=False)}
        document.figure(
            f"figures/{self.label}_families.png",
            draw_gains(named, self.label),
            f"Gain by families on {self.label}",
            f"Gain by families on {self.label}: {gains_finding(named)}",
        )


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
        axes.locator_params(axis="x", nbins=3)
    panels[0].set_ylim(len(table) - 0.4, -0.6)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return png(figure)


def _verdict_frame(findings: list[Finding]) -> pd.DataFrame:
    seeds = [finding.seeds or {} for finding in findings]
    return pd.DataFrame(
        {
            "method": finding.contrast[0],
            "against": finding.contrast[1],
            "setting": finding.contrast[2],
            "metric": finding.row["metric"],
            "primary": finding.primary,
            "gain": finding.gain,
            "low": finding.row["low"],
            "high": finding.row["high"],
            "p_questions": finding.row["p_holm"],
            "seeds": test.get("num_seeds", 1),
            "seeds_low": test.get("low"),
            "seeds_high": test.get("high"),
            "p_seeds": test.get("p_holm"),
            "chance": finding.row["chance"],
            "verdict": finding.sentence(),
        }
        for finding, test in zip(findings, seeds, strict=True)
    )


def _with_spread(value: float, spread: float, name: str) -> str:
    digits = digits_of(name)
    return plain(value, digits) + (f" ({plain(spread, digits)})" if math.isfinite(spread) else "")


def _seeds(folders: list[Path]) -> list[str]:
    """Return the seed of each evaluation folder, from the name of its trial's folder."""
    return [folder.parents[2].name.rpartition("-s")[2] for folder in folders]

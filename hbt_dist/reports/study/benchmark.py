"""One benchmark of a study: its means, its comparisons, and its part of the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd

from hbt_dist.common.numbers import p_value, plain, signed, span
from hbt_dist.comparison.compare import compare, write_comparison
from hbt_dist.evaluation.read_results import SETTINGS, read_results
from hbt_dist.reports.evaluation.figures import draw_gains, gains_finding
from hbt_dist.reports.evaluation.sections import WORDS, add_cell_changes, add_distances, add_tests
from hbt_dist.reports.pages.document import Document
from hbt_dist.reports.study.figures import draw_summary
from hbt_dist.search.settings import OBJECTIVES
from hbt_dist.study.settings import StudyFile
from hbt_dist.study.tables import seed_values, summary_table
from hbt_dist.study.verdicts import Finding

_CORRECTED = "Holm within the benchmark, the primary contrasts apart"


class BenchmarkPart:
    """What is known on one benchmark.

    Attributes:
        label: of the benchmark.
        facts: `benchmark` of its results.json.
        comparisons: reference -> document of `compare`, of the methods that are compared with it.
    """

    def __init__(self, study: StudyFile, label: str, found: Mapping[str, list[Path]]) -> None:
        self.label = label
        self.seeds = seed_values(dict(found))
        self.summary = summary_table(self.seeds)
        self.facts: dict[str, Any] = read_results(next(iter(found.values()))[0])["benchmark"]
        self.comparisons: dict[str, dict[str, Any]] = {}
        for reference in dict.fromkeys(reference for _, reference in study.contrasts()):
            names = [name for name, other in study.contrasts() if other == reference and name in found]
            names = [name for name in names if reference in found and _common(found, name, reference)]
            if names:
                self.comparisons[reference] = compare(
                    [found[name] for name in names],
                    found[reference],
                    names=[reference, *names],
                    seeds=[_seeds(found[name]) for name in (reference, *names)],
                    cluster=study.resampled,
                )

    def families(self, method: str, reference: str) -> dict[str, Any]:
        """`typology` of a comparison; empty where it has not been made."""
        found: dict[str, Any] = self.comparisons.get(reference, {}).get("typology", {}).get(method, {})
        return found

    def write_tables(self, out: Path, root: Path, findings: list[Finding]) -> None:
        """The tables and tests as files below `out`; evaluation folders are told as they lie below `root`."""
        tables, label = out / "tables", self.label
        for reference, document in self.comparisons.items():
            write_comparison(document, out / "comparison" / label / f"against_{reference}")
        self.summary.to_csv(tables / f"{label}_summary.csv", index=False)
        self.seeds.assign(folder=[_below(place, root) for place in self.seeds["folder"]]).to_csv(
            tables / f"{label}_seeds.csv", index=False
        )
        _verdict_frame(findings).to_csv(tables / f"{label}_verdicts.csv", index=False)
        pairs = self._family_rows()
        if pairs:
            frame = pd.json_normalize([{"method": name, **row} for name, row in pairs], sep="_")
            frame.drop(columns="seeds", errors="ignore").to_csv(tables / f"{label}_families.csv", index=False)

    def write(self, document: Document) -> None:
        """Means at sight; tests, distances, families and language pairs folded away."""
        document.heading(self.label)
        document.paragraph(self._about())
        columns = ["method", "seeds", *(f"{WORDS[name]} mAP" for name in SETTINGS), "rank distance"]
        rows = []
        for row in self.summary.to_dict("records"):
            figures = [_with_spread(row[name], row[f"{name}_sd"], name) for name in OBJECTIVES]
            rows.append([str(row["method"]), str(row["seeds"]), *figures])
        caption = f"{self.label}: mean over seeds, standard deviation between them in brackets"
        document.table(caption, columns, rows)
        with document.details(f"{self.label}: the same as bars"):
            document.figure(
                f"figures/{self.label}_summary.png",
                draw_summary(self.summary, self.label),
                f"mAP of each method on {self.label}",
                f"Bars of the mAP of each method on {self.label}. {self._best()}",
            )
        about = f"{self.label}: "
        for reference, found in self.comparisons.items():
            with document.details(f"{self.label}: all tests against {reference}"):
                add_tests(document, found, about, corrected=_CORRECTED)
            if any(part["distances"] for part in found["typology"].values()):
                with document.details(f"{self.label}: gain and distance of languages, against {reference}"):
                    add_distances(document, found, about)
        if any("Uralic" in row["pair"] for _, row in self._family_rows()):
            with document.details(f"{self.label}: gain by families"):
                self._families(document)
        for reference, found in self.comparisons.items():
            for name in found["cell_gain"]:
                file = f"figures/{self.label}_{name}_against_{reference}.png"
                with document.details(f"{self.label}: every language pair, {name} minus {reference}"):
                    add_cell_changes(document, found, name, file, about=about)

    def _about(self) -> str:
        facts = self.facts
        text = (
            f"{len(facts['languages'])} languages, {facts['num_questions']['total']:,} questions, "
            f"{facts['num_candidates']['total']:,} candidates."
        )
        if facts["own_text_relevant"]:
            text += (
                " A question's own text is among its candidates: monolingual figures are trivial, and the "
                "pool of all languages holds one hit nearly always at rank 1."
            )
        return text

    def _best(self) -> str:
        """The method with the highest mAP of each setting."""
        told = []
        for name in SETTINGS:
            known = self.summary[self.summary[name].notna()].to_dict("records")
            if known:
                best = max(known, key=itemgetter(name))
                told.append(f"{WORDS[name]} {best['method']} ({plain(best[name])})")
        return f"Highest: {', '.join(told)}."

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
        groups: dict[str, list[dict[str, Any]]] = {}
        for name, row in self._family_rows():
            groups.setdefault(name, []).append({**row, "group": row["pair"]})
        # None, which comparisons have for NaN, makes a column of objects where no row has an interval
        named = {
            name: pd.DataFrame(rows).astype({"low": float, "high": float}) for name, rows in groups.items()
        }
        document.figure(
            f"figures/{self.label}_families.png",
            draw_gains(named, self.label),
            f"Gain by families on {self.label}",
            f"Gain by families on {self.label}: {gains_finding(named)}",
        )


def _verdict_frame(findings: list[Finding]) -> pd.DataFrame:
    rows = []
    for one in findings:
        method, reference, setting = one.contrast
        seeds = one.seeds or {}
        rows.append(
            {
                "method": method,
                "against": reference,
                "setting": setting,
                "metric": one.row["metric"],
                "primary": one.primary,
                "gain": one.gain,
                "low": one.row["low"],
                "high": one.row["high"],
                "p_questions": one.row["p_holm"],
                "seeds": seeds.get("num_seeds", 1),
                "seeds_low": seeds.get("low"),
                "seeds_high": seeds.get("high"),
                "p_seeds": seeds.get("p_holm"),
                "chance": one.row["chance"],
                "verdict": one.sentence(),
            }
        )
    return pd.DataFrame(rows)


def _with_spread(value: float, spread: float, name: str) -> str:
    digits = 1 if name == "rank_distance" else 4
    if not math.isfinite(value):
        return "-"
    return plain(value, digits) + (f" ({plain(spread, digits)})" if math.isfinite(spread) else "")


def _seeds(places: list[Path]) -> list[str]:
    """The seed of each evaluation folder: a trial's folder is named by it."""
    return [place.parents[2].name.rpartition("-s")[2] for place in places]


def _common(found: Mapping[str, list[Path]], name: str, reference: str) -> bool:
    return bool(set(_seeds(found[name])) & set(_seeds(found[reference])))


def _below(path: str, root: Path) -> str:
    try:
        return Path(path).relative_to(root).as_posix()
    except ValueError:
        return path

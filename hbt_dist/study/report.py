"""The report of a study: Markdown, one HTML page, figures, tables, and what is supported by them.

    report/study.md, study.html     the same report, with pictures in report/figures/
    report/tables/*.csv             every table, full precision
    report/comparison/LABEL/        tests of each benchmark (`hbt_dist.evaluation.compare`)

Every number comes from the evaluation folders of the study, whose per-question values stay beside them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from hbt_dist.errors import UserError
from hbt_dist.evaluation.compare import compare, write_comparison
from hbt_dist.evaluation.report_figures import draw_gains
from hbt_dist.evaluation.report_parts import (
    SIGNIFICANT,
    add_cell_changes,
    add_distance_verdicts,
    add_tests,
)
from hbt_dist.pages.document import Document
from hbt_dist.search.config import OBJECTIVES
from hbt_dist.search.folder import SearchFolder
from hbt_dist.study.config import StudyFile
from hbt_dist.study.figures import draw_summary
from hbt_dist.study.job import OVERLAPS, evaluations_of, trials_of
from hbt_dist.study.tables import SETTINGS, family_gains, seed_values, summary_table
from hbt_dist.training.run_folder import environment_facts


def write_study_report(
    study: StudyFile,
    folder: SearchFolder,
    output: Path | None = None,
    *,
    say: Callable[[str], None] = print,
) -> Path:
    """Write the report of what has ended so far.

    Args:
        output: where to; default: `report` in the study's folder.

    Raises:
        UserError: the baseline has no results on any benchmark, or the report cannot be written.
    """
    out = output or folder.root / "report"
    document = Document(f"Study {study.name}", study.question, "study report")
    parts: list[_Benchmark] = []
    for benchmark in study.all_benchmarks():
        found = {
            name: places for name, places in evaluations_of(study, folder, benchmark.label).items() if places
        }
        if study.baseline in found:
            parts.append(_Benchmark(study, benchmark.label, found))
    if not parts:
        raise UserError(
            str(folder.root),
            f"the baseline {study.baseline!r} has no results yet",
            "let a training of it end; error.txt in a trial's folder says why one failed",
        )
    try:
        (out / "tables").mkdir(parents=True, exist_ok=True)
        for part in parts:
            part.write_tables(out, folder.root)
    except OSError as error:
        raise UserError(
            str(out), f"cannot be written: {error.strerror}", "name a folder you can write"
        ) from error
    document.heading("What the numbers say")
    document.items([line for part in parts for line in part.verdicts()])
    _setup(document, study, folder)
    for part in parts:
        part.write(document)
    document.write(out, "study")
    say(f"report: {out / 'study.md'}, study.html")
    return out


def _setup(document: Document, study: StudyFile, folder: SearchFolder) -> None:
    document.heading("Setting")
    rows = []
    for name, method in study.methods.items():
        changes = [f"{key} = {value}" for key, value in {**method.overrides, **method.scoring}.items()]
        what = f"models of {method.trained_as}; " if method.trained_as else ""
        rows.append(
            [
                name + (" (baseline)" if name == study.baseline else ""),
                what + ", ".join(changes),
                method.about,
            ]
        )
    document.table("Methods", ["method", "differs in", "what it is"], rows)
    trials = [trial for group in trials_of(study, folder).values() for trial in group]
    records = [trial.record() or {} for trial in trials]
    failed = [
        trial.name for trial, record in zip(trials, records, strict=True) if record.get("status") == "failed"
    ]
    hours = sum(record.get("worker_seconds", 0.0) for record in records) / 3600
    ended = sum(record.get("status") == "finished" for record in records)
    facts = environment_facts()
    document.items(
        [
            f"{ended} of {len(trials)} trainings ended, seeds {', '.join(map(str, study.seeds))}; "
            f"{hours:.1f} worker hours" + (f"; failed: {', '.join(failed)}" if failed else ""),
            "texts of the benchmarks were kept out of training"
            if study.check_leaks
            else "training data was NOT checked for texts of the benchmarks",
            *_overlap_lines(study, folder),
            f"hbt_dist {facts['hbt_dist']}, "
            + ", ".join(f"{name} {version}" for name, version in sorted(facts["versions"].items())),
            *study.notes,
        ]
    )


def _overlap_lines(study: StudyFile, folder: SearchFolder) -> list[str]:
    file = folder.root / OVERLAPS
    counted = json.loads(file.read_text("utf-8"))["counts"] if file.is_file() else {}
    lines = []
    for label in (one.label for one in study.later_benchmarks if one.label in counted):
        counts = counted[label]
        found = ", ".join(f"{number:,} examples of {source}" for source, number in counts.items() if number)
        lines.append(f"{label} was added after the training: {found or 'no training text'} repeats it")
    return lines


class _Benchmark:
    """One benchmark's part of the report."""

    def __init__(self, study: StudyFile, label: str, found: dict[str, list[Path]]) -> None:
        self.study, self.label = study, label
        self.summary = summary_table(found)
        self.seeds = seed_values(found)
        self.others = [name for name in found if name != study.baseline]
        baseline = found[study.baseline]
        self.comparison: dict[str, Any] | None = None
        if self.others:
            self.comparison = compare(
                [found[name] for name in self.others],
                baseline,
                names=[study.baseline, *self.others],
                cluster=study.resampled,
            )
        self.families = {
            name: gains
            for name in self.others
            if len(gains := family_gains(*_same_seeds(baseline, found[name])))
            and gains["pair"].str.contains("Uralic").any()
        }

    def write_tables(self, out: Path, root: Path) -> None:
        """The tables and tests as files below `out`; evaluation folders are told as they lie below `root`."""
        tables, label = out / "tables", self.label
        if self.comparison is not None:
            write_comparison(self.comparison, out / "comparison" / label)
        self.summary.to_csv(tables / f"{label}_summary.csv", index=False)
        self.seeds.assign(folder=[_below(place, root) for place in self.seeds["folder"]]).to_csv(
            tables / f"{label}_seeds.csv", index=False
        )
        if self.families:
            frame = pd.concat([gains.assign(method=name) for name, gains in self.families.items()])
            frame.to_csv(tables / f"{label}_families.csv", index=False)

    def verdicts(self) -> list[str]:
        """What is supported and what is not, a sentence each."""
        lines = []
        for row in self.comparison["tests"] if self.comparison else []:
            if row["metric"] != "map":
                continue
            change = row["difference"]  # over questions, as the interval
            seeds = row.get("seeds") or {}
            robust = bool(seeds) and seeds["p"] < SIGNIFICANT
            clear = row["p_holm"] < SIGNIFICANT
            if clear and robust:
                word = "supported"
            elif clear:
                word = (
                    "supported over questions, not over seeds"
                    if seeds
                    else "supported over questions; one seed"
                )
            else:
                word = "not supported"
            better = "raises" if change > 0 else "lowers"
            lines.append(
                f"{self.label}: {row['system']} {better} {row['setting']} mAP by {abs(change):.4f} "
                f"[{row['low']:+.4f}, {row['high']:+.4f}] against {row['baseline']} "
                f"(d {row['effect_size']:+.2f}): {word}."
            )
        for name, gains in self.families.items():
            families = self.comparison["typology"][name]["families"] if self.comparison else {}
            for row in gains.to_dict("records"):
                needed = row["seeds_needed"]
                enough = (
                    f"{needed:.0f} seeds would show it with 80 % power"
                    if math.isfinite(needed)
                    else "no number of seeds up to 1,000 would show it"
                )
                lines.append(
                    f"{self.label}, {name}, {row['pair']}: gain {row['gain']:+.4f} "
                    f"[{row['low']:+.4f}, {row['high']:+.4f}] over {row['cells']} language pairs; "
                    f"spread between seeds {row['seed_sd']:.4f}; {enough}."
                )
            if families:
                lines.append(
                    f"{self.label}, {name}: {families['group_a']} ({len(families['languages_a'])} languages) "
                    f"against {families['group_b']} ({len(families['languages_b'])}): {families['verdict']}."
                )
        return lines

    def write(self, document: Document) -> None:
        """Tables and figures."""
        document.heading(self.label)
        columns = ["method", "seeds", *(f"{name} mAP" for name in SETTINGS), "rank distance"]
        rows = []
        for row in self.summary.to_dict("records"):
            figures = [_with_spread(row[name], row[f"{name}_sd"], name) for name in OBJECTIVES]
            rows.append([str(row["method"]), str(row["seeds"]), *figures])
        caption = f"{self.label}: mean over seeds, standard deviation between them in brackets"
        document.table(caption, columns, rows)
        document.figure(
            f"figures/{self.label}_summary.png",
            draw_summary(self.summary, self.label),
            f"mAP of each method on {self.label}",
            f"Bars of the mAP of each method on {self.label}; the table above holds the numbers",
        )
        if self.comparison is None:
            return
        about = f"{self.label}: "
        add_tests(document, self.comparison, about)
        add_distance_verdicts(document, self.comparison)
        if self.families:
            self._families(document)
        for name in self.others:
            file = f"figures/{self.label}_{name}_gain.png"
            add_cell_changes(document, self.comparison, name, file, about=about)

    def _families(self, document: Document) -> None:
        rows = []
        for name, gains in self.families.items():
            for row in gains.to_dict("records"):
                rows.append(
                    [
                        f"{name}: {row['pair']}",
                        str(row["cells"]),
                        f"{row['baseline']:.4f}",
                        f"{row['gain']:+.4f}",
                        f"[{row['low']:+.4f}, {row['high']:+.4f}]",
                        f"{row['seed_sd']:.4f}",
                        f"{row['p_seeds']:.4f}" if math.isfinite(row["p_seeds"]) else "-",
                        f"{row['seeds_needed']:.0f}" if math.isfinite(row["seeds_needed"]) else "> 1000",
                    ]
                )
        document.table(
            f"{self.label}: cross-lingual mAP by families (question -> candidate): baseline, gain, 95 % "
            "interval over questions, spread of the gain between seeds, paired t over seeds, seeds needed "
            "for 80 % power",
            ["method: families", "pairs", "baseline", "gain", "interval", "sd", "p (seeds)", "seeds needed"],
            rows,
        )
        named = {name: frame.rename(columns={"pair": "group"}) for name, frame in self.families.items()}
        document.figure(
            f"figures/{self.label}_families.png",
            draw_gains(named, self.label),
            f"Gain over {self.study.baseline} by families on {self.label}",
            f"Gain by families on {self.label}, with intervals; the table above holds the numbers",
        )


def _with_spread(value: float, spread: float, name: str) -> str:
    digits = 1 if name == "rank_distance" else 4
    if not math.isfinite(value):
        return "-"
    return f"{value:.{digits}f}" + (f" ({spread:.{digits}f})" if math.isfinite(spread) else "")


def _same_seeds(baseline: list[Path], system: list[Path]) -> tuple[list[Path], list[Path]]:
    """Folders of the seeds that both have, seed by seed; a trial's folder is named by its seed."""

    def by_seed(places: list[Path]) -> dict[str, Path]:
        return {place.parents[2].name.rpartition("-s")[2]: place for place in places}

    old, new = by_seed(baseline), by_seed(system)
    common = [seed for seed in old if seed in new]
    return [old[seed] for seed in common], [new[seed] for seed in common]


def _below(path: str, root: Path) -> str:
    try:
        return Path(path).relative_to(root).as_posix()
    except ValueError:
        return path

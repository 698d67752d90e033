"""The report of a study: Markdown, one HTML page, figures, tables, and what is supported by them.

    report/study.md, study.html           the same report, with pictures in report/figures/
    report/tables/*.csv                   every table, full precision
    report/comparison/LABEL/against_M/    tests of each benchmark against method M (`evaluation.compare`)

It opens with the answer of the primary contrasts (`answer.py`); then all methods in one table, the setting,
and a part for every benchmark with its long tables folded away. Every number comes from the evaluation
folders of the study, whose per-question values stay beside them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from hbt_dist.common.environment import environment_facts
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import read_json_lines
from hbt_dist.evaluation.read_results import SETTINGS
from hbt_dist.reports.pages.document import Document
from hbt_dist.reports.study.answer import add_answer
from hbt_dist.reports.study.benchmark import BenchmarkPart
from hbt_dist.search.folder import SearchFolder, Trial
from hbt_dist.study.settings import StudyFile
from hbt_dist.study.study import OVERLAPS, evaluations_of, trials_of
from hbt_dist.study.verdicts import Finding, judge
from hbt_dist.training.run_folder import RunFolder

_SHORT = {"monolingual": "mono", "crosslingual": "cross", "multilingual": "multi"}


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
    parts: list[BenchmarkPart] = []
    for benchmark in study.all_benchmarks():
        found = {
            name: places for name, places in evaluations_of(study, folder, benchmark.label).items() if places
        }
        if study.baseline in found:
            parts.append(BenchmarkPart(study, benchmark.label, found))
    if not parts:
        raise UserError(
            str(folder.root),
            f"the baseline {study.baseline!r} has no results yet",
            "let a training of it end; error.txt in a trial's folder says why one failed",
        )
    findings = judge(study, {part.label: part.comparisons for part in parts})
    try:
        (out / "tables").mkdir(parents=True, exist_ok=True)
        for part in parts:
            part.write_tables(out, folder.root, [one for one in findings if one.label == part.label])
    except OSError as error:
        raise UserError(
            str(out), f"cannot be written: {error.strerror}", "name a folder you can write"
        ) from error
    document = Document(f"Study {study.name}", study.question, "study report")
    add_answer(document, study, parts, findings)
    _all_methods(document, study, parts, findings)
    _setting(document, study, folder)
    for part in parts:
        part.write(document)
    document.write(out, "study")
    say(f"report: {out / 'study.md'}, study.html")
    return out


def _all_methods(
    document: Document, study: StudyFile, parts: Sequence[BenchmarkPart], findings: Sequence[Finding]
) -> None:
    """A row for every contrast, a column for every benchmark and setting that is not trivial."""
    shown = {
        (one.label, *one.contrast): one
        for one in findings
        if one.row["metric"] == "map" and not one.row["trivial"]
    }
    columns = [
        (part.label, setting)
        for part in parts
        for setting in SETTINGS
        if any(key[0] == part.label and key[3] == setting for key in shown)
    ]
    rows = []
    for name, reference in study.contrasts():
        cells = [shown.get((label, name, reference, setting)) for label, setting in columns]
        if any(cells):
            title = name if reference == study.baseline else f"{name} - {reference}"
            rows.append([title, *("-" if cell is None else cell.cell() for cell in cells)])
    document.heading("All methods")
    if not rows:
        document.paragraph("No other method has results yet.")
        return
    document.table(
        f"Change in mAP against {study.baseline}, or the method named behind the minus",
        ["method", *(f"{label} {_SHORT[setting]}" for label, setting in columns)],
        rows,
    )
    tested = [one for one in findings if not one.primary and not one.row["trivial"]]
    held = sum(one.holds == "holds" for one in tested)
    weak = sum(one.holds == "questions only" for one in tested)
    document.paragraph(
        f"Marks as above. {held} of {len(tested)} exploratory differences (rank distances too) hold over "
        f"questions and seeds, {weak} over questions only; tables/*_verdicts.csv says each in words."
    )


def _setting(document: Document, study: StudyFile, folder: SearchFolder) -> None:
    document.heading("Setting")
    by_method = trials_of(study, folder)
    rows = []
    for name, method in study.methods.items():
        changes = [f"{key} = {value}" for key, value in {**method.overrides, **method.scoring}.items()]
        changes += _switched(by_method.get(name, []))
        what = f"models of {method.trained_as}; " if method.trained_as else ""
        rows.append(
            [
                name + (" (baseline)" if name == study.baseline else ""),
                what + ", ".join(changes),
                method.about,
            ]
        )
    document.table("Methods", ["method", "differs in", "what it is"], rows)
    trials = [trial for group in by_method.values() for trial in group]
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
        ]
    )


def _switched(trials: Sequence[Trial]) -> list[str]:
    """What share of the words code-switching replaced, over all steps of a method's trainings."""
    counts: dict[str, list[int]] = {}
    for trial in trials:
        for line in read_json_lines(RunFolder(trial.folder / "run").metrics):
            for role, one in line.get("code_switching", {}).items():
                held = counts.setdefault(role, [0, 0])
                held[0] += one["switched"]
                held[1] += one["words"]
    return [
        f"{switched / words:.1%} of the words of {role}s were switched"
        for role, (switched, words) in counts.items()
        if words
    ]


def _overlap_lines(study: StudyFile, folder: SearchFolder) -> list[str]:
    file = folder.root / OVERLAPS
    counted = json.loads(file.read_text("utf-8"))["counts"] if file.is_file() else {}
    lines = []
    for label in (one.label for one in study.later_benchmarks if one.label in counted):
        counts = counted[label]
        found = ", ".join(f"{number:,} examples of {source}" for source, number in counts.items() if number)
        lines.append(f"{label} was added after the training: {found or 'no training text'} repeats it")
    return lines

"""Write the report of a study: Markdown, an HTML page, figures, tables, tests.

    report/study.md, study.html           the same report, with pictures in report/figures/
    report/tables/*.csv                   every table, full precision
    report/comparison/LABEL/against_M/    tests of each benchmark against method M (`evaluation.compare`)

The report begins with the answer of the primary contrasts (`answer.py`). All methods in one table, the
setting and a section for every benchmark follow, with long tables folded away. Every number comes from the
evaluation folders of the study, which also hold the per-question values.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from hbt_dist.common.environment import environment_facts
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import explained_write, read_json_lines
from hbt_dist.evaluation.read_results import SETTINGS
from hbt_dist.pages.document import Document
from hbt_dist.reports.study.answer import add_answer
from hbt_dist.reports.study.benchmark import BenchmarkPart
from hbt_dist.search.folder import SearchFolder, Trial
from hbt_dist.study.settings import StudyFile
from hbt_dist.study.study import OVERLAPS, evaluations_of, trials_of
from hbt_dist.study.verdicts import Finding, judge

_SHORT = {"monolingual": "mono", "crosslingual": "cross", "multilingual": "multi"}


def write_study_report(
    study: StudyFile,
    folder: SearchFolder,
    output: Path | None = None,
    *,
    say: Callable[[str], None] = print,
) -> Path:
    """Write the report of the trainings that have ended so far.

    Args:
        output: folder to write; default: `report` in the study's folder.

    Raises:
        UserError: the baseline has no results on any benchmark, or the report cannot be written.
    """
    out = output or folder.root / "report"
    labels = [benchmark.label for benchmark in study.all_benchmarks()]
    parts = [
        BenchmarkPart(study, label, {name: paths for name, paths in folders.items() if paths})
        for label in labels
        if (folders := evaluations_of(study, folder, label))[study.baseline]
    ]
    if not parts:
        raise UserError(
            str(folder.root),
            f"the baseline {study.baseline!r} has no results yet",
            "wait for one of its trainings; error.txt in a trial's folder explains a failure",
        )
    findings = judge(study, {part.label: part.comparisons for part in parts})
    with explained_write(out, "name a folder you can write"):
        (out / "tables").mkdir(parents=True, exist_ok=True)
        for part in parts:
            part.write_tables(out, folder.root, [item for item in findings if item.label == part.label])
    document = Document(f"Study {study.name}", "study report")
    document.lead(study.question)
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
    """Add a row for every contrast, a column for every benchmark and setting that is not trivial."""
    shown = {
        (finding.label, *finding.contrast): finding
        for finding in findings
        if finding.row["metric"] == "map" and not finding.row["trivial"]
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
    verdicts = [item.holds for item in findings if not item.primary and not item.row["trivial"]]
    document.paragraph(
        f"Marks as above. Exploratory differences, including rank distances: {verdicts.count('holds')} of "
        f"{len(verdicts)} hold over questions and seeds, {verdicts.count('questions only')} over questions "
        "only; tables/*_verdicts.csv lists all."
    )


def _setting(document: Document, study: StudyFile, folder: SearchFolder) -> None:
    document.heading("Setting")
    by_method = trials_of(study, folder)
    changes = {
        name: [f"{key} = {value}" for key, value in {**method.overrides, **method.scoring}.items()]
        + _switched(by_method.get(name, []))
        for name, method in study.methods.items()
    }
    rows = [
        [
            name + (" (baseline)" if name == study.baseline else ""),
            (f"models of {method.trained_as}; " if method.trained_as else "") + ", ".join(changes[name]),
            method.about,
        ]
        for name, method in study.methods.items()
    ]
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
            "training data excludes texts of the benchmarks"
            if study.check_leaks
            else "training data was NOT checked for texts of the benchmarks",
            *_overlap_lines(study, folder),
            f"hbt_dist {facts['hbt_dist']}, "
            + ", ".join(f"{name} {version}" for name, version in sorted(facts["versions"].items())),
        ]
    )


def _switched(trials: Sequence[Trial]) -> list[str]:
    """Return the share of words that code-switching replaced, over all steps of a method's trainings."""
    counts: dict[str, Counter[str]] = {}
    for trial in trials:
        for line in read_json_lines(trial.folder / "run" / "metrics.jsonl"):
            for role, step in line.get("code_switching", {}).items():
                count = counts.setdefault(role, Counter())
                count.update({key: step[key] for key in ("switched", "words")})
    return [
        f"{count['switched'] / count['words']:.1%} of the words of {role}s were switched"
        for role, count in counts.items()
        if count["words"]
    ]


def _overlap_lines(study: StudyFile, folder: SearchFolder) -> list[str]:
    file = folder.root / OVERLAPS
    counted = json.loads(file.read_text("utf-8"))["counts"] if file.is_file() else {}
    repeats = {
        label: ", ".join(f"{count:,} examples of {name}" for name, count in counts.items() if count)
        for label, counts in counted.items()
    }
    return [
        f"{label} was added after the training: {repeats[label] or 'no training text'} repeats it"
        for label in (benchmark.label for benchmark in study.later_benchmarks)
        if label in repeats
    ]

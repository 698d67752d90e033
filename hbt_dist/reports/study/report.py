"""Write the report of a study: Markdown, an HTML page, figures, tables, tests.

    report/study.md, study.html           the same report, with pictures in report/figures/
    report/tables/*.csv                   every table, full precision
    report/comparison/LABEL/against_M/    tests of each benchmark against method M (`evaluation.compare`)

The report begins with the answer of the primary contrasts (`answer.py`). All methods in one table, a
section for every benchmark and the setting follow, with long tables folded away. Every number comes from the
evaluation folders of the study, which also hold the per-question values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import explained_write
from hbt_dist.evaluation.read_results import SETTINGS
from hbt_dist.pages.document import Document
from hbt_dist.reports.study.answer import add_answer, headline, tiles
from hbt_dist.reports.study.benchmark import BenchmarkPart
from hbt_dist.reports.study.setting import add_setting
from hbt_dist.search.folder import SearchFolder
from hbt_dist.study.settings import StudyFile
from hbt_dist.study.study import evaluations_of, starts_of
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
        BenchmarkPart(
            study,
            label,
            {name: paths for name, paths in folders.items() if paths},
            starts_of(study, folder, label),
        )
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
    document.lead(headline(study, findings), study.question)
    figures = tiles(parts, findings)
    if figures:
        document.tiles(figures)
    add_answer(document, study, parts, findings)
    _all_methods(document, study, parts, findings)
    for part in parts:
        part.write(document, [(method, reference) for method, reference, _ in study.primaries()])
    add_setting(document, study, folder)
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

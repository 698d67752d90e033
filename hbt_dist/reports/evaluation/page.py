"""Write report.html and report.md of an evaluation, from results.json and the files of its run.

The report begins with what happened, in words and in large figures, and with the matrix of language pairs,
with a baseline before and after. The change of each pair, the training, languages and families, all figures,
bias and distances follow; tests, settings and provenance come last. Takes about a second, and a few more with
a baseline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hbt_dist.data.language_facts import describe
from hbt_dist.evaluation.read_results import read_evaluation, read_results, title_of
from hbt_dist.pages.document import Document
from hbt_dist.reports.evaluation.change import (
    START_MODEL,
    Change,
    add_changes,
    add_statistics,
    model_names,
)
from hbt_dist.reports.evaluation.distances import add_distance_section
from hbt_dist.reports.evaluation.facts import provenance_facts, settings_facts
from hbt_dist.reports.evaluation.language_bias import add_bias
from hbt_dist.reports.evaluation.representations import add_representations
from hbt_dist.reports.evaluation.sections import family_list, largest_cell, pair_heatmap
from hbt_dist.reports.evaluation.story import about, lead, statistics, tiles
from hbt_dist.reports.evaluation.tables import add_groups, add_means, add_one_target
from hbt_dist.reports.evaluation.training import TrainingStory, add_training

STEM = "report"
HEATMAP = "heatmap.png"


def write_report(
    folder: str | Path, baseline: str | Path | None = None, output: str | Path | None = None
) -> Path:
    """Write report.html, report.md and their pictures.

    Args:
        folder: of an evaluation.
        baseline: folder of an evaluation on the same benchmark, to compare with.
        output: folder to write; default: `folder`.

    Returns:
        the path of report.html.

    Raises:
        UserError: a folder is not an evaluation, the benchmarks differ, or the output cannot be written.
    """
    from hbt_dist.comparison.compare import compare
    from hbt_dist.comparison.gains import PairedRows, group_gains

    results = read_results(folder)
    change = None
    if baseline is not None:
        comparison = compare([[folder]], [baseline], names=model_names(baseline, folder))
        rows = PairedRows.join([read_evaluation(baseline)], [read_evaluation(folder)], "crosslingual", "map")
        families = group_gains(rows, lambda question, _: describe(question).family)
        change = Change(next(iter(comparison["folders"])), read_results(baseline), comparison, families)
    target = Path(output if output is not None else folder)
    report_document(results, change, TrainingStory.of(Path(folder))).write(target, STEM)
    return target / f"{STEM}.html"


def report_document(
    results: dict[str, Any], change: Change | None = None, story: TrainingStory | None = None
) -> Document:
    """Build the report of an evaluation.

    Args:
        results: the content of results.json.
        change: the comparison with a baseline, if there is one.
        story: the training of the model, if its run folder is known.
    """
    model = "/".join(Path(str(results["provenance"].get("model", ""))).parts[-2:])
    title = f"{model} on {title_of(results)}" if model else title_of(results)
    document = Document(title, "evaluation report")
    small = (statistics(results, change), about(results))
    document.lead(lead(results, change, story), " ".join(text for text in small if text))
    document.tiles(tiles(results, change))
    _pairs(document, results, change)
    if change is not None:
        add_changes(document, change)
    if story is not None:
        add_training(document, story)
    add_groups(document, results, change)
    add_means(document, results, change)
    add_representations(document, results)
    add_one_target(document, results)
    add_bias(document, results, change)
    add_distance_section(document, results, change)
    if change is not None:
        add_statistics(document, change)
    document.heading("Settings")
    facts = settings_facts(results)
    document.facts({name: value for name, value in facts.items() if "." not in name})
    with document.details("Settings of texts and scoring"):
        document.facts({name: value for name, value in facts.items() if "." in name})
    document.heading("Provenance")
    facts = provenance_facts(results)
    if change is not None:
        facts["baseline"] = change.comparison["folders"][change.name][0]
        facts["baseline.model"] = change.baseline["provenance"].get("model", "not recorded")
    document.facts(facts)
    return document


def _pairs(document: Document, results: dict[str, Any], change: Change | None) -> None:
    """Add the matrix of language pairs, next to that of the baseline in the same colours."""
    document.heading("Language pairs")
    if change is None:
        document.matrix(pair_heatmap(results), HEATMAP)
    else:
        names = (change.name, change.system)
        captions = ("Before training", "After training") if change.name == START_MODEL else names
        high = max(map(largest_cell, (change.baseline, results)))
        before, after = (
            pair_heatmap(entry, f"{caption}: mAP", high)
            for entry, caption in zip((change.baseline, results), captions, strict=True)
        )
        document.side_by_side(before, after, ("figures/baseline.png", HEATMAP))
    document.paragraph(
        "A cell is the mAP of questions in the language of its row, which search the candidates in the "
        "language of its column. The diagonal is within a language. Languages by family: "
        f"{family_list(results['benchmark']['languages'])}."
    )

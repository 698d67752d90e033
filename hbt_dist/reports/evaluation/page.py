"""Write report.html and report.md of an evaluation, from results.json and the files of its run.

The report begins with the answer: mAP next to that of a random order, or the change against a baseline, and
the matrix of language pairs. Means, bias, families, distances, settings and provenance follow. With a
baseline it also has tests, a difference of the matrices with the significance of every cell, gains by family.
Takes about a second, and a few more with a baseline.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.common.console import counted
from hbt_dist.common.numbers import digits_of, plain
from hbt_dist.data.benchmarks.judgements import judgement_lines
from hbt_dist.data.language_facts import describe
from hbt_dist.evaluation.metrics import METRICS, near_chance
from hbt_dist.evaluation.read_results import rank_distance_of, read_evaluation, read_results, title_of
from hbt_dist.evaluation.results import LANGUAGE_MEASURES
from hbt_dist.evaluation.text_counts import text_lines
from hbt_dist.pages.document import Document
from hbt_dist.reports.evaluation.change import SETTING_PHRASES, Change, add_changes, change_sentence
from hbt_dist.reports.evaluation.distances import add_distance_section
from hbt_dist.reports.evaluation.facts import provenance_facts, settings_facts
from hbt_dist.reports.evaluation.language_bias import add_bias
from hbt_dist.reports.evaluation.representations import add_representations
from hbt_dist.reports.evaluation.sections import (
    SETTING_TITLES,
    family_list,
    language_matrix,
    languages_by_family,
    metric_title,
    pair_heatmap,
)
from hbt_dist.reports.evaluation.training import TrainingStory, add_training

STEM = "report"
HEATMAP = "heatmap.png"
_METRICS = ("map@20", "mrr", "recall@1", "recall@10", "ndcg@10", "accuracy")
_SETTINGS = ("crosslingual", "monolingual", "multilingual", "one_target")
_LANGUAGE_TITLES = ("monolingual", "asking", "answering", "multilingual", "rank distance")


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
        comparison = compare([[folder]], [baseline])
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
    benchmark = results["benchmark"]
    model = "/".join(Path(str(results["provenance"].get("model", ""))).parts[-2:])
    title = f"{model} on {title_of(results)}" if model else title_of(results)
    summary, about = _levels(results), _about(results)
    if change is not None:
        summary, about = change_sentence(change), f"{summary} {about}"
    document = Document(title, "evaluation report")
    document.lead(summary, about)
    document.heading("Language pairs")
    document.matrix(pair_heatmap(results), HEATMAP)
    document.paragraph(
        "Each cell searches the candidates of one language. Languages are ordered by family: "
        f"{family_list(benchmark['languages'])}."
    )
    _means(document, results)
    for line in text_lines(results.get("texts")):
        document.paragraph(f"{line[0].upper()}{line[1:]}.")
    add_representations(document, results)
    if change is not None:
        add_changes(document, change)
    _one_target(document, results)
    _groups(document, results)
    add_bias(document, results, change)
    add_distance_section(document, results, change)
    if story is not None:
        add_training(document, story)
    document.heading("Settings")
    document.facts(settings_facts(results))
    document.heading("Provenance")
    facts = provenance_facts(results)
    if change is not None:
        facts["baseline"] = change.comparison["folders"][change.name][0]
        facts["baseline.model"] = change.baseline["provenance"].get("model", "not recorded")
    document.facts(facts)
    return document


def _levels(results: dict[str, Any]) -> str:
    """Return the mAP of every setting, each next to that of a random order of the candidates."""
    levels = []
    for setting, phrase in SETTING_PHRASES.items():
        value, chance = results["means"][setting]["macro"]["map"], results["chance"][setting]
        if value is None:
            continue
        near = "near chance, " if near_chance(value, chance) else ""
        note = f"{near}random order: {plain(chance)}"
        if setting == "monolingual" and results["benchmark"]["own_text_relevant"]:
            note = "trivial"
        levels.append(f"{plain(value)} {phrase} ({note})")
    return f"mAP {', '.join(levels)}."


def _about(results: dict[str, Any]) -> str:
    benchmark = results["benchmark"]
    text = (
        f"{counted(len(benchmark['languages']), 'language')}, "
        f"{counted(benchmark['num_questions']['total'], 'question')}, "
        f"{counted(benchmark['num_candidates']['total'], 'candidate')}."
    )
    distance = rank_distance_of(results)
    if distance is not None:
        text += f" A question's best and worst relevant candidate are {distance:.1f} ranks apart on average."
    if benchmark["own_text_relevant"]:
        text += " Monolingual cells are trivial here: a question's own text is among its candidates."
    lines = judgement_lines(benchmark["judgements"]) if "judgements" in benchmark else []
    return " ".join([text, *(f"{line[0].upper()}{line[1:]}." for line in lines)])


def _means(document: Document, results: dict[str, Any]) -> None:
    document.heading("Means")
    user_metrics = [name for name in results["means"][_SETTINGS[0]]["macro"] if name not in METRICS]
    metrics = [*_METRICS, *user_metrics]
    rows = [
        [
            SETTING_TITLES[setting],
            plain(results["means"][setting]["macro"]["map"]),
            plain(results["chance"][setting]),
            *(plain(results["means"][setting]["macro"][metric]) for metric in metrics),
            plain(results["means"][setting]["micro"]["map"]),
        ]
        for setting in _SETTINGS
    ]
    document.table(
        "Means over languages or pairs of languages; the last column over questions",
        ["setting", "mAP", "random order", *map(metric_title, metrics), "mAP (micro)"],
        rows,
    )
    document.paragraph(
        "Cross-lingual: questions of one language, candidates of another. Monolingual: both of one language. "
        "Multilingual: the pool of all languages, with every translation of the answer relevant. One target: "
        "that pool, with one translation. Random order: the mAP of shuffled candidates; below three times as "
        "much is near chance."
    )


def _one_target(document: Document, results: dict[str, Any]) -> None:
    document.heading("One target in the pool")
    pooled = results["one_target_matrix"]
    gaps = [gap for row in results["pool_gap"] for gap in row if gap is not None]
    document.paragraph(
        "The cells of the first matrix in the pool of all languages, without further translations of the "
        "answer: a model that prefers a language loses mAP. On average "
        f"{plain(float(np.mean(gaps)))} lower than among candidates of one language."
    )
    document.matrix(
        language_matrix(
            f"{results['benchmark']['name']}: mAP, candidates of all languages, one target",
            pooled["languages"],
            pooled["metrics"]["map"],
        )
    )


def _groups(document: Document, results: dict[str, Any]) -> None:
    document.heading("Families, scripts, languages")
    for key, caption in (
        ("family", "mAP by family"),
        ("script", "mAP by script"),
        ("seen", "mAP of languages seen and not seen in training"),
    ):
        groups = results["groups"][key]
        rows = [[name, *_language_cells(row), ", ".join(row["languages"])] for name, row in groups.items()]
        if rows:
            document.table(caption, [key, *_LANGUAGE_TITLES, "languages"], rows)
    kinds = results["groups"]["crosslingual"]
    if kinds:
        document.table(
            "Cross-lingual mAP by kind of pair (question to candidate)",
            ["kind", "pairs", "mAP"],
            [[name.replace("_", " "), str(r["num_pairs"]), plain(r["map"])] for name, r in kinds.items()],
        )
    by_language = {code: results["by_language"][code] for code in languages_by_family(results["by_language"])}
    rows = [
        [
            f"{code} {row['name']}",
            *_language_cells(row),
            *(f"{row[key]:,}" for key in ("num_questions", "num_candidates")),
            *(row[key] for key in ("family", "script")),
            {True: "yes", False: "no", None: "-"}[row["seen"]],
        ]
        for code, row in by_language.items()
    ]
    document.table(
        "mAP by language: monolingual, across languages as question and as candidate language, in the pool",
        ["language", *_LANGUAGE_TITLES, "questions", "candidates", "family", "script", "seen"],
        rows,
    )


def _language_cells(row: dict[str, Any]) -> list[str]:
    return [plain(row[name], digits_of(name)) for name in LANGUAGE_MEASURES]

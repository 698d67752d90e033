"""The report of an evaluation: report.html and report.md in its folder, made from results.json alone.

With a baseline also what changed: tests, a difference of the pair matrices with the significance of every
cell, gains by family. Takes about a second, and a few more with a baseline.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hbt_dist.evaluation.languages import describe
from hbt_dist.evaluation.metrics import METRICS
from hbt_dist.evaluation.report_figures import (
    PLOTTED_DISTANCES,
    draw_bias,
    draw_distances,
    draw_gains,
)
from hbt_dist.evaluation.report_parts import (
    SIGNIFICANT,
    add_cell_changes,
    add_distances,
    add_tests,
    language_matrix,
    languages_by_family,
    pair_heatmap,
    signed_interval,
)
from hbt_dist.evaluation.results import LANGUAGE_MEASURES
from hbt_dist.evaluation.stored import rank_distance_of, read_evaluation, read_results
from hbt_dist.evaluation.typology import distance_effects
from hbt_dist.pages.document import Document

STEM = "report"
HEATMAP = "heatmap.png"
_METRICS = ("map", "map@20", "mrr", "recall@1", "recall@10", "ndcg@10", "accuracy")
_SETTINGS = ("monolingual", "crosslingual", "multilingual", "one_target")
_LANGUAGE_TITLES = ("monolingual", "asking", "answering", "multilingual", "rank distance")
_BIAS_MEANING = {
    "rank_distance": "worst minus best rank of a question's relevant candidates in the pool",
    "log_rank_distance": "logarithm of worst / best rank",
    "rank_distance_share": "rank distance as a share of the pool",
    "max_at_r": "worst rank of a relevant candidate",
    "complete@10": "share of questions with all relevant candidates in the first ten",
    "language_preference_rate": "share of questions whose first relevant candidate is in their own language",
    "language_preference_neutral": "the same if language did not matter",
    "same_language_share@10": "own language's share of the first 10, less its share of the pool",
    "same_language_share@100": "own language's share of the first 100, less its share of the pool",
    "mrc": "rank correlation between a question's language versions, whole ranking",
    "mrc@100": "the same over the first 100",
}


@dataclass(frozen=True)
class Change:
    """What a report says of an older evaluation."""

    name: str  # of the baseline
    baseline: dict[str, Any]  # its results.json
    comparison: dict[str, Any]  # of `compare`, with one system
    families: pd.DataFrame  # `group_gains` by the question language's family

    @property
    def system(self) -> str:
        """The name under which the comparison has this evaluation."""
        return next(iter(self.comparison["cell_gain"]))


def write_report(
    folder: str | Path, baseline: str | Path | None = None, output: str | Path | None = None
) -> Path:
    """Write report.html, report.md and their pictures.

    Args:
        folder: of an evaluation.
        baseline: folder of an evaluation on the same benchmark, to compare with.
        output: where to write; default: `folder`.

    Returns:
        the path of report.html.

    Raises:
        UserError: a folder is no evaluation, or they are of different benchmarks; or cannot be written.
    """
    from hbt_dist.evaluation.compare import compare
    from hbt_dist.evaluation.gains import PairedRows, group_gains

    results = read_results(folder)
    change = None
    if baseline is not None:
        comparison = compare([[folder]], [baseline])
        rows = PairedRows.join([read_evaluation(baseline)], [read_evaluation(folder)], "crosslingual", "map")
        families = group_gains(rows, lambda asked, _: describe(asked).family)
        change = Change(next(iter(comparison["folders"])), read_results(baseline), comparison, families)
    target = Path(output if output is not None else folder)
    report_document(results, change).write(target, STEM)
    return target / f"{STEM}.html"


def report_document(results: dict[str, Any], change: Change | None = None) -> Document:
    """The report of an evaluation.

    Args:
        results: what results.json holds.
        change: what to say of a baseline.
    """
    benchmark = results["benchmark"]
    model = _model_name(results)
    on = f"{results['provenance'].get('label') or benchmark['name']} ({benchmark['variant']})"
    document = Document(f"{model} on {on}" if model else on, _sentence(results), "evaluation report")
    document.heading("Settings")
    document.facts(_settings(results))
    _means(document, results, change)
    if change is not None:
        _changes(document, change)
    _matrices(document, results)
    _groups(document, results)
    _bias(document, results, change)
    _distances(document, results, change)
    document.heading("Provenance")
    document.facts(_provenance(results, change))
    return document


def _model_name(results: dict[str, Any]) -> str:
    """The last two parts of a folder or hub name, "" where it was not recorded."""
    return "/".join(Path(str(results["provenance"].get("model", ""))).parts[-2:])


def _sentence(results: dict[str, Any]) -> str:
    benchmark = results["benchmark"]
    values = [
        f"{value:.4f} {words}"
        for setting, words in (
            ("monolingual", "within languages"),
            ("crosslingual", "across languages"),
            ("multilingual", "in the pool of all languages"),
        )
        if (value := results["means"][setting]["macro"]["map"]) is not None
    ]
    text = (
        f"mAP {', '.join(values)}: {len(benchmark['languages'])} languages, "
        f"{benchmark['num_questions']['total']:,} questions, "
        f"{benchmark['num_candidates']['total']:,} candidates"
    )
    distance = rank_distance_of(results)
    if distance is not None:
        text += f"; a question's best and worst relevant candidate are {distance:.1f} ranks apart"
    if benchmark["own_text_relevant"]:
        text += ". Monolingual cells are trivial here: a question's own text is among its candidates"
    return text + "."


def _settings(results: dict[str, Any]) -> dict[str, object]:
    benchmark, recorded = results["benchmark"], dict(results["provenance"])
    for key in ("time", "command", "hbt_dist", "python", "platform", "host", "cpus", "versions", "training"):
        recorded.pop(key, None)
    return {
        "benchmark": benchmark["name"],
        "variant": benchmark["variant"],
        "languages": ", ".join(benchmark["languages"]),
        "relevant candidates per question": "{min} to {max}, mean {mean:.2f}".format(
            **benchmark["relevant_per_question"]
        ),
        **_flat(recorded),
    }


def _provenance(results: dict[str, Any], change: Change | None) -> dict[str, object]:
    recorded, ties = results["provenance"], results["ties"]
    found: dict[str, object] = {}
    for key in ("command", "time", "hbt_dist", "python", "platform", "cpus"):
        if recorded.get(key) is not None:
            found[key] = recorded[key]
    found |= {
        "versions": ", ".join(f"{name} {version}" for name, version in recorded.get("versions", {}).items()),
        "benchmark.fingerprint": results["benchmark"]["fingerprint"],
        **_flat({"training": recorded.get("training") or {}}),
        "ties": f"{ties['num_relevant_pairs_tied']} relevant candidates; {ties['rule']}",
    }
    if change is not None:
        found["baseline"] = change.comparison["folders"][change.name][0]
        found["baseline.model"] = change.baseline["provenance"].get("model", "not recorded")
    return {key: value for key, value in found.items() if value != ""}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested settings with dotted keys."""
    found: dict[str, object] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            found[f"{prefix}{key}"] = text or "(empty)"
    return found


def _number(value: float | None, digits: int = 4) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _means(document: Document, results: dict[str, Any], change: Change | None) -> None:
    document.heading("Means")
    own = [name for name in results["means"][_SETTINGS[0]]["macro"] if name not in METRICS]
    shown = [*_METRICS, *own]
    rows = []
    for setting in _SETTINGS:
        means = results["means"][setting]
        rows.append(
            [
                setting.replace("_", " "),
                *(_number(means["macro"][m]) for m in shown),
                _number(means["micro"]["map"]),
            ]
        )
    document.table(
        "Means over languages or pairs of languages; the last column over questions",
        ["setting", *shown, "map (micro)"],
        rows,
    )
    document.paragraph(
        "monolingual: questions and candidates of one language. crosslingual: of two. multilingual: the pool "
        "of all languages, every translation of the answer relevant. one target: that pool, one translation."
    )


def _changes(document: Document, change: Change) -> None:
    document.heading(f"Change against {change.name}")
    add_tests(document, change.comparison)
    add_cell_changes(document, change.comparison, change.system, "figures/difference.png")
    if len(change.families):
        rows = [
            [
                row["group"],
                str(row["cells"]),
                f"{row['baseline']:.4f}",
                f"{row['gain']:+.4f}",
                signed_interval(row["low"], row["high"]),
            ]
            for row in change.families.to_dict("records")
        ]
        document.table(
            "Cross-lingual mAP by family of the question's language, gain with 95 % interval over questions",
            ["family", "pairs", "baseline", "gain", "interval"],
            rows,
        )
        document.figure(
            "figures/families.png",
            draw_gains({change.system: change.families}, "gain by family of the question's language"),
            "Gain in cross-lingual mAP by family",
            "Points with intervals: " + "; ".join(f"{row[0]} {row[3]}" for row in rows),
        )


def _matrices(document: Document, results: dict[str, Any]) -> None:
    document.heading("Pair matrix")
    document.paragraph(
        "Rows: question language; columns: candidate language, of which alone candidates are searched. "
        f"Languages by family: {_families(results['benchmark']['languages'])}."
    )
    document.matrix(pair_heatmap(results), HEATMAP)
    document.heading("One target in the pool")
    pooled = results["one_target_matrix"]
    gaps = [gap for row in results["pool_gap"] for gap in row if gap is not None]
    document.paragraph(
        "The same cells in the pool of all languages, other translations of the answer left out: a model "
        f"that prefers a language loses here. On average {np.mean(gaps):.4f} lower than in the pair matrix."
    )
    document.matrix(
        language_matrix(
            f"{results['benchmark']['name']}: mAP, candidates of all languages, one target",
            pooled["languages"],
            pooled["metrics"]["map"],
        )
    )


def _families(codes: list[str]) -> str:
    members: dict[str, list[str]] = {}
    for code in languages_by_family(codes):
        members.setdefault(describe(code).family, []).append(code)
    return "; ".join(f"{family} ({', '.join(found)})" for family, found in members.items())


def _groups(document: Document, results: dict[str, Any]) -> None:
    document.heading("Families, scripts, languages")
    for key, caption in (
        ("family", "mAP by family"),
        ("script", "mAP by script"),
        ("seen", "mAP of languages seen and not seen in training"),
    ):
        groups = results["groups"][key]
        rows = [[name, ", ".join(row["languages"]), *_language_cells(row)] for name, row in groups.items()]
        if rows:
            document.table(caption, [key, "languages", *_LANGUAGE_TITLES], rows)
    kinds = results["groups"]["crosslingual"]
    if kinds:
        document.table(
            "Cross-lingual mAP by kind of pair (question to candidate)",
            ["kind", "pairs", "mAP"],
            [[name.replace("_", " "), str(r["num_pairs"]), _number(r["map"])] for name, r in kinds.items()],
        )
    rows = []
    for code in languages_by_family(results["by_language"]):
        row = results["by_language"][code]
        seen = {True: "yes", False: "no", None: "-"}[row["seen"]]
        about = [f"{code} {row['name']}", row["family"], row["script"], seen]
        rows.append([*about, *_language_cells(row), f"{row['num_questions']}", f"{row['num_candidates']}"])
    document.table(
        "mAP by language: monolingual, across languages when asking and when answering, in the pool",
        ["language", "family", "script", "seen", *_LANGUAGE_TITLES, "questions", "candidates"],
        rows,
    )


def _language_cells(row: dict[str, Any]) -> list[str]:
    return [_number(row[name], 1 if name == "rank_distance" else 4) for name in LANGUAGE_MEASURES]


def _bias(document: Document, results: dict[str, Any], change: Change | None) -> None:
    document.heading("Language bias")
    old = None if change is None else change.baseline
    measures = _bias_values(results)
    if not measures:
        document.paragraph("None can be measured: no question has relevant candidates in two languages.")
        return
    before = {} if old is None else _bias_values(old)
    rows = []
    for name, value in measures.items():
        digits = 1 if name in ("rank_distance", "max_at_r") else 4
        values = [_number(value, digits), *([_number(before.get(name), digits)] if old is not None else [])]
        rows.append([name.replace("_", " "), *values, _BIAS_MEANING[name]])
    titles = ["measure", "mean", *(["baseline"] if old is not None else []), "what it is"]
    document.table("Does a candidate's language decide its place?", titles, rows)
    order = languages_by_family(results["benchmark"]["languages"])
    picture = draw_bias(results, order, old)
    if picture is not None:
        extra = "" if old is None else "; hollow marks: the baseline"
        document.figure(
            "figures/bias.png",
            picture,
            f"Language bias by question language; black bars: neutral{extra}",
            "Language bias by question language; the tables of means and of languages hold the numbers",
        )


def _bias_values(results: dict[str, Any]) -> dict[str, float | None]:
    found = {name: entry["macro"] for name, entry in results["bias"].items()}
    consistency = results["ranking_consistency"] or {}
    return found | {name: consistency[name] for name in ("mrc", "mrc@100") if name in consistency}


def _distances(document: Document, results: dict[str, Any], change: Change | None) -> None:
    document.heading("Distance of languages")
    codes = results["pair_matrix"]["languages"]
    cells = np.array(results["pair_matrix"]["metrics"]["map"], np.float64)
    picture = draw_distances(cells, codes, "mAP")
    if picture is None:
        document.paragraph("There is one language only.")
        return
    lines = []
    for effect in distance_effects(cells, codes, PLOTTED_DISTANCES, mixed=False):
        source = effect.source
        if effect.num_permutations:
            direction = "rises" if effect.slope > 0 else "falls"
            chance = "" if effect.p_holm < SIGNIFICANT else ", which may be chance"
            lines.append(
                f"{source}: mAP {direction} by {abs(effect.slope):.4f} per unit of distance{chance} "
                f"(p = {effect.p_holm:.3f}, {len(effect.languages)} languages, own means taken out)"
            )
        else:
            lines.append(f"{source}: {effect.verdict}")
    document.items(lines)
    document.figure(
        "figures/distance.png",
        picture,
        "mAP of every pair of two languages against their distance",
        f"Scatter of cross-lingual mAP against distance. {'. '.join(lines)}",
    )
    if change is not None:
        gain = np.array(change.comparison["cell_gain"][change.system], np.float64)
        moved = draw_distances(gain, codes, "change in mAP")
        add_distances(document, change.comparison)
        if moved is not None:
            document.figure(
                "figures/distance_gain.png",
                moved,
                f"Change in mAP against {change.name} and the distance of the languages",
                "Scatter of the change in cross-lingual mAP against distance; see the list above",
            )

"""Format a comparison for the terminal: tests, changes of language pairs, effects, published figures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hbt_dist.common.console import counted
from hbt_dist.common.numbers import digits_of, p_value, plain, signed, span
from hbt_dist.comparison.families import claim_possible
from hbt_dist.comparison.published import NOT_STATED
from hbt_dist.comparison.significance import can_claim
from hbt_dist.comparison.typology import FAMILIES
from hbt_dist.evaluation.read_results import title_of
from hbt_dist.pages.text_matrix import (
    MOST_SHOWN,
    UNSEEN,
    aligned,
    extreme_lines,
    matrix_lines,
    next_to_each_other,
)

_CLAIMED = 0.05
_NO_EVIDENCE = f"no evidence, p >= {_CLAIMED}"


def comparison_text(document: dict[str, Any]) -> str:
    """Format what `compare` returned: a table of the tests, the matrix of changes, one line per effect."""
    languages, over_seeds = document["benchmark"]["languages"], any(row["seeds"] for row in document["tests"])
    lines = [
        f"{title_of(document)}, {counted(len(languages), 'language')}; "
        f"{document['confidence']:.0%} intervals over {document['resampled']}s"
        + (" and over seeds (paired)" if over_seeds else ""),
        "all figures are means over language cells",
        *_test_lines(document, over_seeds),
        *_pair_lines(document),
        *_effect_lines(document["typology"]),
        *_published_lines(document["published"]),
    ]
    return "\n".join(lines)


def _test_lines(document: dict[str, Any], over_seeds: bool) -> list[str]:
    baseline, *systems = document["folders"]
    single = len(systems) == 1
    seeds_head = ["over seeds", "p (Holm)"] if over_seeds else []
    heads = [baseline, systems[0] if single else "system", "change", "interval", "p (Holm)", "d"]
    rows = [["", *heads, *seeds_head]]
    for row in document["tests"]:
        digits = digits_of(row["metric"])
        measure = "mAP" if row["metric"] == "map" else row["metric"].replace("_", " ")
        rows.append([
            ("" if single else f"{row['system']}: ") + f"{row['setting']} {measure}",
            plain(row["macro_baseline"], digits),
            plain(row["macro_system"], digits),
            signed(row["difference"], digits),
            *(["trivial", "-", "-"] if row["trivial"] else _figures(row, digits)),
            *(_over_seeds(row, digits) if over_seeds else []),
        ])  # fmt: skip
    lines = aligned(rows)
    if any(row["trivial"] for row in document["tests"]):
        lines.append("trivial: a question's own text is among its candidates")
    tested = [row["num_units"] for row in document["tests"] if not row["trivial"]]
    if tested and not can_claim(max(tested), len(tested)):
        units, tests = counted(max(tested), document["resampled"]), counted(len(tested), "test")
        lines.append(f"no change of any size can be claimed: {units} are too few for {tests}")
    return lines


def _figures(row: dict[str, Any], digits: int) -> list[str]:
    return [span(row["low"], row["high"], digits), p_value(row["p_holm"]), signed(row["effect_size"], 2)]


def _over_seeds(row: dict[str, Any], digits: int) -> list[str]:
    seeds = row["seeds"]
    if row["trivial"] or not seeds:
        return ["-", "-"]
    return [span(seeds["low"], seeds["high"], digits), p_value(seeds["p_holm"])]


def _pair_lines(document: dict[str, Any]) -> list[str]:
    """Format the change of every pair, or the largest and smallest ones, with stars."""
    languages = document["pairs"]["languages"]
    if len(languages) == 1:
        return []
    unseen = document["pairs"]["unseen"]
    blocks, many = [], len(languages) > MOST_SHOWN
    for name, changes in document["cell_gain"].items():
        p = np.array(document["cell_p"][name], np.float64)
        show = extreme_lines if many else matrix_lines
        hollow = [code in unseen[name] for code in languages]
        lines = show(languages, changes, marks=p < _CLAIMED, hollow=hollow, signed=True)
        title = [name] if len(document["cell_gain"]) > 1 else []
        if many:
            lines.append(f"{np.sum(p < _CLAIMED)} of {counted(int(np.sum(~np.isnan(p))), 'pair')} change")
        blocks.append([*title, *lines])
    axes = (
        "question language - candidate language" if many else "question language (rows), candidate language"
    )
    head = f"change of mAP, * p <{_CLAIMED} over all pairs: {axes}"
    legend = [f"{UNSEEN} not in the training data"] if any(unseen.values()) else []
    return [head, *next_to_each_other(blocks), *legend]


def _effect_lines(typology: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Format one line per claim about distances and families, and one for all that cannot be claimed."""
    refused: dict[str, dict[str, list[str]]] = {}  # reason -> effect -> systems
    for system, part in typology.items():
        for effect in part["distances"]:
            tested = effect["p_permutation"] is not None
            if tested and effect["p_holm"] < _CLAIMED:
                yield _about(system, typology, f"{effect['source']}: {effect['verdict']}")
            else:
                reason = _NO_EVIDENCE if tested else _reason(effect["verdict"])
                refused.setdefault(reason, {}).setdefault(effect["source"], []).append(system)
        for difference in part["families"]:
            which = "" if difference["languages"] == "all" else f", {difference['languages']} languages"
            name = f"{FAMILIES[1]} minus {FAMILIES[0]}{which}"
            tested = claim_possible(len(difference["languages_a"]), len(difference["languages_b"]))
            if tested and difference["p_languages"] < _CLAIMED:
                figures = f"{signed(difference['difference'])} {span(difference['low'], difference['high'])}"
                yield _about(system, typology, f"{name}: {figures}, {difference['verdict']}")
            else:
                reason = _NO_EVIDENCE if tested else _reason(difference["verdict"])
                refused.setdefault(reason, {}).setdefault(name, []).append(system)
    if refused:
        parts = []
        for reason, effects in refused.items():
            names = [
                name if len(systems) == len(typology) else f"{name} ({', '.join(systems)})"
                for name, systems in effects.items()
            ]
            parts.append(f"{', '.join(names)}: {reason}")
        yield f"no claim about gain by {'; '.join(parts)}"


def _about(system: str, typology: dict[str, Any], text: str) -> str:
    return text if len(typology) == 1 else f"{system}, {text}"


def _reason(verdict: str) -> str:
    """Return a verdict without brackets and without "for a claim", which the line says."""
    return verdict.replace(" for a claim", "").replace(" (", ", ").rstrip(")")


def _published_lines(rows: list[dict[str, Any]]) -> list[str]:
    printed = [row for row in rows if row["value"] != ""]
    if not printed:
        return []
    lines = ["published in these languages (mean over languages; all = over questions):"]
    for row in printed:
        value = plain(row["value"], 1 if row["metric"] == "rank_distance" else 4)
        lines.append(
            f"  {row['model']:<12} {row['sampling']:<14} {row['setting']:<13} {row['metric']:<14}{value:>9}"
            f"  ({row['language']}){' *' if row['candidate_text'] == NOT_STATED else ''}"
        )
    if any(row["candidate_text"] == NOT_STATED for row in printed):
        lines.append("  * the paper does not say whether candidates are sentences alone or with paragraphs")
    return lines

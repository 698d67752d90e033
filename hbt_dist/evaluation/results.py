"""Turn an evaluation into one JSON document (results.json) and into a few lines for the terminal.

Schema, version 1 (numbers are full precision; null where there is nothing to average):

    schema              "hbt_dist.evaluation"
    schema_version      1
    benchmark           name, label (optional; says more than name and variant), variant, fingerprint,
                        languages, num_questions, num_candidates (by language and total), num_relevant,
                        relevant_per_question {min, mean, max}, own_text_relevant (true: the monolingual cells
                        are trivial, a question finds itself), judgements (rules and counts,
                        data/benchmarks/judgements.py)
    means               setting -> "macro" | "micro" -> metric -> value; settings: monolingual, crosslingual,
                        multilingual (pool of all languages), one_target (that pool, one target language)
    chance              setting -> mAP of a random order of the candidates, macro
    ceilings            setting -> metric -> best macro mean of any ranking: recall@1 cannot reach 1 where a
                        question has several relevant candidates (optional)
    pair_matrix         languages, num_questions [[..]], metrics {metric: [[..]]}: rows question languages,
                        columns candidate languages, candidates of that language only
    one_target_matrix   the same over the pool of all languages, other relevant candidates left out
    pool_gap            [[..]]: map(pair_matrix) - map(one_target_matrix)
    by_language         language -> name, family, script, iso639_3, seen, num_questions, num_candidates; map
                        of monolingual, crosslingual_asking, crosslingual_answering and multilingual; and
                        rank_distance
    groups              "family" | "script" | "seen" -> group -> the same means over its languages;
                        "crosslingual" -> same_family, other_family, same_script, other_script,
                        seen_to_seen, seen_to_unseen, unseen_to_seen, unseen_to_unseen -> map over those cells
    bias                measure -> macro, micro, num_questions, by_language (, median)
    ranking_consistency mrc, mrc@100, num_question_ids, of_question_ids, seed; or null
    texts               questions, candidates -> max_tokens, and by language and total: num_texts, cut (by the
                        limit), special_only (gave no token); null where only embeddings were given
    ties                num_relevant_pairs_tied, rule
    representations     with `widths` or `precisions`: "full" and each name -> width, precision,
                        bytes_per_vector, folder, map {monolingual, crosslingual, multilingual},
                        rank_distance, num_relevant_pairs_tied, loss_by_language (mean over the cells with
                        the language)
    provenance          what the caller recorded: model, settings, versions; language_removal {method, rank,
                        fitted_on, transductive, renormalized, num_vectors and share_of_squares by language}
                        where languages were removed
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.console import counted
from hbt_dist.common.numbers import digits_of, plain
from hbt_dist.data.benchmarks.judgements import judgement_lines
from hbt_dist.data.language_facts import describe, was_seen
from hbt_dist.evaluation.evaluation import Evaluation
from hbt_dist.evaluation.losses import loss_block, loss_lines
from hbt_dist.evaluation.metrics import METRICS
from hbt_dist.evaluation.pair_matrix import (
    PairMatrix,
    ceiling_means,
    chance_means,
    language_means,
    mean_or_nan,
)
from hbt_dist.evaluation.read_results import (
    SCHEMA,
    SCHEMA_VERSION,
    SETTINGS,
    headline_figures,
    json_values,
    read_results,
    title_of,
)
from hbt_dist.evaluation.text_counts import text_lines
from hbt_dist.pages.text_matrix import MOST_SHOWN, UNSEEN, extreme_lines, matrix_lines, next_to_each_other

_SEEN_MEASURES = (("mono", "monolingual"), ("cross", "crosslingual_asking"), ("multi", "multilingual"))
TIE_RULE = "float32 score descending, then candidate id descending (trec_eval)"


def results_document(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of results.json: plain Python values; NaN is None."""
    pair, one_target = evaluation.pair_matrix, evaluation.one_target_matrix
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "benchmark": _benchmark(evaluation),
        "means": evaluation.means,
        "chance": chance_means(evaluation.benchmark, evaluation.tables),
        "ceilings": ceiling_means(evaluation.benchmark, evaluation.tables),
        "pair_matrix": _matrix(pair),
        "one_target_matrix": _matrix(one_target),
        "pool_gap": (pair.values["map"] - one_target.values["map"]).tolist(),
        "by_language": by_language(evaluation),
        "groups": groups(evaluation),
        "bias": evaluation.bias,
        "ranking_consistency": evaluation.consistency,
        "texts": evaluation.texts,
        "ties": {"num_relevant_pairs_tied": int((evaluation.ranks.tied > 0).sum()), "rule": TIE_RULE},
        **({"representations": loss_block(evaluation)} if evaluation.representations else {}),
        "provenance": evaluation.provenance,
    }
    return dict(json_values(document))


def _benchmark(evaluation: Evaluation) -> dict[str, Any]:
    benchmark = evaluation.benchmark
    size = len(benchmark.languages)
    lengths = np.diff(benchmark.relevant_offsets)

    def count(rows: NDArray[Any]) -> dict[str, int]:
        counts = np.bincount(rows, minlength=size).tolist()
        return {**dict(zip(benchmark.languages, counts, strict=True)), "total": len(rows)}

    return {
        "name": benchmark.name,
        **({"label": label} if (label := evaluation.provenance.get("label")) else {}),
        "variant": benchmark.variant,
        "fingerprint": benchmark.fingerprint,
        "languages": list(benchmark.languages),
        "num_questions": count(benchmark.question_language),
        "num_candidates": count(benchmark.candidate_language),
        "num_relevant": len(benchmark.relevant),
        "own_text_relevant": benchmark.question_text_relevant,
        "judgements": benchmark.judgements.plain,
        "relevant_per_question": {
            "min": int(lengths.min()),
            "mean": float(lengths.mean()),
            "max": int(lengths.max()),
        },
    }


def _matrix(matrix: PairMatrix) -> dict[str, Any]:
    return {
        "languages": list(matrix.languages),
        "num_questions": matrix.num_questions.tolist(),
        "metrics": {name: matrix.values[name].tolist() for name in matrix.values},
    }


def by_language(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Return the facts of each language and its mAP in every role."""
    benchmark, cells = evaluation.benchmark, evaluation.pair_matrix.values["map"]
    pooled = language_means(benchmark, evaluation.tables["multilingual"])["map"]
    distance: Any = evaluation.bias.get("rank_distance", {}).get("by_language", {})
    num_questions = np.bincount(benchmark.question_language, minlength=len(benchmark.languages))
    num_candidates = np.bincount(benchmark.candidate_language, minlength=len(benchmark.languages))
    off_diagonal = np.where(np.eye(len(cells), dtype=bool), np.nan, cells)
    result = {}
    for i, code in enumerate(benchmark.languages):
        language = describe(code)
        result[code] = {
            **{key: getattr(language, key) for key in ("name", "family", "script", "iso639_3")},
            "seen": was_seen(code, evaluation.seen_languages),
            "num_questions": int(num_questions[i]),
            "num_candidates": int(num_candidates[i]),
            "monolingual": float(cells[i, i]),
            "crosslingual_asking": mean_or_nan(off_diagonal[i]),
            "crosslingual_answering": mean_or_nan(off_diagonal[:, i]),
            "multilingual": float(pooled[i]),
            "rank_distance": distance.get(code, float("nan")),
        }
    return result


LANGUAGE_MEASURES = (
    "monolingual",
    "crosslingual_asking",
    "crosslingual_answering",
    "multilingual",
    "rank_distance",
)


def groups(evaluation: Evaluation) -> dict[str, Any]:
    """Average over the languages of a family or script, seen and unseen languages, and kinds of pairs."""
    rows = by_language(evaluation)
    result: dict[str, Any] = {}
    for key in ("family", "script", "seen"):
        members: dict[str, list[str]] = {}
        for code, row in rows.items():
            label = {True: "seen", False: "unseen"}.get(row[key], row[key])
            if label is not None:
                members.setdefault(label, []).append(code)
        result[key] = {
            label: {
                "languages": codes,
                **{
                    m: mean_or_nan(np.array([rows[code][m] for code in codes], np.float64))
                    for m in LANGUAGE_MEASURES
                },
            }
            for label, codes in sorted(members.items())
        }
    result["crosslingual"] = _pair_groups(evaluation, rows)
    return result


def _pair_groups(evaluation: Evaluation, rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Average mAP over the cross-lingual cells of each kind of language pair."""
    members: dict[str, list[float]] = {}
    cells = evaluation.pair_matrix.values["map"]
    for i, a in enumerate(rows.values()):
        for j, b in enumerate(rows.values()):
            if i == j or math.isnan(cells[i, j]):
                continue
            kinds = [
                ("same_" if a[key] == b[key] else "other_") + key
                for key in ("family", "script")
                if "unknown" not in (a[key], b[key])
            ]
            if a["seen"] is not None:
                kinds.append("_to_".join("seen" if x["seen"] else "unseen" for x in (a, b)))
            for kind in kinds:
                members.setdefault(kind, []).append(float(cells[i, j]))
    return {k: {"map": float(np.mean(v)), "num_pairs": len(v)} for k, v in sorted(members.items())}


def summary(evaluation: Evaluation) -> str:
    """Format a few lines for the terminal: the three settings, the bias, seen and unseen languages."""
    benchmark, means = evaluation.benchmark, evaluation.means
    named = {"benchmark": _benchmark(evaluation), "provenance": evaluation.provenance}
    lines = [
        f"{title_of(named)}: {counted(len(benchmark.languages), 'language')}, "
        f"{len(benchmark.question_ids):,} questions, {len(benchmark.candidate_ids):,} candidates",
        f"{'':<16}{'mAP':>9}{'mAP@20':>9}{'MRR':>9}{'R@1':>9}{'R@10':>9}{'nDCG@10':>9}",
    ]
    for setting in SETTINGS:
        values = [
            means[setting]["macro"][m] for m in ("map", "map@20", "mrr", "recall@1", "recall@10", "ndcg@10")
        ]
        if not all(math.isnan(value) for value in values):
            lines.append(f"{setting:<16}" + "".join(f"{plain(value):>9}" for value in values))
    for name in (name for name in means["monolingual"]["macro"] if name not in METRICS):
        parts = [f"{setting} {plain(means[setting]['macro'][name])}" for setting in SETTINGS]
        lines.append(f"{name}: {', '.join(parts)}")
    lines += [*loss_lines(evaluation), *text_lines(evaluation.texts)]
    distance = evaluation.bias.get("rank_distance")
    if distance is not None:
        lines.append(
            f"rank distance   {distance['macro']:9.1f}  (median {distance['median']:.0f}, "
            f"{100 * float(evaluation.bias['rank_distance_share']['macro']):.2f} % of the pool)"  # type: ignore[arg-type]
        )
    preference = evaluation.bias.get("language_preference_rate")
    if preference is not None:
        neutral = evaluation.bias["language_preference_neutral"]["macro"]
        lines.append(f"same language first {preference['macro']:6.1%}  (neutral {neutral:.1%})")
    if evaluation.seen_languages is not None:
        for label, row in groups(evaluation)["seen"].items():
            name = "seen in training" if label == "seen" else "not seen"
            parts = [f"{title} {plain(row[m])}" for title, m in _SEEN_MEASURES if not math.isnan(row[m])]
            lines.append(f"{name} ({', '.join(row['languages'])}): {', '.join(parts)}")
    removed = evaluation.provenance.get("language_removal")
    if removed is not None:
        texts = "the candidates (transductive)" if removed["transductive"] else "other texts"
        lines.append(f"language components removed: {removed['rank']} per language, fitted on {texts}")
    if benchmark.question_text_relevant:
        lines.append("monolingual cells are trivial here: a question's own text is among its candidates")
    return "\n".join([*lines, *judgement_lines(benchmark.judgements.plain)])


def pair_lines(results: dict[str, Any], baseline: dict[str, Any] | None = None) -> list[str]:
    """Format the mAP of every language pair, or of the best and worst pairs of many languages.

    Args:
        results: the content of results.json.
        baseline: of the same benchmark and languages; the model before training.
    """
    shown = {"": results} if baseline is None else {"before training": baseline, "after training": results}
    languages = results["pair_matrix"]["languages"]
    if len(languages) == 1:
        return []
    hollow = [results["by_language"][code]["seen"] is False for code in languages]
    cells = {title: part["pair_matrix"]["metrics"]["map"] for title, part in shown.items()}
    legend = [f"{UNSEEN} not in the training data"] if any(hollow) else []
    if len(languages) <= MOST_SHOWN:
        blocks = [
            [*filter(None, [title]), *matrix_lines(languages, cells[title], hollow=hollow)] for title in shown
        ]
        head = "mAP of each pair: question language (rows), candidate language (columns)"
        return [head, *next_to_each_other(blocks), *legend]
    lines = [f"mAP of {counted(len(languages) ** 2, 'pair')}: question language - candidate language"]
    for title, part in shown.items():
        about = f"{title}, " * bool(title)
        lines += [about + line for line in extreme_lines(languages, cells[title], hollow=hollow)]
        lines.append(about + _family_means(part))
    return [*lines, *legend]


def _family_means(results: dict[str, Any]) -> str:
    """Format the means over the pairs of one language, of one family, of two families."""
    kinds = results["groups"]["crosslingual"]
    parts = [f"within languages {plain(results['means']['monolingual']['macro']['map'])}"]
    for kind, words in (("same_family", "within families"), ("other_family", "across families")):
        if kind in kinds:
            parts.append(f"{words} {plain(kinds[kind]['map'])} ({counted(kinds[kind]['num_pairs'], 'pair')})")
    return f"means: {', '.join(parts)}"


def before_and_after(before: Path, after: Path) -> str:
    """Format the comparison of one benchmark before and after training."""
    results = [read_results(folder) for folder in (before, after)]
    old, new = map(headline_figures, results)
    lines = [f"{title_of(results[1])}: before -> after training"]
    for name in old:
        title = "rank distance" if name == "rank_distance" else f"{name} mAP"
        shown = [plain(value, digits_of(name)) for value in (old[name], new[name])]
        lines.append(f"  {title:<18} {shown[0]:>8} -> {shown[1]:>8}")
    lines += [f"  {line}" for line in pair_lines(results[1], results[0])]
    lines += dict.fromkeys(f"  {line}" for figures in results for line in text_lines(figures.get("texts")))
    return "\n".join(lines)

"""The tables that follow from ranks: cells, means, bias, consistency."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.data.language_facts import LANGUAGES
from hbt_dist.evaluation.bias import ranking_consistency
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.pair_matrix import chance_means
from hbt_dist.evaluation.plan import plan_scoring
from hbt_dist.evaluation.results import groups, results_document, summary
from hbt_dist.evaluation.settings import EvaluationSettings
from tests.helpers.language_subset import select_languages

SETTINGS = EvaluationSettings(device="cpu", consistency_questions=5)
MADE = ("fingerprint", "grades")  # of the other fields, where they are left out

MLQA_R = {
    "ar": [517, 207, 517, 161, 186, 163, 188],
    "de": [207, 512, 512, 196, 163, 182, 190],
    "en": [517, 512, 1148, 500, 507, 511, 504],
    "es": [161, 196, 500, 500, 187, 189, 161],
    "hi": [186, 163, 507, 187, 507, 177, 189],
    "vi": [163, 182, 511, 189, 177, 511, 184],
    "zh": [188, 190, 504, 161, 189, 184, 504],
}


@pytest.fixture(scope="module")
def scored(make_benchmark, make_embeddings):
    benchmark = make_benchmark(seed=1, num_ids=30, per_language=50, missing=0.3)
    questions = make_embeddings("random", benchmark.num_questions, 1)
    candidates = make_embeddings("random", benchmark.num_candidates, 2)
    return (
        evaluate(benchmark, questions, candidates, settings=SETTINGS, seen_languages=["en"]),
        questions,
        candidates,
    )


def one_hot(benchmark):
    """Embeddings with which every question finds exactly its relevant candidates, in candidate order."""
    candidates = np.eye(benchmark.num_candidates, dtype=np.float32)
    questions = np.zeros((benchmark.num_questions, benchmark.num_candidates), np.float32)
    for row in range(benchmark.num_questions):
        questions[row, benchmark.relevant_of(row)] = 1.0
    return questions, candidates


def test_perfect_ranking(make_benchmark):
    benchmark = make_benchmark(num_ids=10, per_language=40)
    evaluation = evaluate(benchmark, *one_hot(benchmark), settings=SETTINGS)
    for setting in ("monolingual", "crosslingual", "multilingual", "one_target"):
        for kind in ("macro", "micro"):
            assert evaluation.means[setting][kind]["map"] == 1.0
            assert evaluation.means[setting][kind]["ndcg@10"] == pytest.approx(1.0, abs=1e-15)
    assert evaluation.bias["rank_distance"]["macro"] == len(benchmark.languages) - 1
    assert evaluation.bias["max_at_r"]["median"] == len(benchmark.languages)
    assert evaluation.bias["complete@10"]["macro"] == 1.0
    assert evaluation.bias["language_preference_neutral"]["macro"] == pytest.approx(1 / 3)
    # Ties go to the larger id, and ids begin with the language: `zh` comes first for everybody.
    preference = evaluation.bias["language_preference_rate"]["by_language"]
    assert preference == {"en": 0.0, "fi": 0.0, "zh": 1.0}


def question_keys(benchmark):
    languages = [benchmark.languages[i] for i in benchmark.question_language]
    return list(zip(benchmark.question_ids, languages, strict=True))


def test_cells_are_those_of_separate_runs(scored):
    """A cell equals the monolingual result of a run that knows nothing but that pair of languages."""
    evaluation, questions, candidates = scored
    benchmark = evaluation.benchmark
    question_row = {key: row for row, key in enumerate(question_keys(benchmark))}
    for i, asked in enumerate(benchmark.languages):
        for j, target in enumerate(benchmark.languages):
            part = select_languages(benchmark, tuple(dict.fromkeys([asked, target])))
            rows = [question_row[key] for key in question_keys(part)]
            columns = [benchmark.candidate_ids.index(one) for one in part.candidate_ids]
            alone = evaluate(part, questions[rows], candidates[columns], settings=SETTINGS)
            a, b = part.languages.index(asked), part.languages.index(target)
            for metric, values in evaluation.pair_matrix.values.items():
                assert values[i, j] == pytest.approx(alone.pair_matrix.values[metric][a, b], abs=1e-12)


def test_macro_and_micro_means(scored):
    evaluation, _, _ = scored
    benchmark, table = evaluation.benchmark, evaluation.tables["multilingual"]
    by_language = [
        table.values["map"][benchmark.question_language[table.question] == i].mean() for i in range(3)
    ]
    means = evaluation.means["multilingual"]
    assert means["macro"]["map"] == pytest.approx(np.mean(by_language), abs=1e-15)
    assert means["micro"]["map"] == pytest.approx(table.values["map"].mean(), abs=1e-15)
    assert means["macro"]["map"] != means["micro"]["map"]
    cells = evaluation.pair_matrix.values["map"]
    off_diagonal = [cells[i, j] for i in range(3) for j in range(3) if i != j]
    assert evaluation.means["monolingual"]["macro"]["map"] == pytest.approx(np.diag(cells).mean(), abs=1e-15)
    assert evaluation.means["crosslingual"]["macro"]["map"] == pytest.approx(np.mean(off_diagonal), abs=1e-15)


def test_bias_measures_by_hand(scored):
    evaluation, questions, candidates = scored
    benchmark = evaluation.benchmark
    order = np.argsort(-(questions.astype(np.float64) @ candidates.T.astype(np.float64)), axis=1)
    place = np.argsort(order, axis=1) + 1
    for row in range(benchmark.num_questions):
        relevant = benchmark.relevant_of(row)
        ranks = place[row, relevant]
        language = benchmark.candidate_language[relevant]
        values = {name: column[row] for name, column in evaluation.question_bias.items()}
        asked = benchmark.question_language[row]
        share = np.mean(benchmark.candidate_language[order[row, :10]] == asked)
        pool = np.mean(benchmark.candidate_language == asked)
        assert values["same_language_share@10"] == pytest.approx(share - pool, abs=1e-12)
        if len(set(language)) == 1:
            assert np.isnan(values["rank_distance"])
            continue
        assert values["rank_distance"] == ranks.max() - ranks.min()
        assert values["rank_distance_share"] == (ranks.max() - ranks.min()) / (benchmark.num_candidates - 1)
        assert values["log_rank_distance"] == pytest.approx(np.log(ranks.max() / ranks.min()))
        assert values["max_at_r"] == ranks.max()
        assert values["language_preference_rate"] == (language[ranks.argmin()] == asked)


def test_ranking_consistency_is_spearmans(make_benchmark, make_embeddings):
    benchmark = make_benchmark(num_ids=4, per_language=60, languages=("en", "fi"))
    questions = make_embeddings("random", benchmark.num_questions, 1)
    candidates = make_embeddings("random", benchmark.num_candidates, 2)
    found = ranking_consistency(benchmark, plan_scoring(benchmark), questions, candidates, num_ids=None)
    scores = questions.astype(np.float64) @ candidates.T.astype(np.float64)
    want, want_top = [], []
    for i in range(4):
        a, b = scores[i], scores[i + 4]
        top = np.union1d(np.argsort(-a)[:100], np.argsort(-b)[:100])
        want.append(spearmanr(a, b).statistic)
        want_top.append(spearmanr(a[top], b[top]).statistic)
    assert found["mrc"] == pytest.approx(np.mean(want), abs=1e-12)
    assert found["mrc@100"] == pytest.approx(np.mean(want_top), abs=1e-12)
    assert found["num_question_ids"] == 4


def test_map_of_a_random_order(make_benchmark, make_embeddings):
    """Against the sum over ranks that defines it, question by question."""
    benchmark = make_benchmark(
        num_ids=9, per_language=20, missing=0.4, relevant_per_language=2, shuffled=True
    )
    questions, candidates = (
        make_embeddings("random", rows, seed)
        for seed, rows in enumerate((benchmark.num_questions, benchmark.num_candidates))
    )
    found = chance_means(benchmark, evaluate(benchmark, questions, candidates, settings=SETTINGS).tables)

    def expected(relevant: int, pool: int) -> float:
        total = sum((1 + (i - 1) * (relevant - 1) / (pool - 1)) / i for i in range(1, pool + 1))
        return total / pool

    language = np.asarray(benchmark.candidate_language)
    values: dict[str, dict[tuple[int, int], list[float]]] = {name: {} for name in found}
    for row, asked in enumerate(np.asarray(benchmark.question_language).tolist()):
        relevant = np.bincount(language[benchmark.relevant_of(row)], minlength=len(benchmark.languages))
        everything = expected(int(relevant.sum()), len(language))
        values["multilingual"].setdefault((asked, asked), []).append(everything)
        for target in np.flatnonzero(relevant).tolist():
            here = int(relevant[target])
            setting = "monolingual" if target == asked else "crosslingual"
            alone = expected(here, int((language == target).sum()))
            values[setting].setdefault((asked, target), []).append(alone)
            left = len(language) - int(relevant.sum()) + here
            values["one_target"].setdefault((asked, target), []).append(expected(here, left))
    for setting, cells in values.items():
        assert found[setting] == pytest.approx(np.mean([np.mean(one) for one in cells.values()]), rel=1e-12)


def test_results_document_and_summary(scored):
    evaluation, _, _ = scored
    document = results_document(evaluation)
    assert document["schema_version"] == 1
    assert document["by_language"]["fi"]["family"] == "Uralic"
    assert document["by_language"]["en"]["seen"] is True
    seen = groups(evaluation)["seen"]
    assert seen["unseen"]["languages"] == ["fi", "zh"]
    cells = evaluation.pair_matrix.values["map"]
    assert document["groups"]["crosslingual"]["seen_to_unseen"]["map"] == pytest.approx(cells[0, 1:].mean())
    assert document["groups"]["crosslingual"]["unseen_to_unseen"]["num_pairs"] == 2
    gap = np.array(document["pool_gap"])
    assert (gap >= -1e-12).all()
    text = summary(evaluation)
    for words in ("monolingual", "crosslingual", "multilingual", "rank distance", "not seen (fi, zh)"):
        assert words in text


def test_monolingual_relevance_only(make_benchmark, make_embeddings):
    """A benchmark whose questions have answers in their own language only: empty cells, no bias."""
    whole = make_benchmark(num_ids=9, per_language=20, missing=0.5)
    own = [
        whole.relevant_of(q)[whole.candidate_language[whole.relevant_of(q)] == whole.question_language[q]]
        for q in range(whole.num_questions)
    ]
    fields = {k: getattr(whole, k) for k in whole.__dataclass_fields__ if k not in MADE}
    fields["relevant"] = np.concatenate(own)
    fields["relevant_offsets"] = np.concatenate([[0], np.cumsum([len(r) for r in own])])
    benchmark = type(whole)(**fields)
    questions = make_embeddings("random", benchmark.num_questions, 1)
    candidates = make_embeddings("random", benchmark.num_candidates, 2)
    evaluation = evaluate(benchmark, questions, candidates, settings=SETTINGS)
    document = results_document(evaluation)
    assert document["pair_matrix"]["metrics"]["map"][0][1] is None
    assert document["means"]["crosslingual"]["macro"]["map"] is None
    assert "rank_distance" not in document["bias"]
    assert "crosslingual" not in summary(evaluation)


def test_language_table():
    assert len(LANGUAGES) >= 60
    assert {row.family for row in LANGUAGES.values()} >= {"Indo-European", "Uralic", "Turkic", "Dravidian"}
    assert (LANGUAGES["ar"].iso639_3, LANGUAGES["zh"].iso639_3, LANGUAGES["sw"].iso639_3) == (
        "arb",
        "cmn",
        "swh",
    )
    assert LANGUAGES["th"].script == "Thai"


def test_mlqa_r_denominators(shared_data):
    benchmark = load_benchmark("mlqa-r", shared_data / "mlqa-r", variant="sentence")
    rng = np.random.default_rng(0)
    questions = rng.standard_normal((benchmark.num_questions, 8), dtype=np.float32)
    candidates = rng.standard_normal((benchmark.num_candidates, 8), dtype=np.float32)
    settings = EvaluationSettings(device="cpu", consistency_questions=0, top_k=0)
    evaluation = evaluate(benchmark, questions, candidates, settings=settings)
    found = dict(zip(benchmark.languages, evaluation.pair_matrix.num_questions.tolist(), strict=True))
    assert sorted(benchmark.languages) == list(MLQA_R)
    order = [benchmark.languages.index(code) for code in MLQA_R]
    assert {code: [found[code][i] for i in order] for code in MLQA_R} == MLQA_R
    assert evaluation.means["multilingual"]["macro"] != evaluation.means["multilingual"]["micro"]

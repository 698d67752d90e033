"""Comparing folders, and the published tables."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.cells import cell_len

from hbt_dist.common.errors import UserError
from hbt_dist.common.numbers import digits_of, signed, span
from hbt_dist.comparison.compare import (
    MEASURES,
    _short_names,
    compare,
    measures_of,
    write_comparison,
)
from hbt_dist.comparison.published import KEYS, published_means, published_table
from hbt_dist.comparison.published import LANGUAGES as PUBLISHED
from hbt_dist.comparison.significance import compare_paired, holm, step_down_by_column
from hbt_dist.comparison.text import comparison_text
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.read_results import SETTINGS
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.writing import write_evaluation
from hbt_dist.reports.evaluation.page import write_report
from tests.evaluation.test_read_results import measured, monolingual_benchmark

SUMMARIES = ("mean", "median", "all")

LANGUAGES = ("en", "es", "fi", "et", "hi", "zh")
MIRACL = tuple(sorted(PUBLISHED["miracl-dev"]))


@pytest.fixture(scope="module")
def folders(make_benchmark, tmp_path_factory):
    """Evaluations of embeddings with more and less noise, two seeds each."""
    root = tmp_path_factory.mktemp("evaluations")
    benchmark = make_benchmark(seed=9, languages=LANGUAGES, num_ids=25, per_language=40)
    settings = EvaluationSettings(device="cpu", consistency_questions=0, top_k=10)
    made = {}
    for name, noise in (("plain", 3.0), ("better", 1.5)):
        for seed in (0, 1):
            rng = np.random.default_rng(seed)
            candidates = rng.standard_normal((benchmark.num_candidates, 16))
            questions = np.stack(
                [candidates[benchmark.relevant_of(q)].mean(0) for q in range(benchmark.num_questions)]
            )
            questions += noise * 0.3 * rng.standard_normal(questions.shape)
            evaluation = evaluate(benchmark, questions, candidates, settings=settings)
            made[name, seed] = write_evaluation(evaluation, root / f"{name}-{seed}")
    return made


def test_so_few_questions_allow_no_claim(make_benchmark, tmp_path):
    """Three questions: with the correction, p cannot be below 0.05, however large the change is."""
    benchmark = make_benchmark(seed=9, languages=("en", "fi"), num_ids=3, per_language=5)
    settings = EvaluationSettings(device="cpu", consistency_questions=0, top_k=10)
    candidates = np.eye(benchmark.num_candidates)
    right = np.stack([candidates[benchmark.relevant_of(q)].mean(0) for q in range(benchmark.num_questions)])
    old, new = (
        write_evaluation(evaluate(benchmark, vectors, candidates, settings=settings), tmp_path / name)
        for name, vectors in (("old", -right), ("new", right))
    )
    document = compare([[new]], [old])
    assert "no change of any size can be claimed: 3 questions are too few for 4 tests" in comparison_text(
        document
    )
    text = write_report(new, old, tmp_path / "out").with_suffix(".md").read_text("utf-8")
    assert "there are too few questions for a claim about answers in another language: mAP 0." in text
    assert document["tests"][1]["difference"] > 0.5


def test_a_better_system_is_found_better(folders, tmp_path):
    document = compare([[folders["better", 0]]], baseline=[folders["plain", 0]])
    tests = {(row["setting"], row["metric"]): row for row in document["tests"]}
    assert len(tests) == 4
    for setting in ("monolingual", "crosslingual", "multilingual"):
        row = tests[setting, "map"]
        stored = [
            json.loads((folders[name, 0] / "results.json").read_text())["means"][setting]["macro"]["map"]
            for name in ("plain", "better")
        ]
        assert [row["macro_baseline"], row["macro_system"]] == stored
        assert row["num_units"] == 25
        recorded = json.loads((folders["plain", 0] / "results.json").read_text())["chance"]
        assert row["chance"] == pytest.approx(recorded[setting], rel=1e-12)
        assert row["difference"] == pytest.approx(
            stored[1] - stored[0], abs=1e-9
        )  # all cells hold all questions
        assert 0 < row["low"] < row["difference"] < row["high"]
        assert row["p_randomisation"] <= row["p_holm"] < 0.05
    assert tests["multilingual", "rank_distance"]["difference"] < 0
    text = comparison_text(document)
    lines = text.splitlines()
    assert lines[2].split()[:3] == ["plain-0", "better-0", "change"]
    assert [line.split()[:2] for line in lines[3:6]] == [[setting, "mAP"] for setting in SETTINGS]
    assert len({cell_len(line) for line in lines[2:7]}) == 1
    [refused] = [line for line in lines if line.startswith("no claim")]
    assert "Uralic minus Indo-European: too few languages: 3 against 2, p cannot fall below 0.200" in refused
    assert "syntax" in text
    row = lines.index(next(line for line in lines if line.startswith("change of mAP, * p <0.05"))) + 2
    changes, p = document["cell_gain"]["better-0"], document["cell_p"]["better-0"]
    for i, code in enumerate(LANGUAGES):
        stars = ["*" * (p[i][j] < 0.05) for j in range(len(LANGUAGES))]
        shown = [f"{change:+.3f}{star}" for change, star in zip(changes[i], stars, strict=True)]
        assert lines[row + i].split() == [code, *shown]
    assert document["pairs"]["languages"] == list(LANGUAGES)
    gain = np.subtract(document["pairs"]["map"]["better-0"], document["pairs"]["map"]["plain-0"])
    assert np.array_equal(gain, changes)
    out = write_comparison(document, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {"comparison.json", "comparison.csv", "comparison.txt"}
    assert json.loads((out / "comparison.json").read_text())["tests"][0]["system"] == "better-0"
    assert len((out / "comparison.csv").read_text().splitlines()) == 5


def test_a_change_stands_beside_its_own_interval(folders):
    """Means over cells and over questions differ where cells have different numbers of questions."""
    document = compare([[folders["better", 0]]], [folders["plain", 0]])
    text = comparison_text(document)
    for row in document["tests"]:
        assert row["low"] <= row["difference"] <= row["high"]
        digits = digits_of(row["metric"])
        change, interval = signed(row["difference"], digits), span(row["low"], row["high"], digits)
        assert re.search(f"{re.escape(change)} +{re.escape(interval)}", text)


def test_cells_are_tested_on_their_questions(folders):
    """Corrected for all cells, and never below the paired test of a cell's questions alone."""
    document = compare([[folders["better", 0]]], baseline=[folders["plain", 0]])
    found = np.array(document["cell_p"]["better-0"])
    old, new = (
        pd.read_parquet(folders[name, 0] / "per_question.parquet").query("setting == 'pair'")
        for name in ("plain", "better")
    )
    columns = []
    for asked in LANGUAGES:
        for target in LANGUAGES:
            values = [
                frame[(frame.question_language == asked) & (frame.candidate_language == target)]
                .set_index("question_id")["map"]
                .sort_index()
                for frame in (old, new)
            ]
            columns.append((values[1] - values[0]).to_numpy())
    wanted = step_down_by_column(np.stack(columns, axis=1), seed=1).reshape(found.shape)
    np.testing.assert_allclose(found, wanted, atol=0.02)
    alone = [compare_paired(np.zeros(len(column)), column).p_randomisation for column in columns]
    assert np.all(found >= np.reshape(alone, found.shape) - 0.005)
    assert 0 < np.sum(found < 0.05) < found.size


def test_a_system_does_not_differ_from_itself(folders):
    document = compare([[folders["plain", 0]]], baseline=[folders["plain", 0]], names=["a", "b"])
    assert np.all(np.array(document["cell_p"]["b"]) == 1.0)
    assert all(row["difference"] == 0.0 and row["p_holm"] == 1.0 for row in document["tests"])


def test_seeds_and_paragraphs(folders):
    plain, better = ([folders[name, seed] for seed in (0, 1)] for name in ("plain", "better"))
    document = compare([better], baseline=plain, cluster="paragraph", names=["plain", "better"])
    for row in document["tests"]:
        assert row["num_units"] == 9
        seeds = row["seeds"]
        assert seeds["low"] < seeds["difference"] < seeds["high"]
        assert seeds["difference"] == pytest.approx(row["difference"])
        assert row["difference"] == pytest.approx(row["macro_system"] - row["macro_baseline"])
        assert seeds["p_holm"] >= seeds["p"]


def test_seeds_are_paired_by_name_where_they_have_one(folders):
    plain, better = ([folders[name, seed] for seed in (0, 1)] for name in ("plain", "better"))
    swapped = compare([better[::-1]], plain, seeds=[["0", "1"], ["1", "0"]], names=["a", "b"])
    straight = compare([better], plain, names=["a", "b"])
    assert swapped["tests"] == straight["tests"]
    one = compare([better], plain[:1], seeds=[["0"], ["0", "1"]], names=["a", "b"])
    assert one["tests"] == compare([better[:1]], plain[:1], names=["a", "b"])["tests"]
    with pytest.raises(UserError, match="no seed of the baseline"):
        compare([better[:1]], plain[:1], seeds=[["0"], ["1"]])
    with pytest.raises(UserError, match="same order"):
        compare([[*better, better[0]]], plain)


def test_no_folder_is_refused(folders):
    with pytest.raises(UserError, match="baseline: names no folder"):
        compare([[folders["plain", 0]]], baseline=[])
    with pytest.raises(UserError, match="system 2: names no folder"):
        compare([[folders["plain", 0]], []], baseline=[folders["plain", 0]])


def test_a_question_that_finds_itself_is_not_tested(folders, make_benchmark, tmp_path):
    benchmark = replace(make_benchmark(seed=3, num_ids=30), question_text_relevant=True, fingerprint="")
    made = []
    for noise in (2.0, 1.0):
        rng = np.random.default_rng(0)
        candidates = rng.standard_normal((benchmark.num_candidates, 16))
        wanted = np.stack(
            [candidates[benchmark.relevant_of(q)].mean(0) for q in range(benchmark.num_questions)]
        )
        questions = wanted + noise * 0.3 * rng.standard_normal(wanted.shape)
        settings = EvaluationSettings(device="cpu", consistency_questions=0, top_k=10)
        made.append(
            write_evaluation(
                evaluate(benchmark, questions, candidates, settings=settings), tmp_path / f"{noise}"
            )
        )
    document = compare([made[1:]], made[:1], names=["a", "b"])
    assert document["benchmark"]["own_text_relevant"]
    rows = {(row["setting"], row["metric"]): row for row in document["tests"]}
    assert rows["monolingual", "map"]["trivial"]
    assert rows["monolingual", "map"]["p_holm"] is None
    real = [row for row in document["tests"] if not row["trivial"]]
    assert [row["p_holm"] for row in real] == holm([row["p_randomisation"] for row in real])
    assert np.isnan(np.diag(np.array(document["cell_p"]["b"], float))).all()
    assert "trivial" in comparison_text(document)
    write_comparison(document, tmp_path / "out")


SEVEN = ("ar", "en", "es", "fi", "hi", "sw", "zh")


def test_measures_are_those_that_the_field_reports():
    assert measures_of("xquad-r") == MEASURES
    assert measures_of("miracl")[:2] == (("monolingual", "ndcg@10"), ("monolingual", "recall@100"))
    published = published_means("miracl", "dev", MIRACL)
    assert {"ndcg@10", "recall@100"} <= set(published.metric)


@pytest.mark.parametrize("languages", [("en", "fi"), SEVEN, MIRACL])
def test_a_monolingual_benchmark_is_compared(tmp_path, languages):
    """Also where there are languages enough for a test of distances, and no pair of them."""
    benchmark = replace(
        monolingual_benchmark(tmp_path / "data", languages), name="miracl", variant="dev", fingerprint=""
    )
    made = [measured(benchmark, tmp_path / f"{noise}", 0, noise) for noise in (2.0, 0.1)]
    document = compare([made[1:]], made[:1], names=["a", "b"])
    assert [(row["setting"], row["metric"]) for row in document["tests"]] == [
        ("monolingual", "ndcg@10"),
        ("monolingual", "recall@100"),
        ("monolingual", "map"),
        ("multilingual", "map"),
    ]
    assert document["typology"]["b"]["families"] == []
    text = comparison_text(document)
    assert ("0.4148" in text) == (languages == MIRACL)  # of the paper, nDCG@10 of XLM-R, mean over its 15
    assert "*" not in text.partition("published")[2]
    for effect in document["typology"]["b"]["distances"]:
        assert effect["verdict"] == "no question has a relevant candidate in another language"
        assert effect["num_pairs"] == effect["num_permutations"] == 0
    write_comparison(document, tmp_path / "out")
    page = write_report(made[1], made[0], tmp_path / "report")
    for report in (write_report(made[1]), page):
        text = report.with_suffix(".md").read_text("utf-8")
        assert "No effect: no question has a relevant candidate in another language." in text
        assert "one language only" not in text
        assert ("Compared with 2.0" in text) == (report == page)


def test_other_benchmarks_and_other_folders_are_refused(folders, make_benchmark, make_embeddings, tmp_path):
    benchmark = make_benchmark(seed=10)
    evaluation = evaluate(
        benchmark,
        make_embeddings("random", benchmark.num_questions, 0),
        make_embeddings("random", benchmark.num_candidates, 1),
        settings=EvaluationSettings(device="cpu", consistency_questions=0),
    )
    other = write_evaluation(evaluation, tmp_path / "other")
    with pytest.raises(UserError, match="same version"):
        compare([[other]], baseline=[folders["plain", 0]])
    with pytest.raises(UserError, match="not an evaluation folder"):
        compare([[tmp_path]], baseline=[other])
    document = json.loads((other / "results.json").read_text())
    (other / "results.json").write_text(json.dumps({**document, "schema_version": 99}))
    with pytest.raises(UserError, match="schema"):
        compare([[other]], baseline=[folders["plain", 0]])


@pytest.mark.parametrize(
    ("name", "groups"),
    [("hybrid_batch_xquad_r", 42), ("hybrid_batch_mlqa_r", 42), ("hybrid_batch_miracl", 12)],
)
def test_published_tables_reproduce_their_means(name, groups):
    """To the rounding of the printed figures: values and means have the same number of decimals."""
    table = published_table(name)
    printed = table[table.language == "mean"].set_index(KEYS)["value"]
    recomputed = table[~table.language.isin(SUMMARIES)].groupby(KEYS)["value"].mean()
    both = recomputed.index.intersection(printed.index)
    assert len(both) == groups
    for key in both:
        tolerance = 0.101 if "rank_distance" in key else 1.01e-4
        assert abs(recomputed[key] - printed[key]) < tolerance, key


def test_published_tables_say_their_languages():
    for name, benchmark in (
        ("hybrid_batch_xquad_r", "xquad-r"),
        ("hybrid_batch_mlqa_r", "mlqa-r"),
        ("hybrid_batch_miracl", "miracl-dev"),
    ):
        table = published_table(name)
        assert set(table.language) - set(SUMMARIES) == PUBLISHED[benchmark]
        assert set(table.benchmark) == {benchmark}
    assert set(published_table("lareqa_baselines").benchmark) <= set(PUBLISHED)


@pytest.mark.parametrize("benchmark", ["xquad-r", "mlqa-r"])
def test_published_figures_are_of_the_same_candidates(make_benchmark, benchmark, tmp_path):
    """LAReQA's are of sentence and paragraph, the hybrid paper doesn't say; fewer languages are easier."""

    def told(variant, languages):
        made = make_benchmark(languages=languages, num_ids=3, per_language=4)
        made = replace(made, name=benchmark, variant=variant, fingerprint="")
        out = measured(made, tmp_path / f"{variant}-{len(languages)}", 0, 1.0)
        return comparison_text(compare([[out]], [out], names=["a", "b"])).partition("published")[2]

    languages = tuple(sorted(PUBLISHED[benchmark]))
    alone, with_context = told("sentence", languages), told("sentence+context", languages)
    assert "mBERT X-Y" not in alone
    assert "mBERT X-Y" in with_context
    for text in (alone, with_context):
        paper = [line for line in text.splitlines() if "XLM-R" in line]
        assert paper
        assert all(line.endswith("*") for line in paper)
        assert "* the paper does not say whether candidates are sentences alone or with paragraphs" in text
    assert not any(line.endswith("*") for line in with_context.splitlines() if "mBERT" in line)
    for fewer in (languages[:3], languages[1:]):
        assert told("sentence+context", fewer) == ""


def test_published_figures_beside_ours():
    table = published_means("xquad-r", "sentence", PUBLISHED["xquad-r"])
    hybrid = table[(table.model == "XLM-R") & (table.sampling == "hybrid") & (table.metric == "map")]
    assert hybrid.set_index("setting").value.round(3).to_dict() == {
        "monolingual": 0.798,
        "crosslingual": 0.705,
        "multilingual": 0.593,
    }
    assert "lareqa" not in set(table.benchmark)
    assert published_means("none", "dev", ["en"]).empty


def test_names_are_as_long_as_it_takes_to_differ() -> None:
    folders = [Path("/runs/a/end/sample"), Path("/runs/b/end/sample")]
    assert _short_names(folders) == ["a", "b"]
    run = Path("/runs/mine/evaluation")
    assert _short_names([run / "start/sample", run / "end/sample"]) == ["mine (start)", "mine"]
    assert _short_names([Path("/x/before"), run / "end/sample"]) == ["before", "mine"]
    runs = [Path(f"/{name}/alpha/evaluation/end/sample") for name in "ab"]
    assert _short_names(runs) == ["a", "b"]
    assert _short_names([Path("/x/one"), Path("/x/two")]) == ["one", "two"]
    assert len(set(_short_names([Path("/x/one")] * 2))) == 2

"""The folder of an evaluation: complete or absent, in full precision, readable by other tools."""

from __future__ import annotations

import csv
import gzip
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import pytrec_eval

from hbt_dist.common.errors import UserError
from hbt_dist.evaluation import writing
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.metrics import METRICS
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.writing import write_evaluation


@pytest.fixture(scope="module")
def evaluation(make_benchmark, make_embeddings):
    benchmark = make_benchmark(seed=2, num_ids=12, per_language=60, grades=(1, 2, 3))
    questions = make_embeddings("duplicates", benchmark.num_questions, 1)
    candidates = make_embeddings("duplicates", benchmark.num_candidates, 2)
    settings = EvaluationSettings(device="cpu", consistency_questions=2, top_k=100)
    return evaluate(benchmark, questions, candidates, settings=settings)


def test_files_and_precision(evaluation, tmp_path):
    out = write_evaluation(evaluation, tmp_path / "new" / "out")
    names = {path.name for path in out.iterdir()}
    assert names == {
        "results.json",
        "pair_matrix.csv",
        "one_target_matrix.csv",
        "mteb.json",
        "per_question.parquet",
    }
    with (out / "pair_matrix.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["question_language", "en", "fi", "zh"]
    assert [row[0] for row in rows] == ["en", "fi", "zh"]
    values = np.array([[float(value) for value in row[1:]] for row in rows])
    np.testing.assert_array_equal(values, evaluation.pair_matrix.values["map"])
    document = json.loads((out / "results.json").read_text())
    np.testing.assert_array_equal(document["pair_matrix"]["metrics"]["map"], values)
    mteb = json.loads((out / "mteb.json").read_text())
    assert len(mteb["scores"]["test"]) == 10
    assert mteb["scores"]["test"][1]["main_score"] == values[0, 1]
    assert list((tmp_path / "new").iterdir()) == [out]


def test_per_question_values(evaluation, tmp_path):
    frame = pq.read_table(write_evaluation(evaluation, tmp_path / "out") / "per_question.parquet").to_pandas()
    pair = frame[frame.setting == "pair"]
    cells = pair.groupby(["question_language", "candidate_language"], observed=True)["map"].mean()
    languages = evaluation.benchmark.languages
    for i, asked in enumerate(languages):
        for j, target in enumerate(languages):
            assert cells[asked, target] == pytest.approx(
                evaluation.pair_matrix.values["map"][i, j], abs=1e-15
            )
    pooled = frame[frame.setting == "multilingual"]
    assert pooled.candidate_language.isna().all()
    assert pooled.rank_distance.mean() == pytest.approx(evaluation.bias["rank_distance"]["micro"])
    assert set(METRICS) <= set(frame.columns)
    assert pooled.question_id.nunique() == 12


def test_trec_files_give_the_same_figures(evaluation, tmp_path):
    out = write_evaluation(evaluation, tmp_path / "out", trec=True)
    with gzip.open(out / "qrels.gz", "rt") as file:
        qrels = pytrec_eval.parse_qrel(file)
    with gzip.open(out / "top.run.gz", "rt") as file:
        run = pytrec_eval.parse_run(file)
    found = pytrec_eval.RelevanceEvaluator(qrels, {"recall_100", "ndcg_cut_10"}).evaluate(run)
    means = evaluation.means["multilingual"]["micro"]
    assert np.mean([q["recall_100"] for q in found.values()]) == pytest.approx(means["recall@100"], abs=1e-12)
    assert np.mean([q["ndcg_cut_10"] for q in found.values()]) == pytest.approx(means["ndcg@10"], abs=1e-12)


def test_replaces_an_evaluation_and_nothing_else(evaluation, tmp_path):
    out = write_evaluation(evaluation, tmp_path / "out", trec=True)
    write_evaluation(evaluation, out)
    assert not (out / "qrels.gz").exists()
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "chapter1.tex").write_text("x")
    with pytest.raises(UserError, match="expected an older evaluation"):
        write_evaluation(evaluation, foreign)
    assert (foreign / "chapter1.tex").read_text() == "x"
    with pytest.raises(UserError, match="expected an older evaluation"):
        write_evaluation(evaluation, foreign / "chapter1.tex")


def test_nothing_half_written(evaluation, tmp_path, monkeypatch):
    out = write_evaluation(evaluation, tmp_path / "out")
    before = (out / "results.json").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(writing, "mteb_document", fail)
    for target in (out, tmp_path / "fresh"):
        with pytest.raises(UserError, match="disk full"):
            write_evaluation(evaluation, target)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "results.json").read_bytes() == before


def test_further_files_appear_with_the_folder(evaluation, tmp_path):
    def add_note(folder):
        (folder / "note.txt").write_text(str(sorted(path.name for path in folder.iterdir())))
        assert not (tmp_path / "out").exists()

    out = write_evaluation(evaluation, tmp_path / "out", add_files=add_note)
    assert "results.json" in (out / "note.txt").read_text()

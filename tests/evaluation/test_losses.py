"""What the folder and the page of an evaluation hold about cut and quantised embeddings."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hbt_dist.cli.main import main
from hbt_dist.comparison.significance import step_down_by_column
from hbt_dist.evaluation.evaluation import Evaluation, evaluate
from hbt_dist.evaluation.losses import scored_forms
from hbt_dist.evaluation.read_results import read_evaluation, read_results
from hbt_dist.evaluation.results import results_document, summary
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.writing import write_evaluation
from hbt_dist.models.loading import load_encoder
from hbt_dist.reports.evaluation.page import write_report

SETTINGS = EvaluationSettings(
    device="cpu", widths=(8, "8:int8"), precisions=("binary",), consistency_questions=0
)


@pytest.fixture(scope="module")
def evaluation(make_benchmark, make_embeddings) -> Evaluation:
    benchmark = make_benchmark(num_ids=30, per_language=100, missing=0.2)
    rng = np.random.default_rng(0)
    candidates = make_embeddings("random", benchmark.num_candidates, 2)
    relevant = [benchmark.relevant_of(row)[0] for row in range(benchmark.num_questions)]
    questions = candidates[relevant] + rng.standard_normal((len(relevant), candidates.shape[1]))
    sides = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (questions, candidates))
    return evaluate(benchmark, *sides, settings=SETTINGS)


@pytest.fixture(scope="module")
def folder(evaluation: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "out"
    return write_evaluation(evaluation, out, add_files=write_report, test_losses=step_down_by_column)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "representations.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_every_cell_with_its_loss(evaluation: Evaluation, folder: Path) -> None:
    rows, languages = rows_of(folder), evaluation.benchmark.languages
    assert len(rows) == 4 * (len(languages) ** 2 + len(languages))
    cells = {
        (row["representation"], row["question_language"], row["candidate_language"]): row for row in rows
    }
    full = evaluation.pair_matrix
    for item, scored in scored_forms(evaluation).items():
        for i, asked in enumerate(languages):
            for j, target in enumerate(languages):
                row, value = cells[item.name, asked, target], scored.pair_matrix.values["map"][i, j]
                assert float(row["map"]) == value
                assert int(row["num_questions"]) == full.num_questions[i, j]
                assert int(row["bytes_per_vector"]) == item.bytes_per_vector
                if item.name == "full":
                    assert (row["loss"], row["p"]) == ("", "")
                else:
                    assert float(row["loss"]) == full.values["map"][i, j] - value
                    assert 0 < float(row["p"]) <= 1
            table = scored.tables["multilingual"]
            asking = np.asarray(evaluation.benchmark.question_language)[table.question] == i
            assert float(cells[item.name, asked, ""]["map"]) == pytest.approx(
                table.values["map"][asking].mean()
            )


def test_p_is_that_of_the_paired_test_over_question_ids(evaluation: Evaluation, folder: Path) -> None:
    """A single cell's own randomisation: the correction for 12 rows can only raise its p."""
    seen = [row for row in rows_of(folder) if row["representation"] == "8" and row["candidate_language"]]
    stored = read_evaluation(folder).values("pair", "map")
    cut = read_evaluation(folder / "representations" / "8").values("pair", "map")
    keys = ["question_id", "question_language", "candidate_language"]
    joined = stored.merge(cut, on=keys, suffixes=("", "_cut"))
    for row in seen:
        cell = joined[
            (joined.question_language == row["question_language"])
            & (joined.candidate_language == row["candidate_language"])
        ]
        loss = (cell["value"] - cell["value_cut"]).to_numpy()
        assert float(row["loss"]) == pytest.approx(loss.mean())
        assert float(row["p"]) >= step_down_by_column(loss[:, None])[0] - 0.02
    assert min(float(row["p"]) for row in seen) < 0.05


def test_each_representation_is_an_evaluation(evaluation: Evaluation, folder: Path) -> None:
    block = read_results(folder)["representations"]
    assert list(block) == ["full", "8", "8:int8", "binary"]
    assert block["full"]["bytes_per_vector"] == 96
    assert block["full"]["folder"] == "."
    for item, scored in evaluation.representations.items():
        results = read_results(folder / block[item.name]["folder"])
        assert results["pair_matrix"]["metrics"]["map"] == scored.pair_matrix.values["map"].tolist()
        assert results["bias"]["rank_distance"]["macro"] == block[item.name]["rank_distance"]
        assert results["provenance"]["representation"]["name"] == item.name
        assert "representations" not in results
        losses = evaluation.pair_matrix.values["map"] - scored.pair_matrix.values["map"]
        expected = (losses[0].sum() + losses[1:, 0].sum()) / (2 * len(losses) - 1)
        assert block[item.name]["loss_by_language"]["en"] == pytest.approx(expected)


def test_terminal_and_page_have_a_line_for_each(evaluation: Evaluation, folder: Path) -> None:
    lines = [line.split() for line in summary(evaluation).splitlines()]
    for item, scored in scored_forms(evaluation).items():
        [line] = [line for line in lines if line[:1] == [item.name]]
        assert line[1] == str(item.bytes_per_vector)
        assert line[2] == f"{scored.means['monolingual']['macro']['map']:.3f}"
    page = (folder / "report.md").read_text("utf-8")
    assert "## Short vectors" in page
    assert "| 8:int8 | 8 |" in page


def test_an_evaluation_without_representations_is_as_before(evaluation: Evaluation, tmp_path: Path) -> None:
    plain = evaluate(
        evaluation.benchmark,
        np.eye(evaluation.benchmark.num_questions, 24) + 0.1,
        np.eye(evaluation.benchmark.num_candidates, 24) + 0.1,
        settings=EvaluationSettings(device="cpu", consistency_questions=0),
    )
    assert "representations" not in results_document(plain)
    assert "representation" not in summary(plain)
    out = write_evaluation(plain, tmp_path / "out", add_files=write_report)
    assert not list(out.glob("representations*"))
    assert "Short vectors" not in (out / "report.md").read_text("utf-8")


def test_the_command_scores_what_its_options_name(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*options: str) -> Any:
        arguments = ["--model", tiny_model, "--benchmark", "sample", "--languages", "en,fi"]
        words = ["evaluate", *arguments, "--output", tmp_path / "out", "--set", "device=cpu", *options]
        monkeypatch.setattr("sys.argv", ["hbt-dist", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    width = load_encoder(tiny_model).encoder.width
    for options, said in (
        (["--widths", f"4,{width + 1}"], f"expected widths of at most {width}, the model's, got {width + 1}"),
        (["--widths", "0"], "0: must be a whole number above 0"),
        (["--widths", "half"], "'half': must be a whole number above 0"),
        (["--precisions", "int4"], "'int4': must be 'float32', 'int8' or 'binary'"),
        (
            ["--widths", "4", "--expansions", "absent.jsonl", "--combine", "rrf"],
            "--widths, --precisions: expected one ranking for each question, got --combine rrf",
        ),
    ):
        code, captured = command(*options)
        assert code == 2
        assert said in captured.err
        assert not (tmp_path / "out").exists()
    code, captured = command("--widths", f"{width},8,8:int8", "--precisions", "binary")
    assert code == 0, captured.err
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())["representations"]) == [
        "full",
        "8",
        "8:int8",
        "binary",
    ]
    assert min(float(row["p"]) for row in rows_of(tmp_path / "out") if row["p"]) <= 1

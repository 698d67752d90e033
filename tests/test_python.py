"""Drive the package from Python: runs from dicts, rows in memory, one call to train, one to evaluate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import polars
import pytest
import torch

import hbt_dist
from hbt_dist.data.corpus.in_memory import stored_rows
from hbt_dist.run_file import RunFile, load_run
from hbt_dist.training.follow import Listener
from hbt_dist.training.run_folder import RunFolder

ROWS: list[dict[str, Any]] = [
    {
        "question": {"en": f"Where is {i}?", "fi": f"Missä on {i}?"},
        "passage": {"en": f"{i} is here.", "fi": f"Se {i}."},
    }
    for i in range(24)
]
LANGUAGES = ("en", "fi")


def settings(folder: Path, rows: Any = ROWS) -> dict[str, Any]:
    """A run of two steps from scratch, as a dict."""
    return {
        "name": "tiny",
        "output_dir": folder / "run",
        "data": {"sources": [{"name": "mine", "rows": rows}], "cache_dir": folder / "cache"},
        "batches": {"global_batch_size": 4, "alpha": 0.5},
        "model": {
            "text": {"max_question_tokens": 128, "max_passage_tokens": 128},
            "scratch": {
                "vocabulary_size": 300,
                "architecture": {
                    "model_type": "bert",
                    "hidden_size": 16,
                    "num_hidden_layers": 1,
                    "num_attention_heads": 2,
                    "intermediate_size": 16,
                },
            },
        },
        "training": {"steps": 2},
        "evaluation": {"benchmarks": [{"name": "sample", "languages": LANGUAGES}]},
    }


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run trained with callbacks, and what was seen of it."""
    seen: list[tuple[int, float]] = []

    class Watcher(Listener):
        evaluations: list[tuple[str, str]] = []  # noqa: RUF012

        def evaluated(self, when: str, label: str, folder: Path, png: bytes) -> None:
            assert png.startswith(b"\x89PNG")
            self.evaluations.append((when, label))

        def validation(self, line: dict[str, Any]) -> None:
            raise AssertionError(line)

        def close(self) -> None:
            self.evaluations.append(("closed", ""))

    watcher = Watcher()

    def broken(step: int, figures: dict[str, Any]) -> None:
        raise RuntimeError("no")

    callbacks = [lambda step, figures: seen.append((step, figures["loss"])), watcher, broken]
    folder = tmp_path_factory.mktemp("python")
    result = hbt_dist.train(settings(folder), callbacks=callbacks, quiet=True)
    return result, seen, watcher.evaluations


@pytest.mark.slow
def test_training_calls_back_and_shows_what_it_reached(trained: Any) -> None:
    result, seen, evaluations = trained
    assert [step for step, _ in seen] == [1, 2]
    assert [loss for _, loss in seen] == list(result.figures["loss"])
    assert evaluations == [("start", "sample"), ("end", "sample"), ("closed", "")]
    assert (result.model / "model.safetensors").is_file()
    text = repr(result)
    assert text.startswith("trained 2 steps in ")
    assert "before training: sample" in text
    assert "after training: sample" in text
    assert len(text.splitlines()) < 15
    html = result._repr_html_()
    assert html.count("<table") == 2
    assert "model trained" in repr(result.folder)
    after = result.evaluation()
    assert list(after.pairs().columns) == ["en", "fi"]
    assert after.pairs().loc["en", "fi"] == after.cells()[0, 1]
    with pytest.raises(hbt_dist.UserError, match=r"is not part of the run\n +choose from: start, sample"):
        result.evaluation("middle")


@pytest.mark.slow
def test_a_process_trains_twice_with_the_same_digits(trained: Any, tmp_path: Path) -> None:
    again = hbt_dist.train(settings(tmp_path), overrides={"evaluation.when": []}, quiet=True)
    assert list(again.figures["loss"]) == list(trained[0].figures["loss"])


@pytest.mark.slow
def test_one_call_evaluates_a_folder_an_encoder_and_vectors(trained: Any, tmp_path: Path) -> None:
    result = trained[0]
    benchmark = hbt_dist.load_benchmark("sample", languages=LANGUAGES)
    given = {"name": "sample", "languages": list(LANGUAGES)}
    evaluation = hbt_dist.evaluate_model(result.model, given, output=tmp_path / "out", quiet=True)
    assert (tmp_path / "out" / "report.html").is_file()
    want = result.evaluation().pairs()
    pd.testing.assert_frame_equal(evaluation.pairs(), want)
    encoder = hbt_dist.load_encoder(result.model, quiet=True)
    pd.testing.assert_frame_equal(hbt_dist.evaluate_model(encoder, benchmark, quiet=True).pairs(), want)
    vectors = [
        hbt_dist.encode_texts(encoder, texts, role, progress=False)
        for texts, role in ((benchmark.question_texts, "question"), (benchmark.candidate_texts, "passage"))
    ]
    tensors = tuple(torch.from_numpy(np.asarray(part)) for part in vectors)
    for pair in (tuple(vectors), tensors):
        scored = hbt_dist.evaluate_model(pair, benchmark, training_languages=["en"])
        pd.testing.assert_frame_equal(scored.pairs(), want)
    assert repr(encoder).startswith(f"LoadedEncoder {result.model}: BertModel, 0.0 M parameters, width 16")


def test_vectors_alone_are_evaluated() -> None:
    benchmark = hbt_dist.load_benchmark("sample", languages=LANGUAGES)
    vectors = [np.eye(240, 8)[np.arange(240) % 8]] * 2
    evaluation = hbt_dist.evaluate_model(vectors, benchmark, training_languages=["en"])
    assert repr(benchmark) == "Benchmark sample (eval): 240 questions, 240 candidates in en, fi"
    lines = repr(evaluation).splitlines()
    assert lines[0].startswith("sample (eval): mAP monolingual 0.")
    assert lines[1].split() == ["en", "fi°"]
    assert lines[-1] == "° not in the training data"
    assert "random order 0.0" in evaluation._repr_html_()
    assert evaluation._repr_html_().count("<th ") == 4
    assert evaluation.pairs("recall@1").loc["fi", "en"] == evaluation.pair_matrix.values["recall@1"][1, 0]
    with pytest.raises(
        hbt_dist.UserError, match=r"metric 'f1': was not measured\n +choose from accuracy, map"
    ):
        evaluation.pairs("f1")
    with pytest.raises(hbt_dist.UserError, match="expected none, got"):
        hbt_dist.evaluate_model(vectors, benchmark, scoring={"language_removal": "lir"})


@pytest.mark.slow
def test_a_sentence_transformer_is_evaluated_as_its_folder_is(trained: Any) -> None:
    from sentence_transformers import SentenceTransformer

    result = trained[0]
    model = SentenceTransformer(str(result.model), device="cpu")
    given = {"name": "sample", "languages": list(LANGUAGES)}
    evaluation = hbt_dist.evaluate_model(model, given, quiet=True)
    np.testing.assert_allclose(evaluation.pairs(), result.evaluation().pairs(), atol=0.01)
    model.similarity_fn_name = "euclidean"
    with pytest.raises(hbt_dist.UserError, match="expected similarity cosine or dot, got euclidean"):
        hbt_dist.evaluate_model(model, given)


@pytest.mark.parametrize(
    ("model", "benchmark", "message"),
    [
        (3, "sample", "model: expected a model folder or name, .* got int"),
        (([[1, 2], [3]], [[1, 2]]), "sample", r"expected two arrays of numbers, \(Q, D\) and \(N, D\), got"),
        ((torch.ones(240), torch.ones(240, 2)), "sample", "expected two arrays of numbers"),
        (
            (np.ones((240, 2)),) * 2,
            {"name": "sample", "question_prefix": "query: "},
            "benchmark, question_prefix: expected a model folder, got tuple",
        ),
        ("m", pd.DataFrame(), "benchmark: expected a benchmark's name .* got pandas.DataFrame"),
        ("m", {"nam": "sample"}, "benchmark, nam: unknown key"),
        ("/no/such/model", "sample", "no such model folder"),
    ],
)
def test_wrong_types_are_named(model: Any, benchmark: Any, message: str) -> None:
    with pytest.raises(hbt_dist.UserError, match=message):
        hbt_dist.evaluate_model(model, benchmark)


def test_a_run_of_another_type_is_named(tmp_path: Path) -> None:
    given = datasets.Dataset.from_list(ROWS)
    with pytest.raises(
        hbt_dist.UserError, match=r"expected a run file, a dict or a RunFile, got datasets\.Dataset\n.*rows"
    ):
        hbt_dist.train(given)
    with pytest.raises(hbt_dist.UserError, match=r"expected functions of step and figures, got int"):
        hbt_dist.train(settings(tmp_path), callbacks=[3])
    with pytest.raises(hbt_dist.UserError, match="expected 'local' or 'ray', got 'slurm'"):
        hbt_dist.train(settings(tmp_path), "slurm")  # type: ignore[arg-type]
    with pytest.raises(hbt_dist.UserError, match=r"got hbt_dist.RunFile\n +build_corpus\(run.data\)"):
        hbt_dist.build_corpus(load_run("quickstart"))  # type: ignore[arg-type]
    with pytest.raises(hbt_dist.UserError, match="or a list of key=value items, got str"):
        load_run("quickstart", "seed=3")


def test_overrides_of_a_dict_are_those_of_the_command_line(tmp_path: Path) -> None:
    overrides = {"batches.alpha": 0.25, "output_dir": tmp_path, "data.languages": ["en", "fi"]}
    items = ["batches.alpha=0.25", f"output_dir={tmp_path}", "data.languages=[en, fi]"]
    run = load_run("quickstart", overrides)
    assert run == load_run("quickstart", items)
    assert run == load_run("quickstart").with_changes(overrides)
    assert run == load_run(run)
    assert run == load_run(run.plain())
    assert repr(run) == str(run)
    assert repr(run).startswith(
        "RunFile quickstart: 350 steps of 128 rows of sample, an encoder from scratch"
    )
    message = r"override 'batches.alpha=2', batches.alpha: 2: must be less than or equal to 1"
    with pytest.raises(hbt_dist.UserError, match=message):
        run.with_changes({"batches.alpha": 2})


@pytest.mark.parametrize(
    ("block", "name", "key"), [("batches", "alpha", "batches.alpha"), ("", "seed", "seed")]
)
def test_a_frozen_setting_says_how_to_change_it(block: str, name: str, key: str) -> None:
    run = load_run("quickstart")
    message = rf'cannot be changed in place\n +make a changed copy: run = run.with_changes\({{"{key}"'
    with pytest.raises(hbt_dist.UserError, match=message):
        setattr(getattr(run, block) if block else run, name, 1)


def test_rows_of_every_kind_become_one_file_by_content(tmp_path: Path) -> None:
    data = datasets.Dataset.from_list(ROWS)

    path = stored_rows(ROWS, tmp_path)
    assert stored_rows(pd.DataFrame(ROWS), tmp_path) == path
    assert stored_rows(data.select(range(12)), tmp_path) == stored_rows(ROWS[:12], tmp_path) != path
    corpora = [
        hbt_dist.build_corpus({"sources": [{"rows": rows}], "cache_dir": tmp_path})
        for rows in (ROWS, tuple(ROWS), data, pd.DataFrame(ROWS), polars.DataFrame(ROWS))
    ]
    assert len({corpus.fingerprint for corpus in corpora[:4]}) == 1
    assert all(corpus.num_examples == 24 for corpus in corpora)
    assert corpora[-1].passage_text(3, "fi") == "Se 3."
    assert repr(corpora[0]) == "Corpus of rows: 24 examples, 24 passages in en, fi"


def test_a_key_that_the_first_row_lacks_is_kept(tmp_path: Path) -> None:
    rows = [ROWS[0], {**ROWS[1], "negatives": [{"en": "Not here.", "fi": "Ei."}]}]
    corpus = hbt_dist.build_corpus({"sources": [{"rows": rows}], "cache_dir": tmp_path})
    assert list(np.diff(corpus.negative_offsets)) == [0, 1]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"data.sources.0.rows: expected at least one row, got none"),
        ([3], r"data.sources.0, row 0: expected a dict, got int"),
        ("x.jsonl", r"rows: expected a list of dicts, .* got str"),
        (datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)), "\n +give one of its parts: train"),
        ([{"question": 3}, {"question": "x"}], "cannot be stored as a table: "),
    ],
)
def test_rows_that_cannot_be_used_are_refused(rows: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(hbt_dist.UserError, match=message):
        load_run(settings(tmp_path, rows))


def test_a_source_has_rows_or_a_path(tmp_path: Path) -> None:
    with pytest.raises(hbt_dist.UserError, match=r"expected rows or path, got both\n +remove path"):
        load_run(settings(tmp_path), {"data.sources.0.path": "x"})


def test_names_are_complete_and_loaded_when_they_are_used() -> None:
    assert set(hbt_dist.__all__) <= set(dir(hbt_dist))
    code = "import sys, hbt_dist; dir(hbt_dist); print('torch' in sys.modules or 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    assert repr(RunFolder("runs/none")) == "RunFolder runs/none: model not trained yet"
    assert RunFile.__name__ == "RunFile"

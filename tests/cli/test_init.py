"""`hbt-dist init` writes a run file that fits the data; the shell completes what a person would type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from hbt_dist.jobs.init import TEMPLATE, with_values
from hbt_dist.run_file import RunFile, load_run
from tests.helpers.command_line import call_main


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    monkeypatch.chdir(tmp_path)
    return partial(call_main, monkeypatch, capsys)


def lines(file: str, rows: list[dict[str, Any]]) -> None:
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def translated(number: int, *languages: str) -> dict[str, Any]:
    def by_language(word: str) -> dict[str, str]:
        return {code: f"{word} {number} {code}" for code in languages}

    return {"id": str(number), "question": by_language("where"), "passage": by_language("there")}


def test_the_template_loads_as_it_is_and_names_every_block(tmp_path: Path) -> None:
    text = TEMPLATE.read_text("utf-8")
    run = load_run(str(TEMPLATE))
    assert run.evaluation.when == ("start", "end")
    assert [block for block in RunFile.model_fields if f"\n{block}:" not in text.replace("# ", "")] == []
    changed = with_values(text, {("batches", "alpha"): 0.25, ("data", "sources", 0): {"name": "a"}})
    different = [
        pair for pair in zip(text.split("\n"), changed.split("\n"), strict=True) if len(set(pair)) > 1
    ]
    assert [new.split(" #")[0].strip() for _, new in different] == ["- {name: a}", "alpha: 0.25"]


def test_a_run_file_that_fits_data_and_benchmark(command: Any) -> None:
    lines("train.jsonl", [translated(i, "de", "en", "fi") for i in range(40)] + [translated(40, "en", "fi")])
    question = {"id": "q", "language": "fi", "text": "where", "relevant": ["p"]}
    lines("bench/questions.jsonl", [question])
    lines("bench/candidates.jsonl", [{"id": "p", "language": "en", "text": "there"}])
    options = ("--data", "train.jsonl", "--benchmark", "bench", "--language", "fi", "--to", "own.yaml")
    code, out, err = command("init", *options)
    assert code == 0, err
    assert "--language fi is not used: the data name the languages of their texts" in out
    assert "languages: de 40, en 41, fi 41; some examples lack some of them, so missing: skip" in out
    assert "batch size: 8; the data allow 40" in out
    assert "evaluation: bench, 1 question, 1 candidate in en, fi" in out
    assert "edit the lines" not in out
    code, out, err = command("data", "inspect", "own.yaml", "--step", "0")
    assert code == 0, err
    run = yaml.safe_load(Path("own.yaml").read_text("utf-8"))
    assert (run["name"], run["output_dir"]) == ("own", "runs/own")
    assert run["data"] == {
        "sources": [{"name": "train", "format": "jsonl", "path": "train.jsonl"}],
        "missing": "skip",
    }
    code, _, err = command("init", "--to", "own.yaml")
    assert code == 2
    assert "exists already" in err


@pytest.mark.parametrize(
    ("rows", "options", "columns", "alpha"),
    [
        ({"query": "a", "pos": ["b"], "lang": "fi"}, [], {"language_column": "lang"}, 1),
        ({"anchor": "a", "positive": "b"}, ["--language", "Finnish"], {"language": "fi"}, 1),
        (
            {"question_en": "a", "answer_en": "b", "question_fi": "c", "answer_fi": "d"},
            [],
            {"question": "question_{language}", "passage": "answer_{language}"},
            0.5,
        ),
    ],
)
def test_columns_are_guessed(
    command: Any, rows: dict[str, Any], options: list[str], columns: dict[str, str], alpha: float
) -> None:
    texts = [
        {
            key: value
            if key == "lang"
            else [f"{value[0]} {i}"]
            if isinstance(value, list)
            else f"{value} {i}"
            for key, value in rows.items()
        }
        for i in range(30)
    ]
    lines("data/a.jsonl", texts)
    code, out, err = command("init", "--data", "data", *options)
    assert code == 0, err
    assert "edit the lines of --benchmark" in out
    run = load_run("run.yaml")
    (source,) = run.data.sources
    assert source.columns.model_dump(include=set(columns)) == columns
    assert run.batches.alpha == alpha
    assert command("data", "inspect", "run.yaml")[0] == 0


def test_what_cannot_be_guessed_is_refused(command: Any) -> None:
    lines("train.jsonl", [{"query": "a", "pos": "b"}])
    for arguments, said in (
        (("--data", "train.jsonl"), "add --language CODE"),
        (("--data", "train.jsonl", "--language", "Klingonish"), "--language: 'Klingonish' is not a language"),
        (("--data", "train.jsonl", "--language", "en"), "a batch can hold 1 passage of it"),
        (("--data", "absent.jsonl"), "there is no such file"),
        (("--data", __file__), "expected a file or folder with one of the endings .jsonl, .csv"),
        (("--benchmark", "absent"), "there is no such benchmark"),
    ):
        code, _, err = command("init", *arguments)
        assert code == 2
        assert said in err
    assert not Path("run.yaml").exists()


def test_the_shell_completes_runs_keys_and_benchmarks_without_torch(tmp_path: Path) -> None:
    (tmp_path / "quick.yaml").write_text("")
    script = (
        "import sys, hbt_dist.cli.main as main\nsys.argv[0] = 'hbt-dist'\n"
        "try:\n    main.app()\nfinally:\n"
        "    assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    )
    for words, expected in (
        ("train qui", ["quickstart", "quick.yaml"]),
        ("train quickstart loss.simil", ["loss.similarity=cosine"]),
        ("search alpha.yaml sampler.k", ["sampler.kind=grid"]),
        ("evaluate --benchmark xq", ["xquad-r"]),
    ):
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ
            | {
                "_HBT_DIST_COMPLETE": "complete_bash",
                "COMP_WORDS": f"hbt-dist {words}",
                "COMP_CWORD": str(len(words.split())),
            },
        )
        assert done.stdout.split() == expected, done.stderr


def test_help_is_a_command_too(command: Any) -> None:
    assert command("help")[1] == command("--help")[1]
    assert command("help", "init")[1] == command("init", "--help")[1]
    assert command("-V")[1] == command("--version")[1]

"""Over a hundred malformed inputs through the command line: one error with a place, nothing harmed."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hbt_dist.cli import main as cli

RUN: dict[str, Any] = {
    "name": "mine",
    "output_dir": "out",
    "data": {"sources": [{"name": "mine", "format": "jsonl", "path": "train.jsonl"}], "cache_dir": "cache"},
    "batches": {"global_batch_size": 2, "alpha": 0.5},
    "model": {"scratch": {"vocabulary_size": 200, "architecture": {"model_type": "bert", "hidden_size": 8}}},
    "training": {"steps": 2},
}
TRAIN = [
    {
        "id": f"q{n}",
        "question": {"en": f"what is {n}", "fi": f"mikä on {n}"},
        "passage": {"en": f"it is thing {n}", "fi": f"se on asia {n}"},
    }
    for n in range(4)
]
XQUAD: dict[str, Any] = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": "Turku is old. Oulu is cold.",
                    "sentences": ["Turku is old.", "Oulu is cold."],
                    "sentence_breaks": [[0, 13], [14, 27]],
                    "qas": [
                        {
                            "id": "a",
                            "question": "How is Oulu?",
                            "answers": [{"text": "cold", "answer_start": 22}],
                        }
                    ],
                }
            ]
        }
    ]
}
SEARCH: dict[str, Any] = {
    "name": "s",
    "output_dir": "out",
    "run": "quickstart",
    "overrides": ["evaluation.benchmarks.0.variant=test"],
    "space": {"batches.alpha": {"range": [0, 1, 0.5]}},
    "benchmark": {"name": "sample", "variant": "dev"},
}
STUDY: dict[str, Any] = {
    "name": "s",
    "output_dir": "out",
    "question": "?",
    "run": "quickstart",
    "methods": {"a": {}, "b": {"overrides": {"batches.alpha": 1}}},
    "baseline": "a",
    "benchmarks": [{"name": "sample"}],
}
_REMOVE = object()
#: What pydantic and Python say to each other.
INTERNALS = r"function-after|constrained-|valid (tuple|dictionary|integer)|unable to parse|Traceback"

Case = tuple[list[str], Callable[[Path], None]]


def changed(data: Any, key: str, value: Any) -> Any:
    """A deep copy with one dotted key set, or removed."""
    copy = json.loads(json.dumps(data))
    place = copy
    *way, last = [int(part) if part.isdigit() else part for part in key.split(".")]
    for part in way:
        place = place[part]
    if value is _REMOVE:
        del place[last]
    else:
        place[last] = value
    return copy


def write_yaml(name: str, data: Any) -> Callable[[Path], None]:
    return lambda folder: (
        (folder / name).write_text(data if isinstance(data, str) else yaml.safe_dump(data), "utf-8") and None
    )


def write_bytes(name: str, data: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return write


def both(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for step in steps:
            step(folder)

    return write


def run_files() -> Iterator[tuple[str, Case]]:
    """Mistakes in a run file, an override, a search file, a study file."""
    wrong = {
        "name": ["", "a b", 5, _REMOVE],
        "output_dir": [7, _REMOVE],
        "seed": [-1, "x", 2**70],
        "data": [[], "x", _REMOVE],
        "data.sources": [[], "x", [{"name": "x"}]],
        "data.sources.0.format": ["odd", 3],
        "data.sources.0.split": ["odd"],
        "data.sources.0.path": ["nowhere.jsonl", None],
        "data.sources.0.languages": [["english"], []],
        "data.missing": ["odd"],
        "data.languages": [["en", "en"], ["xx"]],
        "batches.global_batch_size": [0, -4, 1.5, "many", None],
        "batches.alpha": [2, -0.1, "half", {"schedule": "odd"}, {"schedule": "linear"}],
        "batches.mixture": [{"odd": 1}, {"monolingual": -1}, {"monolingual": 1}],
        "batches.mixing": ["odd"],
        "batches.languages": [{"temperature": 3}, {"en": -1}],
        "model": [{}, {"name_or_path": "x", "scratch": {}}, _REMOVE],
        "model.scratch.vocabulary_size": [1],
        "training.steps": [0, "x", _REMOVE],
        "workers": [{"num_workers": 0}, {"placement": "odd"}],
        "loss": [{"temperature": 0}, {"temperature": -1}, {"odd": 1}, {"equation": "odd"}],
        "step": [{"mode": "odd"}, {"chunk_rows": 0}],
        "deepspeed": [{"config": 7}, {"config": "nowhere.json"}, {"config": {"elasticity": {}}}],
        "optimizer": [{"learning_rate": -1}, {"learning_rate": ".inf"}],
        "evaluation": [{"benchmarks": [{"name": "odd"}], "when": ["never"]}],
        "odd": [1],
    }
    for key, values in wrong.items():
        for number, value in enumerate(values):
            yield (
                f"run-{key}-{number}",
                (["train", "run.yaml"], write_yaml("run.yaml", changed(RUN, key, value))),
            )
    texts = {
        "empty": "",
        "list": "- a\n- b\n",
        "tab": "name:\n\t- x\n",
        "open": "name: [x\n",
        "twice": "name: a\nname: b\n",
        "tag": "name: !!python/object:os.system {}\n",
    }
    for name, text in texts.items():
        yield f"run-text-{name}", (["train", "run.yaml"], write_yaml("run.yaml", text))
    yield "run-bytes", (["train", "run.yaml"], write_bytes("run.yaml", b"\xff\xfe\x00name"))
    for name, override in {
        "form": "alpha",
        "key": "batches.odd=1",
        "value": "batches.alpha=[",
        "list": "data.sources.9.path=x",
        "no-list": "evaluation.benchmarks.0.name=sample",
        "number": "workers.num_workers=two",
        "union": "batches.alpha=2",
        "block": "batches.pairs={en-fi: -1}",
        "level": "alpha=0.25",
    }.items():
        yield f"override-{name}", (["train", "run.yaml", override], write_yaml("run.yaml", RUN))
    yield "run-missing", (["train", "nowhere.yaml"], write_yaml("other.yaml", RUN))
    for key, value in {
        "space": {},
        "space.batches.alpha": {"range": [1, 0, 1]},
        "seeds": [],
        "sampler": {"kind": "optuna"},
        "benchmark.name": "odd",
        "objectives": ["speed"],
        "run": "nowhere",
        "odd": 1,
    }.items():
        data = (
            changed(SEARCH, key, value)
            if "." not in key or key == "benchmark.name"
            else {**SEARCH, "space": {"batches.alpha": value}}
        )
        yield f"search-{key}", (["search", "search.yaml", "--dry-run"], write_yaml("search.yaml", data))
    for key, value in {
        "baseline": "c",
        "methods": {"a": {}},
        "seeds": [0, 0],
        "benchmarks": [],
        "odd": 1,
    }.items():
        yield (
            f"study-{key}",
            (["study", "study.yaml", "--dry-run"], write_yaml("study.yaml", changed(STUDY, key, value))),
        )


def training_files() -> Iterator[tuple[str, Case]]:
    """Mistakes in a file of training examples."""
    command = ["data", "inspect", "run.yaml"]

    def lines(*rows: Any) -> bytes:
        return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows).encode()

    wrong: dict[str, bytes] = {
        "empty": b"",
        "half": lines(*TRAIN)[:-20],
        "not-json": lines(TRAIN[0], "{x}", TRAIN[1]),
        "number": lines(TRAIN[0], "5"),
        "array": lines(TRAIN[0], "[]"),
        "twice": lines(TRAIN[0], TRAIN[0]),
        "bytes": lines(TRAIN[0]) + b'{"id": "\xff"}\n',
        "deep": lines("[" * 100_000),
    }
    for key, values in {
        "id": [_REMOVE, "", None, [], {}],
        "question": [_REMOVE, {}, "text", {"en": ""}, {"en": 5}, {"english!": "x"}, {"en": "   "}],
        "passage": [_REMOVE, [], {"en": None}, {"en": ""}, {"": "x"}],
        "negatives": ["x", [{}], [{"text": "x"}], [{"text": {"en": ""}}]],
    }.items():
        for number, value in enumerate(values):
            row = changed(TRAIN[1] | {"negatives": []}, key, value)
            wrong[f"{key}-{number}"] = lines(TRAIN[0], row, *TRAIN[2:])
    wrong["missing-language"] = lines(TRAIN[0], changed(TRAIN[1], "question.fi", _REMOVE))
    for name, content in wrong.items():
        yield (
            f"train-{name}",
            (command, both(write_yaml("run.yaml", RUN), write_bytes("train.jsonl", content))),
        )


def benchmark_files() -> Iterator[tuple[str, Case]]:
    """Mistakes in the files of a benchmark."""

    def evaluate(name: str) -> list[str]:
        return ["evaluate", "--model", "model", "--benchmark", name, "--data-dir", "data", "--output", "out"]

    paragraph = "data.0.paragraphs.0"
    for number, (key, value) in enumerate(
        [
            ("data", _REMOVE),
            ("data", {}),
            ("data", []),
            ("data.0.paragraphs", 5),
            (f"{paragraph}.context", _REMOVE),
            (f"{paragraph}.sentences", ["other"]),
            (f"{paragraph}.sentence_breaks", [[0, 13]]),
            (f"{paragraph}.sentence_breaks", [[0, 13], [14, 99]]),
            (f"{paragraph}.sentence_breaks", "x"),
            (f"{paragraph}.qas.0.id", _REMOVE),
            (f"{paragraph}.qas.0.question", ""),
            (f"{paragraph}.qas.0.answers", []),
            (f"{paragraph}.qas.0.answers.0.answer_start", 99),
            (f"{paragraph}.qas.0.answers.0.answer_start", "22"),
            (f"{paragraph}.qas.0.answers.0.answer_start", -1),
        ]
    ):
        content = json.dumps(changed(XQUAD, key, value)).encode()
        yield f"xquad-{number}", (evaluate("xquad-r"), write_bytes("data/en.json", content))
    yield "xquad-cut", (evaluate("xquad-r"), write_bytes("data/en.json", json.dumps(XQUAD).encode()[:-9]))
    yield "xquad-none", (evaluate("xquad-r"), write_bytes("data/notes.txt", b"x"))
    yield "odd-benchmark", (evaluate("odd"), write_bytes("data/en.json", b"{}"))
    questions = b'{"id": "q1", "language": "fi", "text": "Missa?", "relevant": ["p7"]}\n'
    candidates = b'{"id": "p7", "language": "en", "text": "There."}\n'
    own = {
        "no-candidates": (questions, b""),
        "no-questions": (b"", candidates),
        "language": (questions.replace(b'"fi"', b'"finnish!"'), candidates),
        "relevant": (questions.replace(b"p7", b"p8"), candidates),
        "relevant-type": (questions.replace(b'["p7"]', b'"p7"'), candidates),
        "text": (questions, candidates.replace(b"There.", b" ")),
        "twice": (questions, candidates + candidates),
    }
    for name, (asked, pool) in own.items():
        step = both(write_bytes("data/questions.jsonl", asked), write_bytes("data/candidates.jsonl", pool))
        yield f"own-{name}", (evaluate("jsonl"), step)
    for number, qrels in enumerate(
        [b"q1\tp7\n", b"q1\tp7\t1\nq1\tp7\tyes\n", b"q9\tp7\t1\n", b"q1\tp9\t1\n"]
    ):
        step = both(
            write_bytes("data/questions.jsonl", questions.replace(b', "relevant": ["p7"]', b"")),
            write_bytes("data/candidates.jsonl", candidates),
            write_bytes("data/qrels.tsv", qrels),
        )
        yield f"qrels-{number}", (evaluate("jsonl"), step)
    yield (
        "model-missing",
        (
            ["evaluate", "--model", "./none", "--benchmark", "sample", "--output", "out"],
            write_bytes("x", b""),
        ),
    )
    yield (
        "model-odd",
        (
            ["evaluate", "--model", "./model", "--benchmark", "sample", "--output", "out"],
            write_bytes("model/notes.txt", b"x"),
        ),
    )


def other_folders() -> Iterator[tuple[str, Case]]:
    """Folders that are not what they are taken for."""
    yield "export-none", (["export", "none", "--to", "model"], write_bytes("x", b""))
    yield "export-empty", (["export", "run", "--to", "model"], write_bytes("run/checkpoints/x", b""))
    yield (
        "export-manifest",
        (
            ["export", "run/checkpoints/step-0000000001", "--to", "model"],
            write_bytes("run/checkpoints/step-0000000001/manifest.json", b"{}"),
        ),
    )
    yield "export-taken", (["export", "run", "--to", "model"], write_bytes("model/x", b"kept"))
    yield "report-none", (["report", "none"], write_bytes("x", b""))
    yield "report-odd", (["report", "search"], write_bytes("search/search.json", b"{"))
    yield "report-format", (["report", "search"], write_bytes("search/search.json", b'{"format": 99}'))
    yield "compare-none", (["compare", "a", "--baseline", "b"], write_bytes("x", b""))
    yield "compare-odd", (["compare", "a", "--baseline", "a"], write_bytes("a/results.json", b"{"))


CASES = dict([*run_files(), *training_files(), *benchmark_files(), *other_folders()])


def content_of(folder: Path) -> dict[str, str]:
    """Every file but caches, with its digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in ("cache", ".cache")
    }


def test_there_are_enough() -> None:
    assert len(CASES) >= 100


@pytest.mark.parametrize("name", CASES)
def test_one_error_and_nothing_harmed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, write = CASES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    write(tmp_path)
    before = content_of(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hbt-dist", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    captured = capsys.readouterr()
    assert ended.value.code == 2, captured.err or captured.out
    assert captured.err.count("error:") == 1, captured.err
    assert not re.search(INTERNALS, captured.err + captured.out), captured.err
    message = captured.err[captured.err.index("error:") :]
    assert len(message.split(":", 2)) == 3, message  # place: what was found
    after = content_of(tmp_path)
    assert {path: after.get(path) for path in before} == before
    left = [path for path in after if path not in before and not path.endswith(".lock")]
    assert left == [], left

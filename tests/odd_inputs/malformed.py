"""Malformed run files, training files, benchmarks and folders: one error with a place, nothing harmed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.odd_inputs.case import Case, Content, encoded, rows, run_file
from tests.odd_inputs.settings import SEARCH, STUDY

RUN = run_file()
TRAIN = rows(4)
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
_REMOVE = object()


#: Arguments, and the files that they meet.
Given = tuple[list[str], dict[str, Content]]


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


def run_files() -> Iterator[tuple[str, Given]]:
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
        "data.sources.0.languages": [["englisch"], []],
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
                (["train", "run.yaml"], {"run.yaml": changed(RUN, key, value)}),
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
        yield f"run-text-{name}", (["train", "run.yaml"], {"run.yaml": text})
    yield "run-bytes", (["train", "run.yaml"], {"run.yaml": b"\xff\xfe\x00name"})
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
        yield f"override-{name}", (["train", "run.yaml", override], {"run.yaml": RUN})
    yield "run-missing", (["train", "nowhere.yaml"], {"other.yaml": RUN})
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
        yield f"search-{key}", (["search", "search.yaml", "--dry-run"], {"search.yaml": data})
    for key, value in {
        "baseline": "c",
        "methods": {"a": {}},
        "seeds": [0, 0],
        "benchmarks": [],
        "odd": 1,
    }.items():
        yield (
            f"study-{key}",
            (["study", "study.yaml", "--dry-run"], {"study.yaml": changed(STUDY, key, value)}),
        )


def training_files() -> Iterator[tuple[str, Given]]:
    """Mistakes in a file of training examples."""
    command = ["data", "inspect", "run.yaml"]

    def lines(*rows: Any) -> bytes:
        return encoded(rows)

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
            (command, {"run.yaml": RUN, "train.jsonl": content}),
        )


def benchmark_files() -> Iterator[tuple[str, Given]]:
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
        yield f"xquad-{number}", (evaluate("xquad-r"), {"data/en.json": content})
    yield "xquad-cut", (evaluate("xquad-r"), {"data/en.json": json.dumps(XQUAD).encode()[:-9]})
    yield "xquad-none", (evaluate("xquad-r"), {"data/notes.txt": b"x"})
    yield "odd-benchmark", (evaluate("odd"), {"data/en.json": b"{}"})
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
        step: dict[str, Content] = {"data/questions.jsonl": asked, "data/candidates.jsonl": pool}
        yield f"own-{name}", (evaluate("jsonl"), step)
    for number, qrels in enumerate(
        [b"q1\tp7\n", b"q1\tp7\t1\nq1\tp7\tyes\n", b"q9\tp7\t1\n", b"q1\tp9\t1\n"]
    ):
        step = {
            "data/questions.jsonl": questions.replace(b', "relevant": ["p7"]', b""),
            "data/candidates.jsonl": candidates,
            "data/qrels.tsv": qrels,
        }
        yield f"qrels-{number}", (evaluate("jsonl"), step)
    yield (
        "model-missing",
        (
            ["evaluate", "--model", "./none", "--benchmark", "sample", "--output", "out"],
            {"x": b""},
        ),
    )
    yield (
        "model-odd",
        (
            ["evaluate", "--model", "./model", "--benchmark", "sample", "--output", "out"],
            {"model/notes.txt": b"x"},
        ),
    )


def other_folders() -> Iterator[tuple[str, Given]]:
    """Folders that are not what they are taken for."""
    yield "export-none", (["export", "none", "--to", "model"], {"x": b""})
    yield "export-empty", (["export", "run", "--to", "model"], {"run/checkpoints/x": b""})
    yield (
        "export-manifest",
        (
            ["export", "run/checkpoints/step-0000000001", "--to", "model"],
            {"run/checkpoints/step-0000000001/manifest.json": b"{}"},
        ),
    )
    yield "export-taken", (["export", "run", "--to", "model"], {"model/x": b"kept"})
    yield "report-none", (["report", "none"], {"x": b""})
    yield "report-odd", (["report", "search"], {"search/search.json": b"{"})
    yield "report-format", (["report", "search"], {"search/search.json": b'{"format": 99}'})
    yield "compare-none", (["compare", "a", "--baseline", "b"], {"x": b""})
    yield "compare-odd", (["compare", "a", "--baseline", "a"], {"a/results.json": b"{"})


CASES = {
    name: Case(arguments, files).fails(".*")
    for name, (arguments, files) in [*run_files(), *training_files(), *benchmark_files(), *other_folders()]
}

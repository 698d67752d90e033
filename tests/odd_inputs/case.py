"""Describe an odd input: its files, the command, and what must come out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

#: Bytes and text as they are; a list becomes JSON lines; a mapping becomes YAML or JSON by the file's ending;
#: a function writes the path itself.
Content = bytes | str | Sequence[Any] | Mapping[str, Any] | Callable[[Path], Any]

#: In arguments and files: the folder of the tiny model, whose scores are cosines of bags of words.
MODEL = "MODEL"
#: In arguments and files: the folder of a finished evaluation of the benchmark below.
EVALUATION = "EVALUATION"


@dataclass(frozen=True)
class Case:
    """An odd input.

    Attributes:
        arguments: of `hbt-dist`.
        files: path below the working folder -> content.
        error: patterns that the one error must match, the place first; empty: the input is read.
        figures: what the command must report: see `figures_of` in test_odd_inputs.py.
        given: examples or questions in the files; those that are not used must be counted in the output.
        reports: patterns that the output must match.
        environment: variables; None removes one.
    """

    arguments: Sequence[str]
    files: Mapping[str, Content] = field(default_factory=dict)
    error: tuple[str, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    given: int | None = None
    reports: tuple[str, ...] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)

    def fails(self, *error: str) -> Case:
        """The case that ends in an error: its place, and words of problem and remedy."""
        return replace(self, error=error)

    def gives(self, *reports: str, given: int | None = None, **figures: Any) -> Case:
        """The case that is read: reported lines and figures."""
        return replace(self, reports=reports, given=given, figures=figures)

    def within(self, **environment: str | None) -> Case:
        """The case with other environment variables."""
        return replace(self, environment=environment)

    def beside(self, **files: Content) -> Case:
        """The case with more files; `__` in a name is a slash, `_dot_` a dot."""
        named = {name.replace("__", "/").replace("_dot_", "."): content for name, content in files.items()}
        return replace(self, files={**self.files, **named})

    def write(self, folder: Path) -> None:
        """Write the files."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if callable(content):
                content(path)
            else:
                path.write_bytes(encoded(content, path.suffix))


def encoded(content: Any, suffix: str = ".jsonl") -> bytes:
    """The bytes of a file."""
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode("utf-8", "surrogatepass")
    if isinstance(content, Mapping):
        text = yaml.safe_dump(dict(content), allow_unicode=True) if suffix == ".yaml" else json.dumps(content)
        return text.encode()
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in content).encode()


def rows(size: int = 6, **changes: Any) -> list[dict[str, Any]]:
    """Valid lines in English and Finnish, without equal texts; `changes` replace fields of the second."""
    made: list[dict[str, Any]] = [
        {
            "id": f"q{n}",
            "question": {"en": f"what is {n}", "fi": f"mikä on {n}"},
            "passage": {"en": f"it is number {n}", "fi": f"se on luku {n}"},
        }
        for n in range(size)
    ]
    made[1] = {key: value for key, value in (made[1] | changes).items() if value is not None}
    return made


def pairs(size: int = 6, **changes: Any) -> list[dict[str, Any]]:
    """Lines of FlagEmbedding's form; `changes` replace fields of the second."""
    made: list[dict[str, Any]] = [
        {"query": f"what is {n}", "pos": [f"it is number {n}"], "neg": [f"it is not {n}"]}
        for n in range(size)
    ]
    made[1] |= changes
    return made


def run_file(**changes: Any) -> dict[str, Any]:
    """A run file with one source; `changes` replace dotted keys, `__` is the dot."""
    run: dict[str, Any] = {
        "name": "mine",
        "output_dir": "out",
        "data": {
            "sources": [{"name": "mine", "format": "jsonl", "path": "train.jsonl"}],
            "cache_dir": "cache",
        },
        "batches": {"global_batch_size": 2, "alpha": 0.5},
        "model": {"scratch": {"vocabulary_size": 200, "architecture": {"model_type": "bert"}}},
        "training": {"steps": 2},
    }
    for key, value in changes.items():
        block: Any = run
        *way, last = [int(part) if part.isdigit() else part for part in key.split("__")]
        for part in way:
            block = block[part] if isinstance(block, list) else block.setdefault(part, {})
        block[last] = value
    return run


def training(
    content: Content | None, *overrides: str, path: str = "train.jsonl", alpha: float = 0.5, **source: Any
) -> Case:
    """`data inspect --json` of a run with one source in `path`.

    Args:
        content: of the file at `path`; None: no file.
        alpha: 1 for data of one language.
        source: more keys of the source.
    """
    run = run_file(batches__alpha=alpha)
    run["data"]["sources"][0] |= {"path": path, **source}
    files: dict[str, Content] = {"run.yaml": run}
    if content is not None:
        files[path] = content
    return Case(["data", "inspect", "run.yaml", "--json", *overrides], files)


def columns(content: Content | None, path: str = "train.jsonl", alpha: float = 1, **mapping: Any) -> Case:
    """`data inspect --json` of a source with a column mapping."""
    source = {"format": "parquet"} if path.endswith(".parquet") else {}
    if path.endswith((".csv", ".tsv")):
        source = {"format": path[-3:]}
    return training(content, path=path, alpha=alpha, **source, **({"columns": mapping} if mapping else {}))


QUESTIONS = [
    {"id": "q1", "language": "en", "text": "alpha", "relevant": ["p1"]},
    {"id": "q2", "language": "en", "text": "beta", "relevant": ["p2"]},
]
#: p1 is q1's text; q2 prefers p4 ("beta") to p2 ("beta gamma"): mAP (1 + 1/2) / 2.
CANDIDATES = [
    {"id": "p1", "language": "en", "text": "alpha"},
    {"id": "p2", "language": "en", "text": "beta gamma"},
    {"id": "p3", "language": "en", "text": "delta"},
    {"id": "p4", "language": "en", "text": "beta"},
]
MAP = 0.75


def scored(name: str, files: Mapping[str, Content], *options: str) -> Case:
    """`evaluate --json` of a benchmark in the folder `bench`, with the tiny model."""
    arguments = ["evaluate", "--model", MODEL, "--benchmark", name, "--data-dir", "bench", "--output", "out"]
    return Case(
        [*arguments, "--json", *options], {f"bench/{path}": content for path, content in files.items()}
    )


def benchmark(
    questions: Content = QUESTIONS, candidates: Content = CANDIDATES, *options: str, **more: Content
) -> Case:
    """`evaluate --json` of a `jsonl` benchmark; `more` are further files: qrels -> qrels.tsv."""
    files: dict[str, Content] = {"questions.jsonl": questions, "candidates.jsonl": candidates}
    return scored("jsonl", files | {f"{name}.tsv": content for name, content in more.items()}, *options)


CORPUS = [{"_id": row["id"], "title": "", "text": row["text"]} for row in CANDIDATES]
QUERIES = [{"_id": row["id"], "text": row["text"]} for row in QUESTIONS]
QRELS = "query-id\tcorpus-id\tscore\nq1\tp1\t1\nq2\tp2\t1\n"


def beir(*options: str, corpus: Content = CORPUS, queries: Content = QUERIES, qrels: Content = QRELS) -> Case:
    """`evaluate --json` of a folder as BEIR publishes it, in English."""
    files: dict[str, Content] = {"corpus.jsonl": corpus, "queries.jsonl": queries, "qrels/test.tsv": qrels}
    return scored("beir", files, "--languages", "en", *options)

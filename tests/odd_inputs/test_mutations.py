"""Valid files with a few changed bytes: `data inspect` and the readers raise nothing but a `UserError`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.jobs.inspect import inspect_job
from hbt_dist.run_file import load_run
from tests.odd_inputs.case import (
    CANDIDATES,
    CORPUS,
    QRELS,
    QUERIES,
    QUESTIONS,
    encoded,
    pairs,
    rows,
    run_file,
)
from tests.odd_inputs.tables import P, Q, parquet

TABLE = "q,p\n" + "".join(f'"{question}",{passage}\n' for question, passage in zip(Q, P, strict=True))
PLAIN = {"question": "q", "passage": "p", "language": "en"}
#: File -> its bytes and the keys of its source.
TRAINING = {
    "train.jsonl": (encoded(rows()), {}),
    "flag.jsonl": (encoded(pairs()), {"columns": {"language": "en"}}),
    "train.csv": (TABLE.encode(), {"format": "csv", "columns": PLAIN}),
    "train.tsv": (TABLE.replace(",", "\t").encode(), {"format": "tsv", "columns": PLAIN}),
    "train.parquet": (parquet(q=Q, p=P), {"format": "parquet", "columns": PLAIN}),
}
BENCHMARKS = {
    "questions.jsonl": (
        "jsonl",
        {"questions.jsonl": encoded(QUESTIONS), "candidates.jsonl": encoded(CANDIDATES)},
    ),
    "qrels/test.tsv": (
        "beir",
        {
            "corpus.jsonl": encoded(CORPUS),
            "queries.jsonl": encoded(QUERIES),
            "qrels/test.tsv": QRELS.encode(),
        },
    ),
}
#: Bytes that matter to a format are more frequent than others.
noise = st.one_of(
    st.sampled_from([b"", b'"', b"\0", b"\n", b"\r", b"{", b"\xff", b"\t", b",", b"\\"]),
    st.binary(max_size=4),
)
mutations = st.lists(st.tuples(st.integers(0, 1_000), st.integers(0, 6), noise), min_size=1, max_size=3)
bounded = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))


def mutated(content: bytes, changes: list[tuple[int, int, bytes]]) -> bytes:
    """The content with parts replaced: (position, bytes removed, bytes put there)."""
    for position, removed, inserted in changes:
        start = position % (len(content) + 1)
        content = content[:start] + inserted + content[start + removed :]
    return content


def reads_or_refuses(read: Callable[[], object]) -> None:
    try:
        read()
    except UserError as error:
        refusal = error
    else:
        return
    assert refusal.location
    assert refusal.problem


@pytest.mark.parametrize("name", TRAINING)
@bounded
@given(changes=mutations)
def test_training_files(name: str, tmp_path: Path, changes: list[tuple[int, int, bytes]]) -> None:
    content, source = TRAINING[name]
    path = tmp_path / name
    path.write_bytes(mutated(content, changes))
    run = run_file(
        data__cache_dir=str(tmp_path / "cache"), batches__alpha=1, data__missing="skip",
        data__sources=[{"name": "mine", "format": "jsonl", "path": str(path), **source}],
    )  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(run))
    reads_or_refuses(
        lambda: inspect_job(load_run(str(tmp_path / "run.yaml")), step=0, rows=2, tokens=False, as_json=True)
    )


@bounded
@given(changes=mutations)
def test_run_files(tmp_path: Path, changes: list[tuple[int, int, bytes]]) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(mutated(yaml.safe_dump(run_file()).encode(), changes))
    reads_or_refuses(lambda: load_run(str(path)))


@pytest.mark.parametrize("name", BENCHMARKS)
@bounded
@given(changes=mutations)
def test_benchmarks(name: str, tmp_path: Path, changes: list[tuple[int, int, bytes]]) -> None:
    kind, files = BENCHMARKS[name]
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(mutated(content, changes) if path == name else content)
    reads_or_refuses(lambda: load_benchmark(kind, tmp_path, languages=["en"]))

"""Readers on the public data: counts as published, and on small files what each field becomes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.readers import open_source
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import SourceSettings

Build = Callable[..., Corpus]


def records(format: str, path: Path, **options: Any) -> list[TrainingRecord]:
    source = SourceSettings(name="one", format=format, path=str(path), **options)  # type: ignore[arg-type]
    return list(open_source(source, source.languages, "refuse").records())


@pytest.mark.slow
def test_squad_parallel(shared_data: Path) -> None:
    folder = shared_data / "squad-en-fi"
    parts = {split: records("squad-parallel", folder, split=split) for split in ("all", "train", "eval")}
    assert {split: len(part) for split, part in parts.items()} == {
        "all": 129_585,
        "train": 125_450,
        "eval": 4_135,
    }
    passages = {split: {one.passage_id for one in part} for split, part in parts.items()}
    assert len(passages["all"]) == 18_920
    assert not passages["train"] & passages["eval"]
    assert not {one[:4] for one in passages["train"]} & {one[:4] for one in passages["eval"]}  # articles
    assert parts["all"][0].question["fi"] == "Milloin Beyoncesta alkoi tulla suosittu?"
    assert all(one.question.keys() == one.passage.keys() == {"en", "fi"} for one in parts["all"])


def test_squad_parallel_as_corpus(shared_data: Path, build: Build) -> None:
    corpus = build(shared_data / "squad-en-fi", format="squad-parallel", split="eval", missing="refuse")
    assert (corpus.num_examples, corpus.num_passages) == (4_135, 649)
    assert corpus.cell_questions.tolist() == corpus.cell_passages.tolist() == [[True, True]]
    members = np.unique(corpus.example_group[np.argsort(corpus.example_passage)])
    assert members.tolist() == list(range(corpus.example_group.max() + 1))
    for row in (0, 2_000, 4_134):
        assert corpus.example_id(row).startswith(corpus.passage_id(int(corpus.example_passage[row])))


@pytest.mark.parametrize(("split", "count"), [("all", 6_758), ("train", 5_000), ("eval", 1_758)])
def test_mkqa(shared_data: Path, split: str, count: int) -> None:
    found = records("mkqa", shared_data / "mkqa", split=split)
    assert len(found) == len({one.example_id for one in found}) == count
    assert all(len(one.question) == 12 and one.question == one.passage for one in found)


def test_mkqa_answers(shared_data: Path) -> None:
    found = records("mkqa", shared_data / "mkqa", split="all", content="answers")
    assert len(found) == 1_758
    assert found[1].passage["ja"] == "クリスティアーノ・ロナウド"
    source = SourceSettings(name="one", format="mkqa", path=str(shared_data / "mkqa"))
    assert open_source(source, None, "refuse").alignment


def test_exams(shared_data: Path, build: Build) -> None:
    everything = records("exams", shared_data / "exams", split="all")
    assert len(everything) == 6_145 + 1_742
    assert sum(len(one.question) for one in everything) == 10_631
    assert sum(one.example_id.startswith("cluster-") for one in everything) == 1_742
    parts = [
        {one.example_id for one in records("exams", shared_data / "exams", split=s)}
        for s in ("train", "eval")
    ]
    assert not parts[0] & parts[1]
    assert len(parts[0]) + len(parts[1]) == len(everything)
    corpus = build(shared_data / "exams", format="exams", split="eval", languages=["hu", "hr", "it"])
    assert corpus.languages == ("hu", "hr", "it")
    hungarian = corpus.cell_questions[corpus.example_cell][:, 0]
    assert hungarian.sum() == 263
    negatives = np.diff(corpus.negative_offsets)
    assert negatives.min() >= 2


def test_ntrex(shared_data: Path) -> None:
    parts = {
        split: records("ntrex", shared_data / "ntrex", split=split) for split in ("all", "train", "eval")
    }
    assert {split: len(part) for split, part in parts.items()} == {"all": 1_997, "train": 1_376, "eval": 621}
    assert all(len(one.question) == 20 for one in parts["all"])
    assert not any(text.endswith(("\r", "\n")) for one in parts["all"] for text in one.question.values())
    few = records("ntrex", shared_data / "ntrex", languages=["et", "zh"], split="all")
    assert few[7].question.keys() == {"et", "zh"}


def test_squad_files(shared_data: Path, build: Build) -> None:
    corpus = build(shared_data / "xquad-r", format="squad", languages=["en", "th"])
    assert (corpus.num_examples, corpus.num_passages) == (1_190, 240)
    ragged = build(shared_data / "mlqa-r", format="squad", missing="skip")
    assert ragged.num_examples == 1_148
    assert int(ragged.cell_questions[ragged.example_cell].sum()) == 4_199
    english = ragged.languages.index("en")
    assert ragged.cell_questions[:, english].all()


def test_sample(build: Build) -> None:
    block = {"name": "one", "format": "sample"}
    corpus = build(sources=[block])
    assert corpus.num_examples > 100
    assert build(sources=[block]).folder == corpus.folder
    assert build(sources=[block], languages=["fi", "en"]).languages == ("fi", "en")
    with pytest.raises(UserError, match="the sample has no 'km'"):
        build(sources=[block | {"languages": ["km"]}])


ROWS = [
    {
        "qid": 1,
        "q_en": "who",
        "q_fi": "kuka",
        "doc": {"en": "Ada", "fi": None},
        "wrong": [{"en": "Bob", "fi": "Pekka"}],
    },
    {"qid": 2, "q_en": "when", "q_fi": None, "doc": {"en": "1815", "fi": "vuonna 1815"}, "wrong": []},
]
COLUMNS = {"example_id": "qid", "question": "q_{language}", "passage": "doc", "negatives": "wrong"}


def _check_mapped(found: list[TrainingRecord]) -> None:
    assert [one.example_id for one in found] == ["1", "2"]
    assert found[0].question == {"en": "who", "fi": "kuka"}
    assert found[1].question == {"en": "when"}
    assert found[0].passage == {"en": "Ada"}
    assert found[0].negatives[0].passage == {"en": "Bob", "fi": "Pekka"}
    assert found[1].negatives == ()


def test_parquet(tmp_path: Path, build: Build) -> None:
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    _check_mapped(records("parquet", path, columns=COLUMNS))
    assert build(path, format="parquet", columns=COLUMNS, missing="skip").num_examples == 2
    with pytest.raises(UserError, match="has no column 'question'"):
        records("parquet", path)
    with pytest.raises(UserError, match=r"has no column like 'x_\{language\}'"):
        records("parquet", path, columns=COLUMNS | {"question": "x_{language}"})
    with pytest.raises(UserError, match="is a plain text"):
        records("parquet", path, columns=COLUMNS | {"question": "q_en"})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(UserError, match="not a readable Parquet file"):
        records("parquet", path, columns=COLUMNS)
    with pytest.raises(UserError, match="no such file"):
        records("parquet", tmp_path / "nowhere.parquet")


def test_plain_text_columns_have_one_language(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    rows = [
        {"question": "kuka", "passage": "Ada", "negatives": ["Pekka"]},
        {"question": "a", "passage": "", "negatives": None},
    ]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows[:1]), path)
    found = records("parquet", path, columns={"language": "fin"})
    assert found[0].question == {"fi": "kuka"}
    assert found[0].negatives[0].passage == {"fi": "Pekka"}
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    with pytest.raises(UserError, match="row 1: column 'passage' is empty"):
        records("parquet", path, columns={"language": "fin"})


def test_hub_by_a_local_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    folder = tmp_path / "data"
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), folder / "train.parquet")
    _check_mapped(records("hub", folder, columns=COLUMNS))
    with pytest.raises(UserError, match="cannot be loaded"):
        records("hub", folder, columns=COLUMNS, hub_split="nope")

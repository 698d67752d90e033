"""Rows of any form through `columns`: JSON lines as FlagEmbedding and Tevatron have them, and tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.readers import open_source
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import DataSettings, SourceSettings

Write = Callable[..., Path]
FLAG = {"question": "query", "passage": "pos", "negatives": "neg", "language": "en"}
FLAG_ROWS = [
    {
        "query": "where is Turku",
        "pos": ["Turku is in Finland.", "Åbo"],
        "neg": ["Tartu", "Riga"],
        "pos_scores": [1, 2],
        "neg_scores": [0.5, None],
    },
    {"query": "where is Tartu", "pos": ["Tartu is in Estonia."], "neg": []},
    {"query": "where is Riga", "pos": ["Riga is in Latvia."]},
]
TEVATRON = {
    "example_id": "query_id",
    "question": "query",
    "passage": "positive_passages",
    "negatives": "negative_passages",
    "language": "en",
}
TEVATRON_ROWS = [
    {
        "query_id": "9",
        "query": "where is Turku",
        "positive_passages": [{"docid": "d1", "title": "Turku", "text": "In Finland."}],
        "negative_passages": [{"docid": "d2", "title": "", "text": "Tartu"}, {"docid": "d3", "text": "Riga"}],
    }
]


def records(format: str, path: Path, **options: Any) -> list[TrainingRecord]:
    source = SourceSettings(name="one", format=format, path=str(path), **options)  # type: ignore[arg-type]
    return list(open_source(source, source.languages, "refuse").records())


def test_flag_embedding(write_lines: Write, tmp_path: Path) -> None:
    path = write_lines("train.jsonl.gz", FLAG_ROWS)
    found = records("jsonl", path, columns=FLAG)
    assert [one.example_id for one in found] == ["0", "0#2", "1", "2"]
    assert [one.passage["en"] for one in found[:2]] == ["Turku is in Finland.", "Åbo"]
    assert {one.question["en"] for one in found[:2]} == {"where is Turku"}
    assert [one.passage for one in found[1].negatives] == [{"en": "Tartu"}, {"en": "Riga"}]
    assert [one.score for one in found] == [1.0, 2.0, None, None]
    assert [one.score for one in found[1].negatives] == [0.5, None]
    assert found[2].negatives == found[3].negatives == ()
    write_lines("two/b.jsonl", FLAG_ROWS[2:])
    write_lines("two/a.jsonl", FLAG_ROWS[:2])
    assert [one.example_id for one in records("jsonl", tmp_path / "two", columns=FLAG)] == [
        "0",
        "0#2",
        "1",
        "2",
    ]


def test_the_passages_of_a_list_share_a_group(write_lines: Write, build: Callable[..., Corpus]) -> None:
    corpus = build(write_lines("train.jsonl", FLAG_ROWS), columns=FLAG)
    groups = corpus.example_group.tolist()
    assert groups[0] == groups[1]
    assert len(set(groups)) == 3


def test_tevatron(write_lines: Write, tmp_path: Path) -> None:
    for format in ("jsonl", "parquet"):
        path = tmp_path / f"train.{format}"
        if format == "jsonl":
            write_lines(path.name, TEVATRON_ROWS)
        else:  # where the title that is missing is null
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(TEVATRON_ROWS), path)
        (found,) = records(format, path, columns=TEVATRON)
        assert (found.example_id, found.passage_id) == ("9", "d1")
        assert found.passage == {"en": "Turku In Finland."}
        assert [(one.passage_id, one.passage["en"]) for one in found.negatives] == [
            ("d2", "Tartu"),
            ("d3", "Riga"),
        ]


def test_pairs_and_triplets_in_columns_of_plain_texts(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    rows = [{"anchor": "where", "positive": "there", "negative": "here"}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    columns = {"question": "anchor", "passage": "positive", "negatives": "negative", "language": "en"}
    (found,) = records("parquet", path, columns=columns)
    assert found.negatives[0].passage == {"en": "here"}


def test_question_and_passage_in_two_languages(write_lines: Write) -> None:
    path = write_lines("train.jsonl", FLAG_ROWS[:1])
    found = records("jsonl", path, columns=FLAG | {"language": "fin", "passage_language": "eng"})
    assert found[0].question.keys() == {"fi"}
    assert found[0].passage.keys() == found[0].negatives[0].passage.keys() == {"en"}


def test_monolingual_sources_and_one_across_languages_make_hybrid_batches(
    write_lines: Write, tmp_path: Path
) -> None:
    """The run file of docs/data.md: English, Finnish, and Finnish questions on English passages."""
    sources = []
    for name, language, passage_language in (("en", "en", None), ("fi", "fi", None), ("fi-en", "fi", "en")):
        rows = [
            {"query": f"q {name} {number}", "pos": [f"p {name} {number}"], "neg": []} for number in range(40)
        ]
        path = write_lines(f"{name}.jsonl", rows)
        columns = FLAG | {"language": language, "passage_language": passage_language}
        sources.append({"name": name, "format": "jsonl", "path": str(path), "columns": columns})
    data = DataSettings(sources=sources, missing="skip")  # type: ignore[arg-type]
    corpus = build_corpus(data, tmp_path / "cache")
    plan = BatchPlan(corpus, BatchSettings(global_batch_size=16, alpha=0.5), seed=1)
    pairs = set()
    for step in range(20):
        batch = plan.batch(step)
        pairs |= {*zip(batch.question_language.tolist(), batch.passage_language.tolist(), strict=True)}
    en, fi = corpus.languages.index("en"), corpus.languages.index("fi")
    assert pairs == {(en, en), (fi, fi), (fi, en)}


@pytest.mark.parametrize(
    ("row", "columns", "message"),
    [
        ({"q": "x"}, {}, "line 1: field 'id' is missing.*lines of another form need columns"),
        (FLAG_ROWS[0], FLAG | {"question": "q"}, "line 1: has no column 'q'"),
        (FLAG_ROWS[0], FLAG | {"negatives": "negs"}, "line 1: no row has a column 'negs'"),
        (FLAG_ROWS[0], FLAG | {"language": None}, "column 'query' is a plain text.*in columns.language"),
        (FLAG_ROWS[0], FLAG | {"passage_id": "query"}, "'pos' holds 2 passages, 'query' one id"),
        (FLAG_ROWS[0] | {"pos": []}, FLAG, "column 'pos' is an empty list"),
        (FLAG_ROWS[0] | {"pos": None}, FLAG, "column 'pos' is null"),
        (FLAG_ROWS[0] | {"pos": ["x", 3]}, FLAG, r"pos\[1\] is a number"),
        (FLAG_ROWS[0] | {"pos": [" "]}, FLAG, r"pos\[0\] is empty"),
        (FLAG_ROWS[0] | {"neg": [{"text": 3}]}, FLAG, r"neg\[0\], the negative: field 'text' is a number"),
        (FLAG_ROWS[0] | {"neg": [{"text": "x", "docid": []}]}, FLAG, "field 'docid' is a list"),
    ],
)
def test_mistakes_are_named(
    row: dict[str, Any], columns: dict[str, Any], message: str, write_lines: Write
) -> None:
    path = write_lines("train.jsonl", [row])
    with pytest.raises(UserError, match=f"(?s){message}"):
        records("jsonl", path, columns=columns)


def test_a_resolved_run_file_reads_what_the_short_one_read(tmp_path: Path) -> None:
    """It has every key, as if the default's column of negatives had been asked for."""
    path = tmp_path / "train.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"question": "a", "passage": "b"}]), path)
    short = SourceSettings(name="one", format="parquet", path=str(path), columns={"language": "en"})  # type: ignore[arg-type]
    resolved = SourceSettings.model_validate(short.model_dump(mode="json"))
    assert list(open_source(resolved, None, "refuse").records()) == list(
        open_source(short, None, "refuse").records()
    )

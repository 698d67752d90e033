"""Languages of columns: by suffix, by a column of each row, fixed; and what isn't a language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.notes import reading_text
from hbt_dist.data.corpus.settings import ColumnSettings

Build = Callable[..., Corpus]
Write = Callable[..., Path]

PATTERNS = {"question": "question_{language}", "passage": "passage_{language}"}
IDS = {"example_id": "question_id", "passage_id": "passage_id"}
LANGUAGES = {"language_column": "lang"}
FLAG = {"question": "query", "passage": "pos", "negatives": "neg"}


def rows(**more: object) -> list[dict[str, Any]]:
    return [
        {
            "question_id": f"x{number}",
            "question_en": f"q {number}",
            "question_fi": f"k {number}",
            "passage_id": f"p{number}",
            "passage_en": f"a {number}",
            "passage_fi": f"v {number}",
            **more,
        }
        for number in range(20)
    ]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("ids", [{}, IDS])
def test_id_url_and_type_columns_are_no_languages(
    format: str, ids: dict[str, str], write_lines: Write, build: Build, tmp_path: Path
) -> None:
    data = rows(question_url="u", passage_url="u", question_type="yesno", passage_len="9")
    path = write_lines("w.jsonl", data)
    if format == "parquet":
        path = tmp_path / "w.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(data), path)
    corpus = build(path, format, columns=PATTERNS | ids)
    assert corpus.languages == ("en", "fi")
    assert corpus.cell_questions.tolist() == corpus.cell_passages.tolist() == [[True, True]]
    (source,) = corpus.manifest["statistics"]
    assert set(source["unused"]) == {"question_url", "passage_url", "question_type", "passage_len"} | (
        set() if ids else {"question_id", "passage_id"}
    )
    text = reading_text(corpus)
    assert "unused columns: " in text
    if not ids:
        assert (
            "column 'question_id' is not read as language 'id': if it is, list it in data.languages" in text
        )


def test_an_indonesian_column_is_read_when_it_is_requested(write_lines: Write, build: Build) -> None:
    corpus = build(write_lines("w.jsonl", rows()), columns=PATTERNS, languages=["en", "fi", "id"])
    assert corpus.question_text(3, "id") == "x3"
    assert reading_text(corpus) == ""


def test_columns_without_any_language_are_refused(write_lines: Write, build: Build) -> None:
    path = write_lines("w.jsonl", [{"question_id": "a", "question_type": "b", "passage_en": "c"}])
    with pytest.raises(UserError, match=r"(?s)no column like 'question_\{language\}'.*list it in languages"):
        build(path, columns=PATTERNS)
    twice = write_lines("t.jsonl", [{"question_en": "a", "question_eng": "b", "passage_en": "c"}])
    with pytest.raises(UserError, match="'question_en' and 'question_eng' are both 'en'"):
        build(twice, columns=PATTERNS)


def test_a_column_holds_the_language_of_each_row(write_lines: Write, build: Build) -> None:
    lines = [
        {"query": f"q{code}{number}", "pos": [f"p{code}{number}"], "neg": ["n" + code], "lang": code}
        for number in range(10)
        for code in ("fi", "eng", "deu_Latn")
    ]
    corpus = build(write_lines("l.jsonl", lines), columns=FLAG | LANGUAGES, missing="skip")
    assert corpus.languages == ("de", "en", "fi")
    assert corpus.cell_questions.tolist() == corpus.cell_passages.tolist()
    assert corpus.question_text(0, "fi") == "qfi0"
    assert corpus.passage_text(int(corpus.negatives[1]), "en") == "neng"
    assert reading_text(corpus) == ""


def test_question_and_passage_have_a_column_each(write_lines: Write, build: Build) -> None:
    line = {"query": "q", "pos": ["p"], "neg": [], "lang": "fi", "plang": "en"}
    columns = FLAG | LANGUAGES | {"passage_language_column": "plang"}
    corpus = build(write_lines("l.jsonl", [line]), columns=columns, missing="skip")
    assert (corpus.question_text(0, "fi"), corpus.passage_text(0, "en")) == ("q", "p")
    fixed = FLAG | LANGUAGES | {"passage_language": "sv"}
    corpus = build(write_lines("l.jsonl", [line]), columns=fixed, missing="skip")
    assert corpus.passage_text(0, "sv") == "p"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "line 1: a language code is null"),
        ("", "line 1: '' is not a language code"),
        ("Finnish language", "line 1: 'Finnish language' is not a language code"),
        (3, "line 1: a language code is a number"),
    ],
)
def test_a_row_without_a_language_is_refused(
    value: object, message: str, write_lines: Write, build: Build
) -> None:
    path = write_lines("l.jsonl", [{"query": "q", "pos": ["p"], "lang": value}])
    with pytest.raises(UserError, match=message):
        build(path, columns=FLAG | LANGUAGES)


def test_a_fixed_language_that_is_a_column_of_codes_is_refused(write_lines: Write, build: Build) -> None:
    path = write_lines("l.jsonl", [{"query": "q", "pos": ["p"], "neg": [], "no": "fi"}])
    with pytest.raises(UserError, match=r"(?s)'no' is a column, and holds 'fi'.*language_column: no"):
        build(path, columns=FLAG | {"language": "no"})
    assert build(path, columns=FLAG | {"language": "no"}, languages=["no"]).languages == ("no",)
    indonesian = write_lines("i.jsonl", [{"id": "x7", "query": "q", "pos": ["p"], "neg": []}])
    assert build(indonesian, columns=FLAG | {"language": "id"}).languages == ("id",)


def test_settings_point_to_the_column_of_languages() -> None:
    with pytest.raises(ValueError, match=r"'lng' is not a language code.*name it in language_column"):
        ColumnSettings.model_validate({"language": "lng"})
    with pytest.raises(ValueError, match=r"'lang' is not a language code.*name it in language_column"):
        ColumnSettings.model_validate({"language": "lang"})
    with pytest.raises(ValueError, match="language and language_column exclude each other"):
        ColumnSettings.model_validate({"language": "en", "language_column": "lang"})


def test_negatives_in_numbered_columns(write_lines: Write, build: Build) -> None:
    row = {"anchor": "a", "positive": "b", "negative_10": "ten", "negative_2": "two", "negative_3": None}
    columns = {"question": "anchor", "passage": "positive", "negatives": "negative_{number}"}
    corpus = build(write_lines("n.jsonl", [row]), columns=columns | {"language": "en"})
    assert [corpus.passage_text(int(one), "en") for one in corpus.negatives] == ["two", "ten"]


def test_objects_of_lists_are_lists_of_objects(build: Build, tmp_path: Path) -> None:
    """A sequence of objects, as `datasets` stores it."""
    row = {"query": "q", "pos": {"docid": ["1", "2"], "title": ["t", ""], "text": ["a", "b"]}}
    path = tmp_path / "d.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    columns = {"question": "query", "passage": "pos", "language": "en"}
    corpus = build(path, "parquet", columns=columns)
    assert [(corpus.passage_id(row), corpus.passage_text(row, "en")) for row in range(2)] == [
        ("1", "t a"),
        ("2", "b"),
    ]

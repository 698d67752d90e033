"""Every mistake in a file ends in one UserError that names the place and says what to do."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.readers import open_source
from hbt_dist.data.corpus.settings import SourceSettings

Write = Callable[[str, Iterable[object]], Path]
Build = Callable[..., Corpus]

GOOD = {
    "id": "q0",
    "question": {"en": "question", "fi": "kysymys"},
    "passage": {"en": "passage", "fi": "teksti"},
}


def bad(**changes: Any) -> dict[str, Any]:
    """The second line of a file: GOOD under another id, changed; None removes a field."""
    return {key: value for key, value in (GOOD | {"id": "q1"} | changes).items() if value is not None}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{", "malformed JSON at column 2"),
        ('{"id": "q1"', "malformed JSON"),
        ("{'id': 1}", "malformed JSON"),
        ("[]", "holds a list"),
        ("null", "holds null"),
        ('"text"', "holds a string"),
        ("12", "holds a number"),
        ("[" * 100_000, "JSON that cannot be read"),
        ('{"id": ' + "9" * 5_000 + "}", "JSON that cannot be read"),
        (bad(id=None), "field 'id' is missing"),
        (bad(id=""), "field 'id' is empty"),
        (bad(id=["q"]), "field 'id' is a list"),
        (bad(id=True), "field 'id' is true or false"),
        (bad(id=1.5), "field 'id' is a number"),
        (bad(id="q0"), "example id 'q0' was used before"),
        (bad(question=None), "field 'question' is missing"),
        (bad(question="text"), "field 'question' is a string"),
        (bad(question={}), "field 'question' has no language"),
        (bad(question=[["en", "x"]]), "field 'question' is a list"),
        (bad(question={"en": ""}), "field 'question' in 'en' is empty"),
        (bad(question={"en": " \n"}), "field 'question' in 'en' is empty"),
        (bad(question={"en": 3}), "field 'question' in 'en' is a number"),
        (bad(question={"englich": "x"}), "'englich' is not a language code; did you mean en"),
        (bad(question={"fi": "x", "fin": "y"}), "field 'question' has 'fi' twice"),
        (bad(passage=None), "field 'passage' is missing"),
        (bad(passage={"en": {"text": "x"}}), "field 'passage' in 'en' is an object"),
        (bad(passage={"en": "x\ud800", "fi": "y"}), "half of a surrogate pair at character 2"),
        (bad(passage={"en": "x"}), "passage has no text in 'fi'"),
        (bad(passage_id=""), "field 'passage_id' is empty"),
        (bad(passage_id={}), "field 'passage_id' is an object"),
        (bad(negatives={"text": {"en": "x"}}), "field 'negatives' is an object"),
        (bad(negatives=["x"]), "is a string"),
        (bad(negatives=[{"id": "n"}]), "field 'text' is missing"),
        (bad(negatives=[{"text": {"en": ""}}]), "field 'text' in 'en' is empty"),
        (
            bad(passage_id="p", negatives=[{"id": "p", "text": GOOD["passage"]}]),
            "negative 'p' is the passage that answers the question",
        ),
        (bad(negatives=[{"id": 7, "text": {"en": "x"}}]), "negative '7' has no text in 'fi'"),
    ],
    ids=lambda value: (value if isinstance(value, str) else json.dumps(value))[:60],
)
def test_a_bad_line_is_named(write_lines: Write, build: Build, line: object, found: str) -> None:
    path = write_lines("train.jsonl", [GOOD, line, GOOD | {"id": "q2"}])
    with pytest.raises(UserError) as caught:
        build(path, languages=["en", "fi"])
    assert caught.value.location.startswith(f"{path} line 2")
    assert found in caught.value.problem
    assert caught.value.remedy


def test_one_passage_id_has_one_text(write_lines: Write, build: Build) -> None:
    rows = [GOOD | {"passage_id": "p"}, bad(passage_id="p", passage={"en": "other", "fi": "muu"})]
    with pytest.raises(UserError, match="line 2: passage 'p' has different texts"):
        build(write_lines("train.jsonl", rows))


def test_a_repeated_id_tells_both_places(write_lines: Write, build: Build) -> None:
    path = write_lines("train.jsonl", [GOOD, bad(), GOOD])
    with pytest.raises(UserError) as caught:
        build(path)
    assert caught.value.location.endswith("line 3")
    assert f"{path} line 1" in caught.value.problem


def test_damaged_files_are_named(tmp_path: Path, build: Build) -> None:
    line = json.dumps(GOOD).encode() + b"\n"
    packed = gzip.compress(line * 2_000)
    files = {
        "cut.jsonl.gz": (packed[:-20], "ends too early"),
        "plain.jsonl.gz": (line, "not a readable gzip file"),
        "noise.jsonl.gz": (packed[:30] + b"\xff" * 40 + packed[70:], "gzip file"),
        "latin.jsonl": (line + "ä".encode("latin-1") + b"\n", "line 2: byte 1 is not UTF-8"),
        "utf16.jsonl": (line.decode().encode("utf-16"), "expected UTF-8, got UTF-16"),
        "empty.jsonl": (b"", "the file is empty"),
        "blank.jsonl": (b"\n \n", "the file is empty"),
    }
    for name, (raw, found) in files.items():
        path = tmp_path / name
        path.write_bytes(raw)
        with pytest.raises(UserError, match=found) as caught:
            build(path)
        assert caught.value.location.startswith(str(path))
    with pytest.raises(UserError, match="no such file"):
        build(tmp_path / "nowhere.jsonl")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=r"holds no \.jsonl"):
        build(tmp_path / "folder")


def test_a_byte_order_mark_and_empty_lines_do_no_harm(tmp_path: Path, build: Build) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GOOD).encode() + b"\r\n\r\n")
    assert build(path).num_examples == 1


def squad(**changes: Any) -> dict[str, Any]:
    question = {"id": "q0", "question": "who", "answers": [{"text": "Ada", "answer_start": 4}]}
    paragraph = {"context": "It: Ada.", "qas": [question]}
    for key, value in changes.items():
        target = (
            question
            if key in question
            else question["answers"][0]
            if key in ("text", "answer_start")
            else paragraph
        )  # type: ignore[index]
        target[key] = value  # type: ignore[index]
    return {"data": [{"paragraphs": [paragraph]}]}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ([], "holds a list"),
        ({}, "field 'data' is missing"),
        ({"data": {}}, "field 'data' is an object"),
        ({"data": [3]}, "is a number"),
        (squad(answer_start=-1), "outside its context of 8 characters"),
        (squad(answer_start=6), "at 6 to 9 is outside its context of 8 characters"),
        (squad(answer_start="4"), "field 'answer_start' is a string"),
        (squad(text=None), "field 'text' is null"),
        (squad(context=""), "field 'context' is empty"),
        (squad(qas=None), "field 'qas' is null"),
        (squad(id=None), "field 'id' is null"),
        (squad(answers=3), "field 'answers' is a number"),
    ],
)
def test_bad_squad_files(tmp_path: Path, build: Build, content: object, found: str) -> None:
    (tmp_path / "squad").mkdir()
    (tmp_path / "squad" / "en.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        build(tmp_path / "squad", format="squad")
    assert "en.json" in caught.value.location
    assert found in caught.value.problem


def test_squad_files_that_do_not_fit_together(tmp_path: Path, build: Build) -> None:
    folder = tmp_path / "squad"
    folder.mkdir()
    with pytest.raises(UserError, match="nothing named by a language"):
        build(folder, format="squad")
    (folder / "en.json").write_text(json.dumps(squad()))
    (folder / "fi.json").write_text(json.dumps(squad(id="q1")))
    with pytest.raises(UserError, match="'de'"):
        build(folder, format="squad", languages=["en", "de"])
    with pytest.raises(UserError, match="question has no text in 'fi'"):
        build(folder, format="squad")
    (folder / "fin.json").write_text(json.dumps(squad()))
    with pytest.raises(UserError, match="second file of 'fi'"):
        build(folder, format="squad")
    (folder / "fin.json").rename(folder / "jp.json")
    with pytest.raises(UserError, match=r"jp\.json: 'jp' is not a language code; did you mean ja") as caught:
        build(folder, format="squad")
    assert caught.value.remedy == "rename it, or move it out of the folder"


@pytest.mark.parametrize(
    ("name", "rows", "found"),
    [
        ("passages.jsonl", None, "holds neither passages.jsonl.gz nor passages.jsonl"),
        ("questions.jsonl", None, "holds neither questions.jsonl.gz nor"),
        (
            "questions.jsonl",
            [{"id": "q", "passage": "x", "text": {"en": "a"}}],
            "'x' is not in the passages file",
        ),
        ("questions.jsonl", [{"id": "q", "text": {"en": "a"}}], "field 'passage' is missing"),
        ("passages.jsonl", [{"id": "p", "article": 0, "text": {"en": "a"}}] * 2, "'p' was used before"),
        ("passages.jsonl", [{"id": "p", "text": {"en": "a"}}], "field 'article' is missing"),
    ],
)
def test_bad_squad_parallel_folders(
    write_lines: Write, build: Build, tmp_path: Path, name: str, rows: list[object] | None, found: str
) -> None:
    folder = tmp_path / "pair"
    write_lines("pair/passages.jsonl", [{"id": "p", "article": 0, "text": {"en": "a"}}])
    write_lines("pair/questions.jsonl", [{"id": "q", "passage": "p", "text": {"en": "b"}}])
    if rows is None:
        (folder / name).unlink()
    else:
        write_lines(f"pair/{name}", rows)
    with pytest.raises(UserError, match=found):
        build(folder, format="squad-parallel", split="all")


def test_bad_line_parallel_folders(tmp_path: Path, build: Build) -> None:
    folder = tmp_path / "lines"
    folder.mkdir()

    def refused(found: str) -> None:
        with pytest.raises(UserError, match=found):
            build(folder, format="ntrex", split="all", languages=["en", "fi"])

    refused("nothing named by a language")
    (folder / "eng.txt").write_text("one\r\ntwo\r\n")
    refused("has no 'fi'")
    (folder / "fin.txt").write_text("yksi\r\nkaksi\r\n")
    refused("no document_ids.tsv")
    (folder / "document_ids.tsv").write_text("d\n")
    refused("ends after 1 lines")
    (folder / "document_ids.tsv").write_text("d\nd\n")
    assert build(folder, format="ntrex", split="all").question_texts("fi") == ["yksi", "kaksi"]
    (folder / "fin.txt").write_text("yksi\r\n\r\n")
    refused("the sentence is empty")


_texts = st.dictionaries(
    st.sampled_from(["en", "fi", "fin", "x", ""]), st.text(max_size=3) | st.none(), max_size=3
)
_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_rows = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=2) | st.integers() | _anything,
        "question": _texts | _anything,
        "passage": _texts | _anything,
        "passage_id": st.text(max_size=2) | _anything,
        "negatives": st.lists(st.fixed_dictionaries({"text": _texts}), max_size=2) | _anything,
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_rows | _anything, max_size=4), st.binary(max_size=8), st.integers(0, 400))
def test_only_user_errors_leave_the_reader(
    tmp_path: Path, rows: list[object], noise: bytes, position: int
) -> None:
    raw = "\n".join(json.dumps(row) for row in rows).encode()
    path = tmp_path / "fuzz.jsonl"
    path.write_bytes(raw[:position] + noise + raw[position:])
    source = SourceSettings(name="one", format="jsonl", path=str(path))
    try:
        for record in open_source(source, None, "skip").records():
            for texts in (record.question, record.passage):
                assert texts
                assert all(text.strip() and text.encode() for text in texts.values())
    except UserError as error:
        refused = error
    else:
        return
    assert str(path) in refused.location
    assert refused.problem


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(_rows, max_size=3))
def test_only_user_errors_leave_the_build(tmp_path: Path, build: Build, rows: list[dict[str, Any]]) -> None:
    path = tmp_path / "fuzz.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in [GOOD, *rows]))
    try:
        assert build(path, missing="skip").num_examples >= 1
    except UserError as error:
        refused = error
    else:
        return
    assert str(path) in refused.location

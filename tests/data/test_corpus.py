from __future__ import annotations

import gzip
import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from hbt_dist.common.errors import UserError
from hbt_dist.data import arrow_texts
from hbt_dist.data.corpus import convert as conversion
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import COLUMNS, Corpus
from hbt_dist.data.corpus.notes import reading_text
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.jobs.inspect import inspect_job
from hbt_dist.run_file import RunFile
from tests.batching.corpora import corpus_from_arrays
from tests.helpers.runs import tiny_run

Write = Callable[..., Path]
Build = Callable[..., Corpus]
Make = Callable[..., dict[str, Any]]


def test_a_negative_that_is_the_passage_is_left_out_and_counted(
    write_lines: Write, build: Build, make_example: Make, tmp_path: Path
) -> None:
    """Mined negatives often hold the positive: a refusal after a million rows helps nobody."""
    other = {"text": {"en": "no", "fi": "ei"}}
    rows = [make_example(i) for i in range(4)]
    rows[1]["negatives"] = [{"text": rows[1]["passage"]}, other]
    rows[2]["negatives"] = [other, {"text": dict(reversed(rows[2]["passage"].items()))}]
    corpus = build(write_lines("train.jsonl", rows))
    assert_array_equal(corpus.negative_offsets, [0, 0, 1, 2, 2])
    assert [corpus.passage_text(row, "en") for row in corpus.negatives.tolist()] == ["no", "no"]
    assert reading_text(corpus) == "one: left out 2 hard negatives that are the passage itself"
    plain = tiny_run(tmp_path / "out", tmp_path / "cache", batches__global_batch_size=2)
    source = {"name": "one", "format": "jsonl", "path": str(tmp_path / "train.jsonl")}
    run = RunFile.model_validate({**plain, "data": {**plain["data"], "sources": [source]}})
    shown = inspect_job(run, step=None, rows=1, tokens=False, as_json=False)
    assert shown.endswith(f"\n\n{reading_text(corpus)}")
    del rows[1]["negatives"], rows[2]["negatives"]
    assert reading_text(build(write_lines("without.jsonl", rows))) == ""


def test_what_is_written_is_read(write_lines: Write, build: Build, make_example: Make) -> None:
    rows = [
        make_example(0, passage_id="p", passage={"en": "shared", "fi": "jaettu"}),
        make_example(
            1, negatives=[{"id": "n", "text": {"en": "no", "fi": "ei"}}, {"text": {"en": "x", "fi": "y"}}]
        ),
        make_example(2, passage_id="p", passage={"fi": "jaettu", "en": "shared"}),
        make_example(3, negatives=[{"id": "n", "text": {"en": "no", "fi": "ei"}}]),
    ]
    corpus = build(write_lines("train.jsonl.gz", rows))
    assert corpus.languages == ("en", "fi")
    assert (corpus.num_examples, corpus.num_passages) == (4, 5)
    assert corpus.datasets == ("one",)
    assert_array_equal(corpus.example_passage, [0, 1, 0, 4])
    assert_array_equal(corpus.example_group, [0, 1, 0, 2])
    assert_array_equal(corpus.negative_offsets, [0, 0, 2, 2, 3])
    assert_array_equal(corpus.negatives, [2, 3, 2])
    assert corpus.passage_group[[0, 1, 4]].tolist() == [0, 1, 2]
    assert set(corpus.passage_group[[2, 3]].tolist()) == {3, 4}
    assert [corpus.example_id(i) for i in range(4)] == ["q0", "q1", "q2", "q3"]
    assert corpus.passage_id(0) == "p"
    assert corpus.question_text(2, "fi") == corpus.question_text(2, 1) == "question 2 fi"
    assert corpus.passage_text(2, "en") == "no"
    assert corpus.question_texts("en", 1, 3) == ["question 1 en", "question 2 en"]
    assert corpus.passage_texts("fi") == ["jaettu", "passage 1 fi", "ei", "y", "passage 3 fi"]
    for name, kind in COLUMNS.items():
        assert getattr(corpus, name).dtype == kind


def test_groups_join_equal_texts_of_one_language(
    write_lines: Write, build: Build, make_example: Make
) -> None:
    rows = [
        make_example(0, question={"en": "When  did he DIE?", "fi": "a"}),
        make_example(
            1, question={"en": "when did he die?", "fi": "b"}, passage={"en": "c", "fi": "yhteinen"}
        ),
        make_example(2, passage={"en": "d", "fi": "Yhteinen"}),
        make_example(3, question={"en": "b", "fi": "other"}),  # the Finnish "b" of 1 is another language
    ]
    assert_array_equal(build(write_lines("train.jsonl", rows)).example_group, [0, 0, 0, 1])


def test_cells_say_which_languages_there_are(write_lines: Write, build: Build, make_example: Make) -> None:
    rows = [
        make_example(0),
        make_example(1, question={"fi": "vain suomeksi"}),
        make_example(2, passage={"en": "only English", "sv": "svenska"}),
        make_example(3, question={"sv": "bara svenska"}),
        make_example(4),
    ]
    corpus = build(write_lines("train.jsonl", rows), languages=["fi", "en"], missing="skip")
    assert corpus.languages == ("fi", "en")
    assert corpus.manifest["statistics"][0] == {
        "name": "one", "examples": 4, "dropped": 1, "languages": ["en", "fi"]
    }  # fmt: skip
    has = [
        (corpus.cell_questions[cell].tolist(), corpus.cell_passages[cell].tolist())
        for cell in corpus.example_cell
    ]
    assert has == [
        ([True, True], [True, True]),
        ([True, False], [True, True]),
        ([True, True], [False, True]),
        ([True, True], [True, True]),
    ]
    assert len(corpus.cell_questions) == 3
    rows_PL = corpus.passage_has(np.arange(4)[:, None], np.arange(2)[None, :])
    assert rows_PL.tolist() == [[True, True], [True, True], [False, True], [True, True]]
    assert corpus.question_texts("en") == ["question 0 en", None, "question 2 en", "question 4 en"]
    with pytest.raises(KeyError, match="row 1 has no text in 'en'"):
        corpus.question_text(1, "en")
    with pytest.raises(KeyError):
        corpus.question_text(0, "sv")
    with pytest.raises(IndexError):
        corpus.question_texts("en", 0, 5)


def test_a_language_may_begin_after_many_rows(
    write_lines: Write, build: Build, make_example: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrow_texts, "_ROWS_PER_TABLE_BATCH", 3)
    rows = [make_example(i, ("en", "fi") if i < 8 else ("en", "hu")) for i in range(11)]
    corpus = build(write_lines("train.jsonl", rows), missing="skip")
    assert corpus.languages == ("en", "fi", "hu")
    for language, has in (("en", range(11)), ("fi", range(8)), ("hu", range(8, 11))):
        want = [f"question {i} {language}" if i in has else None for i in range(11)]
        assert corpus.question_texts(language) == want
        assert [corpus.question_texts(language, i, i + 1)[0] for i in range(11)] == want


@pytest.mark.parametrize(
    ("changes", "asked", "found"),
    [
        ({"passage": {"en": "x"}}, ["en", "fi"], "passage has no text in 'fi'"),
        ({"question": {"fi": "x"}}, ["en", "fi"], "question has no text in 'en'"),
        ({"passage": {"en": "x"}}, None, "passage has no text in 'fi'"),
        ({"question": {"fi": "x"}}, None, "question has no text in 'en'"),
        ({"negatives": [{"id": "n", "text": {"fi": "x"}}]}, ["en", "fi"], "negative 'n' has no text in 'en'"),
        ({"negatives": [{"id": "n", "text": {"fi": "x"}}]}, None, "negative has no text in 'en'"),
        ({}, ["en", "sv"], "question has no text in 'sv'"),
    ],
)
def test_a_missing_translation_is_refused(
    write_lines: Write,
    build: Build,
    make_example: Make,
    changes: dict[str, Any],
    asked: list[str] | None,
    found: str,
) -> None:
    bad = 1 if changes else 0
    path = write_lines("train.jsonl", [make_example(i, **(changes if i == bad else {})) for i in range(3)])
    with pytest.raises(UserError) as caught:
        build(path, languages=asked)
    assert caught.value.location == f"{path} line {bad + 1}"
    assert caught.value.problem == found
    assert "missing: skip" in caught.value.remedy


def test_a_language_that_no_source_has_is_refused(
    write_lines: Write, build: Build, make_example: Make
) -> None:
    path = write_lines("train.jsonl", [make_example(0)])
    with pytest.raises(UserError, match="no source has any text in 'sv'"):
        build(path, languages=["en", "sv"], missing="skip")
    block = {"name": "one", "format": "jsonl", "path": str(path), "languages": ["en", "sv"]}
    with pytest.raises(UserError, match="has no text in 'sv'"):
        build(sources=[block], missing="skip")
    with pytest.raises(UserError, match="no example at all"):
        build(path, languages=["sv"], missing="skip")


def test_sources_are_kept_apart(write_lines: Write, build: Build, make_example: Make) -> None:
    first = write_lines("a.jsonl", [make_example(0, passage_id="p"), make_example(1)])
    second = write_lines("b.jsonl", [make_example(5, ("hu", "en"), passage_id="p"), make_example(0)])
    blocks = [
        {"name": "a", "format": "jsonl", "path": str(first), "limit": 1},
        {"name": "b", "format": "jsonl", "path": str(second), "missing": "skip"},
    ]
    corpus = build(sources=blocks)
    assert corpus.datasets == ("a", "b")
    assert_array_equal(corpus.example_dataset, [0, 1, 1])
    assert_array_equal(corpus.example_passage, [0, 1, 2])  # one passage id in two sources is two passages
    assert_array_equal(corpus.example_group, [0, 1, 0])  # but equal texts still may not meet
    assert corpus.languages == ("en", "fi", "hu")


def test_the_second_build_opens_the_first(
    write_lines: Write, build: Build, make_example: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_lines("train.jsonl", [make_example(i) for i in range(3)])
    first = build(path)
    calls: list[str] = []
    whole = conversion._build
    monkeypatch.setattr(conversion, "_build", lambda *given: (calls.append("built"), whole(*given)))
    assert build(path).folder == first.folder
    assert calls == []
    os.utime(path, (1, 1))  # another date, the same content
    assert build(path).fingerprint == first.fingerprint
    path.rename(path.with_name("moved.jsonl"))
    moved = build(path.with_name("moved.jsonl"))
    assert (moved.fingerprint, calls) == (first.fingerprint, [])  # content counts, not the name
    packed = path.with_name("packed.jsonl.gz")
    packed.write_bytes(gzip.compress(path.with_name("moved.jsonl").read_bytes()))
    assert build(packed).fingerprint == first.fingerprint
    for changed in (
        {"languages": ["fi", "en"]},
        {"missing": "skip"},
        {"limit": 2},
    ):
        assert build(path.with_name("moved.jsonl"), **changed).fingerprint != moved.fingerprint


@pytest.mark.parametrize("age_seconds", [0, 1000])
def test_changed_content_is_noticed(
    write_lines: Write, build: Build, make_example: Make, age_seconds: int
) -> None:
    """Also when the size stays the same and, for a young file, even the modification time."""
    path = write_lines("train.jsonl", [make_example(0)])
    stamp = time.time() - age_seconds
    os.utime(path, (stamp, stamp))
    first = build(path)
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"question 0 en", b"question 9 en"))
    os.utime(path, (stamp, stamp) if not age_seconds else (stamp + 1, stamp + 1))
    second = build(path)
    assert second.fingerprint != first.fingerprint
    assert second.question_text(0, "en") == "question 9 en"


def test_a_failed_build_leaves_nothing(
    write_lines: Write, build: Build, make_example: Make, tmp_path: Path
) -> None:
    path = write_lines("train.jsonl", [*(make_example(i) for i in range(50)), "{"])
    with pytest.raises(UserError, match="line 51: malformed JSON"):
        build(path)
    assert [one.name for one in (tmp_path / "cache").iterdir() if one.is_dir()] == []


def test_what_a_killed_build_left_is_replaced(
    write_lines: Write, build: Build, make_example: Make, tmp_path: Path
) -> None:
    path = write_lines("train.jsonl", [make_example(0)])
    folder = build(path).folder
    assert folder is not None
    (folder / "manifest.json").unlink()
    folder.rename(folder.with_name(f"{folder.name}.tmp"))
    assert build(path).num_examples == 1
    assert [one.name for one in (tmp_path / "cache").iterdir() if one.is_dir()] == [folder.name]


def test_a_damaged_corpus_is_named(write_lines: Write, build: Build, make_example: Make) -> None:
    path = write_lines("train.jsonl", [make_example(0)])
    folder = build(path).folder
    assert folder is not None
    (folder / "negatives.npy").unlink()
    with pytest.raises(UserError, match="not a complete converted corpus"):
        build(path)


def _build_at(barrier: Any, path: str, cache: str, results: Any) -> None:
    barrier.wait()
    settings = DataSettings(sources=[{"name": "one", "format": "jsonl", "path": path}])  # type: ignore[list-item]
    corpus = build_corpus(settings, Path(cache))
    results.put((corpus.fingerprint, corpus.num_examples, corpus.question_text(999, "fi")))


def test_processes_may_build_at_once(write_lines: Write, make_example: Make, tmp_path: Path) -> None:
    path = write_lines("train.jsonl", [make_example(i) for i in range(2_000)])
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(3), context.Queue()
    given = (barrier, str(path), str(tmp_path / "cache"), results)
    processes = [context.Process(target=_build_at, args=given) for _ in range(3)]
    for process in processes:
        process.start()
    found = {results.get(timeout=60) for _ in processes}
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
    assert len(found) == 1
    assert next(iter(found))[1:] == (2_000, "question 999 fi")
    assert len([one for one in (tmp_path / "cache").iterdir() if one.is_dir()]) == 1


def test_another_process_gets_the_folder_not_the_arrays(
    write_lines: Write, build: Build, make_example: Make
) -> None:
    corpus = build(write_lines("train.jsonl", [make_example(i) for i in range(500)]))
    sent = pickle.dumps(corpus)
    assert len(sent) < 1_000
    assert_array_equal(pickle.loads(sent).example_passage, corpus.example_passage)


def test_nothing_is_written_outside_the_cache(write_lines: Write, make_example: Make, tmp_path: Path) -> None:
    path = write_lines("train.jsonl", [make_example(0)])
    home = tmp_path / "home"
    home.mkdir()
    code = (
        "from hbt_dist.data.corpus.settings import DataSettings\n"
        "from hbt_dist.data.corpus.convert import build_corpus\n"
        f"c = build_corpus(DataSettings(sources=[dict(name='a', format='jsonl', path={str(path)!r})])); "
        "print(c.question_text(0, 'en'))"
    )
    environment = {**os.environ, "HOME": str(home), "HF_HOME": str(home / "hf"), "TMPDIR": str(home)}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "question 0 en"
    assert [one for one in home.rglob("*") if one.is_file()] == []
    assert (tmp_path / ".cache" / "hbt_dist" / "digests.json").parent.is_dir()


def test_arrays_alone_make_a_corpus() -> None:
    passages = np.array([0, 0, 2, 1, 2])
    corpus = corpus_from_arrays(
        languages=["en", "fi"],
        example_passage=passages,
        example_cell=np.array([0, 0, 1, 1, 1], np.int32),
        cell_questions=np.array([[True, True], [True, False]]),
        cell_passages=np.array([[True, True], [False, True]]),
        negative_offsets=np.array([0, 1, 1, 1, 1, 1]),
        negatives=np.array([3]),
    )
    assert (corpus.num_examples, corpus.num_passages) == (5, 4)
    assert_array_equal(corpus.example_group, [0, 0, 2, 1, 2])
    assert_array_equal(corpus.passage_group, [0, 1, 2, 3])
    assert corpus.passage_has(np.arange(4), 0).tolist() == [True, False, False, True]
    assert corpus.alignment == (False,)


def test_the_manifest_tells_where_the_rows_came_from(
    write_lines: Write, build: Build, make_example: Make
) -> None:
    corpus = build(write_lines("train.jsonl", [make_example(0)]))
    manifest = json.loads(json.dumps(corpus.manifest))
    assert manifest["files"] == [["train.jsonl"]]
    ((digest,),) = manifest["sources"][0]["files"]
    assert len(digest) == 64
    assert manifest["fingerprint"] == corpus.fingerprint

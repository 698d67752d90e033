"""Instructions per source, row and language: from the data to the tokens of a batch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hbt_dist.batching.collate import TokenTransform, collate
from hbt_dist.batching.flat_prefixes import flat_prefixes
from hbt_dist.batching.inspection import inspect
from hbt_dist.batching.inspection_text import render
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.tokens import ROLES, TokenStore, store_fingerprint
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus import builder
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus, Role
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.data.corpus.notes import reading_text
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.data.instructions import check_language_names, filled
from hbt_dist.methods.code_switching.switching import plan_batches
from hbt_dist.models.settings import TextSettings
from tests.batching.test_tokens import make_tokenizer

TEXT = TextSettings(question_prefix="model: ", passage_prefix="text: ", max_question_tokens=40)
NAMES = {"en": "English", "fi": "Finnish"}
FIND = "find the {language} text "


def lines(path: Path, *, prefixes: tuple[Any, ...] = (), field: str = "prefix", count: int = 12) -> str:
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row: dict[str, Any] = {"id": f"q{number}"}
            row |= {
                key: {code: f"{code} {key} number{number}" for code in NAMES}
                for key in ("question", "passage")
            }
            if prefixes:
                row[field] = prefixes[number % len(prefixes)]
            file.write(json.dumps(row) + "\n")
    return str(path)


def corpus_of(folder: Path, *sources: dict[str, Any]) -> Corpus:
    listed = [{"name": f"s{i}", "format": "jsonl", **source} for i, source in enumerate(sources)]
    return build_corpus(DataSettings.model_validate({"sources": listed}), folder / "cache")


def mixed(folder: Path) -> Corpus:
    """A plain source, one with prefixes, one with instructions in its rows."""
    rows = lines(folder / "c.jsonl", prefixes=("task: ", None, "", "in {language}: "), field="prompt")
    return corpus_of(
        folder,
        {"path": lines(folder / "a.jsonl")},
        {"path": lines(folder / "b.jsonl"), "question_prefix": FIND, "passage_prefix": ""},
        {"path": rows, "question_prefix": "source: "},
    )


def prefix_by_hand(corpus: Corpus, role: str, row: int, language: str) -> str:
    """Questions and passages come source by source, 12 each."""
    source, number = divmod(row, 12)
    if role == "passage":
        return ("text: ", "", "text: ")[source]
    of_rows = ("task: ", "source: ", "", f"in {NAMES[language]}: ")
    return ("model: ", f"find the {NAMES[language]} text ", of_rows[number % 4])[source]


def test_tokens_are_those_of_prefix_and_text(tmp_path: Path) -> None:
    corpus, tokenizer = mixed(tmp_path), make_tokenizer()
    store = TokenStore.of(corpus, tokenizer, TEXT, tmp_path, progress=False)
    for role, read, tokens in (
        ("question", corpus.question_text, store.questions),
        ("passage", corpus.passage_text, store.passages),
    ):
        for row in range(36):
            for index, language in enumerate(corpus.languages):
                text = prefix_by_hand(corpus, role, row, language) + read(row, language)
                want = tokenizer(text, truncation=True, max_length=40)["input_ids"]
                got = tokens(np.array([row]), np.array([index])).row(0).tolist()
                assert got == want, (role, row, language)
    assert corpus.prefixes[0] is None
    assert set(corpus.prefixes) == {None, FIND, "", "task: ", "source: ", "in {language}: "}
    again = Corpus.open(corpus.folder)
    assert again.prefixes == corpus.prefixes
    assert "columns: prefix: prompt" in reading_text(corpus)


def test_prompts_that_pooling_leaves_out_have_the_length_of_each_row(tmp_path: Path) -> None:
    corpus, tokenizer = mixed(tmp_path), make_tokenizer()
    text = TEXT.model_copy(update={"include_prompt": False})
    store = TokenStore.of(corpus, tokenizer, text, tmp_path, progress=False)
    rows, languages = np.arange(36), np.zeros(36, np.int64)
    questions = store.questions(rows, languages)
    special = {int(token) for token in tokenizer.all_special_ids}
    for row in range(36):
        prefix = prefix_by_hand(corpus, "question", row, "en")
        ids = tokenizer(prefix)["input_ids"]
        want = len(ids) - (ids[-1] in special) if prefix else 0
        assert questions.prompts is not None
        assert questions.prompts[row] == want
    mask = questions.pad(np.array([0, 14, 26]))[1]
    assert (mask == 2).sum(1).tolist() == questions.prompts[[0, 14, 26]].tolist()


def settings(**keys: Any) -> BatchSettings:
    block = {"global_batch_size": 8, "mixture": [{"kind": "monolingual"}], **keys}
    return BatchSettings.model_validate(block)


def test_the_plan_does_not_know_prefixes_and_tokens_do(tmp_path: Path) -> None:
    path = lines(tmp_path / "a.jsonl")
    plain = corpus_of(tmp_path, {"path": path})
    prefixed = corpus_of(tmp_path, {"path": path, "question_prefix": "find "})
    changed = corpus_of(tmp_path, {"path": path, "question_prefix": "Find "})
    assert plain.example_prefix is None
    plans = [BatchPlan(corpus, settings(), 0) for corpus in (plain, prefixed, changed)]
    for step in range(4):
        batches = [plan.batch(step) for plan in plans]
        for name in ("example", "question_language", "passage_language"):
            assert len({getattr(batch, name).tobytes() for batch in batches}) == 1
    tokenizer = make_tokenizer()
    marks = {store_fingerprint(corpus, tokenizer, TEXT) for corpus in (plain, prefixed, changed)}
    marks.add(store_fingerprint(plain, tokenizer, TEXT.model_copy(update={"question_prefix": "x "})))
    marks.add(store_fingerprint(plain, tokenizer, TEXT.model_copy(update={"include_prompt": False})))
    assert len(marks) == 5


def test_switched_texts_keep_their_prefix(tmp_path: Path) -> None:
    corpus, tokenizer = mixed(tmp_path), make_tokenizer()
    (tmp_path / "en-fi.txt").write_text("question kysymys\npassage kappale\n")
    block = settings(
        code_switching={
            "dictionaries": {"en-fi": str(tmp_path / "en-fi.txt")},
            "question_probability": 1,
            "passage_probability": 1,
        }
    )
    text = TEXT.model_copy(update={"include_prompt": False})
    store = TokenStore.of(corpus, tokenizer, text, tmp_path, progress=False)
    plan = plan_batches(corpus, block, 0)
    assert plan.transform is not None
    transform = TokenTransform(plan.transform, corpus, tokenizer, text)
    switched = 0
    for step in range(6):
        batch = plan.batch(step)
        local = collate(batch, corpus, store, transform=transform)
        rows = {"question": batch.example, "passage": np.asarray(corpus.example_passage)[batch.example]}
        languages = {"question": batch.question_language, "passage": batch.passage_language}
        for role, tokens in (("question", local.questions), ("passage", local.passages)):
            change = plan.transform.change(role, corpus, batch, 0)
            for index, changed in zip(change.index.tolist(), change.texts, strict=True):
                language = corpus.languages[languages[role][index]]
                prefix = prefix_by_hand(corpus, role, int(rows[role][index]), language)
                want = tokenizer(prefix + changed, truncation=True, max_length=40)["input_ids"]
                assert tokens.row(index).tolist() == want
                switched += 1
    assert switched > 20


def test_inspect_counts_prefixes_by_source(tmp_path: Path) -> None:
    corpus = mixed(tmp_path)
    shown = render(inspect(BatchPlan(corpus, settings(), 0), 4))
    table = shown[shown.index("Prefixes by dataset") :].split("\n\n")[0]
    rows = {tuple(line.split()) for line in table.splitlines()}
    assert ("s0", "question", "(the", "model's)", "12") in rows
    assert ("s1", "question", "'find", "the", "{language}", "text", "'", "12") in rows
    assert ("s1", "passage", "''", "12") in rows
    assert ("s2", "question", "'task:", "'", "3") in rows
    assert ("s2", "question", "'source:", "'", "3") in rows
    plain = corpus_of(tmp_path, {"path": lines(tmp_path / "d.jsonl")})
    assert "Prefixes" not in render(inspect(BatchPlan(plain, settings(), 0), 4))


@pytest.mark.parametrize("name", ["prompt", "instruction", "query_instruction", "prefix"])
def test_usual_names_of_instructions(name: str, tmp_path: Path) -> None:
    rows = [
        {"query": f"q{i}", "pos": [f"p{i}"], "neg": [f"n{i}"], **({name: f"task {i % 2}: "} if i else {})}
        for i in range(4)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = corpus_of(tmp_path, {"path": str(path), "columns": {"language": "en"}})
    assert corpus.prefixes == (None, "task 1: ", "task 0: ")
    assert corpus.example_prefix is not None
    assert corpus.example_prefix.tolist() == [0, 1, 2, 1]
    left_out = corpus_of(tmp_path, {"path": str(path), "columns": {"language": "en", "prefix": None}})
    assert left_out.prefixes == (None,)
    named = {"language": "en", "question": "query", "passage": "pos", "negatives": "neg"}
    if name != "prefix":  # a mapping of one's hand takes no usual name
        assert corpus_of(tmp_path, {"path": str(path), "columns": named}).prefixes == (None,)
    assert corpus_of(tmp_path, {"path": str(path), "columns": {**named, "prefix": name}}).prefixes[1:]


@pytest.mark.parametrize(
    ("source", "prefixes", "problem"),
    [
        ({"question_prefix": "in {lang}: "}, (), r"expected no placeholder but {language}, got {lang}"),
        ({"passage_prefix": "{task} {language}"}, (), r"got {task}"),
        ({}, ("do {task}: ",), r"a.jsonl line 1: field 'prefix': expected no placeholder .* got {task}"),
        ({}, (3,), "field 'prefix' is a number"),
        ({"columns": {"prefix": "hint", "language": "en"}}, (), "no row has a column 'hint'"),
    ],
)
def test_bad_prefixes_are_one_error(
    source: dict[str, Any], prefixes: tuple[Any, ...], problem: str, tmp_path: Path
) -> None:
    path = lines(tmp_path / "a.jsonl", prefixes=prefixes)
    with (
        pytest.raises(ValueError, match=problem)
        if not prefixes and "columns" not in source
        else pytest.raises(UserError, match=problem)
    ):
        corpus_of(tmp_path, {"path": path, **source})


def test_a_language_without_a_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = {"id": "1", "question": {"x-klingon": "a"}, "passage": {"x-klingon": "b"}}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"line 1, prefix 'in \{language\}: '") as caught:
        corpus_of(tmp_path, {"path": str(path), "question_prefix": "in {language}: "})
    assert "got 'x-klingon'" in caught.value.problem
    corpus_of(tmp_path, {"path": str(path)})
    check_language_names({"question_prefix": "in {language}: "}, ["en", "zh-hant"])
    with pytest.raises(UserError, match="x-klingon"):
        check_language_names({"passage_prefix": "in {language}: "}, ["en", "x-klingon"])


def test_texts_in_the_column_of_instructions_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(builder, "MOST_PREFIXES", 5)
    path = lines(tmp_path / "a.jsonl", prefixes=tuple(f"t{i}" for i in range(12)))
    with pytest.raises(UserError, match="more than 5 different prefixes"):
        corpus_of(tmp_path, {"path": path})


@pytest.mark.parametrize("role", ROLES)
def test_prefixes_of_all_texts_in_one_sequence(tmp_path: Path, role: Role) -> None:
    corpus = mixed(tmp_path)
    texts = FlatTexts(corpus, role)
    prefixes = flat_prefixes(texts, TEXT)
    assert prefixes is not None
    rows, languages = texts.sources(range(len(texts)))
    codes = corpus.prefix_codes(role, rows)
    want = [
        filled(TEXT.prefix(role) if corpus.prefixes[code] is None else corpus.prefixes[code], name)
        for code, name in zip(codes, np.array(corpus.languages)[languages], strict=True)
    ]
    assert len(set(want)) > 2 if role == "question" else len(set(want)) == 2
    assert list(prefixes) == want
    assert [prefixes[number] for number in range(len(texts))] == want
    assert prefixes[5:11] == want[5:11]
    plain = FlatTexts(corpus_of(tmp_path, {"path": lines(tmp_path / "plain.jsonl")}), role)
    assert flat_prefixes(plain, TEXT) is None
    named = TEXT.model_copy(update={"question_prefix": FIND, "passage_prefix": FIND})
    assert list(flat_prefixes(plain, named) or ()) == [
        filled(FIND, code) for code in ("en", "fi") for _ in range(12)
    ]

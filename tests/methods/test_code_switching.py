"""Code-switching: what is drawn, what is restored, what the dictionaries may hold, and a training with it."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from transformers import PreTrainedTokenizerFast

from hbt_dist.batching.collate import LocalBatch, TokenTransform, collate
from hbt_dist.batching.inspection import inspect
from hbt_dist.batching.kinds import KINDS
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.resume import check_resume
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.tokens import TokenRows, TokenStore, replace_rows
from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.world import World
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.data.sample import TRAINING_LANGUAGES
from hbt_dist.jobs.train import train_in_process
from hbt_dist.methods.code_switching.dictionaries import (
    Lexicon,
    load_lexicon,
    read_dictionary,
    sample_dictionary,
)
from hbt_dist.methods.code_switching.inspection import switching_tables
from hbt_dist.methods.code_switching.settings import CodeSwitchingSettings
from hbt_dist.methods.code_switching.switching import (
    CodeSwitching,
    SwitchCounts,
    plan_batches,
)
from hbt_dist.methods.code_switching.vectors import nearest, nearest_words, read_vectors
from hbt_dist.methods.code_switching.words import split_words, with_case_of
from hbt_dist.models.initial import train_tokenizer
from hbt_dist.models.settings import ScratchSettings, TextSettings
from hbt_dist.models.tokenising import Tokenised, tokenise
from hbt_dist.run_file import RunFile, find_run_file, load_run, resolve_paths
from hbt_dist.testing.check_plan import check_plan
from hbt_dist.training.step import summed_figures
from tests.helpers.runs import tiny_run
from tests.helpers.tokenizers import word_tokenizer

LANGUAGES = ("en", "fi", "de")
WORDS = [f"word{chr(97 + i // 26)}{chr(97 + i % 26)}" for i in range(400)]
KNOWN = WORDS[:300]
TEXT = TextSettings(question_prefix="q: ", max_question_tokens=40, max_passage_tokens=80)


def lexicon(**pairs: dict[str, str]) -> Lexicon:
    found: dict[str, dict[str, dict[str, str]]] = {}
    for pair, words in pairs.items():
        source, target = pair.split("_")
        found.setdefault(source, {})[target] = words
    return Lexicon(found)


LEXICON = lexicon(en_fi={word: f"fi{word}" for word in KNOWN}, en_de={word: f"de{word}" for word in KNOWN})


def switching(words: Lexicon = LEXICON, seed: int = 5, **block: Any) -> CodeSwitching:
    settings = CodeSwitchingSettings.model_validate({"dictionaries": "somewhere", **block})
    return CodeSwitching(settings, words, LANGUAGES, seed)


def switch_all(
    one: CodeSwitching, texts: list[str], role: Any = "question", step: int = 0, first: int = 0
) -> tuple[list[str], SwitchCounts]:
    row = first + np.arange(len(texts))
    found, counts = one.switch(role, step, row, np.zeros_like(row), np.zeros_like(row), texts)
    return [new or old for new, old in zip(found, texts, strict=True)], counts


def random_texts(number: int, words: int = 20, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, words)) + "." for _ in range(number)]


# --- words ---------------------------------------------------------------------------------------------


@given(st.text(max_size=80))
def test_the_parts_give_the_text(text: str) -> None:
    parts = split_words(text)
    assert "".join(parts) == text
    assert len(parts) % 2 == 1
    assert all(part[0].isalnum() and not part[0].isdecimal() for part in parts[1::2])
    assert split_words(text + " é")[:-3] == parts[:-1]  # plain ASCII has a pattern of its own


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't  panic, 2nd try: 42 (x2)!", ["Don", "t", "panic", "try", "x2"]),
        ("हिन्दी में लिखा है।", ["हिन्दी", "में", "लिखा", "है"]),
        ("na\u0308yte-erä\n", ["na\u0308yte", "erä"]),
        ("中文 没有空格。", ["中文", "没有空格"]),
        ("", []),
    ],
)
def test_what_is_a_word(text: str, words: list[str]) -> None:
    assert split_words(text)[1::2] == words


def test_a_capital_initial_is_kept() -> None:
    assert with_case_of("Cat", "kissa") == "Kissa"
    assert with_case_of("cat", "Katze") == "Katze"
    assert with_case_of("CAT", "猫") == "猫"
    one = switching(lexicon(en_fi={"cat": "kissa"}), question_probability=1.0)
    assert switch_all(one, ["Cat, cats & the CAT; «cat»"])[0] == ["Kissa, cats & the Kissa; «kissa»"]


# --- what is drawn -------------------------------------------------------------------------------------


@given(st.lists(st.text(max_size=60), max_size=5), st.integers(0, 2**40))
def test_probability_zero_and_words_without_translation_change_nothing(texts: list[str], seed: int) -> None:
    for one in (
        switching(seed=seed, question_probability=0.0),
        switching(seed=seed, question_probability=1.0),
    ):
        found, counts = switch_all(one, texts)
        assert found == texts
        assert counts.switched == 0


@pytest.mark.parametrize("chance", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("variant", ["bilingual", "multilingual"])
def test_the_ratio_is_binomial_over_the_known_words(chance: float, variant: str) -> None:
    one = switching(variant=variant, question_probability=chance, passage_probability=0.1)
    texts = random_texts(500)
    found, counts = switch_all(one, texts)
    known = sum(word in set(KNOWN) for text in texts for word in split_words(text)[1::2])
    changed = sum(
        new != old
        for a, b in zip(found, texts, strict=True)
        for new, old in zip(split_words(a)[1::2], split_words(b)[1::2], strict=True)
    )
    assert counts == SwitchCounts(500, 500 * 20, known, changed)
    assert counts.ratio == pytest.approx(changed / 10_000)
    assert abs(changed - chance * known) <= 5 * np.sqrt(chance * (1 - chance) * known)
    _, passages = switch_all(one, texts, "passage")
    assert abs(passages.switched - 0.1 * known) < 5 * np.sqrt(0.09 * known)


def languages_of(text: str) -> set[str]:
    return {word[:2] for word in split_words(text)[1::2] if word[:2] in ("fi", "de")}


def test_bilingual_rows_have_one_language_per_role_multilingual_ones_several() -> None:
    texts = random_texts(400)
    two = switching(variant="bilingual", question_probability=0.8, passage_probability=0.8)
    asked, answers = switch_all(two, texts)[0], switch_all(two, texts, "passage")[0]
    assert all(len(languages_of(text)) <= 1 for text in asked + answers)
    pairs = Counter((*languages_of(a), *languages_of(b)) for a, b in zip(asked, answers, strict=True))
    for a in ("fi", "de"):  # each of four pairs with a quarter: drawn uniformly and independently
        for b in ("fi", "de"):
            assert abs(pairs[a, b] - 100) < 5 * np.sqrt(400 * 3 / 16)
    many = switch_all(switching(variant="multilingual", question_probability=0.8), texts)[0]
    assert all(len(languages_of(text)) == 2 for text in many)
    words = Counter(word[:2] for text in many for word in split_words(text)[1::2])
    total = words["fi"] + words["de"]
    assert abs(words["fi"] - total / 2) < 5 * np.sqrt(total / 4)


def test_a_hard_negative_shares_its_rows_language_but_not_its_draws() -> None:
    one = switching(passage_probability=0.5)
    texts = random_texts(1) * 100
    rows, zeros = np.arange(100), np.zeros(100, np.int64)
    positive, _ = one.switch("passage", 0, rows, zeros, zeros, texts)
    negative, _ = one.switch("passage", 0, rows, zeros + 1, zeros, texts)
    for a, b in zip(positive, negative, strict=True):
        assert a is not None
        assert b is not None
        assert languages_of(a) == languages_of(b)
    assert sum(a == b for a, b in zip(positive, negative, strict=True)) < 5


def test_draws_depend_on_seed_step_row_and_role_alone() -> None:
    texts = random_texts(30)
    one = switching(variant="multilingual")
    first = switch_all(one, texts)[0]
    assert switch_all(switching(variant="multilingual"), texts)[0] == first
    assert switch_all(one, texts[10:], first=10)[0] == first[10:]
    others = [
        switch_all(switching(variant="multilingual", seed=6), texts)[0],
        switch_all(one, texts, step=1)[0],
        switch_all(one, texts, first=1)[0],
        switch_all(one, texts, "passage")[0],
    ]
    assert all(sum(a == b for a, b in zip(first, other, strict=True)) <= 1 for other in others)


def test_rows_are_chosen_by_chance_kind_and_language() -> None:
    rows = np.arange(4000)
    kind = np.tile(np.arange(4), 1000)
    english = np.zeros(4000, np.int64)
    one = switching(row_probability=0.3, kinds=["monolingual", "any_pair"])
    found = one.chosen(7, rows, kind, english)
    wanted = np.isin(kind, [KINDS.index("monolingual"), KINDS.index("any_pair")])
    assert not found[~wanted].any()
    assert abs(found.sum() - 0.3 * 2000) < 5 * np.sqrt(0.21 * 2000)
    assert not one.chosen(7, rows, kind, english + 1).any()  # Finnish has no dictionary
    assert switching().chosen(7, rows, kind, english).all()


# --- through collate -----------------------------------------------------------------------------------


def make_tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(["q", ":", ".", *(f"{code}{word}" for word in WORDS for code in ("", "fi", "de"))])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    asked, answers = random_texts(600, 8, seed=1), random_texts(600, 30, seed=2)
    records = [
        {
            "id": f"e{i}",
            "question": {"en": asked[i], "fi": f"fi {asked[i]}"},
            "passage": {"en": answers[i], "fi": f"fi {answers[i]}"},
        }
        for i in range(600)
    ]
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    block = {"sources": [{"name": "made", "format": "jsonl", "path": str(path)}]}
    return build_corpus(DataSettings.model_validate(block), folder / "cache")


@pytest.fixture(scope="module")
def store(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore.of(corpus, make_tokenizer(), TEXT, tmp_path_factory.mktemp("tokens"), progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dictionaries from English into Finnish and German."""
    path = tmp_path_factory.mktemp("dictionaries")
    for target in ("fi", "de"):
        lines = "".join(f"{word} {target}{word}\n" for word in KNOWN)
        (path / f"en-{target}.txt").write_text(lines, encoding="utf-8")
    (path / "en-fi.0-5000.txt").write_text("a part that MUSE publishes beside the whole\n", encoding="utf-8")
    return path


def plan_of(corpus: Corpus, folder: Path | None, seed: int = 3, **block: Any) -> BatchPlan:
    """Batches of 24 rows with a hard negative, switched if there is a folder of dictionaries."""
    switched = {} if folder is None else {"code_switching": {"dictionaries": str(folder), **block}}
    settings = {"global_batch_size": 24, "alpha": 0.5, "hard_negatives": {"count": 1}, **switched}
    return plan_batches(corpus, BatchSettings.model_validate(settings), seed)


def test_a_plan_without_the_transform_of_its_settings_is_refused(corpus: Corpus, folder: Path) -> None:
    plan = plan_of(corpus, folder)
    with pytest.raises(UserError) as error:
        BatchPlan(corpus, plan.settings, plan.seed)
    assert error.value.location == "batches.code_switching"
    assert "plan_batches(corpus, settings, seed)" in error.value.remedy
    assert "hbt_dist.methods.code_switching" in error.value.remedy
    with pytest.raises(UserError, match=r"batches\.code_switching"):
        check_plan(corpus, plan.settings)
    check_plan(corpus, plan.settings, steps=range(2), transform=plan.transform)
    assert BatchPlan(corpus, plan.settings, plan.seed, plan.transform).fingerprint == plan.fingerprint


def slices(plan: BatchPlan, corpus: Corpus, store: TokenStore, step: int, world: int) -> list[LocalBatch]:
    transform = None
    if plan.transform is not None:
        transform = TokenTransform(plan.transform, corpus, make_tokenizer(), TEXT)
    batch = plan.batch(step)
    return [collate(batch, corpus, store, rank, world, transform=transform) for rank in range(world)]


def rows_of(rows: TokenRows) -> list[list[int]]:
    return [rows.row(i).tolist() for i in range(len(rows))]


@pytest.mark.parametrize("variant", ["bilingual", "multilingual"])
def test_every_world_size_trains_on_the_same_switched_rows(
    corpus: Corpus, store: TokenStore, folder: Path, variant: str
) -> None:
    plan = plan_of(corpus, folder, variant=variant)
    for step in range(3):
        (whole,) = slices(plan, corpus, store, step, 1)
        assert whole.changes is not None
        for world in (2, 4):
            parts = slices(plan, corpus, store, step, world)
            assert [row for part in parts for row in rows_of(part.questions)] == rows_of(whole.questions)
            size = 24 // world
            positives = [row for part in parts for row in rows_of(part.passages)[:size]]
            negatives = [row for part in parts for row in rows_of(part.passages)[size:]]
            assert positives + negatives == rows_of(whole.passages)
            for role in ("question", "passage"):
                counts = [part.changes[role] for part in parts if part.changes is not None]
                assert sum(counts, SwitchCounts()) == whole.changes[role]


def test_switched_rows_are_the_tokens_of_the_switched_texts_all_others_of_the_store(
    corpus: Corpus, store: TokenStore, folder: Path
) -> None:
    plan = plan_of(corpus, folder, kinds=["monolingual"], row_probability=0.7, variant="multilingual")
    plain_plan = plan_of(corpus, None)
    assert isinstance(plan.transform, CodeSwitching)
    tokenizer, seen = make_tokenizer(), Counter[str]()
    for step in range(20):
        batch = plan.batch(step)
        (local,), (plain,) = slices(plan, corpus, store, step, 1), slices(plain_plan, corpus, store, step, 1)
        english = batch.question_language == corpus.languages.index("en")
        for i in range(24):
            if batch.kind != "monolingual" or not english[i]:
                assert local.questions.row(i).tolist() == plain.questions.row(i).tolist()
                seen["left"] += 1
                continue
            text = corpus.question_text(int(batch.example[i]), "en")
            row = np.array([i])
            zero = row * 0
            if plan.transform.chosen(step, row, zero, zero)[0]:
                (new,), _ = plan.transform.switch("question", step, row, zero, zero, [text])
                text = new or text
                seen["switched"] += new is not None
            wanted = tokenizer("q: " + text, truncation=True, max_length=40)["input_ids"]
            assert local.questions.row(i).tolist() == wanted
    assert min(seen["left"], seen["switched"]) > 20


def test_without_the_block_or_with_probability_zero_nothing_changes(
    corpus: Corpus, store: TokenStore, folder: Path
) -> None:
    off = plan_of(corpus, None)
    zero = plan_of(corpus, folder, question_probability=0, passage_probability=0)
    never = plan_of(corpus, folder, row_probability=0)
    assert "code_switching" not in off.state
    for step in range(3):
        ((plain,), (a,), (b,)) = (slices(plan, corpus, store, step, 1) for plan in (off, zero, never))
        assert plain.changes is None
        for other in (a, b):
            np.testing.assert_array_equal(other.questions.ids, plain.questions.ids)
            np.testing.assert_array_equal(other.passages.ids, plain.passages.ids)
            np.testing.assert_array_equal(other.batch.example, plain.batch.example)


@given(st.data())
def test_replaced_rows(data: st.DataObject) -> None:
    old = data.draw(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=8))
    places = sorted(data.draw(st.sets(st.integers(0, len(old) - 1))))
    new = [data.draw(st.lists(st.integers(10, 19), max_size=4)) for _ in places]
    ids = np.array([token for one in old for token in one], np.int32)
    rows = TokenRows(ids, np.concatenate([[0], np.cumsum([len(one) for one in old])]).astype(np.int64), 7)
    encoded = Tokenised(
        [np.array(ids, np.int32) for ids in new], *np.zeros((2, len(new)), bool), np.zeros(len(new), np.int64)
    )
    found = replace_rows(rows, np.array(places, np.int64), encoded)
    wanted = {**dict(enumerate(old)), **dict(zip(places, new, strict=True))}
    assert rows_of(found) == [wanted[i] for i in range(len(old))]
    assert found.pad_id == 7
    assert found.ids.dtype == np.int32


def test_a_step_of_256_rows_costs_little(tmp_path: Path) -> None:
    """Processor time of collating, best of several steps: the embedded sample, a byte-pair tokenizer.

    The tokenizer's work on the changed texts is taken off: it is the tokenizer's, and runs on all cores.
    """
    source = {"name": "sample", "format": "sample", "languages": ["en", "fi"]}
    corpus = build_corpus(DataSettings.model_validate({"sources": [source]}), tmp_path)
    words = {word for row in range(745) for word in split_words(corpus.passage_text(row, "en"))[1::2]}
    (tmp_path / "en-fi.txt").write_text("".join(f"{word} {word}nen\n" for word in words), encoding="utf-8")
    block = {"global_batch_size": 256, "mixture": [{"kind": "monolingual", "languages": ["en"]}]}
    block["code_switching"] = {"dictionaries": {"en-fi": str(tmp_path / "en-fi.txt")}}
    plan = plan_batches(corpus, BatchSettings.model_validate(block), 0)
    assert plan.transform is not None
    tokenizer = train_tokenizer(ScratchSettings(vocabulary_size=2000), corpus)
    store = TokenStore.of(corpus, tokenizer, TEXT, tmp_path / "tokens", progress=False)
    transform = TokenTransform(plan.transform, corpus, tokenizer, TEXT)
    costs, tokenizing = [], []
    for batch in [plan.batch(step) for step in range(8)]:
        began = time.process_time()
        local = collate(batch, corpus, store, transform=transform)
        costs.append(time.process_time() - began)
        assert local.changes is not None
        assert local.changes["question"].texts == local.changes["passage"].texts == 256
        assert local.changes["passage"].ratio > 0.4
        changed = [plan.transform.change(role, corpus, batch) for role in ("question", "passage")]
        began = time.process_time()
        for one in changed:
            tokenise(tokenizer, one.texts, 80)
        tokenizing.append(time.process_time() - began)
    assert min(costs) - min(tokenizing) < 0.060, (costs, tokenizing)


# --- plan, resume, inspection, settings ----------------------------------------------------------------


def test_settings_and_content_of_the_dictionaries_decide_the_plan(
    corpus: Corpus, folder: Path, tmp_path: Path
) -> None:
    plan = plan_of(corpus, folder)
    for file in folder.iterdir():  # the same content elsewhere is the same plan
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert plan_of(corpus, tmp_path).fingerprint == plan.fingerprint
    check_resume(plan.state, plan_of(corpus, tmp_path, max_source_words=7).state)
    with pytest.raises(UserError, match=r"code_switching.question_probability was 0.5, is 0.25"):
        check_resume(plan.state, plan_of(corpus, folder, question_probability=0.25).state)
    with pytest.raises(UserError, match=r"code_switching.variant was None, is bilingual"):
        check_resume(plan_of(corpus, None).state, plan.state)
    (tmp_path / "en-de.txt").write_text("worda Wort\n", encoding="utf-8")
    with pytest.raises(UserError, match="the dictionaries of code-switching have changed"):
        check_resume(plan.state, plan_of(corpus, tmp_path).state)


def test_inspection_tells_the_realised_ratio_and_shows_switched_texts(corpus: Corpus, folder: Path) -> None:
    plan = plan_of(corpus, folder, question_probability=1.0, source_languages=["en"])
    report = inspect(plan, 40, step=1)
    (table,) = switching_tables(plan, 40, corpus)
    question, passage = table.rows
    assert question[:1] + passage[:1] == ("question", "passage")
    assert question[3] == question[5] == pytest.approx(0.75, abs=0.05)  # 300 of 400 words, all switched
    assert passage[5] == pytest.approx(0.375, abs=0.05)
    assert "en: de fi" in table.note
    (shown,) = report.step
    asked = "".join(str(row[shown.columns.index("question")]) for row in shown.rows)
    assert "fiword" in asked
    assert "deword" in asked
    assert table.title == "Code-switching (bilingual)"
    assert switching_tables(plan_of(corpus, None), 40, corpus) == []


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({}, "exactly one of `dictionaries` and `vectors`"),
        ({"dictionaries": "sample", "vectors": {"en": "a", "fi": "b"}}, "exactly one"),
        ({"dictionaries": {}}, "no dictionary is named"),
        ({"dictionaries": {"en": "x"}}, "not a pair of languages"),
        ({"dictionaries": {"en-en": "x"}}, "one language twice"),
        ({"vectors": {"en": "x"}}, "two languages at least"),
        ({"dictionaries": "sample", "question_probability": 1.1}, "less than or equal to 1"),
        ({"dictionaries": "sample", "variant": "trilingual"}, "bilingual"),
        ({"dictionaries": "sample", "kinds": ["crosslingual"]}, "the mixture has no crosslingual rows"),
        ({"dictionaries": "sample", "kinds": []}, "at least 1 item"),
        ({"dictionaries": "sample", "probability": 1}, "Extra inputs"),
    ],
)
def test_refused_blocks(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        BatchSettings.model_validate(
            {"global_batch_size": 8, "mixture": {"monolingual": 1}, "code_switching": block}
        )


# --- dictionaries --------------------------------------------------------------------------------------


def load(languages: tuple[str, ...] = ("en", "fi"), **block: Any) -> Lexicon:
    return load_lexicon(CodeSwitchingSettings.model_validate(block), languages)


def test_muse_files(tmp_path: Path) -> None:
    file = tmp_path / "en-fi.txt"
    file.write_text("Cat kissa\ncat misse\n\ndog\tiso koira\r\n the the\n", encoding="utf-8")
    assert read_dictionary(file) == {"cat": "kissa", "dog": "iso koira", "the": "the"}


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        (b"cat kissa\ndog\n", " line 2", "holds 1 word: 'dog'"),
        (b"cat kissa koira\n", " line 1", "holds 3 words"),
        (b"cat\tkissa\tkoira\n", " line 1", "holds 3 words"),
        (b"cat kissa\n\tkissa\n", " line 2", "one side of the pair is empty"),
        (b"cat kissa\ncaf\xe9 kahvila\n", " line 2", "not UTF-8"),
        (b"\n", "", "the file is empty"),
    ],
)
def test_bad_dictionary_lines_are_named(tmp_path: Path, content: bytes, line: str, found: str) -> None:
    file = tmp_path / "en-fi.txt"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load(dictionaries={"en-fi": str(file)})
    assert caught.value.location == f"{file}{line}"
    assert found in caught.value.problem


def test_folders_and_choices(folder: Path, tmp_path: Path) -> None:
    assert sorted(load(dictionaries=str(folder)).pairs["en"]) == ["de", "fi"]
    assert sorted(load(dictionaries=str(folder), target_languages=["de"]).pairs["en"]) == ["de"]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"dictionaries": str(tmp_path)}, "holds no dictionary"),
        ({"dictionaries": "samples"}, "neither a folder nor the name of a dictionary"),
        ({"dictionaries": {"en-fi": str(tmp_path / "none.txt")}}, "no such file"),
        ({"dictionaries": str(folder), "target_languages": ["sv"]}, "no dictionary has sv"),
        ({"dictionaries": str(folder), "source_languages": ["fi"]}, "no dictionary has fi"),
        ({"dictionaries": {"sv-fi": "x"}}, "no dictionary fits"),
        ({"dictionaries": {"sv-fi": "x"}, "source_languages": ["sv"]}, "have no texts in sv"),
    ]
    for block, message in cases:
        with pytest.raises(UserError, match=message):
            load(**block)
    for name in ("en-fi.txt", "eng-fin.txt"):
        (tmp_path / name).write_text("a b\n", encoding="utf-8")
    with pytest.raises(UserError, match="are of one pair"):
        load(dictionaries=str(tmp_path))


def test_the_dictionary_of_the_sample() -> None:
    words = sample_dictionary("en", "fi")
    assert words["finland"] == "Suomi"
    assert words["hungarian"] == "unkari"
    assert words["monday"] == "maanantai"
    assert sample_dictionary("en", "ja")["euro"] == "ユーロ"
    assert all(word == word.lower() and len(split_words(word)) == 3 for word in words)
    found = load(("en", "fi"), dictionaries="sample", source_languages=["en"])
    assert sorted(found.pairs) == ["en"]
    assert sorted(found.pairs["en"]) == sorted(set(TRAINING_LANGUAGES) - {"en"})
    assert "et" in load(dictionaries="sample", target_languages=["et"]).pairs["en"]


# --- word vectors --------------------------------------------------------------------------------------


def write_vectors(file: Path, words: list[str], vectors: np.ndarray) -> Path:
    rows = (f"{word} {' '.join(map(repr, row))}" for word, row in zip(words, vectors.tolist(), strict=True))
    text = f"{len(words)} {vectors.shape[1]}\n" + "".join(row + " \n" for row in rows)
    file.write_text(text, encoding="utf-8")
    return file


def test_nearest_neighbours_are_those_of_the_whole_cosine_matrix(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.standard_normal((70, 12)), random.standard_normal((90, 12))
    en = write_vectors(tmp_path / "en.vec", [f"en{i}" for i in range(70)], ours)
    fi = write_vectors(tmp_path / "fi.vec", [f"fi{i}" for i in range(90)], theirs)
    block = {"vectors": {"en": str(en), "fi": str(fi)}, "cache_dir": str(tmp_path / "kept")}
    block |= {"max_source_words": 60, "max_target_words": 80}
    cosine = (ours / np.linalg.norm(ours, axis=1)[:, None]) @ (
        theirs / np.linalg.norm(theirs, axis=1)[:, None]
    ).T
    wanted = {f"en{i}": f"fi{j}" for i, j in enumerate(cosine[:60, :80].argmax(1))}
    found = load(source_languages=["en"], **block)
    assert found.pairs == {"en": {"fi": wanted}}
    (kept,) = (tmp_path / "kept").glob("*.tsv")
    made = kept.stat().st_mtime_ns
    assert load(source_languages=["en"], **block).fingerprint == found.fingerprint
    assert kept.stat().st_mtime_ns == made
    both = load(**block)
    assert sorted(both.pairs) == ["en", "fi"]


def test_blocks_of_the_search_give_the_same_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    a, b = (random.integers(-2, 3, (n, 4)).astype(np.float32) for n in (37, 53))
    whole = (a @ b.T).argmax(axis=1)
    monkeypatch.setattr("hbt_dist.methods.code_switching.vectors._SOURCES_AT_ONCE", 5)
    monkeypatch.setattr("hbt_dist.methods.code_switching.vectors._TARGETS_AT_ONCE", 7)
    np.testing.assert_array_equal(nearest(a, b), whole)  # ties: the first


@pytest.mark.parametrize(
    ("content", "line", "found"),
    [
        ("", " line 1", "is not a header"),
        ("cat 0.1 0.2\n", " line 1", "is not a header"),
        ("2 2\ncat 0.1 0.2\ndog 0.1\n", " line 3", "holds 1 values"),
        ("1 2\ncat 0.1 0.2 0.3\n", " line 2", "holds 3 values"),
        ("1 2\ncat 0.1 x\n", " line 2", "not a number"),
        ("1 2\ncat 0 0\n", " line 2", "zero or not finite"),
        ("1 2\ncat nan 1\n", " line 2", "zero or not finite"),
        ("3 2\ncat 1 1\n", "", "ends after 1 words"),
    ],
)
def test_bad_vector_lines_are_named(tmp_path: Path, content: str, line: str, found: str) -> None:
    file = tmp_path / "en.vec"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        read_vectors(file, 10)
    assert caught.value.location == f"{file}{line}"
    assert found in caught.value.problem


def test_vectors_of_two_spaces_are_refused(tmp_path: Path) -> None:
    en = write_vectors(tmp_path / "en.vec", ["a"], np.ones((1, 2)))
    fi = write_vectors(tmp_path / "fi.vec", ["b"], np.ones((1, 3)))
    with pytest.raises(UserError, match="has vectors of 3 numbers"):
        nearest_words(en, fi, max_source_words=9, max_target_words=9, cache_dir=tmp_path)
    assert not list(tmp_path.glob("*.tsv"))


# --- the whole -----------------------------------------------------------------------------------------


def test_figures_of_a_step() -> None:
    counts = {"question": SwitchCounts(2, 10, 6, 3), "passage": SwitchCounts()}
    assert summed_figures(counts, World.alone()) == {  # type: ignore[arg-type]
        "switched_question_words": 0.3,
        "switched_passage_words": 0.0,
        "code_switching": {
            "question": {"texts": 2, "words": 10, "known": 6, "switched": 3},
            "passage": {"texts": 0, "words": 0, "known": 0, "switched": 0},
        },
    }


def test_a_training_reports_the_realised_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is as before afterwards
        monkeypatch.delenv(name)
    block = tiny_run(tmp_path / "out", tmp_path / "cache", training__steps=3, training__checkpoint_every=3)
    block["batches"]["mixture"] = [{"kind": "monolingual", "languages": ["en"]}]
    del block["batches"]["alpha"]
    block["batches"]["code_switching"] = {
        "dictionaries": "sample",
        "target_languages": ["fi", "hu"],
        "question_probability": 1.0,
        "passage_probability": 1.0,
    }
    run = resolve_paths(RunFile.model_validate(block))
    train_in_process(run, quiet=True)
    lines = (tmp_path / "out" / "metrics.jsonl").read_text("utf-8").splitlines()
    corpus = build_corpus(run.data, Path(run.data.cache_dir))
    plan = plan_batches(corpus, run.batches, run.seed)
    assert isinstance(plan.transform, CodeSwitching)
    for step, row in enumerate(map(json.loads, lines)):
        batch = plan.batch(step)
        texts = [corpus.question_text(int(example), "en") for example in batch.example]
        _, counts = switch_all(plan.transform, texts, step=step)
        found = row["code_switching"]["question"]
        assert found["texts"] == len(batch) == 12
        assert found["words"] == sum(len(split_words(text)) // 2 for text in texts)
        assert 0 < found["switched"] == found["known"]
        assert row["switched_question_words"] == pytest.approx(found["switched"] / found["words"], abs=1e-6)
        assert 0 < row["switched_passage_words"] < 0.5
        assert counts.words == found["words"]
    assert (tmp_path / "out" / "model" / "model.safetensors").is_file()


def test_the_embedded_run_file() -> None:
    run = load_run("code_switched", ["batches.code_switching.question_probability=0.25"])
    assert run.batches.code_switching is not None
    assert run.batches.code_switching.question_probability == 0.25
    assert run.batches.code_switching.dictionaries == "sample"
    assert Path(run.batches.code_switching.cache_dir).is_absolute()
    assert find_run_file("code_switched").is_file()
    relative = load_run("code_switched", ["batches.code_switching.dictionaries={en-fi: some/file.txt}"])
    assert relative.batches.code_switching is not None
    assert relative.batches.code_switching.dictionaries == {"en-fi": str(Path("some/file.txt").absolute())}

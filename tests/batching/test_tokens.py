"""Token store, collating and chunks, compared with tokenising each text on its own."""

from __future__ import annotations

import json
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, normalizers
from transformers import PreTrainedTokenizerFast

from hbt_dist.batching.collate import collate
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.tokens import TokenRows, TokenStore, store_fingerprint
from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.chunks import Limits, chunk_plan, padding_waste
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.models.settings import TextSettings
from hbt_dist.training.preparation import describe_texts
from tests.helpers.tokenizers import word_tokenizer

TEXT = TextSettings(question_prefix="q: ", max_question_tokens=8, max_passage_tokens=12)


def make_tokenizer() -> PreTrainedTokenizerFast:
    return word_tokenizer(["q", ":", *(f"w{i}" for i in range(200))])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    folder = tmp_path_factory.mktemp("corpus")
    return make_corpus(folder)


def make_corpus(folder: Path, finnish_from: int = 20) -> Corpus:
    records = [
        {
            "id": f"e{i}",
            "passage_id": f"p{i}",
            "question": {code: f"w{i} {code} " + "w1 " * (i % 9) for code in languages},
            "passage": {code: f"w{i} {code} " + "w2 " * (i % 17) for code in languages},
        }
        for i in range(60)
        for languages in [["en", "fi", "sv"] if i >= finnish_from else ["en", "sv"]]
    ]
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    source = {"name": "made", "format": "jsonl", "path": str(path)}
    block = {"sources": [source], "languages": ["en", "fi", "sv"], "missing": "skip"}
    return build_corpus(DataSettings.model_validate(block), folder / "cache")


@pytest.fixture(scope="module")
def store(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return TokenStore.of(corpus, make_tokenizer(), TEXT, tmp_path_factory.mktemp("tokens"), progress=False)


def encode_alone(corpus: Corpus, role: str, row: int, language: int) -> list[int]:
    code = corpus.languages[language]
    text = corpus.question_text(row, code) if role == "question" else corpus.passage_text(row, code)
    limit = TEXT.max_question_tokens if role == "question" else TEXT.max_passage_tokens
    prefix = TEXT.question_prefix if role == "question" else TEXT.passage_prefix
    ids: list[int] = make_tokenizer()(prefix + text, truncation=True, max_length=limit)["input_ids"]
    return ids


def test_rows_are_those_of_the_tokenizer(corpus: Corpus, store: TokenStore) -> None:
    random = np.random.default_rng(0)
    for role, gather in (("question", store.questions), ("passage", store.passages)):
        rows = random.integers(20, 60, 50)
        languages = random.integers(0, 3, 50)
        got = gather(rows, languages)
        for i in range(50):
            assert got.row(i).tolist() == encode_alone(corpus, role, int(rows[i]), int(languages[i]))
    with pytest.raises(LookupError, match="question 3 has no text in 'fi'"):
        store.questions(np.array([3]), np.array([corpus.languages.index("fi")]))


def test_report_counts_texts_and_truncation(corpus: Corpus, store: TokenStore) -> None:
    found = {(report.role, report.language): report for report in store.reports}
    assert len(found) == 6
    assert found["question", "fi"].texts == 40
    assert found["passage", "en"].texts == 60
    tokenizer = make_tokenizer()
    texts = [corpus.passage_text(row, "en") for row in range(60)]
    lengths = [len(tokenizer(text)["input_ids"]) for text in texts]
    assert found["passage", "en"].truncated == sum(length > 12 for length in lengths)
    assert found["passage", "en"].tokens == sum(min(length, 12) for length in lengths)
    assert found["passage", "en"].longest == 12
    assert 0 < found["passage", "en"].truncated_share < 1
    assert store.lengths("passage", 0).tolist() == [min(length, 12) for length in lengths]


def test_a_start_reports_texts_without_tokens_and_unknown_tokens(corpus: Corpus, tmp_path: Path) -> None:
    tokenizer = make_tokenizer()  # 'en' and 'sv' are unknown to it
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(Regex("^w7 (en|sv)( w1)*"), "")
    text = TextSettings(max_question_tokens=30, max_passage_tokens=30)
    store = TokenStore.of(corpus, tokenizer, text, tmp_path, progress=False)
    report = store.reports[0]
    assert (report.role, report.language, report.special_only, report.unknown) == ("question", "en", 1, 59)
    lines = describe_texts(store)
    assert lines[0] == "2 of 160 questions give no token but special ones (en, sv): their vectors are equal"
    assert lines[1] == f"{59 / report.tokens:.1%} of the tokens of questions in en are unknown"


def test_pad_puts_rows_beside_each_other() -> None:
    rows = TokenRows(np.arange(10, dtype=np.int32), np.array([0, 3, 4, 10]), pad_id=99)
    input_ids, mask = rows.pad()
    assert input_ids.tolist() == [[0, 1, 2, 99, 99, 99], [3, 99, 99, 99, 99, 99], [4, 5, 6, 7, 8, 9]]
    assert mask.tolist() == [[1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]]
    some, _ = rows.pad(np.array([1, 0]))
    assert some.tolist() == [[3, 99, 99], [0, 1, 2]]


def test_fingerprint_follows_tokenizer_and_settings_not_their_use(corpus: Corpus) -> None:
    tokenizer = make_tokenizer()
    first = store_fingerprint(corpus, tokenizer, TEXT)
    tokenizer(["w1"], truncation=True, max_length=3, padding="max_length")
    assert store_fingerprint(corpus, tokenizer, TEXT) == first
    assert store_fingerprint(corpus, tokenizer, TEXT.model_copy(update={"max_passage_tokens": 13})) != first
    assert store_fingerprint(corpus, tokenizer, TEXT.model_copy(update={"passage_prefix": "p: "})) != first
    assert store_fingerprint(corpus, tokenizer, TEXT.model_copy(update={"pooling": "cls"})) == first


def test_an_interrupted_build_goes_on(corpus: Corpus, store: TokenStore, tmp_path: Path) -> None:
    class Interrupting:
        """A corpus whose Swedish passages cannot be read."""

        def __getattr__(self, name: str) -> Any:
            return getattr(corpus, name)

        def passage_texts(self, language: str, start: int, stop: int) -> list[str | None]:
            if language == "sv":
                raise KeyboardInterrupt
            return corpus.passage_texts(language, start, stop)

    with pytest.raises(KeyboardInterrupt):
        TokenStore.of(Interrupting(), make_tokenizer(), TEXT, tmp_path, progress=False)
    (folder,) = tmp_path.iterdir()
    assert not (folder / "manifest.json").exists()
    finished = (folder / "question.en.ids").stat().st_mtime_ns
    again = TokenStore.of(corpus, make_tokenizer(), TEXT, tmp_path, progress=False)
    assert (folder / "question.en.ids").stat().st_mtime_ns == finished
    assert again.reports == store.reports


def _build(corpus: Corpus, cache: Path, answers: Any) -> None:
    built = TokenStore.of(corpus, make_tokenizer(), TEXT, cache, progress=False)
    answers.put([report.tokens for report in built.reports])


def test_many_processes_share_one_build(corpus: Corpus, store: TokenStore, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    workers = [context.Process(target=_build, args=(corpus, tmp_path, answers)) for _ in range(3)]
    for worker in workers:
        worker.start()
    got = [answers.get(timeout=60) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert got == [[report.tokens for report in store.reports]] * 3
    assert len(list(tmp_path.iterdir())) == 1


def test_a_text_without_tokens_is_refused(tmp_path: Path, corpus: Corpus) -> None:
    class Blank:
        def __getattr__(self, name: str) -> Any:
            return getattr(corpus, name)

        def question_texts(self, language: str, start: int, stop: int) -> list[str | None]:
            return [
                " " if text is not None else None for text in corpus.question_texts(language, start, stop)
            ]

    with pytest.raises(UserError, match="question 'e0'"):
        TokenStore.of(Blank(), make_tokenizer(), TEXT, tmp_path, progress=False)


def test_store_travels_between_processes_as_its_folder(store: TokenStore) -> None:
    copy = pickle.loads(pickle.dumps(store))
    rows, languages = np.array([30, 31]), np.array([0, 1])
    np.testing.assert_array_equal(copy.passages(rows, languages).ids, store.passages(rows, languages).ids)


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("negatives", [0, 2])
def test_collate_gives_each_rank_its_rows_in_gathered_order(
    corpus: Corpus, store: TokenStore, world_size: int, negatives: int
) -> None:
    block = {"global_batch_size": 16, "hard_negatives": {"count": negatives}, "mixing": "shares"}
    batch = BatchPlan(corpus, BatchSettings.model_validate(block), 2).batch(3)
    locals_ = [collate(batch, corpus, store, rank, world_size) for rank in range(world_size)]
    share = 16 // world_size
    groups, sub_batches = [], []
    for rank, local in enumerate(locals_):
        assert len(local.questions) == share
        assert len(local.passages) == share * (1 + negatives)
        mine = batch.rank_slice(rank, world_size)
        wanted = [
            (int(corpus.example_passage[e]), int(c))
            for e, c in zip(mine.example, mine.passage_language, strict=True)
        ]
        wanted += [
            (int(mine.negative[i, j]), int(mine.negative_language[i, j]))
            for i in range(share)
            for j in range(negatives)
        ]
        for place, (row, language) in enumerate(wanted):
            assert local.passages.row(place).tolist() == encode_alone(corpus, "passage", row, language)
        for place in range(share):
            alone = encode_alone(
                corpus, "question", int(mine.example[place]), int(mine.question_language[place])
            )
            assert local.questions.row(place).tolist() == alone
        groups += [int(corpus.passage_group[row]) for row, _ in wanted]
        sub_batches += mine.sub_batch.tolist() + np.repeat(mine.sub_batch, negatives).tolist()
    for local in locals_:
        assert local.passage_group_N.tolist() == groups
        assert local.sub_batch_N.tolist() == sub_batches
        assert local.sub_batch_B.tolist() == batch.sub_batch.tolist()


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=80),
    st.integers(1, 20),
    st.integers(1, 2000) | st.none(),
    st.sampled_from([None, 0.0, 0.1, 0.5]),
)
def test_chunks_hold_every_row_once_within_their_bounds(
    lengths: list[int], max_rows: int, max_tokens: int | None, max_padding: float | None
) -> None:
    sizes = np.array(lengths)
    chunks = chunk_plan(sizes, Limits(max_rows, max_tokens, max_padding))
    assert sorted(np.concatenate(chunks).tolist()) == list(range(len(lengths)))
    for chunk in chunks:
        assert 1 <= len(chunk) <= max_rows
        if max_tokens is not None and len(chunk) > 1:
            assert len(chunk) * sizes[chunk].max() <= max_tokens
    assert sizes[chunks[0]].max() == sizes.max()
    if max_padding is not None:
        assert all(padding_waste(sizes, [chunk]) <= max_padding for chunk in chunks)
    if max_tokens is None and len(sizes) % max_rows == 0:  # else a short last chunk may suit
        in_order = np.split(np.arange(len(sizes)), len(sizes) // max_rows)
        assert padding_waste(sizes, chunks) <= padding_waste(sizes, in_order) + 1e-12


def test_padding_waste() -> None:
    assert padding_waste(np.array([4, 4, 4]), [np.array([0, 1, 2])]) == 0
    assert padding_waste(np.array([4, 1]), [np.array([0, 1])]) == pytest.approx(3 / 8)
    with pytest.raises(ValueError, match="got 0 rows"):
        chunk_plan(np.array([1]), Limits(0))


def test_padding_that_costs_less_than_a_chunk_ends_none() -> None:
    lengths = np.array([8, 7, 2, 1])
    assert [len(c) for c in chunk_plan(lengths, Limits(4, padding=0.1))] == [2, 1, 1]
    assert [len(c) for c in chunk_plan(lengths, Limits(4, padding=0.1, free_padding=7))] == [3, 1]

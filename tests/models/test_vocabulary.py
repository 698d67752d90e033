"""A tokenizer that is cut to the pieces of texts reads these texts as before, piece by piece."""

from __future__ import annotations

import copy
import random
from pathlib import Path
from typing import Any

import pytest
import transformers
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.models.settings import ModelSettings
from hbt_dist.models.vocabulary import Cut, PieceTable, cut_pieces, rebuild_tokenizer, scripts_of
from tests.helpers.tokenizers import word_tokenizer
from tests.models.vocabularies import KINDS, tokenizer_of

LANGUAGES = ("en", "fi", "hu", "ru", "ja")
USED = ("en", "fi")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """Questions and passages of the embedded sample, by language."""
    source = {"name": "sample", "format": "sample", "languages": LANGUAGES}
    corpus = build_corpus(
        DataSettings.model_validate({"sources": [source]}), tmp_path_factory.mktemp("cache")
    )
    return {
        code: [
            text
            for text in [*corpus.question_texts(code)[:400], *corpus.passage_texts(code)[:400]]
            if text is not None
        ]
        for code in LANGUAGES
    }


@pytest.fixture(scope="module")
def tokenizers(texts: dict[str, list[str]]) -> dict[str, Any]:
    return {kind: tokenizer_of(kind, [text for code in LANGUAGES for text in texts[code]]) for kind in KINDS}


def cut_of(table: PieceTable, read: list[str], more: set[int] = frozenset()) -> Cut:  # type: ignore[assignment]
    used = {i for ids in table.tokenizer(read)["input_ids"] for i in ids} | more
    used |= table.pieces_of_unknown_words(read)
    return cut_pieces(table, table.with_parts(used | table.always_kept()))


def differing(table: PieceTable, cut: Cut, tokenizer: Any, read: list[str]) -> list[str]:
    """Texts whose pieces are not the same up to their numbers."""
    before, after = table.tokenizer(read)["input_ids"], tokenizer(read)["input_ids"]
    return [
        text
        for text, old, new in zip(read, before, after, strict=True)
        if old != cut.old_ids[new].tolist()
        or table.tokenizer.convert_ids_to_tokens(old) != tokenizer.convert_ids_to_tokens(new)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_keep_their_pieces(
    kind: str, texts: dict[str, list[str]], tokenizers: dict[str, Any], tmp_path: Path
) -> None:
    table = PieceTable(tokenizers[kind], "model")
    read = [text for code in USED for text in texts[code]]
    cut = cut_of(table, read)
    tokenizer = rebuild_tokenizer(table.tokenizer, cut, tmp_path)
    assert len(tokenizer) == len(cut.old_ids) < 0.8 * len(table)
    assert differing(table, cut, tokenizer, read) == []
    for name in ("pad", "bos", "eos", "cls", "sep", "mask"):
        assert cut.old_ids[getattr(tokenizer, f"{name}_token_id")] == getattr(
            table.tokenizer, f"{name}_token_id"
        )
    if KINDS[kind][3]:  # words are independent: new orders of the words of these texts
        words = sorted({word for text in read for word in text.split()})
        drawn = random.Random(7)
        mixed = [" ".join(drawn.choices(words, k=drawn.randint(1, 12))) for _ in range(400)]
        assert differing(table, cut, tokenizer, mixed) == []
    unread = [text for code in LANGUAGES if code not in USED for text in texts[code]]
    assert differing(table, cut, tokenizer, unread) != []  # they fall into smaller pieces
    for text in unread:  # and stay readable: as many unknown characters as before, the same text again
        old, new = table.tokenizer(text)["input_ids"], tokenizer(text)["input_ids"]
        if kind.startswith("byte"):
            assert tokenizer.decode(new) == table.tokenizer.decode(old)
        else:
            assert (tokenizer.unk_token_id in new) == (table.tokenizer.unk_token_id in old), text


@pytest.mark.parametrize("kind", ["character pairs", "byte fallback", "byte level"])
def test_a_dropped_merge_is_noticed(
    kind: str, texts: dict[str, list[str]], tokenizers: dict[str, Any], tmp_path: Path
) -> None:
    table = PieceTable(tokenizers[kind], "model")
    cut = cut_of(table, texts["en"])
    described = copy.deepcopy(cut.described)
    dropped = described["model"]["merges"].pop(len(described["model"]["merges"]) // 2)
    tokenizer = rebuild_tokenizer(table.tokenizer, Cut(described, cut.old_ids), tmp_path)
    assert differing(table, cut, tokenizer, texts["en"]), dropped


def test_a_dropped_piece_is_noticed(
    texts: dict[str, list[str]], tokenizers: dict[str, Any], tmp_path: Path
) -> None:
    table = PieceTable(tokenizers["unigram"], "model")
    used = {i for ids in table.tokenizer(texts["en"])["input_ids"] for i in ids}
    (longest,) = sorted(used - table.always_kept(), key=lambda i: len(table.model["vocab"][i][0]))[-1:]
    cut = cut_pieces(table, (used | table.always_kept()) - {longest})
    assert differing(table, cut, rebuild_tokenizer(table.tokenizer, cut, tmp_path), texts["en"])


def test_the_lowest_score_stays_because_unknown_characters_count_from_it(tmp_path: Path) -> None:
    """Unknown q and one piece, or three pieces: 10 below the lowest score decides."""
    pieces = [("<unk>", 0.0), ("▁", -1.0), ("▁q1", -12.0), ("2", -12.0), ("3", -11.0), ("123", -1.0)]
    pieces += [("1", -5.0), ("low", -30.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    table = PieceTable(tokenizer, "model")
    assert tokenizer.tokenize("q123") == ["▁q1", "2", "3"]
    cut = cut_of(table, ["q123", "123"], {5})
    assert tokenizer.convert_tokens_to_ids("low") in cut.old_ids
    assert rebuild_tokenizer(tokenizer, cut, tmp_path).tokenize("q123") == ["▁q1", "2", "3"]
    wrong = cut_pieces(table, {*range(7)})
    assert rebuild_tokenizer(tokenizer, wrong, tmp_path).tokenize("q123") == ["▁", "q", "123"]


def test_a_word_that_was_unknown_stays_unknown(tmp_path: Path) -> None:
    """abc + ##d failed; without abc, ab + ##cd would read the word."""
    pieces = ["[UNK]", "a", "ab", "abc", "##b", "##c", "##cd", "x", "[PAD]"]
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]"
    )
    table, read = PieceTable(tokenizer, "model"), ["abcd ab xcd"]
    assert tokenizer.tokenize(read[0]) == ["[UNK]", "ab", "x", "##cd"]
    cut = cut_of(table, read)
    assert differing(table, cut, rebuild_tokenizer(tokenizer, cut, tmp_path), read) == []
    used = {i for ids in tokenizer(read)["input_ids"] for i in ids}
    wrong = cut_pieces(table, used | table.always_kept())
    assert differing(table, wrong, rebuild_tokenizer(tokenizer, wrong, tmp_path), read) == read


@pytest.mark.parametrize("kind", KINDS)
def test_a_language_keeps_the_pieces_of_its_script(
    kind: str, texts: dict[str, list[str]], tokenizers: dict[str, Any], tmp_path: Path
) -> None:
    table = PieceTable(tokenizers[kind], "model")
    cut = cut_of(table, texts["en"], table.written_in(scripts_of(["uk"])))
    tokenizer = rebuild_tokenizer(table.tokenizer, cut, tmp_path)
    russian = [" ".join(w for w in text.split() if w.isalpha() and w > "Ѐ") for text in texts["ru"]]
    if kind != "byte fallback":  # whose pieces cross words
        assert differing(table, cut, tokenizer, [text for text in russian if text]) == []
    assert len(cut.old_ids) < len(table)


def test_scripts_of_languages() -> None:
    assert scripts_of(["sw", "ja", "zh-hant", "ko", "fa"]) == {"Latn", "Hira", "Kana", "Hani", "Hang", "Arab"}


@pytest.mark.parametrize(
    ("tokenizer", "kind"),
    [(transformers.ByT5Tokenizer(), "ByT5Tokenizer"), (word_tokenizer(["a"]), "WordLevel")],
)
def test_tokenizers_that_cannot_be_cut_are_refused(tokenizer: Any, kind: str) -> None:
    with pytest.raises(UserError, match=f"expected a Unigram, BPE or WordPiece tokenizer to cut, got {kind}"):
        PieceTable(tokenizer, "model")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vocabulary_languages": ["sw"]}, "vocabulary_languages needs vocabulary: used"),
        ({"vocabulary": "used", "vocabulary_languages": ["swahilli"]}, "did you mean sw"),
        ({"vocabulary": "used", "vocabulary_languages": ["x-elvish"]}, "CLDR knows no script of x-elvish"),
        ({"vocabulary": "used", "lora": {}}, "used cannot be combined with lora"),
        ({"vocabulary": "used", "name_or_path": None, "scratch": {}}, "used cannot be combined with scratch"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelSettings.model_validate({"name_or_path": "model", **settings})

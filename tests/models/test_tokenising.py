"""Cutting by characters first: the ids are those of the whole text, in little memory."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers import BertTokenizer

from hbt_dist.common.errors import UserError
from hbt_dist.models import tokenising
from hbt_dist.models.tokenising import check_readable, tokenise
from tests.models.kinds import KINDS, SPECIAL, TEXTS

SCRIPTS = (
    "abc xyz ",
    "äöü Ǆǅ ",
    "суоми ",
    "芬兰的首都是哪里",
    "ฟินแลนด์",
    "हिन्दी ",
    "한국어 ",
    "0123 ",
    "🇫🇮👩‍👩‍👧",
    ".,;!? ",
)
ODD = "\u200b", "\u00ad", "\ufeff", " " * 30, "\t\n", "\u0301" * 9, "[SEP]", "</s>", "<unk>", "\u2028", "\x00"


def random_text(seed: int, length: int) -> str:
    """Words, scripts without spaces, marks that normalisers delete, special tokens, long runs of one sign."""
    draw = random.Random(seed)
    parts: list[str] = []
    while sum(map(len, parts)) < length:
        kind = draw.random()
        if kind < 0.6:
            parts.append(" ".join(draw.choices(" ".join(TEXTS).split(), k=draw.randint(1, 9))) + " ")
        elif kind < 0.9:
            parts.append("".join(draw.choices(draw.choice(SCRIPTS), k=draw.randint(1, 40))))
        else:
            parts.append(draw.choice(ODD) * draw.choice([1, 1, 2, 50, 400]))
    return "".join(parts)


def fast(kind: str) -> Any:
    return transformers.PreTrainedTokenizerFast(tokenizer_object=KINDS[kind][0](), **SPECIAL)


class InPython:
    """A tokenizer without a backend: `encodings` is None."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, texts: Any, **options: Any) -> Any:
        return transformers.BatchEncoding(dict(self.inner(texts, **options)))


@pytest.mark.parametrize("kind", [*KINDS, "python"])
def test_ids_are_those_of_the_whole_text(kind: str) -> None:
    whole = fast("bert" if kind == "python" else kind)
    tokenizer = InPython(whole) if kind == "python" else whole
    texts = [random_text(seed, length) for seed in range(25) for length in (3, 60, 2000, 9000)]
    texts += [
        "",
        " ",
        "a" * 20_000,
        " " * 20_000 + "helsinki " * 90,
        "\u200b" * 9000 + "a b " * 50,
        "芬" * 9000,
    ]
    texts += ["what is\n" * 3000, "capital " * 8, "capital " * 9, "x" * 127 + " y", "\u0301" * 5000]
    for limit, prefix in ((8, ""), (16, "query: ")):
        ours = tokenise(tokenizer, texts, limit, prefix)
        for row, text in enumerate(texts):
            full = whole(prefix + text)["input_ids"]
            expected = whole(prefix + text, truncation=True, max_length=limit)["input_ids"]
            assert ours.ids[row].tolist() == expected, (limit, text[:80])
            assert ours.cut[row] == (len(full) > limit), (limit, text[:80])
            assert ours.special_only[row] == (len(full) <= len(whole(prefix)["input_ids"]))
        assert ours.cut.any()
        assert not ours.cut.all()
        assert ours.special_only.any()


def test_a_text_that_gives_few_tokens_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the second reading the ids after a long run of deleted characters are lost."""
    tokenizer, text = fast("bert"), "\u200b" * 5000 + "helsinki " * 9
    assert tokenise(tokenizer, [text], 8).lengths.tolist() == [8]
    monkeypatch.setattr(tokenising, "_MORE", 10**9)
    monkeypatch.setattr(tokenising, "_head", lambda text, size: text[: 16 * 8])
    assert tokenise(tokenizer, [text], 8).lengths.tolist() != [8]


MEMORY = """
import resource, sys
from tests.models.test_tokenising import fast
from hbt_dist.models.tokenising import tokenise
tokenizer = fast("xlm-roberta")
tokenise(tokenizer, ["a"], 8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
texts = ["what is the capital of finland " * 700_000] + ["mikä on suomen pääkaupunki " * 4000] * 500
lengths = tokenise(tokenizer, texts, 256).lengths
assert lengths.min() == lengths.max() == 256
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_a_text_of_20_mb_takes_little_memory() -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", MEMORY], check=True, cwd=root, timeout=100, capture_output=True, text=True
    )
    assert int(done.stdout) < 500  # MiB; the whole text takes 5,000


def test_a_tokenizer_that_knows_no_text_is_refused(tmp_path: Path) -> None:
    tokenizer = fast("bert")
    check_readable(tokenizer, TEXTS, "a model")
    check_readable(tokenizer, ["ภาษาไทย"] * 8 + TEXTS, "a model")
    check_readable(tokenizer, [], "a model")
    expected = r"a model: its tokenizer reads 50 of 50 texts as unknown tokens or as none, such as 'ภาษา 0'"
    with pytest.raises(UserError, match=expected):
        check_readable(tokenizer, [f"ภาษา {number}" for number in range(50)], "a model")
    for kind in ("llama", "qwen3"):  # bytes know every text
        check_readable(fast(kind), ["ภาษาไทย"] * 50, "a model")
    empty = BertTokenizer()
    with pytest.raises(UserError, match="12 of 12 texts as unknown tokens or as none"):
        check_readable(empty, TEXTS, "a model")

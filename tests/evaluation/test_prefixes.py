"""Prefixes per benchmark, and the language's name in them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.load import load
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.evaluation.encode import encode_texts, encode_with_flags, prefixes_by_language
from hbt_dist.evaluation.run import score_model
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.loading import load_encoder
from tests.models.test_prompts import folder_of

NAMES = {"en": "English", "fi": "Finnish"}
SCORING = EvaluationSettings(device="cpu")


def sample(**prefixes: str) -> BenchmarkSettings:
    return BenchmarkSettings(name="sample", languages=("en", "fi"), **prefixes)


def test_each_text_gets_the_name_of_its_language(tmp_path: Path) -> None:
    folder, benchmark = folder_of(tmp_path / "model"), load(sample())
    loaded = load_encoder(folder, text={"question_prefix": "is it {language}: "}, quiet=True)
    prefixes = prefixes_by_language(loaded, benchmark, "question")
    assert prefixes is not None
    assert prefixes_by_language(loaded, benchmark, "passage") is None
    texts = list(benchmark.question_texts)[:8] + list(benchmark.question_texts)[-8:]
    chosen = prefixes[:8] + prefixes[-8:]
    assert set(chosen) == {f"is it {name}: " for name in NAMES.values()}
    plain = load_encoder(folder, text={"question_prefix": ""}, quiet=True)
    by_hand = [prefix + text for prefix, text in zip(chosen, texts, strict=True)]
    want = encode_texts(plain, by_hand, "question", settings=SCORING, progress=False)
    got, _ = encode_with_flags(loaded, texts, "question", prefixes=chosen, settings=SCORING, progress=False)
    np.testing.assert_allclose(got[:], want[:], atol=1e-6)
    with pytest.raises(UserError, match=r"prefix 'is it \{language\}: '") as caught:
        encode_texts(loaded, texts, "question", settings=SCORING, progress=False)
    assert "language is known" in caught.value.problem


def test_files_of_another_prefix_are_not_used(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    settings = SCORING.model_copy(update={"cache_dir": str(tmp_path / "cache")})
    loaded = load_encoder(folder, text={"question_prefix": "{language} "}, quiet=True)
    vectors = []
    for prefixes in (["English "] * 4, ["Finnish "] * 4):
        got, _ = encode_with_flags(
            loaded, ["what is it"] * 4, "question", prefixes=prefixes, settings=settings, progress=False
        )
        vectors.append(np.asarray(got[:]))
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_prefixes_of_a_benchmark_replace_those_of_the_model(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model")
    digits = {}
    for name, prefixes, text in (
        ("model", {}, {}),
        (
            "benchmark",
            {"question_prefix": "find {language}: ", "passage_prefix": "is "},
            {"passage_prefix": "x"},
        ),
        ("text", {}, {"question_prefix": "find {language}: ", "passage_prefix": "is "}),
    ):
        out = tmp_path / f"of-{name}"
        score_model(folder, sample(**prefixes), out, text=text, scoring=SCORING)
        results = json.loads((out / "results.json").read_text())
        digits[name] = results["means"], results["provenance"]["text"]["question_prefix"]
    assert digits["benchmark"] == digits["text"]
    assert digits["benchmark"][1] == "find {language}: "
    assert digits["benchmark"][0] != digits["model"][0]


def test_an_unknown_placeholder_of_a_benchmark_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected no placeholder but {language}, got {lang}"):
        sample(question_prefix="in {lang}: ")
    assert "question_prefix" not in sample().model_dump()

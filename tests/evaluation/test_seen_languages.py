"""Seen and unseen languages, and families, where benchmark and training spell a language differently."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.results import by_language
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.jobs.evaluate import evaluate_job
from hbt_dist.run_file import BenchmarkSettings

FILES = ("eng_Latn", "fin_Latn", "kor_Hang", "zho_Hant")


@pytest.fixture
def belebele(tmp_path: Path) -> Path:
    for language in FILES:
        rows = [
            {
                "link": link,
                "question_number": 1,
                "flores_passage": f"{language} {link}",
                "question": f"{link}?",
            }
            for link in ("u1", "u2", "u3")
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{language}.jsonl").write_text(lines, "utf-8")
    return tmp_path


def test_belebele_after_training_on_codes_of_mkqa(belebele: Path) -> None:
    benchmark = load_benchmark("belebele", belebele, languages=["eng", "fin", "ko", "zh_tw"])
    assert benchmark.languages == ("en", "fi", "ko", "zh-hant")
    rng = np.random.default_rng(0)
    questions, candidates = (
        rng.standard_normal((count, 4)) for count in (benchmark.num_questions, benchmark.num_candidates)
    )
    settings = EvaluationSettings(device="cpu", consistency_questions=0)
    rows = by_language(
        evaluate(benchmark, questions, candidates, settings=settings, seen_languages=("en", "ko", "zh"))
    )
    assert {code: row["seen"] for code, row in rows.items()} == {
        "en": True, "fi": False, "ko": True, "zh-hant": True,
    }  # fmt: skip
    assert [rows[code]["family"] for code in ("ko", "zh-hant")] == ["Koreanic", "Sino-Tibetan"]


def test_training_languages_are_languages(belebele: Path, tmp_path: Path) -> None:
    benchmark = BenchmarkSettings(name="belebele", data_dir=str(belebele))
    with pytest.raises(UserError, match="training languages: 'jp' is not a language code; did you mean ja"):
        evaluate_job("./absent", benchmark, tmp_path / "out", training_languages=["en", "jp"])

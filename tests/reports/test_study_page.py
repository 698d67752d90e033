"""Whole reports of studies on benchmarks of which little can be said."""

from __future__ import annotations

import re
from pathlib import Path

from tests.study.made_benchmarks import made_benchmark, study_report

SEVEN = ("en", "de", "es", "ru", "fi", "hu", "zh")


def test_questions_that_are_answered_in_their_own_language_alone(tmp_path: Path) -> None:
    """As in MIRACL. Two figures of four are there, and the answer does not wait for what cannot come."""
    benchmark = made_benchmark(tmp_path / "data", SEVEN, questions=12, parallel=False)
    text = study_report(tmp_path / "study", {"apart": benchmark})
    assert "hybrid against multilingual cannot be answered: no benchmark with results has " in text
    assert "cross-lingual figures. `primary` can name another setting." in text
    assert "answered yet" not in text
    assert "| method | apart mono | apart multi |" in text
    assert "No test of syntax" in text
    assert "gain by families" not in text
    assert "nan" not in text


def test_the_answer_names_the_benchmarks_that_it_leaves_out(tmp_path: Path) -> None:
    apart = made_benchmark(tmp_path / "apart", ("en", "fi"), questions=12, parallel=False)
    shared = made_benchmark(tmp_path / "shared", ("en", "fi"), questions=12)
    text = study_report(tmp_path / "study", {"apart": apart, "shared": shared})
    assert "**Does hybrid raise cross-lingual mAP over multilingual?** " in text
    assert "| shared | +" in text
    first, question = text.splitlines()[2], "Does it help?"
    assert first.startswith(("Yes. hybrid raises cross-lingual mAP", "Not resolved. cross-lingual mAP of"))
    assert text.index(first) < text.index("| cross-lingual mAP, shared | 0.") < text.index(question)
    assert re.search(r"\| before training \| - \| 0\.\d{3} \| ", text)
    assert "* The answer omits apart: no cross-lingual figures.\n" in text
    assert "| apart | - | no figure of both | - | - | - | - | - | - |" in text
    text = study_report(
        tmp_path / "other", {"apart": apart}, primary=[{"method": "hybrid", "setting": "monolingual"}]
    )
    assert "**Does hybrid raise monolingual mAP over multilingual?** " in text
    assert "| apart | +" in text
    assert "cannot be answered" not in text
    assert "The answer omits" not in text


def test_families_with_few_questions(tmp_path: Path) -> None:
    """No pair of families has an interval: the report is written, and says so."""
    benchmark = made_benchmark(tmp_path / "data", ("en", "de", "fi", "hu"), questions=12)
    text = study_report(tmp_path / "study", {"few": benchmark})
    assert "no interval, because the questions are few." in text
    assert "| not tested, under 30 questions of a family |" in text
    assert "A claim needs 8 and 2, or 5 and 3 languages of Indo-European and Uralic, for any" in text
    assert "needs 30 questions of each family, for any number of seeds: few has 12." in text
    assert "few: Uralic - Indo-European" not in text  # no number of seeds would settle it
    assert "nan" not in text

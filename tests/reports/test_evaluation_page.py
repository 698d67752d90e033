"""The report of an evaluation: its numbers are those of results.json; the commands that write it."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hbt_dist.cli.main import main
from hbt_dist.common.errors import UserError
from hbt_dist.common.numbers import p_clause, plain, signed, span
from hbt_dist.comparison.compare import compare
from hbt_dist.data.language_facts import describe
from hbt_dist.reports.evaluation.page import report_document, write_report
from hbt_dist.reports.evaluation.sections import (
    SETTING_TITLES,
    language_list,
    languages_by_family,
    metric_title,
)
from tests.reports.made_pages import LANGUAGES, Page, write_made_evaluation
from tests.reports.test_training_story import write_run


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_evaluation(tmp_path_factory.mktemp("old"), noise=3.0)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_made_evaluation(tmp_path_factory.mktemp("new"), noise=1.0, seed=1, report=True)


@pytest.fixture(scope="module")
def results(new: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((new / "results.json").read_text("utf-8"))
    return found


def table(page: Page, part: str) -> dict[str, dict[str, str]]:
    """The table whose caption holds `part`: row -> column -> text; languages of matrices by their code."""
    (rows,) = [rows for caption, rows in page.tables.items() if part in caption]
    columns = [column.rstrip("°") for column in rows[0][1:]]
    matrix = "candidate language" in part or "Rows:" in part
    return {
        row[0].split()[0].rstrip("°") if matrix else row[0]: dict(zip(columns, row[1:], strict=True))
        for row in rows[1:]
    }


def number(text: str) -> float:
    return math.nan if text == "-" else float(text.rstrip("*~").partition(" of ")[0])


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("language pair. Rows: question language", "pair_matrix"),
        ("one target. Rows: question language", "one_target_matrix"),
    ],
)
def test_matrices_equal_the_results(new: Path, results: dict[str, Any], part: str, key: str) -> None:
    shown = table(Page(new / "report.html"), part)
    stored = results[key]
    assert list(shown) == languages_by_family(LANGUAGES)
    for i, asked in enumerate(stored["languages"]):
        for j, target in enumerate(stored["languages"]):
            value = stored["metrics"]["map"][i][j]
            assert number(shown[asked][target]) == pytest.approx(value, abs=5.01e-4)


def test_languages_stand_family_by_family() -> None:
    order = languages_by_family(LANGUAGES)
    assert order[:5] == ["de", "en", "es", "hi", "ru"]
    assert order[5:8] == ["et", "fi", "hu"]
    families = [describe(code).family for code in order]
    assert len([f for f, before in zip(families, [None, *families], strict=False) if f != before]) == len(
        set(families)
    )


def test_tables_equal_the_results(new: Path, results: dict[str, Any]) -> None:
    page = Page(new / "report.html")
    shown = table(page, "Means over languages")
    for setting, means in results["means"].items():
        column = {name: row[SETTING_TITLES[setting]] for name, row in shown.items()}
        assert number(column["mAP over questions"]) == pytest.approx(means["micro"]["map"], abs=5.01e-4)
        assert number(column["mAP of a random order"]) == pytest.approx(
            results["chance"][setting], abs=5.01e-4
        )
        for metric in ("map", "mrr", "recall@1", "recall@10", "ndcg@10", "accuracy"):
            assert number(column[metric_title(metric)]) == pytest.approx(means["macro"][metric], abs=5.01e-4)
    best = len(LANGUAGES) ** -1  # of recall@1: every question has an answer in each language
    assert results["ceilings"]["multilingual"]["recall@1"] == pytest.approx(best)
    assert shown["recall@1"]["multilingual"].endswith(f" of {plain(best)}")
    assert " of " not in shown["recall@1"]["cross-lingual"]
    for key, caption in (("family", "mAP by family"), ("script", "by script"), ("seen", "seen and not seen")):
        shown = table(page, caption)
        assert set(shown) == set(results["groups"][key])
        for name, row in shown.items():
            stored = results["groups"][key][name]
            assert row["languages"] == language_list(stored["languages"])
            assert number(row["as question language"]) == pytest.approx(
                stored["crosslingual_asking"], abs=5.01e-4
            )
    for name, row in table(page, "mAP by language").items():
        stored = results["by_language"][name.split()[0]]
        assert row["seen"] == ("yes" if stored["seen"] else "no")
        assert number(row["rank distance"]) == pytest.approx(stored["rank_distance"], abs=0.0501)
    for name, row in table(page, "kind of pair").items():
        stored = results["groups"]["crosslingual"][name.replace(" ", "_")]
        assert (int(row["pairs"]), float(row["mAP"])) == (stored["num_pairs"], round(stored["map"], 3))
    bias = table(page, "decide its rank")
    for name in ("rank_distance", "max_at_r", "language_preference_rate", "same_language_share@10"):
        assert number(bias[metric_title(name)]["mean"]) == pytest.approx(
            results["bias"][name]["macro"], abs=0.0501
        )
    assert number(bias["MRC"]["mean"]) == pytest.approx(results["ranking_consistency"]["mrc"], abs=5.01e-4)
    assert results["benchmark"]["fingerprint"] in page.text
    level, chance = results["means"]["crosslingual"]["macro"]["map"], results["chance"]["crosslingual"]
    assert f"Answers in another language are found: mAP {plain(level)}, chance {plain(chance)}." in page.text


def test_change_against_a_baseline(new: Path, old: Path, results: dict[str, Any], tmp_path: Path) -> None:
    page = Page(write_report(new, old, tmp_path / "out"))
    before = json.loads((old / "results.json").read_text("utf-8"))
    (caption,) = [caption for caption in page.tables if " minus " in caption]
    shown = table(page, caption)
    place = {code: i for i, code in enumerate(LANGUAGES)}
    change = np.subtract(results["pair_matrix"]["metrics"]["map"], before["pair_matrix"]["metrics"]["map"])
    marks = 0
    for asked, row in shown.items():
        for target, text in row.items():
            assert number(text) == pytest.approx(change[place[asked], place[target]], abs=5.01e-4)
            marks += text.endswith("~")
    number_of_pairs = len(LANGUAGES) ** 2
    assert 0 < marks < number_of_pairs / 2  # the rarer are marked: here the uncertain changes
    assert f"{number_of_pairs - marks} of {number_of_pairs} language pairs differ" in page.text
    assert "~ uncertain change: p at least 0.05; ° not in the training data" in page.text
    heads = page.tables[caption][0][1:]
    assert {head for head in heads if not head.endswith("°")} == {"en", "fi"}
    for caption, entry in (("old", before), ("new", results)):
        (shown,) = [
            table(page, name)
            for name in page.tables
            if name.startswith(caption) and "mAP. Rows" in name and " minus " not in name
        ]
        cell = entry["pair_matrix"]["metrics"]["map"][place["de"]][place["fi"]]
        assert number(shown["de"]["fi"]) == pytest.approx(cell, abs=5.01e-4)
    families = table(page, "family of the question")
    cells = [pd.read_parquet(folder / "per_question.parquet") for folder in (old, new)]
    for family, row in families.items():
        found = []
        for frame in cells:
            asked = frame.question_language.astype(str)
            other = asked != frame.candidate_language.astype(str)
            member = asked.map(lambda code: describe(code).family) == family
            found.append(frame[(frame.setting == "pair") & other & member]["map"].mean())
        assert number(row["gain"]) == pytest.approx(found[1] - found[0], abs=5.01e-4)
    assert "grow with the distance of the languages?" in page.text
    assert not (new / "figures" / "difference.png").exists()
    assert (tmp_path / "out" / "figures" / "difference.png").is_file()


@pytest.mark.slow
def test_the_first_sentence_says_what_changed(new: Path, old: Path, tmp_path: Path) -> None:
    found = compare([[new]], [old])
    row = next(one for one in found["tests"] if (one["setting"], one["metric"]) == ("crosslingual", "map"))
    before, after = plain(row["macro_baseline"]), plain(row["macro_system"])
    name = next(iter(found["folders"]))
    tested = f"{signed(row['difference'])}, {span(row['low'], row['high'])}, {p_clause(row['p_holm'])}"
    for text in texts(write_report(new, old, tmp_path / "up")):
        assert f"Compared with {name}, answers in another language are found" in text
        assert f": mAP {before} → {after}, chance " in text
        assert f"95 % intervals and corrected p: answers in another language {tested};" in text
    name = next(iter(compare([[old]], [new])["folders"]))
    for text in texts(write_report(old, new, tmp_path / "down")):
        lead = f"Compared with {name}, answers in another language are found worse: mAP {after} → {before}"
        assert lead in text
    for text in texts(write_report(new, new, tmp_path / "same")):
        assert f"no change is found for answers in another language: mAP {after} → {after}" in text
        assert "answers in another language 0, [0, 0]" in text


@pytest.mark.slow
def test_a_run_says_what_its_training_did(new: Path, old: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", alpha=0.25)
    for when, folder in (("start", old), ("end", new)):
        shutil.copytree(folder, run / "evaluation" / when / "news")
    trained, start = (run / "evaluation" / when / "news" for when in ("end", "start"))
    for text in texts(write_report(trained, start)):
        opening = (
            "After 40 steps with three quarters of the batches cross-lingual, answers in another language"
        )
        assert opening in text
        assert re.search(r"Questions in the 11 languages without training data: 0\.\d+ → 0\.\d+\.", text)
    page = Page(trained / "report.html")
    captions = [caption.partition(". Rows")[0] for caption in page.tables if "Rows" in caption]
    assert {"Before training: mAP", "After training: mAP"} <= set(captions)
    assert "25 % monolingual and 75 % cross-lingual batches" not in page.text  # in words
    assert "a quarter monolingual and three quarters cross-lingual batches" in page.text
    assert (trained / "figures" / "loss.png").is_file()
    assert "The training" not in Page(write_report(start)).text


def texts(page: Path) -> tuple[str, str]:
    """What stands before the first table or picture, on the page and in Markdown."""
    markdown = page.with_suffix(".md").read_text("utf-8")
    head = html.unescape(page.read_text("utf-8").partition("<nav")[0])
    return head.replace("\xa0", " "), markdown.partition("## ")[0]


def test_near_chance_is_said(results: dict[str, Any]) -> None:
    low = json.loads(json.dumps(results))
    low["means"]["crosslingual"]["macro"]["map"] = 2.9 * low["chance"]["crosslingual"]
    text = report_document(low).markdown()
    assert "Answers in another language are hardly found: mAP" in text
    assert f"random order {plain(low['chance']['crosslingual'])}, near chance" in text
    assert "| Answers in the question's language |" in text
    low["benchmark"]["own_text_relevant"] = True
    text = report_document(low).markdown()
    assert "| Answers in the question's language |" not in text
    assert "Monolingual cells are trivial here" in text


def test_one_language_and_nothing_recorded(make_benchmark: Any, make_embeddings: Any) -> None:
    from hbt_dist.evaluation.evaluation import evaluate
    from hbt_dist.evaluation.results import results_document
    from hbt_dist.evaluation.settings import EvaluationSettings

    benchmark = make_benchmark(languages=("en",), num_ids=5)
    questions = make_embeddings("random", benchmark.num_questions, 0)
    candidates = make_embeddings("random", benchmark.num_candidates, 1)
    settings = EvaluationSettings(device="cpu", top_k=0)
    results = results_document(evaluate(benchmark, questions, candidates, settings=settings))
    text = report_document(results).markdown()
    assert text.startswith("# made-up (test)\n")
    assert "None can be measured" in text
    assert "There is one language only" in text


def call(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["hbt-dist", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_commands(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real evaluation of the embedded sample writes its report; `report` does so again, with a baseline."""
    out = tmp_path / "out"
    asked = ["--benchmark", "sample", "--languages", "en,fi,hu,zh", "--output", out, "--quiet"]
    assert call(monkeypatch, "evaluate", "--model", tiny_model, *asked) == 0
    assert f"{out}/report.html" in capsys.readouterr().out
    page = Page(out / "report.html")
    assert "hbt-dist evaluate --model" in page.text
    assert "scoring.num_shards" in page.text
    before = (out / "report.md").read_text("utf-8")
    (out / "report.md").unlink()
    assert call(monkeypatch, "report", out) == 0
    assert (out / "report.md").read_text("utf-8") == before
    assert call(monkeypatch, "report", out, "--baseline", out, "--output", tmp_path / "other") == 0
    same = Page(tmp_path / "other" / "report.html")
    assert f"0 of {4 * 4} language pairs differ" in same.text
    capsys.readouterr()
    for arguments, said in (
        ([out, "--compare", "a,b"], "is an evaluation"),
        ([out, "--baseline", tmp_path], "is not an evaluation folder"),
        ([tmp_path, "--baseline", out], "is not an evaluation (results.json)"),
    ):
        assert call(monkeypatch, "report", *arguments) == 2
        assert said in capsys.readouterr().err


def test_a_place_that_cannot_be_written(new: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        write_report(new, output=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"

"""The report of an evaluation: its numbers are those of results.json; the commands that write it."""

from __future__ import annotations

import html
import json
import math
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
from hbt_dist.reports.evaluation.sections import SETTING_TITLES, languages_by_family, metric_title
from tests.reports.made_pages import LANGUAGES, Page, write_made_evaluation


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
    """The table whose caption holds `part`: row -> column -> text."""
    (rows,) = [rows for caption, rows in page.tables.items() if part in caption]
    return {row[0]: dict(zip(rows[0][1:], row[1:], strict=True)) for row in rows[1:]}


def number(text: str) -> float:
    return math.nan if text == "-" else float(text.rstrip("*"))


@pytest.mark.parametrize(
    ("part", "key"), [("candidates of one language", "pair_matrix"), ("one target", "one_target_matrix")]
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
    means_table = table(page, "Means over languages")
    assert len(means_table) == 4
    for setting, means in results["means"].items():
        row = means_table[SETTING_TITLES[setting]]
        assert number(row["mAP (micro)"]) == pytest.approx(means["micro"]["map"], abs=5.01e-4)
        assert number(row["random order"]) == pytest.approx(results["chance"][setting], abs=5.01e-4)
        for metric in ("map", "mrr", "recall@10", "ndcg@10", "accuracy"):
            assert number(row[metric_title(metric)]) == pytest.approx(means["macro"][metric], abs=5.01e-4)
    for key, caption in (("family", "mAP by family"), ("script", "by script"), ("seen", "seen and not seen")):
        shown = table(page, caption)
        assert set(shown) == set(results["groups"][key])
        for name, row in shown.items():
            stored = results["groups"][key][name]
            assert row["languages"] == ", ".join(stored["languages"])
            assert number(row["asking"]) == pytest.approx(stored["crosslingual_asking"], abs=5.01e-4)
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
    assert f"mAP {plain(level)} across languages (random order: {plain(chance)})" in page.text


def test_change_against_a_baseline(new: Path, old: Path, results: dict[str, Any], tmp_path: Path) -> None:
    page = Page(write_report(new, old, tmp_path / "out"))
    before = json.loads((old / "results.json").read_text("utf-8"))
    shown = table(page, " minus ")
    place = {code: i for i, code in enumerate(LANGUAGES)}
    change = np.subtract(results["pair_matrix"]["metrics"]["map"], before["pair_matrix"]["metrics"]["map"])
    stars = 0
    for asked, row in shown.items():
        for target, text in row.items():
            assert number(text) == pytest.approx(change[place[asked], place[target]], abs=5.01e-4)
            stars += text.endswith("*")
    assert f"{stars} of {len(LANGUAGES) ** 2} cells differ" in page.text
    assert 0 < stars < len(LANGUAGES) ** 2
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
    assert "grow with the distance of the languages? Slope" in page.text
    assert not (new / "figures" / "difference.png").exists()
    assert (tmp_path / "out" / "figures" / "difference.png").is_file()


@pytest.mark.slow
def test_the_first_sentence_says_what_changed(new: Path, old: Path, tmp_path: Path) -> None:
    found = compare([[new]], [old])
    row = next(one for one in found["tests"] if (one["setting"], one["metric"]) == ("crosslingual", "map"))
    before, after = plain(row["macro_baseline"]), plain(row["macro_system"])
    name = next(iter(found["folders"]))
    tested = f"95 % interval {span(row['low'], row['high'])}, {p_clause(row['p_holm'])}."
    for text in texts(write_report(new, old, tmp_path / "up")):
        gain = f"from {before} to {after}: {signed(row['difference'])}, {tested}"
        assert f"Against {name}, mAP across languages rises {gain}" in html.unescape(text)
    name = next(iter(compare([[old]], [new])["folders"]))
    for text in texts(write_report(old, new, tmp_path / "down")):
        assert f"Against {name}, mAP across languages falls from {after} to {before}: -" in text
    for text in texts(write_report(new, new, tmp_path / "same")):
        assert (
            f"no change of mAP across languages is found, {after} to {after}: 0, 95 % interval [0, 0]" in text
        )


def texts(page: Path) -> tuple[str, str]:
    """What stands before the first table or picture, on the page and in Markdown."""
    markdown = page.with_suffix(".md").read_text("utf-8")
    return page.read_text("utf-8").partition("<nav")[0], markdown.partition("## ")[0]


def test_near_chance_is_said(results: dict[str, Any]) -> None:
    low = json.loads(json.dumps(results))
    low["means"]["crosslingual"]["macro"]["map"] = 2.9 * low["chance"]["crosslingual"]
    text = report_document(low).markdown()
    assert f"across languages (near chance, random order: {plain(low['chance']['crosslingual'])})" in text
    low["benchmark"]["own_text_relevant"] = True
    assert "within languages (trivial)" in report_document(low).markdown()


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
    assert f"0 of {4 * 4} cells differ" in same.text
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

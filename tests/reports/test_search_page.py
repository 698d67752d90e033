"""The report's folder: tables, figures, page, best.yaml; what it refuses; the command."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from hbt_dist.analysis import analyse, load_search
from hbt_dist.analysis.overview import choices
from hbt_dist.common.errors import UserError
from hbt_dist.reports.search.report import write_search_report
from hbt_dist.run_file import load_run
from tests.analysis.made_search import LANGUAGES, edit_search, rewrite_trial, write_search
from tests.helpers.command_line import call_main
from tests.reports.made_pages import Page

NASTY = '</script><script>alert("x")</script>{{data}}'
TABLES = ("trials", "history", "points", "front", "sensitivity", "curves", "cost", "difference")


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search whose texts try to break out of the page, with a failed and a running trial."""
    folder = tmp_path_factory.mktemp("made") / "search"
    write_search(folder, extra={0: {"batches.mixing": NASTY}, 1: {"batches.mixing": "per_batch"}})
    rewrite_trial(folder / "trials" / "p0002-s1", status="failed", error=NASTY)
    rewrite_trial(folder / "trials" / "p0005-s1", status="running", ended=None)
    edit_search(folder, name=f"made & <b>{NASTY}", sampler={"kind": NASTY})
    return folder


@pytest.fixture(scope="module")
def report(search: Path) -> Path:
    return write_search_report(search, compare=("p0000-s0", "p0005-s0"))


def small_search(folder: Path) -> Path:
    return write_search(folder, points=3, wanted_objectives={"monolingual": "max", "crosslingual": "max"})


def test_tables_are_equal_in_csv_and_parquet(search: Path, report: Path) -> None:
    assert report == search / "report"
    for name in TABLES:
        csv = pd.read_csv(report / f"{name}.csv", keep_default_na=False, na_values=[""])
        parquet = pd.read_parquet(report / f"{name}.parquet")
        assert list(csv.columns) == list(parquet.columns)
        assert len(csv) == len(parquet) > 0
        for column in parquet.select_dtypes("float"):
            pd.testing.assert_series_equal(csv[column].astype(float), parquet[column].astype(float))
    points = pd.read_parquet(report / "points.parquet")
    wanted = load_search(search).points
    numbers = wanted.select_dtypes("number").columns
    pd.testing.assert_frame_equal(points[numbers], wanted[numbers])
    assert points["batches.mixing"].tolist()[:2] == [NASTY, "per_batch"]
    difference = pd.read_parquet(report / "difference.parquet")
    assert difference["question_language"].tolist() == list(LANGUAGES)


def test_figures_are_there_in_both_formats(report: Path) -> None:
    names = {path.name for path in (report / "figures").iterdir()}
    stems = {"front_monolingual_crosslingual", "curve_batches.alpha", "curve_batches.mixing", "importance"}
    assert {f"{stem}{end}" for stem in stems for end in (".png", ".svg")} <= names
    assert len([name for name in names if name.startswith("front_")]) == 2 * 6
    assert (report / "figures" / "importance.png").read_bytes().startswith(b"\x89PNG")
    assert set(json.loads((report / "summary.json").read_text())["figures"]) == {
        f"figures/{n}" for n in names
    }


def test_the_page_shows_what_a_reader_asks(report: Path) -> None:
    page = Page(report / "report.html")
    assert not page.all("b")
    assert not page.all("script")
    summary = json.loads((report / "summary.json").read_text())
    assert f"Point {summary['knee']['point']} after step " in page.text
    first = page.text.index('class="lead"')
    assert page.text.index("The best compromise, the knee: batches.alpha = ") > first
    assert "None" not in page.text
    assert page.text.index('<img alt="monolingual mAP and cross-lingual mAP: ') < page.text.index("<table")
    shown = next(rows for caption, rows in page.tables.items() if caption.startswith("The knee, and"))
    assert [row[0].partition(":")[0] for row in shown[1:]] == [
        "knee",
        "best monolingual mAP, best multilingual mAP",
        "best cross-lingual mAP, best rank distance, cross-lingual batches only",
        "monolingual batches only",
    ]
    assert "With 2 seeds, a change below 9.0 times its ± may be chance" in page.text
    best = page.tables["Front over all objectives"]
    assert best[0][1] == "batches.alpha"
    settings = ["monolingual mAP", "cross-lingual mAP", "multilingual mAP", "rank distance"]
    assert best[0][-5:] == [*settings, "seeds"]
    assert len(page.tables["Front over all objectives"]) == len(summary["front"]) + 1
    trials = page.tables["Cost of the trials"]
    assert [row[-1] for row in trials if row[0] == "p0002-s1"] == [NASTY]
    assert trials[-1][0] == "total"
    assert trials[-1][-2] == f"{summary['worker_hours']:.2f}"
    importance = next(rows for caption, rows in page.tables.items() if caption.startswith("Importance"))
    assert {row[1] for row in importance[1:]} >= {"batches.alpha", "optimizer.learning_rate"}
    assert len(page.all("pre")) == 1
    assert escape((report / "best.yaml").read_text().rstrip()) in page.text
    assert len(page.all("img")) == len(summary["figures"]) / 2


def test_changes_against_the_knee_are_means_over_common_seeds(report: Path) -> None:
    history = pd.read_parquet(report / "history.parquet").set_index(["point", "step", "seed"])["crosslingual"]
    knee = json.loads((report / "summary.json").read_text())["knee"]
    analysis = analyse(load_search(report.parent))
    for other in choices(analysis):
        place = (other.candidate["point"], other.candidate["step"])
        gain = [history[(*place, seed)] - history[(knee["point"], knee["step"], seed)] for seed in (0, 1)]
        assert other.changes["crosslingual"] == pytest.approx((sum(gain) / 2, np.std(gain, ddof=1)))


def test_points_with_fewer_seeds_are_not_said_to_be_worse(tmp_path: Path) -> None:
    search = small_search(tmp_path / "search")
    for trial in ("p0001-s1", "p0002-s1"):
        (search / "trials" / trial / "history.jsonl").unlink()
    lead = re.findall(r"Nothing[^<]+", (write_search_report(search) / "report.html").read_text("utf-8"))[0]
    assert lead.endswith("(of 1 point with 2 seeds; 2 points with fewer left out).")
    assert lead.startswith("Nothing to choose from yet: batches.alpha = 0, ")


def test_best_run_is_the_knee_and_loads(report: Path) -> None:
    knee = json.loads((report / "summary.json").read_text())["knee"]
    run = load_run(str(report / "best.yaml"))
    assert run.batches.alpha == pytest.approx(knee["parameters"]["batches.alpha"])
    assert run.optimizer.learning_rate == knee["parameters"]["optimizer.learning_rate"]
    data = yaml.safe_load((report / "best.yaml").read_text())
    assert re.fullmatch(r"runs/[A-Za-z0-9._-]+-best", data["output_dir"])
    assert data["training"]["steps"] == 6


def test_best_run_of_a_mixture_drops_alpha(tmp_path: Path) -> None:
    shares = {"monolingual": 0.25, "crosslingual": 0.75}
    search = small_search(tmp_path / "search")
    lines = []
    for point in range(3):
        parameters = {"batches.mixture": shares, "optimizer.learning_rate": 1e-3}
        lines.append(json.dumps({"point": point, "parameters": parameters, "source": "random"}) + "\n")
    (search / "points.jsonl").write_text("".join(lines))
    run = load_run(str(write_search_report(search) / "best.yaml"))
    assert run.batches.alpha is None
    assert {entry.kind: entry.weight for entry in run.batches.entries()} == shares


def test_without_a_usable_base_run_the_rest_is_written(tmp_path: Path) -> None:
    search = small_search(tmp_path / "search")
    (search / "base.yaml").unlink()
    folder = write_search_report(search, tmp_path / "out")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["best_run"] is None
    assert not (folder / "best.yaml").exists()
    assert "best.yaml is not written" in summary["problems"][0]
    assert "best.yaml is not written" in (folder / "report.html").read_text("utf-8")


def test_one_objective_and_one_point(tmp_path: Path) -> None:
    search = write_search(tmp_path / "search", points=1, seeds=(4,), wanted_objectives={"monolingual": "max"})
    folder = write_search_report(search)
    summary = json.loads((folder / "summary.json").read_text())
    assert len(summary["front"]) == 1
    assert summary["knee"]["objectives"]["monolingual"]["std"] is None
    assert "too few points" in (folder / "report.html").read_text("utf-8")


def test_an_older_report_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    search = small_search(tmp_path / "search")
    folder = write_search_report(search)
    (folder / "left.txt").write_text("of before")
    write_search_report(search)
    assert not (folder / "left.txt").exists()
    before = sorted(search.rglob("*"))
    with pytest.raises(UserError, match="expected an older search report"):
        write_search_report(search, search / "trials")
    with pytest.raises(UserError, match="has no trial"):
        write_search_report(search, compare=("p0000-s0", "p0007-s0"))
    assert sorted(search.rglob("*")) == before


def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: Any) -> Any:
    return call_main(monkeypatch, capsys, "report", *arguments)


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    search = small_search(tmp_path / "search")
    code, out, _ = call(monkeypatch, capsys, search, "--compare", "p0000-s0,p0001-s1")
    assert code == 0
    assert "knee: point" in out
    assert "report.html" in out
    code, out, _ = call(monkeypatch, capsys, search, "--output", tmp_path / "out", "--json")
    assert code == 0
    assert json.loads(out)["knee"]["num_seeds"] == 2
    assert (tmp_path / "out" / "report.html").is_file()


def test_command_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    search = small_search(tmp_path / "search")
    for arguments, said in (
        ([tmp_path / "nothing"], "no such folder"),
        ([search, "--compare", "p0000-s0"], "expected 2 trials, got 1"),
        ([search, "--compare", "p0000-s0,p0009-s0"], "has no trial"),
        ([search, "--output", search], "expected an older search report"),
    ):
        code, out, err = call(monkeypatch, capsys, *arguments)
        assert (code, out) == (2, "")
        assert err.startswith("error: ")
        assert said in err
    assert not (search / "report").exists()


def test_a_lucky_seed_chooses_nothing(tmp_path: Path) -> None:
    """One seed that went on alone and is better than all in everything: front, knee and best stay."""
    search = write_search(tmp_path / "search", points=4)
    before = analyse(load_search(search))
    history = search / "trials" / "p0001-s0" / "history.jsonl"
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    lucky = {
        **lines[-1],
        "step": 200,
        **dict.fromkeys(("monolingual", "crosslingual", "multilingual"), 0.999),
    }
    history.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {**lucky, "rank_distance": 0.1}]))
    after = analyse(load_search(search))
    assert len(after.candidates) == len(before.candidates) + 1
    assert before.knee is not None
    assert after.knee is not None
    assert (after.knee["point"], after.knee["step"]) == (before.knee["point"], before.knee["step"])
    for name in ("front", "best"):
        old, new = getattr(before, name), getattr(after, name)
        assert new[["point", "step"]].values.tolist() == old[["point", "step"]].values.tolist(), name

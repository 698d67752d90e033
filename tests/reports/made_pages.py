"""One page of each kind, from made-up evaluations, searches and studies that took no training."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from hbt_dist.evaluation.evaluation import evaluate
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.evaluation.writing import write_evaluation
from hbt_dist.reports.evaluation.page import write_report
from hbt_dist.reports.search.report import write_search_report
from hbt_dist.reports.study.report import write_study_report
from hbt_dist.search.folder import SearchFolder
from hbt_dist.study.settings import StudyFile
from tests.analysis.made_search import rewrite_trial, write_search
from tests.evaluation.conftest import make

LANGUAGES = ("ar", "de", "en", "es", "et", "fi", "hi", "hu", "ru", "th", "tr", "vi", "zh")
NASTY = '</script><script>alert("x")</script><b>|'


def write_made_evaluation(folder: Path, *, noise: float, seed: int = 0, report: bool = False) -> Path:
    """An evaluation whose figures fall with `noise`."""
    benchmark = make(seed=9, languages=LANGUAGES, num_ids=40, per_language=60)
    rng = np.random.default_rng(seed)
    candidates = rng.standard_normal((benchmark.num_candidates, 16))
    meant = {name: 1.5 * rng.standard_normal(16) for name in benchmark.question_ids}
    for row, name in enumerate(benchmark.question_ids):
        candidates[benchmark.relevant_of(row)] += meant[name] / len(LANGUAGES)  # once per language
    wanted = np.stack([meant[name] for name in benchmark.question_ids])
    questions = wanted + noise * rng.standard_normal(wanted.shape)
    evaluation = evaluate(
        benchmark,
        questions,
        candidates,
        settings=EvaluationSettings(device="cpu", consistency_questions=2, top_k=100),
        seen_languages=("en", "fi"),
        provenance={
            "model": f"models/{NASTY}",
            "text": {"pooling": "mean", "question_prefix": ""},
            "training": {"languages": ["en", "fi"], "corpus": "0" * 64},
            "command": "hbt-dist evaluate " + "--set x=y " * 30,
            "time": "2025-01-01T00:00:00+00:00",
            "versions": {"torch": "2.13.0"},
        },
    )
    return write_evaluation(evaluation, folder, add_files=write_report if report else None)


def write_made_study(folder: Path) -> Path:
    """The report of a study of two methods and two seeds."""
    methods = ("multilingual", "hybrid")
    study = StudyFile.model_validate(
        {
            "name": "made",
            "output_dir": str(folder),
            "question": "Is the page readable?",
            "run": "quickstart",
            "methods": {name: {"about": f"about {name}"} for name in methods},
            "baseline": methods[0],
            "seeds": [0, 1],
            "benchmarks": [{"name": "sample", "variant": "test"}],
        }
    )
    (folder / "trials").mkdir(parents=True)
    points = [json.dumps({"point": i, "parameters": {"method": name}}) for i, name in enumerate(methods)]
    (folder / "points.jsonl").write_text("\n".join(points) + "\n")
    for point, noise in enumerate((3.0, 2.0)):
        for seed in study.seeds:
            place = folder / "trials" / f"p{point:04d}-s{seed}" / "evaluation" / "final" / "sample-test"
            write_made_evaluation(place, noise=noise, seed=seed)
    return write_study_report(study, SearchFolder(folder), say=lambda _: None) / "study.html"


def make_pages(root: Path) -> dict[str, Path]:
    """Kind of page -> its file."""
    old = write_made_evaluation(root / "old", noise=3.0)
    new = write_made_evaluation(root / "new", noise=1.0, seed=1, report=True)
    search = write_search(root / "search")
    rewrite_trial(search / "trials" / "p0003-s1", status="failed", error=NASTY)
    return {
        "evaluation": new / "report.html",
        "change": write_report(new, old, root / "change"),
        "search": write_search_report(search, compare=("p0000-s0", "p0005-s0")) / "report.html",
        "study": write_made_study(root / "study"),
    }


class Page(HTMLParser):
    """Elements with their attributes, headings, and the cells of every table by its caption."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.text = path.read_text("utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.tables: dict[str, list[list[str]]] = {}
        self._rows: list[list[str]] = []
        self._caption = ""
        self._into: str | None = None
        self.feed(self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        elif tag == "table":
            self._rows = []
        elif tag == "caption":
            self._into, self._caption = "caption", ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._into = "cell"
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "caption"):
            self._into = None
        elif tag == "table":
            self.tables[self._caption] = self._rows

    def handle_data(self, data: str) -> None:
        if self._into == "caption":
            self._caption += data
        elif self._into == "cell":
            self._rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

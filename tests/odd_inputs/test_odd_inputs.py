"""Several hundred odd inputs through the command line: one clear error, or the right digits.

Each case is a line of a table in the other modules of this folder. For all of them: no traceback, no name of
a Python exception, exactly one error with place and remedy, nothing written after an error, and every example
or question that is not used is counted in the output.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.jobs.evaluate import evaluate_job
from tests.helpers.command_line import call_main
from tests.odd_inputs.case import EVALUATION, MODEL, Case, benchmark
from tests.odd_inputs.tiny_model import save_bag_of_words

KINDS = (
    "encodings",
    "json_lines",
    "columns",
    "tables",
    "languages",
    "judgements",
    "collections",
    "model_folders",
    "settings",
    "results",
    "surroundings",
    "malformed",
)
CASES: dict[str, Case] = {
    f"{kind}-{name}": case
    for kind in KINDS
    for name, case in importlib.import_module(f"tests.odd_inputs.{kind}").CASES.items()
}
#: What Python and its libraries say to each other.
INTERNALS = re.compile(
    r"Traceback|\b[A-Z]\w+(Error|Exception|Warning)\b|function-after|constrained-|unable to parse|<class '|"
    r"\bNoneType\b|object at 0x|\[Errno|pydantic|valid (tuple|dictionary|integer)"
)

#: Variables that matter to drawing.
DRAWN = {"HOME", "TMPDIR", "LC_ALL", "MPLBACKEND", "MPLCONFIGDIR"}
#: Rules over several settings, which say what to do.
RULES = re.compile(
    r"belongs? to|needs|exclude|expected|not listed|overwrite|must|more than|none of|the search sets|write '"
)
#: A picture of one pixel.
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
#: Command -> the figure that counts what is used of what was given.
COUNTED = {"data": "examples", "evaluate": "questions"}


@pytest.fixture(scope="session")
def bag_of_words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bag_of_words(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def evaluation(bag_of_words: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished evaluation."""
    folder = tmp_path_factory.mktemp("evaluation")
    case = benchmark()
    case.write(folder)
    settings = BenchmarkSettings(name="jsonl", data_dir=str(folder / "bench"))
    evaluate_job(str(bag_of_words), settings, folder / "out", report=True, quiet=True)
    return folder / "out"


def content_of(folder: Path) -> dict[str, str]:
    """Every file but caches and locks, with its digest."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock") and not {"cache", ".cache"} & set(path.parts)
    }


def figures_of(case: Case, out: str, folder: Path) -> dict[str, Any]:
    """What the command reports as JSON, under short names."""
    if case.arguments[0] == "data":
        tables = {table["title"].split(",")[0]: table for table in json.loads(out)["corpus"]}
        examples, passages, groups, *_ = tables["Corpus"]["rows"][0]
        by_language = tables["Examples by language"]["rows"]
        return {
            "examples": examples,
            "passages": passages,
            "groups": groups,
            "negatives": tables["Corpus"]["rows"][0][4],
            "languages": " ".join(row[0] for row in by_language),
            "questions": {row[0]: row[1] for row in by_language},
            "answers": {row[0]: row[2] for row in by_language},
            "longest": {f"{row[0]} {row[1]}": row[4] for row in tables["Lengths in characters"]["rows"]},
        }
    results = json.loads((folder / "out" / "results.json").read_text("utf-8"))
    measured, means = results["benchmark"], json.loads(out)["means"]
    alone = means["monolingual"] if means.get("monolingual") else means["crosslingual"]
    return {
        "languages": " ".join(measured["languages"]),
        "questions": measured["num_questions"]["total"],
        "candidates": measured["num_candidates"]["total"],
        "relevant": measured["num_relevant"],
        "map": means.get("multilingual", alone)["macro"]["map"],
        "ndcg": alone["macro"]["ndcg@10"],
    }


def test_there_are_enough() -> None:
    by_kind = Counter(name.split("-")[0] for name in CASES)
    assert len(CASES) >= 250
    assert set(by_kind) == set(KINDS)
    assert all(case.error or case.reports or case.figures for case in CASES.values())


def parameters() -> list[Any]:
    """All names; of a family (`columns-suffix-...`) those from the ninth on are for `--all`."""
    seen: Counter[str] = Counter()
    listed: list[Any] = []
    for name in CASES:
        family = "-".join(name.split("-")[:2])
        seen[family] += 1
        alike = seen[family] > 8 and not name.startswith("malformed-")
        listed.append(pytest.param(name, marks=pytest.mark.slow) if alike else name)
    return listed


@pytest.mark.parametrize("name", parameters())
def test_one_error_or_the_right_digits(
    name: str,
    tmp_path: Path,
    bag_of_words: Path,
    evaluation: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    case = CASES[name]
    for folder, made in {MODEL: bag_of_words, EVALUATION: evaluation}.items():
        if folder in " ".join([*case.arguments, *case.files]):
            shutil.copytree(made, tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    case.write(Path())
    monkeypatch.setenv("RAY_ADDRESS", "local")
    if not DRAWN & set(case.environment):  # drawing is nine tenths of the time of an evaluation
        monkeypatch.setattr(Figure, "savefig", lambda _, file, **__: file.write(PIXEL))
    for variable, value in case.environment.items():
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    before = content_of(tmp_path)
    code, out, err = call_main(monkeypatch, capsys, *case.arguments, rank=case.environment.get("RANK"))
    err = err.replace(f"{tmp_path}/", "").replace(str(tmp_path), ".")
    after = content_of(tmp_path)
    mistakes = [f"Python shows: {match[0]}" for match in INTERNALS.finditer(err + out)]
    mistakes = [] if case.error == ("usage",) else mistakes
    if case.error:
        mistakes += wrong_error(case, code, err)
        mistakes += [f"{path} was changed" for path in before if after.get(path) != before[path]]
        mistakes += [f"{path} was written" for path in after if path not in before]
    else:
        mistakes += [f"exit code {code}"] if code else wrong_figures(case, out, err, tmp_path)
    if mistakes:
        pytest.fail("\n".join([*mistakes, "---", err[-1500:]]), pytrace=False)


def wrong_error(case: Case, code: int, err: str) -> list[str]:
    """What differs from one error on stderr with place, problem and remedy, or from a usage."""
    if code != 2:
        return [f"exit code {code}"]
    if case.error == ("usage",):
        return [] if "Usage:" in err else ["no usage"]
    if err.count("error:") != 1:
        return [f"{err.count('error:')} errors"]
    message = err[err.index("error:") :].removeprefix("error:").strip()
    first, *remedy = message.splitlines()
    place, *words = case.error
    wrong = [] if re.match(rf"(?:{place})(?!\w).*: ", first) else [f"place is not {place}"]
    named, _, said = message.partition(": ")
    said = (
        re.sub(r"\S+\.(jsonl|json|csv|tsv|parquet|yaml|txt)\b", "", named) + said
    )  # the name of the file would match any word
    wrong += [f"{pattern} is not in the error" for pattern in words if not re.search(pattern, said, re.I)]
    return wrong if remedy or RULES.search(said) else [*wrong, "no remedy"]


def wrong_figures(case: Case, out: str, err: str, folder: Path) -> list[str]:
    """What differs from the right digits; lines that are not reported; what is lost without a count."""
    shown = out + err if case.given is None else "\n".join([*json.loads(out)["notes"], err])
    wrong = [f"{pattern} is not reported" for pattern in case.reports if not re.search(pattern, shown, re.I)]
    if not case.figures and case.given is None:
        return wrong
    figures = figures_of(case, out, folder)
    for key, value in case.figures.items():
        measured = figures[key]
        if measured != (pytest.approx(value) if isinstance(value, float) else value):
            wrong.append(f"{key} is {measured}, not {value}")
    lost = 0 if case.given is None else case.given - figures[COUNTED[case.arguments[0]]]
    counted = rf"\b{lost} [^\n]*\b(example|question)|\b(example|question)[^\n]*: {lost}\b"
    if lost and not re.search(counted, shown):
        wrong.append(f"{lost} of {case.given} are lost without a count")
    return wrong

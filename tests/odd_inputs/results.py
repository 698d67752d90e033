"""Folders of results that are damaged, or of another kind: compare, report, export, files, expand."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.odd_inputs.case import EVALUATION, Case, Content, benchmark
from tests.odd_inputs.model_folders import cut, edited, removed

POINTER = "version https://git-lfs.github.com/spec/v1\n"


def copied(path: Path) -> None:
    """A copy of the evaluation in the folder of this path."""
    shutil.copytree(EVALUATION, path.parent, dirs_exist_ok=True)


def compare(*systems: str, baseline: str = EVALUATION, **files: Content) -> Case:
    named = {f"{EVALUATION}/{name.replace('__', '/')}": content for name, content in files.items()}
    return Case(["compare", *(systems or (EVALUATION,)), "--baseline", baseline], named)


def report(folder: str = EVALUATION, *options: str, files: Mapping[str, Content] = {}) -> Case:
    return Case(["report", folder, *options], files)


def damaged() -> Iterator[tuple[str, Case]]:
    """Files of an evaluation that are broken, for compare and report."""

    def without(*keys: str) -> Callable[[Path], None]:
        return edited(**dict.fromkeys(keys, ...))

    for name, content in {
        "open": "{",
        "empty": b"",
        "list": "[]",
        "null": "null",
        "text": "x",
        "lfs": POINTER,
        "utf16": "{}".encode("utf-16"),
        "object": "{}",
        "cut": cut,
        "missing": removed,
        "version": edited(schema_version=99),
        "schema": edited(schema="x"),
        "benchmark": without("benchmark"),
        "means": without("means"),
        "pairs": without("pair_matrix"),
        "benchmark-type": edited(benchmark=[]),
        "means-type": edited(means=None),
    }.items():
        yield f"compare-results-{name}", compare(**{"results.json": content}).fails(rf"{EVALUATION}\S*")
        yield (
            f"report-results-{name}",
            report(files={f"{EVALUATION}/results.json": content}).fails(rf"{EVALUATION}\S*"),
        )
    buffer = io.BytesIO()
    pq.write_table(pa.table({"x": [1]}), buffer)
    for name, content in {
        "cut": cut,
        "empty": b"",
        "text": "x",
        "missing": removed,
        "columns": buffer.getvalue(),
        "lfs": POINTER,
    }.items():
        yield (
            f"compare-questions-{name}",
            compare(**{"per_question.parquet": content}).fails(rf"{EVALUATION}\S*"),
        )
    for name in ("pair_matrix.csv", "mteb.json", "report.html", "heatmap.png"):
        yield f"compare-without-{name}", compare(**{name: removed}).gives("map|mAP|question")


def commands() -> Iterator[tuple[str, Case]]:
    yield "compare", compare().gives("map|mAP")
    yield "compare-slash", compare(f"{EVALUATION}/").gives("map|mAP")
    for name, systems in {
        "nowhere": ["nowhere"],
        "empty": [""],
        "comma": [","],
        "file": [f"{EVALUATION}/results.json"],
        "one-of-two": [f"{EVALUATION},nowhere"],
        "seeds": [f"{EVALUATION},{EVALUATION},{EVALUATION}"],
        "parent": ["."],
    }.items():
        case = compare(*systems)
        yield f"compare-{name}", case.gives("map|mAP") if name == "seeds" else case.fails(".*")
    yield "compare-baseline-empty", compare(baseline="").fails(".*baseline", "folder")
    yield (
        "compare-baseline-nowhere",
        compare(baseline="nowhere").fails("nowhere", "no such folder|not an evaluation"),
    )
    run: Mapping[str, Content] = {"runs/x/evaluation/final/sample/results.json": copied}
    yield "compare-run", Case(["compare", "runs/x", "--baseline", EVALUATION], run).gives("map|mAP")
    yield "compare-baseline-run", Case(["compare", EVALUATION, "--baseline", "runs/x"], run).gives("map|mAP")
    two = {**run, "runs/x/evaluation/final/other/results.json": copied}
    yield (
        "compare-run-of-two",
        Case(["compare", "runs/x", "--baseline", EVALUATION], two).fails("runs/x", "other", "sample"),
    )
    yield (
        "compare-run-of-none",
        Case(["compare", "runs/x", "--baseline", EVALUATION], {"runs/x/run.yaml": "x"}).fails("runs/x"),
    )
    other = {"other/results.json": lambda path: (copied(path), edited(benchmark={"name": "x"})(path))}
    yield (
        "compare-other-benchmark",
        Case(["compare", "other", "--baseline", EVALUATION], other).fails("other\\S*"),
    )
    yield (
        "compare-quiet-alone",
        Case(["compare", EVALUATION, "--baseline", EVALUATION, "--quiet"]).fails("--quiet", "--output"),
    )
    in_the_way: Mapping[str, Content] = {"taken": "x"}
    yield (
        "compare-output-is-a-file",
        Case(["compare", EVALUATION, "--baseline", EVALUATION, "--output", "taken"], in_the_way).fails(
            "taken"
        ),
    )
    yield "report", report().gives("report.html")
    yield "report-output-is-a-file", report(EVALUATION, "--output", "taken", files=in_the_way).fails("taken")
    yield "report-baseline-nowhere", report(EVALUATION, "--baseline", "nowhere").fails("nowhere")
    yield "report-baseline-is-itself", report(EVALUATION, "--baseline", EVALUATION).gives("report.html")
    yield (
        "report-file",
        report(f"{EVALUATION}/results.json").fails(rf"{EVALUATION}/results.json", "folder|file"),
    )
    yield (
        "report-compare-of-an-evaluation",
        report(EVALUATION, "--compare", "a,b").fails("--compare|.*", "search|trial"),
    )
    yield (
        "report-study-of-an-evaluation",
        report(EVALUATION, "--study", "x.yaml").fails("--study|.*|x.yaml", "study|no such"),
    )
    yield "report-empty-folder", report("empty", files={"empty": Path.mkdir}).fails("empty", "results.json")
    for name, content in {
        "object": "{}",
        "list": "[]",
        "null": "null",
        "text": "x",
        "cut": '{"format": 1',
        "lfs": POINTER,
    }.items():
        yield (
            f"report-search-{name}",
            report("search", files={"search/search.json": content}).fails(r"search\S*"),
        )
    for name, content in {"empty": "", "list": "- a\n", "object": "{}", "bytes": b"\xff"}.items():
        yield (
            f"report-study-{name}",
            report("study", files={"study/study.yaml": content}).fails(r"study/study.yaml\S*"),
        )
    for name, files in {
        "empty": {"run": Path.mkdir},
        "no-checkpoint": {"run/checkpoints": Path.mkdir},
        "file": {"run": "x"},
        "manifest-open": {"run/manifest.json": "{"},
        "manifest-list": {"run/manifest.json": "[]"},
        "manifest-null": {"run/manifest.json": "null"},
        "half": {"run/checkpoints/step-0000000001/x": "y"},
        "tmp": {"run/checkpoints/step-0000000001.tmp/manifest.json": "{}"},
        "name": {"run/checkpoints/latest": "x"},
        "manifest-utf16": {"run/manifest.json": "{}".encode("utf-16")},
    }.items():
        yield f"export-{name}", Case(["export", "run", "--to", "model"], files).fails(r"run\S*")
    yield "export-nowhere", Case(["export", "nowhere", "--to", "model"]).fails("nowhere", "no such folder")
    yield (
        "export-onto-a-file",
        Case(["export", "nowhere", "--to", "taken"], in_the_way).fails("taken|nowhere"),
    )
    yield "files-onto-a-file", Case(["files", "--to", "taken"], in_the_way).fails(r"taken\S*")
    yield "files-below-a-file", Case(["files", "--to", "taken/x"], in_the_way).fails(r"taken\S*")
    yield "files-twice", Case(["files", "--to", "."], {"run_files/x": "y"}).fails("run_files", "exists")
    yield "schema-odd", Case(["schema", "odd"]).fails("usage")
    yield (
        "doctor-nowhere",
        Case(["doctor", "--run", "nowhere.yaml"]).fails("nowhere.yaml", "no such run file"),
    )


def evaluations() -> Iterator[tuple[str, Case]]:
    """Output folders of evaluate."""
    right = {"questions": 2, "map": 0.75}
    for name, files in {"empty-folder": {"out": Path.mkdir}}.items():
        case = benchmark()
        yield f"output-{name}", Case(case.arguments, {**case.files, **files}).gives(given=2, **right)
    case = benchmark()
    for name, files in {"notes": {"out/notes.txt": "kept"}, "hidden": {"out/.keep": ""}}.items():
        yield f"output-{name}", Case(case.arguments, {**case.files, **files}).fails("out", "older evaluation")
    for name, content in {
        "open": "{",
        "empty": b"",
        "list": "[]",
        "other": json.dumps(
            {"benchmark": {"fingerprint": "x", "name": "y", "variant": "z"}, "provenance": {"model": "m"}}
        ),
    }.items():
        case = benchmark()
        files = {**case.files, "out/results.json": content}
        yield (
            f"output-results-{name}",
            Case(case.arguments, files).fails("out", "another evaluation", "--overwrite"),
        )
        yield (
            f"output-results-{name}-overwritten",
            Case([*case.arguments, "--overwrite"], {**case.files}).gives(given=2, **right),
        )
    case = benchmark()
    yield (
        "output-is-a-file",
        Case(case.arguments, {**case.files, "out": "x"}).fails("out", "folder|file|cannot"),
    )
    below = [argument if argument != "out" else "taken/out" for argument in case.arguments]
    yield "output-below-a-file", Case(below, {**case.files, "taken": "x"}).fails(r"taken\S*")
    yield (
        "output-is-the-benchmark",
        Case([a if a != "out" else "bench" for a in case.arguments], case.files).fails("bench", "expected"),
    )
    loop: Mapping[str, Content] = {"loop": lambda path: path.symlink_to("loop")}
    yield (
        "output-is-a-loop",
        Case([a if a != "out" else "loop" for a in case.arguments], {**case.files, **loop}).fails("loop"),
    )
    for name, content in {
        "open": "{",
        "list": "[]",
        "other": '{"question": "x"}',
        "empty": b"",
        "utf16": "{}".encode("utf-16"),
    }.items():
        yield (
            f"expansions-{name}",
            Case([*case.arguments, "--expansions", "e.jsonl"], {**case.files, "e.jsonl": content}).fails(
                r"e.jsonl\S*"
            ),
        )


CASES = dict([*damaged(), *commands(), *evaluations()])

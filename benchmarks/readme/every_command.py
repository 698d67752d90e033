"""Run every command of the README in order, as on a bare machine: fresh clone, no environment, empty caches.

    python benchmarks/readme/every_command.py WORK --output benchmarks/results/readme [--data DIR]

Needs nothing but Python and git. WORK must not exist; it receives the clone, a separate home folder and
the output of the commands (some 8 GB). A command is run as the README has it; what the reader brings is small
(`run.yaml`, training data, the size of the search). What one bare machine cannot run is listed with a reason
and the test that runs it, see `tests/test_readme.py`.

OUTPUT.log receives all that was printed, OUTPUT.md one line for each command. Exit code 1: a command failed,
or printed a warning or a traceback.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ACTIVATE = ". .venv/bin/activate"
#: Start of a command -> why it is not run.
LEFT_OUT = {
    "pip install": "for machines with a GPU",
    "python -m mkdocs serve": "does not end by itself: tests/test_docs.py",
    "ray submit": "needs hosts with sshd: tests/multihost",
    "ray job submit": "needs a running cluster: tests/orchestration/test_jobs.py",
    "hbt-dist evaluate --model sentence-transformers/LaBSE": "needs the Hugging Face hub",
    "hbt-dist train squad_en_fi": "hours of training on public data",
    "hbt-dist train decoder_lora": "needs the Hugging Face hub",
    "python benchmarks/gpu/check.py": "needs a GPU: tests/benchmarks/test_gpu_check.py",
    "hbt-dist study ray_configs/studies/methods.yaml": "18 trainings: tests/study/test_study.py",
}
PROGRAM = re.compile(
    r"\./launchers/|hbt-dist (?!expand)\S+ |ray |deepspeed --|torchrun |accelerate |pip |python "
)
NEEDS_DATA = ("hbt-dist evaluate --model runs/mine/model --benchmark xquad-r",)
#: Instead of the README's model and size; a search of two trials instead of 33.
SMALL_RUN = {
    "batches": "batches: {global_batch_size: 8, alpha: 0.5}",
    "model": "model: {scratch: {vocabulary_size: 300, architecture: {model_type: bert, hidden_size: 16,"
    " num_hidden_layers: 1, num_attention_heads: 2, intermediate_size: 32}}}",
    "training": "training: {steps: 20}",
}
SMALL_SEARCH = {
    "overrides": 'overrides: [training.steps=20, "evaluation.benchmarks.0.variant=test"]',
    "space": "space: {batches.alpha: {choice: [0.0, 1.0]}}",
    "seeds": "seeds: [0]",
}
SIZES = (
    "`run.yaml` is the README's with a one-layer model of width 16, 8 rows, 20 steps and 40 lines of data;\n"
    "the search has 2 trials of 20 steps instead of 33. The seconds are not those of the README's sizes.\n"
    '"ok": exit 0 and no unknown warning; the script lists the known ones: of pip,\n'
    "DeepSpeed's and accelerate's launchers, and of the doctor without a connection to the hub."
)
#: What a reader would worry about. Not ours is what pip says of a machine's indexes, DeepSpeed's launcher of
#: a hostfile and an accelerator that it did not find, accelerate's of options left at their defaults, and the
#: doctor's line on a machine that does not reach the Hugging Face hub.
WORRY = re.compile(r"traceback|warning|deprecat|error:", re.IGNORECASE)
KNOWN = re.compile(
    r"WARNING: (Location|The candidate|Retrying|Cache)|.*\[WARNING\] \[(runner|real_accelerator)\.py"
    r"|To avoid this warning pass in values|warning  hub: |0 problems, 1 warnings"
)


@dataclass
class Done:
    """One command and how it ended."""

    command: str
    code: int
    seconds: float
    lines: list[str]

    @property
    def worries(self) -> list[str]:
        return [line for line in self.lines if WORRY.search(line) and not KNOWN.match(line)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("work", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="written: OUTPUT.log, OUTPUT.md")
    parser.add_argument("--data", type=Path, help="folder of the public data sets (README: DATA)")
    parser.add_argument("--tests", default="", help="arguments for ./launchers/test.sh, as -m 'not slow'")
    given = parser.parse_args()
    work, output = given.work.resolve(), given.output.resolve()
    work.mkdir(parents=True)
    clone = work / "hbt_dist"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    readme = (clone / "README.md").read_text("utf-8")
    bring_files(clone, readme, given.data)
    environment = bare_environment(work, given.data)
    output.parent.mkdir(parents=True, exist_ok=True)
    rows, failed = [], False
    with output.with_suffix(".log").open("w", encoding="utf-8") as log:
        for command in commands(readme):
            reason = why_left_out(command, given.data)
            if reason:
                rows.append(f"| `{shown(command)}` | left out: {reason} | | |")
                continue
            done = run(command, given.tests, clone, environment)
            log.write(f"$ {command}\n" + "".join(f"{line}\n" for line in done.lines))
            log.write(f"[exit {done.code}, {done.seconds:.0f} s]\n\n")
            log.flush()
            bad = done.code != 0 or bool(done.worries)
            failed |= bad
            verdict = "ok" if not bad else f"exit {done.code}, {len(done.worries)} lines to worry about"
            rows.append(f"| `{shown(command)}` | {verdict} | {done.seconds:.0f} | {len(done.lines)} |")
            print(rows[-1], *done.worries, sep="\n", flush=True)
    head = "| command | | seconds | lines printed |\n|---|---|---|---|\n"
    output.with_suffix(".md").write_text(head + "\n".join([*rows, "", SIZES, ""]), encoding="utf-8")
    return int(failed)


def commands(readme: str) -> list[str]:
    """The README's commands and its Python example in their order, continued lines joined."""
    found: list[str] = []
    for language, block, inline in re.findall(
        r"^```(\w*)\n(.*?)^```|`([^`\n]+)`", readme, re.DOTALL | re.MULTILINE
    ):
        if inline:
            found += [inline] if PROGRAM.match(inline) and inline not in found else []
        elif language == "python":
            found.append("python - <<'END'\n" + block + "END")
        elif language == "bash":
            lines = re.sub(r"\\\n\s*", "", block).splitlines()
            found += [re.sub(r"(^|\s{2,})#.*", "", line).strip() for line in lines]
    return [command for command in found if command and command != ACTIVATE]


def why_left_out(command: str, data: Path | None) -> str | None:
    """Return the reason for leaving a command out; None to run it."""
    if data is None and command.startswith(NEEDS_DATA):
        return "needs public data (--data)"
    if command.endswith("--dry-run"):
        return None
    if "num_workers=8" in command and (os.cpu_count() or 1) < 8:
        return f"needs 8 cores, here are {os.cpu_count()}"
    return next((reason for start, reason in LEFT_OUT.items() if command.startswith(start)), None)


def run(command: str, tests: str, clone: Path, environment: dict[str, str]) -> Done:
    """Run one command in the clone, in its environment once that is there."""
    if re.search(r"train(\.py)? run\.yaml(?! batches)", command):
        shutil.rmtree(clone / "runs" / "mine", ignore_errors=True)  # or it would have nothing left to do
    if command.startswith("hbt-dist init"):
        (clone / "run.yaml").rename(clone / "small.yaml")
    if command.startswith("hbt-dist compare --baseline results"):
        for name, model in (("a", "mine"), ("b", "quarter")):
            before = (
                f"hbt-dist evaluate --model runs/{model}/model --benchmark sample --output results/{name}"
            )
            run_before = ["bash", "-c", f"{ACTIVATE}; {before}"]
            subprocess.run(run_before, cwd=clone, env=environment, capture_output=True, check=True)
    text = f"{command} {tests}" if command == "./launchers/test.sh" else command
    if command.startswith("hbt-dist mine"):
        text += " model.scratch=null"  # the small run's
    folder = clone
    if not command.startswith("./launchers/"):
        text = f"{ACTIVATE}\n{text}"
    if command.startswith("hbt-dist files"):  # for those without a checkout
        folder = clone.parent / "elsewhere"
        folder.mkdir()
        (folder / ".venv").symlink_to(clone / ".venv")
    began = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", text],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if command.startswith("hbt-dist init"):
        (clone / "small.yaml").replace(clone / "run.yaml")
    return Done(command, done.returncode, time.monotonic() - began, done.stdout.splitlines())


def bare_environment(work: Path, data: Path | None) -> dict[str, str]:
    """A path, a language, a home folder without caches, and this machine's way to packages."""
    (work / "home").mkdir()
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    found = {"PATH": os.defpath + ":/usr/local/bin", "LANG": "C.UTF-8", "HOME": str(work / "home"), **kept}
    return {**found, "HBT_DIST_DATA": str(data.resolve())} if data else found


def bring_files(clone: Path, readme: str, data: Path | None) -> None:
    """What the reader has: a run file, training data, public data sets, a search of a size to wait for."""
    blocks = re.findall(r"```yaml\n(.*?)```", readme, re.DOTALL)
    (run_file,) = [block for block in blocks if block.startswith("name: mine")]
    (clone / "run.yaml").write_text(with_lines(run_file, SMALL_RUN), encoding="utf-8")
    towns = [
        {
            "id": f"e{i}",
            "question": {"en": f"Where is town {i}?", "fi": f"Missä kaupunki {i} on?"},
            "passage": {"en": f"Town {i} is in land {i % 7}.", "fi": f"Kaupunki {i} on maassa {i % 7}."},
        }
        for i in range(40)
    ]
    (clone / "train.jsonl").write_text("".join(json.dumps(town) + "\n" for town in towns), encoding="utf-8")
    lines = re.search(r'```json\n(\{"id": "q1", "language".*)\n(.*)\n```', readme)
    assert lines is not None, "the README's own benchmark"
    (clone / "my_benchmark").mkdir()
    for name, line in zip(("questions", "candidates"), lines.groups(), strict=True):
        (clone / "my_benchmark" / f"{name}.jsonl").write_text(f"{line}\n", encoding="utf-8")
    if data is not None:
        (clone / "DATA").symlink_to(data.resolve())
    search = (clone / "ray_configs" / "search" / "alpha.yaml").resolve()
    search.write_text(with_lines(search.read_text("utf-8"), SMALL_SEARCH), encoding="utf-8")


def with_lines(text: str, new: dict[str, str]) -> str:
    """Replace top-level keys of a YAML file, their indented lines included."""
    for key, line in new.items():
        text, count = re.subn(rf"^{key}:.*\n(?:[ \t].*\n)*", line + "\n", text, flags=re.MULTILINE)
        if count != 1:
            raise SystemExit(f"error: {count} times '{key}:' where one was expected")
    return text


def shown(command: str) -> str:
    """In one line."""
    return command if "\n" not in command else "the Python example"


if __name__ == "__main__":
    sys.exit(main())

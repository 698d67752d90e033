"""Evaluate the model of a run before and after training: in this process, or apart from a driver on Ray.

A process that has used a GPU keeps half a gigabyte of it as long as it lives, and on machines in exclusive
mode no other process can use that GPU. A driver on Ray therefore leaves the evaluation before training to a
child process, if there is a GPU: a worker trains on it next.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from hbt_dist.common.console import hush, note, say
from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.evaluation.read_results import pairs_of, read_results
from hbt_dist.evaluation.results import pair_lines
from hbt_dist.jobs.evaluate import evaluate_job
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.measure import end_with
from hbt_dist.training.memory import release_memory
from hbt_dist.training.run_folder import RunFolder

When = Literal["start", "end"]
#: Texts from which on the evaluation before training says how to leave it out.
MANY_TEXTS = 20_000


def evaluate_run(run: RunFile, when: When, *, quiet: bool = False) -> None:
    """Evaluate the start model or the trained model on the benchmarks of the run.

    Args:
        run: the run file with absolute paths.
        when: which model; results of the start model are kept when a run is resumed.
        quiet: no progress and no summary.

    Raises:
        UserError: model or benchmark cannot be used.
    """
    folder = RunFolder(run.output_dir)
    benchmarks = run.evaluation.benchmarks
    if when == "start":  # a resumed run: the start model has not changed
        benchmarks = tuple(b for b in benchmarks if not _results(folder, when, b).is_file())
    if not benchmarks:
        return
    model = run.model.name_or_path if when == "start" else str(folder.model)
    languages = _languages(run, when)
    for benchmark in benchmarks:
        text = evaluate_job(
            str(model or folder.start),
            benchmark,
            _results(folder, when, benchmark).parent,
            **run.evaluated_text(),
            scoring=run.evaluation.scoring,
            trust_remote_code=run.model.trust_remote_code,
            training_languages=languages,
            quiet=quiet,
            announce=None if quiet else partial(_announce, when, benchmark.label),
            report=True,
        )
        if quiet:
            continue
        say(text)
        if when == "start" or "start" not in run.evaluation.when:  # else the end of the run shows both
            say("\n".join(pair_lines(read_results(_results(folder, when, benchmark).parent))))


def forget_changed(run: RunFile, fingerprints: Mapping[str, str]) -> None:
    """Remove results of the start model on benchmarks that have changed: they do not compare with new ones.

    Args:
        fingerprints: label -> fingerprint of each benchmark of the run.
    """
    folder = RunFolder(run.output_dir)
    for benchmark in run.evaluation.benchmarks:
        file = _results(folder, "start", benchmark)
        label = benchmark.label
        if file.is_file() and read_results(file.parent)["benchmark"]["fingerprint"] != fingerprints[label]:
            note(f"{label} has changed: the start model is evaluated again")
            file.unlink()


def evaluated_pairs(run: RunFile) -> dict[str, dict[str, Any]]:
    """Return label -> moment -> languages and matrix of the evaluations of a run, see `pairs_of`."""
    folder = RunFolder(run.output_dir)
    files = {
        (benchmark.label, when): _results(folder, when, benchmark)
        for benchmark in run.evaluation.benchmarks
        for when in run.evaluation.when
    }
    pairs: dict[str, dict[str, Any]] = {}
    for (label, when), file in files.items():
        if file.is_file():
            pairs.setdefault(label, {})[when] = pairs_of(read_results(file.parent))
    return pairs


def _results(folder: RunFolder, when: When, benchmark: BenchmarkSettings) -> Path:
    return folder.evaluation / when / benchmark.label / "results.json"


def _languages(run: RunFile, when: When) -> Sequence[str]:
    """Return the languages of the training; before it, also find what the training would refuse."""
    from hbt_dist.data.corpus.convert import build_corpus
    from hbt_dist.methods.code_switching.switching import plan_batches
    from hbt_dist.training.preparation import prepare

    if when == "start":
        return prepare(run).plan.languages
    return plan_batches(build_corpus(run.data, Path(run.data.cache_dir)), run.batches, run.seed).languages


def _announce(when: When, label: str, data: Benchmark) -> None:
    """Print what is evaluated, and for many texts how to leave out the evaluation before training."""
    texts = data.num_questions + data.num_candidates
    line = f"evaluate {'before' if when == 'start' else 'after'} training: {label}, {texts:,} texts"
    if when == "start" and texts > MANY_TEXTS:
        line += "; as long as after the training; evaluation.when=[end] leaves it out"
    say(line)


def evaluate_start_apart(run: RunFile, *, quiet: bool = False) -> None:
    """Evaluate the start model without a trace of it on the GPUs of this process, see `evaluate_run`.

    A process that uses a GPU already (`--launcher local`) evaluates on it, and releases the memory.
    """
    apart = torch.cuda.is_available() and not torch.cuda.is_initialized()
    if run.evaluation.scoring.device == "cpu" or not apart:
        evaluate_run(run, "start", quiet=quiet)
        release_memory()
        return
    with tempfile.TemporaryDirectory(prefix="hbt-evaluation-") as temporary:
        refusal = Path(temporary) / "refusal.json"
        request = {"run": run.plain(), "quiet": quiet, "argv": sys.argv}
        child = subprocess.run(
            [sys.executable, "-m", "hbt_dist.jobs.evaluate_run", str(os.getpid()), str(refusal)],
            input=json.dumps(request),
            text=True,
            check=False,
        )
        if refusal.is_file():
            raise UserError(*json.loads(refusal.read_text("utf-8")))
    if child.returncode != 0:
        raise RuntimeError(f"the evaluation before training ended with exit code {child.returncode}")


def _main() -> None:
    """Evaluate the start model in this process, which `evaluate_start_apart` has started."""
    parent, refusal = int(sys.argv[1]), Path(sys.argv[2])
    threading.Thread(target=end_with, args=(parent,), daemon=True).start()
    request = json.load(sys.stdin)
    sys.argv = request["argv"]  # results record the user's command
    hush(request["quiet"])
    try:
        evaluate_run(RunFile.model_validate(request["run"]), "start", quiet=request["quiet"])
    except UserError as error:
        refusal.write_text(json.dumps([error.location, error.problem, error.remedy]), "utf-8")
        sys.exit(2)


if __name__ == "__main__":
    _main()

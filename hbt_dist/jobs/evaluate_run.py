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
from pathlib import Path
from typing import Literal

import torch

from hbt_dist.common.console import hush, say
from hbt_dist.common.errors import UserError
from hbt_dist.jobs.evaluate import evaluate_job
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.measure import end_with
from hbt_dist.training.run_folder import RunFolder

When = Literal["start", "end"]


def evaluate_run(run: RunFile, when: When, *, quiet: bool = False) -> None:
    """Evaluate the start model or the trained model on the benchmarks of the run.

    Args:
        run: the run file with absolute paths.
        when: which model; results of the start model are kept when a run is resumed.
        quiet: no progress and no summary.

    Raises:
        UserError: model or benchmark cannot be used.
    """
    from hbt_dist.data.corpus.convert import build_corpus
    from hbt_dist.methods.code_switching.switching import plan_batches
    from hbt_dist.training.preparation import prepare

    folder = RunFolder(run.output_dir)
    model = run.model.name_or_path if when == "start" else str(folder.model)
    if model is None:  # from scratch
        prepare(run)
        model = str(folder.start)
    corpus = build_corpus(run.data, Path(run.data.cache_dir))
    languages = plan_batches(corpus, run.batches, run.seed).languages
    for benchmark in run.evaluation.benchmarks:
        out = folder.evaluation / when / benchmark.label
        if when == "start" and (out / "results.json").is_file():
            continue  # a resumed run: the start model has not changed
        title = "before training" if when == "start" else "after training"
        if not quiet:
            say(f"evaluate {title}: {benchmark.label}")
        text = evaluate_job(
            model,
            benchmark,
            out,
            **run.evaluated_text(),
            scoring=run.evaluation.scoring,
            trust_remote_code=run.model.trust_remote_code,
            training_languages=languages,
            quiet=quiet,
            report=True,
        )
        if not quiet:
            say(text)


def evaluate_start_apart(run: RunFile, *, quiet: bool = False) -> None:
    """Evaluate the start model without a trace of it on the GPUs of this process, see `evaluate_run`."""
    if run.evaluation.scoring.device == "cpu" or not torch.cuda.is_available():
        evaluate_run(run, "start", quiet=quiet)
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

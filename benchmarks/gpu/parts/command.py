"""Run `hbt-dist` as a user does: train, stop, resume, export, evaluate, and two faults with their messages.

The quickstart's sample and tiny model, ZeRO-1, 20 steps, one process that is the worker.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.gpu.device import Context
from benchmarks.gpu.parts.commands import CLI, ROOT, Done, python
from benchmarks.gpu.report import Figures, compared

STEPS, STOP = 20, 12
FAULTS = ROOT / "tests" / "helpers" / "faults.py"
#: What the two planted faults must print.
SHARED_GPU, FULL_MEMORY = "were given the same GPU", "chunk_"
#: Largest difference of a mean average precision between two devices, in float32.
MAP_LIMIT = 0.005


def run(context: Context) -> Iterator[tuple[str, Figures]]:
    """Yield how every command ended; all are predicted to pass, in 80 s."""
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as name:
        folder = Path(name)
        stop = f"rank=0,step={STOP},where=before_forward,once={folder / 'stopped'}"
        first = train(context, folder, "run", fault=stop)
        yield (
            "train, killed in a step",
            first.figures(passed=first.code != 0 and (folder / "stopped").exists()),
        )
        second = train(context, folder, "run")
        model = folder / "run" / "model"
        steps = steps_of(folder / "run")
        resumed = second.code == 0 and (model / "config.json").is_file() and steps[-1:] == [STEPS]
        yield "train, resumed and exported", {**second.figures(passed=resumed), "steps": len(steps)}
        yield "evaluate on device and CPU", evaluations(context, folder, model)
        if context.device.cuda:
            yield "torchrun, two ranks on one GPU", shared_gpu(context, folder)
        full = train(context, folder, "full", fault="rank=0,step=3,where=out_of_memory")
        yield "full memory", full.figures(passed=full.code == 2 and FULL_MEMORY in full.output)


def steps_of(run: Path) -> list[int]:
    """Return the steps that a run recorded."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.is_file() else []
    return [json.loads(line)["step"] for line in lines]


def options(folder: Path, output: str) -> list[str]:
    """Return the arguments of `hbt-dist train`."""
    values = {
        "output_dir": str(folder / output),
        "training.steps": STEPS,
        "training.checkpoint_every": STEPS // 2,
        "training.trackers": "[]",
        "model.scratch.vocabulary_size": 400,
        "workers.num_workers": 1,
        "workers.use_gpu": "true",
        "deepspeed.config": 1,
        "evaluation.when": "[]",
    }
    return ["train", "quickstart", *(f"{key}={value}" for key, value in values.items())]


def train(context: Context, folder: Path, output: str, *, fault: str = "", launcher: str = "local") -> Done:
    """Train in one process, with a planted fault if one is named."""
    use_gpu = [] if context.device.cuda else ["workers.use_gpu=false"]
    arguments = [*CLI, *options(folder, output), *use_gpu, "--launcher", launcher]
    env = {"HBT_DIST_FAULT": f"{FAULTS},{fault}"} if fault else {}
    return python(context.python, *arguments, cwd=folder, seconds=max(context.clock.left, 1), env=env)


def evaluations(context: Context, folder: Path, model: Path) -> Figures:
    """Evaluate the trained model on the device and on the CPU; vectors differ in their last bits."""
    means: dict[str, Any] = {}
    seconds = 0.0
    for device in dict.fromkeys((context.device.torch.type, "cpu")):
        arguments = ["evaluate", "--model", str(model), "--benchmark", "sample"]
        arguments += ["--output", str(folder / device), "--json", "--quiet"]
        arguments += ["--set", f"device={device}", "--set", "dtype=float32"]
        done = python(context.python, *CLI, *arguments, cwd=folder, seconds=max(context.clock.left, 1))
        seconds += done.seconds
        if done.code != 0:
            return done.figures(passed=False)
        means[device] = json.loads((folder / device / "results.json").read_text())["means"]
    macro = [[kind["macro"]["map"] for kind in mean.values()] for mean in means.values()]
    difference = max(max(values) - min(values) for values in zip(*macro, strict=True))
    figures = {"seconds": round(seconds, 2), "devices": list(means), "map": macro}
    return {**figures, **compared(difference, MAP_LIMIT)}


def shared_gpu(context: Context, folder: Path) -> Figures:
    """Start two ranks on one GPU: the package must name them instead of letting NCCL fail."""
    ranks = [*(context.python or (sys.executable,)), *CLI, *options(folder, "shared"), "--launcher", "local"]
    arguments = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "--no-python",
        *ranks,
    ]
    done = python((), *arguments, cwd=folder, seconds=max(context.clock.left, 1))
    return done.figures(passed=done.code != 0 and SHARED_GPU in done.output)

"""Where the seconds of a start go: when lines are printed, the first step, processor seconds by process.

    python benchmarks/launching/start_profile.py [--checkout FOLDER ...] [--rounds 3] [--ways ray local bare]

The quickstart's training without its evaluations, for 3 steps, with two Ray workers or here; `bare`
is Ray Train alone, with two workers that import transformers and DeepSpeed and train nothing.
Tokenizer and tokens are cached by a start before. The checkouts take turns. Tables go to standard output.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
WAYS = {"ray": [], "local": ["--launcher", "local"], "bare": []}
#: First match names the process.
KINDS = {
    "worker": r"RayTrainWorker",
    "controller": r"TrainController",
    "autoscaling coordinator": r"AutoscalingCoordinator",
    "placement group cleaner": r"PlacementGroupCleaner",
    "synchronisation actor": r"SynchronizationActor",
    "data set manager": r"DatasetManager",
    "preemption watcher": r"PreemptionWatcher",
    "idle worker": r"ray::IDLE|default_worker|setup_worker",
    "dashboard": r"dashboard/dashboard\.py|spawn_main|multiprocessing\.forks",
    "agents": r"(?i)agent",
    "autoscaling monitor": r"monitor\.py",
    "gcs": r"gcs_server",
    "raylet": r"raylet",
}


@dataclass
class Start:
    """One start of a training.

    Attributes:
        lines: (seconds, text) of what was printed.
        first_step: seconds until rank 0 had recorded it.
        processors: kind of process -> processor seconds until the first step.
    """

    lines: list[tuple[float, str]] = field(default_factory=list)
    first_step: float = 0.0
    processors: dict[str, float] = field(default_factory=dict)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--checkout", type=Path, nargs="+", default=[ROOT])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    given = parser.parse_args()
    starts: dict[tuple[str, str], list[Start]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="hbt-") as place:
        work = Path(place)
        for checkout in given.checkout:
            timed(checkout, "local", work / checkout.name / "warm", work / checkout.name / "cache")
        for number in range(given.rounds):
            for way in given.ways:
                for checkout in given.checkout:
                    folder = work / checkout.name / f"{way}-{number}"
                    start = timed(checkout, way, folder, work / checkout.name / "cache")
                    starts[way, checkout.name].append(start)
    for (way, name), those in starts.items():
        report(f"{name}, {way}", those)


def timed(checkout: Path, way: str, folder: Path, cache: Path) -> Start:
    """Start a training of 3 steps and watch it until it ends."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "hbt_dist", "train", "quickstart", *WAYS[way]]
    command += [f"output_dir={folder}/out", f"data.cache_dir={cache}", "evaluation.benchmarks=[]"]
    command += ["training.steps=3", "training.checkpoint_every=3", "workers.address=local"]
    if way == "bare":
        command = [sys.executable, str(ROOT / "benchmarks" / "launching" / "bare_ray_train.py"), str(folder)]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    start, began = Start(), time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, env={**kept, "PYTHONPATH": str(checkout)}, text=True, bufsize=1,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    reader = threading.Thread(target=_read, args=(process, start, began))
    reader.start()
    seconds: dict[int, tuple[str, float]] = {}
    metrics = folder / "out" / "metrics.jsonl"
    while process.poll() is None and not start.first_step:
        _add_processors(process.pid, seconds)
        if metrics.is_file() and metrics.stat().st_size:
            start.first_step = time.monotonic() - began
        time.sleep(0.1)
    _add_processors(process.pid, seconds)
    code = process.wait()
    reader.join()
    if code or not start.first_step:
        raise SystemExit(f"{checkout}: {way} ended with {code}:\n" + "\n".join(t for _, t in start.lines))
    for kind, amount in seconds.values():
        start.processors[kind] = start.processors.get(kind, 0.0) + amount
    return start


def _read(process: subprocess.Popen[str], start: Start, began: float) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        start.lines.append((time.monotonic() - began, line.rstrip()))


def _add_processors(pid: int, seconds: dict[int, tuple[str, float]]) -> None:
    """Note the processor seconds of the process and its descendants; a process that ended keeps its last."""
    with suppress(psutil.Error):
        driver = psutil.Process(pid)
        for each in [driver, *driver.children(recursive=True)]:
            with suppress(psutil.Error):
                used = each.cpu_times()
                kind = "driver" if each.pid == pid else _kind(" ".join(each.cmdline()))
                known = seconds.get(each.pid, (kind, 0.0))[0]
                seconds[each.pid] = (known if kind == "other" else kind, used.user + used.system)


def _kind(command: str) -> str:
    return next((name for name, pattern in KINDS.items() if re.search(pattern, command)), "other")


def report(title: str, starts: list[Start]) -> None:
    first = statistics.median(start.first_step for start in starts)
    each = ", ".join(f"{start.first_step:.1f}" for start in starts)
    print(f"\n## {title}: {first:.1f} s to the first step (of {each})\n")
    print("| after | line |\n|---|---|")
    for seconds, text in starts[-1].lines:
        if text.strip():
            print(f"| {seconds:.1f} s | {text[:110]} |")
    print("\n| process | processor seconds until the first step |\n|---|---|")
    kinds = {kind for start in starts for kind in start.processors}
    medians = {k: statistics.median(s.processors.get(k, 0.0) for s in starts) for k in kinds}
    for kind, amount in sorted(medians.items(), key=lambda item: -item[1]):
        print(f"| {kind} | {amount:.1f} |")
    print(f"| all | {sum(medians.values()):.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""How long each way of starting a training takes until its first step, and until it has ended.

    python benchmarks/launching/start_times.py --output benchmarks/results/start_times.json [--rounds 3]

Two workers (one for a plain process) train the same 6 steps of a tiny encoder on a part of the embedded
sample, checkpoints and export included; tokenizer and tokens are cached before. The rounds are interleaved. A
table goes to standard output.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hbt_dist.orchestration.private_cluster import free_port  # noqa: E402
from tests.helpers.ray_head import Head  # noqa: E402
from tests.helpers.runs import BIN, losses, tiny_run, write_run  # noqa: E402

WAYS = {
    "plain process": "BIN/hbt-dist train RUN --launcher local",
    "torchrun": "BIN/torchrun --nproc_per_node 2 --master_port PORT SCRIPT RUN",
    "deepspeed": "BIN/deepspeed --no_local_rank --num_gpus 2 --master_port PORT SCRIPT RUN",
    "accelerate": "BIN/accelerate launch --num_processes 2 --main_process_port PORT SCRIPT RUN",
    "Ray, a private cluster": "BIN/hbt-dist train RUN",
    "Ray, a running cluster": "BIN/hbt-dist train RUN workers.address=HEAD",
    "ray job submit": "BIN/ray job submit --address http://DASHBOARD -- "
    "BIN/python SCRIPT RUN workers.address=HEAD",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory(prefix="hbt-") as place:
        work = Path(place)
        (work / "ray").mkdir()
        head = Head(work / "ray")
        try:
            head.wait()
            timed("plain process", work / "warm", head, work / "cache")
            for number in range(given.rounds):
                for way in WAYS:
                    found[way].append(
                        timed(way, work / f"{number}-{way}".replace(" ", "-"), head, work / "cache")
                    )
                    print(f"round {number}: {way}: {found[way][-1]}", file=sys.stderr, flush=True)
        finally:
            head.close()
    rows = {
        way: {
            "seconds_to_first_step": [round(first, 2) for first, _ in times],
            "seconds_in_all": [round(whole, 2) for _, whole in times],
        }
        for way, times in found.items()
    }
    content: dict[str, Any] = {"cores": os.cpu_count(), "rounds": given.rounds, "ways": rows}
    given.output.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print("| started by | seconds to the first step | in all |\n|---|---|---|")
    for way, times in found.items():
        first, whole = (statistics.median(column) for column in zip(*times, strict=True))
        print(f"| {way} | {first:.1f} | {whole:.1f} |")


def timed(way: str, folder: Path, head: Head, cache: Path) -> tuple[float, float]:
    """Seconds until rank 0 has written its first step, and until the command has ended."""
    folder.mkdir()
    output = folder / "out"
    file = write_run(folder / "run.yaml", tiny_run(output, cache))
    words = {
        "BIN": str(BIN),
        "PORT": str(free_port()),
        "SCRIPT": str(ROOT / "launchers" / "train.py"),
        "RUN": str(file),
        "HEAD": f"127.0.0.1:{head.port}",
        "DASHBOARD": f"127.0.0.1:{head.dashboard}",
    }
    command = [re.sub("|".join(words), lambda word: words[word[0]], part) for part in WAYS[way].split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    began = time.monotonic()
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        metrics = output / "metrics.jsonl"
        while not (metrics.is_file() and metrics.stat().st_size) and process.poll() is None:
            time.sleep(0.02)
        first = time.monotonic() - began
        code = process.wait()
    whole = time.monotonic() - began
    if code != 0 or len(losses(output)) != 6:
        raise SystemExit(f"{way} ended with {code}:\n{(folder / 'log').read_text()[-3000:]}")
    return first, whole


if __name__ == "__main__":
    main()

"""Run a search, kill its driver on the way, later a worker, run the same command again, look what is left.

    python benchmarks/search/interrupted.py ray_configs/search/alpha.yaml OUTPUT_DIR \
        --output benchmarks/results/search_interrupted.json

It passes if the second start ends with exactly the points and seeds that the search file asks for, each
trial finished once, finished trials were not run again, and no process of either start is left. With two
workers per trial the shipped search took 83 minutes on two busy cores (search_interrupted.json).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hbt_dist.common.environment import environment_facts
from hbt_dist.jobs.search import load_search_file
from tests.helpers.searches import SearchProcess


def finished(process: SearchProcess) -> dict[str, Any]:
    """Trial -> when it ended, of the finished ones."""
    found = {}
    for path in process.folder.glob("trials/*/trial.json"):
        record = json.loads(path.read_text("utf-8"))
        if record["status"] == "finished":
            found[record["trial"]] = record["ended"]
    return found


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("search", type=Path)
    parser.add_argument("folder", type=Path, help="where the search writes")
    parser.add_argument(
        "--driver-after", type=int, default=6, help="finished trials before the driver is killed"
    )
    parser.add_argument(
        "--worker-after", type=int, default=10, help="finished trials before a worker is killed"
    )
    parser.add_argument("--trial-timeout", type=float, default=900, help="seconds that one trial may take")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()

    given.folder.mkdir(parents=True, exist_ok=True)
    file = given.folder / "search.yaml"
    data = yaml.safe_load(given.search.read_text("utf-8"))
    file.write_text(yaml.safe_dump({**data, "output_dir": str(given.folder.absolute() / "search")}), "utf-8")
    search, _ = load_search_file(str(file))
    seeds = len(search.seeds)
    began = time.monotonic()

    first = SearchProcess(file)
    first.wait_until(
        lambda: len(finished(first)) >= given.driver_after, given.trial_timeout * given.driver_after
    )
    first.wait_until(lambda: "running" in first.statuses().values(), given.trial_timeout)
    before = finished(first)
    killed_trial = next(name for name, status in first.statuses().items() if status == "running")
    first.kill_driver()
    left_first = first.leftovers()

    second = SearchProcess(file)
    wanted = given.worker_after
    second.wait_until(lambda: len(finished(second)) >= wanted, given.trial_timeout * wanted)
    running = Path()

    def training() -> bool:
        nonlocal running
        for path in second.folder.glob("trials/*/run/metrics.jsonl"):
            if second.statuses().get(path.parent.parent.name) == "running":
                running = path.parent.parent
                return True
        return False

    second.wait_until(training, given.trial_timeout)
    second.kill_a_worker()
    code = second.end(given.trial_timeout * 100)
    left_second = second.leftovers()

    after = finished(second)
    points = [json.loads(line) for line in (second.folder / "points.jsonl").read_text("utf-8").splitlines()]
    expected = {f"p{line['point']:04d}-s{seed}" for line in points for seed in search.seeds}
    result = {
        "command": f"python benchmarks/search/interrupted.py {given.search} ...",
        "environment": environment_facts(),
        "trials": len(expected),
        "seeds": seeds,
        "workers_per_trial": 2,
        "driver_killed_after": len(before),
        "driver_killed_during": killed_trial,
        "worker_killed_during": running.name,
        "exit_code": code,
        "all_finished_once": set(after) == expected,
        "finished_ones_not_run_again": all(after.get(name) == ended for name, ended in before.items()),
        "processes_left": {"after the killed driver": left_first, "at the end": left_second},
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    given.output.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    print(json.dumps(result, indent=1))
    good = code == 0 and result["all_finished_once"] and result["finished_ones_not_run_again"]
    sys.exit(0 if good and not left_first and not left_second else 1)


if __name__ == "__main__":
    main()

"""Kill random workers at random moments, continue with the same command, compare bit by bit.

    python benchmarks/faults/random_kills.py --cases 50 --seed 0 --output benchmarks/results/random_kills.json

Each case draws, from its own seed, an engine (plain PyTorch, ZeRO 0 to 3), one to three deaths of a run, and
for each of them a worker and a moment: one of the named places inside a step or a save, or any moment at all
(kill -9 from outside after a random time). Two processes train the embedded sample for 12 steps on the CPU
in float32. A case passes if the run ends with the same losses and bitwise the same weights as one that was
left alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hbt_dist.common.environment import environment_facts
from hbt_dist.run_file import RunFile
from hbt_dist.training.preparation import prepare
from tests.helpers.faults import MOMENTS, fault
from tests.helpers.runs import losses, tiny_run, weights_digest, write_run
from tests.helpers.workers import Workers, run_workers

STEPS, EVERY, WORKERS = 12, 3, 2
ENGINES = (None, 0, 1, 2, 3)


def draw(seed: int) -> dict[str, Any]:
    """The engine and the deaths of a case."""
    rng = random.Random(seed)
    places = [place for place in MOMENTS if place != "hang"]
    deaths = []
    for _ in range(rng.randint(1, 3)):
        death: dict[str, Any] = {"rank": rng.randrange(WORKERS)}
        if rng.random() < 0.5:
            death["where"] = rng.choice(places)
            saving = death["where"] in ("during_save", "between_save_and_report")
            death["step"] = EVERY * rng.randint(1, STEPS // EVERY) if saving else rng.randint(1, STEPS)
        else:
            death["share_of_run"] = round(rng.random(), 3)
        deaths.append(death)
    return {"seed": seed, "zero_stage": rng.choice(ENGINES), "deaths": deaths}


class Bench:
    """Runs of one cache and one start model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        output = folder / "prepared" / "out"
        prepare(RunFile.model_validate(tiny_run(output, folder / "cache")))
        self.model = output / "start"
        self.references: dict[int | None, tuple[list[float], str, float]] = {}

    def run_file(self, name: str, stage: int | None) -> tuple[Path, Path]:
        """(run file, output folder) of a run."""
        output = self.folder / name / "out"
        output.parent.mkdir(parents=True)
        changes = {"training__steps": STEPS, "training__checkpoint_every": EVERY, "deepspeed__config": stage}
        changes["training__hang_timeout_seconds"] = 30  # who dies before the others have met is waited for
        run = tiny_run(output, self.folder / "cache", model={"name_or_path": str(self.model)}, **changes)
        return write_run(output.parent / "run.yaml", run), output

    def reference(self, stage: int | None) -> tuple[list[float], str, float]:
        """Losses, digest of the weights and seconds of an uninterrupted run."""
        if stage not in self.references:
            file, output = self.run_file(f"uninterrupted-{stage}", stage)
            began = time.monotonic()
            run_workers(WORKERS, command(file), file.parent, timeout=600)
            self.references[stage] = losses(output), weights_digest(output), time.monotonic() - began
        return self.references[stage]

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        """The case with its outcome."""
        want_losses, want_digest, seconds = self.reference(case["zero_stage"])
        file, output = self.run_file(f"case-{case['seed']}", case["zero_stage"])
        began = time.monotonic()
        ends = [self.die(file, death, seconds) for death in case["deaths"]]
        run_workers(WORKERS, command(file), file.parent, timeout=600)
        log = (output / "log.txt").read_text("utf-8").splitlines()
        return {
            **case,
            "exit_codes": ends,
            "resumed_from": [int(line.rsplit(" ", 1)[1]) for line in log if "continuing from" in line],
            "passed_over": sum("is passed over" in line for line in log),
            "losses_equal": losses(output) == want_losses,
            "weights_bitwise_equal": weights_digest(output) == want_digest,
            "seconds": round(time.monotonic() - began, 1),
        }

    def die(self, file: Path, death: dict[str, Any], seconds: float) -> list[int]:
        """Start the run and end one of its workers; exit codes of all of them."""
        environment = {}
        if "where" in death:
            environment["HBT_DIST_FAULT"] = fault(
                ",".join(f"{key}={death[key]}" for key in ("rank", "step", "where"))
            )
        group = Workers(WORKERS, command(file), file.parent, **environment)
        if "share_of_run" in death:
            time.sleep(death["share_of_run"] * seconds)
            with contextlib.suppress(ProcessLookupError):  # it may have been faster than the reference
                group.signal(death["rank"], signal.SIGKILL)
        return group.wait(600)


def command(file: Path) -> list[str | Path]:
    """The command line of a run."""
    return ["train", file, "--launcher", "local", "--quiet"]


def main() -> None:
    """Run the cases; the result file is complete after each of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="seed of the first case; the next have the next")
    parser.add_argument("--output", type=Path, required=True)
    asked = parser.parse_args()
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="random-kills-") as folder:
        bench = Bench(Path(folder))
        for seed in range(asked.seed, asked.seed + asked.cases):
            results.append(bench.run(draw(seed)))
            passed = sum(r["losses_equal"] and r["weights_bitwise_equal"] for r in results)
            facts = environment_facts()
            del facts["host"]
            report = {
                "what": "kill -9 of random workers, then the same command, against an uninterrupted run",
                "workers": WORKERS,
                "steps": STEPS,
                "checkpoint_every": EVERY,
                "cases": len(results),
                "passed": passed,
                "load_average": os.getloadavg(),
                **facts,
                "results": results,
            }
            beside = asked.output.with_suffix(".tmp")
            beside.write_text(json.dumps(report, indent=1) + "\n", "utf-8")
            beside.replace(asked.output)
            print(f"case {seed}: {passed} of {len(results)} passed", flush=True)


if __name__ == "__main__":
    main()

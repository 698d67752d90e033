"""Check and measure the package on one GPU in ten minutes; writes JSON after every figure.

    python benchmarks/gpu/check.py --out gpu.json
    python benchmarks/gpu/check.py --only training --engine deepspeed --padded --chunk-rows 64 --seconds 200
    python benchmarks/gpu/check.py --device cpu --tiny    # the same code at toy size, a minute of one core

Every part has a time limit, begins nothing that does not fit into it, and prints what was predicted next to
what it measured. Parts, and what each answers:

    probe       20 s  ceilings of the GPU, kernels of attention, cost of new shapes; needs torch alone
    equalities  40 s  cached = direct = plain gradients, dropout that repeats, kernels of the loss = float64
    deepspeed   70 s  every shipped configuration passes the self-check
    loss        40 s  seconds and memory by size, precision, kernel and row_chunk; products need torch alone
    training   200 s  seconds, utilisation and memory of whole steps by engine, chunk and padding; a profile
    encode      40 s  texts per second in float32, TF32 and bf16
    evaluate    30 s  ranks = the CPU's = float64's away from ties, twice the same bits
    command     80 s  hbt-dist train, killed, resumed, exported; evaluated on GPU and CPU; two faults
    cluster    300 s  only if named: Ray with a killed worker, two evaluation actors on half a GPU each,
                      131,072 pairs in a step, chunk_rows: auto

Runs with torch 2.11 from a checkout, without installing the package. A part whose libraries are missing is
skipped and names them; without pydantic that leaves probe and the products of loss.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu.report import Clock, Figures, Report

_PACKAGE = ("pydantic", "yaml", "transformers")  # what the package's encoder, engine and settings import
_COMMANDS = (*_PACKAGE, "typer", "rich", "deepspeed", "datasets")


@dataclass(frozen=True)
class Part:
    """A part: its time limit, the modules that it needs, and whether it runs unless named."""

    seconds: float
    needs: tuple[str, ...] = ()
    by_default: bool = True


PARTS = {
    "probe": Part(20),
    "equalities": Part(40, _PACKAGE),
    "deepspeed": Part(70, (*_PACKAGE, "deepspeed")),
    "loss": Part(40),
    "training": Part(200, _PACKAGE),
    "encode": Part(40, _PACKAGE),
    "evaluate": Part(30, _PACKAGE),
    "command": Part(80, _COMMANDS),
    "cluster": Part(300, (*_COMMANDS, "ray"), by_default=False),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the parts; returns 1 if something does not hold."""
    parser = _parser()
    given = parser.parse_args(arguments)
    import torch

    from benchmarks.gpu.device import Context, Device

    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device; --device cpu --tiny tries the script")
    device = Device(given.device)
    report = Report(given.out, {"device": device.facts(), "tiny": given.tiny})
    for name in given.only or [name for name, part in PARTS.items() if part.by_default]:
        context = Context(
            device=device,
            clock=Clock(PARTS[name].seconds if given.seconds is None else given.seconds),
            tiny=given.tiny,
            engine=given.engine,
            padded=given.padded,
            chunk_rows=tuple(given.chunk_rows),
            models=tuple(given.models),
            global_batches=tuple(given.global_batches),
            steps=given.steps,
            python=tuple(shlex.split(given.python)),
        )
        report.extend(name, figures_of(name, context))
        device.reset()
    print(json.dumps(report.document, indent=2))
    return 1 if report.document["failed"] else 0


def figures_of(name: str, context: Any) -> Iterator[tuple[str, Figures]]:
    """Yield the figures of a part, or why there are none; an error ends this part alone."""
    missing = [module for module in PARTS[name].needs if importlib.util.find_spec(module) is None]
    if missing:
        yield "skipped", {"skipped": f"needs {', '.join(missing)}: pip install {' '.join(missing)}"}
        return
    try:
        yield from importlib.import_module(f"benchmarks.gpu.parts.{name}").run(context)
    except Exception as error:
        yield "error", {"passed": False, "error_message": f"{type(error).__name__}: {error}"[:1000]}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="cpu: with --tiny, to try the script")
    parser.add_argument("--tiny", action="store_true", help="toy sizes, to try the script")
    parser.add_argument("--out", type=Path, help="write the JSON here as well")
    parser.add_argument("--only", choices=list(PARTS), action="append", help="a part; may be repeated")
    parser.add_argument("--seconds", type=float, help="time limit of each part, default: as listed above")
    training = parser.add_argument_group("training")
    training.add_argument("--engine", choices=["plain", "deepspeed", "both"], default="both")
    training.add_argument("--padded", action=argparse.BooleanOptionalAction, help="default: both")
    training.add_argument("--chunk-rows", nargs="+", type=int, default=[], help="default: 64")
    training.add_argument("--models", nargs="+", choices=["xlmr-base", "560M"], default=["xlmr-base"])
    training.add_argument("--global-batches", nargs="+", type=int, default=[8192, 32768])
    training.add_argument("--steps", type=int, default=1, help="timed steps per case")
    parser.add_argument("--python", default="", help="interpreter of the commands, default: this one")
    return parser


if __name__ == "__main__":
    sys.exit(main())

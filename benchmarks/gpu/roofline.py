"""Predict seconds and utilisation of a step on one H200, without a GPU, for several ways to compute it.

    python benchmarks/gpu/roofline.py                           # XLM-R base and 560M, 32,768 pairs
    python benchmarks/gpu/roofline.py --rates gpu.json          # with the rates that check.py measured

The package's own encoder, engine and loss run on tensors without data, at full size, under CUDA's autocast
rules; `benchmarks/gpu/predict.py` and `tally.py` explain how kernels become seconds, `rates.py` names the
rates. Nothing here is a measurement. MFU counts one forward and one backward, HFU also the second forward of
the cached step. "host" is what launching takes: from C++, and with Python around it. Needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu.rates import Rates
from benchmarks.gpu.sizes import SIZES


def main(arguments: list[str] | None = None) -> None:
    """Print a table per encoder; the last line states the predicted utilisation."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=sorted(SIZES), default=list(SIZES))
    parser.add_argument("--pairs", type=int, default=32_768)
    parser.add_argument("--lengths", nargs=2, type=int, default=[64, 192], help="tokens of question, passage")
    parser.add_argument("--rates", type=Path, help="JSON of check.py whose measured rates are used")
    parser.add_argument("--out", type=Path, help="write the predictions here as JSON")
    given = parser.parse_args(arguments)
    rates = Rates() if given.rates is None else Rates.of_file(given.rates)
    predictions = predict_all(given.models, given.pairs, tuple(given.lengths), rates)
    if given.out is not None:
        document = {"rates": asdict(rates), "pairs": given.pairs, "lengths": given.lengths, **predictions}
        given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print("; ".join(summary(name, rows) for name, rows in predictions.items()))


def predict_all(
    models: list[str], pairs: int, lengths: tuple[int, int], rates: Rates
) -> dict[str, list[dict[str, Any]]]:
    """Predict every way for every encoder, printing each as it is ready."""
    from tests.pretended_gpu import load_guard

    load_guard()  # before torch is imported
    from benchmarks.gpu.predict import CODES, Predictor, Workload
    from benchmarks.gpu.tally import pretended_h200

    result: dict[str, list[dict[str, Any]]] = {}
    with pretended_h200():
        predictor = Predictor(rates, Workload(pairs, lengths))
        for model in models:
            print(f"\n{model}, {pairs:,} pairs of {lengths[0]} and {lengths[1]} tokens, one H200, predicted")
            print("| code | GPU s | kernels | per chunk | host s | MFU | HFU | graph | largest parts, s |")
            print("|---|---:|---:|---:|---:|---:|---:|---:|---|")
            result[model] = []
            for code in CODES:
                row = row_of(predictor.predict(SIZES[model], code), rates)
                result[model].append(row)
                print(line_of(row), flush=True)
    return result


def row_of(prediction: Any, rates: Rates) -> dict[str, Any]:
    """Return a prediction as plain figures."""
    return {
        "code": asdict(prediction.code),
        "seconds": round(prediction.seconds, 3),
        "gpu_seconds": round(prediction.gpu_seconds, 3),
        "host_seconds": round(prediction.host_seconds, 3),
        "host_seconds_with_python": round(prediction.host_seconds * rates.host_python, 3),
        "kernels": round(prediction.kernels),
        "kernels_per_chunk": prediction.chunk_kernels,
        "mfu": round(prediction.mfu, 3),
        "hfu": round(prediction.hfu, 3),
        "graph_kb_per_token": round(prediction.graph_bytes_per_token / 1e3, 1),
        "parts": {name: round(seconds, 3) for name, seconds in prediction.parts.items()},
    }


def line_of(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    parts = sorted(row["parts"].items(), key=lambda part: -part[1])[:5]
    cells = [
        row["code"]["name"],
        f"{row['gpu_seconds']:.1f}",
        f"{row['kernels'] / 1e3:.0f} k",
        "+".join(str(count) for count in row["kernels_per_chunk"]),
        f"{row['host_seconds']:.1f}-{row['host_seconds_with_python']:.1f}",
        f"{row['mfu']:.2f}",
        f"{row['hfu']:.2f}",
        f"{row['graph_kb_per_token']:.0f} kB/token",
        ", ".join(f"{name} {seconds:.1f}" for name, seconds in parts),
    ]
    return f"| {' | '.join(cells)} |"


def summary(model: str, rows: list[dict[str, Any]]) -> str:
    """Return the utilisation of the best cached step and of the best step whose graphs are kept."""
    cached = max(row["mfu"] for row in rows if row["code"]["kept"] == 0)
    kept = max(row["mfu"] for row in rows)
    return f"{model}: predicted MFU {cached:.3f} cached, {kept:.3f} with kept graphs"


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # autograd's thread of the pretended device does not end

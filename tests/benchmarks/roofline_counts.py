"""Count kernels on the pretended H200 in a fresh process, and print them as JSON."""

from __future__ import annotations

import json
import os
import sys

from tests.pretended_gpu import load_guard


def chunk() -> dict[str, list[int]]:
    """Kernels of a chunk of XLM-R base, by precision: its 12 layers are equal, so 1 and 2 suffice."""
    first, second = _chunk(1), _chunk(2)
    return {
        name: [a + 11 * (b - a) for a, b in zip(first[name], second[name], strict=True)] for name in first
    }


def _chunk(layers: int) -> dict[str, list[int]]:
    from benchmarks.gpu.predict import Code, engine_of, passes_of
    from benchmarks.gpu.sizes import SIZES
    from benchmarks.gpu.tally import pretended_h200

    size = SIZES["xlmr-base"] | {"num_hidden_layers": layers}
    codes = [Code("copy"), Code("first wave", precision="bf16_autocast", masks="transformers")]
    counts = {}
    with pretended_h200():
        for code in codes:
            passes = passes_of(engine_of(size, code), 64, 192, padded=False)
            counts[code.name] = [len(passes.without_graph), len(passes.with_graph)]
            counts[f"{code.name}, compiled"] = [len(passes.compiled().with_graph)]
    return counts


def step() -> dict[str, int]:
    """Kernels that two more chunks add to a real step, and those that the prediction adds."""
    from benchmarks.gpu.model import batch_of
    from benchmarks.gpu.predict import Code, engine_of, loss_kernels, passes_of
    from benchmarks.gpu.sizes import SMALL
    from benchmarks.gpu.tally import Tally, pretended_h200
    from hbt_dist.contrastive.settings import LossSettings, StepSettings
    from hbt_dist.contrastive.step import contrastive_step

    with pretended_h200():
        engine = engine_of(SMALL, Code("copy"))
        loss, settings = LossSettings(row_chunk=16), StepSettings(mode="cached", chunk_rows=32)
        predicted = len(loss_kernels(64, 128, row_chunk=16)) - len(loss_kernels(32, 128, row_chunk=16))
        for length in (12, 24):
            passes = passes_of(engine, 32, length, padded=False)
            predicted += len(passes.without_graph) + len(passes.with_graph)
        counted = []
        for rows in (32, 64):
            batch = batch_of(rows, SMALL["vocab_size"], (12, 24), fixed=True)
            with Tally() as tally:
                contrastive_step(engine, batch, loss, settings, engine.world)
            counted.append(len(tally.kernels))
    return {"step": counted[1] - counted[0], "predicted": predicted}


if __name__ == "__main__":
    load_guard()
    print(json.dumps({"chunk": chunk, "step": step}[sys.argv[1]]()), flush=True)
    os._exit(0)  # autograd's thread of the pretended device does not end

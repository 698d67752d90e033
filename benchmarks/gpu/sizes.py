"""Shapes of the encoders that the GPU scripts measure and predict, and their model FLOPs."""

from __future__ import annotations

from collections.abc import Sequence

Size = dict[str, int]  # of the architecture, in the names of its configuration

#: XLM-R base and large; counts of parameters in benchmarks/scale/report.py.
SIZES: dict[str, Size] = {
    "xlmr-base": {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "vocab_size": 250002,
    },
    "560M": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "vocab_size": 250002},
}
TINY: Size = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 300}
#: Heads of 64, as the real models have: the choice of an attention kernel, and its dropout, depend on it.
SMALL: Size = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 300}


def model_flops(size: Size, parameters: int, rows: int, lengths: Sequence[int]) -> float:
    """Return the FLOPs of a step that count for utilisation: one forward and one backward.

    6 per matrix parameter and token, 12 layers hidden length^2 per text for attention; the embedding table
    and the second forward of the cached step do not count.

    Args:
        size: of the encoder.
        parameters: all of them.
        rows: pairs of the step.
        lengths: tokens of each text of a pair.
    """
    matrices = parameters - size["vocab_size"] * size["hidden_size"]
    attention = 12 * size["num_hidden_layers"] * size["hidden_size"] * sum(n * n for n in lengths)
    return float(rows * (6 * matrices * sum(lengths) + attention))

"""Draw docs/images/quickstart_before.png and quickstart_after.png from the quickstart's two evaluations.

    ./launchers/quickstart.sh && python docs/draw_quickstart.py runs/quickstart

The pictures show a part of the report's matrices: ten languages.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from hbt_dist.evaluation.read_results import read_evaluation
from hbt_dist.reports.evaluation.sections import language_matrix

LANGUAGES = ("en", "de", "fa", "fi", "hu", "tr", "ar", "zh", "et", "it")  # training sees no et and no it


def main() -> None:
    """Entry point."""
    run = Path(sys.argv[1])
    stored = [read_evaluation(run / "evaluation" / when / "sample") for when in ("start", "end")]
    rows = [stored[0].languages.index(code) for code in LANGUAGES]
    cells = [evaluation.cells()[np.ix_(rows, rows)] for evaluation in stored]
    for name, evaluation, values in zip(("before", "after"), stored, cells, strict=True):
        matrix = language_matrix(
            f"{name} training",
            list(LANGUAGES),
            values,
            scale_of=evaluation.results,
            high=float(np.nanmax(cells)),
        )
        (Path(__file__).parent / "images" / f"quickstart_{name}.png").write_bytes(matrix.picture())


if __name__ == "__main__":
    main()

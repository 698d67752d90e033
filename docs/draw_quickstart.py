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
    for name, when in {"before": "start", "after": "end"}.items():
        evaluation = read_evaluation(run / "evaluation" / when / "sample")
        rows = [evaluation.languages.index(code) for code in LANGUAGES]
        values = evaluation.cells()[np.ix_(rows, rows)]
        picture = language_matrix(f"{name} training", list(LANGUAGES), values).picture()
        (Path(__file__).parent / "images" / f"quickstart_{name}.png").write_bytes(picture)


if __name__ == "__main__":
    main()

"""How often a 95 % interval holds the truth where one side of a difference has few units.

    python benchmarks/evaluation/few_units.py --runs 400

385 skewed units (lognormal, sigma 1.5) against 10, 30, 60 and 120 of the same distribution: no difference.
"""

from __future__ import annotations

import argparse

import numpy as np

from hbt_dist.comparison.gains import PairedRows
from hbt_dist.comparison.significance import mean_interval

MANY = 385


def main() -> None:
    """Print the share of intervals that hold 0, for each number of units."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    runs = parser.parse_args().runs
    rng = np.random.default_rng(0)
    for few in (10, 30, 60, 120):
        cell, size = np.repeat([0, 1], [MANY, few]), MANY + few
        held = 0
        for _ in range(runs):
            rows = PairedRows(
                (("en", "de"), ("en", "fi")),
                cell,
                np.arange(size),
                np.ones(size, np.int64),
                np.zeros((1, size)),
                rng.lognormal(0, 1.5, (1, size)),
            )
            low, high = mean_interval(rows.gain(np.array([-1.0, 1.0])).shares)
            held += low <= 0 <= high
        print(f"{MANY} against {few}: {held / runs:.3f}")


if __name__ == "__main__":
    main()

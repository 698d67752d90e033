"""Read relevance judgements from tab-separated files: three columns (BEIR) or four (TREC)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.data.files import read_filled_lines


def read_qrels(path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield (location, question id, candidate id, grade) of each relevant pair.

    Lines are `question, candidate, grade`, or `question, iteration, candidate, grade`, separated by tabs or
    spaces. A grade of 0 or less is not relevant, a grade above 0 is the candidate's gain in nDCG. A first
    line whose last column is not a number is a header.

    Raises:
        UserError: another number of columns, or a grade that is not a finite number.
    """
    for location, line in read_filled_lines(path):
        columns = line.split("\t") if "\t" in line else line.split()
        if len(columns) not in (3, 4):
            raise UserError(
                location,
                f"has {len(columns)} columns",
                "expected question, candidate, grade (or TREC's four columns)",
            )
        try:
            grade = float(columns[-1])
        except ValueError:
            if location == f"{path} line 1":
                continue
            grade = math.nan
        if not math.isfinite(grade):
            raise UserError(location, f"the grade {columns[-1]!r} is not a number", "expected 0, 1, 2, ...")
        if grade > 0:
            yield location, columns[0].strip(), columns[-2].strip(), grade

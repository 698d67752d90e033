"""Relevance judgements in tab-separated files: three columns (BEIR) or four (TREC)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.data.files import read_lines


def read_qrels(path: Path) -> Iterator[tuple[str, str, str, float]]:
    """Yield (place, question id, candidate id, grade) of each relevant pair.

    Lines are `question, candidate, grade`, or `question, iteration, candidate, grade`, separated by tabs or
    spaces; a grade of 0 or less is not relevant, one above 0 is the candidate's gain in nDCG. A first line
    whose last column is no number is a header.

    Raises:
        UserError: another number of columns, or a grade that is no finite number.
    """
    for number, line in read_lines(path):
        columns = line.split("\t") if "\t" in line else line.split()
        if not any(column.strip() for column in columns):
            continue
        place = f"{path} line {number}"
        if len(columns) not in (3, 4):
            raise UserError(
                place,
                f"has {len(columns)} columns",
                "expected question, candidate, grade (or TREC's four columns)",
            )
        try:
            grade = float(columns[-1])
        except ValueError:
            if number == 1:
                continue
            grade = math.nan
        if not math.isfinite(grade):
            raise UserError(place, f"the grade {columns[-1]!r} is not a number", "expected 0, 1, 2, ...")
        if grade > 0:
            yield place, columns[0].strip(), columns[-2].strip(), grade

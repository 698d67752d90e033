"""Read the candidates of a plan block by block and check that they can be ranked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hbt_dist.evaluation.matrix_rows import Float32, Int64, Rows, check_rows, read_rows
from hbt_dist.evaluation.plan import ScoringPlan


class CandidateBlocks:
    """The candidate matrix (N, D) on the grid of a plan.

    Args:
        plan: lays the candidates out.
        candidates: (N, D); read when a block is asked for.
        ids: of the candidates, for error messages.
    """

    def __init__(self, plan: ScoringPlan, candidates: Rows, ids: Sequence[str] | None = None) -> None:
        self._plan, self._candidates, self._ids = plan, candidates, ids
        self._checked: set[int] = set()

    def read(self, block: int, out: Float32) -> None:
        """Copy a block into `out` (block_candidates, D), zeros behind the last candidate.

        Raises:
            UserError: a vector that cannot be ranked; known when the block is read first.
        """
        rows = self._plan.candidate_rows(block)
        read_rows(self._candidates, rows, out)
        if block not in self._checked:
            self._check(block, rows, out)
            self._checked.add(block)

    def _check(self, block: int, rows: slice | Int64, values: Float32) -> None:
        positions = self._plan.candidate_positions(block)
        row_of = np.arange(positions.start, positions.stop) if isinstance(rows, slice) else rows

        def name(i: int) -> str:
            row = int(row_of[i])
            try:
                return f"row {row}" if self._ids is None else self._ids[row]
            except OSError:  # the ids of a large pool are in a file, which may be absent on this machine
                return f"row {row}"

        check_rows(values[: positions.stop - positions.start], name, "candidate")

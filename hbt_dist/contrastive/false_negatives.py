"""Leave out columns that score above a row's positive: false negatives by similarity, and their counts.

The scores are those of the row loop, so each of several widths decides for itself. Or they are those of a
frozen guide model (GISTEmbed, arXiv 2402.16829): one further product of r x M x E per chunk and one more
buffer of r x M. Masks are constants for the gradient and need no collective. Counts by language pair are
products of masks with L columns of zeros and ones; they travel in the step's sum of scalars.

Shapes: b local rows, B rows, N passages of the global batch in gathered order, M columns of a block, r rows
of a chunk, L languages of the global batch, E width of the guide's vectors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hbt_dist.batching.frozen import FrozenVectors
from hbt_dist.common.devices import move
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.partition import Index, Similar
from hbt_dist.contrastive.row_losses import Exclude
from hbt_dist.contrastive.term_settings import FalseNegativeSettings

Role = Literal["question", "positive", "passage"]  # passage: the positives and all hard negatives


@dataclass(frozen=True)
class MaskedColumns:
    """Counts of a step over the global batch. A column counts once for each row that it is a negative of."""

    languages: tuple[int, ...]  # (L,) numbers of the corpus
    masked_LL: list[list[int]]  # by language of the question (else of the row) and of the column
    columns_LL: list[list[int]]  # the same of all negatives
    bare_rows: int  # rows that lost all their negatives
    rows: int  # rows that had negatives


@dataclass(frozen=True)
class _Texts:
    """Texts of a role: positions of their languages among those of the batch, and the guide's vectors."""

    language_k: Tensor
    guide_kE: Tensor | None

    def part(self, index: Index) -> _Texts:
        return _Texts(self.language_k[index], None if self.guide_kE is None else self.guide_kE[index])


class FalseNegatives:
    """The masks of a step on one rank, and their counts.

    Args:
        settings: margin, and which columns.
        layout: of the gathered columns.
        languages: of every question (B,) and of every passage in gathered order (N,), numbers of the corpus.
        frozen: vectors of the batch's texts by the frozen models, the guide's among them.
        scale: 1 / temperature, which the scores of the row loop contain.
        device: of the loss.
    """

    def __init__(
        self,
        settings: FalseNegativeSettings,
        layout: Layout,
        languages: tuple[NDArray[np.integer], NDArray[np.integer]],
        frozen: Mapping[str, FrozenVectors],
        *,
        scale: float,
        device: torch.device,
    ) -> None:
        self.settings, self.layout = settings, layout
        guide = None if settings.guide is None else frozen[settings.guide]
        self.unit = scale if guide is None else 1.0
        numbers, positions = np.unique(np.concatenate(languages), return_inverse=True)
        self._languages = tuple(map(int, numbers))
        language = move(torch.from_numpy(positions.astype(np.int64)), device)
        num_questions = len(languages[0])
        vectors: list[Tensor | None] = [None, None, None]
        if guide is not None:
            arrays = (guide.questions_bE, guide.questions_BE, guide.passages_NE)
            assert all(array is not None for array in arrays)  # else the row loop's scores would decide
            vectors = [None if array is None else move(torch.from_numpy(array), device) for array in arrays]
        passages = _Texts(language[num_questions:], vectors[2])
        self.columns: dict[Role, _Texts] = {
            "question": _Texts(language[:num_questions], vectors[1]),
            "positive": passages.part(layout.positive_columns(device)),
            "passage": passages,
        }
        self.rows: dict[Role, _Texts] = {
            "question": _Texts(language[:num_questions][layout.local_rows], vectors[0]),
            "positive": self.columns["positive"].part(layout.local_rows),
        }
        num = len(self._languages)
        self.masked_LL, self.columns_LL = torch.zeros(2, num, num, dtype=torch.float64, device=device)
        self._partitions: list[Partition] = []

    def partition(self, *, counted: bool) -> Partition:
        """Return the masks of one partition function per row.

        Args:
            counted: add its columns to the counts.
        """
        partition = Partition(self, counted)
        if counted:
            self._partitions.append(partition)
        return partition

    def counts(self) -> Tensor:
        """Return this rank's counts, (2 L L + 2) float64, for a sum over the ranks."""
        rows = torch.stack([partition.num_rows() for partition in self._partitions]).sum(0)
        return torch.cat([self.masked_LL.flatten(), self.columns_LL.flatten(), rows])

    def of_counts(self, counts: Sequence[float]) -> MaskedColumns:
        """Return sums of `counts` by their names."""
        num = len(self._languages)
        whole = [round(count) for count in counts]
        rows = [whole[start : start + num] for start in range(0, 2 * num * num, num)]
        return MaskedColumns(self._languages, rows[:num], rows[num:], *whole[-2:])


class Partition:
    """The masks of one partition function per row, over all its blocks."""

    def __init__(self, masks: FalseNegatives, counted: bool) -> None:
        self.masks, self.counted = masks, counted
        device, b = masks.masked_LL.device, masks.layout.num_rows
        self.positive_r1: Tensor | None = None  # of the chunk that the row loop is at
        self.negatives_b, self.left_b = torch.zeros(2, b, dtype=torch.float64, device=device)

    def similar(self, rows: Role, columns: Role) -> Similar:
        """Return the masks of a part; the part with the positives comes first in its partition function."""

        def of_sub_batch(
            row: Index, column: Index, target_b: Tensor | None, excluded: Exclude | None
        ) -> Exclude:
            return _Mask(self, (rows, columns), (row, column), target_b, excluded)

        return of_sub_batch

    def num_rows(self) -> Tensor:
        """Return the number of rows that lost all their negatives, and of rows that had any: (2,)."""
        had_b = self.negatives_b > 0
        return torch.stack([(had_b & (self.left_b == 0)).sum(), had_b.sum()]).double()


class _Mask:
    """The mask of a block: what is left out anyway, and what scores too high."""

    def __init__(
        self,
        partition: Partition,
        roles: tuple[Role, Role],
        index: tuple[Index, Index],
        target_b: Tensor | None,
        excluded: Exclude | None,
    ) -> None:
        masks = partition.masks
        device, layout = masks.masked_LL.device, masks.layout
        self._partition, self._roles = partition, roles
        self._target_b, self._excluded = target_b, excluded
        self._rows = masks.rows[roles[0]].part(index[0])
        self._columns = masks.columns[roles[1]].part(index[1])
        self._target_language_b: Tensor | None = None
        if masks.settings.languages == "positive":
            counterpart: Role = "positive" if roles[0] == "question" else "question"
            self._target_language_b = masks.rows[counterpart].language_k[index[0]]
        self._row_b = torch.arange(layout.num_rows, device=device)[index[0]]
        self._owner_M: Tensor | None = None
        if masks.settings.columns != "all" and roles[1] == "passage":
            self._owner_M = layout.rows_of_hard_negatives(device)[index[1]]
        language_1L = torch.arange(masks.masked_LL.shape[0], device=device)[None]
        self._one_hot_ML = (self._columns.language_k[:, None] == language_1L).float()

    def __call__(self, start: int, stop: int, scores_rM: Tensor) -> Tensor:
        deciding_rM = scores_rM
        if self._rows.guide_kE is not None and self._columns.guide_kE is not None:
            deciding_rM = self._rows.guide_kE[start:stop] @ self._columns.guide_kE.T
        similar_rM = self._above_limit(start, stop, deciding_rM)
        self._choose(start, stop, similar_rM)
        excluded_rM = None if self._excluded is None else self._excluded(start, stop, scores_rM)
        if excluded_rM is not None:
            similar_rM &= ~excluded_rM
        if self._target_b is not None:
            similar_rM.scatter_(1, self._target_b[start:stop, None], False)
        if self._partition.counted:
            self._count(start, stop, similar_rM, excluded_rM)
        return similar_rM if excluded_rM is None else excluded_rM.logical_or_(similar_rM)

    def _above_limit(self, start: int, stop: int, scores_rM: Tensor) -> Tensor:
        """Return which scores exceed that of the row's positive by more than the margin."""
        if self._target_b is not None:
            self._partition.positive_r1 = scores_rM.gather(1, self._target_b[start:stop, None])
        positive_r1, masks = self._partition.positive_r1, self._partition.masks
        assert positive_r1 is not None
        if masks.settings.relative_margin is not None:
            return scores_rM > positive_r1 + positive_r1.abs() * masks.settings.relative_margin
        assert masks.settings.margin is not None
        return scores_rM > positive_r1 + masks.settings.margin * masks.unit

    def _choose(self, start: int, stop: int, similar_rM: Tensor) -> None:
        """Keep of the mask what `columns` and `languages` allow."""
        masks = self._partition.masks
        if self._target_language_b is not None:
            similar_rM &= self._columns.language_k[None] == self._target_language_b[start:stop, None]
        allowed = masks.settings.columns
        if self._owner_M is not None:
            is_hard_rM = self._owner_M[None] == self._row_b[start:stop, None] + masks.layout.first_row
            similar_rM &= is_hard_rM if allowed == "hard_negatives" else ~is_hard_rM
        elif allowed == "hard_negatives":
            similar_rM.zero_()

    def _count(self, start: int, stop: int, similar_rM: Tensor, excluded_rM: Tensor | None) -> None:
        """Add the chunk's columns to the counts, without waiting for the device."""
        partition, masks = self._partition, self._partition.masks
        negatives_rL = self._one_hot_ML.sum(0).expand(stop - start, -1)
        if self._target_b is not None:
            negatives_rL = negatives_rL - self._one_hot_ML[self._target_b[start:stop]]
        if excluded_rM is not None:
            negatives_rL = negatives_rL - self._by_language(excluded_rM)
        similar_rL = self._by_language(similar_rM)
        row_r = self._row_b[start:stop]
        partition.negatives_b.index_add_(0, row_r, negatives_rL.sum(1, dtype=torch.float64))
        partition.left_b.index_add_(0, row_r, (negatives_rL - similar_rL).sum(1, dtype=torch.float64))
        language_r = self._rows.language_k[start:stop]
        for table_LL, counts_rL in ((masks.masked_LL, similar_rL), (masks.columns_LL, negatives_rL)):
            # The question's language comes first, also where questions are the columns of a passage.
            table = table_LL.T if self._roles == ("positive", "question") else table_LL
            table.index_add_(0, language_r, counts_rL.double())

    def _by_language(self, mask_rM: Tensor) -> Tensor:
        """Return how many columns of each language a mask holds, (r, L), exact below 2^24 columns."""
        width = 65_536 if mask_rM.device.type == "cuda" else 8_192
        parts = zip(mask_rM.split(width, 1), self._one_hot_ML.split(width), strict=True)
        return torch.stack([part.float() @ one_hot for part, one_hot in parts]).sum(0)

"""Mine a block of examples: search their candidates in the whole pool, select, write one file.

`mine_block` is a pure function of files. Processes share the blocks in any way (Ray actors, ranks of a
training, one process): the files are equal for every number of workers, threads and devices. A finished block
is a file, so that an interrupted miner continues with the missing ones. `join_blocks` puts them together.

    plan = MiningPlan(corpus=corpus, settings=run.mining, seed=run.seed, folder=folder,
                      questions=question_vectors, candidates=candidate_vectors)
    for number in plan.missing():
        mine_block(plan, number, device=device)
    join_blocks(plan).save(folder / "negatives")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.evaluation.matrix_rows import Float32, Int64, Rows
from hbt_dist.mining.mined import MinedNegatives
from hbt_dist.mining.settings import MiningSettings

#: (n,) examples, passage rows, language indices -> (n,) scores: the highest over the example's questions.
Judge = Callable[[Int64, Int64, Int64], Float32]


@dataclass(frozen=True, kw_only=True)
class MiningPlan:
    """What decides mined negatives; pickles as paths if the vectors are `EmbeddingFiles`.

    Attributes:
        seed: of random sampling, and of the rotation of shares.
        folder: of the files of finished blocks.
        questions: (n, D) vectors of the texts of `FlatTexts(corpus, "question")`.
        candidates: (N, D) vectors of the texts of `FlatTexts(corpus, "passage")`.
    """

    corpus: Corpus
    settings: MiningSettings
    seed: int
    folder: Path
    questions: Rows
    candidates: Rows

    @property
    def num_blocks(self) -> int:
        """Return the number of blocks of examples."""
        return -(-self.corpus.num_examples // self.settings.examples_per_block)

    def file(self, number: int) -> Path:
        """Return the path of a block's file."""
        return self.folder / f"block-{number:06d}.npz"

    def missing(self) -> list[int]:
        """Return the numbers of the blocks without a file."""
        return [number for number in range(self.num_blocks) if not self.file(number).is_file()]


def mine_block(
    plan: MiningPlan,
    number: int,
    *,
    judge: Judge | None = None,
    device: torch.device | None = None,
    num_threads: int = 0,
) -> Path:
    """Write the negatives of a block of examples; an existing file stays.

    Args:
        judge: scores candidates again before the selection.
        device: of the search; default: the CPU.
        num_threads: of the search on a CPU; 0: all.

    Returns:
        the block's file.

    Raises:
        UserError: vectors that do not fit the corpus, or that cannot be ranked.
    """
    raise NotImplementedError


def join_blocks(plan: MiningPlan) -> MinedNegatives:
    """Return the negatives of all blocks, whose files must exist."""
    raise NotImplementedError

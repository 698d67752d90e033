"""A second language for every question, to align question languages (LaKDA, arXiv 2509.06195).

The loss compares how a question and its translation score the same passages; so the batch carries each
question once more, in another language that the example has. A pure function of (seed, step) like the rest of
the plan. An example with a question in one language only is paired with itself: it adds nothing to that loss.
"""

from __future__ import annotations

import numpy as np

from hbt_dist.batching.corpus_view import PlanCorpus
from hbt_dist.batching.counter_random import Int64s, derive_key, hash64
from hbt_dist.batching.plan import GlobalBatch


def aligned_languages(batch: GlobalBatch, corpus: PlanCorpus, seed: int) -> Int64s:
    """The second question language of each row, (B,): uniform over the example's other languages."""
    cells = np.asarray(corpus.example_cell)[batch.example]
    has_BL = np.asarray(corpus.cell_questions)[cells].copy()
    rows = np.arange(len(batch))
    has_BL[rows, batch.question_language] = False
    others = has_BL.sum(1)
    drawn = hash64(derive_key("aligned", seed, batch.step), rows) % np.maximum(others, 1).astype(np.uint64)
    # The (drawn + 1)-th language that is there: where the running count first exceeds the draw.
    place = (np.cumsum(has_BL, axis=1) > drawn.astype(np.int64)[:, None]).argmax(1)
    return np.where(others > 0, place, batch.question_language).astype(np.int64)

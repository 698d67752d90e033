"""Mine a block of examples: search their candidates in the whole pool, select, write one file.

`mine_block` is a pure function of files. Processes share the blocks in any way (Ray actors, ranks of a
training, one process): the files are equal for every number of workers, threads and devices. A finished block
is a file, so that an interrupted miner continues with the missing ones. `join_blocks` puts them together.

    plan = MiningPlan(corpus=corpus, settings=run.mining, seed=run.seed, folder=folder,
                      questions=question_vectors, candidates=candidate_vectors)
    for number in plan.missing():
        mine_block(plan, number, device=device)
    join_blocks(plan).save(folder / "negatives")

Cost: one product of the block's questions with the pool, as faiss alone (benchmarks/results/mining_speed.md),
and one pass over the vectors of the pool. Memory: `block_memory`, without a term for the size of the pool.

Letters: n examples of a block, m their questions, N candidates, D embedding width, L languages, W length of
the lists.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_file
from hbt_dist.data.corpus.corpus import Corpus, Role
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.evaluation.matrix_rows import Float32, Int64, Rows, check_rows
from hbt_dist.mining.mined import MinedNegatives
from hbt_dist.mining.search import (
    EXTRA,
    PAIR_BYTES,
    PAIRS,
    PART_BYTES,
    Bools,
    Keys,
    Pool,
    PoolSearch,
    Questions,
    best_first,
    pair_scores,
    without_repeats,
)
from hbt_dist.mining.selection import Counts, add_counts, select
from hbt_dist.mining.settings import MiningSettings, Share

#: (n,) examples, passage rows, language indices -> (n,) scores: the highest over the example's questions.
Judge = Callable[[Int64, Int64, Int64], Float32]
_ENTRY_BYTES = 96  # of a list, while negatives are selected


@dataclass(frozen=True, kw_only=True)
class MiningPlan:
    """What decides mined negatives; pickles as paths if the vectors are `EmbeddingFiles`.

    Attributes:
        seed: of random sampling, and of the rotation of shares.
        folder: of the files of finished blocks, of this plan alone.
        questions: (M, D) vectors of `FlatTexts(corpus, "question")`.
        candidates: (N, D) vectors of `FlatTexts(corpus, "passage")`.
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

    def examples(self, number: int) -> range:
        """Return the examples of a block."""
        size = self.settings.examples_per_block
        return range(number * size, min((number + 1) * size, self.corpus.num_examples))

    def file(self, number: int) -> Path:
        """Return the path of a block's file."""
        return self.folder / f"block-{number:06d}.npz"

    def missing(self) -> list[int]:
        """Return the numbers of the blocks without a file."""
        return [number for number in range(self.num_blocks) if not self.file(number).is_file()]


def block_memory(settings: MiningSettings, width: int, questions_per_example: int) -> int:
    """Return the bytes that a block takes at most, without the integers of the corpus.

    A tie of more than `PAIRS` candidates takes `PAIR_BYTES` for each of them.

    Args:
        width: D.
        questions_per_example: most languages of a question.
    """
    examples, length = settings.examples_per_block, settings.window
    pairs = max(2 * PAIRS, questions_per_example * (length + EXTRA))
    vectors = 2 * PART_BYTES + 8 * width * examples * questions_per_example
    return vectors + PAIR_BYTES * pairs + _ENTRY_BYTES * examples * length


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
        UserError: vectors that do not fit the corpus, or that cannot be ranked; faiss is not installed.
    """
    file = plan.file(number)
    if file.is_file():
        return file
    block = _Block(plan, number)
    counts = Counts.empty(len(plan.corpus.languages), plan.settings)
    search = PoolSearch(block.pool, device or torch.device("cpu"), num_threads)
    lists, positive = block.lists(search, counts), block.positive_scores()
    if judge is not None:
        lists, positive = block.judged(judge, lists, positive)
    keys = select(
        plan.settings, plan.seed, block.pool, block.examples, lists, block.references(positive), counts
    )
    passages, languages = block.pool.passages(keys)
    chosen = keys > 0
    plan.folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as temporary, temporary.open("wb") as target:
        np.savez(
            target,
            number=chosen.sum(axis=1),
            passage=passages[chosen],
            language=languages[chosen].astype(np.int32),
            score=block.pool.decode(keys)[0][chosen],
            positive_score=positive.max(axis=1),
            counts=np.array(json.dumps(counts.to_json(plan.corpus.languages))),
        )
    return file


def join_blocks(plan: MiningPlan) -> MinedNegatives:
    """Return the negatives of all blocks, whose files must exist."""
    blocks = [dict(np.load(plan.file(number))) for number in range(plan.num_blocks)]
    columns = {
        name: np.concatenate([block[name] for block in blocks]) for name in blocks[0] if name != "counts"
    }
    return MinedNegatives(
        corpus=plan.corpus.fingerprint,
        offsets=np.concatenate([[0], np.cumsum(columns.pop("number"))]),
        counts=add_counts([json.loads(str(block["counts"])) for block in blocks]),
        **columns,
    )


class _Block:
    """The examples of a block: their questions, groups and languages."""

    def __init__(self, plan: MiningPlan, number: int) -> None:
        self._plan, corpus = plan, plan.corpus
        self.pool = Pool(_texts(corpus, "passage", plan.candidates), plan.candidates)
        rows = plan.examples(number)
        self.examples = np.arange(rows.start, rows.stop)
        cells = np.asarray(corpus.example_cell[rows.start : rows.stop])
        self._passage_has, question_has = corpus.cell_passages[cells], corpus.cell_questions[cells]
        self._members = languages_of_lists(self._passage_has, question_has)
        self._group = np.asarray(corpus.example_group[rows.start : rows.stop])
        self._passage = np.asarray(corpus.example_passage[rows.start : rows.stop])
        self._questions = self._read_questions(question_has)

    def _read_questions(self, has: Bools) -> Questions:
        texts, plan = _texts(self._plan.corpus, "question", self._plan.questions), self._plan
        if plan.questions.shape[1] != plan.candidates.shape[1]:
            raise UserError(
                "mining",
                f"expected vectors of one width, got questions {plan.questions.shape[1]}, passages "
                f"{plan.candidates.shape[1]}",
                "encode both with the same model",
            )
        starts = np.concatenate([[0], np.cumsum(has.sum(axis=1))])
        vectors = np.empty((starts[-1], plan.questions.shape[1]), np.float32)
        before: Int64 = np.cumsum(has, axis=1) - has
        for language in range(has.shape[1]):
            rows = np.flatnonzero(has[:, language])
            if len(rows):
                first = int(texts.numbers(self.examples[rows[:1]], language)[0])
                vectors[starts[rows] + before[rows, language]] = plan.questions[first : first + len(rows)]
        owner = np.repeat(self.examples, has.sum(axis=1))
        check_rows(vectors, lambda row: plan.corpus.example_id(int(owner[row])), "question")
        return Questions(vectors, starts)

    def lists(self, search: PoolSearch, counts: Counts) -> dict[Share, Keys]:
        """Return the best W candidates of each share, (n, W) keys, each passage in its best language."""
        length = self._plan.settings.window
        members = {share: self._members[share] for share in self._plan.settings.shares()}
        lists = {share: np.zeros((len(self.examples), length), np.uint64) for share in members}
        for language in range(len(self._plan.corpus.languages)):
            chosen = np.flatnonzero(np.any([has[:, language] for has in members.values()], axis=0))
            if not len(chosen):
                continue
            keys, excluded = search.lists(self._questions, chosen, self._group[chosen], language, length)
            counts.languages["group"][language] += excluded
            for share, has in members.items():
                inside = has[chosen, language]
                lists[share][chosen[inside]] = self._merged(lists[share][chosen[inside]], keys[inside])
        return lists

    def _merged(self, kept: Keys, more: Keys) -> Keys:
        """Return the best of two lists, each passage once."""
        if not kept.any():
            return more
        keys = best_first(np.concatenate([kept, more], axis=1))
        return without_repeats(keys, self.pool.passages(keys)[0])[:, : kept.shape[1]]

    def positive_scores(self) -> Float32:
        """Return the score of the positive in each language, (n, L); minus infinity where it has no text."""
        scores = np.full(self._passage_has.shape, -np.inf, np.float32)
        for language in range(len(self._plan.corpus.languages)):
            examples = np.flatnonzero(self._passage_has[:, language])
            if not len(examples):
                continue
            rows, starts = self._questions.of(examples)
            candidates = self.pool.texts.numbers(self._passage[examples], language)
            vectors = np.asarray(self._plan.candidates[candidates], np.float32)
            owner = np.repeat(np.arange(len(examples)), np.diff(starts))
            pairs = pair_scores(self._questions.vectors, rows, vectors, owner)
            scores[examples, language] = np.maximum.reduceat(pairs, starts[:-1])
        return scores

    def references(self, positive: Float32) -> Float32:
        """Return the score that a candidate in each language is compared with: (n, L)."""
        return np.where(self._passage_has, positive, positive.max(axis=1, keepdims=True))

    def judged(
        self, judge: Judge, lists: dict[Share, Keys], positive: Float32
    ) -> tuple[dict[Share, Keys], Float32]:
        """Return lists and scores of the positive with the judge's scores; each text is scored once."""
        keys = np.concatenate(list(lists.values()), axis=1)
        candidates, size = self.pool.decode(keys)[1], len(self.pool.texts)
        row, column = np.nonzero(keys)
        pairs, first, inverse = np.unique(
            row * size + candidates[row, column], return_index=True, return_inverse=True
        )
        passages, languages = self.pool.texts.locate(pairs % size)
        scores = _finite(judge(self.examples[row[first]], passages, languages))
        judged = np.zeros(keys.shape, np.uint64)
        judged[row, column] = self.pool.keys(np.asarray(scores, np.float32), pairs % size)[inverse]
        rescored = np.split(judged, len(lists), axis=1)
        example, language = np.nonzero(self._passage_has)
        positive = positive.copy()
        positive[example, language] = _finite(judge(self.examples[example], self._passage[example], language))
        return dict(zip(lists, map(best_first, rescored), strict=True)), positive


def _finite(scores: Float32) -> Float32:
    """Return a judge's scores; refuse NaN, which would rank first and pass every margin."""
    if bad := int(np.count_nonzero(~np.isfinite(scores))):
        raise UserError(
            "mining.judge",
            f"expected finite scores, got {bad:,} of {len(scores):,} that are not",
            "check the judge on its own texts, or name another one",
        )
    return scores


def languages_of_lists(passage_has: Bools, question_has: Bools) -> dict[Share, Bools]:
    """Return the languages of each list: share -> (n, L), from those of passages and questions, (n, L)."""
    return {
        "any": np.ones_like(passage_has),
        "passage": passage_has,
        "question": question_has,
        "other": ~(passage_has | question_has),
    }


def _texts(corpus: Corpus, role: Role, vectors: Rows) -> FlatTexts:
    """Return the texts of a role, which must have these vectors."""
    texts = FlatTexts(corpus, role)
    if len(vectors.shape) != 2 or vectors.shape[0] != len(texts):
        raise UserError(
            f"mining: vectors of {role}s",
            f"expected shape ({len(texts)}, width), got {tuple(vectors.shape)}",
            "the training data have changed: encode them once more",
        )
    return texts

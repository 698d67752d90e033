"""In one language the negatives are those of sentence-transformers' `mine_hard_negatives`.

Two of its rules are not ours. Where the positive is not among the first range_max + 1 candidates, it
considers one candidate more. Where a question has several positives, it compares with the lowest; here each
example compares with its positive.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers.util import dot_score, mine_hard_negatives, pairwise_dot_score

from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.mining.blocks import MiningPlan, join_blocks, mine_block
from hbt_dist.mining.settings import MiningSettings
from tests.helpers.published import write_lines

EXAMPLES, NEGATIVES, WIDTH = 60, 40, 16


class GivenVectors:
    """Stands for a model of sentence-transformers: its vectors of a text are given."""

    device = torch.device("cpu")
    similarity = staticmethod(dot_score)
    similarity_pairwise = staticmethod(pairwise_dot_score)

    def __init__(self, vectors: dict[str, Any]) -> None:
        self.vectors = vectors

    def encode_query(self, texts: list[str], **_: Any) -> Any:
        return np.stack([self.vectors[text] for text in texts])

    encode_document = encode_query


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Questions on 50 passages, so that some share one, and passages that are only negatives."""
    folder = tmp_path_factory.mktemp("one_language")
    lines = [
        {
            "id": f"q{number}",
            "question": {"en": f"question {number}"},
            "passage": {"en": f"passage {number % 50}"},
            "negatives": [{"id": f"n{number}", "text": {"en": f"negative {number}"}}]
            if number < NEGATIVES
            else [],
        }
        for number in range(EXAMPLES)
    ]
    path = write_lines(folder / "train.jsonl", lines)
    source: Any = {"name": "set", "format": "jsonl", "path": str(path)}
    return build_corpus(DataSettings(sources=(source,)), folder / "cache")


@pytest.fixture(scope="module")
def vectors(corpus: Corpus) -> dict[str, Any]:
    """Vectors of length 1; a question is near its passage."""
    random = np.random.default_rng(0)
    vectors = {text: random.normal(size=WIDTH) for text in FlatTexts(corpus, "passage")}
    for row, text in enumerate(FlatTexts(corpus, "question")):
        passage = corpus.passage_text(int(corpus.example_passage[row]), "en")
        vectors[text] = 0.6 * vectors[passage] + random.normal(size=WIDTH)
    return {text: (v / np.linalg.norm(v)).astype(np.float32) for text, v in vectors.items()}


@pytest.mark.parametrize(
    ("changes", "theirs"),
    [
        ({"count": 3}, {}),
        ({"count": 1, "rank_min": 5}, {}),
        ({"count": 4, "rank_min": 2, "rank_max": 20, "margin": 0.1}, {}),
        ({"count": 3, "relative_margin": 0.3, "rank_max": 60}, {}),
        ({"count": 5, "max_score": 0.4, "min_score": 0.2, "rank_max": 30}, {}),
        ({"count": 2, "margin": 0.05, "relative_margin": 0.1, "max_score": 0.5, "rank_min": 1}, {}),
        ({"count": 50, "rank_max": 100, "margin": -0.05}, {}),
        ({"count": 9, "rank_min": 3, "rank_max": 12, "sampling": "random"}, {"sampling_strategy": "random"}),
    ],
    ids=["best", "later ranks", "ranks and margin", "relative", "scores", "all", "to the end", "random, all"],
)
def test_negatives_and_scores_are_equal(
    changes: dict[str, Any], theirs: dict[str, Any], corpus: Corpus, vectors: dict[str, Any], tmp_path: Path
) -> None:
    want = reference(corpus, vectors, MiningSettings(**changes), theirs)
    matrices = {
        role: np.stack([vectors[text] for text in FlatTexts(corpus, role)])
        for role in ("question", "passage")
    }
    plan = MiningPlan(
        corpus=corpus,
        settings=MiningSettings(languages="passage", examples_per_block=17, **changes),
        seed=0,
        folder=tmp_path,
        questions=matrices["question"],
        candidates=matrices["passage"],
    )
    for number in plan.missing():
        mine_block(plan, number)
    mined = join_blocks(plan)
    assert any(len(texts) for texts, _ in want.values())
    for example in range(EXAMPLES):
        part = slice(*mined.offsets[example : example + 2].tolist())
        texts, scores = want.get(f"question {example}", ([], []))
        assert [corpus.passage_text(row, "en") for row in mined.passage[part].tolist()] == texts
        np.testing.assert_allclose(mined.score[part], scores, atol=1e-6)


def reference(
    corpus: Corpus, vectors: dict[str, Any], chosen: MiningSettings, options: dict[str, Any]
) -> dict[str, tuple[list[str], list[float]]]:
    """Return question -> negatives and scores, of sentence-transformers."""
    import datasets

    rows = range(corpus.num_examples)
    data = datasets.Dataset.from_dict(
        {
            "question": [corpus.question_text(row, "en") for row in rows],
            "passage": [corpus.passage_text(int(corpus.example_passage[row]), "en") for row in rows],
        }
    )
    model: Any = GivenVectors(vectors)
    lists = mine_hard_negatives(
        data,
        model,
        corpus=list(FlatTexts(corpus, "passage")),
        range_min=chosen.rank_min,
        range_max=chosen.rank_max,
        max_score=chosen.max_score,
        min_score=chosen.min_score,
        absolute_margin=chosen.margin,
        relative_margin=chosen.relative_margin,
        num_negatives=chosen.count,
        output_format="labeled-list",
        output_scores=True,
        verbose=False,
        **options,
    )
    return {row["question"]: (row["passage"][1:], row["scores"][1:]) for row in lists}

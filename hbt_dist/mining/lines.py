"""Write mined negatives as the package's training format: one JSON line per example, in the corpus' order.

Questions and passages are those of the corpus. A negative has all texts of its passage, the language in which
it was mined, and its score; a line has the score of its positive. Ids are those of the data; with several
sources the source's name is before them, and "pool/" before those of a pool.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist.common.console import Progress
from hbt_dist.common.files import atomic_file
from hbt_dist.data.corpus.convert import POOL
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.mining.mined import MinedNegatives

_EXAMPLES_AT_ONCE = 1024


def write_lines(path: Path, corpus: Corpus, mined: MinedNegatives, *, progress: bool = True) -> None:
    """Write the file in one step.

    Args:
        path: of the file (.jsonl).
        corpus: examples and passages.
        mined: the negatives of its examples.
    """
    with (
        atomic_file(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
        Progress(
            corpus.num_examples, f"write {path.name}", "line", disable=not progress, first_seconds=1.0
        ) as bar,
    ):
        writer = _Lines(corpus, mined)
        for start in range(0, corpus.num_examples, _EXAMPLES_AT_ONCE):
            examples = range(start, min(start + _EXAMPLES_AT_ONCE, corpus.num_examples))
            file.writelines(
                json.dumps(line, ensure_ascii=False) + "\n" for line in writer.of_examples(examples)
            )
            bar.update(len(examples))


class _Lines:
    """The lines of examples.

    Args:
        corpus: examples and passages.
        mined: the negatives of its examples.
    """

    def __init__(self, corpus: Corpus, mined: MinedNegatives) -> None:
        self._corpus, self._mined = corpus, mined
        # Sources follow each other, and the first passage of a source is that of its first example.
        self._sources, first_examples = np.unique(corpus.example_dataset, return_index=True)
        self._first_passages = corpus.example_passage[first_examples]
        self._first_of_pool = corpus.manifest.get("first_of_pool", corpus.num_passages)

    def of_examples(self, examples: range) -> Iterator[dict[str, Any]]:
        """Yield the lines of a part of the examples."""
        corpus, mined = self._corpus, self._mined
        first, last = mined.offsets[[examples.start, examples.stop]].tolist()
        positives = corpus.example_passage[examples.start : examples.stop].tolist()
        passages = self._passages({*positives, *mined.passage[first:last].tolist()})
        questions = _by_row(
            [corpus.question_texts(code, examples.start, examples.stop) for code in corpus.languages],
            corpus.languages,
        )
        prefixes = corpus.prefix_codes("question", slice(examples.start, examples.stop)).tolist()
        for example, positive, question, prefix in zip(examples, positives, questions, prefixes, strict=True):
            line = {
                "id": self._named(corpus.example_dataset[example], corpus.example_id(example)),
                "question": question,
                "passage": passages[positive]["text"],
                "passage_id": passages[positive]["id"],
                "score": _number(mined.positive_score[example]),
                "negatives": [
                    {
                        **passages[int(mined.passage[number])],
                        "language": corpus.languages[mined.language[number]],
                        "score": _number(mined.score[number]),
                    }
                    for number in range(*mined.offsets[[example, example + 1]].tolist())
                ],
            }
            if corpus.prefixes[prefix] is not None:
                line["prefix"] = corpus.prefixes[prefix]
            yield line

    def _passages(self, rows: set[int]) -> dict[int, dict[str, Any]]:
        """Return id and texts of passages, by row."""
        corpus = self._corpus
        numbers = np.searchsorted(self._first_passages, sorted(rows), side="right") - 1
        sources = self._sources[numbers]
        return {
            row: {
                "id": self._passage_id(row, source),
                "text": _by_row(
                    [corpus.passage_texts(code, row, row + 1) for code in corpus.languages], corpus.languages
                )[0],
            }
            for row, source in zip(sorted(rows), sources.tolist(), strict=True)
        }

    def _passage_id(self, row: int, source: int) -> str:
        text_id = self._corpus.passage_id(row)
        return f"{POOL}/{text_id}" if row >= self._first_of_pool else self._named(source, text_id)

    def _named(self, source: int, text_id: str) -> str:
        return text_id if len(self._sources) == 1 else f"{self._corpus.datasets[source]}/{text_id}"


def _by_row(texts: Sequence[Sequence[str | None]], languages: Sequence[str]) -> list[dict[str, str]]:
    """Return the texts of each row by language code, from lists per language."""
    return [
        {code: text for code, text in zip(languages, row, strict=True) if text is not None}
        for row in zip(*texts, strict=True)
    ]


def _number(value: np.float32) -> float:
    """Return the shortest decimal that gives the same float32."""
    return float(str(value))

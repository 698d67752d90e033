"""Hold the training corpus: texts in memory-mapped Arrow, and mapped integers for the batch planner.

A row is an example: one question in several languages and one passage in several languages. Opening a corpus
maps files and reads a manifest; its time and memory don't grow with the rows (10 million rows: well under a
second, no per-row Python object). Texts are read from the map on demand.

`hbt_dist.data.corpus.convert.build_corpus` converts the sources once and knows the result by its
fingerprint: SHA-256 over the content of every source file, the settings that shape the rows, and the version
of the conversion. Content, not dates, so that every machine gets the same fingerprint from the same data; the
digest of a file is remembered under its size and modification time, so a second start reads no data.

Groups: two examples have the same group if they share a passage, or have the same passage text or question
text (normalised) in some language, directly or through further examples. A batch with each group at most once
holds no accidental false negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from hbt_dist.common.errors import UserError
from hbt_dist.data.arrow_texts import TextTable
from hbt_dist.data.cache import read_manifest

#: A side of an example.
Role = Literal["question", "passage"]
#: name -> dtype of the integer columns, one `.npy` file each.
COLUMNS: dict[str, type] = {
    "example_passage": np.int64,
    "example_group": np.int64,
    "example_dataset": np.int32,
    "example_cell": np.int32,
    "passage_group": np.int64,
    "passage_set": np.int32,
    "negative_offsets": np.int64,
    "negatives": np.int64,
}
#: Columns of a corpus with prefixes.
PREFIX_COLUMNS: dict[Role, str] = {"question": "example_prefix", "passage": "passage_prefix"}
#: Columns of a corpus whose data have teacher scores, or name the languages of mined negatives.
OPTIONAL_COLUMNS: dict[str, type] = {
    "example_score": np.float32,
    "negative_score": np.float32,
    "negative_language": np.int32,
}
#: Small boolean tables, one `.npy` file each.
LANGUAGE_TABLES = ("cell_questions", "cell_passages", "set_languages")


@dataclass(kw_only=True, eq=False)
class Corpus:
    """Examples and passages, memory-mapped. Letters: E examples, P passages, L languages, C cells, S sets.

    Attributes:
        languages: language codes; a language's index is its position here.
        datasets: names of the sources, in the order of the settings.
        alignment: per dataset, whether its question and passage are the same text in the same language (so
            that a monolingual row of it teaches nothing).
        fingerprint: hexadecimal digest of content and settings.
        example_passage: (E,) int64, passage row of the positive.
        example_group: (E,) int64, dense 0..G-1; rows of one group must not meet in a batch.
        example_dataset: (E,) int32, index into `datasets`.
        example_cell: (E,) int32, index into `cell_questions` and `cell_passages`.
        cell_questions: (C, L) bool, which question languages the examples of a cell have.
        cell_passages: (C, L) bool, which languages their passage has.
        passage_group: (P,) int64, in the numbering of `example_group`; passages that are only negatives
            may have numbers from G on.
        passage_set: (P,) int32, index into `set_languages`.
        set_languages: (S, L) bool, which languages the passages of a set have.
        negative_offsets: (E + 1,) int64; the negatives of example i are
            ``negatives[negative_offsets[i]:negative_offsets[i + 1]]``.
        negatives: flat int64 passage rows.
        prefixes: texts before questions or passages; None: the model's.
        example_prefix: (E,) int32, index into `prefixes` of the questions; None: all have the model's.
        passage_prefix: (P,) int32, index into `prefixes` of the passages; None: all have the model's.
        example_score: (E,) float32, a teacher's score of question and passage; NaN: not scored. None: no
            example is.
        negative_score: flat float32, the same of the question and each of `negatives`.
        negative_language: flat int32, language in which a miner chose each of `negatives`, which it has;
            -1: not recorded. None: of no negative.
    """

    languages: tuple[str, ...]
    datasets: tuple[str, ...]
    alignment: tuple[bool, ...]
    fingerprint: str
    example_passage: NDArray[np.int64]
    example_group: NDArray[np.int64]
    example_dataset: NDArray[np.int32]
    example_cell: NDArray[np.int32]
    cell_questions: NDArray[np.bool_]
    cell_passages: NDArray[np.bool_]
    passage_group: NDArray[np.int64]
    passage_set: NDArray[np.int32]
    set_languages: NDArray[np.bool_]
    negative_offsets: NDArray[np.int64]
    negatives: NDArray[np.int64]
    folder: Path
    prefixes: tuple[str | None, ...] = (None,)
    example_prefix: NDArray[np.int32] | None = None
    passage_prefix: NDArray[np.int32] | None = None
    example_score: NDArray[np.float32] | None = None
    negative_score: NDArray[np.float32] | None = None
    negative_language: NDArray[np.int32] | None = None

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Map a corpus that `build_corpus` wrote.

        Raises:
            UserError: the folder holds no complete corpus.
        """
        try:
            manifest = read_manifest(folder)
            prefixes = tuple(manifest["prefixes"])
            names = [*COLUMNS, *manifest.get("optional_columns", [])]
            names += PREFIX_COLUMNS.values() if len(prefixes) > 1 else ()
            columns = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
            tables = {name: np.load(folder / f"{name}.npy") for name in LANGUAGE_TABLES}
            return cls(
                languages=tuple(manifest["languages"]),
                datasets=tuple(manifest["datasets"]),
                alignment=tuple(manifest["alignment"]),
                fingerprint=manifest["fingerprint"],
                folder=folder,
                prefixes=prefixes,
                **columns,
                **tables,
            )
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                str(folder),
                f"not a complete converted corpus ({error})",
                "delete the folder; the next run makes it once more",
            ) from None

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self).open, (self.folder,))  # another process maps the files itself

    def __repr__(self) -> str:
        return (
            f"Corpus of {', '.join(self.datasets)}: {self.num_examples:,} examples, "
            f"{self.num_passages:,} passages in {', '.join(self.languages)}"
        )

    @property
    def num_examples(self) -> int:
        """Return E: rows, one question in several languages with its passage."""
        return len(self.example_passage)

    @property
    def num_passages(self) -> int:
        """Return P."""
        return len(self.passage_group)

    @property
    def manifest(self) -> dict[str, Any]:
        """Return what the conversion recorded: rows and skipped rows per source, files and their digests."""
        return read_manifest(self.folder)

    def passage_has(
        self, rows: NDArray[np.integer], language: NDArray[np.integer] | int
    ) -> NDArray[np.bool_]:
        """Return whether each passage row has a text in the language index; both broadcast."""
        return self.set_languages[self.passage_set[rows], language]

    def prefix_codes(self, role: Role, rows: NDArray[np.integer] | slice) -> NDArray[np.int32]:
        """Return the index into `prefixes` of the texts of a role in these rows: (n,)."""
        codes = self.example_prefix if role == "question" else self.passage_prefix
        if codes is None:
            return np.zeros(rows.stop - rows.start if isinstance(rows, slice) else len(rows), np.int32)
        return np.asarray(codes[rows])

    def language_index(self, language: int | str) -> int:
        """Return the index of a language given by code or index.

        Raises:
            KeyError: the corpus doesn't have the language.
        """
        if isinstance(language, str) and language not in self.languages:
            raise KeyError(language)
        return self.languages.index(language) if isinstance(language, str) else int(language)

    def example_id(self, row: int) -> str:
        """Return the id of an example, unique in its source."""
        return self._questions.id(row)

    def passage_id(self, row: int) -> str:
        """Return the id of a passage, unique in its source."""
        return self._passages.id(row)

    def question_text(self, row: int, language: int | str) -> str:
        """Return the question of an example in a language, which the example must have (`cell_questions`)."""
        return _present(self.question_texts(language, row, row + 1), row, language)

    def passage_text(self, row: int, language: int | str) -> str:
        """Return the text of a passage in a language, which the passage must have (`passage_has`)."""
        return _present(self.passage_texts(language, row, row + 1), row, language)

    def question_texts(
        self, language: int | str, start: int = 0, stop: int | None = None
    ) -> list[str | None]:
        """Return the questions of examples start..stop-1 in a language; None where the language is absent."""
        code = self.languages[self.language_index(language)]
        return self._questions.texts(code, start, self.num_examples if stop is None else stop)

    def passage_texts(self, language: int | str, start: int = 0, stop: int | None = None) -> list[str | None]:
        """Return the texts of passages start..stop-1 in a language; None where the language is absent."""
        code = self.languages[self.language_index(language)]
        return self._passages.texts(code, start, self.num_passages if stop is None else stop)

    @cached_property
    def _questions(self) -> TextTable:
        return TextTable(self.folder / "questions", self.num_examples)

    @cached_property
    def _passages(self) -> TextTable:
        return TextTable(self.folder / "passages", self.num_passages)


def _present(texts: list[str | None], row: int, language: int | str) -> str:
    if texts[0] is None:
        raise KeyError(f"row {row} has no text in {language!r}")
    return texts[0]

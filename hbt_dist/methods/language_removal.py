"""Remove language components from embeddings, without training: LIR (arXiv 2109.04727).

The rows of M_L (n x D) are embeddings of texts in language L as they come from the encoder, neither centred
nor weighted: the authors' notebook (ziyi-yang/LIR) takes the plain singular value decomposition
M_L = U S V^T. The first r right singular vectors c_1 ... c_r (the first r columns of V) are the language
components of L; a question or candidate e in L becomes

    e - sum_i (e . c_i) c_i,    scaled to length 1 again.

Scaling is ours: the authors score the shortened vectors as they are. M_L is made of the benchmark's own
candidates of L, which is transductive (no label is used, but the pool is), or of other texts in L; the
authors take 10,000 sentences of Wikipedia per language, encoded as questions. With r = 1 they report mAP
0.452 on XQuAD-R for LAReQA's X-X (0.234 before), with r = 2 0.447.

V is found as the eigenvectors of M_L^T M_L in float64: memory does not grow with n, one more reading of the
candidates. Each row is changed when it is read, with sums whose order depends on D alone:
every number of shards, threads and actors sees the same bits.

Letters: n texts, D embedding width, L languages, r components.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hbt_dist.common.errors import UserError
from hbt_dist.data.files import existing_folder, files_by_language, read_lines
from hbt_dist.evaluation.encode import encode_texts
from hbt_dist.evaluation.matrix_rows import Float32, Float64, Int64, Rows, check_rows, release_pages
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.models.encoder import LoadedEncoder

if TYPE_CHECKING:
    from hbt_dist.data.benchmarks.benchmark import Benchmark


_ROWS_AT_ONCE = 8192
_NOTHING_LEFT = 1e-6  # of a vector's length: what is shorter than that is rounding


@dataclass(frozen=True)
class LanguageFreeRows:
    """An (n, D) matrix whose rows lose their language's components when they are read."""

    matrix: Rows
    language: Int64  # (n,) index into `components`
    components: Float64  # (L, r, D), orthonormal within a language

    @property
    def shape(self) -> tuple[int, ...]:
        """(rows, width)."""
        return self.matrix.shape

    def __getitem__(self, rows: slice | Int64) -> Float32:
        block = np.asarray(self.matrix[rows], np.float64)
        release_pages(self.matrix)
        return without_components(block, self.language[rows], self.components)


def without_components(block_ND: Float64, language: Int64, components_LRD: Float64) -> Float32:
    """Return the rows without their language's components, of length 1; zero where nothing else is in a row.

    Args:
        block_ND: (N, D) rows.
        language: (N,) index of each row's language.
        components_LRD: (L, r, D), orthonormal within a language.
    """
    left = np.array(block_ND, np.float64)
    for number in np.unique(language).tolist():
        rows = np.flatnonzero(language == number)
        for component in components_LRD[number]:
            # Not a matrix product: the sum over D must not depend on how many rows are read together.
            left[rows] -= (left[rows] * component).sum(axis=1, keepdims=True) * component
    length = np.sqrt((left * left).sum(axis=1, keepdims=True))
    before = np.sqrt((block_ND * block_ND).sum(axis=1, keepdims=True))
    kept = ~(length <= _NOTHING_LEFT * before)  # not a number stays, to be refused where rows are checked
    return np.divide(left, length, out=np.zeros_like(left), where=kept).astype(np.float32)


def language_components(
    vectors: Rows, rows: Int64, rank: int, *, language: str, names: Sequence[str] | None = None
) -> tuple[Float64, float]:
    """Return the first `rank` right singular vectors of some rows, (rank, D), and their share of the squares.

    Args:
        vectors: (n, D).
        rows: which of them are in the language.
        rank: r.
        language: its code, for messages.
        names: n names of the rows, for messages.

    Raises:
        UserError: a vector that cannot be used, or too few independent ones.
    """
    width = vectors.shape[1]
    gram = np.zeros((width, width))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        chosen = rows[start : start + _ROWS_AT_ONCE]
        block = np.asarray(vectors[chosen], np.float32)
        check_rows(
            block,
            lambda i, chosen=chosen: f"text {chosen[i] + 1}" if names is None else names[chosen[i]],  # type: ignore[misc]
            language,
        )
        gram += block.T.astype(np.float64) @ block.astype(np.float64)
    release_pages(vectors)
    values, columns = np.linalg.eigh(gram)  # ascending
    values, columns = values[::-1], columns[:, ::-1]
    independent = int((values > width * np.finfo(np.float64).eps * max(float(values[0]), 0.0)).sum())
    if rank > min(independent, width - 1):
        raise UserError(
            "language_removal_rank",
            f"cannot take {rank} components out of {language!r}: it has {len(rows)} vectors, "
            f"{independent} of them independent, of width {width}",
            "lower the rank, or name texts of that language in language_removal_texts",
        )
    return columns[:, :rank].T.copy(), float(values[:rank].sum() / values.sum())


@dataclass(frozen=True)
class LanguageRemoval:
    """Remove the language components of questions and candidates (an `EmbeddingTransform`).

    Args:
        rank: r.
        vectors: embeddings of texts by language (`read_language_texts`) to fit on; default: the candidates.
    """

    rank: int = 1
    vectors: Mapping[str, Rows] | None = None

    def __call__(
        self,
        benchmark: Benchmark,
        questions: Rows,
        candidates: Rows,
        question_of: Int64 | None = None,
    ) -> tuple[Rows, Rows, dict[str, Any]]:
        """Return questions and candidates without their components, and what was done, for the report.

        Raises:
            UserError: a language has too few vectors, or none.
        """
        question_language = np.asarray(benchmark.question_language, np.int64)
        if question_of is not None:
            question_language = question_language[question_of]
        candidate_language = np.asarray(benchmark.candidate_language, np.int64)
        components = np.zeros((len(benchmark.languages), self.rank, candidates.shape[1]))
        counts: dict[str, int] = {}
        shares: dict[str, float] = {}
        for number in np.union1d(question_language, candidate_language).tolist():
            code = benchmark.languages[number]
            if self.vectors is None:
                vectors, names = candidates, benchmark.candidate_ids
                rows = np.flatnonzero(candidate_language == number)
            else:
                vectors, names = self.vectors[code], None
                rows = np.arange(vectors.shape[0])
            components[number], shares[code] = language_components(
                vectors, rows, self.rank, language=code, names=names
            )
            counts[code] = len(rows)
        facts = {
            "method": "lir",
            "rank": self.rank,
            "fitted_on": "candidates" if self.vectors is None else "texts",
            "transductive": self.vectors is None,
            "renormalized": True,
            "num_vectors": counts,
            "share_of_squares": shares,
        }
        return (
            LanguageFreeRows(questions, question_language, components),
            LanguageFreeRows(candidates, candidate_language, components),
            {"language_removal": facts},
        )


def build_removal(
    loaded: LoadedEncoder, benchmark: Benchmark, settings: EvaluationSettings, progress: bool
) -> LanguageRemoval | None:
    """Build the removal that the settings name, with the embeddings of `language_removal_texts`; else None.

    Raises:
        UserError: a file of texts is missing or empty.
    """
    if settings.language_removal == "none":
        return None
    vectors = None
    if settings.language_removal_texts is not None:
        vectors = {
            code: encode_texts(loaded, texts, "question", settings=settings, progress=progress)
            for code, texts in read_language_texts(
                settings.language_removal_texts, benchmark.languages
            ).items()
        }
    return LanguageRemoval(settings.language_removal_rank, vectors)


def read_language_texts(folder: str | Path, languages: Sequence[str]) -> dict[str, list[str]]:
    """Read the texts to fit on: a file such as fi.txt or fi.txt.gz per language, one text per line.

    Raises:
        UserError: a language has no file, or a file no text.
    """
    files = files_by_language(existing_folder(Path(folder), "name a folder of texts"), ".txt", ".txt.gz")
    texts: dict[str, list[str]] = {}
    for language in languages:
        file = files.get(language)
        if file is None:
            raise UserError(
                str(folder),
                f"has no file {language}.txt",
                f"add a file for each of {', '.join(languages)}",
            )
        texts[language] = [line.strip() for _, line in read_lines(file) if line.strip()]
        if not texts[language]:
            raise UserError(str(file), "the file is empty", "each line holds one text")
    return texts

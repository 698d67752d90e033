"""Read line-parallel text files: line i is the same sentence in every file (NTREX-128 and alike).

A folder holds one `.txt` file per language, named by its code (`fin.txt`, `zho-CN.txt`) or as upstream does
(`newstest2019-ref.fin.txt`), and `document_ids.tsv` (or `DOCUMENT_IDS.tsv`) with the document of each line.
Line ends may be CRLF. A sentence is keyed by its line number: texts repeat. `split` goes by document: every
third by SHA-256 of the document id is evaluation (NTREX: 35 documents, 621 sentences; 1,376 for training).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import SourceReader, chosen_languages, source_folder
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import Missing, SourceSettings
from hbt_dist.data.fields import check_text
from hbt_dist.data.files import files_by_language, read_lines
from hbt_dist.data.splits import Split, in_split, one_in

_HELD_OUT_ONE_IN = 3


def document_file(folder: Path) -> Path:
    """Return the file with the document of each line."""
    for name in ("document_ids.tsv", "DOCUMENT_IDS.tsv"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(str(folder), "holds no document_ids.tsv", "it decides which documents are for evaluation")


def read_parallel(
    files: dict[str, Path], documents: Path, split: Split
) -> Iterator[tuple[str, str, str, dict[str, str]]]:
    """Yield (location, sentence id, document, texts by language) of the lines of a part."""
    streams = [read_lines(path) for path in (documents, *files.values())]
    for number, lines in enumerate(zip_longest(*streams), start=1):
        if None in lines:
            short = (documents, *files.values())[lines.index(None)]
            raise UserError(
                str(short), f"ends after {number - 1} lines", "line i must be the same sentence in every file"
            )
        document = check_text(lines[0][1], f"{documents} line {number}", "the document id")
        if not in_split(split, document, one_in(_HELD_OUT_ONE_IN, document)):
            continue
        texts = {
            language: check_text(line, f"{path} line {number}", "the sentence")
            for (language, path), (_, line) in zip(files.items(), lines[1:], strict=True)
        }
        yield f"{documents.parent} line {number}", f"{number:06d}", document, texts


def open_ntrex(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a folder of the files above. Alignment rows: a sentence and itself in another language."""
    folder = source_folder(source)
    files = chosen_languages(files_by_language(folder, ".txt"), languages, missing, folder)
    documents = document_file(folder)
    return SourceReader(
        records=lambda: _read(files, documents, source.split),
        files=[documents, *files.values()],
        alignment=True,
    )


def _read(files: dict[str, Path], documents: Path, split: Split) -> Iterator[TrainingRecord]:
    for location, identity, _, texts in read_parallel(files, documents, split):
        yield TrainingRecord(identity, identity, texts, texts, (), location)

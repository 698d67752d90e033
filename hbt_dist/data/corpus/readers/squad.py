"""Read SQuAD files in several languages, parallel by question id: a folder of `{language}.json`.

An example is a question id; its passage in a language is its context in that language (paragraphs needn't
be translations of each other as wholes: MLQA's aren't). Examples with the same contexts share a passage.
Files are read as a whole: memory is about twice their size.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import (
    SourceReader,
    chosen_languages,
    content_id,
    source_folder,
)
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import Missing, SourceSettings
from hbt_dist.data.squad_files import read_squad, squad_files


def open_squad(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open a folder of SQuAD files."""
    folder = source_folder(source)
    files = chosen_languages(squad_files(folder), languages, missing, folder)
    return SourceReader(records=lambda: _read(files), files=list(files.values()))


def _read(files: dict[str, Path]) -> Iterator[TrainingRecord]:
    locations: dict[str, str] = {}
    questions: dict[str, dict[str, str]] = {}
    contexts: dict[str, dict[str, str]] = {}
    for language, path in files.items():
        for paragraph in read_squad(path):
            for question in paragraph.questions:
                versions = questions.setdefault(question.question_id, {})
                if language in versions:
                    raise UserError(
                        question.location,
                        f"question id {question.question_id!r} was used before in {language!r}",
                        "ids must be unique in a file",
                    )
                versions[language] = question.text
                contexts.setdefault(question.question_id, {})[language] = paragraph.context
                locations.setdefault(question.question_id, question.location)
    for question_id, versions in questions.items():
        passage = contexts[question_id]
        yield TrainingRecord(question_id, content_id(passage), versions, passage, (), locations[question_id])

"""Read the embedded sample as a training source; see `hbt_dist.data.sample`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import chain

from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.readers.base import SourceReader
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import Missing, SourceSettings
from hbt_dist.data.sample import LANGUAGES, TRAINING_LANGUAGES, sample_records


def open_sample(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open the sample, by default in its training languages. It has no files: its records identify it.

    Raises:
        UserError: the sample lacks a language of this source, or all languages of the run.
    """
    chosen = (
        TRAINING_LANGUAGES if languages is None else tuple(code for code in languages if code in LANGUAGES)
    )
    absent = [code for code in source.languages or () if code not in LANGUAGES]
    if absent or not chosen:
        named = ", ".join(map(repr, absent or languages or ()))
        raise UserError(
            f"source {source.name}", f"the sample has no {named}", f"it has {', '.join(LANGUAGES)}"
        )

    def records() -> Iterator[TrainingRecord]:
        if source.split == "all":
            return chain(sample_records("train", chosen), sample_records("eval", chosen))
        return sample_records(source.split, chosen)

    digest = hashlib.sha256()
    for record in records():
        digest.update(repr((record.example_id, record.passage_id, record.question, record.passage)).encode())
        digest.update(
            repr([(negative.passage_id, negative.passage) for negative in record.negatives]).encode()
        )
    return SourceReader(records=records, identity=digest.hexdigest())

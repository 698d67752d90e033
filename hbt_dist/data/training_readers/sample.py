"""The embedded sample as a training source; see `hbt_dist.data.sample`."""

from __future__ import annotations

import hashlib

from hbt_dist.data.config import Missing, SourceSettings
from hbt_dist.data.sample import sample_records
from hbt_dist.data.training_readers.base import SourceReader


def open_sample(source: SourceSettings, languages: tuple[str, ...] | None, missing: Missing) -> SourceReader:
    """Open the sample. It has no files, so its records themselves are its identity."""
    digest = hashlib.sha256()
    for record in sample_records(source.split):
        digest.update(repr((record.example_id, record.passage_id, record.question, record.passage)).encode())
        digest.update(repr([(one.passage_id, one.passage) for one in record.negatives]).encode())
    return SourceReader(records=lambda: iter(sample_records(source.split)), identity=digest.hexdigest())

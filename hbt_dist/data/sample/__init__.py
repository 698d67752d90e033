"""Make the embedded sample: questions and passages on countries in 22 languages of 10 families, no download.

facts.json holds facts such as (country -> currency) and the names of countries, currencies, languages,
scripts, weekdays, time zones and places in each language (`facts`). Two question templates and two passage
templates per relation and language (`languages`) make training records and a benchmark of them (`build`).
The same bytes on every machine.
"""

from hbt_dist.data.sample.build import (
    LANGUAGES,
    TRAINING_LANGUAGES,
    ZERO_SHOT_LANGUAGES,
    sample_benchmark,
    sample_facts,
    sample_records,
)
from hbt_dist.data.sample.facts import RELATIONS, Fact
from hbt_dist.data.sample.languages import SampleLanguage
from hbt_dist.data.splits import Split

__all__ = [
    "LANGUAGES",
    "RELATIONS",
    "TRAINING_LANGUAGES",
    "ZERO_SHOT_LANGUAGES",
    "Fact",
    "SampleLanguage",
    "Split",
    "sample_benchmark",
    "sample_facts",
    "sample_records",
]

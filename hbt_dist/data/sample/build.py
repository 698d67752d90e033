"""Make the sample's split, training records and benchmark from facts and templates.

A passage states one fact and names a city of the country, so a question needs both its country and its
relation to find its passage. SHA-256 draws the template that asks or states a fact in a language.

Split by (country, relation) pair, by SHA-256 of the pair: `HELD_OUT` pairs of each of `EVALUATION_COUNTRIES`
countries form the benchmark, the remaining pairs are for training. So every country and every relation of the
benchmark appears in training in other pairs, and the pool holds `HELD_OUT` passages about each country in
each language. Every second of these countries, in the order of their hashes, is for `dev`, the rest for
`test`: 20 countries and 60 pairs each. `ZERO_SHOT_LANGUAGES` appear in the benchmark alone; each has
relatives in training.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from typing import get_args

import numpy as np

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.corpus.records import NegativeRecord, TrainingRecord
from hbt_dist.data.sample.facts import Fact, read_facts
from hbt_dist.data.sample.languages import SampleLanguage, sample_languages
from hbt_dist.data.splits import Split

LANGUAGES: dict[str, SampleLanguage] = sample_languages()
TRAINING_LANGUAGES: tuple[str, ...] = tuple(code for code in LANGUAGES if LANGUAGES[code].in_training)
ZERO_SHOT_LANGUAGES: tuple[str, ...] = tuple(code for code in LANGUAGES if not LANGUAGES[code].in_training)

EVALUATION_COUNTRIES = 40
HELD_OUT = 3  # pairs of each of these countries
MIN_LEFT = 2  # pairs of each of these countries that stay for training


def sample_facts(split: Split) -> tuple[Fact, ...]:
    """Return the facts of a split, by country code.

    Raises:
        UserError: the split does not exist.
    """
    if split not in get_args(Split):
        raise UserError(
            "embedded sample", f"there is no split {split!r}", f"choose from {', '.join(get_args(Split))}"
        )
    return _splits()[split]


@cache
def _splits() -> dict[Split, tuple[Fact, ...]]:
    facts = read_facts()
    pairs: dict[str, list[str]] = defaultdict(list)
    for fact in facts:
        pairs[fact.territory].append(fact.id)
    candidates = [territory for territory, ids in pairs.items() if len(ids) >= HELD_OUT + MIN_LEFT]
    halves: tuple[set[str], set[str]] = (set(), set())
    for number, territory in enumerate(sorted(candidates, key=_digest)[:EVALUATION_COUNTRIES]):
        halves[number % 2].update(sorted(pairs[territory], key=_digest)[:HELD_OUT])
    dev, test = halves
    return {
        "all": tuple(facts),
        "train": tuple(fact for fact in facts if fact.id not in dev | test),
        "eval": tuple(fact for fact in facts if fact.id in dev | test),
        "dev": tuple(fact for fact in facts if fact.id in dev),
        "test": tuple(fact for fact in facts if fact.id in test),
    }


def sample_records(
    split: Split = "train", languages: Sequence[str] = TRAINING_LANGUAGES
) -> Iterator[TrainingRecord]:
    """Yield one example per fact, asked and answered in all `languages`, with two hard negatives.

    The first negative is about the same country but another relation, the second about the same relation of
    another country with another answer; both are passages of the same split.

    Raises:
        UserError: the split or a language isn't part of the sample.
    """
    chosen = _known(languages)
    facts = sample_facts(split)
    passages = {fact.id: {language.code: _passage(fact, language) for language in chosen} for fact in facts}
    for fact in facts:
        same_country = [
            choice for choice in facts if choice.territory == fact.territory and choice.id != fact.id
        ]
        same_relation = [
            choice for choice in facts if choice.relation == fact.relation and choice.value != fact.value
        ]
        negatives = (_draw(fact, same_country), _draw(fact, same_relation))
        yield TrainingRecord(
            example_id=fact.id,
            passage_id=fact.id,
            question={language.code: _question(fact, language) for language in chosen},
            passage=passages[fact.id],
            negatives=tuple(NegativeRecord(negative.id, passages[negative.id]) for negative in negatives),
            location=f"embedded sample, {fact.id}",
        )


def sample_benchmark(split: Split = "eval", languages: Sequence[str] = tuple(LANGUAGES)) -> Benchmark:
    """Return the facts of a split as a benchmark: each a question and a candidate in every language.

    Rows go language by language, the facts in one order in each. The cluster of a question is its country.

    Raises:
        UserError: the split or a language isn't part of the sample.
    """
    chosen = _known(languages)
    facts = sample_facts(split)
    num_facts, num_languages = len(facts), len(chosen)
    countries = sorted({fact.territory for fact in facts})
    clusters = np.array([countries.index(fact.territory) for fact in facts], dtype=np.int64)
    row_language = np.repeat(np.arange(num_languages, dtype=np.int32), num_facts)
    translations = np.arange(num_facts)[:, None] + num_facts * np.arange(num_languages)  # (fact, language)
    return Benchmark(
        name="sample",
        variant=split,
        languages=tuple(language.code for language in chosen),
        question_ids=[fact.id for _ in chosen for fact in facts],
        question_language=row_language,
        question_texts=[_question(fact, language) for language in chosen for fact in facts],
        question_cluster=np.tile(clusters, num_languages),
        candidate_ids=[
            f"{language.code}-{i:04d}-{fact.id}" for language in chosen for i, fact in enumerate(facts)
        ],
        candidate_language=row_language.copy(),
        candidate_texts=[_passage(fact, language) for language in chosen for fact in facts],
        relevant_offsets=np.arange(num_facts * num_languages + 1, dtype=np.int64) * num_languages,
        relevant=np.tile(translations, (num_languages, 1)).reshape(-1).astype(np.int64),
    )


def _known(languages: Sequence[str]) -> list[SampleLanguage]:
    missing = [code for code in languages if code not in LANGUAGES]
    if missing:
        problem = f"it has no language {', '.join(missing)}"
        raise UserError("embedded sample", problem, f"choose from {', '.join(LANGUAGES)}")
    return [LANGUAGES[code] for code in languages]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _draw(fact: Fact, choices: list[Fact]) -> Fact:
    return min(choices, key=lambda choice: _digest(f"{fact.id} {choice.id}"))


def _choose(templates: tuple[str, ...], drawn_for: str) -> str:
    return templates[int(_digest(drawn_for), 16) % len(templates)]


def _question(fact: Fact, language: SampleLanguage) -> str:
    template = _choose(language.questions[fact.relation], f"question {fact.id} {language.code}")
    return template.format(territory=fact.territory_name[language.code])


def _passage(fact: Fact, language: SampleLanguage) -> str:
    code = language.code
    template = _choose(language.passages[fact.relation], f"passage {fact.id} {code}")
    stated = template.format(territory=fact.territory_name[code], answer=fact.answer[code])
    return stated + language.space + language.city.format(place=fact.city[code])

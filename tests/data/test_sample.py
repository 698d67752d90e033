"""The embedded sample: complete, parallel, split as documented, and the same bytes everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import re
import string
import subprocess
import sys
import unicodedata
from collections import Counter, defaultdict

import babel
import numpy as np
import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.sample import (
    LANGUAGES,
    RELATIONS,
    TRAINING_LANGUAGES,
    ZERO_SHOT_LANGUAGES,
    sample_benchmark,
    sample_facts,
    sample_records,
)
from tests.helpers.cldr_facts import FACTS

ALL = tuple(LANGUAGES)
BABEL_OF_FACTS = "2.18.0"
DIGEST = "9e6fc35b3d2bc3a53177c931b9a0311522d267f702c2df3a11af4e28b8778751"


def content_digest() -> str:
    """SHA-256 of everything a reader of the sample can see."""
    records = [
        [r.example_id, r.passage_id, r.question, r.passage, [[n.passage_id, n.passage] for n in r.negatives]]
        for split, languages in (("train", TRAINING_LANGUAGES), ("eval", ALL))
        for r in sample_records(split, languages)
    ]
    b = sample_benchmark()
    arrays = [a.tolist() for a in (b.question_language, b.question_cluster, b.candidate_language, b.relevant)]
    texts = [b.question_ids, b.question_texts, b.candidate_ids, b.candidate_texts]
    return hashlib.sha256(json.dumps([records, arrays, texts]).encode()).hexdigest()


def test_languages_and_families() -> None:
    assert len(LANGUAGES) >= 16
    assert len({language.family for language in LANGUAGES.values()}) >= 6
    assert {"fi", "hu", "et"} <= set(LANGUAGES)
    assert set(TRAINING_LANGUAGES) | set(ZERO_SHOT_LANGUAGES) == set(LANGUAGES)
    assert not set(TRAINING_LANGUAGES) & set(ZERO_SHOT_LANGUAGES)


def test_every_zero_shot_language_has_a_relative_with_its_script_in_training() -> None:
    trained = {(LANGUAGES[code].family, LANGUAGES[code].script) for code in TRAINING_LANGUAGES}
    for code in ZERO_SHOT_LANGUAGES:
        assert (LANGUAGES[code].family, LANGUAGES[code].script) in trained


@pytest.mark.parametrize("code", ALL)
def test_templates(code: str) -> None:
    """At least two of each, all different, with the fields that make them what they are."""
    language = LANGUAGES[code]

    def fields(template: str) -> list[str]:
        return sorted(name for _, name, _, _ in string.Formatter().parse(template) if name is not None)

    assert set(language.questions) == set(language.passages) == set(RELATIONS)
    for relation in RELATIONS:
        questions, passages = language.questions[relation], language.passages[relation]
        assert len(set(questions)) >= 2
        assert len(set(passages)) >= 2
        assert all(fields(template) == ["territory"] for template in questions)
        assert all(fields(template) == ["answer", "territory"] for template in passages)
    everything = [t for of in (language.questions, language.passages) for ts in of.values() for t in ts]
    assert len(everything) == len(set(everything))
    assert fields(language.city) == ["place"]


@pytest.mark.parametrize("code", ALL)
def test_templates_are_written_in_the_script_of_the_language(code: str) -> None:
    names = {
        "Latin": {"LATIN"},
        "Cyrillic": {"CYRILLIC"},
        "Devanagari": {"DEVANAGARI"},
        "Arabic": {"ARABIC"},
        "Han": {"CJK"},
        "Japanese": {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA"},
        "Hangul": {"HANGUL"},
    }
    language = LANGUAGES[code]
    templates = [t for of in (language.questions, language.passages) for ts in of.values() for t in ts]
    letters = [c for c in re.sub(r"{\w+}", "", "".join([*templates, language.city])) if c.isalpha()]
    used = {unicodedata.name(letter).split()[0] for letter in letters}
    assert used <= names[language.script]


def test_facts_are_named_in_all_languages() -> None:
    for fact in (*sample_facts("train"), *sample_facts("eval")):
        for names in (fact.territory_name, fact.answer, fact.city):
            assert tuple(names) == ALL
            assert all(name.strip() == name and name for name in names.values())
        assert not set(fact.territory_name.values()) & {fact.territory}
        if fact.relation != "currency_since":
            assert fact.value not in fact.answer.values()


def test_no_name_falls_back_to_another_script() -> None:
    """Currency names may hold abbreviations such as CFA; names of countries and places may not."""
    other_scripts = [code for code in ALL if LANGUAGES[code].script != "Latin"]
    for fact in (*sample_facts("train"), *sample_facts("eval")):
        for code in other_scripts:
            letters = [c for c in fact.territory_name[code] + fact.city[code] if c.isalpha()]
            assert not any(unicodedata.name(letter).startswith("LATIN") for letter in letters)


def test_known_facts() -> None:
    """Facts that anyone can check."""
    facts = {fact.id: fact for split in ("train", "eval") for fact in sample_facts(split)}
    assert facts["FI-currency"].value == "EUR"
    assert facts["EE-currency_since"].value == "2011"
    assert facts["EE-currency_since"].answer["fa"] == "۲۰۱۱"
    assert facts["EE-official_language"].answer["fi"] == "viro"
    assert facts["HU-currency"].answer["en"] == "Hungarian Forint"
    assert facts["HU-official_language"].answer["de"] == "Ungarisch"
    assert facts["FI-first_weekday"].answer["fi"] == "maanantai"
    assert facts["FI-time_zone"].answer["en"] == "Eastern European Standard Time"
    assert facts["FI-currency"].city["hu"] == "Helsinki"
    assert facts["GE-script"].value == "Geor"
    assert facts["JP-script"].answer["fr"] == "japonais"
    assert facts["AR-currency"].city["ru"] == "Буэнос-Айрес"
    # two official languages, by law or in practice: no single answer
    assert "FI-official_language" not in facts
    assert "NZ-official_language" not in facts


def test_enough_of_everything() -> None:
    train, held_out = sample_facts("train"), sample_facts("eval")
    assert len(RELATIONS) >= 4
    assert 400 <= len(train) <= 1000
    assert 60 <= len(held_out) <= 150
    for facts, at_least in ((train, 60), (held_out, 5)):
        assert min(Counter(fact.relation for fact in facts).values()) >= at_least
        assert {fact.relation for fact in facts} == set(RELATIONS)


def test_splits_share_no_pair_but_every_country_and_relation() -> None:
    train, held_out = sample_facts("train"), sample_facts("eval")
    assert not {fact.id for fact in train} & {fact.id for fact in held_out}
    left = Counter(fact.territory for fact in train)
    assert all(left[fact.territory] >= 2 for fact in held_out)
    assert {fact.relation for fact in held_out} <= {fact.relation for fact in train}
    # several passages about each country: naming the country alone doesn't find the passage
    assert min(Counter(fact.territory for fact in held_out).values()) >= 3


def test_training_records_hold_no_zero_shot_language_and_no_held_out_passage() -> None:
    records = list(sample_records())
    benchmark = sample_benchmark()
    held_out = set(benchmark.candidate_texts) | set(benchmark.question_texts)
    ids = {record.passage_id for record in records}
    assert len(ids) == len({record.example_id for record in records}) == len(records)
    for record in records:
        assert tuple(record.question) == tuple(record.passage) == TRAINING_LANGUAGES
        texts = {*record.question.values(), *record.passage.values()}
        texts |= {text for negative in record.negatives for text in negative.passage.values()}
        assert not texts & held_out
        assert not any("{" in text or "}" in text for text in texts)


def test_hard_negatives() -> None:
    for split in ("train", "eval"):
        facts = {fact.id: fact for fact in sample_facts(split)}
        passages = {record.passage_id: record.passage for record in sample_records(split)}
        for record in sample_records(split):
            fact = facts[record.example_id]
            same_country, same_relation = (facts[negative.passage_id] for negative in record.negatives)
            assert same_country.territory == fact.territory
            assert same_country.relation != fact.relation
            assert same_relation.relation == fact.relation
            assert same_relation.territory != fact.territory
            assert same_relation.answer != fact.answer
            assert all(passages[negative.passage_id] == negative.passage for negative in record.negatives)


@pytest.mark.parametrize("split", ["train", "eval"])
def test_texts_are_unique_in_a_language(split: str) -> None:
    records = list(sample_records(split, ALL))
    for code in ALL:
        assert len({record.question[code] for record in records}) == len(records)
        assert len({record.passage[code] for record in records}) == len(records)


def test_all_templates_are_used() -> None:
    seen: dict[tuple[str, str], set[str]] = defaultdict(set)
    facts = {fact.id: fact for fact in sample_facts("train")}
    for record in sample_records("train", ALL):
        fact = facts[record.example_id]
        for code in ALL:
            question = record.question[code].replace(fact.territory_name[code], "{territory}")
            seen[code, fact.relation].add(question)
    for (code, relation), questions in seen.items():
        assert questions == set(LANGUAGES[code].questions[relation])


def test_benchmark_has_one_relevant_passage_per_question_and_language() -> None:
    b = sample_benchmark()
    assert (b.name, b.languages) == ("sample", ALL)
    num_facts = len(sample_facts("eval"))
    assert len(b.question_texts) == len(b.candidate_texts) == num_facts * len(ALL)
    assert len(set(b.candidate_ids)) == len(b.candidate_ids)
    fact_of_candidate = [candidate_id.split("-", 2)[2] for candidate_id in b.candidate_ids]
    for row, question_id in enumerate(b.question_ids):
        relevant = b.relevant[b.relevant_offsets[row] : b.relevant_offsets[row + 1]]
        assert b.candidate_language[relevant].tolist() == list(range(len(ALL)))
        assert {fact_of_candidate[candidate] for candidate in relevant} == {question_id}
        assert (np.diff(relevant) > 0).all()
    for language in range(len(ALL)):
        ids = [b.candidate_ids[row] for row in np.flatnonzero(b.candidate_language == language)]
        assert ids == sorted(ids)
        asked = [b.question_ids[row] for row in np.flatnonzero(b.question_language == language)]
        assert asked == b.question_ids[:num_facts]
    assert len(set(b.question_cluster.tolist())) == len({fact.territory for fact in sample_facts("eval")})


def test_benchmark_of_some_languages_is_a_part_of_the_whole() -> None:
    whole, part = sample_benchmark(), sample_benchmark(languages=["fi", "et"])
    texts = dict(zip(whole.candidate_ids, whole.candidate_texts, strict=True))
    assert part.languages == ("fi", "et")
    assert all(texts[i] == text for i, text in zip(part.candidate_ids, part.candidate_texts, strict=True))
    assert len(part.relevant) == 2 * len(part.question_ids)


def test_refuses_what_it_does_not_hold() -> None:
    with pytest.raises(UserError, match="no language xx"):
        sample_benchmark(languages=["fi", "xx"])
    with pytest.raises(UserError, match="no language xx"):
        list(sample_records(languages=["xx"]))
    with pytest.raises(UserError, match="no split 'tests'"):
        sample_facts("tests")  # type: ignore[arg-type]


def test_content_stays() -> None:
    assert content_digest() == DIGEST


@pytest.mark.skipif(babel.__version__ != BABEL_OF_FACTS, reason="the facts are those of another Babel")
def test_facts_are_those_of_cldr() -> None:
    """In a fresh process: Babel's locales share parts, which a former test may have changed."""
    program = (
        "import json\n"
        "from hbt_dist.data.sample import LANGUAGES\n"
        "from tests.helpers.cldr_facts import collect_facts\n"
        "print(json.dumps(collect_facts(tuple(LANGUAGES))))"
    )
    got = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(got.stdout) == json.loads(FACTS.read_text("utf-8"))


def test_content_does_not_depend_on_process_or_locale() -> None:
    """Another hash seed, another locale of the user: the same bytes."""
    program = (
        f"import sys; sys.path.insert(0, {os.path.dirname(__file__)!r})\n"
        "import test_sample\n"
        "print(test_sample.content_digest())"
    )
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "12345",
        "LANG": "tr_TR.UTF-8",
        "LC_ALL": "C",
        "LANGUAGE": "fi",
    }
    got = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert got.stdout.strip() == content_digest()

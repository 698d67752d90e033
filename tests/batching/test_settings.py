"""The batches block: short forms, equal meaning, refusals; fingerprints and the refusal to resume."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.resume import check_resume
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.common.errors import UserError
from tests.batching.corpora import parallel_corpus


def settings(**block: Any) -> BatchSettings:
    return BatchSettings.model_validate({"global_batch_size": 16, **block})


def test_the_default_is_the_papers() -> None:
    assert [(entry.kind, entry.weight) for entry in settings().entries()] == [
        ("monolingual", 0.5),
        ("crosslingual", 0.5),
    ]


def test_forms_with_one_meaning_make_one_plan() -> None:
    forms = [
        settings(),
        settings(alpha=0.5),
        settings(mixture={"monolingual": 0.5, "crosslingual": 0.5}),
        settings(mixture=[{"kind": "monolingual", "weight": 0.5}, {"kind": "crosslingual", "weight": 0.5}]),
    ]
    corpus = parallel_corpus()
    assert len({BatchPlan(corpus, form, 1).fingerprint for form in forms}) == 1
    assert BatchSettings.model_validate(forms[2].model_dump()) == forms[2]
    ramp = {"schedule": "cosine", "start": 0.2, "end": 1.0, "over_steps": 9}
    assert BatchSettings.model_validate(settings(alpha=ramp).model_dump(mode="json")) == settings(alpha=ramp)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"alpha": 0.5, "mixture": {"monolingual": 1}}, "leave one out, or set it to null"),
        ({"alpha": 1.5}, "less than or equal to 1"),
        ({"alpha": {"schedule": "linear", "start": 0, "end": 2, "over_steps": 5}}, "reaches 2"),
        ({"alpha": {"schedule": "linear", "start": 0}}, "`over_steps`"),
        ({"alpha": {"schedule": "steps", "values": {5: 1.0}}}, "begin with step 0"),
        ({"mixture": {"bilingual": 1}}, "unknown kind 'bilingual'; the kinds are monolingual"),
        ({"mixture": {"monolingual": 0}}, "is 0 at step 0"),
        (
            {"mixture": {"monolingual": {"schedule": "linear", "start": 1, "end": 0, "over_steps": 7}}},
            "is 0 at step 7",
        ),
        ({"mixture": [{"kind": "monolingual", "sub_batches": 2}]}, "mixing: shares"),
        ({"global_batch_size": 0}, "greater than or equal to 1"),
        ({"datasets": {"min_share": 0.5, "max_share": 0.2}}, "above max_share"),
        ({"datasets": {"weights": {"a": 1}, "temperature": 0.5}}, "exclude each other"),
        ({"batch_size": 3}, "Extra inputs"),
        ({"languages": "sizes"}, "uniform"),
        ({"languages": {"xx": 1}}, "'xx' is not a language code"),
        ({"languages": {"en": 1, "eng": 1}}, "en is named more than once: en, eng"),
        ({"pairs": {"en": 1}}, "'en' is not a pair of languages such as en-fi"),
        ({"pairs": {"en-fi": 1, "eng->fin": 1}}, "en-fi is named more than once"),
        ({"mixture": [{"kind": "monolingual", "languages": ["en", "eng"]}]}, "en is named more than once"),
    ],
)
def test_refused_blocks(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**block)


@pytest.mark.parametrize(
    ("block", "place", "found"),
    [
        ({"languages": {"swe": 1}}, "batches.languages.sv", "no such language"),
        ({"pairs": {"en-en": 1}}, "batches.pairs.en-en", "no such language or pair"),
        ({"pairs": {"eng-nor": 1}}, "batches.pairs.en-no", "no such language or pair"),
        (
            {"mixture": [{"kind": "monolingual", "languages": ["en", "nor"]}]},
            "batches.mixture[0]",
            "no language 'no'",
        ),
        (
            {"mixture": [{"kind": "crosslingual", "languages": ["en"]}]},
            "batches.mixture[0]",
            "no example for it",
        ),
        ({"datasets": {"weights": {"other": 1}}}, "batches.datasets.weights", "names other"),
    ],
)
def test_settings_that_the_corpus_cannot_give(block: dict[str, Any], place: str, found: str) -> None:
    with pytest.raises(UserError) as caught:
        BatchPlan(parallel_corpus(), settings(**block), 0)
    assert caught.value.location.startswith(place)
    assert found in caught.value.problem


def test_settings_spell_languages_as_data_does() -> None:
    block = settings(
        languages={"eng": 2, "kor_Hang": 1, "nor": 0.5},
        pairs={"en-nor": 1, "zh-tw-en": 2, "kor->zho_Hant": 3},
        mixture=[{"kind": "any_pair", "languages": ["eng", "zh_hk"]}],
    )
    assert block.languages == {"en": 2, "ko": 1, "no": 0.5}
    assert block.pairs == {"en-no": 1, "zh-hant-en": 2, "ko-zh-hant": 3}
    assert block.entries()[0].languages == ("en", "zh-hant")
    assert BatchSettings.model_validate(block.model_dump(mode="json")) == block


def test_a_kind_without_weight_needs_no_data() -> None:
    corpus = parallel_corpus(num_languages=1)
    assert BatchPlan(corpus, settings(alpha=1.0), 0).batch(0).kind == "monolingual"
    with pytest.raises(UserError, match="question in one language and the passage in another") as caught:
        BatchPlan(corpus, settings(alpha=0.5), 0)
    assert "set batches.alpha: 1 (monolingual batches only), or add such examples" in caught.value.remedy
    with pytest.raises(UserError, match=r"leave crosslingual out of batches\.mixture, or add such examples"):
        BatchPlan(corpus, settings(mixture={"monolingual": 1, "crosslingual": 1}), 0)


def test_sentences_alone_train_without_monolingual_batches() -> None:
    """Their question and passage are one text in a language: MKQA, NTREX."""
    corpus = parallel_corpus()
    corpus.alignment = (True,)
    assert BatchPlan(corpus, settings(alpha=0.0), 0).batch(0).kind == "crosslingual"
    with pytest.raises(UserError, match=r"set batches\.alpha: 0 \(crosslingual batches only\)"):
        BatchPlan(corpus, settings(), 0)


def test_resume_under_another_plan_is_refused_with_what_changed() -> None:
    corpus = parallel_corpus()
    saved = BatchPlan(corpus, settings(alpha=0.5), 1).state
    check_resume(
        saved, BatchPlan(corpus, settings(mixture={"monolingual": 0.5, "crosslingual": 0.5}), 1).state
    )
    with pytest.raises(UserError, match=r"batches.mixture.0.weight was 0.5, is 0.6"):
        check_resume(saved, BatchPlan(corpus, settings(alpha=0.6), 1).state)
    with pytest.raises(UserError, match=r"seed was 1, is 2"):
        check_resume(saved, BatchPlan(corpus, settings(), 2).state)
    with pytest.raises(UserError, match=r"batches.global_batch_size was 16, is 32"):
        check_resume(saved, BatchPlan(corpus, settings(global_batch_size=32), 1).state)
    other = parallel_corpus(seed=1)
    other.fingerprint = "other"
    with pytest.raises(UserError, match="the training data have changed"):
        check_resume(saved, BatchPlan(other, settings(), 1).state)

from __future__ import annotations

import pytest
from pydantic import ValidationError

from hbt_dist.data.config import OPTIONS, DataSettings, SourceSettings


def source(**options: object) -> dict[str, object]:
    return {"name": "one", "format": "jsonl", "path": "train.jsonl"} | options


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"sources": []}, "at least 1"),
        ({"sources": [source(split="eval")]}, "format jsonl has no option split"),
        ({"sources": [source(content="answers")]}, "format jsonl has no option content"),
        ({"sources": [source(hub_split="dev")]}, "has no option hub_split"),
        ({"sources": [source(path=None)]}, "needs a path"),
        ({"sources": [source(format="xml")]}, "Input should be"),
        ({"sources": [source(format="sample")]}, "format sample has no option path"),
        ({"sources": [source(format="exams", missing="refuse")]}, "format exams has no option missing"),
        ({"sources": [source(limit=0)]}, "greater than or equal to 1"),
        ({"sources": [source(name="a b")]}, "String should match pattern"),
        ({"sources": [source(), source()]}, "two sources are named one"),
        ({"sources": [source(languages=["fi", "fin"])]}, "fi is named more than once"),
        ({"sources": [source(languages=["fi"])], "languages": ["en"]}, "not listed in data.languages"),
        ({"sources": [source()], "languages": []}, "list of languages is empty"),
        ({"sources": [source()], "languages": ["klingon"]}, "not a language code"),
        ({"sources": [source()], "missing": "ignore"}, "Input should be"),
        ({"sources": [source()], "unknown": 1}, "Extra inputs"),
        ({"sources": [source(format="mkqa", content="answers")]}, "training part has no answers"),
    ],
)
def test_bad_settings_are_refused(block: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        DataSettings(**block)  # type: ignore[arg-type]


@pytest.mark.parametrize("format", sorted(OPTIONS))
def test_settings_survive_being_written_out(format: str) -> None:
    given = source(format=format) if "path" in OPTIONS[format] else {"name": "one", "format": format}
    settings = DataSettings(sources=[given], languages=["fin", "en"])  # type: ignore[list-item, arg-type]
    assert settings.languages == ("fi", "en")
    assert DataSettings.model_validate(settings.model_dump(mode="json")) == settings


def test_every_key_is_described() -> None:
    for model in (DataSettings, SourceSettings):
        assert all(field.description for field in model.model_fields.values())

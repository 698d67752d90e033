from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from hbt_dist.data.benchmarks.load import title_given
from hbt_dist.data.benchmarks.settings import BenchmarkSettings, check_labels
from hbt_dist.data.corpus.settings import OPTIONS, DataSettings, SourceSettings


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
        ({"sources": [source()], "languages": ["clingonese"]}, "not a language code"),
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
    for model in (DataSettings, SourceSettings, BenchmarkSettings):
        assert all(field.description for field in model.model_fields.values())


@pytest.mark.parametrize("label", ["../out", "two words", ".hidden", "a" * 101, 3])
def test_a_label_is_the_name_of_a_folder(label: object) -> None:
    with pytest.raises(ValidationError, match="label"):
        BenchmarkSettings(name="jsonl", label=label)  # type: ignore[arg-type]


def test_a_benchmark_without_a_label_is_stored_as_ever() -> None:
    plain = BenchmarkSettings(name="xquad-r", variant="sentence+context")
    assert plain.label == "xquad-r-sentence-context"
    assert plain == BenchmarkSettings(name="xquad-r", variant="sentence+context", label=plain.label)
    assert set(plain.model_dump(mode="json")) == {"name", "variant", "data_dir", "languages"}
    given = BenchmarkSettings(name="jsonl", label="near")
    assert BenchmarkSettings.model_validate(given.model_dump(mode="json")) == given
    assert given.label == "near"


def test_two_benchmarks_of_one_label_are_named() -> None:
    one = BenchmarkSettings(name="jsonl", data_dir="a/own")
    other = BenchmarkSettings(name="jsonl", data_dir="b/own", languages=("en", "fi"))
    check_labels(benchmarks=[one], later_benchmarks=[other.model_copy(update={"label": "b"})])
    with pytest.raises(ValueError, match="one label, 'own'") as refused:
        check_labels(benchmark=one, later_benchmarks=[other])
    assert "benchmark (jsonl, a/own) and later_benchmarks.0 (jsonl, b/own, en fi)" in str(refused.value)
    assert "label: own-2" in str(refused.value)


@pytest.mark.parametrize(
    ("given", "title"),
    [
        ({"name": "law"}, "law"),  # a folder of the working directory
        ({"name": "./law"}, "law"),
        ({"name": "jsonl", "data_dir": "law"}, "law"),
        ({"name": "sample"}, None),
        ({"name": "sample", "label": "words"}, "words"),
    ],
)
def test_folders_name_their_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], title: str | None
) -> None:
    (tmp_path / "law").mkdir()
    monkeypatch.chdir(tmp_path)
    assert title_given(BenchmarkSettings(**given)) == title

"""Typed files: one error that names the file, the line, the key, what was found and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from hbt_dist.common.errors import UserError
from hbt_dist.config.settings import Settings, load_settings, settings_from_items
from hbt_dist.run_file import load_run


class Inner(Settings):
    rate: float = Field(0.1, gt=0)
    mode: Literal["a", "b"] = "a"


class Outer(Settings):
    name: str
    inner: Inner = Inner()
    parts: tuple[Inner, ...] = ()
    either: int | Inner = 1


def load(tmp_path: Path, text: str, *overrides: str) -> Outer:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return load_settings(Outer, file, overrides)


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load(tmp_path, text, *overrides)
    return str(error.value)


def test_overrides_reach_nested_keys_and_list_entries(tmp_path: Path) -> None:
    text = "name: x\nparts: [{rate: 1}, {rate: 2}]\n"
    got = load(tmp_path, text, "inner.rate=0.5", "parts.1.mode=b", "name=y")
    assert got == Outer(name="y", inner=Inner(rate=0.5), parts=(Inner(rate=1), Inner(rate=2, mode="b")))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\ninner:\n  rat: 1\n", ["run.yaml line 3, inner.rat: unknown key", "did you mean 'rate'?"]),
        ("name: x\ninner:\n  rate: -1\n", ["run.yaml line 3, inner.rate: -1: ", "greater than 0"]),
        ("name: x\ninner:\n  rate: .nan\n", ["run.yaml line 3, inner.rate: .nan: ", "finite"]),
        ("inner: {}\n", ["name: is missing"]),
        ("name: x\nparts:\n- {rate: 1}\n- {rate: 0}\n", ["run.yaml line 4, parts.1.rate: 0: "]),
        ("name: x\ninner: {mode: c}\n", ["run.yaml line 2, inner.mode: 'c': ", "'a' or 'b'"]),
        ("name: x\nname: y\n", ["run.yaml line 2: name occurs twice (first in line 1)"]),
        ("name: [\n", ["run.yaml line 2: not valid YAML"]),
        ("- a\n", ["expected settings, got a list"]),
        ("", ["expected settings, got nothing"]),
        ("name: x\nzzz: 1\n", ["line 2, zzz: unknown key", "known keys: either, inner, name, parts"]),
    ],
)
def test_a_mistake_is_placed_and_explained(tmp_path: Path, text: str, said: list[str]) -> None:
    message = refusal(tmp_path, text)
    for part in said:
        assert part in message


def test_a_wrong_override_is_named(tmp_path: Path) -> None:
    assert "override 'inner.rate=-2'" in refusal(tmp_path, "name: x\n", "inner.rate=-2")
    assert "not of the form key=value" in refusal(tmp_path, "name: x\n", "inner.rate")
    assert "parts.3 does not exist" in refusal(tmp_path, "name: x\nparts: []\n", "parts.3=1")
    assert "unknown key" in refusal(tmp_path, "name: x\n", "inner.nothing=1")
    with pytest.raises(UserError, match="command line"):
        settings_from_items(Inner, ["rate=0"])


def test_members_of_a_union_are_told_as_one(tmp_path: Path) -> None:
    assert "either: 'x': must be a whole number, or a block of keys" in refusal(
        tmp_path, "name: x\neither: x\n"
    )
    message = refusal(tmp_path, "name: x\neither: {rate: 0}\n")
    assert "run.yaml line 2, either.rate: 0: must be greater than 0" in message
    assert "also" not in message


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("batches.alpha=2", "batches.alpha: 2: must be less than or equal to 1, or a schedule"),
        ("alpha=0.25", "did you mean batches.alpha or model.lora.alpha?"),
        ("steps=3", "did you mean training.steps or 'step'?"),
        (
            "evaluation.checkpoint_benchmarks.0.name=sample",
            "write the list: evaluation.checkpoint_benchmarks",
        ),
    ],
)
def test_a_wrong_override_of_a_run_says_what_was_meant(override: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        load_run("quickstart", [override])
    assert said in str(refused.value)


def test_an_element_that_is_not_there_is_told_with_the_list_to_write(tmp_path: Path) -> None:
    message = refusal(tmp_path, "name: x\n", "parts.0.mode=b")
    assert "parts.0 does not exist: the list has no element 0" in message
    assert "write the list: parts=[{mode: b}]" in message


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("data.languages=[en, no]", "data.languages.1"),
        (
            "data.sources=[{name: s, format: jsonl, path: x, columns: {language: no}}]",
            "data.sources.0.columns.language",
        ),
        (
            "data.sources=[{name: s, format: jsonl, path: x, languages: [no, en]}]",
            "data.sources.0.languages.0",
        ),
        ("batches.languages={en: 1, no: 1}", "batches.languages"),
        ("batches.pairs={no: 1}", "batches.pairs"),
        ("batches.mixture=[{kind: monolingual, languages: [en, no]}]", "batches.mixture.0.languages.1"),
        ("evaluation.benchmarks=[{name: sample, languages: [no]}]", "evaluation.benchmarks.0.languages.0"),
        (
            "batches.code_switching={vectors: {en: x, no: y}}",
            "batches.code_switching.vectors",
        ),
        ("output_dir=no", "output_dir"),
    ],
)
def test_what_yaml_reads_as_false_is_one_mistake(override: str, key: str) -> None:
    with pytest.raises(UserError) as refused:
        load_run("quickstart", [override])
    assert refused.value.location.endswith(f"override {override!r}, {key}")
    assert refused.value.problem == "YAML reads no as false: write 'no'"
    assert refused.value.remedy == ""


def test_what_yaml_reads_as_false_has_its_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, "inner: {rate: 1}\nname: off\n").startswith(
        f"{tmp_path}/run.yaml line 2, name: YAML reads no as false: write 'no'"
    )
    assert "YAML reads yes and on as true: write 'yes' or 'on'" in refusal(tmp_path, "name: on\n")
    assert "YAML reads no as false" in refusal(tmp_path, "name: x\ninner: {no: 1}\n")


def test_a_wrong_weight_is_not_reported_as_a_missing_temperature() -> None:
    for override, problem in (
        ("batches.languages={en: x}", "'x': must be a number"),
        ("batches.languages={en: 1, jp: 2}", "'jp' is not a language code; did you mean ja (Japanese)?"),
        ("batches.languages=both", "'both': must be 'uniform' or 'size'"),
    ):
        with pytest.raises(UserError) as refused:
            load_run("quickstart", [override])
        assert refused.value.problem.startswith(problem)
        assert "also" not in refused.value.remedy


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("data.sources=[{name: en, format: csvx}]", "'csvx': must be 'jsonl', 'csv'"),
        ("data.sources.0.languages=[en, klingonese]", "'klingonese' is not a language code"),
    ],
)
def test_a_mistake_inside_a_list_is_one_error(override: str, problem: str) -> None:
    with pytest.raises(UserError) as refused:
        load_run("quickstart", [override])
    assert problem in refused.value.problem
    assert "also" not in str(refused.value)


def test_several_mistakes_are_one_error(tmp_path: Path) -> None:
    message = refusal(tmp_path, "name: x\ninner: {rate: 0, mode: q}\n")
    assert message.count("also:") == 1


def test_missing_folder_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_settings(Outer, tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="is a folder"):
        load_settings(Outer, tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"not UTF-8|not valid YAML"):
        load_settings(Outer, tmp_path / "bytes.yaml")


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.mktemp("any") / "run.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(UserError):
        load_settings(Outer, file)

"""Expansion files: planned, resumable to the byte, refused when they don't belong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.methods.expansion import expand as expand_module
from hbt_dist.methods.expansion.expand import expand_benchmark, plan_batches
from hbt_dist.methods.expansion.files import read_expansions
from hbt_dist.methods.expansion.generate import LoadedGenerator
from hbt_dist.methods.expansion.prompts import PROMPTS
from hbt_dist.methods.expansion.settings import ExpansionSettings

SETTINGS = ExpansionSettings(samples=2, temperature=1.0, max_new_tokens=8, batch_size=5)
Expand = Callable[..., Path]


@pytest.fixture
def expand(generator: LoadedGenerator, benchmark: Benchmark, tmp_path: Path) -> Expand:
    def run(name: str = "out.jsonl", settings: ExpansionSettings = SETTINGS, **options: Any) -> Path:
        return expand_benchmark(generator, benchmark, tmp_path / name, settings, progress=False, **options)

    return run


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_file_holds_every_expansion_and_how_it_was_made(expand: Expand, benchmark: Benchmark) -> None:
    header, *lines = lines_of(expand())
    assert header["benchmark"]["fingerprint"] == benchmark.fingerprint
    assert header["prompt"]["template"] == PROMPTS["zero-shot"]
    assert (header["settings"]["seed"], header["settings"]["temperature"]) == (0, 1.0)
    assert {"hbt_dist", "torch", "transformers"} <= set(header["versions"])
    keys = [
        (one["question_id"], one["question_language"], one["expansion_language"], one["sample"])
        for one in lines
    ]
    assert sorted(keys) == sorted(
        (f"q{i}", code, code, sample) for i in range(6) for code in ("en", "fi") for sample in range(2)
    )
    assert len({one["text"] for one in lines}) > 20  # drawn for each by itself


def test_batches_and_languages_don_t_change_a_text(expand: Expand) -> None:
    def texts(path: Path) -> dict[tuple[Any, ...], str]:
        return {
            (one["question_id"], one["question_language"], one["sample"]): one["text"]
            for one in lines_of(path)[1:]
        }

    whole = texts(expand())
    for other in ({"batch_size": 24}, {"batch_size": 1}):
        assert texts(expand(f"{other}.jsonl", SETTINGS.model_copy(update=other))) == whole
    finnish = texts(expand("fi.jsonl", SETTINGS.model_copy(update={"languages": ("fi",)})))
    assert finnish == {key: text for key, text in whole.items() if key[1] == "fi"}
    reseeded = texts(expand("seed.jsonl", SETTINGS.model_copy(update={"seed": 1})))
    assert sum(reseeded[key] != whole[key] for key in whole) > 20


@pytest.mark.parametrize("cut", [3, -1, -30, 0.4, 0.8])
def test_an_interrupted_run_ends_with_the_same_bytes(
    expand: Expand, cut: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = expand().read_bytes()
    size = int(len(whole) * cut) if isinstance(cut, float) else cut % len(whole)
    (tmp_path / "again.jsonl.partial").write_bytes(whole[:size])  # half a line at its end
    generated: list[int] = []
    real = expand_module.generate

    def counting(loaded: Any, prompts: Any, *rest: Any, **options: Any) -> list[str]:
        generated.append(len(prompts))
        return real(loaded, prompts, *rest, **options)

    monkeypatch.setattr(expand_module, "generate", counting)
    assert expand("again.jsonl").read_bytes() == whole
    assert not (tmp_path / "again.jsonl.partial").exists()
    if cut == 3:
        assert sum(generated) == 24
    elif cut < 0:
        assert len(generated) == 1  # the last batch alone
    else:
        assert 0 < sum(generated) < 24
    generated.clear()
    assert expand("again.jsonl").read_bytes() == whole  # finished: nothing to do
    assert not generated


def test_a_run_that_dies_keeps_its_whole_batches(
    expand: Expand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = expand().read_bytes()
    real, calls = expand_module.generate, iter(range(100))

    def failing(*rest: Any, **options: Any) -> list[str]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return real(*rest, **options)

    monkeypatch.setattr(expand_module, "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        expand("again.jsonl")
    assert not (tmp_path / "again.jsonl").exists()
    assert len(lines_of(tmp_path / "again.jsonl.partial")) > 5
    assert expand("again.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"strategy": "few-shot"}, {"temperature": 0.5}, {"batch_size": 4}]
)
def test_other_settings_are_refused(expand: Expand, change: dict[str, Any], tmp_path: Path) -> None:
    path = expand()
    other = SETTINGS.model_copy(update=change)
    with pytest.raises(UserError, match="was made with different values"):
        expand("out.jsonl", other)
    content = path.read_bytes()
    (tmp_path / "again.jsonl.partial").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="was made with different values"):
        expand("again.jsonl", other)
    assert path.read_bytes() == content


def test_files_that_are_something_else_are_refused(expand: Expand, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("notes\n")
    with pytest.raises(UserError, match="is not an expansion file"):
        expand()
    assert (tmp_path / "out.jsonl").read_text() == "notes\n"


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_expand_after_translation(expand: Expand, benchmark: Benchmark, tmp_path: Path) -> None:
    rows = [
        {
            "question_id": f"q{i}",
            "question_language": code,
            "language": target,
            "text": f"Wo ist {i} {target}?",
        }
        for i in range(6)
        for code in ("en", "fi")
        for target in ("de", "sv")
    ]
    translations = write(tmp_path / "t.jsonl", rows)
    settings = ExpansionSettings(order="after", max_new_tokens=4)
    header, *lines = lines_of(expand("a.jsonl", settings, translations=translations))
    assert header["translations"]["file"] == "t.jsonl"
    assert len(lines) == 24
    assert {one["expansion_language"] for one in lines} == {"de", "sv"}
    found = read_expansions(tmp_path / "a.jsonl", benchmark)
    assert [len(one) for one in found.texts] == [2] * 12
    only = read_expansions(tmp_path / "a.jsonl", benchmark, ("sv",))
    assert [one[1] for one in found.texts] == [one[0] for one in only.texts]
    with pytest.raises(UserError, match="only one of them is given"):
        expand("b.jsonl", settings)
    with pytest.raises(UserError, match=r"question 'q5' \(fi\) has no translation"):
        expand("b.jsonl", settings, translations=write(tmp_path / "u.jsonl", rows[:-2]))
    with pytest.raises(UserError, match="translated into 'sv' twice"):
        expand("b.jsonl", settings, translations=write(tmp_path / "u.jsonl", [*rows, rows[-1]]))


def test_expand_before_translation(expand: Expand, benchmark: Benchmark, tmp_path: Path) -> None:
    plain = ExpansionSettings(max_new_tokens=4)
    rows = [
        {
            "question_id": one["question_id"],
            "question_language": one["question_language"],
            "sample": one["sample"],
            "language": "de",
            "source": one["text"],
            "text": f"übersetzt {number}",
        }
        for number, one in enumerate(lines_of(expand("plain.jsonl", plain))[1:])
    ]
    settings = plain.model_copy(update={"order": "before"})
    path = expand("b.jsonl", settings, translations=write(tmp_path / "t.jsonl", rows))
    found = {(one["question_id"], one["question_language"]): one["text"] for one in lines_of(path)[1:]}
    assert found == {(one["question_id"], one["question_language"]): one["text"] for one in rows}
    assert {one["expansion_language"] for one in lines_of(path)[1:]} == {"de"}
    rows[3]["source"] = "something else"
    with pytest.raises(UserError, match=r"t\.jsonl line 4: .* another text than the expansion"):
        expand("c.jsonl", settings, translations=write(tmp_path / "t.jsonl", rows))


def test_settings() -> None:
    assert ExpansionSettings().drawn_at == 0.0
    assert ExpansionSettings(samples=2).drawn_at == 0.7
    with pytest.raises(ValueError, match="would all be the same"):
        ExpansionSettings(samples=2, temperature=0.0)


def test_batches_hold_every_row_once() -> None:
    batches = plan_batches([5, 1, 9, 9, 2, 7, 7], 3)
    assert sorted(row for batch in batches for row in batch) == list(range(7))
    assert sorted(map(len, batches)) == [1, 3, 3]
    assert [2, 3, 5] in batches


GOOD = {"question_id": "q0", "question_language": "en", "expansion_language": "en", "sample": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("not json", r"line 3: malformed JSON"),
        ("[1]", r"line 3: holds a list"),
        ({"text": 5}, r"line 3: field 'text' is a number"),
        ({"sample": "x"}, r"line 3: field 'sample' is a text|line 3: field 'sample' is a string"),
        ({"question_language": "nonsense language"}, r"line 3: "),
        ({"question_id": "q9"}, r"line 3: expected a question of the benchmark, got 'q9' in 'en'"),
        ({"question": "Another?"}, r"line 3: question 'q0' \(en\) has another text"),
        ({}, r"line 3: sample 0 of 'q0' \(en\) in 'en' comes twice"),
    ],
)
def test_malformed_files(
    expand: Expand, benchmark: Benchmark, tmp_path: Path, change: str | dict[str, Any], message: str
) -> None:
    header = expand().read_text("utf-8").splitlines()[0]
    question = benchmark.question_texts[benchmark.question_ids.index("q0")]
    good = GOOD | {"question": question, "text": "a text"}
    bad = change if isinstance(change, str) else json.dumps(good | change)
    (tmp_path / "bad.jsonl").write_text(f"{header}\n{json.dumps(good)}\n{bad}\n", "utf-8")
    with pytest.raises(UserError, match=message):
        read_expansions(tmp_path / "bad.jsonl", benchmark)


def test_a_question_without_expansion(
    expand: Expand, benchmark: Benchmark, benchmark_folder: Path, tmp_path: Path
) -> None:
    path = expand("fi.jsonl", SETTINGS.model_copy(update={"languages": ("fi",)}))
    with pytest.raises(UserError, match=r"question 'q0' \(en\) has no expansion"):
        read_expansions(path, benchmark)
    finnish = load_benchmark("jsonl", benchmark_folder, languages=["fi"])
    assert [len(one) for one in read_expansions(path, finnish).texts] == [2] * 6
    assert read_expansions(expand(), finnish).texts == read_expansions(path, finnish).texts
    with pytest.raises(UserError, match="has no expansion in sv"):
        read_expansions(path, finnish, ("sv",))
    (tmp_path / "head.jsonl").write_text('{"schema": "other"}\n')
    with pytest.raises(UserError, match="is not the head of an expansion file"):
        read_expansions(tmp_path / "head.jsonl", benchmark)

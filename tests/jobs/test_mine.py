"""`hbt-dist mine`: its file, its output, what continues it, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pytest

from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus, Role
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.evaluation.encode import encode_texts
from hbt_dist.jobs.mine_file import load_mine_file
from hbt_dist.mining.judges import CrossEncoderJudge
from hbt_dist.mining.settings import JudgeSettings
from hbt_dist.models.loading import load_encoder
from tests.helpers.command_line import call_main
from tests.helpers.runs import tiny_run, write_run
from tests.jobs.made_mining import lines, mine_file, read_lines, save_cross_encoder, write_lines

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """Call the command line in this process: (exit code, stdout, stderr)."""
    return partial(call_main, monkeypatch, capsys)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, model and mine.yaml."""
    return mine_file(tmp_path_factory.mktemp("mining") / "made").parent


def mined(command: Command, file: Path, output: Path, *overrides: str) -> Path:
    code, out, err = command("mine", file, "--launcher", "local", f"output_dir={output}", *overrides)
    assert code == 0, err
    assert f"written: {output}/negatives.jsonl" in out
    return output / "negatives.jsonl"


def refused(command: Command, *arguments: str | Path) -> str:
    code, out, err = command("mine", *arguments)
    assert (code, out) == (2, ""), err
    assert "Traceback" not in err
    return err


def vectors(model: Path, rows: list[dict[str, Any]], role: Literal["question", "passage"]) -> dict[str, Any]:
    """The vector of each text, encoded without the miner."""
    texts = sorted({text for row in rows for text in row[role].values()})
    encoded = encode_texts(load_encoder(model, quiet=True), texts, role, progress=False)
    return dict(zip(texts, np.asarray(encoded[:]), strict=True))


def test_output_is_the_training_format_with_scores(command: Command, made: Path, tmp_path: Path) -> None:
    file = mined(command, made / "mine.yaml", tmp_path / "out")
    written, given = read_lines(file), lines(40)
    texts = {row["passage_id"]: row["passage"] for row in given}
    asked, read = (vectors(made / "model", given, role) for role in get_args(Role))

    def best(row: dict[str, Any], passages: Iterable[str]) -> float:
        return max(
            float(asked[text] @ read[passage]) for text in row["question"].values() for passage in passages
        )

    for row, source in zip(written, given, strict=True):
        assert {key: row[key] for key in source} == source
        assert len(row["negatives"]) == 3
        assert row["score"] == pytest.approx(best(row, row["passage"].values()), abs=1e-6)
        for negative in row["negatives"]:
            assert negative["id"] != source["passage_id"]
            assert negative["text"] == texts[negative["id"]]
            score = best(row, [negative["text"][negative["language"]]])
            assert negative["score"] == pytest.approx(score, abs=1e-6)
    record = json.loads((tmp_path / "out" / "mining.json").read_text("utf-8"))
    assert sum(record["scores"][name]["number"] for name in ("passage", "question")) == 120
    assert record["counts"]["shares"]["any"] == {"requested": 120, "unfilled": 0, "relaxed": 0}
    assert record["versions"]["torch"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".lock",
        "mining.json",
        "negatives.jsonl",
    ]


def test_lines_of_several_sources_give_the_same_corpus(command: Command, made: Path, tmp_path: Path) -> None:
    """Ids meet, one source has instructions: read again, the examples and their groups are the same."""
    rows = [{**row, "prefix": "find: "} for row in lines(12, seed=1)]
    write_lines(tmp_path / "more.jsonl", rows)
    sources = [
        {"name": name, "format": "jsonl", "path": str(path)}
        for name, path in (("made", made / "train.jsonl"), ("more", tmp_path / "more.jsonl"))
    ]
    file = mined(command, made / "mine.yaml", tmp_path / "out", f"data.sources={json.dumps(sources)}")
    assert [row["id"] for row in read_lines(file)][39:41] == ["made/q39", "more/q0"]

    def corpus(blocks: list[dict[str, str]]) -> Corpus:
        return build_corpus(DataSettings(sources=tuple(blocks), missing="skip"), tmp_path / "cache")  # type: ignore[arg-type]

    before = corpus(sources)
    after = corpus([{"name": "again", "format": "jsonl", "path": str(file)}])
    for code in before.languages:
        assert after.question_texts(code) == before.question_texts(code)
        positives = [
            [each.passage_texts(code, row, row + 1)[0] for row in each.example_passage]
            for each in (before, after)
        ]
        assert positives[0] == positives[1]
    assert after.example_group.tolist() == before.example_group.tolist()
    prefixes = [
        each.prefixes[code]
        for each in (before, after)
        for code in each.prefix_codes("question", slice(0, 52))
    ]
    assert prefixes[:52] == prefixes[52:] == [None] * 40 + ["find: "] * 12
    assert not np.any(after.passage_group[after.negatives] == np.repeat(after.example_group, 3))


def test_pool_adds_passages_and_none_equals_a_positive(command: Command, made: Path, tmp_path: Path) -> None:
    """Ids of the pool are those of the data, but with the texts of the next example's passage."""
    rows = [row["passage"] for row in lines(40)]
    fresh = [row["passage"] for row in lines(30, seed=5)]
    pool = [{"id": f"p{number}", "text": text} for number, text in enumerate([*rows[1:], rows[0], *fresh])]
    pool.append({"id": "sv", "text": {"sv": "Åbo ligger i Finland."}})
    overrides = [f"mining.pool={write_lines(tmp_path / 'pool.jsonl', pool)}", "mining.count=8"]
    output = f"output_dir={tmp_path / 'out'}"
    code, _, err = command("mine", made / "mine.yaml", "--launcher", "local", output, *overrides)
    assert code == 0, err
    assert "pool: left out 1 passage without a requested language" in err
    file = tmp_path / "out" / "negatives.jsonl"
    ids = [negative["id"] for row in read_lines(file) for negative in row["negatives"]]
    assert {text_id.startswith("pool/") for text_id in ids} == {True, False}
    for row in read_lines(file):
        positive = set(row["passage"].values())
        assert not any(positive & set(negative["text"].values()) for negative in row["negatives"])
    settings = DataSettings(
        sources=({"name": "again", "format": "jsonl", "path": str(file)},),  # type: ignore[arg-type]
        missing="skip",
    )
    assert build_corpus(settings, tmp_path / "cache").num_examples == 40
    absent = refused(command, made / "mine.yaml", "--launcher", "local", "mining.pool=absent.jsonl")
    assert "absent.jsonl" in absent
    (tmp_path / "pool.jsonl").write_text('{"id": "p1", "text": "plain"}', "utf-8")
    message = refused(command, made / "mine.yaml", "--launcher", "local", overrides[0])
    assert "pool.jsonl line 1" in message


def test_finished_is_kept_and_another_mining_is_refused(command: Command, made: Path, tmp_path: Path) -> None:
    file, out = made / "mine.yaml", tmp_path / "out"
    first = mined(command, file, out)
    stamp, content = first.stat().st_mtime_ns, first.read_bytes()
    arguments = [file, "--launcher", "local", f"output_dir={out}"]
    code, shown, err = command("mine", *arguments, "--json", "mining.examples_per_block=7")
    assert code == 0
    assert "is finished" in err
    assert json.loads(shown)["counts"]["shares"]["any"]["requested"] == 120
    assert first.stat().st_mtime_ns == stamp
    message = refused(command, *arguments, "mining.count=2", "seed=3")
    assert "holds another mining (mining.count: 3 there, 2 now; seed: 0 there, 3 now)" in message
    assert "choose another output_dir" in message
    assert "model.text.pooling: mean there, cls now" in refused(command, *arguments, "model.text.pooling=cls")
    assert "holds another mining (corpus: " in refused(command, *arguments, "data.sources.0.limit=39")
    first.unlink()  # a record without its file: the same mining starts anew
    assert mined(command, file, out).read_bytes() == content


def test_questions_without_candidates_are_reported_and_filled_by_choice(
    command: Command, made: Path, tmp_path: Path
) -> None:
    arguments = ["mine", made / "mine.yaml", "--launcher", "local", "mining.margin=0.9"]
    code, out, _ = command(*arguments, f"output_dir={tmp_path}/left")
    assert code == 0
    assert "by a margin" in out
    assert "without any (" in out
    assert "because every candidate was left out); mining.fill: relax fills them" in out
    code, out, _ = command(*arguments, f"output_dir={tmp_path}/filled", "mining.fill=relax")
    assert code == 0
    assert "share any: 120 of 120, " in out
    assert "of them by fill: relax" in out
    assert [len(row["negatives"]) for row in read_lines(tmp_path / "filled" / "negatives.jsonl")] == [3] * 40


def test_schema_of_the_file(command: Command) -> None:
    assert set(json.loads(command("schema", "mine")[1])["properties"]) == {
        "output_dir",
        "seed",
        "data",
        "model",
        "mining",
        "workers",
    }


def test_judge_rescores_and_its_scores_are_written(command: Command, made: Path, tmp_path: Path) -> None:
    judge = save_cross_encoder(tmp_path / "judge", made / "model")
    file = mined(
        command, made / "mine.yaml", tmp_path / "out", f"mining.judge.name_or_path={judge}", "mining.margin=0"
    )
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(judge), device="cpu")
    written = read_lines(file)
    assert any(row["negatives"] for row in written)
    for row in written:
        for negative in row["negatives"]:
            pair = (row["question"][negative["language"]], negative["text"][negative["language"]])
            assert negative["score"] == pytest.approx(float(model.predict([pair])[0]), abs=1e-5)
            assert negative["score"] <= row["score"] + 1e-6


def test_judge_reads_every_question_where_the_passage_has_another_language(
    made: Path, tmp_path: Path
) -> None:
    rows = lines(6)
    for row in rows:
        row["question"] = {code: text for code, text in row["question"].items() if code != "hu"}
    source = {"name": "made", "format": "jsonl", "path": str(write_lines(tmp_path / "rows.jsonl", rows))}
    settings = DataSettings(sources=(source,), missing="skip")  # type: ignore[arg-type]
    corpus = build_corpus(settings, tmp_path / "cache")
    judge = JudgeSettings(name_or_path=str(save_cross_encoder(tmp_path / "judge", made / "model")))
    score = CrossEncoderJudge(corpus, judge, "cpu")
    ones, passage = np.ones(1, np.int64), int(corpus.example_passage[2])
    hungarian = corpus.language_index("hu")
    pairs = [(corpus.question_text(1, code), corpus.passage_text(passage, "hu")) for code in ("en", "fi")]
    got = score(ones, np.array([passage]), np.array([hungarian]))
    assert got == pytest.approx([score._predict(pairs).max()], abs=1e-6)


def test_encoder_as_judge_with_the_same_model_changes_nothing(
    command: Command, made: Path, tmp_path: Path
) -> None:
    plain = read_lines(mined(command, made / "mine.yaml", tmp_path / "plain"))
    overrides = [f"mining.judge.name_or_path={made / 'model'}", "mining.judge.kind=encoder"]
    judged = read_lines(mined(command, made / "mine.yaml", tmp_path / "judged", *overrides))
    for one, other in zip(plain, judged, strict=True):
        assert [item["id"] for item in one["negatives"]] == [item["id"] for item in other["negatives"]]
        assert [item["score"] for item in other["negatives"]] == pytest.approx(
            [item["score"] for item in one["negatives"]], abs=1e-6
        )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.name_or_path=./absent"], ["no such model folder"]),
        (["model.name_or_path=nobody/absent"], ["nobody/absent"]),
        (["mining.judge.name_or_path=./absent"], ["no such model folder"]),
        (["mining.judge.name_or_path=nobody/absent"], ["nobody/absent"]),
        (["mining.judge.name_or_path={folder}/model"], ["expected a cross-encoder, got", "kind: encoder"]),
        (["mining.encoding.device=cuda"], ["mining.encoding.device 'cuda'", "set it to auto, cpu or cuda"]),
        (["mining.encoding.dtype=float8"], ["mining.encoding.dtype", "float8"]),
        (
            ["mining.rank_min=90", "mining.rank_max=200"],
            ["mining.rank_min", "expected at most 36", "40 passages"],
        ),
        (["mining.languages=other"], ["mining.languages: other", "for some example", "[en, fi, hu]"]),
        (["output_dir=/proc/mined"], ["/proc/mined", "cannot be written", "choose another output_dir"]),
        (["model={scratch: {}}"], ["scratch has no trained weights"]),
        (["mining.cuont=3"], ["cuont", "did you mean 'count'"]),
    ],
)
def test_bad_input_is_one_error_and_writes_nothing(
    command: Command, made: Path, tmp_path: Path, overrides: list[str], said: list[str]
) -> None:
    filled = [item.replace("{folder}", str(made)) for item in overrides]
    message = refused(
        command, made / "mine.yaml", "--launcher", "local", f"output_dir={tmp_path}/out", *filled
    )
    for part in said:
        assert part in message
    assert not (tmp_path / "out").exists()


def test_model_without_tokenizer(command: Command, made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (made / "model").iterdir():
        if file.is_file() and "token" not in file.name:
            (folder / file.name).write_bytes(file.read_bytes())
    message = refused(command, made / "mine.yaml", "--launcher", "local", f"model.name_or_path={folder}")
    assert str(folder) in message


def test_run_file_needs_a_block_and_a_trained_model(command: Command, tmp_path: Path) -> None:
    run = tiny_run(tmp_path / "out", tmp_path / "cache")
    file = write_run(tmp_path / "run.yaml", run)
    assert "expected a block mining, got none" in refused(command, file)
    assert f"model={{name_or_path: {tmp_path}/out/model}}" in refused(command, file, "mining.count=4")
    run["model"] = {"name_or_path": str(tmp_path / "model")}
    loaded = load_mine_file(str(write_run(file, run)), ["mining.count=4"])
    assert (loaded.output_dir, loaded.seed, loaded.mining.count) == (str(tmp_path / "out"), 3, 4)


def test_dry_run_counts_texts_and_writes_nothing(command: Command, made: Path, tmp_path: Path) -> None:
    code, out, _ = command("mine", made / "mine.yaml", "--dry-run", f"output_dir={tmp_path}/out")
    assert code == 0
    passages = sum(len(row["passage"]) for row in lines(40))
    assert f"40 questions in 120 texts, 40 passages in {passages} texts" in out
    assert f"{120 + passages} x 12 x 4 bytes" in out
    for key in ("model.name_or_path", "mining.judge.name_or_path"):
        absent = refused(command, made / "mine.yaml", "--dry-run", f"{key}=./absent")
        assert f"error: {key} ./absent: no such model folder" in absent
    assert list(tmp_path.iterdir()) == []

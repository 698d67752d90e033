"""MKQA and EXAMS as their authors publish them: the same rows as from the layouts of the tests' data."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.data.corpus.readers import open_source
from hbt_dist.data.corpus.records import TrainingRecord
from hbt_dist.data.corpus.settings import SourceSettings
from hbt_dist.data.splits import Split

Write = Callable[..., Path]
Row = dict[str, Any]
HELD_OUT = -9217413319375670467  # the smallest id of a question with answers


def records(format: str, path: Path, **options: Any) -> list[TrainingRecord]:
    source = SourceSettings(name="one", format=format, path=str(path), **options)  # type: ignore[arg-type]
    return list(open_source(source, source.languages, "skip").records())


def lines(path: Path) -> list[Row]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def answered(text: str | None) -> list[Row]:
    if text is None:
        return [{"type": "unanswerable", "entity": None, "text": None, "aliases": []}]
    return [{"type": "entity", "entity": "Q1", "text": text, "aliases": ["x"]}]


@pytest.mark.parametrize(
    ("format", "names"),
    [
        ("squad-parallel", ["passages.jsonl", "questions.jsonl"]),
        ("mkqa", ["questions_only.jsonl", "with_answers.jsonl"]),
        ("exams", ["questions.jsonl"]),
    ],
)
def test_of_a_file_and_its_compressed_copy_the_compressed_is_read(
    format: str, names: list[str], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"{}"))
    source = SourceSettings(name="both", format=format, path=str(tmp_path), split="all")  # type: ignore[arg-type]
    files = open_source(source, None, "skip").files
    assert [path.name for path in files] == [f"{name}.gz" for name in names]


def mkqa_rows() -> list[Row]:
    return [
        {
            "example_id": number,
            "query": f"who {number}",
            "queries": {
                "en": f"who {number}",
                "fi": f"kuka {number}",
                "zh_cn": f"谁 {number}",
                "zh_hk": f"邊個 {number}",
                "zh_tw": f"誰 {number}",
            },
            "answers": {
                "en": answered(text),
                "fi": answered(text),
                **dict.fromkeys(("zh_cn", "zh_hk", "zh_tw"), answered(None)),
            },
        }
        for number, text in ((HELD_OUT, "Ada"), (12, None), (13, "Bob"))
    ]


@pytest.mark.parametrize("name", ["mkqa.jsonl", "mkqa.jsonl.gz", "dataset/mkqa.jsonl.gz"])
def test_mkqa_of_its_authors(
    name: str, write_lines: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_lines(f"up/{name}", mkqa_rows())
    folder = tmp_path / "up"
    found = {split: records("mkqa", folder, split=split) for split in ("all", "train", "eval")}
    assert [one.example_id for one in found["train"]] == ["12", "13"]
    assert [one.example_id for one in found["eval"]] == [str(HELD_OUT)]
    assert len(found["all"]) == 3
    assert found["train"][0].question == {"en": "who 12", "fi": "kuka 12", "zh": "谁 12", "zh-hant": "誰 12"}
    assert f"{folder / name}: left out zh_hk of 3 questions" in capsys.readouterr().err
    answers = records("mkqa", folder, split="all", content="answers")
    assert [one.passage for one in answers] == [{"en": "Ada", "fi": "Ada"}, {"en": "Bob", "fi": "Bob"}]
    assert f"{folder / name}: left out 1 question without a short answer\n" in capsys.readouterr().err
    benchmark = load_benchmark("mkqa", folder)
    assert (benchmark.languages, benchmark.num_questions) == (("en", "fi", "zh", "zh-hant"), 4)


def test_mkqa_mistakes_are_named(write_lines: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nor upstream's mkqa\.jsonl\.gz"):
        load_benchmark("mkqa", tmp_path)
    path = write_lines("up/mkqa.jsonl", [{"example_id": HELD_OUT, "question": {"en": "who"}}])
    with pytest.raises(UserError, match="field 'queries' is missing"):
        load_benchmark("mkqa", path.parent)
    row = mkqa_rows()[0]
    for answers, message in (([], "is an empty list"), (["Ada"], "is a string"), (None, "is null")):
        write_lines("up/mkqa.jsonl", [row | {"answers": {"en": answers}}])
        with pytest.raises(UserError, match=f"field 'answers' in 'en' {message}"):
            records("mkqa", path.parent, split="eval", content="answers")


@pytest.mark.slow
@pytest.mark.parametrize("split", ["eval", "dev", "test", "train", "all"])
def test_mkqa_is_the_same_benchmark_from_both(
    split: Split, shared_data: Path, write_lines: Write, tmp_path: Path
) -> None:
    """Of the same questions; upstream has more, without a short answer, in the training part."""
    rows = [
        *lines(shared_data / "mkqa/questions_only.jsonl.gz"),
        *lines(shared_data / "mkqa/with_answers.jsonl.gz"),
    ]
    write_lines(
        "mkqa/mkqa.jsonl.gz",
        [
            {
                "example_id": int(row["id"]),
                "query": row["question"]["en"],
                "queries": {
                    ("zh_cn" if code == "zh" else code): text for code, text in row["question"].items()
                },
                "answers": {"en": answered(row["answers"]["en"][0] if "answers" in row else None)},
            }
            for row in rows
        ],
    )
    assert (
        load_benchmark("mkqa", tmp_path, split).fingerprint
        == load_benchmark("mkqa", shared_data, split).fingerprint
    )


def exam(number: int, language: str, key: str = "B", **changes: Any) -> Row:
    choices = [
        {"text": f"{text} {language}", "label": label, "para": "..."}
        for label, text in zip("ABC", ["no", "yes", "maybe"], strict=True)
    ]
    row: Row = {
        "id": f"id{number}",
        "question": {"stem": f"question {number} {language}", "choices": choices},
        "answerKey": key,
        "info": {"grade": 12, "subject": "Biology", "language": language},
    }
    return row | changes


def write_archive(path: Path, rows: list[Row], *more: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with tarfile.open(path, "w:gz") as archive:
        for name in (f"._{path.name}", *more, path.name.removesuffix(".tar.gz")):
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))


def exams_folder(write_lines: Write, tmp_path: Path) -> Path:
    train = [
        exam(3, "Hungarian"),
        exam(1, "Croatian"),
        exam(5, "Serbian"),
        exam(6, "Turkish", key="@"),
        exam(8, "Serbian"),
    ]
    write_archive(tmp_path / "exams/multilingual/train.jsonl.tar.gz", train)
    write_archive(tmp_path / "exams/multilingual/dev.jsonl.tar.gz", [exam(2, "Polish"), exam(4, "Italian")])
    # 7 is a question of the test part, over which 2 and 4 are joined; 8 is a second Serbian version of 5.
    pairs = [{"id3": ["id1"]}, {"id1": ["id3"]}, {"id4": ["id7"]}, {"id7": ["id2"]}, {"id5": ["id3", "id8"]}]
    write_lines("exams/parallel_questions.jsonl", pairs)
    return tmp_path / "exams"


def test_exams_of_its_authors(write_lines: Write, tmp_path: Path) -> None:
    folder = exams_folder(write_lines, tmp_path)
    found = {one.example_id: one for one in records("exams", folder, split="all")}
    assert found.keys() == {"cluster-c0000", "cluster-c0001", "id8"}  # id6 has no answer
    assert found["cluster-c0000"].passage == {
        "hu": "yes Hungarian",
        "hr": "yes Croatian",
        "sr": "yes Serbian",
    }
    assert found["cluster-c0001"].question == {"pl": "question 2 Polish", "it": "question 4 Italian"}
    wrong = [one.passage for one in found["id8"].negatives]
    assert wrong == [{"sr": "no Serbian"}, {"sr": "maybe Serbian"}]
    assert [one.example_id for one in records("exams", folder / "multilingual", split="eval")] == [
        "cluster-c0001"
    ]
    benchmark = load_benchmark("exams", tmp_path)
    assert (benchmark.languages, benchmark.num_questions, benchmark.num_candidates) == (("it", "pl"), 2, 6)


def test_exams_mistakes_are_named(write_lines: Write, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nor upstream's multilingual/train\.jsonl\.tar\.gz"):
        records("exams", tmp_path)
    folder = exams_folder(write_lines, tmp_path)
    part = folder / "multilingual/dev.jsonl.tar.gz"
    write_archive(part, [exam(2, "Clingonese")])
    with pytest.raises(UserError, match="line 1, info: 'Clingonese' is not a language code"):
        records("exams", folder)
    write_archive(part, [exam(2, "Polish", question="who")])
    with pytest.raises(UserError, match="field 'question' is a string"):
        records("exams", folder)
    write_archive(part, [exam(2, "Polish")], "test.jsonl")
    with pytest.raises(UserError, match="holds 2 files"):
        records("exams", folder)
    part.write_bytes(gzip.compress(b"no archive"))
    with pytest.raises(UserError, match="not a readable gzip file"):
        records("exams", folder)
    part.unlink()
    with pytest.raises(UserError, match=r"dev\.jsonl\.tar\.gz is missing"):
        records("exams", folder)
    write_archive(part, [exam(2, "Polish")])
    write_lines("exams/parallel_questions.jsonl", [{"id3": "id1"}])
    with pytest.raises(UserError, match="'id3' has a string"):
        records("exams", folder)
    (folder / "parallel_questions.jsonl").unlink()
    with pytest.raises(UserError, match=r"parallel_questions\.jsonl is missing"):
        records("exams", folder)


@pytest.mark.slow
def test_exams_is_the_same_from_both(shared_data: Path, write_lines: Write, tmp_path: Path) -> None:
    rows = lines(shared_data / "exams/questions.jsonl.gz")
    clusters = defaultdict(list)
    for row in rows:
        clusters[row.get("cluster")].append(row["id"])
    del clusters[None]
    parts: dict[str, list[Row]] = {"train": [], "dev": []}
    for row in rows:
        texts = [*row["other_choices"][:1], row["answer"], *row["other_choices"][1:]]
        parts[row["split"]].append(
            {
                "id": row["id"],
                "question": {
                    "stem": row["question"],
                    "choices": [{"text": text, "label": "ABCDE"[place]} for place, text in enumerate(texts)],
                },
                "answerKey": "B",
                "info": {"language": row["language"], "subject": row["subject"], "grade": 12},
            }
        )
    for part, own in parts.items():
        write_archive(tmp_path / f"exams/{part}.jsonl.tar.gz", own)
    pairs = [{one: [other for other in ids if other != one]} for ids in clusters.values() for one in ids]
    write_lines("exams/parallel_questions.jsonl", pairs)
    for split in get_args(Split):
        flat, upstream = (
            records("exams", folder / "exams", split=split) for folder in (shared_data, tmp_path)
        )
        assert [(one.example_id, one.question, one.passage, one.negatives) for one in flat] == [
            (one.example_id, one.question, one.passage, one.negatives) for one in upstream
        ]
    assert load_benchmark("exams", tmp_path).fingerprint == load_benchmark("exams", shared_data).fingerprint


def test_the_whole_folder_of_ntrex_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Named as in its repository: the file of the plain code is read, second ones are left out and named."""
    codes = json.loads(Path(__file__).with_name("published_languages.json").read_text())["NTREX-128"]["codes"]
    names = [f"ref.{code}" for code in " ".join(codes).split()]
    for name in (*names, "src.eng", "ref-2.spa"):
        (tmp_path / f"newstest2019-{name}.txt").write_text(f"{name}\n")
    (tmp_path / "DOCUMENT_IDS.tsv").write_text("d\n")
    (only,) = records("ntrex", tmp_path, split="all")
    assert {code: only.question[code] for code in ("en", "en-gb", "en-in", "pt", "es", "es-mx")} == {
        "en": "src.eng", "en-gb": "ref.eng-GB", "en-in": "ref.eng-IN",
        "pt": "ref.por", "es": "ref.spa", "es-mx": "ref.spa-MX",
    }  # fmt: skip
    second = [f"newstest2019-{name}.txt" for name in ("ref-2.spa", "ref.eng-US", "ref.por-BR")]
    assert len(only.question) == len(names) + 2 - len(second)
    line = f"left out {len(second)} of languages with another: {', '.join(second)}\n"
    assert line in capsys.readouterr().err
    assert load_benchmark("ntrex", tmp_path, "all").languages == tuple(sorted(only.question))


@pytest.mark.parametrize("names", [("fi", "fin"), ("a.fin", "b.fin"), ("pt-BR", "por-BR")])
def test_two_files_that_name_a_language_equally_well_are_refused(
    names: tuple[str, str], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / f"{name}.txt").write_text("a\n")
    with pytest.raises(UserError, match="is a second file of"):
        records("ntrex", tmp_path)

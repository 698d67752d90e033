"""Leaks are found like a brute-force comparison finds them, and stay out of a corpus when asked."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.data.corpus.convert import build_corpus, overlap_text
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.data.leakage.index import OverlapIndex
from hbt_dist.data.leakage.report import find_leaks
from hbt_dist.data.leakage.shingles import Shingler, normalise
from hbt_dist.run_file import load_run

SENTENCES = {
    "en": "The old town hall on the northern bank of the river was built by a merchant in the year 1738.",
    "fi": "Joen pohjoisrannalla sijaitsevan vanhan kaupungintalon rakennutti varakas kauppias vuonna 1738 "
    "erään toisen talon viereen heti palon jälkeen.",
    "zh": "位于河北岸的旧市政厅是由一位富有的商人于一七三八年建造的，后来成为博物馆。",
    "th": "ศาลากลางเก่าบนฝั่งเหนือของแม่น้ำสร้างขึ้นโดยพ่อค้าผู้มั่งคั่งในปีนั้นและต่อมาได้กลายเป็นพิพิธภัณฑ์ของเมือง",
}


def benchmark_of(
    candidates: list[tuple[str, str]], questions: list[tuple[str, str]] | None = None, name: str = "made-up"
) -> Benchmark:
    """A benchmark of (language, text) candidates; the first candidate answers every question."""
    questions = questions or [("en", "an unrelated question?")]
    languages = tuple(sorted({code for code, _ in candidates + questions}))
    return Benchmark(
        name=name,
        variant="test",
        languages=languages,
        question_ids=[f"q{i}" for i in range(len(questions))],
        question_language=np.array([languages.index(code) for code, _ in questions], np.int32),
        question_texts=[text for _, text in questions],
        question_cluster=np.arange(len(questions)),
        candidate_ids=[f"c{i:05d}" for i in range(len(candidates))],
        candidate_language=np.array([languages.index(code) for code, _ in candidates], np.int32),
        candidate_texts=[text for _, text in candidates],
        relevant_offsets=np.arange(len(questions) + 1),
        relevant=np.zeros(len(questions), np.int64),
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("  The  QUICK, brown-fox!\n", "the quick brown fox"),
        ("\uff34\uff48\uff45 \ufb01rst", "the first"),  # full-width letters, a ligature
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
        ("हिन्दी भाषा।", "हिन्दी भाषा"),  # vowel signs belong to words
        ("STRASSE Straße", "strasse strasse"),
        ("\U0001f600 ok €5", "ok 5"),
        ("什么？", "什么"),
    ],
)
def test_normalise(text: str, wanted: str) -> None:
    assert normalise(text) == wanted


def reference_shingles(text: str, language: str) -> set[tuple[str, ...]]:
    """Shingles by definition, with another tokeniser."""
    plain = "".join(
        " " if unicodedata.category(c)[0] in "PSZC" else c
        for c in unicodedata.normalize("NFKC", text.casefold())
    )
    width = {"zh": 10, "th": 20}.get(language, 5)
    units = list(re.sub(r"\s", "", plain)) if language in ("zh", "th") else plain.split()
    return {tuple(units[i : i + width]) for i in range(len(units) - width + 1)}


@pytest.mark.parametrize("language", ["en", "fi", "zh", "th"])
def test_shingles_are_the_distinct_runs_of_units(language: str) -> None:
    texts = [SENTENCES[language], "", "short", SENTENCES[language] * 2, SENTENCES[language][:60]]
    found = Shingler()(texts, language)
    wanted = [reference_shingles(text, language) for text in texts]
    assert np.bincount(found.row, minlength=len(texts)).tolist() == [len(one) for one in wanted]
    of_row = [set(found.shingle[found.row == row].tolist()) for row in range(len(texts))]
    for a in range(len(texts)):
        for b in range(len(texts)):
            assert len(of_row[a] & of_row[b]) == len(wanted[a] & wanted[b])


def brute_force(text: str, other: str, language: str) -> tuple[bool, float]:
    """(whether they match, containment) by the documented rule, for texts of at least one shingle."""
    a, b = reference_shingles(text, language), reference_shingles(other, language)
    smaller = min(len(a), len(b))
    if normalise(text) == normalise(other):
        return bool(a), 1.0
    if not smaller:
        return False, 0.0
    share = len(a & b) / smaller
    long, short = {"zh": (15, 7), "th": (29, 13)}.get(language, (8, 4))
    return (smaller >= long and share >= 0.5) or (smaller >= short and share >= 0.8), share


@pytest.mark.slow
@pytest.mark.parametrize("language", ["en", "zh"])
def test_finds_what_brute_force_finds(language: str) -> None:
    rng = np.random.default_rng(5)
    vocabulary = [chr(0x4E00 + i) if language == "zh" else f"word{i}" for i in range(60)]
    joint = "" if language == "zh" else " "

    def draw(length: int) -> list[str]:
        return [vocabulary[i] for i in rng.integers(0, len(vocabulary), length)]

    bench = [draw(int(length)) for length in rng.integers(3, 45, 60)]
    train = [draw(int(length)) for length in rng.integers(3, 45, 60)]
    for _ in range(240):  # parts, unions and edits of benchmark texts
        units = list(bench[rng.integers(0, len(bench))])
        start = int(rng.integers(0, 4))
        units = units[start : len(units) - int(rng.integers(0, 4))]
        for _ in range(int(rng.integers(0, 4))):
            if units:
                units[int(rng.integers(0, len(units)))] = vocabulary[int(rng.integers(0, len(vocabulary)))]
        train.append(draw(int(rng.integers(0, 20))) + units + draw(int(rng.integers(0, 20))))
    bench_texts, train_texts = [joint.join(one) for one in bench], [joint.join(one) for one in train]
    benchmark = benchmark_of([(language, text) for text in bench_texts])
    found = {
        match.text: (match.row, match.containment)
        for match in OverlapIndex([benchmark]).find(train_texts, language, "passage")
    }
    assert 50 < len(found) < 250
    for number, text in enumerate(train_texts):
        wanted = [brute_force(text, other, language) for other in bench_texts]
        matching = [share for matches, share in wanted if matches]
        assert (number in found) == bool(matching), text
        if matching:
            row, containment = found[number]
            assert wanted[row] == (True, pytest.approx(containment))
            assert containment == pytest.approx(max(matching))


def found(benchmark: Benchmark, text: str, language: str, kind: str) -> list[tuple[str, bool]]:
    matches = OverlapIndex([benchmark]).find([text], language, kind)  # type: ignore[arg-type]
    return [(match.kind, match.exact) for match in matches]


def test_short_texts_count_only_between_questions() -> None:
    benchmark = benchmark_of([("en", "New York"), ("en", SENTENCES["en"])], [("en", "Where is Turku?")])
    assert found(benchmark, "where is  TURKU", "en", "question") == [("question", True)]
    assert found(benchmark, "where is Turku", "en", "passage") == []
    assert found(benchmark, "New York!", "en", "passage") == []
    assert found(benchmark, SENTENCES["en"].upper(), "en", "passage") == [("passage", True)]
    assert found(benchmark, SENTENCES["en"], "fi", "passage") == []
    assert found(benchmark, SENTENCES["en"], "xx", "passage") == []


@pytest.mark.parametrize("language", ["en", "fi", "zh", "th"])
def test_a_sentence_inside_a_passage(language: str) -> None:
    sentence = SENTENCES[language]
    benchmark = benchmark_of([(language, sentence)], [(language, "?")])
    passage = f"Something else comes first. {sentence.swapcase()} And more follows, and more."
    assert found(benchmark, passage, language, "passage") == [("passage", False)]
    assert (
        found(
            benchmark,
            "Nothing of the kind, at all, in this text of more than twelve words here",
            "en",
            "passage",
        )
        == []
    )


def test_templates_match_only_exactly() -> None:
    texts = [("en", SENTENCES["en"])]
    near = SENTENCES["en"].replace("1738", "1838")
    assert found(benchmark_of(texts), near, "en", "passage") == [("passage", False)]
    assert found(benchmark_of(texts, name="sample"), near, "en", "passage") == []
    assert found(benchmark_of(texts, name="sample"), texts[0][1], "en", "passage") == [("passage", True)]


def own_benchmark(folder: Path) -> Path:
    """A benchmark folder with the sentences as candidates."""
    folder.mkdir(exist_ok=True)
    rows = [{"id": "c1", "language": code, "text": text} for code, text in SENTENCES.items()]
    (folder / "candidates.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    question = {"id": "q1", "language": "en", "text": "Who built the hall?", "relevant": ["c1"]}
    (folder / "questions.jsonl").write_text(json.dumps(question) + "\n", "utf-8")
    return folder


@pytest.fixture
def leaky(tmp_path: Path, make_example: Callable[..., Any], write_lines: Callable[..., Path]) -> Path:
    """Ten examples: 2 leaks its Finnish passage, 5 its question, 7 a negative."""
    rows = [make_example(number) for number in range(10)]
    rows[2]["passage"]["fi"] = f"Alku. {SENTENCES['fi'].lower()} Loppu."
    rows[5]["question"]["en"] = "who built THE hall"
    rows[7]["negatives"] = [
        {"id": "n1", "text": {"en": SENTENCES["en"], "fi": "muu"}},
        {"id": "n2", "text": {"en": "fine", "fi": "hyvä"}},
    ]
    return write_lines("train.jsonl", rows)


def settings(path: Path, benchmark: Path | None) -> DataSettings:
    exclude = () if benchmark is None else (BenchmarkSettings(name="jsonl", data_dir=str(benchmark)),)
    return DataSettings(
        sources=[{"name": "one", "format": "jsonl", "path": str(path)}],  # type: ignore[arg-type]
        exclude_overlap_with=exclude,
    )


def ids(corpus: Corpus) -> list[str]:
    return [corpus.example_id(row) for row in range(corpus.num_examples)]


def test_report_of_a_corpus(tmp_path: Path, leaky: Path) -> None:
    corpus = build_corpus(settings(leaky, None), tmp_path / "cache")
    benchmark = load_benchmark("jsonl", own_benchmark(tmp_path / "own"))
    report = find_leaks(corpus, [benchmark], ["mine"])
    assert report.examples.tolist() == [2, 5]
    assert [corpus.passage_id(row) for row in report.passages.tolist()] == [corpus.passage_id(2), "n1"]
    assert report.counts == {"one": {"mine": 2}}
    assert {(leak.kind, leak.row, leak.language, leak.exact) for leak in report.leaks} == {
        ("passage", 2, "fi", False),
        ("passage", int(report.passages[1]), "en", True),
        ("question", 5, "en", True),
    }
    leak = next(leak for leak in report.leaks if leak.kind == "question")
    assert (leak.benchmark, leak.benchmark_kind, leak.benchmark_id) == ("mine", "question", "q1")
    text = report.text()
    assert text.startswith("2 of 10 examples repeat a benchmark (2 passages)")
    assert "one: 2 like mine" in text
    assert "same text: 'who built THE hall'" in text
    clean = find_leaks(corpus, [benchmark_of([("en", "x")])])
    assert clean.text() == "no training text of 10 examples matches a benchmark"
    assert not len(clean.examples)


def test_excluded_from_a_corpus(tmp_path: Path, leaky: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = own_benchmark(tmp_path / "own")
    whole = build_corpus(settings(leaky, None), tmp_path / "cache")
    corpus = build_corpus(settings(leaky, folder), tmp_path / "cache")
    line = "one: dropped 2 examples that repeat a benchmark (2 like own), and 1 hard negative"
    assert line in capfd.readouterr().err
    assert overlap_text(corpus) == line
    assert overlap_text(whole) == ""
    assert ids(corpus) == [one for one in ids(whole) if one not in ("q2", "q5")]
    assert whole.negatives[:].size == 2
    assert [corpus.passage_id(row) for row in corpus.negatives.tolist()] == ["n2"]
    assert corpus.fingerprint != whole.fingerprint
    assert corpus.manifest["statistics"][0]["dropped"] == 0
    assert not find_leaks(corpus, [load_benchmark("jsonl", folder)]).leaks
    # The same again is found again; another content of the benchmark is another corpus.
    assert build_corpus(settings(leaky, folder), tmp_path / "cache").fingerprint == corpus.fingerprint
    assert capfd.readouterr().err == ""
    (folder / "candidates.jsonl").write_text('{"id": "c1", "language": "en", "text": "other"}\n', "utf-8")
    changed = build_corpus(settings(leaky, folder), tmp_path / "cache")
    assert changed.fingerprint != corpus.fingerprint
    assert len(ids(changed)) == 9


def test_a_source_of_nothing_but_leaks_is_refused(
    tmp_path: Path, make_example: Callable[..., Any], write_lines: Callable[..., Path]
) -> None:
    path = write_lines("train.jsonl", [make_example(1, question={"en": "who built the hall", "fi": "kuka"})])
    with pytest.raises(UserError, match="every example repeats a text of a benchmark"):
        build_corpus(settings(path, own_benchmark(tmp_path / "own")), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("corpus-*/manifest.json"))


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [({"name": "xquad"}, "no such benchmark"), ({"name": "jsonl", "data_dir": "/nowhere"}, "no such folder")],
)
def test_unknown_benchmarks_are_refused(
    tmp_path: Path, leaky: Path, benchmark: dict[str, str], message: str
) -> None:
    wrong = settings(leaky, None).model_copy(
        update={"exclude_overlap_with": (BenchmarkSettings(**benchmark),)}  # type: ignore[arg-type]
    )
    with pytest.raises(UserError, match=message):
        build_corpus(wrong, tmp_path / "cache")


def test_a_beir_folder_is_kept_out_in_the_language_it_is_given(
    tmp_path: Path, leaky: Path, write_lines: Callable[..., Path]
) -> None:
    write_lines("beir/corpus.jsonl", [{"_id": "d1", "title": "", "text": SENTENCES["fi"]}])
    write_lines("beir/queries.jsonl", [{"_id": "1", "text": "which"}])
    write_lines("beir/qrels/test.tsv", ["1\td1\t1"])
    folders = set()
    for language, number in (("fi", 9), ("sv", 10)):
        benchmark = BenchmarkSettings(name="beir", data_dir=str(tmp_path / "beir"), languages=(language,))
        data = settings(leaky, None).model_copy(update={"exclude_overlap_with": (benchmark,)})
        corpus = build_corpus(data, tmp_path / "cache")
        assert corpus.num_examples == number
        folders.add(corpus.folder)
    assert len(folders) == 2


def test_the_run_file_names_benchmarks_to_keep_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = load_run("quickstart", ["data.exclude_overlap_with=[{name: jsonl, data_dir: own}, {name: sample}]"])
    first, second = run.data.exclude_overlap_with
    assert first.data_dir == str(tmp_path / "own")
    assert (second.name, second.data_dir) == ("sample", None)


def test_the_sample_does_not_leak_into_its_benchmark(tmp_path: Path) -> None:
    data = DataSettings(
        sources=[{"name": "sample", "format": "sample"}],  # type: ignore[arg-type]
        languages=("en", "fi"),
        exclude_overlap_with=(BenchmarkSettings(name="sample"),),
    )
    corpus = build_corpus(data, tmp_path / "cache")
    assert corpus.manifest["statistics"][0]["overlap"]["examples"] == 0


def test_benchmark_paragraphs_are_found_and_squad_is_clean(
    shared_data: Path, write_lines: Callable[..., Path], tmp_path: Path
) -> None:
    paragraphs = [
        paragraph["context"]
        for article in json.loads((shared_data / "xquad-r" / "en.json").read_text("utf-8"))["data"]
        for paragraph in article["paragraphs"]
    ]
    benchmark = load_benchmark("xquad-r", shared_data, languages=["en"])
    index = OverlapIndex([benchmark])
    hit = {match.text for match in index.find(paragraphs, "en", "passage")}
    assert hit == set(range(240))
    edited = [" ".join(word for i, word in enumerate(text.split()) if i % 17) for text in paragraphs]
    assert len({match.text for match in index.find(edited, "en", "passage")}) == 240
    corpus = build_corpus(
        DataSettings(
            sources=[
                {
                    "name": "squad",
                    "format": "squad-parallel",
                    "path": str(shared_data / "squad-en-fi"),
                    "languages": ["en"],
                    "limit": 4_000,
                }
            ],  # type: ignore[arg-type]
        ),
        tmp_path / "cache",
    )
    assert len(find_leaks(corpus, [benchmark]).examples) <= 2

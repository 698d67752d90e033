from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.data.benchmarks.registry import BENCHMARKS
from tests.helpers.language_subset import select_languages

Write = Callable[[str, Iterable[object]], Path]

XQUAD_R = {
    "ar": 1222,
    "de": 1276,
    "el": 1234,
    "en": 1180,
    "es": 1215,
    "hi": 1244,
    "ru": 1219,
    "th": 852,
    "tr": 1167,
    "vi": 1209,
    "zh": 1196,
}
MLQA_R = {"ar": 2545, "de": 2362, "en": 6264, "es": 1787, "hi": 2426, "vi": 2828, "zh": 2322}
MLQA_R_PAIRS = """
 517 207  517 161 186 163 188
 207 512  512 196 163 182 190
 517 512 1148 500 507 511 504
 161 196  500 500 187 189 161
 186 163  507 187 507 177 189
 163 182  511 189 177 511 184
 188 190  504 161 189 184 504
"""


def candidates_by_language(benchmark: Benchmark) -> dict[str, int]:
    counts = np.bincount(benchmark.candidate_language, minlength=len(benchmark.languages))
    return dict(zip(benchmark.languages, counts.tolist(), strict=True))


def check_order(benchmark: Benchmark) -> None:
    """Rows go by language; inside a language the order of ids is the order of rows."""
    assert (np.diff(benchmark.candidate_language) >= 0).all()
    assert (np.diff(benchmark.question_language) >= 0).all()
    ids = list(zip(benchmark.candidate_language.tolist(), benchmark.candidate_ids, strict=True))
    assert ids == sorted(ids)


def reference_lareqa(folder: Path) -> tuple[dict[tuple[str, str], str], dict[tuple[str, str], str]]:
    """The answering sentence and the question text of (id, language), straight from the published rule."""
    sentence, question = {}, {}
    for path in folder.glob("*.json"):
        for article in json.loads(path.read_text())["data"]:
            for p in article["paragraphs"]:
                for x in p["qas"]:
                    a = x["answers"][0]["answer_start"]
                    i = next(i for i, (b, e) in enumerate(p["sentence_breaks"]) if b <= a < e)
                    sentence[x["id"], path.stem] = p["sentences"][i]
                    question[x["id"], path.stem] = x["question"]
    return sentence, question


@pytest.mark.parametrize(
    ("name", "questions", "candidates", "clusters"),
    [("xquad-r", 13_090, XQUAD_R, 240), ("mlqa-r", 4_199, MLQA_R, None)],
)
def test_lareqa(
    shared_data: Path, name: str, questions: int, candidates: dict[str, int], clusters: int | None
) -> None:
    benchmark = load_benchmark(name, shared_data)
    assert benchmark.num_questions == questions
    assert candidates_by_language(benchmark) == candidates
    assert benchmark.num_candidates == sum(candidates.values())
    check_order(benchmark)
    sentence, question = reference_lareqa(shared_data / name)
    languages = {}
    for question_id, language in sentence:
        languages.setdefault(question_id, set()).add(language)
    for row, question_id in enumerate(benchmark.question_ids):
        language = benchmark.languages[benchmark.question_language[row]]
        assert benchmark.question_texts[row] == question[question_id, language]
        rows = benchmark.relevant_of(row).tolist()
        found = {
            benchmark.languages[benchmark.candidate_language[r]]: benchmark.candidate_texts[r] for r in rows
        }
        assert len(found) == len(rows)
        assert found == {one: sentence[question_id, one] for one in languages[question_id]}
    if clusters is not None:
        assert set(np.bincount(benchmark.question_cluster)) >= {11}
        assert benchmark.question_cluster.max() + 1 == clusters


def test_mlqa_r_denominators(shared_data: Path) -> None:
    benchmark = load_benchmark("mlqa-r", shared_data)
    wanted = np.array([line.split() for line in MLQA_R_PAIRS.split("\n") if line], int)
    np.testing.assert_array_equal(benchmark.pair_counts(), wanted)
    per_id = np.unique(np.unique(benchmark.question_ids, return_counts=True)[1], return_counts=True)
    assert dict(zip(*(one.tolist() for one in per_id), strict=True)) == {4: 820, 3: 263, 2: 65}


def test_candidate_text_variants(shared_data: Path) -> None:
    plain = load_benchmark("xquad-r", shared_data, languages=["th", "en"])
    within = load_benchmark("xquad-r", shared_data / "xquad-r", "sentence+context", ["th", "en"])
    assert plain.languages == within.languages == ("th", "en")
    assert (plain.variant, within.variant) == ("sentence", "sentence+context")
    assert list(plain.candidate_ids) == list(within.candidate_ids)
    assert plain.fingerprint != within.fingerprint
    np.testing.assert_array_equal(plain.relevant, within.relevant)
    for short, long in list(zip(plain.candidate_texts, within.candidate_texts, strict=True))[::50]:
        assert long.startswith(" ".join(short.splitlines()) + " ")
        assert len(long) > len(short)
        assert "\n" not in long


def test_languages_select_a_part_of_the_whole(shared_data: Path) -> None:
    whole = load_benchmark("mlqa-r", shared_data)
    part = load_benchmark("mlqa-r", shared_data, languages=["vi", "ar"])
    cut = select_languages(whole, ("vi", "ar"))
    assert part.num_questions == 511 + 517
    assert part.pair_counts().tolist() == [[511, 163], [163, 517]]
    for name in ("question_ids", "question_texts", "candidate_ids", "candidate_texts"):
        assert list(getattr(part, name)) == list(getattr(cut, name))
    for name in ("question_language", "candidate_language", "relevant_offsets", "relevant"):
        np.testing.assert_array_equal(getattr(part, name), getattr(cut, name))


@pytest.mark.parametrize(
    ("name", "variant", "questions", "candidates", "languages", "relevant"),
    [
        ("squad-parallel", "eval", 2 * 4_135, 2 * 649, 2, 2),
        ("mkqa", "eval", 12 * 1_758, 12 * 1_758, 12, 12),
        ("ntrex", "eval", 20 * 621, 20 * 621, 20, 20),
        ("ntrex", "all", 20 * 1_997, 20 * 1_997, 20, 20),
    ],
)
def test_parallel_sets(
    shared_data: Path, name: str, variant: str, questions: int, candidates: int, languages: int, relevant: int
) -> None:
    benchmark = load_benchmark(name, shared_data, variant)
    assert (benchmark.num_questions, benchmark.num_candidates) == (questions, candidates)
    assert len(benchmark.languages) == languages
    assert set(np.diff(benchmark.relevant_offsets).tolist()) == {relevant}
    assert (benchmark.pair_counts() == questions // languages).all()
    assert benchmark.question_text_relevant == (name != "squad-parallel")
    check_order(benchmark)


def test_exams(shared_data: Path) -> None:
    benchmark = load_benchmark("exams", shared_data)
    assert benchmark.num_questions == 2_672
    assert benchmark.pair_counts().diagonal().tolist() == [
        365,
        335,
        263,
        156,
        265,
        246,
        115,
        185,
        197,
        240,
        305,
    ]
    texts = list(
        zip(benchmark.candidate_language.tolist(), map(str.split, benchmark.candidate_texts), strict=True)
    )
    assert len({(language, *words) for language, words in texts}) == benchmark.num_candidates
    check_order(benchmark)


def test_sample() -> None:
    benchmark = load_benchmark("sample")
    assert {"fi", "et", "hu"} <= set(benchmark.languages)
    part = load_benchmark("sample", languages=["hu", "en"])
    assert part.languages == ("hu", "en")
    assert part.num_questions * len(benchmark.languages) == benchmark.num_questions * 2
    check_order(part)
    with pytest.raises(UserError, match="no language km"):
        load_benchmark("sample", languages=["km"])


QUESTIONS: list[dict[str, Any]] = [
    {"id": "q1", "language": "en", "text": "where is Turku"},
    {"id": "q1", "language": "fin", "text": "missä on Turku", "cluster": "towns"},
    {"id": "q2", "language": "fi", "text": "missä on Tartto", "relevant": ["p2"], "cluster": "towns"},
]
CANDIDATES: list[dict[str, Any]] = [
    {"id": "p9", "language": "en", "text": "Turku is in Finland"},
    {"id": "p9", "language": "fi", "text": "Turku on Suomessa"},
    {"id": "p2", "language": "et", "text": "Tartu on Eestis"},
    {"id": "p1", "language": "fi", "text": "Tartto on Virossa"},
]


@pytest.fixture
def own(write_lines: Write, tmp_path: Path) -> Callable[..., Benchmark]:
    def load(
        questions: list[Any] = QUESTIONS,
        candidates: list[Any] = CANDIDATES,
        qrels: str | None = "q1\tp9\t1\nq2\tp1\t2\nq2\tp9\t0",
        languages: list[str] | None = None,
    ) -> Benchmark:
        write_lines("own/questions.jsonl", questions)
        write_lines("own/candidates.jsonl", candidates)
        if qrels is not None:
            (tmp_path / "own" / "qrels.tsv").write_text(qrels)
        return load_benchmark("jsonl", tmp_path / "own", languages=languages)

    return load


def test_own_jsonl(own: Callable[..., Benchmark]) -> None:
    benchmark = own()
    assert benchmark.languages == ("en", "et", "fi")
    assert list(benchmark.question_ids) == ["q1", "q1", "q2"]
    assert benchmark.question_language.tolist() == [0, 2, 2]
    assert list(benchmark.candidate_ids) == ["en_p9", "et_p2", "fi_p1", "fi_p9"]
    assert [benchmark.relevant_of(row).tolist() for row in range(3)] == [[0, 3], [0, 3], [1, 2]]
    assert benchmark.question_cluster.tolist() == [0, 0, 0]
    assert benchmark.pair_counts().tolist() == [[1, 0, 1], [0, 0, 0], [1, 1, 2]]
    part = own(languages=["fi"])
    assert part.num_questions == 2
    assert list(part.candidate_ids) == ["fi_p1", "fi_p9"]
    assert [part.relevant_of(row).tolist() for row in range(2)] == [[1], [0]]
    only_list = own(questions=QUESTIONS[2:], qrels="query-id\tcorpus-id\tscore\n")
    assert only_list.relevant.tolist() == [1]


def test_grades(own: Callable[..., Benchmark]) -> None:
    """From the qrels and a question's line; the higher of two counts, all languages of an item have it."""
    assert own().grades.tolist() == [1, 1, 1, 1, 1, 2]
    graded = [QUESTIONS[0] | {"relevant": {"p9": 3, "p2": 0, "p1": 0.5}}, *QUESTIONS[1:]]
    qrels = "q1\tp9\t2\nq1\tp2\t4\nq2\tp1\t1"
    benchmark = own(graded, qrels=qrels)
    assert [benchmark.relevant_of(row).tolist() for row in range(3)] == [[0, 1, 2, 3], [0, 1, 2, 3], [1, 2]]
    assert benchmark.grades.tolist() == [3, 4, 0.5, 3, 3, 4, 0.5, 3, 1, 1]
    part, read = select_languages(benchmark, ("fi", "en")), own(graded, qrels=qrels, languages=["fi", "en"])
    assert part.grades.tolist() == read.grades.tolist() == [0.5, 3, 3, 1, 0.5, 3, 3]
    assert part.relevant.tolist() == read.relevant.tolist()
    assert part.fingerprint == read.fingerprint
    assert own(qrels="q1 p9 2\nq2 p1 1").fingerprint != own(qrels="q1 p9 1\nq2 p1 1").fingerprint


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"questions": [*QUESTIONS, QUESTIONS[0]]}, "question 'q1' occurs twice in 'en'"),
        ({"candidates": [*CANDIDATES, CANDIDATES[0]]}, "candidate 'p9' occurs twice in 'en'"),
        ({"qrels": "q1\tp7\t1\n"}, "relevant candidate 'p7' is not in the pool"),
        ({"qrels": "q7\tp9\t1\n"}, "question 'q7' is not among the questions"),
        ({"qrels": "q1\tp9\n"}, "qrels.tsv line 1: has 2 columns"),
        ({"qrels": "a\tb\tc\nq1\tp9\tyes\n"}, "line 2: the grade 'yes' is not a number"),
        ({"qrels": "q2\tp9\t1\n"}, "question 'q1' in 'en' has no relevant candidate"),
        ({"questions": []}, "the file is empty"),
        ({"candidates": [{"id": "a", "text": "x"}]}, "field 'language' is missing"),
        ({"candidates": [{"id": "a", "language": 3, "text": "x"}]}, "a language code is a number"),
        (
            {"candidates": [{"id": "a", "language": "en", "text": ""}]},
            "'a' is empty\n.*\n.*judgements: as_published",
        ),
        ({"questions": [QUESTIONS[0] | {"relevant": "p9"}]}, "field 'relevant' is a string"),
        ({"questions": [QUESTIONS[0] | {"relevant": [9.5]}]}, r"relevant\[0\] is a number"),
        ({"questions": [QUESTIONS[0] | {"relevant": {"p9": "2"}}]}, "the grade of 'p9' is a string"),
        ({"questions": [QUESTIONS[0] | {"relevant": {"p9": True}}]}, "the grade of 'p9' is"),
        ({"questions": [QUESTIONS[0] | {"relevant": {"p9": float("nan")}}]}, "nan|NaN"),
        ({"qrels": "q1\tp9\t1\nq1\tp9\tinf\n"}, "line 2: the grade 'inf' is not a number"),
        (
            {"languages": ["en", "de"]},
            r"neither question nor candidate in 'de'\s+choose from its languages: en",
        ),
        ({"languages": ["et"]}, "0 questions"),
        ({"languages": ["xx1"]}, "not a language code"),
        ({"languages": []}, "list of languages is empty"),
    ],
)
def test_bad_own_jsonl(own: Callable[..., Benchmark], changes: dict[str, Any], found: str) -> None:
    with pytest.raises(UserError, match=found):
        own(**changes)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"candidate_ids": ["a", "a", "b", "c"]}, "candidate id 'a' occurs twice"),
        ({"question_ids": ["q1", "q2", "q2"]}, "question 'q2' occurs twice in 'fi'"),
        ({"relevant_offsets": np.array([0, 2, 2, 6])}, "'q1' in 'fi' has no relevant"),
        ({"relevant": np.array([0, 3, 0, 4, 1, 2])}, "not in the pool"),
        ({"relevant": np.array([0, 3, 3, 0, 1, 2])}, "not ascending"),
        ({"relevant": np.array([0])}, "relevant has 1 entries"),
        ({"grades": np.ones(5)}, "grades has 5 entries"),
        ({"grades": np.array([1.0, 1, 0, 1, 1, 1])}, "grade is not a number above 0"),
        ({"candidate_texts": ["x"]}, "candidate_texts has 1 entries"),
        ({"languages": ("en", "et", "fi", "sv")}, "no question and no candidate in sv"),
        ({"languages": ("en", "et")}, "outside the list"),
    ],
)
def test_impossible_benchmarks(own: Callable[..., Benchmark], changes: dict[str, Any], found: str) -> None:
    with pytest.raises(UserError, match=found):
        replace(own(), **changes)


def test_the_fingerprint_is_that_of_the_content(own: Callable[..., Benchmark]) -> None:
    first = own()
    assert own().fingerprint == first.fingerprint
    assert own(candidates=CANDIDATES[::-1]).fingerprint == first.fingerprint  # rows are sorted by id
    assert own(qrels="q1\tp9\t1\nq2\tp1\t1\nq2\tp9\t1").fingerprint != first.fingerprint
    changed = [*CANDIDATES[:-1], CANDIDATES[-1] | {"text": "Tartto on Virossa."}]
    assert own(candidates=changed).fingerprint != first.fingerprint


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such benchmark"):
        load_benchmark("xquad", tmp_path)
    with pytest.raises(UserError, match="no variant 'paragraph'"):
        load_benchmark("xquad-r", tmp_path, "paragraph")
    with pytest.raises(UserError, match="no data folder is given"):
        load_benchmark("xquad-r")
    with pytest.raises(UserError, match="no such folder"):
        load_benchmark("xquad-r", tmp_path / "nowhere")
    for name in BENCHMARKS.keys() - {"sample"}:
        with pytest.raises(UserError, match=r"holds n|check the folder"):
            load_benchmark(name, tmp_path)


def test_lareqa_files_that_cannot_be(tmp_path: Path) -> None:
    def refused(found: str, **changes: Any) -> None:
        question = {"id": "q", "question": "who", "answers": [{"text": "Ada", "answer_start": 4}]}
        paragraph = {"context": "It: Ada.", "sentences": ["It:", "Ada."], "sentence_breaks": [[0, 3], [4, 8]]}
        paragraph |= {"qas": [question | changes.pop("question", {})]} | changes
        (tmp_path / "en.json").write_text(json.dumps({"data": [{"paragraphs": [paragraph]}]}))
        with pytest.raises(UserError, match=found):
            load_benchmark("xquad-r", tmp_path)

    refused("2 sentences but 1 sentence_breaks", sentence_breaks=[[0, 3]])
    refused("is not a pair of whole numbers", sentence_breaks=[[0, 3], [4]])
    refused("outside its context of 8 characters", sentence_breaks=[[0, 3], [4, 9]])
    refused("field 'sentences' is null", sentences=None)
    refused("outside its context", question={"answers": [{"text": "Ada", "answer_start": 99}]})
    refused("outside every sentence", sentence_breaks=[[0, 3], [5, 8]])
    refused("has no answer", question={"answers": []})


def test_tatoeba(tmp_path: Path) -> None:
    (tmp_path / "tatoeba.fin-eng.fin").write_text("yksi\nkaksi\n")
    (tmp_path / "tatoeba.fin-eng.eng").write_text("one\ntwo\n")
    (tmp_path / "tatoeba.est-eng.est").write_text("üks\n")
    (tmp_path / "tatoeba.est-eng.eng").write_text("one\n")
    benchmark = load_benchmark("tatoeba", tmp_path)
    assert benchmark.languages == ("en", "et", "fi")
    assert benchmark.pair_counts().tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 0]]
    assert benchmark.candidate_texts[int(benchmark.relevant_of(2)[0])] == "kaksi"
    assert load_benchmark("tatoeba", tmp_path, languages=["en", "et"]).num_questions == 1
    (tmp_path / "tatoeba.est-eng.eng").write_text("one\ntwo\n")
    with pytest.raises(UserError, match=r"has 1 lines, tatoeba\.est-eng\.eng has 2"):
        load_benchmark("tatoeba", tmp_path)
    (tmp_path / "tatoeba.nolanguage-eng.eng").write_text("one\n")
    with pytest.raises(UserError, match="'nolanguage' is not a language code"):
        load_benchmark("tatoeba", tmp_path)


def test_beir(write_lines: Write, tmp_path: Path) -> None:
    for language, text in (("en", "Finland"), ("fi", "Suomi")):
        write_lines(
            f"{language}/corpus.jsonl.gz",
            [{"_id": "d1", "title": "T", "text": text}, {"_id": "d2", "text": "x"}],
        )
        write_lines(
            f"{language}/queries.jsonl",
            [{"_id": "1", "text": f"where {text}"}, {"_id": "2", "text": "train"}],
        )
        write_lines(f"{language}/qrels/test.tsv", ["query-id\tcorpus-id\tscore", "1\td1\t3", "1\td2\t0"])
    separate = load_benchmark("beir", tmp_path)
    assert separate.grades.tolist() == [3, 3]
    assert separate.pair_counts().tolist() == [[1, 0], [0, 1]]
    assert separate.candidate_texts[0] == "T Finland"
    parallel = load_benchmark("beir", tmp_path, "parallel")
    assert parallel.pair_counts().tolist() == [[1, 1], [1, 1]]
    with pytest.raises(UserError, match="has no 'sv'"):
        load_benchmark("beir", tmp_path, languages=["sv"])


def test_beir_of_one_language(write_lines: Write, tmp_path: Path) -> None:
    """A data set as BEIR's downloads have it, with the files at the top of its folder."""
    write_lines(
        "nfcorpus/corpus.jsonl", [{"_id": "d1", "title": "T", "text": "one"}, {"_id": "d2", "text": "x"}]
    )
    write_lines("nfcorpus/queries.jsonl", [{"_id": "1", "text": "which"}])
    write_lines("nfcorpus/qrels/test.tsv", ["query-id\tcorpus-id\tscore", "1\td1\t1"])
    folder = tmp_path / "nfcorpus"
    benchmark = load_benchmark("beir", folder, languages=["eng"])
    assert benchmark.languages == ("en",)
    assert list(benchmark.candidate_texts) == ["T one", "x"]
    assert benchmark.pair_counts().tolist() == [[1]]
    with pytest.raises(
        UserError, match=r"no language is named\s+name the language of its texts: --languages en"
    ):
        load_benchmark("beir", folder)
    with pytest.raises(UserError, match="2 languages are named"):
        load_benchmark("beir", folder, languages=["en", "fi"])


def test_miracl(write_lines: Write, tmp_path: Path) -> None:
    for language in ("fi", "sw"):
        stem = f"miracl/miracl-v1.0-{language}"
        write_lines(f"{stem}/topics/topics.miracl-v1.0-{language}-dev.tsv", ["7\tmikä", "8\tmissä"])
        write_lines(
            f"{stem}/qrels/qrels.miracl-v1.0-{language}-dev.tsv",
            ["7 Q0 1#0 1", "8\tQ0\t1#1\t1", "8\tQ0\t1#0\t0"],
        )
        docs = [{"docid": f"1#{i}", "title": "T", "text": f"{language} {i}"} for i in range(2)]
        write_lines(f"miracl/miracl-corpus-v1.0-{language}/docs-0.jsonl.gz", docs)
    benchmark = load_benchmark("miracl", tmp_path)
    assert benchmark.pair_counts().tolist() == [[2, 0], [0, 2]]
    assert list(benchmark.candidate_ids[:2]) == ["fi_1#0", "fi_1#1"]
    assert benchmark.relevant.tolist() == [0, 1, 2, 3]
    assert load_benchmark("miracl", tmp_path, languages=["sw"]).candidate_texts[1] == "T sw 1"
    with pytest.raises(UserError, match=r"miracl-v1\.0-fi-testA\.tsv: there is no such file"):
        load_benchmark("miracl", tmp_path, "testA")


def test_belebele(write_lines: Write, tmp_path: Path) -> None:
    for language in ("fin_Latn", "zho_Hant"):
        rows = [
            {
                "link": link,
                "question_number": number,
                "flores_passage": f"{language} {link}",
                "question": f"{number}?",
            }
            for link, number in (("u1", 1), ("u1", 2), ("u2", 1))
        ]
        write_lines(f"{language}.jsonl", rows)
    benchmark = load_benchmark("belebele", tmp_path)
    assert benchmark.languages == ("fi", "zh-hant")
    assert (benchmark.num_questions, benchmark.num_candidates) == (6, 4)
    assert benchmark.question_cluster.tolist() == [0, 0, 1, 0, 0, 1]
    assert benchmark.relevant_of(4).tolist() == [0, 2]


def test_mewsli_x(write_lines: Write, tmp_path: Path) -> None:
    entity = {
        "entity_id": "Q1757",
        "description_language": "id",
        "description": "Helsinki\nadalah  kota.",
        "title": "H",
    }
    text = "Strike {now}. In Helsinki, buses stop."
    context = {"document_id": "en-1", "language": "en", "text": text}
    context["sentence_spans"] = [{"start": 0, "end": 13}, {"start": 14, "end": 38}]  # type: ignore[assignment]
    mention = {
        "example_id": "m1",
        "entity_id": "Q1757",
        "mention_span": {"start": 17, "end": 25, "text": "Helsinki"},
    }
    write_lines("candidate_set_entities.jsonl", [entity])
    write_lines("wikinews_mentions-test.jsonl", [{"context": context, "mentions": [mention]}])
    benchmark = load_benchmark("mewsli-x", tmp_path)
    assert benchmark.languages == ("en", "id")
    assert benchmark.question_texts[0] == "Helsinki: In { Helsinki } , buses stop."
    assert benchmark.candidate_texts[0] == "Helsinki adalah kota."
    write_lines("wikinews_mentions-test.jsonl", [{"context": context | {"text": ""}, "mentions": [mention]}])
    with pytest.raises(UserError, match="restore the texts"):
        load_benchmark("mewsli-x", tmp_path)
    mention["mention_span"] = {"start": 17, "end": 250}
    write_lines("wikinews_mentions-test.jsonl", [{"context": context, "mentions": [mention]}])
    with pytest.raises(UserError, match="span 17 to 250 is outside"):
        load_benchmark("mewsli-x", tmp_path)

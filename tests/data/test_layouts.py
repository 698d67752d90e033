"""Collections at toy size, each exactly in the form in which it is published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.data.benchmarks.registry import BENCHMARKS
from tests.helpers.published import Toy, write_hub, write_lines, write_parquet

FI = Toy(
    {
        "1#0": ("Turku", "Turku on kaupunki."),
        "1#1": ("", "Aura on joki."),
        "2#0": ("Oulu", "Oulu on pohjoisessa."),
    },
    {"1": "Missä Turku on?", "2": "Mikä on Aura?"},
    [("1", "1#0", 1), ("2", "1#1", 2), ("2", "2#0", 0)],
)
SW = Toy(
    {"9#0": ("Nairobi", "Nairobi ni mji."), "9#1": ("", "Tana ni mto.")},
    {"1": "Nairobi ni nini?"},
    [("1", "9#0", 1)],
)


def relevance(benchmark: Benchmark) -> dict[str, dict[str, float]]:
    """Return question and language -> id of a relevant candidate -> grade."""
    ids, offsets = benchmark.relevant_ids(), benchmark.relevant_offsets
    return {
        f"{question} {benchmark.languages[language]}": dict(
            zip(
                ids[slice(*offsets[row : row + 2])],
                benchmark.grades[slice(*offsets[row : row + 2])],
                strict=True,
            )
        )
        for row, (question, language) in enumerate(
            zip(benchmark.question_ids, benchmark.question_language.tolist(), strict=True)
        )
    }


MONOLINGUAL = {"fi:1 fi": {"fi_1#0": 1}, "fi:2 fi": {"fi_1#1": 2}, "sw:1 sw": {"sw_9#0": 1}}


def text_of(benchmark: Benchmark, candidate: str) -> str:
    return benchmark.candidate_texts[list(benchmark.candidate_ids).index(candidate)]


def of_beir(folder: Path, toy: Toy, splits: tuple[str, ...] = ("test",), ending: str = ".jsonl") -> None:
    """BEIR's download: queries of all splits, and the judgements of each."""
    documents = [
        {"_id": i, "title": title, "text": text, "metadata": {}} for i, (title, text) in toy.documents.items()
    ]
    write_lines(folder / f"corpus{ending}", documents)
    write_lines(folder / f"queries{ending}", [{"_id": i, "text": text} for i, text in toy.questions.items()])
    for split in splits:
        lines = ["\t".join(map(str, row)) for row in toy.judged]
        write_lines(folder / f"qrels/{split}.tsv", ["query-id\tcorpus-id\tscore", *lines])


def of_beir_on_the_hub(folder: Path, toy: Toy) -> None:
    """BeIR/name with Parquet, and BeIR/name-qrels."""
    write_parquet(
        folder / "corpus/corpus-00000-of-00001.parquet",
        [{"_id": i, "title": title, "text": text} for i, (title, text) in toy.documents.items()],
    )
    write_parquet(
        folder / "queries/queries-00000-of-00001.parquet",
        [{"_id": i, "title": "", "text": text} for i, text in toy.questions.items()],
    )
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in toy.judged)]
    write_lines(folder.with_name(f"{folder.name}-qrels") / "test.tsv", lines)


def without_titles(toy: Toy, folder: Path) -> None:
    """Numbers as ids, no titles, several files of a table, as some tasks of MTEB have them."""
    documents = list(toy.documents.values())
    for part in (0, 1):
        rows = [{"id": n, "text": text} for n, (_, text) in enumerate(documents) if n % 2 == part]
        write_parquet(folder / f"corpus/test-0000{part}-of-00002.parquet", rows)
    questions = [{"id": n, "text": text} for n, text in enumerate(toy.questions.values())]
    write_parquet(folder / "queries/test-00000-of-00001.parquet", questions)
    judged = [{"query-id": 0, "corpus-id": 2, "score": 1}, {"query-id": 1, "corpus-id": 0, "score": 3}]
    write_parquet(folder / "qrels/test-00000-of-00001.parquet", judged)


ONE_LANGUAGE: dict[str, Callable[[Path], object]] = {
    "beir": lambda folder: of_beir(folder, FI, ("dev", "test", "train")),
    "beir, compressed": lambda folder: of_beir(folder, FI, ending=".jsonl.gz"),
    "hub, mteb": lambda folder: write_hub(folder, {"default": FI}),
    "hub, mteb of old": lambda folder: write_hub(folder, {"default": FI}, old_names=True),
    "hub, one split": lambda folder: write_hub(folder, {"default": FI}, "validation"),
    "hub, beir": lambda folder: of_beir_on_the_hub(folder, FI),
}


@pytest.mark.parametrize("form", ONE_LANGUAGE)
def test_one_language(form: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    ONE_LANGUAGE[form](folder)
    for name, data_dir in (("beir", folder), (str(folder), None)):
        benchmark = load_benchmark(name, data_dir, languages=["fi"])
        assert relevance(benchmark) == {k: v for k, v in MONOLINGUAL.items() if k.startswith("fi")}
        assert text_of(benchmark, "fi_1#0") == "Turku Turku on kaupunki."
        assert text_of(benchmark, "fi_1#1") == "Aura on joki."
        assert list(benchmark.question_texts) == list(FI.questions.values())


def test_whole_numbers_without_titles(tmp_path: Path) -> None:
    without_titles(FI, tmp_path)
    benchmark = load_benchmark("beir", tmp_path, languages=["fi"])
    assert relevance(benchmark) == {"fi:0 fi": {"fi_2": 1}, "fi:1 fi": {"fi_0": 3}}


def language_folders(folder: Path) -> None:
    of_beir(folder / "fi", FI)
    write_hub(folder / "swh", {"default": SW})


def of_miracl(folder: Path) -> None:
    for code, toy in (("fi", FI), ("sw", SW)):
        write_lines(
            folder / f"miracl-corpus-v1.0-{code}/docs-0.jsonl.gz",
            [{"docid": i, "title": title, "text": text} for i, (title, text) in toy.documents.items()],
        )
        part, stem = folder / f"miracl-v1.0-{code}", f"miracl-v1.0-{code}-dev.tsv"
        write_lines(part / f"topics/topics.{stem}", [f"{i}\t{text}" for i, text in toy.questions.items()])
        write_lines(part / f"qrels/qrels.{stem}", [f"{q} Q0 {d} {grade}" for q, d, grade in toy.judged])


def of_mr_tydi(folder: Path) -> None:
    for name, toy in (("finnish", FI), ("swahili", SW)):
        part = folder / f"mrtydi-v1.1-{name}"
        write_lines(
            part / "collection/docs.jsonl.gz",
            [{"id": i, "contents": f"{title}\n\n{text}"} for i, (title, text) in toy.documents.items()],
        )
        write_lines(part / "topic.test.tsv", [f"{i}\t{text}" for i, text in toy.questions.items()])
        write_lines(part / "qrels.test.txt", [f"{q} Q0 {d} {grade}" for q, d, grade in toy.judged])


MULTILINGUAL: dict[str, tuple[str, Callable[[Path], object]]] = {
    "hub, subsets": ("beir", lambda folder: write_hub(folder, {"fi": FI, "swa": SW})),
    "hub, subsets of a split": ("beir", lambda folder: write_hub(folder, {"fin": FI, "sw": SW}, "dev")),
    "a folder per language": ("beir", language_folders),
    "miracl": ("miracl", of_miracl),
    "mr-tydi": ("mr-tydi", of_mr_tydi),
}


@pytest.mark.parametrize("form", MULTILINGUAL)
@pytest.mark.parametrize("memory_bytes", [0, 2**40])
def test_several_languages(form: str, memory_bytes: int, tmp_path: Path) -> None:
    name, write = MULTILINGUAL[form]
    folder = tmp_path / "set"
    write(folder)
    options = {"memory_bytes": memory_bytes, "cache_dir": tmp_path / "cache"}
    benchmark = load_benchmark(name, folder, **options)
    assert relevance(benchmark) == MONOLINGUAL
    assert text_of(benchmark, "sw_9#1").split() == ["Tana", "ni", "mto."]
    assert load_benchmark(str(folder), **options).fingerprint == benchmark.fingerprint
    assert load_benchmark(name, folder, languages=["sw"], **options).languages == ("sw",)


def of_mmarco(folder: Path) -> None:
    """Ids are those of MS MARCO in every language; `queries.dev` holds more questions than are judged."""
    for name, word in (("finnish", "fi"), ("english", "en")):
        write_lines(
            folder / f"collections/{name}_collection.tsv", [f"{n}\tpassage {n} {word}" for n in range(4)]
        )
        rows = [f"{n}\tquery {n} {word}" for n in (100, 101, 102)]
        write_lines(folder / f"queries/dev/{name}_queries.dev.small.tsv", rows)
    write_lines(folder / "qrels.dev.small.tsv", ["100\t0\t3\t1", "101\t0\t0\t1", "101\t0\t1\t1"])


def test_mmarco_is_parallel(tmp_path: Path) -> None:
    of_mmarco(tmp_path / "set")
    benchmark = load_benchmark(str(tmp_path / "set"))
    assert (benchmark.name, benchmark.variant) == ("mmarco", "dev.small")
    both = {"100": {"en_3": 1, "fi_3": 1}, "101": {"en_0": 1, "en_1": 1, "fi_0": 1, "fi_1": 1}}
    assert relevance(benchmark) == {f"{q} {code}": both[q] for code in ("en", "fi") for q in both}
    assert text_of(benchmark, "fi_3") == "passage 3 fi"


def topic(number: int, *versions: tuple[str, str, str]) -> dict[str, object]:
    topics = [
        {"lang": lang, "source": source, "topic_title": title, "topic_description": f"About {title}"}
        for lang, source, title in versions
    ]
    return {"topic_id": str(number), "languages_with_qrels": ["fas", "zho"], "topics": topics}


def of_neuclir(folder: Path, by_language: bool) -> None:
    """Documents per language, one file of topics, TREC judgements per language; or HC4's folders."""
    for code in ("fas", "zho"):
        rows = [{"id": f"{code}-{n}", "title": f"t{n}", "text": f"{code} {n}", "url": "x"} for n in range(3)]
        name = f"{code}/hc4_docs.jsonl" if by_language else f"data/{code}-00000-of-00001.jsonl.gz"
        write_lines(folder / name, rows)
        qrels = f"{code}/test.qrels.v1-0.txt" if by_language else f"2022-qrels.{code}"
        write_lines(
            folder / qrels, [f"1 0 {code}-0 3", f"1 0 {code}-1 0", f"2 0 {code}-2 1"][: 3 - (code == "zho")]
        )
    write_lines(
        folder / "test.topics.v1-0.jsonl",
        [
            topic(
                1,
                ("eng", "original", "storms"),
                ("fas", "human translation", "tufan"),
                ("zho", "google", "x"),
            ),
            topic(2, ("eng", "original", "ships"), ("fas", "human translation", "kashti")),
            topic(3, ("eng", "original", "not judged")),
        ],
    )


@pytest.mark.parametrize("by_language", [False, True])
def test_neuclir(by_language: bool, tmp_path: Path) -> None:
    of_neuclir(tmp_path / "set", by_language)
    benchmark = load_benchmark(str(tmp_path / "set"))
    assert benchmark.name == "neuclir"
    first, second = {"fa_fas-0": 3, "zh_zho-0": 3}, {"fa_fas-2": 1}
    assert relevance(benchmark) == {"1 en": first, "2 en": second, "1 fa": first, "2 fa": second}
    assert benchmark.question_texts[0] == "storms About storms"
    titles = load_benchmark("neuclir", tmp_path / "set", "title")
    assert titles.question_texts[0] == "storms"


def of_clirmatrix(folder: Path) -> None:
    for code in ("fi", "sw"):
        write_lines(folder / f"DOCS/{code}.tsv.gz", [f"{n}\t{code} article {n}" for n in range(4)])
    for asks, answers, results in (
        ("en", "fi", [["2", 6], ["0", 0]]),
        ("en", "sw", [["1", 5], ["77", 2]]),
        ("sw", "fi", [["3", 4]]),
    ):
        row = {"src_id": "39", "src_query": f"title in {asks}", "tgt_results": results}
        write_lines(folder / f"BI-139/base/{asks}/{asks}.{answers}.test1.base.jl.gz", [row])


def test_clirmatrix(tmp_path: Path) -> None:
    of_clirmatrix(tmp_path / "set")
    benchmark = load_benchmark(str(tmp_path / "set"))
    assert benchmark.name == "clirmatrix"
    assert relevance(benchmark) == {"en:39 en": {"fi_2": 6, "sw_1": 5, "sw_77": 2}, "sw:39 sw": {"fi_3": 4}}
    assert dict(benchmark.judgements.counts) == {"absent_relevant": 1}
    assert load_benchmark("clirmatrix", tmp_path / "set", languages=["sw", "fi"]).question_ids == ["sw:39"]


def test_splits(tmp_path: Path) -> None:
    of_beir(tmp_path / "set", FI, ("dev", "train"))
    assert load_benchmark("beir", tmp_path / "set", "dev", ["fi"]).num_questions == 2
    with pytest.raises(
        UserError, match=r"no judgements of split 'test'\s+it has dev, train: name one as variant"
    ):
        load_benchmark("beir", tmp_path / "set", languages=["fi"])
    with pytest.raises(UserError, match="no judgements of split 'validation'"):
        load_benchmark("beir", tmp_path / "set", "validation", ["fi"])


def test_a_folder_of_another_form(tmp_path: Path) -> None:
    """One line names the folder and the forms; nothing is guessed."""
    (tmp_path / "odd").mkdir()
    with pytest.raises(UserError, match="has the form of no benchmark") as raised:
        load_benchmark(str(tmp_path / "odd"))
    for name, entry in BENCHMARKS.items():
        assert not entry.marks or f"{name} ({entry.marks[0]}" in str(raised.value)
    (tmp_path / "odd/file.jsonl").touch()
    with pytest.raises(UserError, match=r"odd/file.jsonl': is a file\n *give the folder of a benchmark"):
        load_benchmark(str(tmp_path / "odd/file.jsonl"))
    with pytest.raises(UserError, match="there is no such folder"):
        load_benchmark(str(tmp_path / "even"))
    of_mmarco(tmp_path / "both")
    of_mr_tydi(tmp_path / "both")
    with pytest.raises(UserError, match="has the form of mr-tydi, mmarco"):
        load_benchmark(str(tmp_path / "both"))


def test_jsonl_is_known_by_its_files(tmp_path: Path) -> None:
    write_lines(tmp_path / "b/candidates.jsonl", [{"id": "p", "language": "en", "text": "a"}])
    question = {"id": "q", "language": "en", "text": "b", "relevant": ["p"]}
    write_lines(tmp_path / "b/questions.jsonl", [question])
    assert load_benchmark(str(tmp_path / "b")).name == "jsonl"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"query-id": "1", "corpus-id": "1#0"}, "row 0: the grade None is not a number"),
        ({"query-id": "1", "score": 1}, "row 0: field 'corpus-id' is missing"),
        ({"query-id": 1.5, "corpus-id": "1#0", "score": 1}, "row 0: field 'query-id' is a number"),
    ],
)
def test_bad_rows(row: dict[str, object], words: str, tmp_path: Path) -> None:
    write_hub(tmp_path, {"default": FI})
    write_parquet(tmp_path / "qrels/test-00000-of-00001.parquet", [row])
    with pytest.raises(UserError, match=words):
        load_benchmark("beir", tmp_path, languages=["fi"])

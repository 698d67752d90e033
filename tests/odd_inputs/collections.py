"""Public collections and bitexts with the defects of downloads, and benchmark folders by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from tests.odd_inputs.case import (
    CANDIDATES,
    CORPUS,
    MAP,
    QRELS,
    QUERIES,
    QUESTIONS,
    Case,
    Content,
    benchmark,
    scored,
)

BELEBELE = [
    {"link": f"l{n}", "question_number": 1, "flores_passage": text, "question": text}
    for n, text in enumerate(("alpha", "beta", "gamma"))
]


def _second(size: list[dict[str, Any]], **change: Any) -> list[dict[str, Any]]:
    row = {key: value for key, value in (size[1] | change).items() if value is not ...}
    return [size[0], row, *size[2:]]


def belebele() -> Iterator[tuple[str, Case]]:
    right = {"questions": 6, "candidates": 6, "languages": "en fi"}

    def two(finnish: Content, *options: str, **names: str) -> Case:
        name = names.get("name", "fin_Latn.jsonl")
        return scored("belebele", {"eng_Latn.jsonl": BELEBELE, name: finnish}, *options)

    # Every text is its question: the two translations are first in either order.
    yield "belebele", two(BELEBELE).gives(given=6, map=1.0, **right)
    yield "belebele-one", two(BELEBELE, "--languages", "fin_Latn").gives(languages="fi", map=1.0)
    yield "belebele-korean", two(BELEBELE, name="kor_Hang.jsonl").gives(given=6, languages="en ko", map=1.0)
    twice = two(BELEBELE, name="en_Latn.jsonl")
    yield "belebele-same-language", twice.fails(r"\S*eng_Latn.jsonl", "second file")
    where = r"\S*fin_Latn.jsonl line 2"
    for name, change in {
        "no-link": {"link": ...},
        "text-number": {"question_number": "1"},
        "float-number": {"question_number": 1.0},
        "empty-passage": {"flores_passage": ""},
        "null-question": {"question": None},
        "question-twice": {"link": "l0"},
    }.items():
        yield f"belebele-{name}", two(_second(BELEBELE, **change)).fails(where, "field|twice")
    yield "belebele-empty", two("").fails(r"\S*fin_Latn.jsonl", "empty")
    yield "belebele-no-file", scored("belebele", {"README.md": "x"}).fails("bench", "language")
    yield "belebele-notes", two(BELEBELE, name="notes.jsonl").gives("notes.jsonl", languages="en")


def xquad(text: str = "alpha one. beta two.") -> dict[str, Any]:
    breaks = [[0, 10], [11, 20]]
    asked = {"id": "a", "question": "beta", "answers": [{"text": "two", "answer_start": 16}]}
    paragraph = {
        "context": text,
        "sentences": ["alpha one.", "beta two."],
        "sentence_breaks": breaks,
        "qas": [asked],
    }
    return {"data": [{"title": "x", "paragraphs": [paragraph]}]}


def lareqa() -> Iterator[tuple[str, Case]]:
    def changed(**change: Any) -> dict[str, Any]:
        content = xquad()
        paragraph = content["data"][0]["paragraphs"][0]
        for key, value in change.items():
            block = paragraph if key in paragraph else paragraph["qas"][0]
            block = paragraph["qas"][0]["answers"][0] if key in ("text", "answer_start") else block
            block[key] = value
        return content

    right = {"questions": 1, "candidates": 2, "languages": "en", "map": 1.0}
    yield "xquad", scored("xquad-r", {"en.json": xquad()}).gives(given=1, **right)
    yield "xquad-mark", scored("xquad-r", {"en.json": "\ufeff" + json.dumps(xquad())}).gives(given=1, **right)
    yield (
        "xquad-pretty",
        scored("xquad-r", {"en.json": json.dumps(xquad(), indent=4)}).gives(given=1, **right),
    )
    yield "xquad-above", scored("xquad-r", {"xquad-r/en.json": xquad()}).gives(given=1, **right)
    for name, change in {
        "context-null": {"context": None},
        "context-blank": {"context": " "},
        "qas-object": {"qas": {}},
        "breaks-float": {"sentence_breaks": [[0.0, 10.0], [11.0, 20.0]]},
        "breaks-swapped": {"sentence_breaks": [[10, 0], [11, 20]]},
        "sentences-null": {"sentences": None},
        "sentence-empty": {"sentences": ["alpha one.", ""]},
        "id-list": {"id": ["a"]},
        "start-float": {"answer_start": 16.0},
        "start-true": {"answer_start": True},
        "answer-elsewhere": {"answer_start": 10},
        "answers-null": {"answers": None},
    }.items():
        yield f"xquad-{name}", scored("xquad-r", {"en.json": changed(**change)}).fails(r"\S*en.json")
    text = json.dumps(xquad())
    for name, content in {
        "utf16": text.encode("utf-16"),
        "lines": text + "\n" + text,
        "twice": text[:-1] + ', "data": []}',
        "nan": text.replace("16", "NaN"),
        "array": f"[{text}]",
        "html": "<html>",
        "lfs": "version https://git-lfs.github.com/spec/v1\n",
        "empty": "",
    }.items():
        yield f"xquad-{name}", scored("xquad-r", {"en.json": content}).fails(r"\S*en.json")


def bitexts() -> Iterator[tuple[str, Case]]:
    """NTREX and Tatoeba: line i of every file is one sentence."""
    words = "alpha\nbeta\ngamma\n"
    ids = "d1\nd2\nd3\n"
    right = {"questions": 6, "candidates": 6, "languages": "en fi"}

    def ntrex(finnish: Content = words, documents: Content = ids, name: str = "fin.txt") -> Case:
        return scored(
            "ntrex", {"eng.txt": words, name: finnish, "document_ids.tsv": documents}, "--variant", "all"
        )

    yield "ntrex", ntrex().gives(given=6, **right)
    yield "ntrex-crlf", ntrex(words.replace("\n", "\r\n")).gives(given=6, **right)
    yield "ntrex-mark", ntrex("\ufeff" + words).gives(given=6, **right)
    yield "ntrex-line-separator", ntrex(words.replace("beta", "be\u2028ta\x85")).gives(given=6, **right)
    yield "ntrex-published-name", ntrex(name="newstest2019-ref.fin.txt").gives(given=6, **right)
    for name, content in {
        "short": "alpha\nbeta\n",
        "long": words + "delta\n",
        "blank": "alpha\n\ngamma\n",
        "utf16": words.encode("utf-16"),
        "cr": words.replace("\n", "\r"),
        "empty": "",
        "latin-1": "alpha\nbet\xe4\ngamma\n".encode("latin-1"),
        "invisible": "alpha\n\u200b\ngamma\n",
    }.items():
        yield f"ntrex-{name}", ntrex(content).fails(r"\S*fin.txt|\S*document_ids.tsv|bench")
    yield "ntrex-ids-short", ntrex(documents="d1\n").fails(r"\S*(document_ids.tsv|txt)", "line")
    yield (
        "ntrex-two-spellings",
        scored(
            "ntrex", {"eng.txt": words, "en.txt": words, "document_ids.tsv": ids}, "--variant", "all"
        ).fails(r"\S*eng.txt", "second file"),
    )


def miracl() -> Iterator[tuple[str, Case]]:
    part = "miracl-v1.0-en"
    files: Mapping[str, Content] = {
        f"{part}/topics/topics.{part}-dev.tsv": "q1\talpha\nq2\tbeta\n",
        f"{part}/qrels/qrels.{part}-dev.tsv": "q1\tQ0\tp1\t1\nq2\tQ0\tp2\t1\n",
        "miracl-corpus-v1.0-en/docs-0.jsonl": [
            {"docid": row["id"], "title": "", "text": row["text"]} for row in CANDIDATES
        ],
    }
    names = list(files)
    right = {"questions": 2, "candidates": 4, "relevant": 2, "map": MAP}
    yield "miracl", scored("miracl", files).gives(given=2, **right)
    for name, (index, content) in {
        "topics-spaces": (0, "q1 alpha\nq2\tbeta\n"),
        "topics-twice": (0, "q1\talpha\nq1\tbeta\n"),
        "topics-empty": (0, ""),
        "qrels-word": (1, "q1\tQ0\tp1\tx\nq2\tQ0\tp2\ty\n"),
        "corpus-empty": (2, ""),
        "corpus-array": (2, json.dumps(files[names[2]])),
        "corpus-no-docid": (2, [{"key": "p1", "text": "x"}]),
    }.items():
        yield f"miracl-{name}", scored("miracl", {**files, names[index]: content}).fails(r"\S*bench|.*miracl")
    for index, name in enumerate(("topics", "qrels", "corpus")):
        yield (
            f"miracl-without-{name}",
            scored(
                "miracl", {path: content for n, (path, content) in enumerate(files.items()) if n != index}
            ).fails(r"\S*bench\S*"),
        )
    blank = {**files, names[0]: "q1\t \nq2\tbeta\n"}
    yield "miracl-topics-blank", scored("miracl", blank).gives("question.*: 1", given=2, questions=2)
    yield (
        "miracl-topics-not-judged",
        scored("miracl", {**files, names[0]: "q1\talpha\nq2\tbeta\nq3\tzeta\n"}).gives(
            "question.*: 1", given=3, **right
        ),
    )


def folders() -> Iterator[tuple[str, Case]]:
    """Names and folders of benchmarks on the command line."""
    files: Mapping[str, Content] = {"questions.jsonl": QUESTIONS, "candidates.jsonl": CANDIDATES}
    right = {"questions": 2, "candidates": 4, "map": MAP}

    def command(name: str, *options: str) -> Case:
        case = scored(name, files)
        arguments = [*case.arguments[:5], *options, "--output", "out", "--json"]
        return Case(arguments, case.files)

    yield "folder-as-benchmark", command("./bench").gives(given=2, **right)
    yield "folder-as-benchmark-slash", command("bench/").gives(given=2, **right)
    yield "folder-slash", command("jsonl", "--data-dir", "bench/").gives(given=2, **right)
    yield "folder-dots", command("jsonl", "--data-dir", "./x/../bench").fails("x/../bench", "folder")
    yield "folder-absent", command("jsonl", "--data-dir", "nowhere").fails("nowhere", "no such folder")
    yield (
        "folder-is-a-file",
        command("jsonl", "--data-dir", "bench/questions.jsonl").fails(
            "bench/questions.jsonl", "file, not a folder"
        ),
    )
    yield "folder-of-nothing", command("jsonl", "--data-dir", ".").fails(r"\.|/", "candidates.jsonl")
    yield "name-misspelled", command("jsnl", "--data-dir", "bench").fails("benchmark 'jsnl'", "jsonl")
    yield "name-upper-case", command("BEIR", "--data-dir", "bench").fails("benchmark 'BEIR'", "beir")
    yield "name-empty", command("", "--data-dir", "bench").fails(r"\.", "form of no benchmark")
    yield (
        "name-function",
        command("nowhere:read", "--data-dir", "bench").fails("benchmark nowhere:read", "nowhere"),
    )
    yield (
        "variant-unknown",
        benchmark(QUESTIONS, CANDIDATES, "--variant", "x").fails("benchmark jsonl", "'x'", "choose"),
    )
    yield (
        "gzip-questions",
        scored("jsonl", {"questions.jsonl.gz": b"not gzip", "candidates.jsonl": CANDIDATES}).fails(
            r"\S*questions.jsonl.gz", "gzip"
        ),
    )
    two = {
        f"{language}/{name}": content
        for language in ("en", "fi")
        for name, content in {
            "corpus.jsonl": CORPUS,
            "queries.jsonl": QUERIES,
            "qrels/test.tsv": QRELS,
        }.items()
    }
    yield "beir-languages", scored("beir", two).gives(given=4, questions=4, candidates=8, languages="en fi")
    yield "beir-languages-parallel", scored("beir", two, "--variant", "parallel").gives(given=4, relevant=8)
    yield (
        "beir-other-folder",
        scored("beir", {**two, "notes/x.txt": "x", ".cache/y": "y"}).gives(given=4, questions=4),
    )
    yield (
        "beir-no-language",
        scored("beir", {"corpus.jsonl": CORPUS, "queries.jsonl": QUERIES}).fails("bench", "--languages"),
    )
    yield (
        "beir-empty-language-folder",
        scored("beir", {**two, "sv/README.md": "x"}).fails("bench/sv", "corpus.jsonl"),
    )


CASES = dict([*belebele(), *lareqa(), *bitexts(), *miracl(), *folders()])

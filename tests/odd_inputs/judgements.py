"""Judgements, questions and candidates of user-defined benchmarks in every form."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.odd_inputs.case import CANDIDATES, MAP, QUESTIONS, Case, beir, benchmark, encoded

BARE = [{key: value for key, value in row.items() if key != "relevant"} for row in QUESTIONS]
RIGHT = {"questions": 2, "candidates": 4, "relevant": 2, "map": MAP}


def qrels_files() -> Iterator[tuple[str, Case]]:
    """Forms of qrels.tsv that trec_eval, BEIR, MTEB and spreadsheets write."""
    lines = "q1\tp1\t1\nq2\tp2\t1\n"
    for name, content in {
        "three": lines,
        "header": "query-id\tcorpus-id\tscore\n" + lines,
        "trec": "q1 0 p1 1\nq2 0 p2 1\n",
        "trec-tabs": "q1\t0\tp1\t1\nq2\t0\tp2\t1\n",
        "trec-q0": "q1 Q0 p1 1\nq2 Q0 p2 1\n",
        "spaces": "q1   p1  1\nq2 p2 1\n",
        "space-behind": "q1\tp1\t1 \nq2\tp2\t1\t\n".replace("\t\n", " \n"),
        "floats": "q1\tp1\t1.0\nq2\tp2\t1.00\n",
        "exponent": "q1\tp1\t1e0\nq2\tp2\t+1\n",
        "crlf": lines.replace("\n", "\r\n"),
        "mark": "\ufeff" + lines,
        "mark-header-crlf": "\ufeffquery-id\tcorpus-id\tscore\r\n" + lines.replace("\n", "\r\n"),
        "blank-lines": "\n" + lines.replace("\n", "\n\n"),
        "no-last-line-end": lines[:-1],
        "pair-twice": lines + "q1\tp1\t1\n",
        "zero-too": lines + "q1\tp3\t0\n",
        "negative-too": lines + "q1\tp3\t-1\nq2\tp3\t-2.5\n",
        "negative-zero": lines + "q1\tp3\t-0.0\n",
        "zero-of-an-unknown-candidate": lines + "q1\tp9\t0\n",
    }.items():
        yield f"qrels-{name}", benchmark(BARE, CANDIDATES, qrels=content).gives(given=2, **RIGHT)
    # q2: p4 ("beta") is first, p2 second. Grades 2 and 1: the perfect order is p4, p2.
    graded = "q1\tp1\t1\nq2\tp2\t1\nq2\tp4\t2\n"
    yield (
        "qrels-graded",
        benchmark(BARE, CANDIDATES, qrels=graded).gives(given=2, questions=2, relevant=3, map=1.0, ndcg=1.0),
    )
    for name, first, second in (("highest", 1, 2), ("highest-first", 2, 1)):
        twice = f"q1\tp1\t1\nq2\tp4\t{first}\nq2\tp4\t{second}\nq2\tp2\t1\n"
        yield f"qrels-{name}", benchmark(BARE, CANDIDATES, qrels=twice).gives(given=2, relevant=3, ndcg=1.0)
    for name, line in {
        "two-columns": "q1\tp2\n",
        "one-column": "q1\n",
        "five-columns": "q1\t0\tp2\t1\tx\n",
        "word": "q1\tp2\tyes\n",
        "nan": "q1\tp2\tnan\n",
        "inf": "q1\tp2\tinf\n",
        "comma": "q1,p2,1\n",
        "decimal-comma": "q1\tp2\t1,5\n",
        "empty-grade": "q1\tp2\t\n",
        "empty-candidate": "q1\t\t1\n",
        "empty-question": "\tp2\t1\n",
        "header-again": "query-id\tcorpus-id\tscore\n",
        "hexadecimal": "q1\tp2\t0x1\n",
        "run": "q1 Q0 p2 1 0.5 tag\n",
        "markdown": "| q1 | p2 | 1 |\n",
        "json": '{"q1": {"p2": 1}}\n',
        "nul": "q1\tp2\t1\0\n",
        "ideographic-space": "q1\u3000p9\u30001\n",
    }.items():
        yield (
            f"qrels-line-{name}",
            benchmark(BARE, CANDIDATES, qrels=lines + line).fails(
                r"bench/qrels.tsv line 3|\S*qrels.tsv line 3", "column|grade|candidate|question|id"
            ),
        )
    yield (
        "qrels-unknown-candidate",
        benchmark(BARE, CANDIDATES, qrels=lines + "q1\tp9\t1\n").fails(
            r"\S*qrels.tsv line 3", "'p9'", "as_published"
        ),
    )
    yield (
        "qrels-unknown-question",
        benchmark(BARE, CANDIDATES, qrels=lines + "q9\tp1\t1\n").fails(
            r"\S*qrels.tsv line 3", "'q9'", "as_published"
        ),
    )
    yield (
        "qrels-case-of-ids",
        benchmark(BARE, CANDIDATES, qrels=lines + "Q1\tp1\t1\n").fails(r"\S*qrels.tsv line 3", "'Q1'"),
    )
    yield (
        "qrels-swapped",
        benchmark(BARE, CANDIDATES, qrels="p1\tq1\t1\np2\tq2\t1\n").fails(r"\S*qrels.tsv line 1", "'p1'"),
    )
    yield (
        "qrels-utf16",
        benchmark(BARE, CANDIDATES, qrels=lines.encode("utf-16")).fails(r"\S*qrels.tsv", "UTF-16"),
    )
    yield (
        "qrels-only-zero",
        benchmark(BARE, CANDIDATES, qrels="q1\tp1\t0\nq2\tp2\t1\n").fails(
            r".*", "'q1'", "no relevant", "as_published"
        ),
    )
    yield "qrels-empty", benchmark(BARE, CANDIDATES, qrels="").fails(".*", "no relevant|empty")
    yield "qrels-none", benchmark(BARE, CANDIDATES).fails(".*", "no relevant")
    published = benchmark(BARE, CANDIDATES, "--judgements", "as_published", qrels="q1\tp1\t0\nq2\tp2\t1\n")
    yield "qrels-only-zero-published", published.gives("question.*: 1", given=2, questions=1, map=0.5)


def relevant_lists() -> Iterator[tuple[str, Case]]:
    """What a question's line may call relevant."""

    def with_relevant(value: Any, *options: str) -> Case:
        return benchmark([QUESTIONS[0], QUESTIONS[1] | {"relevant": value}], CANDIDATES, *options)

    where = r"\S*questions.jsonl line 2"
    for name, value in {
        "list": ["p2"],
        "object": {"p2": 1},
        "float": {"p2": 1.0},
        "twice": ["p2", "p2"],
    }.items():
        yield f"relevant-{name}", with_relevant(value).gives(given=2, **RIGHT)
    for name, value in {
        "text": "p2",
        "number": 2,
        "nested": [["p2"]],
        "object-in-a-list": [{"id": "p2"}],
        "null-in-a-list": [None],
        "empty-id": [""],
        "text-grade": {"p2": "1"},
        "true": True,
        "true-grade": {"p2": True},
        "null-grade": {"p2": None},
        "nan": {"p2": float("nan")},
        "inf": {"p2": float("inf")},
        "unknown": ["p9"],
        "float-id": [1.5],
        "comma": "p2,p3",
    }.items():
        yield f"relevant-{name}", with_relevant(value).fails(where, "relevant|grade")
    for name, value in {
        "empty-list": [],
        "empty-object": {},
        "zero": {"p2": 0},
        "negative": {"p2": -1},
    }.items():
        yield f"relevant-{name}", with_relevant(value).fails(".*", "'q2'", "no relevant")
        yield (
            f"relevant-{name}-published",
            with_relevant(value, "--judgements", "as_published").gives(
                "question.*: 1", given=2, questions=1, map=1.0
            ),
        )
    numbers = [
        [{**row, "id": n, "relevant": [n]} for n, row in enumerate(QUESTIONS, 1)],
        [{**row, "id": n} for n, row in enumerate(CANDIDATES, 1)],
    ]
    yield "numbers-as-ids", benchmark(*numbers).gives(given=2, **RIGHT)
    mixed = [[{**row, "relevant": [str(n)]} for n, row in enumerate(numbers[0], 1)], numbers[1]]
    yield "numbers-and-texts-as-ids", benchmark(*mixed).gives(given=2, **RIGHT)
    spaced = json.loads(json.dumps([QUESTIONS, CANDIDATES]).replace("p2", "doc 2"))
    yield "space-in-an-id", benchmark(*spaced).gives(given=2, **RIGHT)
    yield "space-in-an-id-trec", benchmark(*spaced, "--trec").fails(".*", "white space")
    tabbed = benchmark(
        [{**row, "relevant": [row["relevant"][0].replace("p2", "doc 2")]} for row in QUESTIONS], spaced[1]
    )
    yield "space-in-an-id-list", tabbed.gives(given=2, **RIGHT)
    yield (
        "space-in-an-id-qrels",
        benchmark(BARE, spaced[1], qrels="q1\tp1\t1\nq2\tdoc 2\t1\n").gives(given=2, **RIGHT),
    )
    both = benchmark(QUESTIONS, CANDIDATES, qrels="q1\tp1\t1\nq2\tp4\t1\n")
    yield "relevant-and-qrels", both.gives(given=2, questions=2, relevant=3, map=1.0)
    yield "cluster-number", benchmark([{**row, "cluster": 7} for row in QUESTIONS]).gives(given=2, **RIGHT)
    yield (
        "cluster-list",
        benchmark([{**row, "cluster": ["a"]} for row in QUESTIONS]).fails(
            r"\S*questions.jsonl line 1", "'cluster'"
        ),
    )
    yield "unused-fields", benchmark([{**row, "answer": "x"} for row in QUESTIONS]).gives(given=2, **RIGHT)


def lines() -> Iterator[tuple[str, Case]]:
    """Lines of questions and candidates."""
    for side, name in ((0, "questions"), (1, "candidates")):
        files: list[Any] = [QUESTIONS, CANDIDATES]

        def with_second(line: Any, side: int = side) -> Case:
            content = [QUESTIONS, CANDIDATES]
            content[side] = [content[side][0], line, *content[side][2:]]
            return benchmark(*content)

        row, where = files[side][1], rf"\S*{name}.jsonl line 2"
        for label, change in {
            "null-text": {"text": None},
            "number-text": {"text": 5},
            "empty-text": {"text": ""},
            "list-text": {"text": ["a"]},
            "blank-text": {"text": "\u3000"},
            "invisible-text": {"text": "\u200b"},
            "surrogate": {"text": "a\ud800"},
            "null-id": {"id": None},
            "empty-id": {"id": ""},
            "float-id": {"id": 1.5},
            "true-id": {"id": True},
        }.items():
            yield f"{name}-{label}", with_second(row | change).fails(where, "text|id")
        text = json.dumps(row)
        yield (
            f"{name}-key-twice",
            with_second(text[:-1] + ', "text": "delta"}').fails(where, "'text'", "twice|duplicate"),
        )
        yield (
            f"{name}-no-text",
            with_second({k: v for k, v in row.items() if k != "text"}).fails(where, "'text'"),
        )
        yield f"{name}-array", with_second("[" + text + "]").fails(where, "list")
        yield f"{name}-id-twice", with_second(files[side][0]).fails(where, "twice|before")
        content = encoded(files[side])
        for label, raw in {
            "utf16": content.decode().encode("utf-16"),
            "latin-1": content + "ä".encode("latin-1"),
            "cr": content.replace(b"\n", b"\r"),
            "empty": b"",
            "array": json.dumps(files[side]).encode(),
            "lfs": b"version https://git-lfs.github.com/spec/v1\n",
        }.items():
            pair = [QUESTIONS, CANDIDATES]
            pair[side] = raw
            yield f"{name}-{label}", benchmark(*pair).fails(rf"\S*{name}.jsonl")
        for label, raw in {
            "mark-crlf": b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"),
            "blank": content + b"\n \n",
        }.items():
            pair = [QUESTIONS, CANDIDATES]
            pair[side] = raw
            yield f"{name}-{label}", benchmark(*pair).gives(given=2, **RIGHT)
    for label, text in {
        "nfd": "alpha\u0301",
        "zero-width": "al\u200bpha",
        "full-width": "ａｌｐｈａ",
        "spaces": "  alpha\n",
    }.items():
        changed = [CANDIDATES[0] | {"text": text}, *CANDIDATES[1:]]
        yield (
            f"candidate-text-{label}",
            benchmark(QUESTIONS, changed).gives(given=2, questions=2, candidates=4),
        )
    equal = [*CANDIDATES, CANDIDATES[3] | {"id": "p5"}, CANDIDATES[3] | {"id": "p0"}]
    # q2: p5, p4, p0 have the same score, p2 is fourth.
    yield (
        "candidates-equal-texts",
        benchmark(QUESTIONS, equal).gives(given=2, candidates=6, map=(1 + 1 / 4) / 2),
    )
    yield "one-candidate", benchmark(QUESTIONS[:1], CANDIDATES[:1]).gives(given=1, candidates=1, map=1.0)


def beir_folders() -> Iterator[tuple[str, Case]]:
    """BEIR's folders with the defects of published collections."""
    yield "beir", beir().gives(given=2, **RIGHT)
    corpus = [{"_id": row["id"], "title": "", "text": row["text"]} for row in CANDIDATES]
    empty = [*corpus, {"_id": "p9", "title": "", "text": ""}]
    yield "beir-empty-document", beir(corpus=empty).gives("document.*: 1", given=2, candidates=5, map=MAP)
    yield (
        "beir-empty-document-strict",
        beir("--judgements", "strict", corpus=empty).fails(
            r"\S*corpus.jsonl line 5", "empty", "as_published"
        ),
    )
    for name, change in {
        "null-title": {"title": None},
        "no-title": {},
        "null-text": {"title": "delta", "text": None},
        "title-only": {"title": "delta", "text": ""},
        "metadata": {"title": "", "metadata": {"url": "x"}},
    }.items():
        row = {"_id": "p3", "text": "delta", **change}
        yield f"beir-{name}", beir(corpus=[*corpus[:2], row, corpus[3]]).gives(given=2, **RIGHT)
    header = "query-id\tcorpus-id\tscore\nq1\tp1\t1\nq2\tp2\t1\n"
    absent = header + "q1\tp9\t1\n"
    # q1: p1 is first of 2 relevant ones, p9 is never found: AP 1/2; q2: 1/2.
    yield (
        "beir-absent-document",
        beir(qrels=absent).gives("relevant.*: 1", given=2, questions=2, map=0.5),
    )
    yield (
        "beir-absent-document-strict",
        beir("--judgements", "strict", qrels=absent).fails(r"\S*test.tsv line 4", "'p9'", "as_published"),
    )
    yield "beir-unasked-query", beir(qrels=header + "q9\tp1\t1\n").gives("judged.*: 1", given=2, **RIGHT)
    yield (
        "beir-unasked-query-strict",
        beir("--judgements", "strict", qrels=header + "q9\tp1\t1\n").fails(
            r"\S*test.tsv line 4", "q9", "as_published"
        ),
    )
    more = [{"_id": row["id"], "text": row["text"]} for row in QUESTIONS] + [{"_id": "q7", "text": "zeta"}]
    yield "beir-query-of-another-split", beir(queries=more).gives(given=2, **RIGHT)
    zero = header + "q7\tp1\t0\n"
    yield "beir-query-with-zero", beir(queries=more, qrels=zero).gives("question.*: 1", given=3, **RIGHT)
    # The query is document p1: without it, its answer "alpha gamma" is first.
    own = [{"_id": "p1", "text": "alpha"}, {"_id": "q2", "text": "beta"}]
    pool = [*corpus, {"_id": "p5", "title": "", "text": "alpha gamma"}]
    itself = "p1\tp5\t1\nq2\tp2\t1\n"
    yield (
        "beir-query-is-a-document",
        beir(corpus=pool, queries=own, qrels=itself).gives("question.*: 1", given=2, questions=2, map=MAP),
    )
    yield (
        "beir-query-is-a-document-kept",
        beir("--identical-ids", "keep", corpus=pool, queries=own, qrels=itself).gives(
            "question.*: 1", given=2, questions=2, map=0.5
        ),
    )
    for name, qrels in {
        "trec": "q1 0 p1 1\nq2 0 p2 1\n",
        "no-header": header.split("\n", 1)[1],
        "float": header.replace("\t1\n", "\t1.0\n"),
    }.items():
        yield f"beir-qrels-{name}", beir(qrels=qrels).gives(given=2, **RIGHT)
    yield "beir-qrels-empty", beir(qrels="").fails(r"\S*test.tsv", "no relevant|empty")
    yield (
        "beir-qrels-header-only",
        beir(qrels="query-id\tcorpus-id\tscore\n").fails(r"\S*test.tsv", "no relevant"),
    )
    yield (
        "beir-number-ids",
        beir(
            corpus=[row | {"_id": n} for n, row in enumerate(corpus)],
            queries=[{"_id": 1, "text": "alpha"}],
            qrels="1\t0\t1\n",
        ).gives(given=1, map=1.0),
    )
    yield (
        "beir-id-not-underscored",
        beir(corpus=[{"key": "p1", "text": "x"}]).fails(r"\S*corpus.jsonl line 1", "id"),
    )
    yield (
        "beir-document-twice",
        beir(corpus=[*corpus, corpus[0]]).fails(r"\S*corpus.jsonl line 5", "'p1'|twice"),
    )
    yield (
        "beir-query-twice",
        beir(queries=[{"_id": "q1", "text": "alpha"}] * 2).fails(r"\S*queries.jsonl line 2", "twice"),
    )
    yield (
        "beir-empty-query",
        beir(queries=[{"_id": "q1", "text": ""}, {"_id": "q2", "text": "beta"}]).gives(
            "question.*: 1", questions=2
        ),
    )
    yield "beir-array", beir(corpus=json.dumps(corpus)).fails(r"\S*corpus.jsonl", "list")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        case = beir()
        files = {path: content for path, content in case.files.items() if path != f"bench/{name}"}
        yield f"beir-without-{name}", Case(case.arguments, files).fails("bench", "holds|no such|has no")
    dev = beir()
    renamed = {path.replace("test.tsv", "dev.tsv"): content for path, content in dev.files.items()}
    yield "beir-only-dev", Case(dev.arguments, renamed).gives("split dev", given=2, **RIGHT)


CASES = dict([*qrels_files(), *relevant_lists(), *lines(), *beir_folders()])

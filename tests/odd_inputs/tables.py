"""Parquet types, CSV and TSV quoting, Arrow files."""

from __future__ import annotations

import datetime
import io
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from tests.odd_inputs.case import Case, Content, columns, training

SIZE = 6
ENGLISH = {"examples": 6, "languages": "en", "questions": {"en": 6}}
PLAIN = {"question": "q", "passage": "p", "language": "en"}
Q = [f"what {n}" for n in range(SIZE)]
P = [f"it {n}" for n in range(SIZE)]


def parquet(**arrays: Any) -> bytes:
    """A Parquet file of these columns."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays), buffer)
    return buffer.getvalue()


def table(content: Content, **mapping: Any) -> Case:
    return columns(content, path="train.parquet", **(mapping or PLAIN))


def readable_types() -> Iterator[tuple[str, Case]]:
    """Types that hold texts, ids, or texts by language."""
    for name, kind in {
        "string": pa.string(),
        "large": pa.large_string(),
        "view": pa.string_view(),
        "dictionary": pa.dictionary(pa.int32(), pa.string()),
    }.items():
        try:
            content = parquet(q=pa.array(Q).cast(kind), p=pa.array(P).cast(kind))
        except pa.ArrowException:
            continue
        yield f"type-{name}", table(content).gives(given=6, **ENGLISH)
    for name, kind in {"int8": pa.int8(), "int64": pa.int64(), "uint64": pa.uint64()}.items():
        ids = pa.array(range(SIZE), kind)
        yield f"id-{name}", table(parquet(i=ids, q=Q, p=P), example_id="i", **PLAIN).gives(given=6, **ENGLISH)
    for name, kind in {"float64": pa.float64(), "bool": pa.bool_()}.items():
        ids = pa.array(range(SIZE)).cast(kind)
        yield (
            f"id-{name}",
            table(parquet(i=ids, q=Q, p=P), example_id="i", **PLAIN).fails("train.parquet row 0", "'i'"),
        )
    both = {"question": "q", "passage": "p"}
    fields = {"examples": 6, "languages": "en fi"}
    struct = [{"en": f"what {n}", "fi": f"mikä {n}"} for n in range(SIZE)]
    answers = [{"en": f"it {n}", "fi": f"se {n}"} for n in range(SIZE)]
    yield (
        "struct",
        columns(parquet(q=struct, p=answers), "train.parquet", 0.5, **both).gives(given=6, **fields),
    )
    kind = pa.map_(pa.string(), pa.string())
    maps = [pa.array([list(row.items()) for row in side], kind) for side in (struct, answers)]
    yield "map", columns(parquet(q=maps[0], p=maps[1]), "train.parquet", 0.5, **both).gives(given=6, **fields)
    twice = pa.array([[("en", "a"), ("en", "b")]] * SIZE, kind)
    yield (
        "map-with-a-key-twice",
        columns(parquet(q=twice, p=maps[1]), "train.parquet", 0.5, **both).fails(
            "train.parquet", "duplicate"
        ),
    )
    by_list = {"question": "q", "passage": "p", "negatives": "n", "language": "en"}
    lists = [[text] for text in P]
    for name, kind in {
        "list": pa.list_(pa.string()),
        "large-list": pa.large_list(pa.string()),
        "fixed-list": pa.list_(pa.string(), 1),
    }.items():
        content = parquet(q=Q, p=pa.array(lists, kind), n=pa.array([["no"]] * SIZE, kind))
        yield name, table(content, **by_list).gives(given=6, negatives=1, **ENGLISH)
    objects = [[{"docid": f"d{n}", "title": "T", "text": text}] for n, text in enumerate(P)]
    yield "list-of-structs", table(parquet(q=Q, p=objects)).gives(given=6, **ENGLISH)
    sequence = [{"docid": [f"d{n}"], "title": ["T"], "text": [text]} for n, text in enumerate(P)]
    yield "dict-of-lists", table(parquet(q=Q, p=sequence)).gives(given=6, **ENGLISH)
    uneven = [{"docid": ["d", "e"], "text": ["x"]}] * SIZE
    yield "dict-of-uneven-lists", table(parquet(q=Q, p=uneven)).fails("train.parquet row 0", "'?p|text|docid")
    yield (
        "extra-columns",
        table(parquet(q=Q, p=P, label=list(range(SIZE)), embedding=[[0.5]] * SIZE)).gives(
            "label", "embedding", given=6, **ENGLISH
        ),
    )
    yield (
        "index-of-pandas",
        table(parquet(q=Q, p=P, __index_level_0__=list(range(SIZE)))).gives(
            "__index_level_0__", given=6, **ENGLISH
        ),
    )


def refused_types() -> Iterator[tuple[str, Case]]:
    """Types that are no texts, under their names."""
    for name, (values, word) in {
        "binary": (pa.array([text.encode() for text in Q]), "bytes|binary"),
        "timestamp": (pa.array([datetime.datetime(2024, 1, 1)] * SIZE), "timestamp|date"),
        "date": (pa.array([datetime.date(2024, 1, 1)] * SIZE), "date"),
        "time": (pa.array([datetime.time(1)] * SIZE), "time"),
        "duration": (pa.array([datetime.timedelta(1)] * SIZE), "duration|time"),
        "decimal": (pa.array([Decimal("1.5")] * SIZE), "decimal|number"),
        "float": (pa.array([1.5] * SIZE), "number"),
        "integer": (pa.array(range(SIZE)), "number"),
        "bool": (pa.array([True] * SIZE), "true or false"),
        "null": (pa.array([None] * SIZE, pa.null()), "null"),
        "list": (pa.array([[text] for text in Q]), "list"),
        "nested-list": (pa.array([[[text]] for text in Q]), "list"),
    }.items():
        yield f"question-{name}", table(parquet(q=values, p=P)).fails("train.parquet row 0", "'q'", word)
    yield (
        "passage-binary",
        table(parquet(q=Q, p=[text.encode() for text in P])).fails(
            "train.parquet row 0", "'?p", "bytes|binary"
        ),
    )
    yield (
        "null-in-a-row",
        table(parquet(q=[*Q[:3], None, *Q[4:]], p=P)).fails("train.parquet row 3", "'q'", "null"),
    )
    yield (
        "empty-in-a-row",
        table(parquet(q=Q, p=[*P[:4], "", *P[5:]])).fails("train.parquet row 4", "p", "empty"),
    )


def parquet_files() -> Iterator[tuple[str, Case]]:
    """Damaged and unusual Parquet files and folders."""
    whole = parquet(q=Q, p=P)
    for name, content in {
        "cut": whole[:-20],
        "head-only": whole[:100],
        "empty": b"",
        "magic-only": b"PAR1PAR1",
        "text": b"q,p\na,b\n",
        "lines": b'{"q": "a", "p": "b"}\n',
    }.items():
        yield f"file-{name}", table(content).fails("train.parquet", "Parquet")
    yield (
        "file-no-rows",
        table(parquet(q=pa.array([], pa.string()), p=pa.array([], pa.string()))).fails(
            "data.sources", "no example|empty|no row"
        ),
    )
    yield (
        "file-no-such-column",
        table(whole, question="query", passage="p", language="en").fails("train.parquet", "'query'", "q, p"),
    )
    yield (
        "file-upper-case-column",
        table(whole, question="Q", passage="p", language="en").fails("train.parquet", "'Q'"),
    )
    case = training(None, path="d", format="parquet", columns=PLAIN, alpha=1)

    def folder(**files: bytes) -> Case:
        return Case(
            case.arguments, {**case.files, **{f"d/{name}": content for name, content in files.items()}}
        )

    a, b = parquet(q=Q[:3], p=P[:3]), parquet(q=Q[3:], p=P[3:])
    yield "folder", folder(**{"a.parquet": a, "b.parquet": b}).gives(given=6, **ENGLISH)
    yield (
        "folder-spark",
        folder(**{"part-0.parquet": whole, "_SUCCESS": b"", "_metadata": b"PAR1"}).gives(given=6, **ENGLISH),
    )
    yield (
        "folder-hive",
        folder(**{"lang=en/part 0.parquet": a, "lang=fi/part 0.parquet": b}).gives(given=6, examples=6),
    )
    yield (
        "folder-hive-next-to-a-file",
        folder(**{"a.parquet": a, "lang=en/b.parquet": b}).gives(given=6, **ENGLISH),
    )
    yield (
        "folder-other-schema",
        folder(**{"a.parquet": a, "b.parquet": parquet(x=Q[3:], p=P[3:])}).fails("d/b.parquet", "'q'"),
    )
    yield (
        "folder-other-order",
        folder(**{"a.parquet": a, "b.parquet": parquet(p=P[3:], q=Q[3:])}).gives(given=6, **ENGLISH),
    )
    yield "folder-one-empty", folder(**{"a.parquet": whole, "b.parquet": b""}).fails("d/b.parquet", "Parquet")
    yield "folder-with-a-space", folder(**{"sub é/a b.parquet": whole}).gives(given=6, **ENGLISH)


def delimited() -> Iterator[tuple[str, Case]]:
    """CSV and TSV as spreadsheets and scripts write them."""

    def csv(content: Content, path: str = "train.csv", **mapping: Any) -> Case:
        return columns(content, path=path, **(mapping or PLAIN))

    lines = "".join(f"what {n},it {n}\n" for n in range(SIZE))
    yield "csv", csv("q,p\n" + lines).gives(given=6, **ENGLISH)
    yield (
        "csv-mark-crlf",
        csv(b"\xef\xbb\xbf" + ("q,p\n" + lines).replace("\n", "\r\n").encode()).gives(given=6, **ENGLISH),
    )
    yield (
        "csv-quoted",
        csv("q,p\n" + "".join(f'"what, {n}","it ""{n}"""\n' for n in range(SIZE))).gives(
            given=6, longest={"question en": 7, "passage en": 6}, **ENGLISH
        ),
    )
    yield (
        "csv-newline-in-quotes",
        csv("q,p\n" + "".join(f'"a\nb {n}","it\r\n{n}"\n' for n in range(SIZE))).gives(given=6, **ENGLISH),
    )
    yield "csv-spaces-after-commas", csv("q, p\n" + lines).fails("train.csv", "'p'")
    yield "csv-empty-last-lines", csv("q,p\n" + lines + "\n\n").gives(given=6, **ENGLISH)
    yield (
        "csv-extra-column",
        csv("q,p,score\n" + lines.replace("\n", ",1\n")).gives("score", given=6, **ENGLISH),
    )
    yield "csv-header-twice", csv("q,q,p\na,b,c\n").fails("train.csv", "'q'", "twice|two columns|duplicate")
    yield (
        "csv-one-field-more",
        csv("q,p\na,b\nc,d,e\n" + lines).fails("train.csv line 3", "3|expected 2|columns|fields"),
    )
    yield (
        "csv-one-field-less",
        csv("q,p\na,b\nc\n" + lines).fails("train.csv line 3", "1|expected 2|columns|fields"),
    )
    yield "csv-open-quote", csv('q,p\n"a,b\n' + lines).fails("train.csv", "quote|csv|ends")
    yield "csv-quote-inside", csv('q,p\n5" disk,it is\n' + lines).gives(given=7, examples=7)
    yield "csv-semicolons", csv("q;p\n" + lines.replace(",", ";")).gives(given=6, **ENGLISH)
    yield "csv-no-header", csv(lines).fails("train.csv", "'q'")
    yield "csv-empty", csv("").fails("train.csv", "empty")
    yield "csv-header-only", csv("q,p\n").fails("data.sources", "no example|empty|no row")
    yield (
        "csv-empty-field",
        csv("q,p\na,\n" + lines).fails("train.csv line 2|train.csv row", "p", "empty|null"),
    )
    yield "csv-null-words", csv("q,p\nNULL,NA\n" + lines).gives(given=7, examples=7)
    yield "csv-numbers", csv("q,p\n1,2.50\n" + lines).gives(given=7, examples=7, answers={"en": 7})
    yield (
        "csv-ids-with-zeros",
        csv("i,q,p\n" + "".join(f"00{n},a {n},b {n}\n" for n in range(6)), example_id="i", **PLAIN).gives(
            given=6, **ENGLISH
        ),
    )
    yield "csv-utf16", csv(("q,p\n" + lines).encode("utf-16")).fails("train.csv", "UTF-16")
    yield "csv-latin-1", csv(("q,p\nä,ö\n" + lines).encode("latin-1")).fails("train.csv", "UTF-8")
    yield "csv-nul", csv("q,p\na\0b,c\n" + lines).gives(given=7, examples=7)
    yield "csv-line-separator", csv("q,p\na\u2028b,c\u0085d\n" + lines).gives(given=7, examples=7)
    yield (
        "csv-by-language",
        columns(
            "question_en,question_fi,passage_en,passage_fi\n"
            + "".join(f"a{n},b{n},c{n},d{n}\n" for n in range(6)),
            "train.csv",
            0.5,
            question="question_{language}",
            passage="passage_{language}",
        ).gives(given=6, examples=6, languages="en fi"),
    )
    yield "csv-long-field", csv("q,p\n" + "a" * 300_000 + ",b\n" + lines).gives(given=7, examples=7)
    yield (
        "csv-as-jsonl",
        training("q,p\n" + lines, path="train.csv", columns=PLAIN).fails("train.csv|run.yaml", "csv"),
    )
    tabs = lines.replace(",", "\t")
    yield "tsv", csv("q\tp\n" + tabs, "train.tsv").gives(given=6, **ENGLISH)
    yield "tsv-quotes", csv('q\tp\n"a" b\t5"\n' + tabs, "train.tsv").gives(given=7, examples=7)
    yield "tsv-commas", csv("q,p\n" + lines, "train.tsv").fails("train.tsv", "'q'", "q,p")
    yield (
        "tsv-one-field-more",
        csv("q\tp\na\tb\tc\n" + tabs, "train.tsv").fails("train.tsv line 2", "3|expected 2"),
    )
    yield (
        "csv-gzip",
        training(
            __import__("gzip").compress(("q,p\n" + lines).encode()),
            path="train.csv.gz",
            format="csv",
            columns=PLAIN,
            alpha=1,
        ).gives(given=6, **ENGLISH),
    )


CASES = dict([*readable_types(), *refused_types(), *parquet_files(), *delimited()])

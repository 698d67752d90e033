"""Oddities of JSON: duplicate keys, numbers, arrays, pretty-printed and concatenated objects, wrong types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.odd_inputs.case import Case, encoded, rows, training

ROWS = rows()
LINES = encoded(ROWS).decode()
SECOND = json.dumps(ROWS[1])
ALL = {"examples": 6, "groups": 6, "languages": "en fi"}


def second(line: str) -> str:
    """The lines with another second line."""
    return LINES.replace(SECOND, line)


def files() -> Iterator[tuple[str, Case]]:
    """JSON that is not one object per line."""
    yield "array-file", training(json.dumps(ROWS)).fails("train.jsonl", "list", "one (JSON )?object")
    yield (
        "array-file-pretty",
        training(json.dumps(ROWS, indent=1)).fails("train.jsonl line 1", "JSON", "one (JSON )?object|line"),
    )
    yield (
        "pretty-objects",
        training("\n".join(json.dumps(row, indent=2) for row in ROWS)).fails(
            "train.jsonl line 1", "JSON", "line"
        ),
    )
    yield (
        "two-objects-in-a-line",
        training(LINES.replace("}\n{", "}{", 1)).fails("train.jsonl line 1", "JSON", "line"),
    )
    yield "commas-between-lines", training(LINES.replace("}\n", "},\n")).fails("train.jsonl line 1", "JSON")
    yield "python-dicts", training("\n".join(map(repr, ROWS))).fails("train.jsonl line 1", "JSON")
    yield "comment", training("# examples\n" + LINES).fails("train.jsonl line 1", "JSON")
    yield "header", training("id,question,passage\n" + LINES).fails("train.jsonl line 1", "JSON")
    yield "record-separators", training(LINES.replace('{"id', '\x1e{"id')).fails("train.jsonl line 1", "JSON")
    yield (
        "object-file",
        training(json.dumps({"data": ROWS})).fails("train.jsonl line 1", "'id' is missing", "data"),
    )
    yield "json-ending", training(json.dumps(ROWS), path="train.json").fails("train.json", "list|JSON")
    yield "one-line", training(ROWS[:1]).fails(r".*batch.*", "1")
    for name, line in {
        "trailing-comma": SECOND[:-1] + ",}",
        "single-quotes": SECOND.replace('"', "'"),
        "unquoted-key": SECOND.replace('"id"', "id"),
        "half": SECOND[: len(SECOND) // 2],
        "brace-behind": SECOND + "}",
        "text-behind": SECOND + " # x",
        "undefined": SECOND.replace('"q1"', "undefined"),
        "true-in-python": SECOND.replace('"q1"', "True"),
        "hexadecimal": SECOND.replace('"q1"', "0x1"),
        "leading-zero": SECOND.replace('"q1"', "01"),
        "plus": SECOND.replace('"q1"', "+1"),
        "bad-escape": SECOND.replace("what", "\\x41"),
        "short-escape": SECOND.replace("what", "\\u12"),
        "smart-quotes": SECOND.replace('"', "“"),
    }.items():
        yield f"line-{name}", training(second(line)).fails("train.jsonl line 2", "JSON", "line")
    for name, line in {"null": "null", "true": "true", "text": '"x"', "number": "1e5", "list": "[]"}.items():
        yield (
            f"line-is-{name}",
            training(second(line)).fails("train.jsonl line 2", "expected one JSON object"),
        )
    yield (
        "deep-object",
        training(second('{"a":' * 5_000 + "1" + "}" * 5_000)).fails("train.jsonl line 2", "JSON"),
    )
    yield "empty-object", training(second("{}")).fails("train.jsonl line 2", "missing", "no fields")
    yield "spaces-around", training(LINES.replace('{"id', '  {  "id')).gives(given=6, **ALL)
    yield "slashes-escaped", training(LINES.replace("what is", "what\\/is")).gives(given=6, **ALL)


def duplicates() -> Iterator[tuple[str, Case]]:
    """Two values under one key: none is dropped silently."""
    question = '"question": {"en": "first", "en": "second", "fi": "x"}'
    line = SECOND.replace('"question": ' + json.dumps(ROWS[1]["question"]), question)
    yield "twice-language", training(second(line)).fails("train.jsonl line 2", "'en'", "twice|duplicate")
    yield (
        "twice-field",
        training(second(SECOND[:-1] + ', "passage": {"en": "x", "fi": "y"}}')).fails(
            "train.jsonl line 2", "'passage'", "twice|duplicate"
        ),
    )
    yield (
        "twice-id",
        training(second(SECOND[:-1] + ', "id": "q9"}')).fails(
            "train.jsonl line 2", "'id'", "twice|duplicate"
        ),
    )
    yield (
        "twice-equal",
        training(second(SECOND[:-1] + ', "id": "q1"}')).fails(
            "train.jsonl line 2", "'id'", "twice|duplicate"
        ),
    )
    yield (
        "twice-unused",
        training(second(SECOND[:-1] + ', "note": 1, "note": 2}')).fails(
            "train.jsonl line 2", "'note'", "twice|duplicate"
        ),
    )
    spelled = {"en": "x", "fi": "y", "fin": "z"}
    yield "twice-spelled", training(rows(question=spelled)).fails("train.jsonl line 2", "'fi'", "twice")
    yield (
        "twice-nb-no",
        training(rows(question={"en": "x", "fi": "y", "nob": "z", "no": "w"})).fails(
            "train.jsonl line 2", "'nb'|'no'", "twice"
        ),
    )
    yield "example-twice", training([*ROWS, ROWS[0]]).fails("train.jsonl line 7", "'q0'", "line 1")
    yield (
        "example-twice-number",
        training([*rows(id=1), {**ROWS[2], "id": "1"}]).fails("train.jsonl line 7", "'1'"),
    )
    yield "equal-texts", training([*ROWS, {**ROWS[0], "id": "q9"}]).gives(given=7, examples=7, groups=6)


def values() -> Iterator[tuple[str, Case]]:
    """Values of another type than expected."""
    where = "train.jsonl line 2"
    for name, value in {"zero": 0, "negative": -3, "large": 2**70}.items():
        yield f"id-{name}", training(rows(id=value)).gives(given=6, **ALL)
    yield "id-exponent", training(second(SECOND.replace('"q1"', "1e3"))).fails(where, "'id'", "number")
    for name, text in {"nan": "NaN", "infinity": "Infinity", "minus": "-Infinity"}.items():
        yield (
            f"id-{name}",
            training(second(SECOND.replace('"q1"', text))).fails(where, "'id'|NaN|Infinity|JSON"),
        )
        extra = second(SECOND[:-1] + f', "pos_scores": [{text}]}}')
        yield f"unused-{name}", training(extra).gives("pos_scores", given=6, **ALL)
    for name, value in {
        "space": "q 1",
        "tab": "q\t1",
        "long": "q" * 5_000,
        "emoji": "🐟",
        "slash": "a/../b",
    }.items():
        yield f"id-{name}", training(rows(id=value)).gives(given=6, **ALL)
    for name, value in {
        "false": False,
        "float": 1.0,
        "list": ["q1"],
        "object": {"$oid": "5f"},
        "blank": " ",
    }.items():
        yield f"id-{name}", training(rows(id=value)).fails(where, "'id'")
    for key in ("question", "passage"):
        for name, value in {
            "list": ["a", "b"],
            "nested-list": [["en", "a"]],
            "number": 3,
            "true": True,
            "text": "plain",
            "of-lists": {"en": ["a"], "fi": ["b"]},
            "of-numbers": {"en": 1, "fi": 2},
            "of-nan": {"en": float("nan")},
            "of-objects": {"en": {"text": "a"}, "fi": {"text": "b"}},
            "empty": {},
            "all-null": {"en": None, "fi": None},
        }.items():
            yield f"{key}-{name}", training(rows(**{key: value})).fails(where, f"'?{key}'?")
    yield "question-null-language", training(rows(question={"en": "x", "fi": None})).fails(where, "fi")
    yield "negatives-null", training(second(SECOND[:-1] + ', "negatives": null}')).gives(given=6, **ALL)
    yield "negatives-empty", training(rows(negatives=[])).gives(given=6, negatives=0, **ALL)
    for name, value in {
        "null": [None],
        "texts": ["a"],
        "lists": [["a"]],
        "without-text": [{"id": "n"}],
    }.items():
        yield f"negatives-{name}", training(rows(negatives=value)).fails(where, "negatives")
    yield (
        "negative-is-the-passage",
        training(rows(negatives=[{"text": ROWS[1]["passage"]}])).gives(
            "1 hard negative", given=6, negatives=0, **ALL
        ),
    )
    same = [{"id": f"n{n}", "text": {"en": "x", "fi": "y"}} for n in range(2)]
    yield "negatives-equal", training(rows(negatives=same)).gives(given=6, **ALL)
    ids = [{"id": "n", "text": {"en": text, "fi": text}} for text in ("x", "y")]
    yield "negatives-one-id", training(rows(negatives=ids)).fails(where, "'n'", "different texts|twice")
    yield (
        "unused-fields",
        training(rows(prompt="find:", type="qa", pos_scores=[0.5])).gives(
            "pos_scores", "prompt", "type", given=6, **ALL
        ),
    )
    yield "misspelled-negatives", training(rows(negative=[])).gives("negative", given=6, **ALL)
    yield (
        "upper-case-keys",
        training([{k.upper(): v for k, v in row.items()} for row in ROWS]).fails(
            "train.jsonl line 1", "missing", "ID"
        ),
    )
    yield (
        "other-form-later",
        training([*ROWS, {"query": "a", "pos": ["b"]}]).fails("train.jsonl line 7", "missing"),
    )


def folders() -> Iterator[tuple[str, Case]]:
    """Folders of files."""
    half = {"d/a.jsonl": ROWS[:3], "d/b.jsonl": ROWS[3:]}
    case = training(None, path="d")

    def folder(**more: Any) -> Case:
        return Case(
            case.arguments,
            {**case.files, **half, **{f"d/{k.replace('__', '/')}": v for k, v in more.items()}},
        )

    yield "folder", folder().gives(given=6, **ALL)
    yield (
        "folder-macos",
        folder(**{"._a.jsonl": b"\0\5\x16\7" + bytes(40), ".DS_Store": b"\0"}).gives(given=6, **ALL),
    )
    yield "folder-hidden", folder(**{".cache.jsonl": ROWS[:1]}).gives(given=6, **ALL)
    yield "folder-notes", folder(**{"README.md": "x", "notes.txt": "x"}).gives(given=6, **ALL)
    yield "folder-empty-file", folder(**{"c.jsonl": ""}).fails("d/c.jsonl", "empty")
    yield (
        "folder-twice",
        folder(**{"c.jsonl": ROWS[:1]}).fails("d/c.jsonl line 1", "'q0'", "d/a.jsonl line 1"),
    )
    yield "folder-plain-and-gzip", folder(**{"c.jsonl.gz": b"x"}).fails("d/c.jsonl.gz", "gzip")
    yield "folder-backup", folder(**{"a.jsonl.bak": ROWS[:1], "a.jsonl~": ROWS[:1]}).gives(given=6, **ALL)
    yield "folder-checkpoints", folder(**{".ipynb_checkpoints__a.jsonl": ROWS[:1]}).gives(given=6, **ALL)
    sub = folder(**{"sub__c.jsonl": [{**row, "id": f"s{row['id']}"} for row in rows(8)]})
    yield "folder-with-sub-folder", sub.gives(given=14, examples=14, groups=8)
    only = Case(case.arguments, {**case.files, "d/x/y/a.jsonl": ROWS})
    yield "folder-nested", only.gives(given=6, **ALL)
    upper = Case(case.arguments, {**case.files, "d/A.JSONL": ROWS})
    yield "folder-upper-case", upper.fails("d", r"\.jsonl")
    yield "folder-json", Case(case.arguments, {**case.files, "d/a.json": ROWS}).fails("d", r"\.jsonl")
    yield "folder-is-empty", Case(case.arguments, {**case.files, "d": Path.mkdir}).fails("d", r"\.jsonl")


CASES = dict([*files(), *duplicates(), *values(), *folders()])

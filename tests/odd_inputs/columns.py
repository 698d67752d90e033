"""Column mappings: language suffixes, lists, other tools' lines, and languages per line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.odd_inputs.case import Case, columns, pairs, training

FLAG = {"question": "query", "passage": "pos", "negatives": "neg", "language": "en"}
BY_SUFFIX = {"question": "question_{language}", "passage": "passage_{language}"}
BOTH = {"examples": 6, "languages": "en fi", "questions": {"en": 6, "fi": 6}, "answers": {"en": 6, "fi": 6}}
ENGLISH = {"examples": 6, "languages": "en", "questions": {"en": 6}}


def wide(size: int = 6, **more: Any) -> list[dict[str, Any]]:
    """Lines with a field per language; in `more`, {n} is the number of the line."""
    return [
        {
            "question_en": f"what {n}",
            "question_fi": f"mikä {n}",
            "passage_en": f"it {n}",
            "passage_fi": f"se {n}",
            **{key: value.format(n=n) if isinstance(value, str) else value for key, value in more.items()},
        }
        for n in range(size)
    ]


def suffixes() -> Iterator[tuple[str, Case]]:
    """Columns whose suffix is no language train nothing."""
    plain = BY_SUFFIX
    yield "plain", columns(wide(), alpha=0.5, **plain).gives(given=6, **BOTH)
    ids = wide(question_id="x{n}", passage_id="p{n}")
    named = plain | {"example_id": "question_id", "passage_id": "passage_id"}
    yield "ids-named", columns(ids, alpha=0.5, **named).gives(given=6, **BOTH)
    yield "ids-unnamed", columns(ids, alpha=0.5, **plain).gives("question_id", "passage_id", given=6, **BOTH)
    for suffix in (
        "id",
        "url",
        "src",
        "num",
        "len",
        "key",
        "type",
        "text",
        "raw",
        "ner",
        "pos",
        "tag",
        "new",
        "old",
        "min",
        "max",
        "sum",
        "avg",
        "std",
        "ext",
        "doc",
        "ref",
        "seq",
        "set",
        "lang",
        "score",
        "tokens",
        "ids",
        "no_accents",
        "hash",
        "is_impossible",
        "answer",
        "count",
        "0",
        "1",
    ):
        content = wide(**{f"question_{suffix}": "u{n}", f"passage_{suffix}": "v{n}"})
        yield (
            f"suffix-{suffix}",
            columns(content, alpha=0.5, **plain).gives(f"question_{suffix}", given=6, **BOTH),
        )
    yield "suffix-id-requested", columns(ids, alpha=0.5, **plain).beside().gives(given=6, **BOTH)
    for suffix, code in {
        "fin": "fi",
        "fi_FI": "fi-fi|fi",
        "fin_Latn": "fi",
        "FI": "fi",
        "fi-latn": "fi",
    }.items():
        content = [{key.replace("_fi", f"_{suffix}"): value for key, value in row.items()} for row in wide()]
        yield f"spelled-{suffix}", columns(content, alpha=0.5, **plain).gives(given=6, **BOTH)
        del code
    yield "twice", columns(wide(question_fin="k{n}"), alpha=0.5, **plain).fails("train.jsonl line 1", "'fi'")
    yield "none", columns(pairs(), **plain).fails("train.jsonl line 1", "question_{language}")
    yield (
        "prefix",
        columns(
            [{"en.q": f"a{n}", "fi.q": f"b{n}", "en.p": f"c{n}", "fi.p": f"d{n}"} for n in range(6)],
            alpha=0.5,
            question="{language}.q",
            passage="{language}.p",
        ).gives(given=6, **BOTH),
    )
    yield (
        "placeholder-twice",
        columns(wide(), question="{language}_{language}", passage="passage_{language}").fails(
            "run.yaml|train.jsonl", "language"
        ),
    )
    yield (
        "placeholder-misspelled",
        columns(wide(), question="question_{lang}", passage="passage_{lang}").fails(
            "train.jsonl line 1", "question_{lang}"
        ),
    )
    yield (
        "null-cells",
        columns(wide(question_fi=None), alpha=0.5, **plain).fails(
            "train.jsonl line 1", "'fi'", "missing: skip"
        ),
    )
    yield (
        "null-cells-skipped",
        training(wide(question_fi=None), columns=plain, missing="skip").gives(
            given=6, examples=6, questions={"en": 6, "fi": 0} | {}
        ),
    )
    yield (
        "empty-cells",
        columns(wide(question_fi=""), alpha=0.5, **plain).fails("train.jsonl line 1", "'fi'", "empty"),
    )


def lines() -> Iterator[tuple[str, Case]]:
    """Lines of FlagEmbedding, sentence-transformers, Tevatron and others."""
    where = "train.jsonl line 2"
    yield "flag", columns(pairs(), **FLAG).gives(given=6, negatives=1, **ENGLISH)
    yield (
        "flag-scores",
        columns(pairs(pos_scores=[1.0], neg_scores=[0.1], prompt="x", type="t"), **FLAG).gives(
            "prompt", "type", given=6, **ENGLISH
        ),
    )
    unnamed = columns(pairs(), language="en")
    yield "flag-unnamed", unnamed.gives(given=6, negatives=1, **ENGLISH)
    yield (
        "flag-no-language",
        columns(pairs(), question="query", passage="pos", negatives="neg").fails(
            "train.jsonl line 1", "language"
        ),
    )
    yield "flag-no-columns", training(pairs()).fails("train.jsonl line 1", "columns")
    yield "flag-two-passages", columns(pairs(pos=["a", "b"]), **FLAG).gives(examples=7, languages="en")
    yield "flag-equal-passages", columns(pairs(pos=["a", "a"]), **FLAG).gives(examples=7, passages=12)
    yield "flag-misspelled", columns(pairs(), **(FLAG | {"negatives": "negs"})).fails("train.jsonl", "'negs'")
    for name, value in {
        "empty-list": [],
        "null": None,
        "list-of-null": [None],
        "list-of-lists": [["a"]],
        "number": 3,
        "empty-text": [""],
        "list-of-numbers": [1],
        "false": False,
        "blank": [" "],
        "invisible": ["\u200b"],
    }.items():
        yield f"flag-pos-{name}", columns(pairs(pos=value), **FLAG).fails(where, "'?pos")
    for name, value in {"empty-text": [""], "list-of-null": [None], "number": 3, "nested": [["a"]]}.items():
        yield f"flag-neg-{name}", columns(pairs(neg=value), **FLAG).fails(where, "neg")
    yield "flag-neg-text", columns(pairs(neg="it is not"), **FLAG).gives(given=6, negatives=1, **ENGLISH)
    yield (
        "flag-neg-is-pos",
        columns(pairs(neg=["it is number 1"]), **FLAG).gives(
            "1 hard negative|\\b1\\b.*passage itself", given=6, **ENGLISH
        ),
    )
    yield "flag-neg-twice", columns(pairs(neg=["x", "x"]), **FLAG).gives(given=6, **ENGLISH)
    for name, value in {
        "list": ["a"],
        "number": 1,
        "null": None,
        "empty": "",
        "object": {"text": "a"},
    }.items():
        yield f"flag-query-{name}", columns(pairs(query=value), **FLAG).fails(where, "query|'text'")
    triplets = [{"anchor": f"a {n}", "positive": f"p {n}", "negative": f"n {n}"} for n in range(6)]
    mapping = {"question": "anchor", "passage": "positive", "negatives": "negative", "language": "en"}
    yield "triplets", columns(triplets, **mapping).gives(given=6, negatives=1, **ENGLISH)
    yield "triplets-unnamed", columns(triplets, language="en").gives(given=6, negatives=1, **ENGLISH)
    several = [{**row, "negative_1": "x", "negative_2": "y"} for row in triplets]
    for row in several:
        del row["negative"]
    yield (
        "triplets-numbered",
        columns(several, **(mapping | {"negatives": "negative_{number}"})).gives(
            given=6, negatives=2, **ENGLISH
        ),
    )
    scored = [{"sentence1": f"a {n}", "sentence2": f"b {n}", "score": 0.5} for n in range(6)]
    yield (
        "sts",
        columns(scored, question="sentence1", passage="sentence2", language="en").gives(
            "score", given=6, **ENGLISH
        ),
    )
    passages = [{"docid": f"d{n}", "title": f"T{n}", "text": f"text {n}"} for n in range(6)]
    tevatron = [
        {"query_id": str(n), "query": f"q {n}", "positive_passages": [passages[n]], "negative_passages": []}
        for n in range(6)
    ]
    named = {
        "example_id": "query_id",
        "question": "query",
        "passage": "positive_passages",
        "negatives": "negative_passages",
        "language": "en",
    }
    yield (
        "tevatron",
        columns(tevatron, **named).gives(given=6, longest={"question en": 3, "passage en": 9}, **ENGLISH),
    )
    for name, change in {
        "no-title": {"docid": "d9", "text": "text"},
        "null-title": {"docid": "d9", "title": None, "text": "text"},
        "number-id": {"docid": 9, "title": "", "text": "text"},
        "no-id": {"title": "T", "text": "text"},
        "extra": {"docid": "d9", "title": "T", "text": "text", "url": "x"},
    }.items():
        yield (
            f"tevatron-{name}",
            columns([*tevatron[1:], tevatron[0] | {"positive_passages": [change]}], **named).gives(
                given=6, **ENGLISH
            ),
        )
    for name, change in {
        "empty": {"docid": "d9", "title": "", "text": ""},
        "float-id": {"docid": 1.5, "text": "x"},
        "no-text": {"docid": "d9", "contents": "x"},
        "list": {"docid": "d9", "text": ["x"]},
    }.items():
        changed = [tevatron[0], tevatron[1] | {"positive_passages": [change]}, *tevatron[2:]]
        yield f"tevatron-{name}", columns(changed, **named).fails(where, "positive_passages|text|docid")
    one_id = [
        row | {"positive_passages": [{"docid": "d", "text": f"x{n}"}]} for n, row in enumerate(tevatron)
    ]
    yield "tevatron-one-id", columns(one_id, **named).fails(where, "'d'", "different texts")
    twice = [row | {"query_id": "1"} for row in tevatron]
    yield "tevatron-id-twice", columns(twice, **named).fails(where, "'1'")


def languages_of_lines() -> Iterator[tuple[str, Case]]:
    """A field with the language of each line."""
    named = {"question": "query", "passage": "pos", "negatives": "neg"}

    def lines_in(*codes: Any) -> list[dict[str, Any]]:
        return [{**row, "lang": codes[n % len(codes)]} for n, row in enumerate(pairs())]

    def per_line(content: Any) -> Case:
        return training(content, columns=named | {"language_column": "lang"}, alpha=1, missing="skip")

    half = {"examples": 6, "languages": "en fi", "questions": {"en": 3, "fi": 3}}
    yield "language-column", per_line(lines_in("en", "fi")).gives(given=6, **half)
    for name, codes in {
        "iso3": ("eng", "fin"),
        "flores": ("eng_Latn", "fin_Latn"),
        "upper": ("EN", "FI"),
        "mixed": ("en", "fin"),
        "names": ("English", "Finnish"),
        "lower-names": ("english", "finnish"),
        "spaces": (" en", "fi "),
    }.items():
        case = per_line(lines_in(*codes))
        refused = name == "spaces"
        yield (
            f"language-column-{name}",
            (case.fails("train.jsonl line 1", "language code") if refused else case.gives(given=6, **half)),
        )
    for name, code in {
        "null": None,
        "empty": "",
        "number": 1,
        "list": ["en"],
        "unknown": "xx",
        "und": "und",
    }.items():
        yield (
            f"language-column-{name}",
            per_line(lines_in("en", code)).fails("train.jsonl line 2", "language"),
        )
    yield "language-column-absent", per_line(pairs()).fails("train.jsonl line 1", "'lang'")
    for setting in ("lang", "lng"):
        content = [{**row, setting: "fi"} for row in pairs()]
        yield (
            f"language-is-a-field-{setting}",
            columns(content, **(FLAG | {"language": setting})).fails(
                "run.yaml|train.jsonl", setting, "language_column"
            ),
        )
    yield (
        "language-and-column",
        columns(lines_in("en"), **(FLAG | {"language_column": "lang"})).fails(
            "run.yaml", "language", "exclude"
        ),
    )
    across = [{**row, "lang": "fi", "doc_lang": "en"} for row in pairs()]
    both = named | {"language_column": "lang", "passage_language_column": "doc_lang"}
    yield (
        "passage-language-column",
        training(across, columns=both, alpha=0, missing="skip").gives(
            given=6, questions={"en": 0, "fi": 6}, answers={"en": 6, "fi": 0}
        ),
    )


CASES = dict([*suffixes(), *lines(), *languages_of_lines()])

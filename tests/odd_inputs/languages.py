"""Languages in every spelling, in data, settings and on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.odd_inputs.case import (
    CANDIDATES,
    QUESTIONS,
    Case,
    beir,
    benchmark,
    columns,
    pairs,
    rows,
    run_file,
    training,
)

FLAG = {"question": "query", "passage": "pos", "negatives": "neg"}


def renamed(**codes: str) -> list[dict[str, Any]]:
    """Valid lines with other codes for en and fi."""
    return [
        row
        | {
            key: {codes.get(code, code): text for code, text in row[key].items()}
            for key in ("question", "passage")
        }
        for row in rows()
    ]


def in_data() -> Iterator[tuple[str, Case]]:
    """Codes of the texts' objects."""
    for written, code in {
        "eng": "en",
        "eng_Latn": "en",
        "EN": "en",
        "en-US": "en",
        "en_US": "en",
        "eng-Latn-US": "en",
        "kor_Hang": "ko",
        "kor_Kore": "ko",
        "jpn_Jpan": "ja",
        "zho_Hans": "zh",
        "zh_cn": "zh",
        "zh-CN": "zh",
        "zho-CN": "zh",
        "cmn_Hans": "zh",
        "arb_Arab": "ar",
        "arb": "ar",
        "pes_Arab": "fa",
        "nob": "no",
        "nob_Latn": "no",
        "nb": "no",
        "swh_Latn": "sw",
        "ekk": "et",
        "lvs_Latn": "lv",
        "als_Latn": "sq",
        "zsm_Latn": "ms",
        "iw": "he",
        "in": "id",
        "hin_Deva": "hi",
        "srp_Cyrl": "sr",
        "yue_Hant": "yue",
        "fra": "fr",
        "fre": "fr",
        "ger": "de",
        "tgl_Latn": "tl",
        "fil": "tl",
        "english": "en",
        "English": "en",
        "Hebrew": "he",
        "CHINESE": "zh",
        "zh-min-nan": "nan",
        "zh-yue": "yue",
        "simple": "en",
        "be-tarask": "be",
        "x-klingon": "x-klingon",
    }.items():
        case = training(renamed(en=written))
        figures = {code: 6, "fi": 6}
        yield f"code-{written}", case.gives(given=6, examples=6, questions=figures)
    for first, second in {
        "zho_Hant": "zh_tw",
        "zh_hk": "zh-HK",
        "kor_Hang": "ko",
        "nor": "no",
        "pt-br": "pt_BR",
        "jv": "jav_Latn",
        "zh-Hant-TW": "zh-TW",
        "sr-Latn": "srp_Latn",
        "zho_Hans": "zh_cn",
        "nob": "no",
        "nb": "nor",
        "English": "eng",
    }.items():
        content = [
            row | {"question": {**row["question"], second: f"x {row['id']}"}} for row in renamed(en=first)
        ]
        yield f"equal-{first}-{second}", training(content).fails("train.jsonl line 1", "twice")
    for written in (
        "englisch",
        "en_",
        "-en",
        "e",
        "engl",
        "en fi",
        "en,fi",
        "en-",
        "x-",
        "1",
        "",
        " en",
        "eп",
        "zh-min-nan-x",
        "en_US.UTF-8",
        "question",
    ):
        yield (
            f"refused-{written or 'empty'}",
            training(renamed(en=written)).fails("train.jsonl line 1", "not a language|language code"),
        )
    for written in ("xx", "qq", "zz"):
        yield (
            f"unknown-{written}",
            training(renamed(en=written)).fails("train.jsonl line 1", f"'{written}'", "language"),
        )


def in_settings() -> Iterator[tuple[str, Case]]:
    """Codes in run files and overrides: the same function reads them."""
    norwegian = renamed(en="en", fi="no")
    for name, languages in {
        "iso3": "[eng, nor]",
        "flores": "[eng_Latn, nor]",
        "quoted": "[en, 'no']",
    }.items():
        yield (
            f"data-{name}",
            training(norwegian, f"data.languages={languages}").gives(given=6, languages="en no"),
        )
    yield (
        "data-no",
        training(norwegian, "data.languages=[en, no]").fails("run.yaml, override", "no", "false", "'no'"),
    )
    for word in ("yes", "on", "off", "y"):
        yield (
            f"data-{word}",
            training(norwegian, f"data.languages=[en, {word}]").fails(
                "run.yaml, override", "'?(yes|on|off|y)'?|true|false|language code"
            ),
        )
    yield "data-number", training(rows(), "data.languages=[en, 5]").fails("run.yaml, override", "5", "text")
    yield (
        "data-null",
        training(rows(), "data.languages=[en, null]").fails("run.yaml, override", "null|None|~", "text"),
    )
    yield "data-text", training(rows(), "data.languages=en").fails("run.yaml, override", "list")
    yield "data-text-with-comma", training(rows(), "data.languages=en,fi").fails("run.yaml, override", "list")
    yield (
        "data-twice",
        training(rows(), "data.languages=[en, eng]").fails("run.yaml, override", "en", "more than once"),
    )
    yield (
        "data-absent",
        training(rows(), "data.languages=[en, fi, sv]").fails("train.jsonl line 1", "'sv'", "skip"),
    )
    yield "data-empty", training(rows(), "data.languages=[]").fails("run.yaml, override", "empty")
    yield "source-no", training(norwegian, languages=["en", False]).fails("run.yaml line", "false", "'no'")
    yield (
        "source-outside",
        training(rows(), "data.languages=[en]", languages=["en", "fi"]).fails("run.yaml", "fi"),
    )
    for name, key in {"languages": "batches.languages", "pairs": "batches.pairs"}.items():
        weights = "{eng: 1, nor: 1}" if name == "languages" else "{eng-nor: 1}"
        yield f"batches-{name}-iso3", training(norwegian, f"{key}={weights}").gives(given=6, examples=6)
        weights = "{en: 1, sv: 1}" if name == "languages" else "{en-sv: 1}"
        yield f"batches-{name}-absent", training(norwegian, f"{key}={weights}").fails(".*batches", "sv")
    yield (
        "batches-languages-no",
        training(norwegian, "batches.languages={en: 1, no: 1}").fails(
            "run.yaml, override", "no", "false", "'no'"
        ),
    )
    yield (
        "batches-pairs-flores",
        training(norwegian, "batches.pairs={eng_Latn-nor: 1}").gives(given=6, examples=6),
    )
    yield (
        "batches-pair-twice",
        training(norwegian, "batches.pairs={en-no: 1, eng-nor: 2}").fails(".*pairs", "en-no"),
    )
    yield (
        "batches-language-twice",
        training(norwegian, "batches.languages={en: 1, eng: 2, 'no': 1}").fails(".*languages", "en"),
    )
    yield "batches-pair-form", training(norwegian, "batches.pairs={en_no: 1}").fails(".*pairs", "en_no|pair")
    mixture = "batches={global_batch_size: 2, mixture: [{kind: monolingual, languages: [eng]}]}"
    yield "mixture-iso3", training(norwegian, mixture).gives(given=6, examples=6)
    yield (
        "mixture-no",
        training(norwegian, mixture.replace("eng", "no")).fails("run.yaml, override", "false", "'no'"),
    )
    yield "columns-no", columns(pairs(), **FLAG, language=False).fails("run.yaml line", "false", "'no'")
    yield "columns-quoted-no", columns(pairs(), **FLAG, language="no").gives(given=6, languages="no")
    yield "columns-list", columns(pairs(), **FLAG, language=["en", "fi"]).fails("run.yaml line", "text")
    yield "columns-name", columns(pairs(), **FLAG, language="englisch").fails("run.yaml line", "'englisch'")
    yield "columns-unknown", columns(pairs(), **FLAG, language="xx").fails("run.yaml", "'xx'", "language")
    yield (
        "file-no",
        Case(
            ["data", "inspect", "run.yaml", "--json"],
            {
                "run.yaml": str(run_file()).replace("'alpha': 0.5", "'languages': {no: 1}"),
                "train.jsonl": norwegian,
            },
        ).fails("run.yaml line 1, batches.languages", "false", "'no'"),
    )


def in_benchmarks() -> Iterator[tuple[str, Case]]:
    """Codes in benchmarks and in the options of evaluate."""
    for written, code in {
        "eng_Latn": "en",
        "ENG": "en",
        "kor_Hang": "ko",
        "zho_Hans": "zh",
        "no": "no",
    }.items():
        changed = [[row | {"language": written} for row in side] for side in (QUESTIONS, CANDIDATES)]
        yield f"benchmark-{written}", benchmark(*changed).gives(given=2, languages=code, map=0.75)
        yield (
            f"benchmark-only-{written}",
            benchmark(*changed, "--languages", code).gives(given=2, languages=code),
        )
    mixed = [row | {"language": "eng" if row["id"] == "p3" else "en"} for row in CANDIDATES]
    yield (
        "benchmark-mixed",
        benchmark(QUESTIONS, mixed).gives(given=2, languages="en", candidates=4, map=0.75),
    )
    for name, option in {
        "absent": "sv",
        "name": "englisch",
        "one-absent": "en,sv",
        "twice": "en,eng",
        "empty-part": "en,,",
        "comma": ",",
        "space": "en fi",
        "semicolon": "en;fi",
    }.items():
        case = benchmark(QUESTIONS, CANDIDATES, "--languages", option)
        if name in ("empty-part", "comma"):
            yield f"option-{name}", case.gives(given=2, languages="en", map=0.75)
        else:
            yield (
                f"option-{name}",
                case.fails(
                    "command line, languages|benchmark jsonl|.*bench", "language|has no|more than once"
                ),
            )
    yield (
        "option-no",
        benchmark(
            [row | {"language": "no"} for row in QUESTIONS],
            [row | {"language": "nor"} for row in CANDIDATES],
            "--languages",
            "no",
        ).gives(given=2, languages="no", map=0.75),
    )
    for name, option in {"iso3": "eng", "flores": "eng_Latn,fin_Latn"}.items():
        yield (
            f"training-languages-{name}",
            benchmark(QUESTIONS, CANDIDATES, "--training-languages", option).gives(given=2, map=0.75),
        )
    yield (
        "training-languages-name",
        benchmark(QUESTIONS, CANDIDATES, "--training-languages", "englisch").fails(
            ".*training.languages", "englisch"
        ),
    )
    for value in (None, 5, "", "englisch", "xx", ["en"]):
        changed = [QUESTIONS[0], QUESTIONS[1] | {"language": value}]
        yield f"benchmark-language-{value}", benchmark(changed).fails(".*questions.jsonl line 2", "language")
    yield "beir-two", beir("--languages", "en,fi").fails("bench", "2 languages")


CASES = dict([*in_data(), *in_settings(), *in_benchmarks()])

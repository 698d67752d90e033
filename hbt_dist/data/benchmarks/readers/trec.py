"""Query and corpus collections: BEIR/MTEB folders, MIRACL, Mewsli-X.

Each reader has a function that lists its files: large collections are converted once and stay on disk.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.builder import BenchmarkBuilder
from hbt_dist.data.benchmarks.readers.own import find_file
from hbt_dist.data.benchmarks.readers.qrels import read_qrels
from hbt_dist.data.corpus.readers.base import chosen_languages
from hbt_dist.data.fields import (
    check_text,
    id_field,
    int_field,
    language_at,
    object_items,
    required,
    text_field,
    titled_text,
)
from hbt_dist.data.files import kind_of, read_json_lines, read_lines
from hbt_dist.data.languages import language_code

_BRACES = re.compile(r"\{(.*?)\}")


def _language_folders(folder: Path, languages: tuple[str, ...] | None, prefix: str = "") -> dict[str, Path]:
    """Language -> subfolder named by it, behind `prefix`."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or not path.name.startswith(prefix):
            continue
        try:
            language = language_code(path.name.removeprefix(prefix))
        except ValueError:
            continue
        if language in found:
            raise UserError(str(path), f"is a second folder of {language!r} beside {found[language].name}")
        found[language] = path
    if not found:
        raise UserError(
            str(folder), f"holds no folder named by a language, such as {prefix}en", "check the folder"
        )
    return chosen_languages(found, languages, "refuse", str(folder))


def beir_files(folder: Path, variant: str, languages: tuple[str, ...] | None) -> list[Path]:
    """The files that `read_beir` reads."""
    return [
        file
        for path in _beir_folders(folder, languages).values()
        for file in (
            find_file(path, "corpus.jsonl"),
            find_file(path, "queries.jsonl"),
            find_file(path / "qrels", "test.tsv"),
        )
    ]


def is_one_data_set(folder: Path) -> bool:
    """Whether a folder is one data set as BEIR publishes it, which doesn't say its language."""
    return any((folder / name).is_file() for name in ("corpus.jsonl", "corpus.jsonl.gz"))


def _beir_folders(folder: Path, languages: tuple[str, ...] | None) -> dict[str, Path]:
    """Language -> folder: subfolders named by it, or the folder itself for the one language asked for."""
    if not is_one_data_set(folder):
        return _language_folders(folder, languages)
    if languages is None or len(languages) != 1:
        asked = "no language is named" if languages is None else f"{len(languages)} languages are asked for"
        raise UserError(
            str(folder),
            f"holds one corpus.jsonl at its top, and {asked}",
            "name the one language of its texts: --languages en, languages: [en] in a run file;\n"
            "texts of several languages lie in a subfolder each: en/corpus.jsonl, fi/corpus.jsonl",
        )
    return {languages[0]: folder}


def read_beir(folder: Path, variant: str, languages: tuple[str, ...] | None, into: BenchmarkBuilder) -> None:
    """Read `{language}/corpus.jsonl`, `{language}/queries.jsonl`, `{language}/qrels/test.tsv` (`.gz` too).

    The folder of one data set as BEIR and MTEB publish it, with these files at its top, is read where exactly
    one language is asked for: the files don't say which it is. Variant `separate`: an id means something only
    inside its language. Variant `parallel`: the same id in two languages is the same question or document in
    translation, so that relevance crosses languages.
    """
    for language, path in _beir_folders(folder, languages).items():
        prefix, within = (f"{language}:", language) if variant == "separate" else ("", None)
        qrels = find_file(path / "qrels", "test.tsv")
        judged = list(read_qrels(qrels))
        _check_judged(judged, qrels, language)
        for place, row in read_json_lines(find_file(path, "corpus.jsonl")):
            into.add_candidate(id_field(row, "_id", place), language, titled_text(row, place), place)
        asked = {query for _, query, *_ in judged}  # BEIR's queries.jsonl holds those of the other splits too
        for place, row in read_json_lines(find_file(path, "queries.jsonl")):
            query = id_field(row, "_id", place)
            if query in asked:
                into.add_question(prefix + query, language, text_field(row, "text", place), place)
        for place, query, item, grade in judged:
            into.add_relevant(prefix + query, item, place, within, grade)


def read_miracl(
    folder: Path, variant: str, languages: tuple[str, ...] | None, into: BenchmarkBuilder
) -> None:
    """Read MIRACL as its two hub repositories lay it out, side by side in one folder.

    `miracl-v1.0-{language}/topics/topics.miracl-v1.0-{language}-{split}.tsv`, `.../qrels/qrels.*.tsv`, and
    `miracl-corpus-v1.0-{language}/docs-*.jsonl[.gz]` with docid, title and text. Relevance stays inside a
    language.
    """
    for language, (topics, qrels, shards) in _miracl(folder, variant, languages).items():
        for place, query, text in _topics(topics):
            into.add_question(f"{language}:{query}", language, text, place)
        judged = list(read_qrels(qrels))
        _check_judged(judged, qrels, language)
        for place, query, item, grade in judged:
            into.add_relevant(f"{language}:{query}", item, place, language, grade)
        for shard in shards:
            for place, row in read_json_lines(shard):
                into.add_candidate(id_field(row, "docid", place), language, titled_text(row, place), place)


def miracl_files(folder: Path, variant: str, languages: tuple[str, ...] | None) -> list[Path]:
    """The files that `read_miracl` reads."""
    found = _miracl(folder, variant, languages).values()
    return [path for topics, qrels, shards in found for path in (topics, qrels, *shards)]


def _miracl(
    folder: Path, variant: str, languages: tuple[str, ...] | None
) -> dict[str, tuple[Path, Path, list[Path]]]:
    """Language -> topics, qrels and the files of the corpus."""
    corpora = _language_folders(folder, languages, "miracl-corpus-v1.0-")
    topics = _language_folders(folder, tuple(corpora), "miracl-v1.0-")
    found = {}
    for language, corpus in corpora.items():
        shards = sorted([*corpus.glob("*.jsonl.gz"), *corpus.glob("*.jsonl")])
        if not shards:
            raise UserError(str(corpus), "holds no docs-*.jsonl.gz", "check the folder")
        asked = topics[language]
        stem = f"miracl-v1.0-{asked.name.rsplit('-', 1)[-1]}-{variant}.tsv"
        found[language] = (asked / "topics" / f"topics.{stem}", asked / "qrels" / f"qrels.{stem}", shards)
    return found


def _check_judged(judged: list[tuple[str, str, str, float]], path: Path, language: str) -> None:
    if not judged:
        raise UserError(
            str(path), f"names no relevant candidate for {language!r}", "drop the language, or check the file"
        )


def _topics(path: Path) -> Iterator[tuple[str, str, str]]:
    for number, line in read_lines(path):
        if not line.strip():
            continue
        place = f"{path} line {number}"
        query, tab, text = line.partition("\t")
        if not tab:
            raise UserError(place, "has no tab", "expected query id, tab, text")
        yield place, query.strip(), check_text(text, place, "the query")


def mewsli_x_files(folder: Path, variant: str, languages: tuple[str, ...] | None) -> list[Path]:
    """The files that `read_mewsli_x` reads."""
    return [
        find_file(folder, "candidate_set_entities.jsonl"),
        find_file(folder, f"wikinews_mentions-{variant}.jsonl"),
    ]


def read_mewsli_x(
    folder: Path, variant: str, languages: tuple[str, ...] | None, into: BenchmarkBuilder
) -> None:
    """Read Mewsli-X: `candidate_set_entities.jsonl` and `wikinews_mentions-{split}.jsonl` (texts restored).

    Texts are those of XTREME-R's baseline: a question is the mention, a colon, and the sentence it stands in
    with the mention between braces; a candidate is an entity's description, in the one language it has.
    """
    for place, row in read_json_lines(find_file(folder, "candidate_set_entities.jsonl")):
        language = language_at(required(row, "description_language", place), place)
        into.add_candidate(
            id_field(row, "entity_id", place),
            language,
            _one_line(text_field(row, "description", place)),
            place,
        )
    for place, row in read_json_lines(find_file(folder, f"wikinews_mentions-{variant}.jsonl")):
        context = required(row, "context", place)
        if not isinstance(context, dict):
            raise UserError(place, f"field 'context' is {kind_of(context)}", "expected an object")
        if context.get("text") == "":
            raise UserError(
                place, "the article's text is empty", "restore the texts with get-mewsli-x.sh first"
            )
        language = language_at(required(context, "language", place), place)
        text = text_field(context, "text", place)
        sentences = [
            _span(span, inner, text) for inner, span in object_items(context, "sentence_spans", place)
        ]
        article = id_field(context, "document_id", place)
        for inner, mention in object_items(row, "mentions", place):
            question_id = id_field(mention, "example_id", inner)
            marked = _marked(_span(required(mention, "mention_span", inner), inner, text), sentences, text)
            into.add_question(question_id, language, marked, inner, cluster=article)
            into.add_relevant(question_id, id_field(mention, "entity_id", inner), inner)


def _span(row: object, place: str, text: str) -> tuple[int, int]:
    if not isinstance(row, dict):
        raise UserError(place, f"a span is {kind_of(row)}", 'expected {"start": ..., "end": ...}')
    start, end = int_field(row, "start", place), int_field(row, "end", place)
    if not 0 <= start < end <= len(text):
        raise UserError(place, f"span {start} to {end} is outside its text of {len(text)} characters")
    return start, end


def _marked(mention: tuple[int, int], sentences: list[tuple[int, int]], text: str) -> str:
    """The sentence that holds the mention (the whole text if none does), with the mention marked."""
    start, end = mention
    first, last = next(((b, e) for b, e in sentences if b <= start and end <= e), (0, len(text)))
    before, after = (_BRACES.sub(r"(\1)", part) for part in (text[first:start], text[end:last]))
    return _one_line(f"{text[start:end]}: {before} {{ {text[start:end]} }} {after}")


def _one_line(text: str) -> str:
    return " ".join(text.split())

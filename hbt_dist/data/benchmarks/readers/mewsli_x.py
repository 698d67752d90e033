"""Read Mewsli-X: the mention of an entity in its sentence to the entity's description."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.benchmarks.builder import BenchmarkBuilder
from hbt_dist.data.fields import id_field, int_field, language_field, object_field, object_items, text_field
from hbt_dist.data.files import find_file, read_json_lines

_BRACES = re.compile(r"\{(.*?)\}")


def mewsli_x_files(folder: Path, variant: str, languages: tuple[str, ...] | None) -> list[Path]:
    """Return the files that `read_mewsli_x` reads."""
    return [
        find_file(folder, "candidate_set_entities.jsonl"),
        find_file(folder, f"wikinews_mentions-{variant}.jsonl"),
    ]


def read_mewsli_x(
    folder: Path, variant: str, languages: tuple[str, ...] | None, into: BenchmarkBuilder
) -> None:
    """Read Mewsli-X: `candidate_set_entities.jsonl` and `wikinews_mentions-{split}.jsonl` (texts restored).

    Texts are those of XTREME-R's baseline: a question is the mention, a colon, and its sentence with
    the mention between braces; a candidate is an entity's description, in its only language.
    """
    for location, row in read_json_lines(find_file(folder, "candidate_set_entities.jsonl")):
        into.add_candidate(
            id_field(row, "entity_id", location),
            language_field(row, "description_language", location),
            _one_line(text_field(row, "description", location)),
            location,
        )
    for location, row in read_json_lines(find_file(folder, f"wikinews_mentions-{variant}.jsonl")):
        context = object_field(row, "context", location)
        if context.get("text") == "":
            raise UserError(
                location, "the article's text is empty", "restore the texts with get-mewsli-x.sh first"
            )
        language = language_field(context, "language", location)
        text = text_field(context, "text", location)
        sentences = [
            _span(span, inner, text) for inner, span in object_items(context, "sentence_spans", location)
        ]
        article = id_field(context, "document_id", location)
        for inner, mention in object_items(row, "mentions", location):
            question_id = id_field(mention, "example_id", inner)
            marked = _marked(
                _span(object_field(mention, "mention_span", inner), inner, text), sentences, text
            )
            into.add_question(question_id, language, marked, inner, cluster=article)
            into.add_relevant(question_id, id_field(mention, "entity_id", inner), inner)


def _span(row: dict[str, Any], location: str, text: str) -> tuple[int, int]:
    start, end = int_field(row, "start", location), int_field(row, "end", location)
    if not 0 <= start < end <= len(text):
        problem = f"span {start} to {end} is outside its text of {len(text)} characters"
        raise UserError(location, problem, "restore the texts again with get-mewsli-x.sh")
    return start, end


def _marked(mention: tuple[int, int], sentences: list[tuple[int, int]], text: str) -> str:
    """Return the sentence (or else the whole text) that holds the mention, with the mention marked."""
    start, end = mention
    first, last = next(((b, e) for b, e in sentences if b <= start and end <= e), (0, len(text)))
    before, after = (_BRACES.sub(r"(\1)", part) for part in (text[first:start], text[end:last]))
    return _one_line(f"{text[start:end]}: {before} {{ {text[start:end]} }} {after}")


def _one_line(text: str) -> str:
    return " ".join(text.split())

"""EXAMS as its authors publish it: questions with labelled choices, and a list of parallel questions.

    multilingual/train.jsonl.tar.gz  {"id", "question": {"stem", "choices": [{"text", "label"}, ...]},
    multilingual/dev.jsonl.tar.gz     "answerKey", "info": {"language": "Hungarian", "subject", "grade"}}
    parallel_questions.jsonl         {"<id>": ["<id>", ...]}, a question and its versions in other languages

The rows come out as `exams.py` has them: versions of a question that both files hold make one cluster, and
clusters are numbered by their smallest id. Upstream's test part is not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hbt_dist.common.errors import UserError
from hbt_dist.data.fields import check_text, id_field, language_at, object_items, required, text_field
from hbt_dist.data.files import kind_of, read_json_lines
from hbt_dist.data.union_find import Connected

_PARTS = ("train", "dev")
_ENDINGS = (".jsonl.tar.gz", ".jsonl.gz", ".jsonl")
_PARALLEL = "parallel_questions.jsonl"
# As in upstream's src/examsqa/mappings.py; other names must be language codes.
_CODES = {
    "Albanian": "sq", "Arabic": "ar", "Bulgarian": "bg", "Croatian": "hr", "French": "fr", "German": "de",
    "Hungarian": "hu", "Italian": "it", "Lithuanian": "lt", "Macedonian": "mk", "Polish": "pl",
    "Portuguese": "pt", "Serbian": "sr", "Spanish": "es", "Turkish": "tr", "Vietnamese": "vi",
}  # fmt: skip


def find_upstream(folder: Path) -> list[Path] | None:
    """Train, dev and the parallel questions; None if the folder (or its `multilingual`) has no train part.

    Raises:
        UserError: the train part is there without the others.
    """
    for place in (folder, folder / "multilingual"):
        found = {part: _first(place, tuple(part + ending for ending in _ENDINGS)) for part in _PARTS}
        if found["train"] is None:
            continue
        parallel = _first(place, (_PARALLEL, f"{_PARALLEL}.gz"))
        parallel = parallel or _first(place.parent, (_PARALLEL, f"{_PARALLEL}.gz"))
        for path, name in ((found["dev"], "dev.jsonl.tar.gz"), (parallel, _PARALLEL)):
            if path is None:
                raise UserError(
                    str(place),
                    f"holds train questions, but {name} is not there",
                    "copy multilingual/ and parallel_questions.jsonl of data/exams, both as they are",
                )
        return [path for path in (found["train"], found["dev"], parallel) if path is not None]
    return None


def _first(folder: Path, names: tuple[str, ...]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_upstream(train: Path, dev: Path, parallel: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (place, row) with the fields of the flat layout; all rows are held in memory to join them.

    A question whose key names none of its choices, or an empty one, has no answer and is left out.
    """
    rows = [
        (place, flat)
        for part, path in zip(_PARTS, (train, dev), strict=True)
        for place, row in read_json_lines(path)
        if (flat := _flat(row, part, place)) is not None
    ]
    cluster_of = _clusters(parallel, {str(row["id"]): str(row["language"]) for _, row in rows})
    for place, row in rows:
        yield place, {**row, "cluster": cluster_of.get(row["id"])}


def _flat(row: Mapping[str, Any], part: str, place: str) -> dict[str, Any] | None:
    question, info = _object(row, "question", place), _object(row, "info", place)
    key, answer, others = text_field(row, "answerKey", place), None, []
    for inner, choice in object_items(question, "choices", f"{place}, question"):
        text = required(choice, "text", inner)
        if text is None or (isinstance(text, str) and not text.strip()):
            continue
        check_text(text, inner, "field 'text'")
        if required(choice, "label", inner) == key:
            answer = text
        else:
            others.append(text)
    if answer is None:
        return None
    language = text_field(info, "language", f"{place}, info")
    return {
        "id": id_field(row, "id", place),
        "split": part,
        "language": language_at(_CODES.get(language, language), place),
        "question": text_field(question, "stem", f"{place}, question"),
        "answer": answer,
        "other_choices": others,
    }


def _object(row: Mapping[str, Any], key: str, place: str) -> dict[str, Any]:
    value = required(row, key, place)
    if not isinstance(value, dict):
        raise UserError(place, f"field {key!r} is {kind_of(value)}", "expected an object: {...}")
    return value


def _clusters(parallel: Path, language_of: Mapping[str, str]) -> dict[str, str]:
    """Question id -> cluster, for questions with a version in another language among `language_of`.

    Versions are joined over others, those of upstream's test part included. Of two versions in one language,
    which would be two answers to one question, the one with the smaller id stays.
    """
    versions: Connected[str] = Connected()
    for place, row in read_json_lines(parallel):
        for one, others in row.items():
            if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
                raise UserError(place, f"{one!r} has {kind_of(others)}", "expected a list of ids")
            for other in others:
                versions.join(one, other)
    members: dict[str, dict[str, str]] = {}
    for one in sorted(language_of):
        members.setdefault(versions.root(one), {}).setdefault(language_of[one], one)
    several = sorted(sorted(each.values()) for each in members.values() if len(each) > 1)
    return {one: f"c{number:04d}" for number, ids in enumerate(several) for one in ids}

"""Read EXAMS as its authors publish it: questions with labelled choices, and a list of parallel questions.

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
from hbt_dist.data.fields import (
    check_text,
    id_field,
    language_at,
    object_field,
    object_items,
    required,
    text_field,
)
from hbt_dist.data.files import find_any, kind_of, read_json_lines
from hbt_dist.data.union_find import Connected

_PARTS = ("train", "dev")
_ENDINGS = (".jsonl.tar.gz", ".jsonl.gz", ".jsonl")
_PARALLEL = ("parallel_questions.jsonl", "parallel_questions.jsonl.gz")
# As in upstream's src/examsqa/mappings.py; other names must be language codes.
_CODES = {
    "Albanian": "sq", "Arabic": "ar", "Bulgarian": "bg", "Croatian": "hr", "French": "fr", "German": "de",
    "Hungarian": "hu", "Italian": "it", "Lithuanian": "lt", "Macedonian": "mk", "Polish": "pl",
    "Portuguese": "pt", "Serbian": "sr", "Spanish": "es", "Turkish": "tr", "Vietnamese": "vi",
}  # fmt: skip


def find_upstream(folder: Path) -> list[Path] | None:
    """Return train, dev and parallel questions; None if the folder (or its `multilingual`) has no train part.

    Raises:
        UserError: the train part is present without the rest.
    """
    for part_folder in (folder, folder / "multilingual"):
        train, dev = (find_any(part_folder, [part + ending for ending in _ENDINGS]) for part in _PARTS)
        if train is None:
            continue
        parallel = find_any(part_folder, _PARALLEL) or find_any(part_folder.parent, _PARALLEL)
        if dev is None or parallel is None:
            raise UserError(
                str(part_folder),
                f"holds train questions, but {_PARALLEL[0] if dev else 'dev.jsonl.tar.gz'} is missing",
                "copy multilingual/ and parallel_questions.jsonl of data/exams, both as they are",
            )
        return [train, dev, parallel]
    return None


def read_upstream(train: Path, dev: Path, parallel: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (location, row) with the fields of the flat layout; all rows are held in memory to join them.

    A question whose key names none of its choices, or an empty one, has no answer and is left out.
    """
    rows = [
        (location, flat)
        for part, path in zip(_PARTS, (train, dev), strict=True)
        for location, row in read_json_lines(path)
        if (flat := _flat(row, part, location)) is not None
    ]
    cluster_of = _clusters(parallel, {str(row["id"]): str(row["language"]) for _, row in rows})
    for location, row in rows:
        yield location, {**row, "cluster": cluster_of.get(row["id"])}


def _flat(row: Mapping[str, Any], part: str, location: str) -> dict[str, Any] | None:
    question, info = object_field(row, "question", location), object_field(row, "info", location)
    key, answer, wrong = text_field(row, "answerKey", location), None, []
    for inner, choice in object_items(question, "choices", f"{location}, question"):
        text = required(choice, "text", inner)
        if text is None or (isinstance(text, str) and not text.strip()):
            continue
        check_text(text, inner, "field 'text'")
        if required(choice, "label", inner) == key:
            answer = text
        else:
            wrong.append(text)
    if answer is None:
        return None
    language = text_field(info, "language", f"{location}, info")
    return {
        "id": id_field(row, "id", location),
        "split": part,
        "language": language_at(_CODES.get(language, language), location),
        "question": text_field(question, "stem", f"{location}, question"),
        "answer": answer,
        "other_choices": wrong,
    }


def _clusters(parallel: Path, language_of: Mapping[str, str]) -> dict[str, str]:
    """Return question id -> cluster, for questions with a version in another language among `language_of`.

    Versions are joined through further versions, including those of upstream's test part. Two versions in one
    language would be two answers to one question: the version with the smaller id stays.
    """
    versions: Connected[str] = Connected()
    for location, row in read_json_lines(parallel):
        for question_id, version_ids in row.items():
            if not isinstance(version_ids, list) or not all(isinstance(item, str) for item in version_ids):
                raise UserError(
                    location, f"{question_id!r} has {kind_of(version_ids)}", "expected a list of ids"
                )
            for version_id in version_ids:
                versions.join(question_id, version_id)
    members: dict[str, dict[str, str]] = {}
    for question_id in sorted(language_of):
        members.setdefault(versions.root(question_id), {}).setdefault(language_of[question_id], question_id)
    clusters = sorted(sorted(ids.values()) for ids in members.values() if len(ids) > 1)
    return {question_id: f"c{number:04d}" for number, ids in enumerate(clusters) for question_id in ids}

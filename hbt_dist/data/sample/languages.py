"""Read the languages of the sample, with the sentence templates that ask and state its facts in each.

One JSON file per language in `templates/` (written by hand for this package, no translation of another
text). Names can't be inflected by a program, so every template keeps them in their citation form: behind a
colon or a copula, or in apposition ("maassa nimeltä {territory}"). A question template names the relation in
other words than a passage template where the language allows it, so that matching strings isn't enough.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class SampleLanguage:
    """One language: what it is, and its templates.

    Attributes:
        code, name, family, script: ``"fi"``, ``"Finnish"``, ``"Uralic"``, ``"Latin"``.
        in_training: False for a language that only the benchmark holds.
        questions, passages: relation -> templates with ``{territory}``, and ``{answer}`` in passages.
        city: template of the passage's second sentence, with ``{place}``.
        space: separator of two sentences.
    """

    code: str
    name: str
    family: str
    script: str
    in_training: bool
    questions: dict[str, tuple[str, ...]]
    passages: dict[str, tuple[str, ...]]
    city: str
    space: str


@cache
def sample_languages() -> dict[str, SampleLanguage]:
    """Code -> language, in the order of the codes."""
    folder = files(__package__) / "templates"
    paths = [path for path in folder.iterdir() if path.name.endswith(".json")]
    languages = [_read(path.read_text(encoding="utf-8")) for path in paths]
    return {language.code: language for language in sorted(languages, key=lambda language: language.code)}


def _read(text: str) -> SampleLanguage:
    content = json.loads(text)
    relations = content["relations"]
    return SampleLanguage(
        code=content["language"],
        name=content["name"],
        family=content["family"],
        script=content["script"],
        in_training=content["in_training"],
        questions={relation: tuple(templates["questions"]) for relation, templates in relations.items()},
        passages={relation: tuple(templates["passages"]) for relation, templates in relations.items()},
        city=content["place"],
        space=content["space"],
    )

"""Read and check word translations of many language pairs, and fingerprint their content.

A MUSE dictionary (110 pairs are published, https://github.com/facebookresearch/MUSE) has about 100,000 lines;
it takes a tenth of a second and 15 MB. Only pairs that the run can use are read. Look-up is exact, in lower
case.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from babel import Locale

from hbt_dist.common.errors import UserError
from hbt_dist.data.files import read_lines
from hbt_dist.data.sample import LANGUAGES, TRAINING_LANGUAGES
from hbt_dist.methods.code_switching import freedict
from hbt_dist.methods.code_switching.settings import CodeSwitchingSettings, split_pair
from hbt_dist.methods.code_switching.vectors import nearest_words
from hbt_dist.methods.code_switching.words import is_word

Translations = dict[str, str]  # lower-case word -> translation

_PLACE = "batches.code_switching"
_FILE = re.compile(r"([A-Za-z]{2,3}-[A-Za-z]{2,3})\.txt(\.gz)?")


@dataclass(frozen=True)
class Lexicon:
    """Translations by source and target language; every source has a target, every pair a word."""

    pairs: Mapping[str, Mapping[str, Translations]]

    @cached_property
    def fingerprint(self) -> str:
        """Return the sha256 of the content; about a second per million words."""
        digest = hashlib.sha256()
        for source in sorted(self.pairs):
            for target in sorted(self.pairs[source]):
                digest.update(f"\x00{source}-{target}\x00".encode())
                for word, translation in sorted(self.pairs[source][target].items()):
                    digest.update(f"{word}\t{translation}\n".encode())
        return digest.hexdigest()


def load_lexicon(settings: CodeSwitchingSettings, languages: Sequence[str]) -> Lexicon:
    """Read the dictionaries that a corpus in `languages` can use.

    Raises:
        UserError: a file or folder cannot be used (with the line), or no language of the corpus has a
            dictionary.
    """
    available = _available(settings)
    sources = _chosen(settings.source_languages, {source for source, _ in available}, "source_languages")
    targets = _chosen(settings.target_languages, {target for _, target in available}, "target_languages")
    if settings.target_languages is None and settings.dictionaries == "sample":
        targets &= set(TRAINING_LANGUAGES)
    missing = sorted(set(settings.source_languages or ()) - set(languages))
    if missing:
        raise UserError(
            f"{_PLACE}.source_languages",
            f"the training data have no texts in {', '.join(missing)}",
            f"they have {', '.join(languages)}",
        )
    usable = [(a, b) for a, b in available if a in sources and b in targets and a in languages]
    if not usable:
        pairs = ", ".join(f"{a}-{b}" for a, b in [*available][:12]) + (", ..." if len(available) > 12 else "")
        raise UserError(
            _PLACE,
            f"no dictionary fits: there are {pairs}",
            f"one from a language of the data ({', '.join(languages)}) into another is needed",
        )
    lexicon: dict[str, dict[str, Translations]] = {}
    for source, target in usable:
        lexicon.setdefault(source, {})[target] = _load(settings, source, target, available[source, target])
    return Lexicon(lexicon)


def _chosen(named: Sequence[str] | None, available: set[str], key: str) -> set[str]:
    unknown = sorted(set(named or ()) - available)
    if unknown:
        raise UserError(
            f"{_PLACE}.{key}",
            f"no dictionary has {', '.join(unknown)}",
            f"choose from {', '.join(sorted(available))}",
        )
    return set(named) if named is not None else available


def _available(settings: CodeSwitchingSettings) -> dict[tuple[str, str], Path | None]:
    """Return the pairs that can be loaded, each with its dictionary file, if it has one."""
    if settings.vectors is not None:
        return {(a, b): None for a in settings.vectors for b in settings.vectors if a != b}
    if isinstance(settings.dictionaries, dict):
        return {split_pair(pair): Path(file) for pair, file in settings.dictionaries.items()}
    if settings.dictionaries == "sample":
        return {(a, b): None for a in LANGUAGES for b in LANGUAGES if a != b}
    assert settings.dictionaries is not None
    return _files_of(Path(settings.dictionaries))


def _files_of(folder: Path) -> dict[tuple[str, str], Path | None]:
    if not folder.is_dir():
        raise UserError(
            f"{_PLACE}.dictionaries",
            f"{str(folder)!r} is neither a folder nor the name of a dictionary that comes with the package",
            "give a folder with files such as en-fi.txt or freedict-eng-fin.index,\n"
            "a mapping {en-fi: FILE}, or sample",
        )
    files: dict[tuple[str, str], Path] = {}
    for file in sorted(folder.iterdir()):
        match = _FILE.fullmatch(file.name) or freedict.FILE_NAME.fullmatch(file.name)
        if match is None:
            continue
        try:
            pair = split_pair(match[1])
        except ValueError as error:
            raise UserError(
                str(file), f"expected a name such as en-fi.txt: {error}", "rename or move it"
            ) from None
        if pair in files:
            raise UserError(
                str(folder), f"{files[pair].name} and {file.name} are of one pair", "keep one of them"
            )
        files[pair] = file
    if not files:
        raise UserError(
            str(folder),
            "holds no dictionary",
            "its files should be named such as en-fi.txt or freedict-eng-fin.index",
        )
    return dict(files)


def _load(settings: CodeSwitchingSettings, source: str, target: str, file: Path | None) -> Translations:
    if file is not None:
        return freedict.read_freedict(file) if file.suffix == ".index" else read_dictionary(file)
    if settings.vectors is not None:
        return nearest_words(
            Path(settings.vectors[source]),
            Path(settings.vectors[target]),
            max_source_words=settings.max_source_words,
            max_target_words=settings.max_target_words,
            cache_dir=Path(settings.cache_dir),
        )
    return sample_dictionary(source, target)


def read_dictionary(file: Path) -> Translations:
    """Read a dictionary in MUSE format; of several translations of a word the first counts.

    Raises:
        UserError: the file cannot be read or is empty, or a line does not hold a pair.
    """
    translations: Translations = {}
    for number, line in read_lines(file):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.split("\t")] if "\t" in line else line.split()
        if len(parts) != 2 or not all(parts):
            raise UserError(
                f"{file} line {number}",
                f"holds {len(parts)} word{'' if len(parts) == 1 else 's'}: {line.strip()[:60]!r}"
                if all(parts)
                else "one side of the pair is empty",
                "each line holds a word and its translation, separated by white space or one tab",
            )
        translations.setdefault(parts[0].lower(), parts[1])
    if not translations:
        raise UserError(str(file), "the file is empty", "each line holds a word and its translation")
    return translations


@cache
def sample_dictionary(source: str, target: str) -> Translations:
    """Return lower-case word -> translation of names in the embedded sample, from CLDR.

    Countries, languages, scripts, currencies, cities of time zones, weekdays and months whose name in the
    source language is a single word: a few hundred words per pair, no download. Like the titles of Wikipedia
    articles in the paper's second lexicon, they are mostly names.
    """
    targets = _names(target)
    translations: Translations = {}
    for key, name in _names(source).items():
        if key in targets and is_word(name):
            translations.setdefault(name.lower(), targets[key])
    return translations


@cache
def _names(language: str) -> dict[tuple[str, str], str]:
    """Return (category, CLDR code) -> name; where two things share a name, the first category counts."""
    locale = Locale.parse(language)
    categories: dict[str, Mapping[str | int, str]] = {
        "country": locale.territories,
        "language": locale.languages,
        "script": locale.scripts,
        "currency": locale.currencies,
        "city": {zone: names["city"] for zone, names in locale.time_zones.items() if "city" in names},
        "weekday": locale.days["stand-alone"]["wide"],
        "month": locale.months["stand-alone"]["wide"],
    }
    return {
        (category, str(code)): name
        for category, names in categories.items()
        for code, name in sorted(names.items(), key=lambda item: str(item[0]))
        if name and name != str(code)
    }

"""FreeDict dictionaries, written as dictd keeps them: offsets in base 64, entries as people write them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from hbt_dist.common.errors import UserError
from hbt_dist.methods.code_switching.dictionaries import load_lexicon
from hbt_dist.methods.code_switching.freedict import read_freedict
from hbt_dist.methods.code_switching.settings import CodeSwitchingSettings

DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"


def base64(value: int) -> str:
    digits = DIGITS[value % 64]
    while value := value // 64:
        digits = DIGITS[value % 64] + digits
    return digits


def write(folder: Path, entries: list[tuple[str, str]], name: str = "freedict-eng-fin") -> Path:
    """A dictionary with an index line per (headword, entry), packed as dictzip does."""
    content, lines = b"FreeDict test dictionary\n", [f"00databaseshort\tA\t{base64(25)}"]
    for headword, entry in entries:
        raw = entry.encode()
        lines.append(f"{headword}\t{base64(len(content))}\t{base64(len(raw))}")
        content += raw
    (folder / f"{name}.dict.dz").write_bytes(gzip.compress(content))
    index = folder / f"{name}.index"
    index.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return index


@pytest.mark.parametrize(
    ("entries", "translation"),
    [
        ([("house", "house /haus/\ntalo\n")], "talo"),
        ([("house", "house\n1. talo, rakennus\n2. huone\n")], "talo"),
        ([("river", "river //ˈɹɪvə// <n>\n1. virta, joki\na large flow\n2. joki\na stream\n")], "joki"),
        ([("water", "water <n>\n1. vesi 2.\nclear liquid\n 3.\na drink\n")], "vesi"),
        ([("dog", 'dog /d/\nHund <masc> [zool.]\n      "dog bite"  - Hundebiss\n see: {dogs}\n')], "Hund"),
        ([("grow", "grow /g/ <v>\n1. kasvaa~isoksi (olla iso).\n")], "kasvaa isoksi"),
        # the more general of two entries, and not the name
        ([("city", "city /sitihɔːl/\nraatihuone\n"), ("city", "city /siti/\nkaupunki, kylä\n")], "kaupunki"),
        ([("The", "The /ðheig/\nHaag, A, B\n"), ("the", "the /ð/\nse\n")], "se"),
        ([("Turku", "Turku\nÅbo\n")], "Åbo"),
        # what several entries agree on
        ([("king", "king\ntammi\n"), ("king", "king\nkuningas\n"), ("king", "king\nkuningas\n")], "kuningas"),
        # nothing to use: an inflected form, a phrase, a suffix, an explanation, the word itself, a number
        ([("won", "win (won, won) <v>\nvoittaa\n")], None),
        ([("ice", "ice cream\njäätelö\n")], None),
        ([("my", "my <pron>\n-ni\n")], None),
        ([("snag", "snag\nesine johon helposti kompastuu\n")], None),
        ([("hotel", "hotel\nhotel\n")], None),
        ([("ten", "ten\n10\n")], None),
        ([("2nd", "2nd\ntoinen\n")], None),
        ([("ice cream", "ice cream\njäätelö\n")], None),
    ],
)
def test_entries(tmp_path: Path, entries: list[tuple[str, str]], translation: str | None) -> None:
    found = read_freedict(write(tmp_path, [*entries, ("other", "other\nmuu\n")]))
    word = entries[0][0].lower()
    assert found == ({"other": "muu"} if translation is None else {"other": "muu", word: translation})


def test_a_folder_of_dictd_serves_code_switching(tmp_path: Path) -> None:
    write(tmp_path, [("house", "house\ntalo\n")])
    write(tmp_path, [("house", "house\nnyumba\n")], "freedict-eng-swh")
    settings = CodeSwitchingSettings.model_validate({"dictionaries": str(tmp_path)})
    pairs = load_lexicon(settings, ("en", "fi", "sw")).pairs
    assert pairs == {"en": {"fi": {"house": "talo"}, "sw": {"house": "nyumba"}}}
    (tmp_path / "en-fi.txt").write_text("house koti\n", encoding="utf-8")
    with pytest.raises(UserError, match="are of one pair"):
        load_lexicon(settings, ("en", "fi"))


def test_mistakes_are_named(tmp_path: Path) -> None:
    index = write(tmp_path, [("house", "house\ntalo\n")])
    index.write_text(index.read_text("utf-8") + "dog\tno number\tB\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"is not a line of a dictd index") as caught:
        read_freedict(index)
    assert caught.value.location == f"{index} line 3"
    index.write_text(f"house\tA\t{base64(4000)}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"points past the end of freedict-eng-fin\.dict\.dz"):
        read_freedict(index)
    with pytest.raises(UserError, match="holds no word with a translation"):
        read_freedict(write(tmp_path, [("dog", "dogs\nkoira\n")]))
    index.with_suffix(".dict.dz").write_bytes(b"no gzip")
    with pytest.raises(UserError, match="not a readable gzip file"):
        read_freedict(index)
    index.with_suffix(".dict.dz").unlink()
    with pytest.raises(UserError, match=r"has no freedict-eng-fin\.dict\.dz in the same folder"):
        read_freedict(index)

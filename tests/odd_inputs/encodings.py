"""Encodings, line ends, invisible and odd characters in training files."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import unicodedata
import zipfile
from collections.abc import Iterator
from typing import Any

from tests.odd_inputs.case import Case, encoded, rows, training

ROWS = rows()
TEXT = encoded(ROWS).decode()
LINES = encoded(ROWS)
ALL = {"examples": 6, "groups": 6, "languages": "en fi", "questions": {"en": 6, "fi": 6}}


def one_text(text: str, size: int = 6) -> list[dict[str, Any]]:
    """Lines, the second with this text for its English question."""
    return rows(size, question={"en": text, "fi": "mikä"})


def two_of(first: str, second: str) -> list[dict[str, Any]]:
    """Lines, the first two with passages that differ in form only."""
    made = rows()
    made[0]["passage"], made[1]["passage"] = {"en": first, "fi": first}, {"en": second, "fi": second}
    return made


def archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as packed:
            packed.writestr("train.jsonl", LINES)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as packed:
            for name in ("a.jsonl", "b.jsonl"):
                entry = tarfile.TarInfo(name)
                entry.size = len(LINES)
                packed.addfile(entry, io.BytesIO(LINES))
    return buffer.getvalue()


def files() -> Iterator[tuple[str, Case]]:
    """Whole files in another encoding or packing."""
    for name, codec in {"le": "utf-16-le", "be": "utf-16-be"}.items():
        mark = "\ufeff".encode(codec)
        for variant, content in {"mark": mark + TEXT.encode(codec), "bare": TEXT.encode(codec)}.items():
            yield f"utf16-{name}-{variant}", training(content).fails("train.jsonl", "UTF-16", "UTF-8")
    for name, codec in {"le": "utf-32-le", "be": "utf-32-be"}.items():
        content = ("\ufeff" + TEXT).encode(codec)
        yield f"utf32-{name}", training(content).fails("train.jsonl", "UTF-(32|16)", "UTF-8")
    accented = TEXT.replace("\\u00e4", "ä")
    for codec in ("latin-1", "cp1252", "iso8859-15", "mac-roman"):
        yield codec, training(accented.encode(codec)).fails("train.jsonl line 1", "not UTF-8", "UTF-8")
    yield "shift-jis", training(TEXT.replace("what", "何").encode("shift-jis")).fails("train.jsonl", "UTF-8")
    yield "utf8-mark", training(b"\xef\xbb\xbf" + LINES).gives(given=6, **ALL)
    yield (
        "utf8-mark-twice",
        training(b"\xef\xbb\xbf" * 2 + LINES).fails("train.jsonl line 1", "byte order|JSON"),
    )
    yield (
        "utf8-mark-inside",
        training(LINES.replace(b"\n", b"\n\xef\xbb\xbf", 1)).fails(
            "train.jsonl line 2", "byte order|JSON|U\\+FEFF"
        ),
    )
    yield "crlf", training(LINES.replace(b"\n", b"\r\n")).gives(given=6, **ALL)
    yield "mark-crlf", training(b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n")).gives(given=6, **ALL)
    yield (
        "cr-only",
        training(LINES.replace(b"\n", b"\r")).fails("train.jsonl", r"CR|carriage return|line end"),
    )
    yield "no-last-line-end", training(LINES[:-1]).gives(given=6, **ALL)
    yield "blank-lines", training(b"\n\n" + LINES.replace(b"\n", b"\n \t\n") + b"\n\n").gives(given=6, **ALL)
    yield "nul-bytes-behind", training(LINES + b"\0" * 64).fails("train.jsonl line 7", "JSON|NUL")
    yield "control-z-behind", training(LINES + b"\x1a").fails("train.jsonl line 7", "JSON")
    yield (
        "cut-in-a-character",
        training(accented.encode()[: accented.encode().index(b"\xc3") + 1]).fails(
            "train.jsonl line 1", "UTF-8"
        ),
    )
    yield "gzip", training(gzip.compress(LINES), path="train.jsonl.gz").gives(given=6, **ALL)
    yield (
        "gzip-two-members",
        training(
            gzip.compress(LINES[: LINES.index(b"\n") + 1]) + gzip.compress(LINES[LINES.index(b"\n") + 1 :]),
            path="train.jsonl.gz",
        ).gives(given=6, **ALL),
    )
    yield "gzip-without-ending", training(gzip.compress(LINES)).fails("train.jsonl", "gzip|gz")
    yield (
        "gzip-cut",
        training(gzip.compress(LINES)[:-9], path="train.jsonl.gz").fails("train.jsonl.gz", "early"),
    )
    yield (
        "gzip-of-utf16",
        training(gzip.compress(TEXT.encode("utf-16")), path="train.jsonl.gz").fails(
            "train.jsonl.gz", "UTF-16"
        ),
    )
    yield "gzip-empty", training(b"", path="train.jsonl.gz").fails("train.jsonl.gz", "empty|gzip")
    for name, content in {
        "zip": archive("zip"),
        "bz2": bz2.compress(LINES),
        "xz": lzma.compress(LINES),
        "zstd": b"\x28\xb5\x2f\xfd" + bytes(40),
    }.items():
        yield (
            f"{name}-without-ending",
            training(content).fails("train.jsonl", f"{name}|compressed|UTF-8", "unpack|UTF-8"),
        )
        named = training(content, path=f"train.jsonl.{name}")
        readable = name in ("bz2", "xz")
        yield (
            name,
            named.gives(given=6, **ALL) if readable else named.fails(rf"train.jsonl.{name}", "zip|zst|frame"),
        )
    yield (
        "tar-of-two",
        training(archive("tar"), path="train.tar.gz").fails("train.tar.gz", "2 files", "unpack"),
    )
    yield "parquet-as-lines", training(b"PAR1" + bytes(30) + b"PAR1").fails("train.jsonl", "parquet|JSON")
    yield (
        "html",
        training("<!DOCTYPE html>\n<html><body>404</body></html>\n").fails("train.jsonl line 1", "JSON"),
    )
    yield (
        "lfs-pointer",
        training("version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 120\n").fails(
            "train.jsonl", "Git LFS|LFS pointer", "git lfs pull"
        ),
    )
    yield "only-a-mark", training(b"\xef\xbb\xbf").fails("train.jsonl", "empty")
    yield "only-nul", training(bytes(64)).fails("train.jsonl", "JSON|NUL|empty")


def characters() -> Iterator[tuple[str, Case]]:
    """Odd characters inside texts: they are read, and belong to the text."""
    for name, text in {
        "line-separator": "a\u2028b",
        "paragraph-separator": "a\u2029b",
        "next-line": "a\u0085b",
        "vertical-tab": "a\vb",
        "form-feed": "a\fb",
        "escaped-newline": "a\nb",
        "escaped-tab": "a\tb",
        "carriage-return": "a\rb",
        "nul": "a\0b",
        "bell": "a\ab",
        "escape": "\x1b[31mred\x1b[0m",
        "emoji-family": "👩‍👩‍👧‍👦 ok",
        "emoji-flag": "🇫🇮 ok",
        "astral": "𝒽ello 𐍈",
        "private-use": "a\ue000b",
        "non-character": "a\ufffeb",
        "replacement": "a\ufffdb",
        "right-to-left": "\u202eabc\u202c",
        "arabic": "\u200fمرحبا",
        "combining": "e" + "\u0301" * 300,
        "no-break-space": "a\u00a0b",
        "ideographic-space": "a\u3000b",
        "quotes": "\"'`„“",
        "backslash": "a\\b\\",
        "html": "<b>a</b> &amp;",
        "percent": "%s %d {} {0}",
        "rich-markup": "[bold]a[/bold] [/]",
        "long-word": "a" * 100_000,
        "many-words": "a b " * 20_000,
    }.items():
        for form, escaped in {"raw": False, "escaped": True}.items():
            if not escaped and (ord(min(text)) < 32 or '"' in text or "\\" in text):
                continue  # JSON has no raw control characters
            content = one_text(text)
            lines: Any = content if escaped else TEXT.replace("what is 1", text)
            yield (
                f"text-{name}-{form}",
                training(lines).gives(given=6, **ALL, longest=_longest(content if escaped else None, text)),
            )
    for name, text in {
        "zero-width": "\u200b",
        "word-joiner": "\u2060",
        "mark": "\ufeff",
        "soft-hyphen": "\u00ad",
        "left-to-right": "\u200e",
        "joiners": "\u200c\u200d",
        "variation": "\ufe0f",
        "braille": "\u2063",
    }.items():
        yield (
            f"invisible-{name}",
            training(one_text(text)).fails("train.jsonl line 2", "question", "empty|visible"),
        )
    for name, text in {
        "space": " ",
        "no-break": "\u00a0",
        "ideographic": "\u3000",
        "tab": "\t",
        "separator": "\u2028",
        "group-separator": "\x1d",
    }.items():
        yield f"blank-{name}", training(one_text(text)).fails("train.jsonl line 2", "question", "empty")
    yield "raw-tab", training(TEXT.replace("what is 1", "a\tb")).fails("train.jsonl line 2", "control|JSON")
    yield "raw-nul", training(TEXT.replace("what is 1", "a\0b")).fails("train.jsonl line 2", "control|JSON")
    for name, text in {"high": "a\ud83d", "low": "\ude00a", "swapped": "\ude00\ud83d"}.items():
        yield f"surrogate-{name}", training(one_text(text)).fails("train.jsonl line 2", "surrogate")
    yield (
        "surrogate-pair",
        training(one_text("ok \ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"))).gives(
            given=6, **ALL
        ),
    )
    yield "surrogate-in-an-id", training(rows(id="q\ud800")).fails("train.jsonl line 2", "surrogate")
    yield (
        "surrogate-bytes",
        training(TEXT.replace("what is 1", "a\ud800")).fails("train.jsonl line 2", "UTF-8"),
    )


def _longest(content: Any, text: str) -> dict[str, int]:
    lengths = {"question en": max(len(text), 9), "question fi": 9}
    if content is not None:
        lengths["question fi"] = 9
    return lengths | {"passage en": 14, "passage fi": 12}


def equal_texts() -> Iterator[tuple[str, Case]]:
    """Passages that a reader takes for one text: they are in one group, and never meet in a batch."""
    word = "pâté thing"
    for name, other in {
        "nfd": unicodedata.normalize("NFD", word),
        "upper": word.upper(),
        "spaces": "  pâté   thing ",
        "no-break": "pâté\u00a0thing",
        "zero-width": "pâté\u200b thing",
        "right-to-left": "\u200fpâté thing",
        "joiner": "pâté\u200c thing",
        "mark": "\ufeffpâté thing",
        "soft-hyphen": "pâté th\u00ading",
        "full-width": "pâté ｔｈｉｎｇ",
        "newline": "pâté\nthing",
        "ligature": "pâté thing".replace("th", "th"),
    }.items():
        yield f"equal-{name}", training(two_of(word, other)).gives(given=6, examples=6, groups=5)
    for name, other in {"accent": "pate thing", "word": "pâté things", "digit": "pâté thing 2"}.items():
        yield f"different-{name}", training(two_of(word, other)).gives(given=6, examples=6, groups=6)
    nul = rows()
    nul[0]["passage"], nul[1]["passage"] = {"en": "a\0fi\0b"}, {"en": "a", "fi": "b"}
    yield "different-nul", training(nul, missing="skip").gives(given=6, examples=6, passages=6, groups=6)


CASES = dict([*files(), *characters(), *equal_texts()])

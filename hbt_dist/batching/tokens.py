"""Tokenise every text of a corpus once, and read the token ids from a memory map.

Training reads ids instead of texts: a batch of 8,192 rows is gathered in about 20 ms, and all processes of a
machine share one copy in the page cache. Per role and language there are two files, the ids one after
another (4 bytes per token) and where each row begins; a language that a row lacks is a row of length 0. A
fingerprint of corpus, tokenizer and text settings names the folder. One process tokenises while the
remaining processes wait; after an interruption the next run continues with the unfinished languages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray

from hbt_dist.common.console import Progress
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import write_json
from hbt_dist.data.corpus.corpus import Corpus, Role
from hbt_dist.data.instructions import filled
from hbt_dist.data.shared_arrays import Space
from hbt_dist.models.settings import TextSettings
from hbt_dist.models.tokenising import Tokenised, token_mask, tokenise
from hbt_dist.models.tokenizer import tokenizer_digest

ROLES: tuple[Role, ...] = ("question", "passage")
_FORMAT = 1
_TEXTS_AT_ONCE = 2048


@dataclass(frozen=True)
class TokenRows:
    """Token ids of n rows, one after another."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]  # (n + 1,) row i is ids[offsets[i]:offsets[i + 1]]
    pad_id: int = 0
    prompts: NDArray[np.int32] | None = None  # (n,) tokens at the start that pooling leaves out; None: 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(n,) tokens per row."""
        return np.diff(self.offsets)

    def row(self, index: int) -> NDArray[np.int32]:
        """Return the ids of one row."""
        return self.ids[self.offsets[index] : self.offsets[index + 1]]

    def pad(self, rows: NDArray[np.integer] | slice | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return input_ids and attention_mask (n, T), both int64, padded on the right to the longest row.

        The mask is 2 for tokens that pooling leaves out.
        """
        starts = self.offsets[:-1] if rows is None else self.offsets[:-1][rows]
        lengths = self.lengths if rows is None else self.lengths[rows]
        prompts = self.prompts if self.prompts is None or rows is None else self.prompts[rows]
        width = int(lengths.max(initial=0))
        mask = token_mask(lengths, width, prompts)
        is_token = mask > 0
        input_ids = np.full(mask.shape, self.pad_id, np.int64)
        input_ids[is_token] = self.ids[(starts[:, None] + np.arange(width))[is_token]]
        return torch.from_numpy(input_ids), torch.from_numpy(mask)


@dataclass(frozen=True)
class TextReport:
    """Counts from tokenising the texts of one role in one language."""

    role: Role
    language: str
    texts: int
    tokens: int
    truncated: int  # texts that were cut at the limit
    special_only: int  # texts that the tokenizer reduced to its special tokens
    longest: int  # tokens of the longest text, after cutting
    unknown: int = 0  # unknown tokens

    @property
    def truncated_share(self) -> float:
        """Share of the texts that were cut."""
        return self.truncated / self.texts if self.texts else 0.0


@dataclass(frozen=True)
class _Unit:
    """Files of one role in one language, mapped."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]  # (rows + 1,)
    prompts: NDArray[np.int32] | None = None  # (rows,) tokens that pooling leaves out


class TokenStore:
    """Tokenised corpus. Build or open it with `TokenStore.of`, or open a finished folder directly.

    Args:
        folder: of a finished store.
    """

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.folder = folder
        self.languages: tuple[str, ...] = tuple(manifest["languages"])
        self.pad_id: int = manifest["pad_id"]
        self.fingerprint: str = manifest["fingerprint"]
        reports = [folder / f"{role}.{code}.json" for role, code in _units(self.languages)]
        self.reports = [TextReport(**json.loads(file.read_text(encoding="utf-8"))) for file in reports]
        self.include_prompt: bool = manifest["text"]["include_prompt"]
        self._opened: dict[tuple[Role, int], _Unit] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.folder,))  # another process maps the files itself

    @classmethod
    def of(
        cls, corpus: Corpus, tokenizer: Any, text: TextSettings, cache_dir: Path, *, progress: bool = True
    ) -> TokenStore:
        """Return the token store of a corpus; tokenise it first if `cache_dir` has no finished store.

        Safe when many processes call it at once: one works, the rest wait.

        Raises:
            UserError: a text is empty, or gives no token at all.
        """
        fingerprint = store_fingerprint(corpus, tokenizer, text)
        folder = Path(cache_dir) / f"tokens-{fingerprint[:20]}"
        if not (folder / "manifest.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "lock"):
                if not (folder / "manifest.json").is_file():
                    _tokenise(corpus, tokenizer, text, folder, fingerprint, progress)
        return cls(folder)

    def questions(self, rows: NDArray[np.integer], languages: NDArray[np.integer]) -> TokenRows:
        """Return the questions of examples in languages, (n,) each."""
        return self._gather("question", rows, languages)

    def passages(self, rows: NDArray[np.integer], languages: NDArray[np.integer]) -> TokenRows:
        """Return passages in languages, (n,) each."""
        return self._gather("passage", rows, languages)

    def distinct_ids(self) -> list[int]:
        """Return the ids that occur in any text, in order."""
        used = np.empty(0, np.int32)
        for role, language in _units(self.languages):
            file = _paths(self.folder, role, language)[0]
            if file.stat().st_size:
                used = np.union1d(used, np.unique(np.memmap(file, np.int32, "r")))
        return used.tolist()

    def lengths(self, role: Role, language: int) -> NDArray[np.int64]:
        """Return the tokens of every row in one language; 0 where the row has no text in it."""
        return np.diff(self._open(role, language).offsets)

    def _open(self, role: Role, language: int) -> _Unit:
        unit = (role, language)
        if unit not in self._opened:
            file, offsets, prompts = _paths(self.folder, role, self.languages[language])
            # An empty file cannot be mapped. Plain arrays: slicing np.memmap itself costs ten times as much.
            ids = np.asarray(np.memmap(file, np.int32, "r")) if file.stat().st_size else np.empty(0, np.int32)
            mapped = np.asarray(np.load(offsets, mmap_mode="r"))
            left_out = None if self.include_prompt else np.asarray(np.load(prompts, mmap_mode="r"))
            self._opened[unit] = _Unit(ids, mapped, left_out)
        return self._opened[unit]

    def _gather(self, role: Role, rows: NDArray[np.integer], languages: NDArray[np.integer]) -> TokenRows:
        starts, stops = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
        prompts = None if self.include_prompt else np.empty(len(rows), np.int32)
        sources: dict[int, NDArray[np.int32]] = {}
        for language in np.unique(languages).tolist():
            unit = self._open(role, language)
            sources[language] = unit.ids
            where = languages == language
            starts[where], stops[where] = unit.offsets[rows[where]], unit.offsets[rows[where] + 1]
            if prompts is not None and unit.prompts is not None:
                prompts[where] = unit.prompts[rows[where]]
        lengths = stops - starts
        if len(rows) and lengths.min() == 0:
            row = int(np.argmin(lengths))
            raise LookupError(f"{role} {rows[row]} has no text in {self.languages[languages[row]]!r}")
        pieces = [
            sources[language][start:stop]
            for language, start, stop in zip(languages.tolist(), starts.tolist(), stops.tolist(), strict=True)
        ]
        ids = np.concatenate(pieces) if pieces else np.empty(0, np.int32)
        return TokenRows(ids, np.concatenate([[0], np.cumsum(lengths)]), self.pad_id, prompts)


def store_fingerprint(corpus: Corpus, tokenizer: Any, text: TextSettings) -> str:
    """Return the sha256 of everything that decides the token ids."""
    parts = {
        "format": _FORMAT,
        "corpus": corpus.fingerprint,
        "tokenizer": tokenizer_digest(tokenizer),
        "pad_id": tokenizer.pad_token_id,
        "limits": {role: text.max_tokens(role) for role in ROLES},
        "prefixes": {role: [filled(text.prefix(role), code) for code in corpus.languages] for role in ROLES},
        "include_prompt": text.include_prompt,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def prefixes_of_rows(
    corpus: Corpus,
    text: TextSettings,
    role: Role,
    rows: NDArray[np.integer],
    languages: NDArray[np.integer],
) -> list[str]:
    """Return the prefix of each text: n rows of a role, in these languages."""
    codes = corpus.prefix_codes(role, rows).tolist()
    pairs = list(zip(codes, languages.tolist(), strict=True))
    prefix = {
        (code, index): filled(text.prefix(role) if part is None else part, corpus.languages[index])
        for code, index in set(pairs)
        for part in [corpus.prefixes[code]]
    }
    return [prefix[pair] for pair in pairs]


def _units(languages: Iterable[str]) -> list[tuple[Role, str]]:
    return [(role, language) for role in ROLES for language in languages]


def _paths(folder: Path, role: Role, language: str) -> tuple[Path, Path, Path]:
    start = f"{role}.{language}"
    return folder / f"{start}.ids", folder / f"{start}.offsets.npy", folder / f"{start}.prompts.npy"


def _tokenise(
    corpus: Corpus, tokenizer: Any, settings: TextSettings, folder: Path, fingerprint: str, progress: bool
) -> None:
    units = _units(corpus.languages)
    totals = {"question": corpus.num_examples, "passage": corpus.num_passages}
    with Progress(
        total=sum(totals[role] for role, _ in units), desc="tokenising", unit="row", disable=not progress
    ) as bar:
        for role, language in units:
            if (folder / f"{role}.{language}.json").is_file():  # finished before an interruption
                bar.update(totals[role])
            else:
                _tokenise_unit(corpus, tokenizer, settings, folder, role, language, bar)
    manifest = {
        "fingerprint": fingerprint,
        "languages": list(corpus.languages),
        "pad_id": tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        "text": settings.model_dump(mode="json"),
    }
    write_json(folder / "manifest.json", manifest)


def _tokenise_unit(
    corpus: Corpus,
    tokenizer: Any,
    settings: TextSettings,
    folder: Path,
    role: Role,
    language: str,
    bar: Any,
) -> None:
    total, read = (
        (corpus.num_examples, corpus.question_texts)
        if role == "question"
        else (corpus.num_passages, corpus.passage_texts)
    )
    limit = settings.max_tokens(role)
    index = corpus.language_index(language)
    texts = truncated = special_only = unknown = longest = 0
    unknown_id = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
    ids_path, offsets_path, prompts_path = _paths(folder, role, language)
    offsets = Space(folder).empty(offsets_path.stem, total + 1, np.int64)
    prompts = np.zeros(0 if settings.include_prompt else total, np.int32)
    with ids_path.open("wb") as ids_file:
        for start in range(0, total, _TEXTS_AT_ONCE):
            stop = min(start + _TEXTS_AT_ONCE, total)
            available = {
                row: text for row, text in enumerate(read(language, start, stop), start) if text is not None
            }
            bar.update(stop - start)
            if not available:
                continue
            rows = np.array(list(available))
            prefixes = prefixes_of_rows(corpus, settings, role, rows, np.full(len(rows), index))
            encoded = tokenise(tokenizer, list(available.values()), limit, prefixes)
            _reject_empty(corpus, role, language, available, encoded.lengths)
            texts += len(available)
            longest = max(longest, int(encoded.lengths.max()))
            truncated += int(encoded.cut.sum())
            special_only += int(encoded.special_only.sum())
            offsets[np.array(list(available)) + 1] = encoded.lengths
            if not settings.include_prompt:
                prompts[list(available)] = encoded.prompts
            ids = np.concatenate(encoded.ids)
            unknown += int(np.count_nonzero(ids == unknown_id))
            ids_file.write(ids.tobytes())
    np.cumsum(offsets, out=offsets)
    Space.flush(offsets)
    if not settings.include_prompt:
        np.save(prompts_path, prompts)
    report = TextReport(
        role=role,
        language=language,
        texts=texts,
        tokens=int(offsets[-1]),
        truncated=truncated,
        special_only=special_only,
        unknown=unknown,
        longest=longest,
    )
    write_json(folder / f"{role}.{language}.json", asdict(report))


def replace_rows(rows: TokenRows, indices: NDArray[np.integer], encoded: Tokenised) -> TokenRows:
    """Return the rows with some of them replaced: row `indices[i]` by the i-th encoded; indices ascend."""
    lengths = rows.lengths.copy()
    lengths[indices] = encoded.lengths
    prompts = rows.prompts
    if prompts is not None:
        prompts = prompts.copy()
        prompts[indices] = encoded.prompts
    pieces, start = [], 0
    for index, ids in zip(indices.tolist(), encoded.ids, strict=True):
        pieces += [rows.ids[rows.offsets[start] : rows.offsets[index]], np.asarray(ids, np.int32)]
        start = index + 1
    pieces.append(rows.ids[rows.offsets[start] :])
    return TokenRows(np.concatenate(pieces), np.concatenate([[0], np.cumsum(lengths)]), rows.pad_id, prompts)


def _reject_empty(
    corpus: Corpus, role: Role, language: str, texts: dict[int, str], counts: NDArray[np.int64]
) -> None:
    for (row, text), count in zip(texts.items(), counts.tolist(), strict=True):
        if count == 0 or not text.strip():
            name = corpus.example_id(row) if role == "question" else corpus.passage_id(row)
            raise UserError(
                f"{role} {name!r}",
                f"its text in {language!r} " + ("gives no token" if text.strip() else "is empty"),
                "give it a text, or leave that language of it out",
            )

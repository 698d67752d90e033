"""Cut the vocabulary of a start model to the pieces of the run's texts, once, into the run's folder.

The cut is `hbt_dist.models.vocabulary`; here is what stays and why. Pieces of languages that the corpus lacks
would be gone: their texts fall into single characters, which no count of unknown tokens shows. So a benchmark
of the run in such a language is refused unless `model.vocabulary_languages` keeps its script. Pieces of
prefixes stay: those of the run's benchmarks, and `{language}` with every name of a language.

Cost: whole texts are tokenised with all pieces and again with the cut ones, to prove on every text that they
are the same (8 bytes of cache per token); the cut model is written once.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hbt_dist.batching.tokens import ROLES, TokenStore
from hbt_dist.common.errors import UserError
from hbt_dist.config.placeholders import LANGUAGE
from hbt_dist.data.benchmarks.load import load
from hbt_dist.data.benchmarks.settings import BenchmarkSettings
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.instructions import filled, has_name
from hbt_dist.data.language_facts import LANGUAGES
from hbt_dist.data.languages import script_parts
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.files import folder_digest, read_json
from hbt_dist.models.folders import SETTINGS_FILE
from hbt_dist.models.initial import made_once, prepare_model
from hbt_dist.models.saving import save_encoder
from hbt_dist.models.settings import LIMITS
from hbt_dist.models.vocabulary import (
    Cut,
    PieceTable,
    cut_embeddings,
    cut_pieces,
    rebuild_tokenizer,
    scripts_of,
)
from hbt_dist.run_file import RunFile
from hbt_dist.training.run_folder import RunFolder

_WHOLE = 2**24  # tokens: no text is cut
_TEXTS_AT_ONCE = 2048


def start_model(run: RunFile, corpus: Corpus, dtype: torch.dtype = torch.float32) -> LoadedEncoder:
    """Return the encoder that the run starts from, with the vocabulary that it asks for.

    Safe when all processes of a node call it at once. Weights are read in `dtype`.

    Raises:
        UserError: see `prepare_model`; the vocabulary cannot be cut, or lacks a language of a benchmark.
    """
    folder = RunFolder(run.output_dir).start
    if run.model.vocabulary == "keep":
        return prepare_model(run.model, corpus, run.seed, folder, dtype=dtype)
    _refuse_lost(run, corpus.languages, _benchmarks(run))
    prefixes = _kept_prefixes(run)
    named = Path(str(run.model.name_or_path))
    recipe = {
        "model": folder_digest(named) if named.is_dir() else str(named),
        "text": run.model.text,
        "languages": run.model.vocabulary_languages,
        "corpus": corpus.fingerprint,
        "sources": [source.model_dump(mode="json", exclude={"path"}) for source in run.data.sources],
        **({"prefixes": prefixes} if prefixes else {}),
    }
    made_once(folder, recipe, lambda target: _write(run, corpus, prefixes, target))
    loaded = prepare_model(run.model, corpus, run.seed, folder, dtype=dtype)
    return dataclasses.replace(loaded, notes=(*loaded.notes, _note(loaded.facts["vocabulary"])))


def check_languages(run: RunFile) -> None:
    """Refuse a benchmark in a language whose pieces would be gone, before anything is computed.

    Reads benchmarks that name no languages, and converts the data if the run names none.

    Raises:
        UserError: it names benchmark and languages; or a benchmark or the data cannot be read.
    """
    if run.model.vocabulary == "keep" or not _benchmarks(run):
        return
    languages = run.data.languages or build_corpus(run.data).languages
    read = [
        benchmark.model_copy(update={"languages": benchmark.languages or load(benchmark).languages})
        for benchmark in _benchmarks(run)
    ]
    _refuse_lost(run, languages, read)


def _benchmarks(run: RunFile) -> tuple[BenchmarkSettings, ...]:
    return (*run.evaluation.benchmarks, *run.evaluation.checkpoint_benchmarks)


def _refuse_lost(run: RunFile, languages: Sequence[str], benchmarks: Iterable[BenchmarkSettings]) -> None:
    """Refuse benchmarks that name a language neither among those of the corpus nor in a script that stays."""
    kept = scripts_of(run.model.vocabulary_languages or ())
    for benchmark in benchmarks:
        lost = [
            code
            for code in benchmark.languages or ()
            if code not in languages and not (script_parts(code) and set(script_parts(code)) <= kept)
        ]
        if lost:
            remedy = ", ".join([*(run.model.vocabulary_languages or ()), *lost])
            raise UserError(
                f"benchmark {benchmark.label}",
                f"has {', '.join(lost)}, which the corpus lacks: model.vocabulary: used would cut its pieces",
                f"set model.vocabulary_languages: [{remedy}], or leave them to hbt-dist evaluate",
            )


def _kept_prefixes(run: RunFile) -> list[str]:
    """Return the prefixes of benchmarks whose pieces stay; after a checkpoint, those of the first start.

    Raises:
        UserError: a benchmark has a new prefix, but the run has a checkpoint with the cut embeddings.
    """
    prefixes = sorted({prefix for benchmark in _benchmarks(run) for prefix in benchmark.prefixes.values()})
    folder = RunFolder(run.output_dir)
    if not folder.checkpoint_steps():
        return prefixes
    facts = read_json(folder.start / SETTINGS_FILE).get("training", {}).get("vocabulary", {})
    kept: list[str] = facts.get("prefixes", [])
    if new := sorted(set(prefixes) - set(kept)):
        raise UserError(
            "evaluation",
            f"a benchmark has a new prefix, {new[0][:60]!r}: the vocabulary of the run may lack its pieces",
            "leave this benchmark to hbt-dist evaluate, or choose another output_dir",
        )
    return kept


def _ids_in_prefixes(prefixes: Iterable[str], corpus: Corpus, tokenizer: Any) -> set[int]:
    """Return the ids of prefixes, with every name of a language for `{language}`."""
    named = [code for code in corpus.languages if has_name(code)]
    texts = {
        filled(prefix, code)
        for prefix in prefixes
        for code in ({*LANGUAGES, *named} if LANGUAGE in prefix else ["en"])
    }
    return {i for text in texts if text for i in tokenizer(text)["input_ids"]}


def _write(run: RunFile, corpus: Corpus, prefixes: list[str], target: Path) -> None:
    """Write the cut model into an empty folder."""
    uncut = run.model.model_copy(update={"vocabulary": "keep", "vocabulary_languages": None})
    source = prepare_model(uncut, corpus, run.seed, target)
    if source.adapter is not None:
        raise UserError(source.source, "is an adapter: its base cannot be cut", "set model.vocabulary: keep")
    table = PieceTable(source.tokenizer, source.source)
    whole = source.text.model_copy(update=dict.fromkeys(LIMITS, _WHOLE))
    cache = Path(run.data.cache_dir)
    store = TokenStore.of(corpus, source.tokenizer, whole, cache)
    used = set(store.distinct_ids())
    if source.tokenizer.unk_token_id in used:
        used |= table.pieces_of_unknown_words(_texts(corpus))
    languages = run.model.vocabulary_languages or ()
    templates = [text for role in ROLES if LANGUAGE in (text := source.text.prefix(role))]
    instructed = used | _ids_in_prefixes([*prefixes, *templates], corpus, source.tokenizer)
    named = instructed | (table.written_in(scripts_of(languages)) if languages else set())
    basic = named | table.always_kept() | _ids_of(source.encoder.backbone.config, len(table))
    kept = table.with_parts(basic)
    cut = cut_pieces(table, kept)
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = rebuild_tokenizer(source.tokenizer, cut, Path(scratch), run.model.trust_remote_code)
        _check_equal(store, TokenStore.of(corpus, tokenizer, whole, cache), cut, source.source)
        facts = {
            "before": len(table),
            "after": len(cut.old_ids),
            "corpus": [*corpus.languages],
            "languages": [*languages],
            "prefixes": prefixes,
            "in_texts": len(used),
            "of_prefixes": len(instructed - used),
            "of_languages": len(named - instructed),
            "characters_and_special": len(basic - named),
            "for_merges": len(kept - basic),
            "parameters": cut_embeddings(source.encoder.backbone, cut, source.source),
        }
        save_encoder(
            source.encoder,
            tokenizer,
            target,
            text=source.exported_text,
            facts={**source.facts, "vocabulary": facts},
            prompts=source.prompts,
        )


def _ids_of(config: Any, limit: int) -> set[int]:
    """Return the ids of pieces that a model's configuration names."""
    values = [value for key, value in config.to_dict().items() if key.endswith("_token_id")]
    ids = [i for value in values for i in (value if isinstance(value, list) else [value])]
    return {i for i in ids if isinstance(i, int) and 0 <= i < limit}


def _texts(corpus: Corpus) -> Iterator[str]:
    """Yield all texts of a corpus."""
    for language in corpus.languages:
        for read, rows in (
            (corpus.question_texts, corpus.num_examples),
            (corpus.passage_texts, corpus.num_passages),
        ):
            for start in range(0, rows, _TEXTS_AT_ONCE):
                texts = read(language, start, min(start + _TEXTS_AT_ONCE, rows))
                yield from (text for text in texts if text is not None)


def _check_equal(before: TokenStore, after: TokenStore, cut: Cut, source: str) -> None:
    """Refuse a tokenizer whose cut form reads a text of the corpus in other pieces."""
    for role in ROLES:
        for number, language in enumerate(before.languages):
            every = np.flatnonzero(before.lengths(role, number))
            for rows in np.array_split(every, len(every) // _TEXTS_AT_ONCE + 1):
                languages = np.full(len(rows), number)
                old, new = (
                    (store.questions if role == "question" else store.passages)(rows, languages).ids
                    for store in (before, after)
                )
                if not np.array_equal(old, cut.old_ids[new]):
                    raise UserError(
                        source,
                        f"{role}s in {language} have other pieces after the cut of its tokenizer",
                        "set model.vocabulary: keep",
                    )


def _note(facts: dict[str, Any]) -> str:
    """Return one line on what stays and why."""
    parts = [f"{facts['in_texts']:,} in texts of the corpus ({' '.join(facts['corpus'])})"]
    if in_prefixes := facts.get("of_prefixes"):
        parts.append(f"{in_prefixes:,} more in prefixes")
    if facts["languages"]:
        parts.append(f"{facts['of_languages']:,} more in the scripts of {' '.join(facts['languages'])}")
    parts.append(f"{facts['characters_and_special']:,} more characters, bytes and special tokens")
    if facts["for_merges"]:
        parts.append(f"{facts['for_merges']:,} that merges need")
    return (
        f"vocabulary: {facts['after']:,} of {facts['before']:,} pieces stay: {', '.join(parts)}; "
        f"{facts['parameters']:,} parameters fewer; texts in other languages fall into small pieces"
    )

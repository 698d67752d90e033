"""Make the expansion file of a benchmark, batch by batch, resumable.

The plan is a pure function of benchmark, prompts and tokenizer: prompts of similar length share a batch, the
batches run in a fixed shuffled order. Lines go to `FILE.partial` in the order of the plan; when the last one
is there the file gets its name. A run that was interrupted keeps its whole batches, cuts off the rest (half a
line too) and goes on, so the finished file is the same, byte for byte, as without the interruption.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from hbt_dist import __version__
from hbt_dist.common.console import Progress
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import explained_write
from hbt_dist.data.benchmarks.benchmark import Benchmark
from hbt_dist.data.files import digest_of_file
from hbt_dist.methods.expansion.files import (
    SCHEMA,
    SCHEMA_VERSION,
    Key,
    Translation,
    check_header,
    read_translations,
)
from hbt_dist.methods.expansion.generate import LoadedGenerator, generate, prompt_tokens
from hbt_dist.methods.expansion.prompts import PROMPTS, STOP, build_prompt, clean
from hbt_dist.methods.expansion.settings import ExpansionSettings


@dataclass(frozen=True)
class Task:
    """One text to generate, and the lines that come of it."""

    question_id: str
    language: str  # of the question
    question: str
    written: str  # language of the generated text
    sample: int
    prompt: str
    translations: tuple[Translation, ...] = ()  # order before: into which the text is turned

    @property
    def keys(self) -> list[Key]:
        """The lines of this task."""
        languages = [translation.language for translation in self.translations] or [self.written]
        return [(self.question_id, self.language, language, self.sample) for language in languages]


def expand_benchmark(
    loaded: LoadedGenerator,
    benchmark: Benchmark,
    output: Path,
    settings: ExpansionSettings,
    *,
    translations: Path | None = None,
    progress: bool = True,
) -> Path:
    """Write the expansion file of a benchmark; continue it if it was begun.

    Args:
        loaded: the language model.
        benchmark: whose questions are expanded.
        output: the file; `output.partial` holds an unfinished one.
        settings: what decides the texts.
        translations: file of translations, needed for `settings.order`.
        progress: show expansions per second and time left.

    Raises:
        UserError: translations are missing, an unfinished file has different settings, or the file cannot be
            written.
    """
    tasks = plan_tasks(benchmark, settings, translations)
    header = _header(loaded, benchmark, settings, translations)
    if output.exists():
        _check_same(output, header)
        return output
    tokens = prompt_tokens(loaded, [task.prompt for task in tasks], settings.max_new_tokens)
    batches = plan_batches([len(ids) for ids in tokens], settings.batch_size)
    partial = output.with_name(output.name + ".partial")
    with explained_write(output, "name another file"):
        output.parent.mkdir(parents=True, exist_ok=True)
        done, size = _resume(partial, header, [[tasks[row] for row in batch] for batch in batches])
        with partial.open("r+b" if partial.exists() else "w+b") as stream:
            stream.truncate(size)
            stream.seek(size)
            if not size:
                stream.write(_line(header))
            finished = sum(len(batch) for batch in batches[:done])
            with Progress(
                len(tasks), "expand questions", "expansion", initial=finished, disable=not progress
            ) as bar:
                for batch in batches[done:]:
                    texts = generate(
                        loaded,
                        [tokens[row] for row in batch],
                        [seed_of(settings.seed, tasks[row]) for row in batch],
                        max_new_tokens=settings.max_new_tokens,
                        temperature=settings.drawn_at,
                    )
                    for row, text in zip(batch, texts, strict=True):
                        stream.writelines(_lines(tasks[row], clean(text)))
                    stream.flush()
                    bar.update(len(batch))
        os.replace(partial, output)
    return output


def plan_tasks(benchmark: Benchmark, settings: ExpansionSettings, translations: Path | None) -> list[Task]:
    """Plan what is generated, in the order of the benchmark's questions.

    Raises:
        UserError: the benchmark lacks a language, only one of translations and order is given, or a question
            has no translation.
    """
    if (settings.order is None) != (translations is None):
        raise UserError(
            "--order and --translations",
            "only one of them is given",
            "give both to expand before or after translation, or neither",
        )
    absent = [code for code in settings.languages or () if code not in benchmark.languages]
    if absent:
        raise UserError(
            f"benchmark {benchmark.name}",
            f"has no {', '.join(map(repr, absent))}",
            f"it has {', '.join(benchmark.languages)}",
        )
    given = {} if translations is None else read_translations(translations, settings.order == "before")
    tasks: list[Task] = []
    for row, question_id in enumerate(benchmark.question_ids):
        language = benchmark.languages[benchmark.question_language[row]]
        if settings.languages is not None and language not in settings.languages:
            continue
        question = benchmark.question_texts[row]
        for sample in range(settings.samples):
            of_question: tuple[Translation, ...] = ()
            if translations is not None:
                key = (question_id, language, sample if settings.order == "before" else 0)
                if key not in given:
                    what = f"sample {sample} of question" if settings.order == "before" else "question"
                    raise UserError(
                        str(translations), f"{what} {question_id!r} ({language}) has no translation"
                    )
                of_question = tuple(given[key])
            if settings.order == "after":
                tasks += [
                    Task(
                        question_id,
                        language,
                        question,
                        translation.language,
                        sample,
                        build_prompt(settings.strategy, translation.text, translation.language),
                    )
                    for translation in of_question
                ]
            else:
                prompt = build_prompt(settings.strategy, question, language)
                tasks.append(Task(question_id, language, question, language, sample, prompt, of_question))
    if not tasks:
        raise UserError(f"benchmark {benchmark.name}", "has no question in these languages")
    return tasks


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Group rows of similar length; the batches are in a fixed shuffled order, for a realistic time left."""
    order = np.argsort(-np.array(lengths), kind="stable").tolist()
    batches = [order[first : first + batch_size] for first in range(0, len(order), batch_size)]
    return [batches[i] for i in np.random.default_rng(0).permutation(len(batches)).tolist()]


def seed_of(seed: int, task: Task) -> int:
    """Return the seed of one text: 63 bits of SHA-256 over the run's seed and the identity of the text."""
    name = json.dumps([seed, task.question_id, task.language, task.written, task.sample])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") >> 1


def _header(
    loaded: LoadedGenerator, benchmark: Benchmark, settings: ExpansionSettings, translations: Path | None
) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "benchmark": {
            "name": benchmark.name,
            "variant": benchmark.variant,
            "fingerprint": benchmark.fingerprint,
            "languages": list(benchmark.languages),
        },
        "model": loaded.identity,
        "prompt": {"template": PROMPTS[settings.strategy], "stop": STOP},
        "settings": settings.model_dump(mode="json") | {"temperature": settings.drawn_at},
        "translations": None
        if translations is None
        else {"file": translations.name, "sha256": digest_of_file(translations)},
        "versions": {
            "hbt_dist": __version__,
            **{name: metadata.version(name) for name in ("torch", "transformers", "tokenizers")},
        },
    }


def _line(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()


def _lines(task: Task, text: str) -> Iterator[bytes]:
    """The lines of a finished task."""
    for translation in task.translations:
        if translation.source is not None and clean(translation.source) != text:
            raise UserError(
                translation.location,
                f"sample {task.sample} of question {task.question_id!r} ({task.language}) was translated "
                "from another text than the expansion that the model gives now",
                "make the expansions without --order, translate those, and use the same settings here",
            )
    texts = [translation.text for translation in task.translations] or [text]
    for (question_id, language, expansion_language, sample), written in zip(task.keys, texts, strict=True):
        yield _line(
            {
                "question_id": question_id,
                "question_language": language,
                "expansion_language": expansion_language,
                "sample": sample,
                "question": task.question,
                "text": written,
            }
        )


def _check_same(path: Path, header: dict[str, Any]) -> None:
    """Check that an existing file was made with the same settings."""
    with path.open("rb") as stream:
        first = stream.readline()
    try:
        recorded = json.loads(first)
    except ValueError:
        recorded = None
    if not isinstance(recorded, dict):
        raise UserError(str(path), "exists and is not an expansion file", "name another file")
    check_header(recorded, f"{path} line 1")
    if recorded != header:
        keys = sorted(key for key in header.keys() | recorded.keys() if recorded.get(key) != header.get(key))
        raise UserError(
            str(path),
            f"was made with different values of {', '.join(keys)}",
            "name another file, or delete this one",
        )


def _resume(partial: Path, header: dict[str, Any], batches: list[list[Task]]) -> tuple[int, int]:
    """(whole batches in the unfinished file, bytes up to their end); (0, 0) if there is nothing to keep.

    Raises:
        UserError: the file was made with different settings.
    """
    lines = partial.read_bytes().splitlines(keepends=True) if partial.exists() else []
    complete = [len(line) for line in lines if line.endswith(b"\n")]
    if not complete:
        return 0, 0  # not even the head was written
    _check_same(partial, header)
    done, kept = 0, 1
    for batch in batches:
        end = kept + sum(len(task.keys) for task in batch)
        if end > len(complete):
            break
        done, kept = done + 1, end
    return done, sum(complete[:kept])

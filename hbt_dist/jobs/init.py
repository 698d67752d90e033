"""Write a commented run file from the template, with the values that the user's files show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from hbt_dist.batching.feasibility import StreamGroups, largest_batch
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.shares import Cells
from hbt_dist.batching.streams import Streams
from hbt_dist.common.console import counted
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import atomic_write, explained_write
from hbt_dist.config.settings import validate
from hbt_dist.data.benchmarks.load import load_benchmark
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.guess import guess_source
from hbt_dist.data.corpus.readers import open_source
from hbt_dist.data.corpus.settings import DataSettings, SourceSettings

TEMPLATE = Path(__file__).parents[1] / "templates" / "run.yaml"
#: Records whose languages are counted: the conversion finds an exception behind them.
_COUNTED = 100_000
_LARGEST_BATCH = 256
#: A batch takes at most this share of what may meet in one, so that batches differ.
_PARTS = 4
_EPOCHS = 20
_FEWEST_STEPS, _MOST_STEPS = 20, 2000

Key = tuple[str | int, ...]


def init_job(to: Path, *, data: str | None, benchmark: str | None, language: str | None) -> str:
    """Write a run file.

    Args:
        data: file or folder of training examples; None leaves the template's.
        benchmark: name or folder; None leaves the template's.
        language: of all texts, where nothing names it.

    Returns:
        what was filled in, and the commands that come next.

    Raises:
        UserError: the file exists, or data or benchmark cannot be read.
    """
    if to.exists():
        raise UserError(str(to), "exists already", f"name a new file, such as --to {to.stem}2.yaml")
    values: dict[Key, Any] = {}
    lines: list[str] = []
    if to.stem != "run":
        name = _name_of(to)
        values |= {("name",): name, ("output_dir",): f"runs/{name}"}
    if data is not None:
        _fill_data(data, language, values, lines)
    if benchmark is not None:
        loaded = load_benchmark(benchmark)
        values["evaluation", "benchmarks", 0] = {"name": benchmark}
        texts = f"{counted(loaded.num_questions, 'question')}, {counted(loaded.num_candidates, 'candidate')}"
        lines.append(f"evaluation: {benchmark}, {texts} in {', '.join(loaded.languages)}")
    with explained_write(to, "name a file in a folder that you can write"):
        atomic_write(to, with_values(TEMPLATE.read_text("utf-8"), values))
    missing = [f"--{option}" for option, given in (("data", data), ("benchmark", benchmark)) if given is None]
    ending = f"edit the lines of {' and '.join(missing)}, then\n" if missing else ""
    run = (
        f"  hbt-dist data inspect {to} --step 0    # the examples, and the first batch\n  hbt-dist train {to}"
    )
    return "\n".join([f"written: {to}", *(f"  {line}" for line in lines), f"{ending}next:\n{run}"])


def _fill_data(data: str, language: str | None, values: dict[Key, Any], lines: list[str]) -> None:
    """Add the keys that the training examples decide, and a line on each."""
    source = guess_source(Path(data), _name_of(Path(data)), language)
    values["data", "sources", 0] = source
    columns = source.get("columns")
    mapped = f", columns {', '.join(f'{role}: {name}' for role, name in columns.items())}" if columns else ""
    lines.append(f"data: {data}, format {source['format']}{mapped}")
    if language is not None and "language" not in (columns or {}):
        lines.append(f"--language {language} is not used: the data name the languages of their texts")
    missing, languages = _languages(SourceSettings.model_validate(source))
    values["data", "missing"] = missing
    lines.append(
        f"languages: {languages}"
        + ("; some examples lack some of them, so missing: skip" if missing == "skip" else "")
    )
    block = validate(DataSettings, {"sources": [source], "missing": missing}, data)
    corpus = build_corpus(block)
    alpha = _alpha(corpus)
    if alpha != 0.5:
        values["batches", "alpha"] = alpha
        kind = "have question and passage in one language" if alpha == 1 else "join two languages"
        lines.append(f"alpha: {alpha}, because all examples {kind}")
    possible = _largest_batch(corpus, alpha)
    if possible < 2:
        raise UserError(
            data,
            f"a batch can hold {counted(possible, 'passage')} of it, at least 2 are needed",
            "add examples",
        )
    rows = _power_of_two(possible // _PARTS)
    values["batches", "global_batch_size"] = rows
    at_most = f"{possible:,}" if possible < _PARTS * _LARGEST_BATCH else f"{possible:,} or more"
    lines.append(f"batch size: {rows}; the data allow {at_most}")
    steps = -(-_EPOCHS * corpus.num_examples // rows)
    steps = min(max(_FEWEST_STEPS, steps), _MOST_STEPS)
    values["training", "steps"] = steps
    turns = steps * rows / max(1, corpus.num_examples)
    lines.append(
        f"steps: {steps:,}, about {turns:,.1f} times through {counted(corpus.num_examples, 'example')}"
    )


def _name_of(path: Path) -> str:
    """Return the name of a file without its endings, as names of runs and sources may be."""
    name = path.name.split(".")[0] or path.name.lstrip(".")
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_") or "mine"


def _languages(source: SourceSettings) -> tuple[str, str]:
    """Return the rule for missing languages, and how many examples have a text in each language."""
    counts: Counter[str] = Counter()
    uneven = False
    sides: set[frozenset[str]] = set()
    for record in islice(open_source(source, None, "skip").records(), _COUNTED):
        sides |= {frozenset(record.question), frozenset(record.passage)}
        counts.update(record.question.keys() | record.passage.keys())
        uneven = len(sides) > 1
    if not counts:
        raise UserError(str(source.path), "holds no example", "name the file with the training examples")
    shown = ", ".join(f"{code} {number:,}" for code, number in sorted(counts.items()))
    return ("skip" if uneven else "refuse"), shown


def _alpha(corpus: Corpus) -> float | int:
    """Return the share of monolingual batches that the examples can fill: half where both kinds exist."""
    cells = Cells.of(corpus)
    languages = (cells.questions | cells.passages).sum(axis=1)
    crosslingual = bool((languages > 1).any())
    monolingual = bool((cells.questions & cells.passages)[~cells.same_text].any())
    return 0.5 if monolingual and crosslingual else int(monolingual)


def _largest_batch(corpus: Corpus, alpha: float) -> int:
    """Return the largest batch that the examples can fill, as far as it matters."""
    most = _PARTS * _LARGEST_BATCH
    settings = BatchSettings(global_batch_size=most, alpha=alpha)
    cells = Cells.of(corpus)
    groups = StreamGroups(corpus, cells, settings, Streams.of(corpus, cells, settings, 0))
    return largest_batch(groups)


def _power_of_two(number: int) -> int:
    return 1 << max(1, number.bit_length() - 1)


def with_values(text: str, values: Mapping[Key, Any]) -> str:
    """Return a YAML text with some of its values replaced; comments and all other lines stay.

    Raises:
        KeyError: the text lacks one of the keys.
    """
    spans = []
    for key, value in values.items():
        node: Any = yaml.compose(text, Loader=yaml.SafeLoader)
        for part in key:
            if isinstance(part, int):
                node = node.value[part]
            else:
                node = {name.value: inner for name, inner in node.value}[part]
        written = yaml.safe_dump(
            value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10_000
        )
        spans.append((node.start_mark.index, node.end_mark.index, written.removesuffix("\n...\n").strip()))
    for start, end, written in sorted(spans, reverse=True):
        text = text[:start] + written + text[end:]
    return text

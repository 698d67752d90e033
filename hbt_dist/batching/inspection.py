"""What a corpus holds, what the plan will draw of it, and the rows of a step: `hbt-dist data inspect`.

Kinds, languages and datasets are counted over every step of the run where the draws say it all (kinds), and
over a sample of 64 to 512 evenly spaced steps where rows have to be planned for it (pairs, datasets), which
takes about a second. Nothing is read but integers, except for the texts that are shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hbt_dist.batching.corpus_view import PlanCorpus, TextCorpus
from hbt_dist.batching.counter_random import Floats
from hbt_dist.batching.inspection_tables import Cell, Table, render_tables
from hbt_dist.batching.negatives import unused_negatives
from hbt_dist.batching.plan import BatchPlan, GlobalBatch
from hbt_dist.batching.tokens import TokenStore
from hbt_dist.methods.code_switching.switcher import switched_passages, switched_questions
from hbt_dist.methods.code_switching.switching import SwitchCounts

_SAMPLED_ROWS = 1 << 17
_SAMPLED_TEXTS = 2000
_SWITCHED_ROWS = 4096
_PAIRS_SHOWN = 30


@dataclass(frozen=True)
class Inspection:
    """The report: one list of tables per question it answers."""

    corpus: list[Table] = field(default_factory=list)
    plan: list[Table] = field(default_factory=list)
    step: list[Table] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)

    def tables(self) -> Iterator[Table]:
        """Return all tables in reading order."""
        yield from [*self.corpus, *self.plan, *self.step]


def inspect(
    plan: BatchPlan,
    total_steps: int,
    *,
    step: int | None = None,
    tokens: TokenStore | None = None,
    texts: TextCorpus | None = None,
    rows: int = 20,
) -> Inspection:
    """Return the report.

    Args:
        plan: of the run.
        total_steps: steps of the run, over which shares are expected.
        step: also show the rows of this step.
        tokens: for lengths in tokens and the share of cut texts; without it, characters of a sample.
        texts: the plan's corpus where it has texts (a corpus of integers alone has none).
        rows: rows of the step to show.
    """
    return Inspection(
        corpus=[*_corpus_tables(plan), *_length_tables(plan.corpus, tokens, texts)],
        plan=[*_plan_tables(plan, total_steps), *_switching_tables(plan, total_steps, texts)],
        step=[] if step is None else [_step_table(plan, plan.batch(step), texts, rows)],
    )


def render(inspection: Inspection, width: int | None = None) -> str:
    """Return the report as text tables.

    Args:
        width: columns at most; default: those of the terminal, 120 where there is none.
    """
    return render_tables(inspection.tables(), width)


def _corpus_tables(plan: BatchPlan) -> list[Table]:
    corpus = plan.corpus
    cells = np.bincount(corpus.example_cell, minlength=len(corpus.cell_questions))
    questions, passages = np.asarray(corpus.cell_questions), np.asarray(corpus.cell_passages)
    group_sizes = np.bincount(corpus.example_group)
    group_sizes = group_sizes[group_sizes > 0]
    total = corpus.num_examples
    unused = unused_negatives(corpus, plan.settings.hard_negatives.count)
    overview = Table(
        "Corpus",
        ("examples", "passages", "groups", "examples in the largest group", "hard negatives per example"),
        [
            (
                total,
                corpus.num_passages,
                len(group_sizes),
                int(group_sizes.max(initial=0)),
                float(corpus.negative_offsets[-1]) / max(total, 1),
            )
        ],
        "The examples of a group may not meet in a batch: one passage, its translations, equal texts."
        + (f"\n{unused}" if unused else ""),
    )
    languages: list[tuple[Cell, ...]] = []
    for index, name in enumerate(corpus.languages):
        question, passage = int(cells @ questions[:, index]), int(cells @ passages[:, index])
        both = int(cells @ (questions[:, index] & passages[:, index]))
        languages.append((name, question, passage, both, total - question, total - passage))
    by_language = Table(
        "Examples by language",
        ("language", "question", "passage", "both", "question missing", "passage missing"),
        languages,
    )
    pairs = questions.astype(np.int64).T @ (cells[:, None] * passages)  # (L, L)
    by_pair = Table(
        "Examples by pair (question language down, passage language across)",
        ("language", *corpus.languages),
        [(name, *pairs[index].tolist()) for index, name in enumerate(corpus.languages)],
    )
    counts = np.bincount(corpus.example_dataset, minlength=len(corpus.datasets))
    datasets: list[tuple[Cell, ...]] = []
    for index, name in enumerate(corpus.datasets):
        own = np.unique(np.asarray(corpus.example_cell)[np.asarray(corpus.example_dataset) == index])
        have = (questions[own] | passages[own]).any(axis=0)
        same_text = "question and passage are one text" if corpus.alignment[index] else ""
        listed = " ".join(np.array(corpus.languages)[have])
        datasets.append((name, int(counts[index]), float(counts[index]) / max(total, 1), listed, same_text))
    by_dataset = Table(
        "Examples by dataset", ("dataset", "examples", "share", "languages", "remark"), datasets
    )
    return [overview, by_language, by_pair, by_dataset]


def _length_tables(corpus: PlanCorpus, tokens: TokenStore | None, texts: TextCorpus | None) -> list[Table]:
    if tokens is not None:
        rows: list[tuple[Cell, ...]] = []
        for report in tokens.reports:
            lengths = tokens.lengths(report.role, corpus.languages.index(report.language))
            lengths = lengths[lengths > 0]
            if len(lengths):
                middle, high = np.percentile(lengths, [50, 95]).tolist()
                cut = report.truncated_share
                rows.append((report.role, report.language, int(middle), int(high), report.longest, cut))
        columns = ("role", "language", "median", "95 %", "longest", "cut share")
        return [Table("Lengths in tokens, after cutting at the limit", columns, rows)]
    if texts is None:
        return []
    sampled: list[tuple[Cell, ...]] = []
    for role, total, read in (
        ("question", corpus.num_examples, texts.question_texts),
        ("passage", corpus.num_passages, texts.passage_texts),
    ):
        for language in corpus.languages:
            starts = np.unique(
                np.linspace(0, max(total - 100, 0), _SAMPLED_TEXTS // 100).astype(int)
            ).tolist()
            found = [text for start in starts for text in read(language, start, min(start + 100, total))]
            sizes = [len(text) for text in found if text is not None]
            if sizes:
                middle, high = np.percentile(sizes, [50, 95]).tolist()
                sampled.append((role, language, int(middle), int(high), max(sizes)))
    title = f"Lengths in characters, of a sample of {_SAMPLED_TEXTS:,} texts each"
    return [Table(title, ("role", "language", "median", "95 %", "longest"), sampled)]


def _plan_tables(plan: BatchPlan, total_steps: int) -> list[Table]:
    steps = np.arange(total_steps, dtype=np.int64)
    mixture = plan.mixture
    entry_share = mixture.probabilities(steps).mean(axis=0)
    stream_share = np.array(
        [entry_share[stream.shares.entry] * stream.shares.weight for stream in plan.streams]
    )
    num_sampled = int(np.clip(_SAMPLED_ROWS // plan.settings.global_batch_size, 64, 512))
    sampled = np.unique(np.linspace(0, max(total_steps - 1, 0), num_sampled).astype(np.int64)).tolist()
    batches = [plan.batch(step) for step in sampled]
    num_rows = sum(len(batch) for batch in batches)
    drawn_kinds = _drawn_kinds(plan, steps)
    kinds = Table(
        f"Kinds over {total_steps:,} steps of {plan.settings.global_batch_size:,} rows "
        f"(mixing: {plan.settings.mixing})",
        ("kind", "languages", "configured share", "drawn share"),
        [
            (entry.kind, " ".join(entry.languages or ["all"]), float(share), float(drawn))
            for entry, share, drawn in zip(mixture.entries, entry_share, drawn_kinds, strict=True)
        ],
    )
    size = len(plan.corpus.languages)
    expected, datasets = np.zeros((size, size)), np.zeros(len(plan.corpus.datasets))
    for share, stream in zip(stream_share, plan.streams, strict=True):
        joint = stream.shares.joint
        np.add.at(expected, (joint.question, joint.passage), share * joint.share.sum(axis=0))
        np.add.at(datasets, plan.cells.dataset, share * joint.share.sum(axis=1))
    found, found_datasets = np.zeros((size, size)), np.zeros(len(datasets))
    for batch in batches:
        np.add.at(found, (batch.question_language, batch.passage_language), 1 / num_rows)
        np.add.at(found_datasets, plan.corpus.example_dataset[batch.example], 1 / num_rows)
    columns = ("expected share", "drawn share")
    sample = f"drawn: in {len(batches)} evenly spaced steps, {num_rows:,} rows"
    names = plan.corpus.languages
    languages = Table(
        "Languages",
        ("language", "question, expected share", "question, drawn share",
         "passage, expected share", "passage, drawn share"),
        [
            (name, *(float(table.sum(axis=axis)[i]) for axis in (1, 0) for table in (expected, found)))
            for i, name in enumerate(names)
        ],
        sample,
    )  # fmt: skip
    order = [(int(q), int(p)) for q, p in np.argwhere(expected > 0)]
    order.sort(key=lambda pair: -expected[pair])
    left_out = len(order) - _PAIRS_SHOWN
    pairs = Table(
        "Pairs (question-passage)",
        ("pair", *columns),
        [
            (f"{names[q]}-{names[p]}", float(expected[q, p]), float(found[q, p]))
            for q, p in order[:_PAIRS_SHOWN]
        ],
        sample + (f"; {left_out} more pairs, each at most as likely" if left_out > 0 else ""),
    )
    by_dataset = Table(
        "Datasets",
        ("dataset", *columns),
        [(name, float(datasets[i]), float(found_datasets[i])) for i, name in enumerate(plan.corpus.datasets)],
        sample,
    )
    return [kinds, languages, pairs, by_dataset, _epochs(plan, stream_share, total_steps)]


def _switching_tables(plan: BatchPlan, total_steps: int, texts: TextCorpus | None) -> list[Table]:
    """What code-switching does to the rows of some steps, where it is on."""
    switching = plan.switching
    if switching is None or texts is None:
        return []
    num_sampled = max(1, min(total_steps, _SWITCHED_ROWS // plan.settings.global_batch_size))
    sampled = np.unique(np.linspace(0, max(total_steps - 1, 0), num_sampled).astype(np.int64)).tolist()
    asked, answers = SwitchCounts(), SwitchCounts()
    for step in sampled:
        batch = plan.batch(step)
        asked += switched_questions(switching, texts, batch, 0).counts
        answers += switched_passages(switching, texts, batch, 0).counts
    settings = switching.settings
    rows: list[tuple[Cell, ...]] = []
    for role, chance, counts in (
        ("question", settings.question_probability, asked),
        ("passage", settings.passage_probability, answers),
    ):
        known = counts.known / counts.words if counts.words else 0.0
        rows.append((role, counts.texts, counts.words, known, chance, counts.ratio))
    pairs = [f"{source}: {' '.join(sorted(found))}" for source, found in switching.lexicon.pairs.items()]
    return [
        Table(
            f"Code-switching ({settings.variant})",
            ("role", "texts", "words", "in a dictionary, share", "drawn share", "switched share"),
            rows,
            f"in {len(sampled)} evenly spaced steps; {'; '.join(pairs)}",
        )
    ]


def _drawn_kinds(plan: BatchPlan, steps: Any) -> Floats:
    """Return the share of rows that each entry gets over all steps."""
    mixture = plan.mixture
    if plan.settings.mixing == "shares":
        shares = mixture.probabilities(steps)
        return np.asarray(shares.mean(axis=0))
    drawn = np.bincount(mixture.streams(steps).ravel(), minlength=mixture.num_streams)
    entries = [mixture.entry_of(stream) for stream in range(mixture.num_streams)]
    return np.bincount(entries, weights=drawn, minlength=len(mixture.entries)) / max(len(steps), 1)


def _epochs(plan: BatchPlan, stream_share: Floats, total_steps: int) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for share, stream in zip(stream_share, plan.streams, strict=True):
        joint = stream.shares.joint
        pair = [plan.corpus.languages[side[0]] for side in (joint.question, joint.passage)]
        label = "-".join(dict.fromkeys(pair)) if len(joint.question) == 1 else f"{len(joint.question)} pairs"
        kind = plan.mixture.entries[stream.shares.entry].kind
        per_stratum = np.diff(stream.bounds) / 2.0**32
        epoch_rows = np.array([deck.num_examples for deck in stream.decks], np.float64)
        turns = share * total_steps * plan.settings.global_batch_size * per_stratum / stream.rows / epoch_rows
        visited = int((stream.order.visits * stream.order.groups).sum())
        rows.append(
            (
                kind,
                label,
                int(epoch_rows.sum()),
                visited,
                float(share),
                float(turns.min()),
                float(turns.max()),
            )
        )
    return Table(
        "Streams: how often the run goes through the examples",
        ("kind", "language", "examples", "per epoch", "share", "epochs, fewest", "epochs, most"),
        rows,
        "per epoch below examples: a group so large that it would meet itself in a batch gives only part of "
        "its examples in one epoch.",
    )


def _switched_texts(
    plan: BatchPlan, batch: GlobalBatch, texts: TextCorpus | None
) -> tuple[dict[int, str], dict[int, str]]:
    """Questions and passages of a step that code-switching changes, by place (positives come first)."""
    if plan.switching is None or texts is None:
        return {}, {}
    found = [one(plan.switching, texts, batch, 0) for one in (switched_questions, switched_passages)]
    asked, answers = (dict(zip(one.place.tolist(), one.texts, strict=True)) for one in found)
    return asked, answers


def _step_table(plan: BatchPlan, batch: GlobalBatch, texts: TextCorpus | None, rows: int) -> Table:
    names, corpus = plan.corpus.languages, plan.corpus
    questions, passages = _switched_texts(plan, batch, texts)
    several = bool((batch.sub_batch != batch.sub_batch[0]).any())
    shown: list[tuple[Cell, ...]] = []
    for i in range(min(rows, len(batch))):
        example = int(batch.example[i])
        question, passage = names[batch.question_language[i]], names[batch.passage_language[i]]
        where: list[Cell] = [plan.kinds[batch.kind_of_row[i]]]
        where += [int(batch.sub_batch[i])] if several else []
        where.append(f"{question}->{passage}")
        where.append(corpus.datasets[corpus.example_dataset[example]])
        if texts is None:
            where += [str(example), str(int(corpus.example_passage[example]))]
        else:
            where += [
                texts.example_id(example),
                _one_line(questions.get(i) or texts.question_text(example, question)),
                _one_line(
                    passages.get(i) or texts.passage_text(int(corpus.example_passage[example]), passage)
                ),
            ]
        negatives = []
        for j, row in enumerate(batch.negative[i].tolist()):
            name = row if texts is None else texts.passage_id(row)
            random = " (random)" if batch.negative_filled[i, j] else ""
            negatives.append(f"{names[batch.negative_language[i, j]]}:{name}{random}")
        shown.append((*where, *([" ".join(negatives)] if batch.negative.shape[1] else [])))
    columns = ["kind", *(["sub-batch"] if several else []), "pair", "dataset", "example"]
    columns += ["passage"] if texts is None else ["question", "passage"]
    columns += ["hard negatives"] if batch.negative.shape[1] else []
    left_out = len(batch) - len(shown)
    note = f"{left_out:,} more rows" if left_out > 0 else ""
    return Table(f"Step {batch.step:,}: {batch.kind}, {len(batch):,} rows", tuple(columns), shown, note)


def _one_line(text: str, most: int = 200) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"

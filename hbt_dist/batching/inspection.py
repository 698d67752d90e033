"""Report what a corpus holds, what the plan draws from it, and the rows of a step: `hbt-dist data inspect`.

Kinds are counted over every step of the run. Languages, pairs and datasets need planned rows: they are
counted over a sample of 64 to 512 evenly spaced steps, which takes about a second. The report reads integers
only, except for the texts that it shows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hbt_dist.batching.collate import teacher_scores
from hbt_dist.batching.counter_random import Floats
from hbt_dist.batching.epochs import epochs_by_kind, overdrawn_sources, stream_epochs, stream_shares
from hbt_dist.batching.negatives import unused_negatives
from hbt_dist.batching.plan import BatchPlan, GlobalBatch
from hbt_dist.batching.streams import Stream
from hbt_dist.batching.tokens import TokenStore
from hbt_dist.data.corpus.corpus import Corpus, Role

_SAMPLED_ROWS = 1 << 17
_SAMPLED_TEXTS = 2000
_PAIRS_SHOWN = 30
_PREFIXES_SHOWN = 20
_MOST_DRAWN = 0.95  # share of the examples that an epoch gives, below which it is reported

Cell = str | int | float


@dataclass(frozen=True)
class Table:
    """Rows under column names. A float in a column whose name ends in `share` is a share of 1."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    note: str = ""


@dataclass(frozen=True)
class Inspection:
    """The report: one list of tables per question that it answers."""

    corpus: list[Table] = field(default_factory=list)
    plan: list[Table] = field(default_factory=list)
    step: list[Table] = field(default_factory=list)


def inspect(
    plan: BatchPlan,
    total_steps: int,
    *,
    step: int | None = None,
    tokens: TokenStore | None = None,
    rows: int = 20,
) -> Inspection:
    """Return the report.

    Args:
        plan: of the run.
        total_steps: steps of the run, over which shares are expected.
        step: also show the rows of this step.
        tokens: for lengths in tokens and the share of cut texts; without it, characters of a sample.
        rows: rows of the step to show.
    """
    corpus = plan.corpus
    lengths = _character_lengths(corpus) if tokens is None else _token_lengths(corpus, tokens)
    return Inspection(
        corpus=[*_corpus_tables(plan), lengths],
        plan=_plan_tables(plan, total_steps),
        step=[] if step is None else [_step_table(plan, plan.batch(step), rows)],
    )


def evenly_spaced_steps(total_steps: int, most: int) -> list[int]:
    """Return at most `most` steps of a run."""
    steps: list[int] = np.unique(np.linspace(0, max(total_steps - 1, 0), most).astype(np.int64)).tolist()
    return steps


def _corpus_tables(plan: BatchPlan) -> list[Table]:
    corpus, cells = plan.corpus, plan.cells
    group_sizes = np.bincount(corpus.example_group)
    total = corpus.num_examples
    num_groups, largest = int(np.count_nonzero(group_sizes)), int(group_sizes.max(initial=0))
    negatives = float(corpus.negative_offsets[-1]) / max(total, 1)
    note = "The examples of a group must not meet in a batch: one passage, its translations, equal texts."
    unused = unused_negatives(corpus, plan.settings.hard_negatives)
    overview = Table(
        "Corpus",
        ("examples", "passages", "groups", "examples in the largest group", "hard negatives per example"),
        [(total, corpus.num_passages, num_groups, largest, negatives)],
        "\n".join([note, *unused]),
    )
    both = cells.questions & cells.passages
    counts = [(cells.num_examples @ has).tolist() for has in (cells.questions, cells.passages, both)]
    by_language = Table(
        "Examples by language",
        ("language", "question", "passage", "both", "question missing", "passage missing"),
        [
            (name, question, passage, in_both, total - question, total - passage)
            for name, question, passage, in_both in zip(corpus.languages, *counts, strict=True)
        ],
    )
    pairs = cells.questions.astype(np.int64).T @ (cells.num_examples[:, None] * cells.passages)  # (L, L)
    by_pair = Table(
        "Examples by pair (question language down, passage language across)",
        ("language", *corpus.languages),
        [(name, *row) for name, row in zip(corpus.languages, pairs.tolist(), strict=True)],
    )
    datasets: list[tuple[Cell, ...]] = []
    for index, name in enumerate(corpus.datasets):
        members = cells.dataset == index
        count = int(cells.num_examples[members].sum())
        has = (cells.questions[members] | cells.passages[members]).any(axis=0)
        remark = "question and passage are one text" if corpus.alignment[index] else ""
        listed = " ".join(np.array(corpus.languages)[has])
        datasets.append((name, count, count / max(total, 1), listed, remark))
    by_dataset = Table(
        "Examples by dataset", ("dataset", "examples", "share", "languages", "remark"), datasets
    )
    return [overview, by_language, by_pair, by_dataset, *_prefix_tables(corpus), *_negative_tables(corpus)]


def _negative_tables(corpus: Corpus) -> list[Table]:
    """Return the teacher's scores, and the languages of mined negatives, as far as the data have them."""
    tables = []
    scores = {"passage": corpus.example_score, "hard negative": corpus.negative_score}
    rows: list[tuple[Cell, ...]] = []
    for role, of_role in scores.items():
        scored = np.empty(0) if of_role is None else of_role[~np.isnan(of_role)]
        if of_role is not None and len(scored):
            low, middle, high = np.percentile(scored, [0, 50, 100]).tolist()
            rows.append((role, len(scored), len(scored) / len(of_role), low, middle, high))
    if rows:
        columns = ("role", "scored", "share", "lowest", "median", "highest")
        tables.append(Table("Scores of a teacher", columns, rows))
    if corpus.negative_language is not None:
        counts = np.bincount(np.asarray(corpus.negative_language) + 1, minlength=1 + len(corpus.languages))
        named = zip(("(not recorded)", *corpus.languages), counts.tolist(), strict=True)
        total = max(len(corpus.negative_language), 1)
        by_language: list[tuple[Cell, ...]] = [(name, count, count / total) for name, count in named if count]
        title = "Hard negatives by the language in which they were mined"
        tables.append(Table(title, ("language", "hard negatives", "share"), by_language))
    return tables


def _prefix_tables(corpus: Corpus) -> list[Table]:
    """Return the prefixes of each dataset's examples, if there are any but the model's."""
    if corpus.example_prefix is None or corpus.passage_prefix is None:
        return []
    rows: list[tuple[Cell, ...]] = []
    codes = {"question": corpus.example_prefix, "passage": corpus.passage_prefix[corpus.example_passage]}
    for index, name in enumerate(corpus.datasets):
        chosen = np.asarray(corpus.example_dataset) == index
        for role, of_role in codes.items():
            counts = np.bincount(np.asarray(of_role)[chosen], minlength=len(corpus.prefixes))
            most = np.argsort(-counts, kind="stable")[:_PREFIXES_SHOWN]
            rows += [
                (name, role, "(the model's)" if prefix is None else repr(prefix), int(counts[code]))
                for code in most.tolist()
                if counts[code]
                for prefix in [corpus.prefixes[code]]
            ]
    note = f"at most {_PREFIXES_SHOWN} per dataset and role; {{language}} becomes the language's English name"
    return [Table("Prefixes by dataset", ("dataset", "role", "prefix", "examples"), rows, note)]


def _token_lengths(corpus: Corpus, tokens: TokenStore) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for report in tokens.reports:
        lengths = tokens.lengths(report.role, corpus.languages.index(report.language))
        lengths = lengths[lengths > 0]
        if len(lengths):
            middle, high = np.percentile(lengths, [50, 95]).astype(int).tolist()
            cut = report.truncated_share
            rows.append((report.role, report.language, middle, high, report.longest, cut))
    columns = ("role", "language", "median", "95 %", "longest", "cut share")
    return Table("Lengths in tokens, after cutting at the limit", columns, rows)


def _character_lengths(corpus: Corpus) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for role, total, read in (
        ("question", corpus.num_examples, corpus.question_texts),
        ("passage", corpus.num_passages, corpus.passage_texts),
    ):
        starts = evenly_spaced_steps(max(total - 99, 1), _SAMPLED_TEXTS // 100)
        for language in corpus.languages:
            texts = [text for start in starts for text in read(language, start, min(start + 100, total))]
            sizes = [len(text) for text in texts if text is not None]
            if sizes:
                middle, high = np.percentile(sizes, [50, 95]).astype(int).tolist()
                rows.append((role, language, middle, high, max(sizes)))
    title = f"Lengths in characters, of a sample of {_SAMPLED_TEXTS:,} texts each"
    return Table(title, ("role", "language", "median", "95 %", "longest"), rows)


def _plan_tables(plan: BatchPlan, total_steps: int) -> list[Table]:
    """Return tables of expected shares next to the shares that the plan draws."""
    mixture, names, rows = plan.mixture, plan.corpus.languages, plan.settings.global_batch_size
    all_steps = np.arange(total_steps, dtype=np.int64)
    entry_share = mixture.probabilities(all_steps).mean(axis=0)
    by_source = any(entry.sources for entry in mixture.entries)
    kinds = Table(
        f"Kinds over {total_steps:,} steps of {rows:,} rows (mixing: {plan.settings.mixing})",
        ("kind", "languages", *(["sources"] if by_source else []), "configured share", "drawn share"),
        [
            (
                entry.kind,
                " ".join(entry.languages or ["all"]),
                *([" ".join(entry.sources or ["all"])] if by_source else []),
                float(share),
                float(drawn),
            )
            for entry, share, drawn in zip(
                mixture.entries, entry_share, _drawn_kinds(plan, all_steps), strict=True
            )
        ],
    )
    steps = evenly_spaced_steps(total_steps, int(np.clip(_SAMPLED_ROWS // rows, 64, 512)))
    pairs = np.zeros((2, len(names), len(names)))  # expected and drawn share of each pair
    datasets = np.zeros((2, len(plan.corpus.datasets)))
    for share, stream in zip(stream_shares(plan, total_steps), plan.streams, strict=True):
        joint = stream.shares.joint
        np.add.at(pairs[0], (joint.question, joint.passage), share * joint.share.sum(axis=0))
        np.add.at(datasets[0], plan.cells.dataset, share * joint.share.sum(axis=1))
    for batch in map(plan.batch, steps):
        row_share = 1 / (len(steps) * len(batch))
        np.add.at(pairs[1], (batch.question_language, batch.passage_language), row_share)
        np.add.at(datasets[1], plan.corpus.example_dataset[batch.example], row_share)
    sample = f"drawn: in {len(steps)} evenly spaced steps, {len(steps) * rows:,} rows"
    by_language = np.concatenate([pairs.sum(axis=2), pairs.sum(axis=1)])
    languages = Table(
        "Languages",
        ("language", "question, expected share", "question, drawn share",
         "passage, expected share", "passage, drawn share"),
        [(name, *shares) for name, shares in zip(names, by_language.T.tolist(), strict=True)],
        sample,
    )  # fmt: skip
    used = np.argwhere(pairs[0] > 0)
    used = used[np.argsort(-pairs[0][tuple(used.T)], kind="stable")].tolist()
    left_out = len(used) - _PAIRS_SHOWN
    columns = ("expected share", "drawn share")
    by_pair = Table(
        "Pairs (question-passage)",
        ("pair", *columns),
        [(f"{names[q]}-{names[p]}", *pairs[:, q, p].tolist()) for q, p in used[:_PAIRS_SHOWN]],
        "\n".join(
            [
                sample + (f"; {left_out} more pairs, each at most as likely" if left_out > 0 else ""),
                *shares_missed(plan, total_steps),
            ]
        ),
    )
    by_dataset = Table(
        "Datasets",
        ("dataset", *columns),
        [(name, *shares) for name, shares in zip(plan.corpus.datasets, datasets.T.tolist(), strict=True)],
        sample,
    )
    return [kinds, languages, by_pair, by_dataset, _epochs(plan, total_steps)]


def shares_missed(plan: BatchPlan, total_steps: int) -> list[str]:
    """Return one line if a pair gets clearly fewer rows than its share: too few of its groups may meet.

    Counted in 8 to 64 steps, against the shares of the streams that these steps draw.
    """
    names = plan.corpus.languages
    expected, drawn = np.zeros((2, len(names), len(names)))
    steps = evenly_spaced_steps(
        total_steps, int(np.clip(_SAMPLED_ROWS // plan.settings.global_batch_size, 8, 64))
    )
    for step, streams in zip(steps, plan.mixture.streams(np.array(steps)), strict=True):
        for rows, number in zip(plan.mixture.rows_of_slots(step), streams, strict=True):
            joint = plan.streams[number].shares.joint
            np.add.at(expected, (joint.question, joint.passage), rows * joint.share.sum(axis=0))
        batch = plan.batch(step)
        np.add.at(drawn, (batch.question_language, batch.passage_language), 1)
    missing = expected - drawn
    q, p = np.unravel_index(int(missing.argmax()), missing.shape)
    if missing[q, p] <= max(0.1 * expected[q, p], 4 * np.sqrt(expected[q, p])):
        return []
    return [
        f"{names[q]}-{names[p]} gets {drawn[q, p] / len(steps):.1f} rows per batch instead of "
        f"{expected[q, p] / len(steps):.1f}: too few of its passages may meet in a batch; "
        "lower batches.global_batch_size, or weigh pairs by size"
    ]


def examples_missed(plan: BatchPlan) -> list[str]:
    """Return one line if an epoch of a stream gives clearly fewer examples than it has."""
    counts = [(_per_epoch(stream), _num_examples(stream)) for stream in plan.streams]
    drawn, total = min(counts, key=lambda count: count[0] / count[1])
    if drawn >= _MOST_DRAWN * total:
        return []
    return [
        f"{drawn:,} of {total:,} examples can be drawn per epoch: large groups share a passage or a text; "
        "a batch holds one example of each group; hbt-dist data inspect shows the largest"
    ]


def _per_epoch(stream: Stream) -> int:
    return int(stream.order.visits @ stream.order.groups)


def _num_examples(stream: Stream) -> int:
    return sum(stratum.num_examples for stratum in stream.strata)


def _drawn_kinds(plan: BatchPlan, steps: np.ndarray[Any, np.dtype[np.int64]]) -> Floats:
    """Return the share of rows that each entry gets over all steps."""
    mixture = plan.mixture
    if plan.settings.mixing == "shares":
        return np.asarray(mixture.probabilities(steps).mean(axis=0))
    drawn = np.bincount(mixture.streams(steps).ravel(), minlength=len(plan.streams))
    entries = [stream.shares.entry for stream in plan.streams]
    return np.bincount(entries, weights=drawn, minlength=len(mixture.entries)) / max(len(steps), 1)


def _epochs(plan: BatchPlan, total_steps: int) -> Table:
    return Table(
        "Streams: how often the run goes through the examples",
        ("kind", "language", "examples", "per epoch", "share", "epochs, fewest", "epochs, most"),
        [
            (of.kind, of.label, of.num_examples, _per_epoch(stream), of.share, of.fewest, of.most)
            for of, stream in zip(stream_epochs(plan, total_steps), plan.streams, strict=True)
        ],
        "\n".join(
            [
                "per epoch below examples: a group so large that it would meet itself in a batch gives only "
                "part of its examples in one epoch.",
                *epochs_by_kind(plan, total_steps),
                *overdrawn_sources(plan, total_steps),
            ]
        ),
    )


def _step_table(plan: BatchPlan, batch: GlobalBatch, rows: int) -> Table:
    names, corpus = plan.corpus.languages, plan.corpus
    sub_batches = bool((batch.sub_batch != batch.sub_batch[0]).any())
    changed: dict[Role, dict[int, str]] = {"question": {}, "passage": {}}  # by row; positives come first
    if plan.transform is not None:
        for role in changed:
            change = plan.transform.change(role, corpus, batch)
            changed[role] = dict(zip(change.index.tolist(), change.texts, strict=True))
    scores = teacher_scores(batch, corpus)
    shown: list[tuple[Cell, ...]] = []
    for i in range(min(rows, len(batch))):
        example = int(batch.example[i])
        passage_row = int(corpus.example_passage[example])
        question, passage = names[batch.question_language[i]], names[batch.passage_language[i]]
        cells: list[Cell] = [plan.kinds[batch.kind_of_row[i]]]
        cells += [int(batch.sub_batch[i])] if sub_batches else []
        cells += [
            f"{question}->{passage}",
            corpus.datasets[corpus.example_dataset[example]],
            corpus.example_id(example),
            _one_line(changed["question"].get(i) or corpus.question_text(example, question)),
            _one_line(changed["passage"].get(i) or corpus.passage_text(passage_row, passage)),
        ]
        drawn = (batch.negative[i], batch.negative_language[i], batch.negative_filled[i])
        negatives = [
            f"{names[language]}:{corpus.passage_id(row)}{' (random)' * filled}"
            for row, language, filled in zip(*(column.tolist() for column in drawn), strict=True)
        ]
        cells += [" ".join(negatives)] if negatives else []
        cells += [] if scores is None else [" ".join(f"{score:.3g}" for score in scores[i])]
        shown.append(tuple(cells))
    columns = ["kind", *(["sub-batch"] if sub_batches else []), "pair", "dataset", "example"]
    columns += ["question", "passage", *(["hard negatives"] if batch.negative.shape[1] else [])]
    columns += [] if scores is None else ["scores of a teacher"]
    left_out = len(batch) - len(shown)
    note = f"{left_out:,} more rows" if left_out > 0 else ""
    return Table(f"Step {batch.step:,}: {batch.kind}, {len(batch):,} rows", tuple(columns), shown, note)


def _one_line(text: str, most: int = 200) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"

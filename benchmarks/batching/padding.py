"""Share of padding in length-sorted chunks and in chunks of random order, on `squad-en-fi`.

    HBT_DIST_DATA=... python benchmarks/batching/padding.py --scratch /tmp/padding --out benchmarks/results

Needs the folder squad-en-fi (passages.jsonl.gz, questions.jsonl.gz). The tokenizer is a WordPiece vocabulary
of 16,000 trained here on the same texts: the lengths of a trained one, without a download.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from hbt_dist.batching.collate import collate
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.tokens import TokenStore
from hbt_dist.contrastive.chunks import Limits, chunk_plan, padding_waste
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.models.settings import TextSettings

STEPS = 20


def train_tokenizer(corpus: Corpus, path: Path) -> PreTrainedTokenizerFast:
    """WordPiece, as multilingual BERT has it, trained on passages of the corpus; kept in `path`."""

    def texts() -> Iterator[str]:
        for language in corpus.languages:
            yield from (text for text in corpus.passage_texts(language, 0, 6000) if text is not None)

    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=False)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=16_000, special_tokens=special, show_progress=False)
    backend.train_from_iterator(texts(), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    backend.save(str(path))
    return wrap(backend)


def wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    """The tokenizer as the token store takes it."""
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")


def chunks_by_length(lengths: Any, rows: int) -> list[Any]:
    """Chunks of similar length, ended by the number of rows alone."""
    return chunk_plan(lengths, Limits(rows))


def chunks_in_order(lengths: Any, rows: int) -> list[Any]:
    """Chunks of the rows as they come."""
    return [np.arange(start, min(start + rows, len(lengths))) for start in range(0, len(lengths), rows)]


def measure(
    plan: BatchPlan, corpus: Corpus, store: TokenStore, world_size: int, chunk: int
) -> dict[str, Any]:
    """Mean shares of padding over the first steps, rank 0."""
    waste: dict[str, list[float]] = {}
    for step in range(STEPS):
        local = collate(plan.batch(step), corpus, store, 0, world_size)
        for name, cut in (("sorted", chunks_by_length), ("random", chunks_in_order)):
            held = computed = 0
            for role, rows in (("question", local.questions), ("passage", local.passages)):
                chunks = cut(rows.lengths, chunk)
                share = padding_waste(rows.lengths, chunks)
                waste.setdefault(f"{role} {name}", []).append(share)
                held += int(rows.lengths.sum())
                computed += round(int(rows.lengths.sum()) / (1 - share))
            waste.setdefault(f"all tokens {name}", []).append(1 - held / computed)
    means = {name: round(float(np.mean(values)), 4) for name, values in waste.items()}
    return {
        "global_batch_size": plan.settings.global_batch_size,
        "ranks": world_size,
        "chunk_rows": chunk,
        **means,
    }


def percent(value: float | int) -> str:
    return f"{100 * value:.1f} %" if isinstance(value, float) else f"{value:,}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scratch", type=Path, required=True, help="folder for corpus and tokens, 300 MB")
    parser.add_argument("--out", type=Path, required=True, help="folder for batching_padding.json and .md")
    options = parser.parse_args()
    data = Path(os.environ["HBT_DIST_DATA"]) / "squad-en-fi"
    source = {"name": "squad", "format": "squad-parallel", "path": str(data)}
    block = {"sources": [source], "languages": ["en", "fi"]}
    corpus = build_corpus(DataSettings.model_validate(block), options.scratch / "corpus")
    text = TextSettings(max_question_tokens=64, max_passage_tokens=256)
    kept = options.scratch / "tokenizer.json"  # training it again would give another one
    tokenizer = wrap(Tokenizer.from_file(str(kept))) if kept.is_file() else train_tokenizer(corpus, kept)
    store = TokenStore.of(corpus, tokenizer, text, options.scratch / "tokens")
    results = []
    for rows, world_size, chunk in ((256, 1, 32), (1024, 1, 32), (1024, 4, 32), (4096, 4, 64), (8192, 8, 64)):
        plan = BatchPlan(corpus, BatchSettings(global_batch_size=rows, alpha=0.5), seed=1)
        results.append(measure(plan, corpus, store, world_size, chunk))
    reports = [
        {**vars(report), "mean_tokens": round(report.tokens / report.texts, 1)} for report in store.reports
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"steps": STEPS, "texts": reports, "results": results}
    (options.out / "batching_padding.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    head = list(results[0])
    lines = [
        "# Share of padding among the tokens that the encoder computes (SQuAD in Finnish and "
        "back-translated English)",
        "",
        f"Made by `benchmarks/batching/padding.py`: means of {STEPS} hybrid batches (alpha 0.5), rank 0,",
        "texts cut at 64 (question) and 256 (passage) tokens. chunk: rows encoded at once; sorted: chunks",
        "of rows of similar length; random: chunks of the rows as the plan has them.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---:|" * len(head),
        *("| " + " | ".join(map(percent, row.values())) + " |" for row in results),
        "",
        "| role | language | texts | mean tokens | longest | cut |",
        "|---|---|---:|---:|---:|---:|",
        *(
            f"| {report['role']} | {report['language']} | {report['texts']:,} | {report['mean_tokens']} | "
            f"{report['longest']} | {report['truncated']:,} |"
            for report in reports
        ),
        "",
    ]
    (options.out / "batching_padding.md").write_text("\n".join(lines), encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

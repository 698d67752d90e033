"""Share of padding in chunks as a run cuts them, and what padding costs, on `squad-en-fi`.

    HBT_DIST_DATA=... python benchmarks/batching/padding.py --scratch /tmp/padding --out benchmarks/results

Needs the folder squad-en-fi (passages.jsonl.gz, questions.jsonl.gz). The tokenizer is a WordPiece vocabulary
of 16,000 trained here on the same texts: the lengths of a trained one, without a download. Step times are
those of an XLM-R of 4 layers and width 384 with random weights on one thread, side by side in each round: one
chunk per role padded to its longest text, chunks as a run cuts them, and packed texts.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

from hbt_dist.batching.collate import collate
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.settings import BatchSettings
from hbt_dist.batching.tokens import TokenStore
from hbt_dist.contrastive.chunks import FREE_PADDING, Limits, chunk_plan, padding_waste
from hbt_dist.contrastive.settings import LossSettings, StepSettings
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.data.corpus.convert import build_corpus
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.settings import DataSettings
from hbt_dist.models.attention import use_row_attention
from hbt_dist.models.encoder import Encoder
from hbt_dist.models.settings import TextSettings
from hbt_dist.training.deepspeed.engine import build_engine
from hbt_dist.training.settings import OptimizerSettings

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


def chunks_as_trained(lengths: Any, rows: int) -> list[Any]:
    """Chunks of a run on a CPU whose model pads; a model that packs has no padding at all."""
    limits = Limits.of(StepSettings(chunk_rows=rows), torch.device("cpu"), packs=False)
    return chunk_plan(lengths, limits)


CUTS = {"as trained": chunks_as_trained, "sorted": chunks_by_length, "random": chunks_in_order}


def step_times(local: Any, rounds: int = 3) -> dict[str, Any]:
    """Median seconds of a step on one rank's rows, and medians of the ratios within rounds."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = XLMRobertaConfig(
        vocab_size=16_000,
        hidden_size=384,
        num_hidden_layers=4,
        num_attention_heads=12,
        intermediate_size=1536,
    )
    padded = Encoder(XLMRobertaModel(config, add_pooling_layer=False), TextSettings())
    packed = copy.deepcopy(padded)
    use_row_attention(packed.backbone)
    step, world = StepSettings(mode="direct", chunk_rows=1024), World.alone()
    engines = {
        name: build_engine(encoder, optimizer=OptimizerSettings(), total_steps=1, world=world)
        for name, encoder in (("longest", padded), ("chunks", padded), ("packed", packed))
    }
    free = FREE_PADDING["cpu"]
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    computed: dict[str, int] = {}
    for _ in range(rounds + 1):
        for name, engine in engines.items():
            FREE_PADDING["cpu"] = 10**9 if name == "longest" else free
            started = time.process_time()
            result = contrastive_step(engine, local, LossSettings(), step, world)
            seconds[name].append(time.process_time() - started)
            engine.optimizer.zero_grad()
            computed |= {"tokens": result.num_tokens, f"computed {name}": result.num_padded_tokens}
    FREE_PADDING["cpu"] = free
    medians = {name: round(float(np.median(values[1:])), 2) for name, values in seconds.items()}
    ratios = {
        f"{name} over longest": round(
            float(np.median([a / b for a, b in zip(seconds[name][1:], seconds["longest"][1:], strict=True)])),
            2,
        )
        for name in ("chunks", "packed")
    }
    return {"rows": len(local.questions), **computed, "cpu_seconds": medians, **ratios}


def measure(
    plan: BatchPlan, corpus: Corpus, store: TokenStore, world_size: int, chunk: int
) -> dict[str, Any]:
    """Mean shares of padding over the first steps, rank 0."""
    waste: dict[str, list[float]] = {}
    for step in range(STEPS):
        local = collate(plan.batch(step), corpus, store, 0, world_size)
        for name, cut in CUTS.items():
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
    times = []
    for rows, world_size, chunk in (
        (16, 1, 64), (64, 1, 64), (256, 1, 64), (1024, 1, 64), (1024, 4, 64), (4096, 4, 64), (8192, 8, 64)
    ):  # fmt: skip
        plan = BatchPlan(corpus, BatchSettings(global_batch_size=rows, alpha=0.5), seed=1)
        results.append(measure(plan, corpus, store, world_size, chunk))
        if rows <= 64:
            times.append(step_times(collate(plan.batch(0), corpus, store, 0, 1)))
    reports = [
        {**vars(report), "mean_tokens": round(report.tokens / report.texts, 1)} for report in store.reports
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"steps": STEPS, "texts": reports, "results": results, "step_times": times}
    (options.out / "batching_padding.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    head = list(results[0])
    lines = [
        "# Share of padding among the tokens that the encoder computes (SQuAD in Finnish and "
        "back-translated English)",
        "",
        f"Made by `benchmarks/batching/padding.py`: means of {STEPS} hybrid batches (alpha 0.5), rank 0,",
        "texts cut at 64 (question) and 256 (passage) tokens. as trained: chunks of similar length that end",
        "before padding takes a tenth, as a run cuts them where the model cannot pack; sorted: ended by the",
        "number of rows alone; random: chunks of the rows as the plan has them.",
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---:|" * len(head),
        *("| " + " | ".join(map(percent, row.values())) + " |" for row in results),
        "",
        "Processor seconds of a step on one thread: every role padded to its longest text, chunks as",
        "trained, packed texts; computed: tokens with padding.",
        "",
        "| rows | tokens | computed: longest | chunks | packed | seconds: longest | chunks | packed | "
        "chunks / longest | packed / longest |",
        "|" + "---:|" * 10,
        *(
            "| "
            + " | ".join(
                str(value)
                for value in (
                    row["rows"],
                    row["tokens"],
                    *(row[f"computed {name}"] for name in row["cpu_seconds"]),
                    *row["cpu_seconds"].values(),
                    row["chunks over longest"],
                    row["packed over longest"],
                )
            )
            + " |"
            for row in times
        ),
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

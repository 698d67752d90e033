"""Measure what `model.vocabulary: used` saves: parameters, bytes of a checkpoint, seconds of a step.

    python benchmarks/models/vocabulary.py MODEL --data-dir DATA/squad-en-fi --work WORK --out FILE

MODEL is a folder such as multilingual-e5-small. The corpus is the first `--limit` questions, in English and
Finnish, with their passages. All texts of the corpus must have the same pieces before and after, a sample of
them equal vectors. Steps of both models alternate; the medians are of one process in float32 without
DeepSpeed, on random texts.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.gpu.model import batch_of
from hbt_dist.contrastive.settings import LossSettings, StepSettings
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.models.tokenising import tokenise
from hbt_dist.run_file import RunFile
from hbt_dist.training.checkpoints.engine_state import save_engine
from hbt_dist.training.deepspeed.engine import Engine, build_engine
from hbt_dist.training.preparation import Prepared, describe_data, prepare
from hbt_dist.training.settings import OptimizerSettings

ROWS = 32


def prepared_run(given: argparse.Namespace, vocabulary: str) -> tuple[RunFile, Prepared]:
    """The run with a vocabulary, prepared."""
    source = {"name": "squad", "format": "squad-parallel", "path": given.data_dir, "limit": given.limit}
    run = RunFile.model_validate(
        {
            "name": vocabulary,
            "output_dir": str(Path(given.work) / vocabulary),
            "data": {"sources": [source], "cache_dir": str(Path(given.work) / "cache")},
            "batches": {"global_batch_size": ROWS},
            "model": {
                "name_or_path": given.model,
                "vocabulary": vocabulary,
                "text": {"max_question_tokens": 32, "max_passage_tokens": 64},
            },
            "training": {"steps": 1},
        }
    )
    return run, prepare(run)


def check_equal(before: Prepared, after: Prepared) -> dict[str, Any]:
    """Compare pieces of all texts, and vectors of some."""
    corpus, number = before.corpus, 0
    some = []
    for language in corpus.languages:
        for texts in (corpus.question_texts(language), corpus.passage_texts(language)):
            present = [text for text in texts if text is not None]
            pieces = [
                [part.model.tokenizer.convert_ids_to_tokens(ids.tolist()) for ids in
                 tokenise(part.model.tokenizer, present, 512, "query: ").ids]
                for part in (before, after)
            ]  # fmt: skip
            assert pieces[0] == pieces[1]
            number += len(present)
            some += present[:16]
    vectors = []
    for part in (before, after):
        rows = [torch.as_tensor(ids) for ids in tokenise(part.model.tokenizer, some, 128).ids]
        ids = torch.nn.utils.rnn.pad_sequence(rows, True, part.model.tokenizer.pad_token_id).long()
        mask = (torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]).long()
        with torch.no_grad():
            vectors.append(part.model.encoder.eval()(ids, mask))
    largest = float((vectors[0] - vectors[1]).abs().max())
    return {"equal_texts": number, "vectors": len(some), "largest_difference": largest}


def engine_of(prepared: Prepared) -> Engine:
    """A plain engine in training."""
    engine = build_engine(
        prepared.model.encoder, optimizer=OptimizerSettings(), total_steps=100, world=World.alone()
    )
    engine.train()
    return engine


def seconds_of_steps(engines: dict[str, Engine], rounds: int) -> dict[str, float]:
    """Median processor seconds of a step of each engine; the first round is left out."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    loss, step = LossSettings(), StepSettings(mode="direct")
    for number in range(rounds + 1):
        for name, engine in engines.items():
            rows = batch_of(ROWS, 10_000, (16, 64))
            began = time.process_time()
            contrastive_step(engine, rows, loss, step, World.alone())
            engine.step(number)
            seconds[name].append(time.process_time() - began)
    return {name: round(statistics.median(values[1:]), 3) for name, values in seconds.items()}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    runs = {vocabulary: prepared_run(given, vocabulary) for vocabulary in ("keep", "used")}
    figures: dict[str, Any] = {"model": Path(given.model).name, "questions": given.limit}
    figures |= check_equal(runs["keep"][1], runs["used"][1])
    figures["line"] = next(line for line in describe_data(*runs["used"]) if line.startswith("vocabulary"))
    engines = {name: engine_of(prepared) for name, (_, prepared) in runs.items()}
    seconds = seconds_of_steps(engines, given.rounds)
    for name, engine in engines.items():
        folder = Path(given.work) / f"checkpoint-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        save_engine(engine, folder)
        figures[name] = {
            "pieces": len(runs[name][1].model.tokenizer),
            "parameters": sum(p.numel() for p in engine.model.parameters()),
            "checkpoint_bytes": sum(file.stat().st_size for file in folder.iterdir()),
            "processor_seconds_per_step": seconds[name],
        }
    given.out.write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

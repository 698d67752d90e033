"""Mine hard negatives with the model of a training, between two of its steps; all ranks share the work.

The ranks write the model as an export does. Each rank then encodes its share of the texts and searches its
share of the examples. Only files in the run's folder pass between them, so every launcher serves. Ranks that
wait exchange signs of life. An interrupted mining continues with its missing files.

Memory of a device meanwhile: weights, gradients and optimizer of the engine stay there. One float32 copy of
the encoder and the batches of `mining.encoding` come on top. The activations of a step are free at that time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from hbt_dist.batching.flat_prefixes import flat_prefixes
from hbt_dist.batching.tokens import ROLES
from hbt_dist.common.console import Progress, counted, duration
from hbt_dist.common.devices import torch_device
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.corpus import Role
from hbt_dist.data.corpus.flat_texts import FlatTexts
from hbt_dist.evaluation.embedding_files import EmbeddingFiles
from hbt_dist.evaluation.encode import embedding_files, encode_missing, with_arithmetic
from hbt_dist.evaluation.settings import EvaluationSettings
from hbt_dist.mining.blocks import MiningPlan, join_blocks, mine_block
from hbt_dist.mining.mined import MANIFEST, MinedNegatives
from hbt_dist.mining.settings import MiningSettings
from hbt_dist.mining.summary import describe
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.files import folder_digest
from hbt_dist.models.loading import load_encoder
from hbt_dist.testing import faults
from hbt_dist.training.checkpointing import write_current_model
from hbt_dist.training.metrics_log import Tracker
from hbt_dist.training.ranks import (
    attempt,
    full_memory_explained,
    gather_objects,
    on_every_rank,
    raise_problem,
)
from hbt_dist.training.start import Session

Value = TypeVar("Value")
#: Files of embeddings, and blocks of examples, for the ranks to share; no size depends on the ranks.
_PARTS, _FEWEST_ROWS = 64, 256
_SMALLER = (
    "lower mining.encoding.max_tokens_per_batch (0 now means 32,768), or set mining.encoding.device: cpu.\n"
    "The engine stays on the device while the run mines. The same command continues the mining"
)


def mine_negatives(session: Session, step: int, folder: Path, tracker: Tracker | None) -> dict[str, Any]:
    """Write the hard negatives that the phase from `step` on draws, unless `folder` has them. Collective.

    Args:
        session: of this start; its engine has made `step` steps.
        step: finished steps.
        folder: for the negatives; older negatives next to it are removed.
        tracker: receives messages, on rank 0.

    Returns:
        figures of the mining.

    Raises:
        UserError: on all ranks: the model or the texts cannot be used, or a device is full.
    """
    world, work = session.world, session.folder.mining
    began = time.monotonic()
    if tracker is not None:
        tracker.say(f"mining hard negatives with the model of step {step}")
    faults.at("before_mining", step, world)
    write_current_model(session, step, work / "model")
    identity = _on_rank_0(session, lambda: _identity(session, work / "model"))
    if not _on_rank_0(session, lambda: _identity_of(folder) == identity):
        mining = _Mining(session, step, work, identity, progress=tracker is not None and not tracker.quiet)
        for stage in (mining.open_files, mining.encode, mining.search):
            mining.on_every_rank(stage)
        _on_rank_0(session, lambda: mining.join(folder))
    faults.at("after_mining", step, world)
    figures = _on_rank_0(session, lambda: _finish(session, folder, time.monotonic() - began))
    if tracker is not None:
        tracker.say(_described(figures))
    return figures


def _on_rank_0(session: Session, action: Callable[[], Value]) -> Value:
    """Run `action` on rank 0 while the other ranks wait; return its value, plain data, on all. Collective."""

    def on_this_rank() -> Value | None:
        if session.world.rank != 0:
            return None
        value, problem = attempt(action, session.folder.root)
        raise_problem(problem)
        return value

    value: Any = on_every_rank(on_this_rank, session.world)
    return gather_objects(session.world, value)[0] if session.world.size > 1 else value


def _identity(session: Session, model: Path) -> str:
    """Return a digest of all that decides the mined negatives."""
    phase = session.prepared.plan.phase
    assert phase is not None
    facts = [
        folder_digest(model),
        session.prepared.corpus.fingerprint,
        session.run.seed,
        dict(phase.settings),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _identity_of(folder: Path) -> str | None:
    """Return the identity that a folder of mined negatives records; None if it is absent or has changed."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        is_unchanged = MinedNegatives.open(folder).digest == manifest["digest"]
        return str(manifest["counts"]["identity"]) if is_unchanged else None
    except (OSError, ValueError, KeyError, UserError):
        return None


def _finish(session: Session, folder: Path, seconds: float) -> dict[str, Any]:
    """Remove unfinished work and older negatives, and return the figures of a mining."""
    shutil.rmtree(session.folder.mining, ignore_errors=True)
    for older in folder.parent.iterdir():
        if older != folder:
            shutil.rmtree(older, ignore_errors=True)
    mined, settings = MinedNegatives.open(folder), session.run.mining
    assert settings is not None
    number = len(mined.passage)
    return {
        "mining_seconds": round(seconds, 3),
        "mined_negatives": number,
        "mined_unfilled": settings.count * mined.num_examples - number,
        "mined_scores": describe(session.prepared.corpus, mined),
    }


def _described(figures: dict[str, Any]) -> str:
    number, unfilled, scores = (figures[f"mined_{name}"] for name in ("negatives", "unfilled", "scores"))
    parts = (
        f"{part['number']:,} {name} (median score {part['scores'][1]:.3f})"
        for name, part in scores.items()
        if part["scores"]
    )
    return (
        f"mined {counted(number, 'hard negative')} in {duration(figures['mining_seconds'])}, "
        f"{unfilled:,} places are unfilled; by language: {', '.join(parts)}"
    )


@dataclass(frozen=True)
class _Mining:
    """One mining, as one rank sees it. Its files are those of `identity`.

    Attributes:
        work: folder of the model, of embeddings and of blocks.
        progress: show it.
    """

    session: Session
    step: int
    work: Path
    identity: str
    progress: bool

    def on_every_rank(self, stage: Callable[[], None]) -> None:
        """Run a stage on every rank; the next stage begins when all ranks have ended it. Collective."""
        world = self.session.world

        def run() -> None:
            with full_memory_explained(world, None, _SMALLER):
                if world.device.type == "cuda":
                    torch.cuda.set_device(world.device)  # a thread begins with the first device
                stage()

        on_every_rank(run, world)

    def open_files(self) -> None:
        """Make the folders on rank 0: no two ranks write one file."""
        if self.session.world.rank == 0:
            self._plan.folder.mkdir(parents=True, exist_ok=True)

    def encode(self) -> None:
        """Encode this rank's share of the texts."""
        for role, texts in self._texts.items():
            encode_missing(
                self._files[role],
                self._encoder,
                texts,
                role,
                settings=self._settings(len(texts)),
                prefixes=flat_prefixes(texts, self._encoder.text),
                share=self._share,
                progress=self.progress,
            )

    def search(self) -> None:
        """Mine this rank's share of the blocks."""
        plan, (rank, size) = self._plan, self._share
        numbers = range(plan.num_blocks)[rank::size]
        missing = [number for number in plan.missing() if number in numbers]
        done = len(numbers) - len(missing)
        with Progress(
            len(numbers), "mine", "block", initial=done, disable=not self.progress, first_seconds=1.0
        ) as bar:
            for number in missing:
                mine_block(plan, number, device=self._device, num_threads=torch.get_num_threads())
                bar.update()
                faults.at("during_mining", self.step, self.session.world)

    def join(self, folder: Path) -> None:
        """Write the negatives of all blocks."""
        mined = join_blocks(self._plan)
        replace(mined, counts={**mined.counts, "identity": self.identity}).save(folder)

    @property
    def _share(self) -> tuple[int, int]:
        return self.session.world.rank, self.session.world.size

    @cached_property
    def _texts(self) -> dict[Role, FlatTexts]:
        return {role: FlatTexts(self.session.prepared.corpus, role) for role in ROLES}

    @cached_property
    def _encoder(self) -> LoadedEncoder:
        model = self.session.run.model
        return load_encoder(
            self.work / "model",
            trust_remote_code=model.trust_remote_code,
            text=model.text,
            attention_implementation=model.attention_implementation,
            quiet=True,
        )

    @property
    def _mining(self) -> MiningSettings:
        settings, size = self.session.run.mining, self.session.prepared.corpus.num_examples
        assert settings is not None
        return settings.model_copy(update={"examples_per_block": _part(size, settings.examples_per_block)})

    @property
    def _device(self) -> torch.device:
        return torch_device("cpu") if self._mining.encoding.device == "cpu" else self.session.world.device

    def _settings(self, num_texts: int) -> EvaluationSettings:
        rows = _part(num_texts, self._mining.encoding.rows_per_file)
        settings = self._mining.encoding.for_encoder(str(self.work / "embeddings"))
        return with_arithmetic(
            settings.model_copy(update={"device": str(self._device), "rows_per_file": rows})
        )

    @cached_property
    def _files(self) -> dict[Role, EmbeddingFiles]:
        return {
            role: embedding_files(
                self._encoder,
                texts,
                role,
                self._settings(len(texts)),
                flat_prefixes(texts, self._encoder.text),
            )
            for role, texts in self._texts.items()
        }

    @cached_property
    def _plan(self) -> MiningPlan:
        # A start on another device may encode in another arithmetic: its blocks are not joined with these.
        vectors = self._files["passage"].folder.name
        return MiningPlan(
            corpus=self.session.prepared.corpus,
            settings=self._mining,
            seed=self.session.run.seed,
            folder=self.work / f"blocks-{self.identity[:16]}-{self._mining.examples_per_block}-{vectors}",
            questions=self._files["question"],
            candidates=self._files["passage"],
        )


def _part(number: int, most: int) -> int:
    """Return the rows of a part of `number` rows, so that many ranks have one."""
    return min(most, max(_FEWEST_ROWS, -(-number // _PARTS)))

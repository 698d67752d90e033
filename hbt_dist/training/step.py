"""Make one optimizer step and return its figures; explain NaN and infinity by languages and examples."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, astuple
from typing import Any

import numpy as np
import torch

from hbt_dist.batching.collate import LocalBatch
from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.finite import NonFiniteError, check_gradient_norm
from hbt_dist.contrastive.step import contrastive_step
from hbt_dist.contrastive.world import World
from hbt_dist.data.corpus.corpus import Corpus, Role
from hbt_dist.methods.code_switching.switching import SwitchCounts
from hbt_dist.testing import faults
from hbt_dist.training.masked_columns import masked_figures
from hbt_dist.training.prefetch import Prefetcher
from hbt_dist.training.start import Session


def train_step(
    session: Session, step: int, rows: Prefetcher[LocalBatch], *, check_replay: bool = False
) -> dict[str, Any]:
    """Make one optimizer step on the global batch of `step`; return its figures.

    Args:
        session: of this start.
        step: counted from 0.
        rows: gives this rank's slice of the step's global batch.
        check_replay: also compare the embeddings of a chunk in its two forwards.

    Raises:
        UserError: two forwards differ; NaN or infinity, with step, kind, languages and examples.
    """
    run, world, engine, corpus = session.run, session.world, session.engine, session.prepared.corpus
    began = time.monotonic()
    local = rows.take(step)
    planned = time.monotonic()
    torch.manual_seed(
        int(np.random.SeedSequence((run.seed, step, world.rank)).generate_state(1, np.uint64)[0] >> 1)
    )
    faults.at("in_step", step + 1, world, engine.model)
    try:
        tolerance = engine.replay_tolerance if check_replay else None
        result = contrastive_step(engine, local, session.loss, session.step_settings, world, tolerance)
        norm = engine.step(step)
        if not engine.scales_loss:
            check_gradient_norm(norm, local.batch)
    except NonFiniteError as error:
        raise explain_divergence(error, corpus) from error
    seconds = time.monotonic() - began
    figures = asdict(result)
    del figures["traffic"], figures["masked"]
    figures |= figures.pop("terms")
    batch = local.batch
    languages = sorted({corpus.languages[i] for i in np.unique(batch.question_language)})
    return {
        "loss": figures.pop("loss"),
        "kind": batch.kind,
        "languages": languages if len(languages) == 1 else len(languages),
        "learning_rate": engine.learning_rate(step),
        "gradient_norm": norm,
        **figures,
        **({} if result.masked is None else masked_figures(result.masked, corpus.languages)),
        **({} if local.changes is None else summed_figures(local.changes, world)),
        "seconds": round(seconds, 4),
        "seconds_planning": round(planned - began, 4),
        "tokens_per_second": round(result.num_tokens / seconds),
    }


def summed_figures(counts: Mapping[Role, SwitchCounts], world: World) -> dict[str, Any]:
    """Return the figures of code-switching in a step: the realised ratios, and the counts behind them.

    Collective: one sum of eight integers.
    """
    local = [astuple(part) for part in counts.values()]
    summed = world.all_reduce(torch.tensor(local, dtype=torch.int64, device=world.device)).tolist()
    by_role = {role: SwitchCounts(*row) for role, row in zip(counts, summed, strict=True)}
    ratios = {f"switched_{role}_words": round(total.ratio, 6) for role, total in by_role.items()}
    return {**ratios, "code_switching": {role: asdict(total) for role, total in by_role.items()}}


def explain_divergence(error: NonFiniteError, corpus: Corpus) -> UserError:
    """Return an error that names the languages and examples of the rows with NaN or infinity."""
    pairs = sorted(
        {
            f"{corpus.languages[q]}-{corpus.languages[p]}"
            for q, p in zip(error.question_languages, error.passage_languages, strict=True)
        }
    )
    examples = [corpus.example_id(int(row)) for row in error.examples[:5]]
    more = f" and {len(error.examples) - 5} more" if len(error.examples) > 5 else ""
    return UserError(
        f"step {error.step}",
        f"NaN or infinity in the {error.what} of a {error.kind} batch; question-passage languages "
        f"{', '.join(pairs[:8])}{', ...' if len(pairs) > 8 else ''}; examples {', '.join(examples)}{more}",
        "training stopped; the last complete checkpoint is untouched. Lower optimizer.learning_rate,\n"
        "raise loss.temperature, or look at these examples with 'hbt-dist data inspect'",
    )

"""Prepare what a run needs before its first step, on each node: corpus, encoder, tokens, batch plan."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from hbt_dist.batching.collate import TokenTransform
from hbt_dist.batching.epochs import epochs_by_kind, overdrawn_sources
from hbt_dist.batching.inspection import examples_missed, shares_missed
from hbt_dist.batching.negative_languages import mined_languages_missing
from hbt_dist.batching.negatives import unused_negatives
from hbt_dist.batching.plan import BatchPlan
from hbt_dist.batching.resume import Phase
from hbt_dist.batching.tokens import ROLES, TokenStore
from hbt_dist.common.errors import UserError
from hbt_dist.data.corpus.convert import build_corpus, overlap_text
from hbt_dist.data.corpus.corpus import Corpus
from hbt_dist.data.corpus.notes import reading_text
from hbt_dist.data.instructions import check_language_names
from hbt_dist.methods.code_switching.switching import plan_batches
from hbt_dist.mining.checks import check_mining
from hbt_dist.models.encoder import LoadedEncoder
from hbt_dist.models.known_width import known_width
from hbt_dist.models.loading import check_present
from hbt_dist.run_file import RunFile
from hbt_dist.training.chunk_size import check_auto_chunks
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed, resolve_deepspeed
from hbt_dist.training.parts import divide
from hbt_dist.training.teacher_checks import check_target_language, check_teachers, untargeted_texts
from hbt_dist.training.teacher_scores import describe_scores
from hbt_dist.training.teachers import Teachers
from hbt_dist.training.vocabulary import start_model

#: Settings of the miner that decide no negatives: a run can change them and continue.
_FREE: dict[str, Any] = {
    "examples_per_block": True,
    "encoding": {"device", "max_tokens_per_batch", "rows_per_file"},
}
#: Share of unknown tokens that is worth a line.
_MANY_UNKNOWN = 0.1


@dataclass(frozen=True)
class Prepared:
    """What a run needs before its first step."""

    corpus: Corpus
    model: LoadedEncoder
    tokens: TokenStore
    plan: BatchPlan
    teachers: Teachers = field(default_factory=Teachers)

    @cached_property
    def transform(self) -> TokenTransform | None:
        """Changes the token rows, where code-switching is on."""
        transform = self.plan.transform
        if transform is None:
            return None
        return TokenTransform(transform, self.corpus, self.model.tokenizer, self.model.text)

    @property
    def fingerprint(self) -> str:
        """Digest that must be equal on all ranks."""
        return f"{self.plan.fingerprint}-{self.tokens.fingerprint}"


def prepare(run: RunFile, deepspeed: ResolvedDeepSpeed | None = None) -> Prepared:
    """Convert the data, build or load the encoder, tokenise, plan. Idempotent; safe in several processes.

    Args:
        run: the run file, paths absolute.
        deepspeed: of this start; default: resolved here, so that mistakes in it are found before a start.

    Raises:
        UserError: an input cannot be used.
    """
    corpus, plan, deepspeed = prepare_data(run, deepspeed)
    # DeepSpeed rounds weights to bf16 before it makes its float32 copy of them: nothing is lost.
    dtype = torch.bfloat16 if deepspeed.enables("bf16") else torch.float32
    model = start_model(run, corpus, dtype)
    check_similarity(run, model)
    run.loss.shares_of_widths(model.encoder.width)  # raises if the model is narrower than one of them
    run.evaluation.scoring.representations(model.encoder.width)  # likewise
    divide(model.encoder, run.optimizer.parts)  # a part that the model lacks is refused before tokenising
    tokens = TokenStore.of(corpus, model.tokenizer, model.text, Path(run.data.cache_dir))
    return Prepared(corpus, model, tokens, plan)


def prepare_data(
    run: RunFile, deepspeed: ResolvedDeepSpeed | None = None
) -> tuple[Corpus, BatchPlan, ResolvedDeepSpeed]:
    """Convert the data and plan the batches: the part of `prepare` that needs no model.

    Raises:
        UserError: an input cannot be used.
    """
    if deepspeed is None:
        deepspeed = resolve_deepspeed(run.deepspeed, gradient_clipping=run.optimizer.gradient_clipping)
    check_auto_chunks(run, deepspeed.zero_stage)
    check_widths(run)  # before the data is converted, which can take hours
    check_teachers(run)
    if run.model.name_or_path is not None:
        check_present(run.model.name_or_path)
    corpus = build_corpus(run.data, Path(run.data.cache_dir))
    describe_scores(run.loss.distillation, corpus)  # raises if there are none, before a model is loaded
    check_target_language(run, corpus)
    plan = plan_batches(corpus, run.batches, run.seed)
    if run.mining is not None and (phase := first_phase(run)) is not None:
        check_mining(run.mining, corpus)
        plan = plan.in_phase(phase, None)
    if run.model.vocabulary == "used" and plan.transform is not None:
        raise UserError(
            "model.vocabulary",
            "used does not count the words that code-switching puts into texts",
            "set it to keep, or leave out batches.code_switching",
        )
    check_language_names(run.model.text, corpus.languages)
    return corpus, plan, deepspeed


def first_phase(run: RunFile) -> Phase | None:
    """Return what the plan knows about minings before the first; None if the run does not mine."""
    training, mining = run.training, run.mining
    if training.mine_every is None or mining is None:
        return None
    settings = {
        "mine_every": training.mine_every,
        "mine_at_start": training.mine_at_start,
        "mining": mining.model_dump(mode="json", exclude=_FREE),
    }
    return Phase(range(training.steps), settings, {})


def check_similarity(run: RunFile, model: LoadedEncoder) -> None:
    """Refuse a similarity that differs from evaluation and the exported model, which take inner products."""
    similarity, normalize = run.loss.similarity, model.text.normalize
    if (similarity == "cosine") != normalize:
        way = "scaled to length 1" if normalize else "not scaled to length 1"
        fitting = "cosine" if normalize else "dot"
        raise UserError(
            "loss.similarity",
            f"is {similarity}, but embeddings of {model.source} are {way} (model.text.normalize)",
            f"set loss.similarity: {fitting}, or model.text: {{normalize: {str(not normalize).lower()}}}",
        )


def check_widths(run: RunFile) -> None:
    """Refuse widths above that of the model's embeddings, as far as small files show it.

    Raises:
        UserError: names the key.
    """
    full_width, width = known_width(run.model), run.model.text.get("width")
    if full_width is None:
        return
    if width is not None and width > full_width:
        raise UserError(
            "model.text.width",
            f"expected at most {full_width}, the width of the model's embeddings, got {width}",
            f"set it to {full_width} or less",
        )
    run.loss.shares_of_widths(width or full_width)
    run.evaluation.scoring.representations(width or full_width)


def describe_data(run: RunFile, prepared: Prepared) -> list[str]:
    """Return one line for each part of the data that is left out, cut or not used; printed once per start."""
    negatives = run.batches.hard_negatives
    will_mine = run.training.mine_every is not None
    unrecorded = "" if will_mine else mined_languages_missing(prepared.corpus, negatives)
    return [
        *prepared.model.notes,
        *overlap_text(prepared.corpus).splitlines(),
        *reading_text(prepared.corpus).splitlines(),
        *unused_negatives(prepared.corpus, negatives),
        *([unrecorded] if unrecorded else []),
        *untrained_values(run, prepared.model),
        *describe_scores(run.loss.distillation, prepared.corpus),
        *shares_missed(prepared.plan, run.training.steps),
        *examples_missed(prepared.plan),
        *epochs_by_kind(prepared.plan, run.training.steps),
        *overdrawn_sources(prepared.plan, run.training.steps),
        *prepared.teachers.notes,
        *untargeted_texts(run, prepared.corpus),
        *describe_texts(prepared.tokens),
    ]


def untrained_values(run: RunFile, model: LoadedEncoder) -> list[str]:
    """Return a line if only alignment, or nothing, trains values of the embeddings beyond all widths."""
    if run.loss.widths is None or max(run.loss.widths) == model.encoder.width:
        return []
    widest, width = max(run.loss.widths), model.encoder.width
    rest = "" if run.loss.alignment_weight == 0 else " (alignment trains the rest)"
    return [
        f"loss.widths trains the first {widest} of {width} values of the embeddings, alone{rest}: "
        f"add {width}, or set model.text.width to {widest}, which cuts the trained model to them"
    ]


def describe_texts(tokens: TokenStore) -> list[str]:
    """Return lines on texts that the tokenizer cut, did not know, or reduced to special tokens."""
    lines = []
    for role in ROLES:
        reports = [report for report in tokens.reports if report.role == role]
        texts = sum(report.texts for report in reports)
        worst = max(reports, key=lambda report: report.truncated_share, default=None)
        if worst is not None and worst.truncated:
            lines.append(
                f"{sum(report.truncated for report in reports):,} of {texts:,} {role}s are cut at "
                f"model.text.max_{role}_tokens (most in {worst.language}: {worst.truncated_share:.1%})"
            )
        if special := {report.language: report.special_only for report in reports if report.special_only}:
            lines.append(
                f"{sum(special.values()):,} of {texts:,} {role}s give no token but special ones "
                f"({', '.join(special)}): their vectors are equal"
            )
        lines += [
            f"{report.unknown / report.tokens:.1%} of the tokens of {role}s in {report.language} are unknown"
            for report in reports
            if report.unknown > _MANY_UNKNOWN * report.tokens
        ]
    return lines


def model_facts(run: RunFile, prepared: Prepared, step: int) -> dict[str, Any]:
    """Return what a model folder records about its training."""
    return {
        "run": run.name,
        "languages": list(prepared.plan.languages),
        "steps": step,
        "corpus": prepared.corpus.fingerprint,
        "plan": prepared.plan.fingerprint,
        **{key: value for key, value in prepared.model.facts.items() if key == "vocabulary"},
    }

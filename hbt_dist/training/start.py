"""Start a run on this rank: check its settings, open its folder, prepare its data, build its engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch

from hbt_dist.batching.plan import check_divisible
from hbt_dist.common.console import Say, counted
from hbt_dist.common.errors import UserError
from hbt_dist.common.files import read_json_lines
from hbt_dist.common.phases import phase
from hbt_dist.common.processors import Processors, divide_threads
from hbt_dist.contrastive.gather import check_equal_slices
from hbt_dist.contrastive.row_losses import check_kernel
from hbt_dist.contrastive.settings import LossSettings, StepSettings
from hbt_dist.contrastive.world import World
from hbt_dist.models.compilation import compile_layers
from hbt_dist.run_file import RunFile, user_function_facts
from hbt_dist.training.checkpoints.engine_state import describe
from hbt_dist.training.checkpoints.start_model import start_digest
from hbt_dist.training.chunk_size import choose_chunks
from hbt_dist.training.deepspeed.engine import Engine, build_engine
from hbt_dist.training.deepspeed.partition import move_unless_partitioned
from hbt_dist.training.deepspeed.settings import ResolvedDeepSpeed, resolve_deepspeed
from hbt_dist.training.deepspeed.setup import check_with_deepspeed, emulated_bf16
from hbt_dist.training.masked_columns import masked_summary
from hbt_dist.training.metrics_log import Tracker
from hbt_dist.training.parts import describe as describe_parts
from hbt_dist.training.parts import divide
from hbt_dist.training.preparation import Prepared, describe_data, prepare
from hbt_dist.training.ranks import gather_objects, on_every_rank, on_rank_0, require_shared
from hbt_dist.training.run_folder import RunFolder
from hbt_dist.training.runtime import Runtime
from hbt_dist.training.self_check import require_self_check
from hbt_dist.training.teacher_checks import check_target_width
from hbt_dist.training.teachers import compute_vectors


@dataclass(frozen=True)
class Session:
    """One start of a run on this rank.

    Attributes:
        loss: the run's loss settings with `products` resolved.
        step_settings: the run's step settings with `chunk_rows` and `kept_tokens` resolved to numbers.
        start_model: digest of the model folder that the run starts from, on rank 0.
        notes: messages of the start, printed and logged before the first step.
    """

    run: RunFile
    world: World
    folder: RunFolder
    prepared: Prepared
    engine: Engine
    loss: LossSettings
    step_settings: StepSettings
    start_model: str | None
    notes: list[str] = field(default_factory=list)

    def is_mined_before(self, step: int) -> bool:
        """Return whether `step` draws hard negatives that were mined before an earlier step."""
        first = self.run.training.phase(step).start
        return step != first and self.run.training.mines_before(first)


def set_threads(run: RunFile, world: World) -> list[str]:
    """Set torch's threads, equal on all ranks so that sums agree. Collective.

    Returns:
        a note if a limit leaves fewer threads than the machine has processors.
    """
    if run.training.threads_per_worker is not None:
        torch.set_num_threads(run.training.threads_per_worker)
        return []
    local = Processors.of_this_process()
    threads = divide_threads(gather_objects(world, local) if world.size > 1 else [local])
    torch.set_num_threads(threads.number)
    return [f"{threads}; training.threads_per_worker sets the number"] if threads.limited else []


def check_settings(run: RunFile, world: World) -> ResolvedDeepSpeed:
    """Check what needs no data, before anything is written; resolve the DeepSpeed configuration.

    Raises:
        UserError: on all ranks.
    """
    check_divisible(run.batches.global_batch_size, world.size)
    check_kernel(run.loss.kernel, world)
    deepspeed = resolve_deepspeed(
        run.deepspeed,
        gradient_clipping=run.optimizer.gradient_clipping,
        device_type=world.device.type,
    )
    check_with_deepspeed(deepspeed)
    return deepspeed


@contextmanager
def open_folder(run: RunFile, runtime: Runtime, world: World) -> Iterator[RunFolder]:
    """Be the only writer of the run's folder during the block, and record the run file there. Collective.

    Raises:
        UserError: on all ranks: the folder is in use, holds another run, or is not shared.
    """
    folder = RunFolder(run.output_dir)

    def acquire() -> None:
        folder.acquire(runtime.folder_wait_seconds)
        folder.check(run.plain())
        folder.write_run_file(run.plain())

    on_rank_0(world, folder.root, acquire)
    try:
        require_shared(folder.root, world)
        yield folder
    except UserError:
        if world.rank == 0:
            folder.discard()
        raise
    finally:
        if world.rank == 0:
            folder.release()


def prepare_all_ranks(
    run: RunFile, deepspeed: ResolvedDeepSpeed, world: World
) -> tuple[Prepared, str | None]:
    """Prepare the run on every rank; return also the digest of its start model, on rank 0. Collective.

    Raises:
        UserError: on all ranks: an input cannot be used, or ranks prepared different data or teachers.
    """

    def prepare_rank() -> tuple[Prepared, str | None]:
        prepared = prepare(run, deepspeed)
        if world.rank != 0:
            return prepared, None
        backbone, made = prepared.model.encoder.backbone, RunFolder(run.output_dir).start
        return prepared, start_digest(run.model, backbone, made)

    prepared, start_model = on_every_rank(prepare_rank, world)
    fingerprints = gather_objects(world, prepared.fingerprint)
    different = [rank for rank, text in enumerate(fingerprints) if text != fingerprints[0]]
    if different:
        raise UserError(
            f"rank {different[0]}",
            "prepared different data, a different tokenizer or a different plan than rank 0",
            "check that the data files and the versions of the packages are the same on every node",
        )
    rows = run.batches.global_batch_size // world.size
    check_equal_slices(rows, run.batches.hard_negatives.count, world)
    teachers = compute_vectors(run, prepared.plan, world)
    check_target_width(run, teachers, prepared.model.encoder.width)
    return replace(prepared, teachers=teachers), start_model


def build(
    run: RunFile,
    world: World,
    folder: RunFolder,
    deepspeed: ResolvedDeepSpeed,
    prepared: Prepared,
    start_model: str | None,
    log: Say,
) -> Session:
    """Check the gradient of this machine, then build the engine. Collective.

    Args:
        log: receives a line for each.

    Raises:
        UserError: on all ranks: the self-check fails, or no chunk fits the device.
    """
    engine_name = "plain PyTorch" if deepspeed.config is None else "DeepSpeed"
    if run.step.self_check:
        with phase(log, f"loading {engine_name}, and checking its gradient against one process's"):
            require_self_check(world, deepspeed, run.step.grad_reduction, run.loss)
    encoder = move_unless_partitioned(prepared.model.encoder, deepspeed, world.device)
    step_settings = choose_chunks(run, deepspeed, encoder, prepared.model.text, world)
    if run.model.compile:
        _check_compile(deepspeed)
        compile_layers(prepared.model.encoder.backbone, world.device)
    torch.manual_seed(run.seed)
    with phase(log, "building the engine"):
        engine = build_engine(
            encoder,
            optimizer=run.optimizer,
            total_steps=run.training.course,
            world=world,
            deepspeed=deepspeed,
            loss=run.loss,
            grad_reduction=run.step.grad_reduction,
        )
    emulated = emulated_bf16(deepspeed, world.device)
    notes = [": ".join(emulated)] if emulated else []
    auto = "tf32" if deepspeed.low_precision else "ieee"
    products = auto if run.loss.products == "auto" else run.loss.products
    loss = run.loss.model_copy(update={"products": products})
    return Session(run, world, folder, prepared, engine, loss, step_settings, start_model, notes)


def _check_compile(deepspeed: ResolvedDeepSpeed) -> None:
    if deepspeed.zero_stage == 3:
        raise UserError(
            "model.compile",
            "expected ZeRO stage 0 to 2, got 3, which gathers weights inside each layer",
            "set it to false",
        )


@contextmanager
def record_start(session: Session, launcher: str, first: int, *, quiet: bool) -> Iterator[Tracker | None]:
    """Record this start, and yield the tracker of its steps on rank 0, None elsewhere. Collective.

    Args:
        session: of this start.
        launcher: its name.
        first: first step of this start.
        quiet: print nothing.
    """
    tracker = on_rank_0(
        session.world, session.folder.root, lambda: _open_tracker(session, launcher, first, quiet)
    )
    if tracker is None:
        yield None
    else:
        with tracker:
            yield tracker
            if summary := masked_summary(read_json_lines(session.folder.metrics)):
                tracker.say(summary)


def _open_tracker(session: Session, launcher: str, first: int, quiet: bool) -> Tracker:
    run, prepared = session.run, session.prepared
    facts = {
        "launcher": launcher,
        "first_step": first,
        "device": str(session.world.device),
        "step": session.step_settings.model_dump(mode="json"),  # what auto became on this device
        "loss_products": session.loss.products,
        "corpus": prepared.corpus.fingerprint,
        "plan": prepared.plan.fingerprint,
        **user_function_facts(run),
        **describe(session.engine),
    }
    session.folder.add_provenance(facts)
    tracker = Tracker(
        session.folder,
        start=first,
        total=run.training.steps,
        columns=_columns(run),
        quiet=quiet,
    )
    for note in [*session.notes, *_introduction(session)]:
        tracker.say(note)
    return tracker


def _columns(run: RunFile) -> int | None:
    """Return the passages that a question is compared with; None if batches are divided."""
    if run.batches.mixing == "shares" or run.loss.info_nce_weight != 1:
        return None
    return run.batches.global_batch_size * (1 + run.batches.hard_negatives.count)


def _introduction(session: Session) -> list[str]:
    """Return the lines that describe corpus, model and engine at the start."""
    corpus, run, device = session.prepared.corpus, session.run, session.world.device
    sizes = {p: int(getattr(p, "ds_numel", p.numel())) for p in session.engine.model.parameters()}
    parameters, trained = sum(sizes.values()), sum(sizes[p] for p in sizes if p.requires_grad)
    share = f" ({trained:,} trained)" if trained < parameters else ""
    engine = describe(session.engine)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return [
        f"corpus: {corpus.num_examples:,} examples, {corpus.num_passages:,} passages, "
        f"{counted(len(corpus.languages), 'language')} ({' '.join(corpus.languages)})",
        f"model: {parameters:,} parameters{share}; {engine['engine']}, ZeRO stage {engine['zero_stage']}, "
        f"{counted(engine['world_size'], 'worker')} on {name}; "
        f"global batch {run.batches.global_batch_size}, {run.training.steps} steps",
        *_parts(session),
        *describe_data(run, session.prepared),
    ]


def _parts(session: Session) -> list[str]:
    settings = session.run.optimizer
    if settings.parts is None:
        return []
    return [describe_parts(divide(session.engine.model.encoder, settings.parts), settings.learning_rate)]

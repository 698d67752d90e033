"""Compute the gradient of one contrastive step over a global batch.

Rows are encoded in chunks of similar length; the loss gives the gradient of every embedding. Chunks whose
graphs were kept push it into the model at once. The others are encoded without graph first, and again with
the same random numbers afterwards (GradCache, arXiv 2101.06983): activations of one chunk are held, for one
more forward, a third of a step. How many graphs are kept changes memory and time, never the gradient.

Collectives of a step do not depend on the number of chunks: one all-gather and one reduce-scatter of the
passages, the same of the questions where they are columns (the spread-out regulariser only gathers them), one
all-reduce of a few scalars, one of an integer per role where chunks depend on lengths, with
`replay_tolerance` one of a number. The engine reduces the model's gradient.

The scale is that of `hbt_dist.contrastive.gather`: losses are means over local rows, gathered gradients are
summed, the engine averages over ranks.

Shapes: b local rows, n hard negatives per row, B global rows, N gathered passages, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hbt_dist.batching.frozen import FrozenVectors, Targets
from hbt_dist.common.devices import move
from hbt_dist.common.errors import UserError
from hbt_dist.common.precision import products
from hbt_dist.contrastive.chunks import ChunkOrder, Limits, RandomState, Tokens, plan_chunks
from hbt_dist.contrastive.distillation import teacher_tensor
from hbt_dist.contrastive.false_negatives import FalseNegatives, MaskedColumns
from hbt_dist.contrastive.figures import mean_figures, negative_score, terms_in
from hbt_dist.contrastive.finite import BatchFacts
from hbt_dist.contrastive.gather import gather_embeddings, scatter_gradients
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.loss import contrast
from hbt_dist.contrastive.settings import LossSettings, StepSettings
from hbt_dist.contrastive.targets import draw_to_targets
from hbt_dist.contrastive.world import World
from hbt_dist.models.settings import Role

Inputs = tuple[Tensor, Tensor, list[int]]  # (r, T) token ids and mask of a chunk, tokens of each row


class ContrastiveEngine(Protocol):
    """What the step needs of the model; `hbt_dist.training.deepspeed.engine` has two implementations."""

    @property
    def packs(self) -> bool:
        """Whether nothing is computed for padding; the same on every rank."""

    def encode(
        self, input_ids: Tensor, attention_mask: Tensor, lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Return (n, D) embeddings of (n, T) token ids, and log(1 / temperature), (1,), if it is learned.

        Rows are padded on the right; `lengths` are their tokens, on the host.
        """

    def accumulate(self, surrogates: Sequence[Callable[[], Tensor]]) -> None:
        """Call each, backpropagate what it returns, and average the summed gradient over ranks."""


class LocalRows(Protocol):
    """A rank's slice of a global batch (`hbt_dist.batching.collate.LocalBatch`)."""

    @property
    def batch(self) -> BatchFacts:
        """The whole global batch, for messages about examples."""

    @property
    def questions(self) -> Tokens:
        """Tokens of the b local questions."""

    @property
    def passages(self) -> Tokens:
        """Tokens of the b local positives, then of their b n negatives."""

    @property
    def aligned_questions(self) -> Tokens | None:
        """Tokens of the local questions in a second language, for the alignment loss."""

    @property
    def passage_group_N(self) -> NDArray[np.integer]:
        """(N,) group of every gathered passage, for the masks."""

    @property
    def sub_batch_B(self) -> NDArray[np.integer]:
        """(B,) sub-batch of every question."""

    @property
    def sub_batch_N(self) -> NDArray[np.integer]:
        """(N,) sub-batch of every gathered passage."""

    @property
    def passage_language_N(self) -> NDArray[np.integer]:
        """(N,) language of every gathered passage, for the counts of false negatives by similarity."""

    @property
    def frozen(self) -> Mapping[str, FrozenVectors]:
        """Vectors of the rows by each frozen model that the loss names, by its name in `teachers`."""

    @property
    def targets(self) -> Mapping[Role, Targets]:
        """Vectors that the embeddings of each role are drawn to, for the roles of `loss.targets`."""

    @property
    def teacher_scores_bM(self) -> NDArray[np.float32] | None:
        """(b, 1 + n) scores of a teacher for the local positives and hard negatives, NaN where not scored."""


@dataclass(frozen=True)
class StepResult:
    """Figures of a step over the global batch; the same on every rank."""

    loss: float
    info_nce: float
    alignment: float
    terms: dict[str, float]  # InfoNCE of each of `loss.widths`, and figures of further parts of the loss
    temperature: float
    positive_score: float  # mean score of questions with their passages
    negative_score: float  # mean score over all other gathered passages, masked passages included
    num_tokens: int  # real tokens (a chunk whose graph is not kept encodes them twice)
    num_padded_tokens: int  # the same with the padding that was computed
    num_chunks: int  # of one rank
    num_kept_chunks: int  # of one rank: those whose graphs were kept
    masked: MaskedColumns | None  # None without `loss.false_negatives`
    traffic: dict[str, tuple[int, int]]  # collective -> (calls, bytes of the full tensor), this step


def contrastive_step(
    engine: ContrastiveEngine,
    local: LocalRows,
    loss: LossSettings,
    step: StepSettings,
    world: World,
    replay_tolerance: float | None = None,
) -> StepResult:
    """Leave the gradient of the mean loss over the global batch in the engine's model.

    Args:
        engine: encodes and backpropagates; its optimizer step is the caller's next call.
        local: this rank's rows.
        loss: the objective; weights with a schedule have those of the batch's step.
        step: chunk sizes, and which graphs are kept.
        world: the ranks that share the global batch; all call this together.
        replay_tolerance: if given, refuse second forwards whose embeddings differ from those of the first
            by more than this, relative to their length: the model draws noise that no seed repeats.

    Raises:
        NonFiniteError: on all ranks.
        UserError: on all ranks, see `replay_tolerance`.
    """
    before, loss = dict(world.traffic), loss.at(local.batch.step)
    roles = _tokens_by_role(local, loss, world)
    limits = Limits.of(step, world.device, engine.packs)
    chunks = plan_chunks(roles, limits, world)
    num_replayed = len(chunks) - _num_kept(step, limits, len(chunks), roles)

    # 1. Embed the first chunks without graph, and remember their random states; the others with graph.
    inputs: list[Inputs] = []
    states: list[RandomState] = []
    embeddings: list[Tensor] = []
    log_scale: Tensor | None = None
    for number, chunk in enumerate(chunks):
        input_ids, attention_mask = roles[chunk.role].pad(chunk.rows)
        lengths = np.asarray(roles[chunk.role].lengths)[chunk.rows].tolist()
        inputs.append((move(input_ids, world.device), move(attention_mask, world.device), lengths))
        states.append(RandomState(world.device))
        with torch.set_grad_enabled(number >= num_replayed):
            chunk_embeddings, log_scale = _encode(engine, inputs[-1], loss)
        embeddings.append(chunk_embeddings)

    # 2. Compute the loss of the global batch, and its gradient at every embedding.
    current = None if log_scale is None else float(log_scale.item())
    scale = _scale(current, loss)
    num_tokens = sum(int(np.asarray(tokens.lengths).sum()) for tokens in roles.values())
    num_padded = num_tokens if engine.packs else sum(input_ids.numel() for input_ids, *_ in inputs)
    order = ChunkOrder(chunks, world.device)
    rows = order.of_rows([part.detach() for part in embeddings])
    with products("tf32" if loss.products == "tf32" else "ieee"):
        figures, row_gradients = _global_loss(rows, local, loss, scale, (num_tokens, num_padded), world)
    gradients = order.of_chunks(row_gradients)
    slope = _slope_within_bounds(figures["log_scale"], current, loss)
    del rows, row_gradients  # memory for the second forwards

    # 3. Push the gradients into the model: those of kept graphs in one backward, which frees their memory;
    # then encode each of the first chunks again with its random numbers, now with graph.
    replay_errors: list[Tensor] = []
    kept = slice(num_replayed, None)

    def replay(number: int) -> Tensor:
        with states[number].replay():
            second, log_scale = _encode(engine, inputs[number], loss)
        if number == 0:
            replay_errors.append((second.detach() - embeddings[0]).norm() / embeddings[0].norm())
        # The slope once, else zero: every backward gives every parameter a gradient, as ZeRO expects.
        is_first = number == 0 and num_replayed == len(chunks)
        return _surrogate([second], [gradients[number]], log_scale, slope if is_first else 0.0)

    surrogates: list[Callable[[], Tensor]] = [partial(replay, number) for number in range(num_replayed)]
    if num_replayed < len(chunks):
        surrogates.insert(0, partial(_surrogate, embeddings[kept], gradients[kept], log_scale, slope))
        del embeddings[kept]  # the partial holds the last reference
    engine.accumulate(surrogates)
    if replay_tolerance is not None:
        _check_replay(replay_errors, replay_tolerance, world)
    return StepResult(
        loss=figures["loss"],
        info_nce=figures["info_nce"],
        alignment=figures["alignment"],
        terms=terms_in(figures),
        temperature=1.0 / scale,
        positive_score=figures["positive"],
        negative_score=negative_score(figures, len(local.passage_group_N)),
        num_tokens=round(figures["tokens"] * world.size),
        num_padded_tokens=round(figures["padded"] * world.size),
        num_chunks=len(chunks),
        num_kept_chunks=len(chunks) - num_replayed,
        masked=figures["masked"],
        traffic=world.traffic_since(before),
    )


def _tokens_by_role(local: LocalRows, loss: LossSettings, world: World) -> dict[str, Tokens]:
    """Return the tokens of each role; refuse rows without tokens, for which attention would give NaN."""
    roles = {"question": local.questions, "passage": local.passages}
    if loss.alignment_weight > 0:
        if local.aligned_questions is None:
            raise UserError(
                "loss.alignment_weight",
                "is set, but the batch has no second question language",
                "set it to 0, or let the batch plan draw parallel questions",
            )
        roles["aligned"] = local.aligned_questions
    for role, tokens in roles.items():
        empty = np.flatnonzero(np.asarray(tokens.lengths) == 0)
        if len(empty):
            raise UserError(
                f"step {local.batch.step}, rank {world.rank}, {role} {int(empty[0])} of its slice",
                "has no tokens",
                "the tokenizer must add special tokens, or the corpus must leave empty texts out",
            )
    return roles


def _num_kept(step: StepSettings, limits: Limits, num_chunks: int, roles: Mapping[str, Tokens]) -> int:
    """Return how many graphs are kept; the same on every rank, as it asks for no lengths."""
    if step.mode != "auto":
        return num_chunks if step.mode == "direct" else 0
    if step.kept_tokens == "auto" or limits.tokens is None:
        num_rows = sum(len(tokens.lengths) for tokens in roles.values())
        return num_chunks if num_rows <= limits.rows and limits.tokens is None else 0
    return min(num_chunks, step.kept_tokens // limits.tokens)


def _encode(engine: ContrastiveEngine, inputs: Inputs, loss: LossSettings) -> tuple[Tensor, Tensor | None]:
    """Return embeddings, (r, D) in float32 (float64 stays), scaled to length 1 for cosine."""
    input_ids, attention_mask, lengths = inputs
    # A copy: some models change their mask in place, and the second forward must see what the first saw.
    embeddings, log_scale = engine.encode(input_ids, attention_mask.clone(), lengths)
    if embeddings.dtype != torch.float64:
        embeddings = embeddings.float()
    return F.normalize(embeddings, dim=-1) if loss.similarity == "cosine" else embeddings, log_scale


def _scale(current: float | None, loss: LossSettings) -> float:
    """Return 1 / temperature; a learned log(1 / temperature) is clamped to its bounds."""
    if current is None:
        return 1.0 / loss.temperature
    low, high = -math.log(loss.max_temperature), -math.log(loss.min_temperature)
    return math.exp(min(max(current, low), high))


def _slope_within_bounds(slope: float, current: float | None, loss: LossSettings) -> float:
    """Return 0 for a gradient that leads out of the bounds; a plain clamp would also stop the way back."""
    if current is None:
        return slope
    low, high = -math.log(loss.max_temperature), -math.log(loss.min_temperature)
    outwards = (current >= high and slope < 0) or (current <= low and slope > 0)
    return 0.0 if outwards else slope


def _global_loss(
    rows: Mapping[str, Tensor],
    local: LocalRows,
    loss: LossSettings,
    scale: float,
    token_counts: tuple[int, int],
    world: World,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Gather, contrast, scatter: return the step's figures, and the gradient at each role's embeddings."""
    questions_bD, passages_nD = rows["question"], rows["passage"]
    b = questions_bD.shape[0]
    passages_ND = gather_embeddings(passages_nD, world)
    layout = Layout.of_arrays(
        rank=world.rank,
        world_size=world.size,
        num_rows=b,
        num_negatives=passages_nD.shape[0] // b - 1,
        group_N=local.passage_group_N,
        sub_batch_B=local.sub_batch_B,
        sub_batch_N=local.sub_batch_N,
        settings=loss,
        device=world.device,
    )
    masks = None
    if loss.false_negatives is not None:
        masks = FalseNegatives(
            loss.false_negatives,
            layout,
            (local.batch.question_language, local.passage_language_N),
            local.frozen,
            scale=scale,
            device=world.device,
        )
    parts = contrast(
        questions_bD,
        passages_ND,
        layout,
        loss,
        scale=scale,
        questions_BD=gather_embeddings(questions_bD, world) if loss.gathers_questions else None,
        aligned_bD=rows.get("aligned"),
        masks=masks,
        teacher_bM=None if loss.distillation is None else teacher_tensor(local.teacher_scores_bM, world),
    )
    terms = {f"info_nce_{width}": value for width, value in parts.info_nce_of_widths.items()} | parts.further
    drawn: dict[str, Tensor] = {}
    if loss.targets is not None:
        towards = draw_to_targets(rows, local.targets, loss, loss.targets)
        parts.loss += towards.loss * towards.weight
        terms |= {"targets": towards.loss, "without_target": towards.missing}
        drawn = towards.gradients
    figures = mean_figures(parts, terms, rows, passages_ND, token_counts, local.batch, masks, world)
    gradients = {"question": parts.questions_bD, "passage": scatter_gradients(parts.passages_ND, world)}
    if parts.questions_BD is not None:
        gradients["question"].add_(scatter_gradients(parts.questions_BD, world))
    if parts.aligned_bD is not None:
        gradients["aligned"] = parts.aligned_bD
    for role, gradient in drawn.items():
        gradients[role].add_(gradient)
    return figures, gradients


def _surrogate(
    embeddings: Sequence[Tensor], gradients: Sequence[Tensor], log_scale: Tensor | None, slope: float
) -> Tensor:
    """Return a scalar whose gradient at the embeddings is `gradients`, and at `log_scale` is `slope`."""
    pairs = zip(embeddings, gradients, strict=True)
    value = torch.stack([(embedding * gradient).sum() for embedding, gradient in pairs]).sum()
    return value if log_scale is None else value + (log_scale.float() * slope).sum()


def _check_replay(errors: Sequence[Tensor], tolerance: float, world: World) -> None:
    """Refuse on all ranks: if one rank refused alone, the others would wait for it."""
    worst = torch.tensor([float(error) for error in errors] or [0.0], dtype=torch.float64)
    error = float(world.all_reduce(worst.max()[None].to(world.device), op=dist.ReduceOp.MAX))
    if not error <= tolerance:
        raise UserError(
            "model",
            f"expected equal embeddings in both forwards of a chunk within {tolerance:g}, got {error:.1e}",
            "its noise does not come from torch's generators, so the cached gradient would be wrong;\n"
            "switch that noise off, or set step.mode: direct, which encodes once",
        )

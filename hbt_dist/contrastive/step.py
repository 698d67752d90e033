"""One contrastive step over a global batch: embeddings, gathers, loss, and the gradient into the model.

Two ways to the same gradient:

* direct: one forward with graph, the loss, one backward. All activations of the rank's rows are held, of all
  roles together; with `mode: auto` only where these are at most `chunk_rows`.
* cached (GradCache, arXiv 2101.06983): every chunk is encoded without graph, the loss gives the gradient of
  every embedding, every chunk is encoded again with the same random numbers and pushes its embeddings'
  gradient into the model. Activations of one chunk are held; costs one more forward (a third of a step).

Collectives of a step, whatever the number of chunks: one all-gather and one reduce-scatter of the passages
(the same again of the questions if both directions are asked), one all-reduce of a few scalars, with
`chunk_tokens` one of three integers, with `replay_tolerance` one of a number. The reduction of the model's
gradient is the engine's.

The scale is that of `hbt_dist.contrastive.gather`: losses are means over own rows, gathered gradients are
summed, the engine averages over ranks.

Shapes: b own rows, n hard negatives per row, N gathered passages, D embedding width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive.chunks import ChunkOrder, RandomState, Tokens, move, plan_chunks
from hbt_dist.contrastive.finite import NonFiniteError, broken_rows
from hbt_dist.contrastive.gather import gather_embeddings, scatter_gradients
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.loss import Contrast, contrast, inner_product
from hbt_dist.contrastive.settings import LossSettings, StepSettings
from hbt_dist.contrastive.world import World

_SCALARS = ("loss", "info_nce", "alignment", "log_scale", "positive", "mean", "tokens", "padded", "bad")


class ContrastiveEngine(Protocol):
    """What the step asks of the model; `hbt_dist.training.deepspeed.engine` has two of them."""

    def encode(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """(n, T) token ids and mask -> (n, D) embeddings and log(1 / temperature), (1,), if it is learned."""

    def accumulate(self, surrogates: Sequence[Callable[[], Tensor]]) -> None:
        """Call each, backpropagate what it returns, and average the summed gradient over ranks."""


class LocalRows(Protocol):
    """A rank's slice of a global batch (`hbt_dist.batching.collate.LocalBatch`).

    An optional attribute ``aligned_questions`` (tokens of the own questions in a second language) feeds
    the alignment loss.
    """

    @property
    def batch(self) -> Any:
        """The whole global batch, for messages about examples."""

    @property
    def rank(self) -> int:
        """This process."""

    @property
    def world_size(self) -> int:
        """Processes that share the batch."""

    @property
    def questions(self) -> Any:
        """Tokens of the b own questions."""

    @property
    def passages(self) -> Any:
        """Tokens of the b own positives, then of their b n negatives."""

    @property
    def passage_group_N(self) -> Any:
        """(N,) group of every gathered passage, for the masks."""

    @property
    def sub_batch_B(self) -> Any:
        """(B,) sub-batch of every question."""

    @property
    def sub_batch_N(self) -> Any:
        """(N,) sub-batch of every gathered passage."""


@dataclass(frozen=True)
class StepResult:
    """What a step measured over the global batch; the same on every rank."""

    loss: float
    info_nce: float
    alignment: float
    temperature: float
    positive_score: float  # mean score of questions with their passages
    negative_score: float  # mean score over all other gathered passages, masked ones included
    num_tokens: int  # real tokens encoded (once; the cached step encodes them twice)
    num_padded_tokens: int  # the same with padding
    num_chunks: int  # of one rank
    traffic: dict[str, tuple[int, int]]  # collective -> (calls, bytes of the full tensor), this step


def contrastive_step(
    engine: ContrastiveEngine,
    local: LocalRows | Sequence[LocalRows],
    loss: LossSettings,
    step: StepSettings,
    world: World,
    replay_tolerance: float | None = None,
) -> StepResult:
    """Leave the gradient of the mean loss over the global batch in the engine's model.

    Args:
        engine: encodes and backpropagates; its optimizer step is the caller's next call.
        local: this rank's rows. Several batches accumulate: their gradients are averaged, each batch is
            contrasted within itself (accumulation does not enlarge the contrastive batch).
        loss: the objective.
        step: direct or cached, chunk sizes.
        world: the ranks that share the global batch; all call this together.
        replay_tolerance: if given, refuse second forwards whose embeddings differ from those of the first
            by more than this, relative to their length: the model draws noise that no seed repeats.

    Raises:
        NonFiniteError: on all ranks.
        UserError: on all ranks, see `replay_tolerance`.
    """
    batches = list(local) if isinstance(local, Sequence) else [local]
    before = world.traffic.snapshot()
    share = 1.0 / len(batches)
    parts = [_Part(engine, rows, loss=loss, step=step, world=world, share=share) for rows in batches]
    engine.accumulate([surrogate for part in parts for surrogate in part.surrogates()])
    if replay_tolerance is not None:
        _check_replay([part.replay_error for part in parts], replay_tolerance, world)
    after = world.traffic.snapshot()
    scalars = np.mean([part.scalars for part in parts], axis=0)
    values = dict(zip(_SCALARS, scalars.tolist(), strict=True))
    num_columns = len(batches[0].passage_group_N)
    return StepResult(
        loss=values["loss"],
        info_nce=values["info_nce"],
        alignment=values["alignment"],
        temperature=1.0 / parts[-1].scale,
        positive_score=values["positive"],
        negative_score=(values["mean"] * num_columns - values["positive"]) / max(num_columns - 1, 1),
        num_tokens=round(values["tokens"] * world.size * len(parts)),
        num_padded_tokens=round(values["padded"] * world.size * len(parts)),
        num_chunks=sum(len(part.chunks) for part in parts),
        traffic={
            name: (calls - before.get(name, (0, 0))[0], size - before.get(name, (0, 0))[1])
            for name, (calls, size) in after.items()
        },
    )


class _Part:
    """One global batch inside a step: its chunks, its embeddings, its share of the gradient."""

    def __init__(
        self,
        engine: ContrastiveEngine,
        local: LocalRows,
        *,
        loss: LossSettings,
        step: StepSettings,
        world: World,
        share: float,
    ) -> None:
        self.engine, self.local, self.loss, self.world, self.share = engine, local, loss, world, share
        self.roles: dict[str, Tokens] = {"question": local.questions, "passage": local.passages}
        if loss.alignment_weight > 0:
            self.roles["aligned"] = _aligned_questions(local)
        _check_lengths(self.roles, local)
        max_rows = _chunk_rows(step, self.roles)
        self.direct = max_rows is None
        self.chunks = plan_chunks(self.roles, max_rows, step.chunk_tokens, world)
        self.embeddings: dict[str, Tensor] = {}
        self._order = ChunkOrder(self.chunks, world.device)
        self._inputs: dict[int, tuple[Tensor, Tensor]] = {}  # of each chunk, kept for its second forward
        self.scalars = np.zeros(len(_SCALARS))
        self.scale = 1.0 / loss.temperature
        self._padded_tokens = 0
        self.replay_error: Tensor | None = None  # of the first chunk, where it is encoded a second time

    def surrogates(self) -> list[Callable[[], Tensor]]:
        """Scalars whose gradients add up to the gradient of this batch's loss."""
        if self.direct:
            return [self._direct]
        with torch.no_grad():
            states, found = [], []
            for number in range(len(self.chunks)):
                states.append(RandomState(self.world.device))
                embeddings, log_scale = self._encode(number)
                found.append(embeddings)
        gradients, log_scale_gradient = self._gradients(found, log_scale)
        first = found[0]

        def second_forward(number: int) -> Callable[[], Tensor]:
            def surrogate() -> Tensor:
                with states[number].replay():
                    again, log_scale = self._encode(number)
                if number == 0:
                    self.replay_error = (again.detach() - first).norm() / first.norm()
                value = (again * gradients[number]).sum()
                if log_scale is not None:
                    # Zero in the other chunks: every chunk gives every parameter a gradient, as ZeRO expects.
                    once = log_scale_gradient if number == 0 else 0.0
                    value = value + (log_scale.float() * once).sum()
                return value

            return surrogate

        return [second_forward(number) for number in range(len(self.chunks))]

    def _direct(self) -> Tensor:
        """Forward with graph, loss, and the scalar whose gradient is the loss's."""
        found = []
        for number in range(len(self.chunks)):
            embeddings, log_scale = self._encode(number)
            found.append(embeddings)
        gradients, log_scale_gradient = self._gradients([part.detach() for part in found], log_scale)
        value = torch.stack([(part * g).sum() for part, g in zip(found, gradients, strict=True)]).sum()
        return value if log_scale is None else value + (log_scale.float() * log_scale_gradient).sum()

    def _encode(self, number: int) -> tuple[Tensor, Tensor | None]:
        """Embeddings of a chunk, (r, D) in float32 (float64 stays), scaled to length 1 for cosine."""
        if number not in self._inputs:
            chunk, device = self.chunks[number], self.world.device
            input_ids, attention_mask = self.roles[chunk.role].pad(chunk.rows)
            self._inputs[number] = move(input_ids, device), move(attention_mask, device)
            self._padded_tokens += input_ids.numel()
        input_ids, attention_mask = self._inputs[number]
        # A copy: some models change their mask in place, and the second forward must see what the first saw.
        embeddings, log_scale = self.engine.encode(input_ids, attention_mask.clone())
        if embeddings.dtype != torch.float64:
            embeddings = embeddings.float()
        return F.normalize(embeddings, dim=-1) if self.loss.similarity == "cosine" else embeddings, log_scale

    def _gradients(self, found: list[Tensor], log_scale: Tensor | None) -> tuple[list[Tensor], float]:
        """Gather, loss, scatter: the gradient of every chunk's embeddings and of log(1 / temperature)."""
        self.embeddings = self._order.of_rows(found)
        world, loss, local = self.world, self.loss, self.local
        low, high = -math.log(loss.max_temperature), -math.log(loss.min_temperature)
        current = 0.0
        if log_scale is not None:
            current = float(log_scale.item())
            self.scale = math.exp(min(max(current, low), high))
        questions, passages = self.embeddings["question"], self.embeddings["passage"]
        b = questions.shape[0]
        passages_ND = gather_embeddings(passages, world)
        questions_BD = gather_embeddings(questions, world) if loss.directions == "both" else None
        layout = Layout.of_arrays(
            rank=world.rank,
            world_size=world.size,
            num_rows=b,
            num_negatives=passages.shape[0] // b - 1,
            group_N=local.passage_group_N,
            sub_batch_B=local.sub_batch_B,
            sub_batch_N=local.sub_batch_N,
            settings=loss,
            device=world.device,
        )
        part = contrast(
            questions,
            passages_ND,
            layout,
            loss,
            scale=self.scale,
            questions_BD=questions_BD,
            aligned_bD=self.embeddings.get("aligned"),
        )
        self._reduce_scalars(part, passages_ND)
        gradients = {
            "question": part.questions_bD,
            "passage": scatter_gradients(part.passages_ND, world),
        }
        if part.questions_BD is not None:
            gradients["question"].add_(scatter_gradients(part.questions_BD, world))
        if part.aligned_bD is not None:
            gradients["aligned"] = part.aligned_bD
        log_scale_gradient = float(self.scalars[_SCALARS.index("log_scale")])
        # At a bound only a gradient that leads back inside counts; a plain clamp would hold it there.
        if (current >= high and log_scale_gradient < 0) or (current <= low and log_scale_gradient > 0):
            log_scale_gradient = 0.0
        if self.share != 1.0:
            gradients = {role: gradient * self.share for role, gradient in gradients.items()}
        return self._order.of_chunks(gradients), log_scale_gradient * self.share

    def _reduce_scalars(self, part: Contrast, passages_ND: Tensor) -> None:
        """Means over ranks of the step's scalars; raises on all ranks if one of them is not finite."""
        questions = self.embeddings["question"]
        b = questions.shape[0]
        own = self.embeddings["passage"][:b]
        positive = inner_product(questions, own) / b
        mean = questions.mean(0) @ passages_ND.mean(0)
        bad_b = self._broken_embeddings()
        num_tokens = sum(int(np.asarray(tokens.lengths).sum()) for tokens in self.roles.values())
        values = [part.loss, part.info_nce, part.alignment, part.log_scale, positive, mean.double()]
        counts = torch.tensor([num_tokens, self._padded_tokens], dtype=torch.float64, device=questions.device)
        vector = torch.cat([torch.stack(values), counts, bad_b.any().double()[None]])
        vector = self.world.all_reduce(vector / self.world.size)
        self.scalars = vector.cpu().numpy()
        broken = self.scalars[-1] > 0
        if broken or not math.isfinite(self.scalars[0]):
            if not broken:
                bad_b = broken_rows(part.questions_bD)
            every = self.world.all_gather(bad_b.to(torch.uint8)).cpu().numpy()
            rows = every.nonzero()[0] if every.any() else np.arange(len(every))
            raise NonFiniteError("embedding" if broken else "loss", self.local.batch, rows)

    def _broken_embeddings(self) -> Tensor:
        """Own rows with an embedding that is not finite, of any role: (b,) bool."""
        b = self.embeddings["question"].shape[0]
        bad_b = broken_rows(self.embeddings["question"])
        bad_passage = broken_rows(self.embeddings["passage"])
        bad_b |= bad_passage[:b]
        if bad_passage.shape[0] > b:
            bad_b |= bad_passage[b:].view(b, -1).any(1)
        if "aligned" in self.embeddings:
            bad_b |= broken_rows(self.embeddings["aligned"])
        return bad_b


def _check_replay(errors: list[Tensor | None], tolerance: float, world: World) -> None:
    """Refuse on all ranks: a rank that refuses alone would leave the others waiting."""
    found = [float(error) for error in errors if error is not None]
    worst = torch.tensor([max(found, default=0.0)], dtype=torch.float64, device=world.device)
    error = float(world.all_reduce(worst, op=dist.ReduceOp.MAX))
    if not error <= tolerance:
        raise UserError(
            "model",
            f"encodes a chunk differently the second time: by {error:.1e} of its length, not {tolerance:g}",
            "its noise comes from elsewhere than torch's generators, so the cached gradient would be wrong;\n"
            "switch that noise off, or set step.mode: direct, which encodes once",
        )


def _check_lengths(roles: dict[str, Tokens], local: LocalRows) -> None:
    """A row without tokens is all padding: attention would give NaN, or the mean of nothing."""
    for role, tokens in roles.items():
        empty = np.flatnonzero(np.asarray(tokens.lengths) == 0)
        if len(empty):
            raise UserError(
                f"step {local.batch.step}, rank {local.rank}, {role} {int(empty[0])} of its slice",
                "has no tokens",
                "the tokenizer must add special tokens, or the corpus must leave empty texts out",
            )


def _aligned_questions(local: LocalRows) -> Tokens:
    aligned = getattr(local, "aligned_questions", None)
    if aligned is None:
        raise UserError(
            "loss.alignment_weight",
            "is set, but the batch carries no second question language",
            "set it to 0, or let the batch plan draw parallel questions",
        )
    return aligned


def _chunk_rows(step: StepSettings, roles: dict[str, Tokens]) -> int | None:
    """Most rows of a chunk, or None for the direct step."""
    if step.mode == "direct":
        return None
    if step.chunk_rows == "auto":
        raise ValueError("chunk_rows: auto is resolved when the run starts (contrastive.fit.find_chunk_rows)")
    # The same on every rank: slices are equal, and the settings decide on the roles.
    held = sum(len(tokens.lengths) for tokens in roles.values())
    if step.mode == "auto" and held <= step.chunk_rows and step.chunk_tokens is None:
        return None
    return step.chunk_rows

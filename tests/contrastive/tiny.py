"""A tiny encoder, batches for it, and the plain reference: one process, the whole B x N matrix, autograd."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hbt_dist.batching.frozen import FrozenVectors, Targets
from hbt_dist.contrastive.chunks import Chunk, Limits, plan_chunks_of_ranks
from hbt_dist.contrastive.settings import LossSettings, StepSettings
from hbt_dist.contrastive.term_settings import FalseNegativeSettings

VOCABULARY = 120


@dataclass(frozen=True)
class Texts:
    """Token ids of some texts: the tokens protocol of the contrastive step."""

    rows: list[np.ndarray]

    @property
    def lengths(self) -> np.ndarray:
        return np.array([len(row) for row in self.rows])

    def pad(self, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        width = max(len(self.rows[i]) for i in rows)
        ids = torch.ones(len(rows), width, dtype=torch.int64)
        mask = torch.zeros(len(rows), width, dtype=torch.int64)
        for at, i in enumerate(rows):
            ids[at, : len(self.rows[i])] = torch.as_tensor(self.rows[i])
            mask[at, : len(self.rows[i])] = 1
        return ids, mask

    def __getitem__(self, part: Any) -> Texts:
        return Texts(self.rows[part])


@dataclass(frozen=True)
class Local:
    """A rank's slice."""

    batch: Any
    rank: int
    world_size: int
    questions: Texts
    passages: Texts
    passage_group_N: np.ndarray
    sub_batch_B: np.ndarray
    sub_batch_N: np.ndarray
    aligned_questions: Texts | None = None
    passage_language_N: np.ndarray | None = None
    frozen: dict[str, FrozenVectors] = field(default_factory=dict)
    targets: dict[Any, Targets] = field(default_factory=dict)
    teacher_scores_bM: np.ndarray | None = None


@dataclass(frozen=True)
class Case:
    """One way to compute a gradient, and the objective."""

    stage: int | str | None = 1
    loss: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)
    num_negatives: int = 0
    num_rows: int = 12
    duplicates: bool = False
    deepspeed: dict[str, Any] = field(default_factory=dict)
    model: str = "small"  # or XLM-R: xlmr, packed (rows), lora (adapters), dense (a head); or decoder: Llama
    parts: dict[str, Any] = field(default_factory=dict)  # optimizer.parts
    checkpointing: bool = False
    precision: str = "fp32"
    steps: int = 3
    dropout: float = 0.1
    layers: int = 1

    @property
    def width(self) -> int:
        return 8 if self.model == "dense" else 16

    @property
    def loss_settings(self) -> LossSettings:
        return LossSettings(**{"temperature": 0.1, "row_chunk": 3, **self.loss})

    @property
    def step_settings(self) -> StepSettings:
        return StepSettings(**{"mode": "cached", "chunk_rows": 4, **self.step})

    def but(self, **changes: Any) -> Case:
        return replace(self, **changes)


def texts(generator: np.random.Generator, count: int) -> Texts:
    return Texts([generator.integers(4, VOCABULARY, generator.integers(2, 12)) for _ in range(count)])


def locals_of(case: Case, world_size: int, step: int) -> list[Local]:
    """Each rank's slice of the global batch of a step; the batch does not depend on world_size."""
    generator = np.random.default_rng((5, step, 0))
    B, n = case.num_rows, case.num_negatives
    questions, positives, aligned = (texts(generator, B) for _ in range(3))
    negatives = [texts(generator, n) for _ in range(B)]
    group_B = np.arange(B)
    group_Bn = B + np.arange(B * n).reshape(B, n)
    if case.duplicates:
        group_B[B - 1] = group_B[0]
        if n:
            group_Bn[1, 0] = group_B[2]
    sub_B = np.arange(B) % 2
    b = B // world_size
    slices = [slice(rank * b, (rank + 1) * b) for rank in range(world_size)]
    group, sub = [], []
    for rows in slices:
        group += [*group_B[rows], *group_Bn[rows].ravel()]
        sub += [*sub_B[rows], *np.repeat(sub_B[rows], n)]
    batch = SimpleNamespace(
        step=step,
        kind="mixed",
        example=np.arange(B),
        question_language=np.arange(B) % 3,
        passage_language=np.arange(B) % 2 * 4,
        teacher_scores_BM=teacher_scores(case, step),
    )
    of_negatives = np.arange(B * n).reshape(B, n) % 5
    language, guide_N = [], []
    vectors = _unit_vectors(generator, B * (2 + n))
    guide_questions, guide_positives, guide_negatives = np.split(vectors, [B, 2 * B])
    for rows in slices:
        language += [*batch.passage_language[rows], *of_negatives[rows].ravel()]
        guide_N += [guide_positives[rows], guide_negatives[rows.start * n : rows.stop * n]]
    guide_passages = np.concatenate(guide_N)
    guides = [
        FrozenVectors(guide_questions[rows], part, guide_questions, guide_passages)
        for rows, part in zip(slices, np.split(guide_passages, world_size), strict=True)
    ]
    targets = targets_of(case, step)
    return [
        Local(
            batch,
            rank,
            world_size,
            questions[rows],
            Texts(positives.rows[rows] + [row for part in negatives[rows] for row in part.rows]),
            np.array(group),
            sub_B,
            np.array(sub),
            aligned[rows],
            np.array(language),
            {"guide": guides[rank]},
            slice_of_targets(case, targets, rows),
            batch.teacher_scores_BM[rows],
        )
        for rank, rows in enumerate(slices)
    ]


def targets_of(case: Case, step: int) -> dict[str, np.ndarray]:
    """A target for each question (B, 1, D) and for each passage of each row (B, 1 + n, D); NaN: none."""
    generator = np.random.default_rng((6, step))
    targets = {
        role: generator.normal(size=(case.num_rows, size, case.width)).astype(np.float32)
        for role, size in (("question", 1), ("passage", 1 + case.num_negatives))
    }
    for vectors in targets.values():
        vectors[::3, -1] = np.nan
    return targets


def slice_of_targets(case: Case, targets: dict[str, np.ndarray], rows: slice) -> dict[str, Targets]:
    """What `locals_of` gives a rank: positives before the negatives, zeros where there is none."""
    settings = case.loss_settings.targets
    if settings is None:
        return {}
    roles = {"questions": ["question"], "passages": ["passage"]}.get(settings.on, ["question", "passage"])
    found = {}
    for role in roles:
        part = targets[role][rows]
        vectors = np.concatenate([part[:, 0], part[:, 1:].reshape(-1, case.width)])
        present = ~np.isnan(vectors).any(1)
        found[role] = Targets(np.where(present[:, None], vectors, 0), present)
    return found


def _unit_vectors(generator: np.random.Generator, count: int) -> np.ndarray:
    vectors = generator.normal(size=(count, 4)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def teacher_scores(case: Case, step: int) -> np.ndarray:
    """(B, 1 + n): rows with all scores, with some, with one, and with none."""
    shape = (case.num_rows, 1 + case.num_negatives)
    scores = np.random.default_rng((6, step)).normal(size=shape).astype(np.float32)
    scores.ravel()[3::5] = np.nan
    scores[::4] = np.nan
    return scores


class SmallEncoder(nn.Module):
    """Token and position embeddings, transformer layers with dropout, mean pooling; imports nothing."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            self.tokens = nn.Embedding(VOCABULARY, 16)
            self.positions = nn.Embedding(32, 16)
            self.dropout = nn.Dropout(case.dropout)
            layer = nn.TransformerEncoderLayer(16, 2, 32, case.dropout, "gelu", batch_first=True)
            self.layers = nn.ModuleList([copy.deepcopy(layer) for _ in range(case.layers)])
            with torch.no_grad():
                # No zeros anywhere: the relative error of a tensor of zeros means nothing.
                for parameter in self.parameters():
                    noise = torch.randn(parameter.shape)
                    parameter.copy_(parameter + 0.1 * noise if parameter.ndim == 1 else 0.2 * noise)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.tokens(input_ids) + self.positions.weight[: input_ids.shape[1]]
        hidden = self.dropout(hidden)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=attention_mask == 0)
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * weight).sum(1) / weight.sum(1)


def build_encoder(case: Case) -> nn.Module:
    """A fresh encoder with the same weights every time."""
    if case.model == "small":
        return SmallEncoder(case).train()
    from transformers import XLMRobertaConfig, XLMRobertaModel

    from hbt_dist.models.attention import use_row_attention
    from hbt_dist.models.encoder import Encoder
    from hbt_dist.models.head import DenseLayer
    from hbt_dist.models.settings import TextSettings

    torch.manual_seed(3)
    if case.model == "decoder":
        return _decoder(case)
    config = XLMRobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=case.layers,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        hidden_dropout_prob=case.dropout,
        attention_probs_dropout_prob=case.dropout,
        initializer_range=0.2,
    )
    backbone: nn.Module = XLMRobertaModel(config, add_pooling_layer=False)
    # Biases start at zero; a tensor of zeros makes a relative error meaningless.
    with torch.no_grad():
        for parameter in backbone.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
    if case.model.startswith("lora"):
        from hbt_dist.models.adapters import add_adapter
        from hbt_dist.models.settings import LoraSettings

        if case.model == "lora-half":  # a base that was read in bf16
            backbone.to(torch.bfloat16)
        add_adapter(backbone, LoraSettings(rank=2, alpha=4, dropout=case.dropout), seed=4)
        torch.manual_seed(4)
        with torch.no_grad():
            for name, parameter in backbone.named_parameters():
                if "lora_B" in name:
                    parameter.copy_(torch.randn_like(parameter) * 0.1)
    if case.model == "packed":
        use_row_attention(backbone)
    torch.manual_seed(5)
    head = [DenseLayer(nn.Linear(16, 8), nn.Tanh())] if case.model == "dense" else []
    encoder = Encoder(backbone, TextSettings(normalize=False), head)
    return encoder.train()


def _decoder(case: Case) -> nn.Module:
    """A Llama with grouped heads over packed rows; the last token is the embedding."""
    from transformers import LlamaConfig, LlamaModel

    from hbt_dist.models.attention import use_row_attention
    from hbt_dist.models.encoder import Encoder
    from hbt_dist.models.settings import TextSettings

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=case.layers, num_attention_heads=2,
        num_key_value_heads=1, intermediate_size=32, max_position_embeddings=32,
        attention_dropout=case.dropout, initializer_range=0.2,
    )  # fmt: skip
    backbone: nn.Module = LlamaModel(config)
    use_row_attention(backbone)
    return Encoder(backbone, TextSettings(pooling="last", normalize=False)).train()


def seed_of(step: int, rank: int) -> int:
    return 1000 + 10 * step + rank


def reference_loss(
    encode: Any, case: Case, ranks: list[Local], step: int, log_scale: Tensor | None
) -> Tensor:
    """Mean loss over the global batch with a graph, every rank's dropout drawn as that rank draws it."""
    slices: list[dict[str, Tensor]] = []
    roles_of_ranks = [roles_of(case, local) for local in ranks]
    limits = Limits.of(case.step_settings, torch.device("cpu"), packs=case.model in ("packed", "decoder"))
    plans = plan_chunks_of_ranks(roles_of_ranks, limits)
    for rank, (tokens, chunks) in enumerate(zip(roles_of_ranks, plans, strict=True)):
        torch.manual_seed(seed_of(step, rank))
        slices.append(encode_slice(encode, case, tokens, chunks))
    roles = {role: torch.cat([part[role] for part in slices]) for role in slices[0]}
    loss = plain_loss(roles, ranks[0], case.loss_settings.at(step), log_scale)
    return loss + plain_targets(slices, ranks, case.loss_settings.at(step))


def plain_targets(slices: list[dict[str, Tensor]], ranks: list[Local], settings: LossSettings) -> Tensor:
    """The weighted distance to the targets, text by text."""
    total = slices[0]["question"].new_zeros(())
    if settings.targets is None:
        return total
    assert isinstance(settings.targets.weight, float)
    for role in ranks[0].targets:
        distances = []
        for part, local in zip(slices, ranks, strict=True):
            target = local.targets[role]
            for vector, wanted, present in zip(part[role], target.vectors_kE, target.present_k, strict=True):
                to = torch.as_tensor(wanted, dtype=vector.dtype)
                to = F.normalize(to, dim=0) if settings.similarity == "cosine" else to
                if settings.targets.form == "cosine":
                    distance = 1 - F.cosine_similarity(vector, to, dim=0)
                else:
                    distance = F.mse_loss(vector, to)
                distances.append(distance if present else distance * 0)
        total = total + torch.stack(distances).mean() / len(ranks[0].targets)
    return settings.targets.weight * total


def roles_of(case: Case, local: Local) -> dict[str, Texts]:
    """The texts of a rank's slice by role."""
    roles = {"question": local.questions, "passage": local.passages}
    if case.loss_settings.alignment_weight > 0:
        assert local.aligned_questions is not None
        roles["aligned"] = local.aligned_questions
    return roles


def encode_slice(encode: Any, case: Case, roles: dict[str, Texts], chunks: list[Chunk]) -> dict[str, Tensor]:
    """Embeddings of a rank's rows, chunk by chunk in the order of the step."""
    result: dict[str, Tensor] = {}
    for chunk in chunks:
        embeddings = encode(*roles[chunk.role].pad(chunk.rows))
        embeddings = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        if case.loss_settings.similarity == "cosine":
            embeddings = F.normalize(embeddings, dim=-1)
        empty = embeddings.new_zeros(len(roles[chunk.role].rows), embeddings.shape[1])
        index = torch.as_tensor(chunk.rows)
        result[chunk.role] = result.get(chunk.role, empty).index_copy(0, index, embeddings)
    return result


def plain_loss(
    roles: dict[str, Tensor], local: Local, settings: LossSettings, log_scale: Tensor | None
) -> Tensor:
    """The objective written out on whole matrices: InfoNCE over the widths, alignment at the full one."""
    q, p = roles["question"], roles["passage"]
    widths = settings.widths or [q.shape[1]]
    weights = settings.width_weights or [1.0] * len(widths)
    loss, added = q.new_zeros(()), q.new_zeros(())
    for width, weight in zip(widths, weights, strict=True):
        cut = [x[:, :width] for x in (q, p)]
        if settings.similarity == "cosine" and width < q.shape[1]:
            cut = [F.normalize(x, dim=-1) for x in cut]
        infonce = plain_infonce(*cut, local, settings, log_scale)
        loss = loss + settings.info_nce_weight * weight / sum(weights) * infonce
        if settings.spread_out is not None:
            added = added + weight / sum(weights) * plain_spread_out(*cut, local, settings)
    if settings.alignment_weight > 0:
        sub_B, sub_N = torch.as_tensor(local.sub_batch_B), torch.as_tensor(local.sub_batch_N)
        hidden = torch.zeros(len(q), len(p), dtype=torch.bool)
        if settings.negatives == "sub_batch":
            hidden = sub_B[:, None] != sub_N[None, :]
        inverse = 1 / settings.alignment_temperature
        log_a = torch.log_softmax((q @ p.T * inverse).masked_fill(hidden, -1e30), 1)
        log_b = torch.log_softmax((roles["aligned"] @ p.T * inverse).masked_fill(hidden, -1e30), 1)
        kl = F.kl_div(log_a, log_b, reduction="batchmean", log_target=True)
        loss = (1 - settings.alignment_weight) * loss + settings.alignment_weight * kl
    if settings.distillation is not None:
        scale = 1 / settings.temperature if log_scale is None else log_scale.exp()
        loss = loss + settings.distillation.weight * plain_distillation(q, p, local, settings, scale)
    return loss + added


def positives_of(local: Local) -> Tensor:
    """The column of every row's positive."""
    W, N, B = local.world_size, len(local.sub_batch_N), len(local.sub_batch_B)
    return torch.tensor([(i // (B // W)) * (N // W) + i % (B // W) for i in range(B)])


def owners_of(local: Local) -> Tensor:
    """The row of every column."""
    W, N, B = local.world_size, len(local.sub_batch_N), len(local.sub_batch_B)
    b, n = B // W, N // B - 1
    of_rank = [*range(b), *(row for row in range(b) for _ in range(n))]
    return torch.tensor([rank * b + row for rank in range(W) for row in of_rank])


def plain_spread_out(q: Tensor, p: Tensor, local: Local, settings: LossSettings) -> Tensor:
    """Mean squared score of pairs that count, for the questions and for the positives, weighted."""
    target = positives_of(local)
    counted = ~torch.eye(len(q), dtype=torch.bool)
    if settings.spread_out.mask_groups:
        group = torch.as_tensor(local.passage_group_N)[target]
        counted &= group[:, None] != group[None, :]
    vectors = {"questions": q, "passages": p[target]}
    chosen = [vectors[name] for name in settings.spread_out.texts]
    return settings.spread_out.weight * sum((x @ x.T)[counted].square().mean() for x in chosen)


def plain_denominators(
    q: Tensor, p: Tensor, local: Local, settings: LossSettings, scale: Any
) -> dict[str, Tensor]:
    """Further scores of the partition function, -inf where they do not count."""
    target, owner, row = positives_of(local), owners_of(local), torch.arange(len(q))
    group_N = torch.as_tensor(local.passage_group_N if settings.mask_false_negatives else range(len(p)))
    sub_B, sub_N = torch.as_tensor(local.sub_batch_B), torch.as_tensor(local.sub_batch_N)
    group_B, is_global = group_N[target], settings.negatives == "global"
    unlike = group_B[:, None] != group_B[None, :]
    near_B, near_N = (is_global | (sub_B[:, None] == sub[None, :]) for sub in (sub_B, sub_N))
    other = (owner[None, :] != row[:, None]) & (group_B[:, None] != group_N[None, :])
    every = {
        "question_question": (q @ q.T, unlike & near_B),
        "passage_passage": (p[target] @ p.T, other & near_N),
        "passage_question": (p[target] @ q.T, (unlike | torch.eye(len(q), dtype=torch.bool)) & near_B),
    }
    chosen = {name: every[name] for name in settings.denominators or ()}
    masks = settings.false_negatives
    if chosen and masks is not None and masks.columns != "hard_negatives":
        x, y = q.detach(), p.detach()
        if masks.guide is not None:
            guide = local.frozen[masks.guide]
            x, y = torch.as_tensor(guide.questions_BE), torch.as_tensor(guide.passages_NE)
        positive = (x * y[target]).sum(1, keepdim=True)
        limit = positive + (masks.margin or 0.0) + (masks.relative_margin or 0.0) * positive.abs()
        deciding = {
            "question_question": x @ x.T,
            "passage_passage": y[target] @ y.T,
            "passage_question": y[target] @ x.T,
        }
        of_question = torch.as_tensor(local.batch.question_language)
        of_passage = torch.as_tensor(local.passage_language_N)
        languages = {
            "question_question": (of_passage[target], of_question),
            "passage_passage": (of_question, of_passage),
            "passage_question": (of_question, of_question),
        }
        for name, (x, allowed) in chosen.items():
            similar = deciding[name] > limit
            if masks.languages == "positive":
                similar &= languages[name][0][:, None] == languages[name][1][None]
            if name == "passage_question":
                similar[row, row] = False
            chosen[name] = (x, allowed & ~similar)
    return {name: (scale * x).masked_fill(~allowed, -torch.inf) for name, (x, allowed) in chosen.items()}


def plain_hardness(scores: Tensor, local: Local, settings: LossSettings) -> Tensor:
    """The logarithm of every column's weight; scores without temperature."""
    own = owners_of(local)[None, :] == torch.arange(len(scores))[:, None]
    is_target = torch.zeros_like(own).scatter_(1, positives_of(local)[:, None], True)
    columns = {"hard_negatives": own & ~is_target, "in_batch": ~own, "both": ~is_target}
    return settings.hardness.strength * scores.detach() * columns[settings.hardness.columns]


def plain_distillation(
    q: Tensor, p: Tensor, local: Local, settings: LossSettings, scale: float | Tensor
) -> Tensor:
    """KL over the scored candidates of each row, row by row; the mean over all rows."""
    assert settings.distillation is not None
    teacher_BM = torch.as_tensor(local.batch.teacher_scores_BM).to(q.dtype)
    B, n = len(q), teacher_BM.shape[1] - 1
    b = B // local.world_size
    total = q.new_zeros(())
    for row, teacher in enumerate(teacher_BM):
        first, inside = row // b * b * (1 + n), row % b
        columns = [first + inside, *range(first + b + inside * n, first + b + inside * n + n)]
        scored = ~teacher.isnan()
        if scored.sum() > 1:
            target = torch.softmax(teacher[scored] / settings.distillation.temperature, 0)
            log_model = torch.log_softmax(scale * (p[columns][scored] @ q[row]), 0)
            total = total + F.kl_div(log_model, target, reduction="sum")
    return total / B


def plain_infonce(
    q: Tensor, p: Tensor, local: Local, settings: LossSettings, log_scale: Tensor | None
) -> Tensor:
    """InfoNCE at one width; masks by comparing every pair."""
    B, N, W = len(q), len(p), local.world_size
    b = B // W
    scale = 1 / settings.temperature if log_scale is None else log_scale.exp()
    target = torch.tensor([(i // b) * (N // W) + i % b for i in range(B)])
    allowed = torch.ones(B, N, dtype=torch.bool)
    group = torch.as_tensor(local.passage_group_N)
    sub_B, sub_N = torch.as_tensor(local.sub_batch_B), torch.as_tensor(local.sub_batch_N)
    if settings.mask_false_negatives:
        allowed &= group[target][:, None] != group[None, :]
    if settings.equation == "paper_eq1":
        allowed[:, target] = False
    segment = torch.ones(B, N, dtype=torch.bool)
    if settings.negatives == "sub_batch":
        segment = sub_B[:, None] == sub_N[None, :]
    allowed &= segment
    allowed[torch.arange(B), target] = True
    back_allowed = allowed[:, target].T.clone()
    if settings.false_negatives is not None:
        similar, back_similar = plain_similar(q, p, target, local, settings.false_negatives)
        allowed &= ~similar
        back_allowed &= ~back_similar
    scores = q @ p.T * scale
    logits = scores if settings.hardness is None else scores + plain_hardness(q @ p.T, local, settings)
    further = plain_denominators(q, p, local, settings, scale)
    logits = torch.cat([logits.masked_fill(~allowed, -torch.inf), *further.values()], 1)
    loss = F.cross_entropy(logits, target)
    if settings.directions == "both":
        back = (scores[:, target].T).masked_fill(~back_allowed, -torch.inf)
        loss = (loss + F.cross_entropy(back, torch.arange(B))) / 2
    return loss


def plain_similar(
    q: Tensor, p: Tensor, target: Tensor, local: Local, settings: FalseNegativeSettings
) -> tuple[Tensor, Tensor]:
    """Which columns are above the positive by the margin, (B, N) for questions and (B, B) for positives."""
    similarity = (q @ p.T).detach()
    if settings.guide is not None:
        guide = local.frozen[settings.guide]
        assert guide.questions_BE is not None
        assert guide.passages_NE is not None
        similarity = torch.as_tensor(guide.questions_BE @ guide.passages_NE.T)
    B, N, W = len(q), len(p), local.world_size
    b, n = B // W, N // B - 1
    language_N = local.passage_language_N
    hard = torch.zeros(B, N, dtype=torch.bool)
    for row in range(B):
        first = row // b * b * (1 + n) + b + row % b * n
        hard[row, first : first + n] = True
    similar = torch.zeros(B, N, dtype=torch.bool)
    back = torch.zeros(B, B, dtype=torch.bool)
    for row in range(B):
        positive = similarity[row, target[row]]
        limit = positive + (settings.margin or 0.0) + (settings.relative_margin or 0.0) * positive.abs()
        similar[row] = similarity[row] > limit
        similar[row, target[row]] = False
        back[row] = similarity[:, target[row]] > limit
        back[row, row] = False
    if settings.languages == "positive":
        question, passage = (torch.as_tensor(each) for each in (local.batch.question_language, language_N))
        similar &= passage[None] == passage[target][:, None]
        back &= question[None] == question[:, None]
    if settings.columns == "hard_negatives":
        return similar & hard, torch.zeros_like(back)
    return (similar & ~hard if settings.columns == "in_batch" else similar), back

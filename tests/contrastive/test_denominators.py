"""Further denominators, hardness weights and the spread-out regulariser against matrices and other losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hbt_dist.contrastive import loss as loss_module
from hbt_dist.contrastive import spread_out as spread_module
from hbt_dist.contrastive.settings import LossSettings
from tests.contrastive.test_loss import check, embeddings, on_every_rank
from tests.contrastive.tiny import Case, locals_of, plain_denominators, plain_spread_out

ALL = ["question_question", "passage_passage", "passage_question"]
SPREAD: dict[str, Any] = {"spread_out": {"weight": 0.7}}
OBJECTIVES: list[dict[str, Any]] = [
    {"denominators": ["question_question"]},
    {"denominators": ["passage_passage"], "mask_false_negatives": False},
    {"denominators": ALL, "negatives": "sub_batch"},
    {"denominators": ALL, "alignment_weight": 0.3, "widths": [5, 3], "width_weights": [1.0, 2.0]},
    {"denominators": ["passage_question", "question_question"], "similarity": "dot", "temperature": 0.7},
    {"denominators": ALL, "false_negatives": {"margin": 0.02}, "hardness": {"columns": "both"}},
    {"hardness": {"columns": "hard_negatives", "strength": 5.0}},
    {"hardness": {"columns": "in_batch", "strength": 9.0}, "directions": "both", "negatives": "sub_batch"},
    {"hardness": {"columns": "both", "strength": 3.0}, "denominators": ALL, "widths": [5, 2]},
    {"hardness": {"columns": "both"}, "similarity": "dot", "temperature": 0.5, "negatives": "sub_batch"},
    {**SPREAD, "directions": "both", "negatives": "sub_batch"},
    {**SPREAD, "widths": [5, 3], "denominators": ["question_question"], "alignment_weight": 0.4},
    {"spread_out": {"texts": ["questions"], "mask_groups": False}, "equation": "paper_eq1"},
    {"spread_out": {"texts": ["passages"], "weight": 3.0}, "hardness": {"columns": "in_batch"}},
]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("loss", OBJECTIVES, ids=str)
def test_every_term_has_the_loss_and_gradients_of_whole_matrices(
    world_size: int, loss: dict[str, Any]
) -> None:
    for num_negatives in (0, 2):
        if loss.get("equation") == "paper_eq1" and num_negatives == 0:
            continue
        for row_chunk in (2, 100):
            case = Case(loss={**loss, "row_chunk": row_chunk}, num_negatives=num_negatives, duplicates=True)
            check(case, world_size)


def test_float32_is_as_near_as_the_loss_alone() -> None:
    for loss in ({"denominators": ALL}, {"hardness": {}}, {"spread_out": {}}):
        check(Case(loss=loss, num_negatives=1), 2, tolerance=3e-6, dtype=torch.float32)


def test_the_figures_are_the_share_of_the_softmax_and_the_unweighted_regulariser() -> None:
    case = Case(loss={"denominators": ALL, **SPREAD}, num_negatives=1, duplicates=True)
    settings, rows = case.loss_settings, embeddings(case)
    got = on_every_rank(case, settings, 2, rows)
    mean = {name: float(sum(part.further[name] for part in got)) / 2 for name in got[0].further}
    local = locals_of(case, 2, 0)[0]
    q, p = rows["question"].detach(), rows["passage"].detach()
    further = plain_denominators(q, p, local, settings, 1 / settings.temperature)
    group = torch.as_tensor(local.passage_group_N)
    target = torch.tensor([0, 1, 2, 3, 4, 5, 12, 13, 14, 15, 16, 17])
    like = (group[target][:, None] == group[None, :]).scatter_(1, target[:, None], False)
    first = (q @ p.T / settings.temperature).masked_fill(like, -torch.inf)
    whole = torch.logsumexp(torch.cat([first, *further.values()], 1), 1)
    for name, scores in further.items():
        want = (torch.logsumexp(scores, 1) - whole).exp().mean()
        assert mean.pop(f"{name}_share") == pytest.approx(float(want), rel=1e-12)
    want = plain_spread_out(q, p, local, settings) / 0.7
    assert mean == {"spread_out": pytest.approx(float(want), rel=1e-12)}
    assert on_every_rank(case, LossSettings(), 1, rows)[0].further == {}


def test_translations_are_no_denominators_of_each_other() -> None:
    """Two rows of one group: with masks neither question nor passage of the other row counts."""
    case = Case(num_rows=2, loss={"denominators": ALL}, duplicates=True)

    def shares(**changes: Any) -> list[float]:
        settings = case.but(loss={**case.loss, **changes}).loss_settings
        return [
            float(share) for share in on_every_rank(case, settings, 1, embeddings(case))[0].further.values()
        ]

    assert shares()[:2] == [0.0, 0.0]
    assert shares()[2] == pytest.approx(0.5)  # the pair of the row, which counts twice
    assert min(shares(mask_false_negatives=False)) > 0


def _of_sentence_transformers(
    columns: list[Tensor], settings: LossSettings, theirs: dict[str, Any]
) -> tuple[Tensor, float]:
    """Return their loss, and what they subtract from it."""
    losses = pytest.importorskip("sentence_transformers.sentence_transformer.losses")
    model = torch.nn.Identity()
    if settings.spread_out is None:
        ranking = losses.MultipleNegativesRankingLoss(model, scale=10.0, **theirs)
        return ranking.compute_loss_from_embeddings(columns, None), 0.0
    spread = losses.GlobalOrthogonalRegularizationLoss(model, mean_weight=None, aggregation="sum", **theirs)
    texts = [columns[name == "passages"] for name in settings.spread_out.texts]
    regulariser = spread.compute_loss_from_embeddings(texts)["gor_second_moment"]
    plain = losses.MultipleNegativesRankingLoss(model, scale=10.0)
    cut_off = settings.spread_out.weight * len(texts) / columns[0].shape[1]
    return plain.compute_loss_from_embeddings(columns, None) + regulariser, cut_off


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            {"denominators": ALL},
            {"directions": ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")},
        ),
        ({"denominators": ["question_question"]}, {"directions": ("query_to_doc", "query_to_query")}),
        (
            {"hardness": {"columns": "hard_negatives", "strength": 5.0}},
            {"hardness_mode": "hard_negatives", "hardness_strength": 5.0},
        ),
        (
            {"hardness": {"columns": "in_batch", "strength": 9.0}, "denominators": ["passage_passage"]},
            {
                "hardness_mode": "in_batch_negatives",
                "hardness_strength": 9.0,
                "directions": ("query_to_doc", "doc_to_doc"),
            },
        ),
        (
            {"hardness": {"columns": "both", "strength": 2.0}, "directions": "both"},
            {
                "hardness_mode": "all_negatives",
                "hardness_strength": 2.0,
                "directions": ("query_to_doc", "doc_to_query"),
                "partition_mode": "per_direction",
            },
        ),
        ({"spread_out": {"weight": 0.5}}, {"second_moment_weight": 0.5}),
        ({"spread_out": {"texts": ["passages"]}}, {"second_moment_weight": 1.0}),
    ],
    ids=str,
)
def test_the_loss_is_that_of_sentence_transformers(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    """In one process without duplicates. Their regulariser is cut off below 1 / D, where ours goes on."""
    case = Case(loss=ours, num_negatives=2)
    settings, given = case.loss_settings, embeddings(case)
    vectors = [given["question"], *given["passage"].split(case.num_rows)]
    # Shifted, so that mean squared similarities are above 1 / D.
    columns = [torch.nn.Parameter(F.normalize(x.detach() + 0.4, dim=1)) for x in vectors]
    passages = torch.cat([columns[1], torch.stack(columns[2:], 1).flatten(0, 1)]).detach()
    got = on_every_rank(case, settings, 1, {"question": columns[0], "passage": passages})[0]
    want, cut_off = _of_sentence_transformers(columns, settings, theirs)
    assert float(got.loss) - cut_off == pytest.approx(want.item(), rel=1e-12)
    questions = got.questions_bD if got.questions_BD is None else got.questions_bD + got.questions_BD
    positives, negatives = got.passages_ND.split([case.num_rows, 2 * case.num_rows])
    gradients = [questions, positives, *negatives.view(case.num_rows, 2, -1).unbind(1)]
    wanted = torch.autograd.grad(want, columns)
    for gradient, x, of_theirs in zip(gradients, (x.detach() for x in columns), wanted, strict=True):
        # They scale to length 1 inside the loss, which loses a gradient along the vector.
        across = gradient - (gradient * x).sum(1, keepdim=True) * x
        assert float((across - of_theirs).norm() / of_theirs.norm()) < 1e-12


def test_texts_of_one_group_alone_have_no_regulariser() -> None:
    every = F.normalize(torch.randn(4, 3), dim=1)
    gradient = torch.zeros_like(every)
    pairs = spread_module.Pairs(torch.zeros(4).long().numpy(), 4, slice(0, 4), every.device)
    assert float(spread_module.spread_out(every, gradient, pairs, weight=1.0, chunk=2)) == 0
    assert not gradient.any()


def _twice(every: Tensor, gradient: Tensor, *args: Any, **sizes: Any) -> Tensor:
    wrong = torch.zeros_like(gradient)
    total = SPREAD_OUT(every, wrong, *args, **sizes)
    gradient += 2 * wrong
    return total


def _without_share(*args: Any, **columns: Any) -> Any:
    """Rows' vectors get no gradient of the further parts."""
    lost = {
        name: pair and (pair[0], torch.zeros_like(pair[1]))
        for name, pair in columns.items()
        if name in ("questions", "positives")
    }
    return FURTHER_PARTS(*args, **{**columns, **lost})


def _stronger(settings: Any, *args: Any) -> Any:
    return HARDNESS_WEIGHTS(settings.model_copy(update={"strength": settings.strength * 1.01}), *args)


SPREAD_OUT = loss_module.spread_out
FURTHER_PARTS = loss_module.further_parts
HARDNESS_WEIGHTS = loss_module.hardness_weights


@pytest.mark.parametrize(
    ("name", "wrong", "loss"),
    [
        ("spread_out", _twice, SPREAD),
        ("further_parts", _without_share, {"denominators": ["question_question"]}),
        ("further_parts", _without_share, {"denominators": ["passage_passage"]}),
        ("hardness_weights", _stronger, {"hardness": {}}),
    ],
)
def test_a_wrong_scale_would_fail(
    name: str, wrong: Any, loss: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Case(loss=loss, num_negatives=1)
    check(case, 2)
    monkeypatch.setattr(loss_module, name, wrong)
    with pytest.raises(AssertionError):
        check(case, 2)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"denominators": []}, "at least 1 item"),
        ({"denominators": ["question_question", "question_question"]}, "must differ from each other"),
        (
            {"denominators": ["question_question"], "directions": "both"},
            "add passage_question to denominators",
        ),
        ({"denominators": ALL, "equation": "paper_eq1"}, "denominators changes equation paper_eq1"),
        ({"denominators": ALL, "kernel": "liger"}, "denominators needs the row loop"),
        ({"hardness": {}, "equation": "paper_eq1"}, "hardness changes equation paper_eq1"),
        ({"hardness": {}, "kernel": "liger"}, "hardness needs the row loop"),
        ({"hardness": {"strength": 0.0}}, "greater than 0"),
        ({"spread_out": {"texts": ["questions", "questions"]}}, "must differ from each other"),
        ({"spread_out": {}, "similarity": "dot"}, "set similarity to cosine"),
        ({"spread_out": {"weight": -1.0}}, "greater than 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossSettings(**wrong)

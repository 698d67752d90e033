"""The row-chunked loss against whole matrices and autograd, in float64."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hbt_dist.common.errors import UserError
from hbt_dist.contrastive import loss as loss_module
from hbt_dist.contrastive import step as step_module
from hbt_dist.contrastive.false_negatives import FalseNegatives
from hbt_dist.contrastive.layout import Layout
from hbt_dist.contrastive.loss import Contrast, contrast
from hbt_dist.contrastive.settings import LossSettings
from hbt_dist.contrastive.widths import Cut
from hbt_dist.contrastive.world import World
from tests.contrastive.tiny import Case, locals_of, plain_loss
from tests.helpers.products import precision_of_products
from tests.training.bodies import run_case


def embeddings(case: Case, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    B, n = case.num_rows, case.num_negatives
    sizes = {"question": B, "passage": B * (1 + n), "aligned": B}
    rows = {k: torch.randn(size, 5, generator=generator, dtype=torch.float64) for k, size in sizes.items()}
    return {k: F.normalize(v, dim=-1).to(dtype).requires_grad_() for k, v in rows.items()}


def layout_of(case: Case, local: Any, settings: LossSettings) -> Layout:
    return Layout.of_arrays(
        rank=local.rank,
        world_size=local.world_size,
        num_rows=case.num_rows // local.world_size,
        num_negatives=case.num_negatives,
        group_N=local.passage_group_N,
        sub_batch_B=local.sub_batch_B,
        sub_batch_N=local.sub_batch_N,
        settings=settings,
        device=torch.device("cpu"),
    )


def masks_of(case: Case, local: Any, settings: LossSettings) -> FalseNegatives | None:
    if settings.false_negatives is None:
        return None
    return FalseNegatives(
        settings.false_negatives,
        layout_of(case, local, settings),
        (local.batch.question_language, local.passage_language_N),
        local.frozen,
        scale=1 / settings.temperature,
        device=torch.device("cpu"),
    )


def on_every_rank(
    case: Case, settings: LossSettings, world_size: int, rows: dict[str, Tensor]
) -> list[Contrast]:
    """`contrast` of each rank's rows; the passages are already in gathered order."""
    return [
        contrast_of_rank(case, settings, rank, local, rows, masks_of(case, local, settings))
        for rank, local in enumerate(locals_of(case, world_size, 0))
    ]


def contrast_of_rank(
    case: Case,
    settings: LossSettings,
    rank: int,
    local: Any,
    rows: dict[str, Tensor],
    masks: FalseNegatives | None,
) -> Contrast:
    b = case.num_rows // local.world_size
    own = slice(rank * b, (rank + 1) * b)
    return contrast(
        rows["question"].detach()[own],
        rows["passage"].detach(),
        layout_of(case, local, settings),
        settings,
        scale=1 / settings.temperature,
        questions_BD=rows["question"].detach() if settings.gathers_questions else None,
        aligned_bD=rows["aligned"].detach()[own] if settings.alignment_weight > 0 else None,
        masks=masks,
        teacher_bM=None if settings.distillation is None else torch.as_tensor(local.teacher_scores_bM),
    )


def check(case: Case, world_size: int, tolerance: float = 1e-12, dtype: torch.dtype = torch.float64) -> None:
    settings = case.loss_settings
    rows = embeddings(case)
    log_scale = torch.tensor(-np.log(settings.temperature), requires_grad=True)
    want = plain_loss(rows, locals_of(case, world_size, 0)[0], settings, log_scale)
    want.backward()
    got = on_every_rank(case, settings, world_size, {k: v.to(dtype) for k, v in rows.items()})
    mean = sum(part.loss for part in got) / world_size
    assert float(mean) == pytest.approx(want.item(), rel=tolerance)
    assert sum(float(part.log_scale) for part in got) / world_size == pytest.approx(
        float(log_scale.grad), rel=100 * tolerance, abs=tolerance
    )
    passages = sum(part.passages_ND for part in got) / world_size
    questions = torch.cat([part.questions_bD for part in got]) / world_size
    if settings.scatters_questions:
        questions = questions + sum(part.questions_BD for part in got) / world_size
    for found, leaf in [(passages, "passage"), (questions, "question")]:
        assert float((found.double() - rows[leaf].grad).norm() / rows[leaf].grad.norm()) < tolerance
    if settings.alignment_weight > 0:
        aligned = torch.cat([part.aligned_bD for part in got]) / world_size
        assert (
            float((aligned.double() - rows["aligned"].grad).norm() / rows["aligned"].grad.norm()) < tolerance
        )


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(
    ("directions", "negatives", "equation", "duplicates"),
    [
        c
        for c in itertools.product(
            ["question_to_passage", "both"], ["global", "sub_batch"], ["standard", "paper_eq1"], [False, True]
        )
        if c[0] != "both" or c[2] != "paper_eq1"
    ],
)
def test_every_objective_has_the_loss_and_gradients_of_whole_matrices(
    world_size: int, directions: str, negatives: str, equation: str, duplicates: bool
) -> None:
    for num_negatives, alignment in itertools.product([0, 1, 2], [0.0, 0.5]):
        loss = {
            "directions": directions,
            "negatives": negatives,
            "equation": equation,
            "alignment_weight": alignment,
            "alignment_temperature": 0.7,
            "row_chunk": 2,
        }
        if equation == "paper_eq1" and num_negatives == 0:
            continue
        check(Case(loss=loss, num_negatives=num_negatives, duplicates=duplicates), world_size)


WIDTHS: list[dict[str, Any]] = [
    {"widths": [5, 3, 1], "width_weights": [1.0, 0.5, 2.0]},
    {"widths": [2, 4]},
    {"widths": [3], "similarity": "dot"},
    {"widths": [4, 5], "similarity": "dot", "width_weights": [3.0, 1.0]},
]


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_every_objective_at_several_widths_has_the_loss_and_gradients_of_whole_matrices(
    world_size: int, widths: dict[str, Any]
) -> None:
    objectives: list[dict[str, Any]] = [
        {"directions": "both"},
        {"directions": "both", "negatives": "sub_batch", "alignment_weight": 0.4},
        {"equation": "paper_eq1", "alignment_weight": 0.4},
        {"equation": "paper_eq1", "negatives": "sub_batch"},
    ]
    for objective in objectives:
        loss = {**objective, **widths, "row_chunk": 2}
        check(Case(loss=loss, num_negatives=1, duplicates=True), world_size)


def test_the_loss_of_each_width_is_that_of_embeddings_cut_to_it() -> None:
    case = Case(loss={"widths": [5, 2], "width_weights": [1.0, 3.0], "directions": "both"})
    rows = embeddings(case)
    got = on_every_rank(case, case.loss_settings, 2, rows)
    means = {width: sum(float(part.info_nce_of_widths[width]) for part in got) / 2 for width in (5, 2)}
    alone = case.but(loss={"directions": "both"}).loss_settings
    for width, mean in means.items():
        cut = {role: F.normalize(embedding[:, :width], dim=-1) for role, embedding in rows.items()}
        want = plain_loss(cut, locals_of(case, 2, 0)[0], alone, None)
        assert mean == pytest.approx(want.item(), rel=1e-12)
    assert sum(float(part.info_nce) for part in got) / 2 == pytest.approx(
        0.25 * means[5] + 0.75 * means[2], rel=1e-12
    )
    assert on_every_rank(case, alone, 1, rows)[0].info_nce_of_widths == {}


def _not_rescaled(whole: Tensor, gradient: Tensor, width: int, *, rescale: bool) -> Cut:
    del rescale
    return Cut(whole, gradient, width, rescale=False)


def _twice(cut: Cut) -> None:
    cut.gradient *= 2
    CARRY_BACK(cut)


def _only_divided(cut: Cut) -> None:
    if cut._lengths_n1 is not None:
        cut._target.addcdiv_(cut.gradient, cut._lengths_n1)


CARRY_BACK = Cut.carry_back


@pytest.mark.parametrize(
    ("place", "name", "wrong"),
    [
        (loss_module, "Cut", _not_rescaled),
        (Cut, "carry_back", _twice),
        (Cut, "carry_back", _only_divided),
        (Cut, "carry_back", lambda _: None),
    ],
    ids=["not rescaled", "wrong scale", "without the lengths' gradient", "not carried back"],
)
def test_a_wrong_cut_would_fail(place: Any, name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(loss={"widths": [5, 3]})
    check(case, 2)
    monkeypatch.setattr(place, name, wrong)
    with pytest.raises(AssertionError):
        check(case, 2)


def test_embeddings_narrower_than_a_width_are_refused() -> None:
    settings = LossSettings(widths=[4, 6])
    with pytest.raises(UserError, match=r"expected at most 5, the width .* embeddings, got 6"):
        on_every_rank(Case(), settings, 1, embeddings(Case()))


@pytest.mark.parametrize("row_chunk", [1, 3, 5, 12, 100])
def test_chunk_size_changes_nothing(row_chunk: int) -> None:
    for directions in ("question_to_passage", "both"):
        loss = {"row_chunk": row_chunk, "directions": directions}
        check(Case(loss=loss, num_negatives=1), 2)
        check(Case(loss=loss, num_negatives=1), 2, tolerance=3e-6, dtype=torch.float32)


def test_a_masked_duplicate_is_no_negative_and_an_unmasked_one_is() -> None:
    case = Case(duplicates=True)
    rows = embeddings(case)
    masked = on_every_rank(case, LossSettings(), 1, rows)[0].info_nce
    plain = on_every_rank(case, LossSettings(mask_false_negatives=False), 1, rows)[0].info_nce
    assert masked < plain


def test_extreme_scores_stay_finite() -> None:
    case = Case(loss={"temperature": 0.001})
    rows = {k: v.detach().float() * 5 for k, v in embeddings(case).items()}
    part = on_every_rank(case, case.loss_settings, 1, rows)[0]
    assert torch.isfinite(part.loss)
    assert torch.isfinite(part.passages_ND).all()


def test_no_mask_is_kept_where_no_two_columns_share_a_group() -> None:
    local = SimpleNamespace(
        rank=0,
        world_size=1,
        passage_group_N=np.arange(12),
        sub_batch_B=np.zeros(12),
        sub_batch_N=np.zeros(12),
    )
    layout = layout_of(Case(), local, LossSettings(negatives="sub_batch"))
    assert layout.group_N is None
    assert layout.sub_batch_B is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"equation": "paper_eq1", "directions": "both"},
        {"equation": "paper_eq1", "kernel": "liger"},
        {"temperature": 0.0},
        {"learn_temperature": True, "temperature": 2.0},
        {"min_temperature": 0.5, "max_temperature": 0.1},
        {"alignment_weight": 1.0},
        {"widths": []},
        {"widths": [8, 0]},
        {"widths": [8, -4]},
        {"widths": [8, 4, 8]},
        {"widths": [8, True]},
        {"widths": [8, 4], "width_weights": [1.0]},
        {"widths": [8, 4], "width_weights": [1.0, 0.0]},
        {"width_weights": [1.0]},
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"paper_eq1|temperature|alignment_weight|widths|width_weights"):
        LossSettings(**wrong)


@pytest.mark.parametrize(("products", "inside"), [("auto", "ieee"), ("ieee", "ieee"), ("tf32", "tf32")])
def test_the_products_of_the_loss_have_the_precision_of_its_settings(
    products: Any, inside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU would read while the loss is computed; afterwards the setting is what it was."""
    seen = []
    monkeypatch.setattr(
        step_module, "contrast", lambda *a, **k: (seen.append(precision_of_products()), contrast(*a, **k))[1]
    )
    before = precision_of_products()
    run_case(World.alone(), Case(stage=None, loss={"products": products}, steps=1))
    assert seen == [inside]
    assert precision_of_products() == before

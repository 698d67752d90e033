"""Draw the model's vectors to those of a frozen teacher: distances of the local rows, and their gradients.

A text is compared with its target alone, so no rank needs a vector of another rank. Each role's distances
are averaged over all its texts in the global batch, where texts without a target count as 0: so the weight of
a text depends neither on the ranks nor on the rest of the batch. With both roles the loss is the mean of the
two. Targets train the full width of the embeddings, also next to `loss.widths`.

Distances of a vector s and its target t, of D values each, t scaled to length 1 for cosine models:

    cosine    1 - c for c = s . t / (|s| |t|), with the gradient -(t / |t| - c s / |s|) / |s| at s
    mse       |s - t|^2 / D, with the gradient 2 (s - t) / D

Costs a few passes over k x D values and one copy of the targets to the device per step.

Shapes: k local texts of a role, D embedding width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hbt_dist.batching.frozen import Targets
from hbt_dist.common.devices import move
from hbt_dist.contrastive.settings import LossSettings
from hbt_dist.contrastive.term_settings import TargetSettings
from hbt_dist.models.settings import Role

_SHORTEST = 1e-12  # as torch's normalize


@dataclass
class Drawn:
    """Loss of the local texts towards their targets, and its gradients; all of means over local texts."""

    loss: Tensor  # () float64, without the weight
    weight: float
    missing: Tensor  # () float64, share of the texts without a target
    gradients: dict[str, Tensor]  # role -> (k, D), with the weight


def draw_to_targets(
    rows: Mapping[str, Tensor], targets: Mapping[Role, Targets], loss: LossSettings, settings: TargetSettings
) -> Drawn:
    """Compare the embeddings of each role that has targets with them.

    Args:
        rows: embeddings of each role, (k, D).
        targets: of the roles that have some.
        loss: for its similarity.
        settings: form and weight, which must be a number (`LossSettings.at`).
    """
    assert isinstance(settings.weight, float)
    losses, missing = [], []
    gradients: dict[str, Tensor] = {}
    for role, target in targets.items():
        embeddings_kD = rows[role]
        vectors_kD = move(torch.from_numpy(target.vectors_kE), embeddings_kD.device).to(embeddings_kD.dtype)
        present_k = move(torch.from_numpy(target.present_k), embeddings_kD.device)
        if loss.similarity == "cosine":
            vectors_kD = F.normalize(vectors_kD, dim=-1, eps=_SHORTEST)
        distance = _cosine if settings.form == "cosine" else _mse
        distance_k, gradient_kD = distance(embeddings_kD, vectors_kD)
        k = len(present_k)
        losses.append((distance_k * present_k).sum(dtype=torch.float64) / k)
        missing.append((~present_k).sum(dtype=torch.float64) / k)
        share_k = present_k.to(embeddings_kD.dtype) * (settings.weight / (k * len(targets)))
        gradients[role] = gradient_kD.mul_(share_k[:, None])
    return Drawn(torch.stack(losses).mean(), settings.weight, torch.stack(missing).mean(), gradients)


def _cosine(embeddings_kD: Tensor, targets_kD: Tensor) -> tuple[Tensor, Tensor]:
    """Return 1 - cosine, (k,), and its gradient at the embeddings, (k, D)."""
    length_k1 = torch.linalg.vector_norm(embeddings_kD, dim=1, keepdim=True).clamp_(min=_SHORTEST)
    unit_kD = embeddings_kD / length_k1
    targets_kD = F.normalize(targets_kD, dim=-1, eps=_SHORTEST)
    cosine_k = torch.linalg.vecdot(unit_kD, targets_kD)
    gradient_kD = unit_kD.mul_(cosine_k[:, None]).sub_(targets_kD).div_(length_k1)
    return 1.0 - cosine_k, gradient_kD


def _mse(embeddings_kD: Tensor, targets_kD: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean squared difference, (k,), and its gradient at the embeddings, (k, D)."""
    difference_kD = embeddings_kD - targets_kD
    distance_k = difference_kD.square().mean(1)
    return distance_k, difference_kD.mul_(2.0 / difference_kD.shape[1])

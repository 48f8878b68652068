"""Losses of both heads."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from colorizer.unet import AB_SCALE
from evaluation.bins import encode, soft_encode
from evaluation.photographs import GREY_AB


def classification_loss(
    logits: Tensor, ab: Tensor, weights: Tensor, adjustment: float = 0.0
) -> Tensor:
    """Cross-entropy against soft-encoded ab, each pixel weighted by its nearest bin.

    With weights w, rare bins become w times too likely, which tints what is grey. So the loss sees
    logits + adjustment * log w, and the logits are learnt with that share of the rebalancing undone
    (logit adjustment, Menon et al. 2020).

    Args:
        logits: (B, Q, H, W).
        ab: (B, 2, H, W), the truth.
        weights: (Q,), of `rebalancing_weights`.
        adjustment: 0 leaves the logits as rebalanced, 1 makes them those of the data.

    Returns:
        Scalar: mean over the pixels of those photographs that have colour.
    """
    nearest, shares = soft_encode(ab)
    logits = logits + adjustment * weights.log().view(1, -1, 1, 1)
    # Bins last, as a channels-last network has them: half the time on a CPU.
    logarithms = logits.movedim(1, -1).log_softmax(-1)
    # -sum_q share_q log p_q, without a (B, Q, H, W) target
    found = logarithms.gather(-1, nearest.movedim(1, -1))
    loss = -(shares.movedim(1, -1) * found).sum(-1)
    return _coloured_mean(loss * weights[nearest[:, 0]], ab)


def regression_loss(predicted: Tensor, ab: Tensor, weights: Tensor, huber: float) -> Tensor:
    """Huber loss on ab / AB_SCALE, each pixel weighted by its nearest bin.

    Args:
        predicted: (B, 2, H, W), ab units.
        ab: (B, 2, H, W), the truth.
        weights: (Q,), of `rebalancing_weights`.
        huber: where the square turns into a straight line, in ab units.

    Returns:
        Scalar: mean over the pixels of those photographs that have colour.
    """
    loss = functional.huber_loss(
        predicted / AB_SCALE, ab / AB_SCALE, reduction="none", delta=huber / AB_SCALE
    ).sum(1)
    # In units of huber / AB_SCALE: of the order of 1, whatever the scale.
    loss = loss * (AB_SCALE / huber) ** 2
    return _coloured_mean(loss * weights[encode(ab)], ab)


def joint_regression_loss(predicted: Tensor, ab: Tensor, huber: float) -> Tensor:
    """Smooth L1 on ab / AB_SCALE, without weights, scaled to be added to a cross-entropy.

    The classifier learns rare colours on the same trunk; here they would tint what is grey.

    Source: Zhang et al. 2017, "Real-time user-guided image colorization", section 3.2.

    Args:
        predicted: (B, 2, H, W), ab units.
        ab: (B, 2, H, W), the truth.
        huber: where the loss turns from square to straight, in ab units. What lies below is met
            by its mean, which changes gradually; a straight loss is met by the median, which jumps
            to grey where colour is the less likely half, and leaves things half coloured.

    Returns:
        Scalar.
    """
    beta = huber / AB_SCALE
    return 15 * functional.smooth_l1_loss(predicted / AB_SCALE, ab / AB_SCALE, beta=beta)


def _coloured_mean(loss: Tensor, ab: Tensor) -> Tensor:
    """Mean of (B, H, W) over the photographs with colour; 0, with a gradient, if none has."""
    coloured = (ab.abs().amax(dim=(1, 2, 3)) > GREY_AB).to(loss.dtype)
    return (loss.mean(dim=(1, 2)) * coloured).sum() / coloured.sum().clamp(min=1)

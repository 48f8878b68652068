"""Bins of ab: encode colours into them, decode distributions over them.

A bin is a square of the ab plane, 10 units wide, that some sRGB colour falls into; so every colour
has a bin, whatever the photographs at hand contain. Soft-encoding, annealed mean and their
constants follow Zhang, Isola, Efros 2016, "Colorful Image Colorization" (section 2 and 2.3).

Words: Q, the number of bins; ab, the two-channel array, in Lab's units.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from colorizer import lab

GRID = 10  # side of a bin, in ab units (Zhang 2016)
NEIGHBOURS = 5  # bins that a colour is spread over (Zhang 2016)
SIGMA = 5.0  # standard deviation of that spread, in ab units (Zhang 2016)

Decoding = Literal["mode", "mean", "annealed-mean", "sample"]
DECODINGS: tuple[Decoding, ...] = get_args(Decoding)

_REACH = 130  # the tables below cover ab from -_REACH to _REACH, more than sRGB holds


@lru_cache(maxsize=1)
def bins() -> NDArray[np.float32]:
    """List the bins.

    Every (a, b) that sRGB has at some lightness also lies on the surface of the sRGB cube, at
    another lightness; so the surface finds all bins, and 393,216 colours are enough.

    Returns:
        (Q, 2) float32: the centres, multiples of GRID, sorted by a, then b. Q = 261.
    """
    one, other = (axis.ravel() for axis in np.meshgrid(*[np.arange(256, dtype=np.uint8)] * 2))
    low, high = np.zeros_like(one), np.full_like(one, 255)
    faces = [
        np.stack(planes, axis=-1)
        for end in (low, high)
        for planes in ((end, one, other), (one, end, other), (one, other, end))
    ]
    ab = lab.rgb_to_lab(np.stack(faces))[..., 1:]
    return np.unique(np.rint(ab.reshape(-1, 2) / GRID), axis=0).astype(np.float32) * GRID


@lru_cache(maxsize=1)
def _nearest() -> Tensor:
    """(2 * _REACH + 1, 2 * _REACH + 1, NEIGHBOURS) int64: the nearest bins of whole ab values."""
    side = torch.arange(-_REACH, _REACH + 1, dtype=torch.float32)
    ab = torch.cartesian_prod(side, side)
    order = torch.cdist(ab, torch.from_numpy(bins())).topk(NEIGHBOURS, largest=False).indices
    return order.view(len(side), len(side), NEIGHBOURS)


def soft_encode(ab: Tensor) -> tuple[Tensor, Tensor]:
    """Spread each colour over its nearest bins, with Gaussian weights.

    The neighbours are looked up for ab rounded to whole units, their weights are exact.

    Args:
        ab: (B, 2, H, W) float32, ab units.

    Returns:
        Bins (B, NEIGHBOURS, H, W) int64, the nearest first, and their weights, the same shape,
        float32, that sum to 1.
    """
    row, column = (ab.round().clamp(-_REACH, _REACH).long() + _REACH).unbind(1)
    nearest = _nearest().to(ab.device)[row, column].movedim(-1, 1)  # (B, N, H, W)
    centres = torch.from_numpy(bins()).to(ab.device)[nearest]  # (B, N, H, W, 2)
    distance = (centres - ab.movedim(1, -1)[:, None]).square().sum(-1)
    return nearest, torch.softmax(-distance / (2 * SIGMA**2), dim=1)


def encode(ab: Tensor) -> Tensor:
    """Find the bin nearest to each colour: (B, 2, H, W) -> (B, H, W) int64."""
    row, column = (ab.round().clamp(-_REACH, _REACH).long() + _REACH).unbind(1)
    return _nearest().to(ab.device)[..., 0][row, column]


def decode(
    logits: Tensor,
    centres: Tensor,
    decoding: Decoding = "annealed-mean",
    temperature: float = 0.38,
    seed: int = 0,
) -> Tensor:
    """Turn a distribution over bins into ab.

    Args:
        logits: (B, Q, H, W) float.
        centres: (Q, 2) float, the bins' ab.
        decoding: "mode": the likeliest bin. "mean": the expectation. "annealed-mean": the
            expectation of softmax(logits / temperature), between the two. "sample": a draw, the
            same for the same seed, and coherent over each region rather than pixel by pixel.
        temperature: above 0; used by "annealed-mean" and "sample". Zhang 2016 chose 0.38.
        seed: used by "sample".

    Returns:
        (B, 2, H, W) float32, ab units.
    """
    centres = centres.to(logits.device, torch.float32)
    if decoding == "mode":
        return centres[logits.argmax(dim=1)].movedim(-1, 1)
    logits = logits.float()
    if decoding == "sample":
        logits = logits + _gumbel_field(logits, seed)
    scale = 1.0 if decoding == "mean" else temperature
    # The mean over Q is a matrix product: no (B, Q, 2, H, W) in between.
    return torch.einsum("bqhw,qc->bchw", torch.softmax(logits / scale, dim=1), centres)


def uncertainty(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy of a distribution over bins, as a share of the largest that Q bins can have.

    Args:
        logits: (B, Q, H, W) float.
        temperature: above 0; 1 takes the distribution as it is.

    Returns:
        (B, H, W) float32: 0 where one bin has it all, 1 where all bins are alike.
    """
    logs = torch.log_softmax(logits.float() / temperature, dim=1)
    return (-(logs.exp() * logs).sum(dim=1) / math.log(logits.shape[1])).clamp(0, 1)


def _gumbel_field(logits: Tensor, seed: int) -> Tensor:
    """(B, Q, H, W) Gumbel noise that varies slowly over the picture.

    Adding Gumbel noise to logits and taking the largest is a draw from their softmax. Noise drawn
    once a pixel makes confetti; so a coarse Gaussian field is drawn, widened smoothly, and its
    values mapped through their own distribution to Gumbel's. Each picture of a batch gets the
    same field: its result must not depend on its neighbours.
    """
    _, q, height, width = logits.shape
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, q, 4, 4, generator=generator).to(logits.device)
    field = torch.nn.functional.interpolate(
        coarse, size=(height, width), mode="bilinear", align_corners=True
    )
    # Between the coarse points a bilinear mix has less variance than 1: restore it.
    axes = [_mix_variance(4, side).to(logits.device) for side in (height, width)]
    uniform = torch.special.ndtr(field / torch.outer(*axes).sqrt()).clamp(1e-6, 1 - 1e-6)
    return -torch.log(-torch.log(uniform))


def _mix_variance(points: int, side: int) -> Tensor:
    """(side,): variance of a linear mix of unit normals at `points` places over `side` pixels."""
    fraction = torch.linspace(0, points - 1, side).frac()
    return fraction.square() + (1 - fraction).square()

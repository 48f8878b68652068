"""Colours as bins of ab: targets of training, classes of evaluation, and weights by rarity.

Source: Zhang, Isola, Efros 2016, "Colorful Image Colorization", section 2.2.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from colorizer import gamut

NEIGHBOURS = 5  # bins that a colour is spread over (Zhang 2016)
SIGMA = 5.0  # standard deviation of that spread, in ab units (Zhang 2016)

_REACH = 130  # the table below covers ab from -_REACH to _REACH, more than sRGB holds


@lru_cache(maxsize=2)
def _tables(device: torch.device) -> tuple[Tensor, Tensor]:
    """What is looked up, on a device, so that no step of training has to wait for copies.

    Returns:
        (2 * _REACH + 1, 2 * _REACH + 1, NEIGHBOURS) int64: the nearest bins of whole ab values; and
        the bins, (Q, 2) float32.
    """
    side = torch.arange(-_REACH, _REACH + 1, dtype=torch.float32)
    ab, bins = torch.cartesian_prod(side, side), torch.from_numpy(gamut.bins())
    order = torch.cdist(ab, bins).topk(NEIGHBOURS, largest=False).indices
    return order.view(len(side), len(side), NEIGHBOURS).to(device), bins.to(device)


def soft_encode(ab: Tensor) -> tuple[Tensor, Tensor]:
    """Spread each colour over its nearest bins, with Gaussian weights.

    Neighbours are looked up for ab rounded to whole units; their weights are exact.

    Args:
        ab: (B, 2, H, W) float32, ab units.

    Returns:
        Bins (B, NEIGHBOURS, H, W) int64, the nearest first, and their weights, the same shape,
        float32, that sum to 1.
    """
    table, bins = _tables(ab.device)
    row, column = (ab.round().clamp(-_REACH, _REACH).long() + _REACH).unbind(1)
    nearest = table[row, column].movedim(-1, 1)  # (B, N, H, W)
    distance = (bins[nearest] - ab.movedim(1, -1)[:, None]).square().sum(-1)
    return nearest, torch.softmax(-distance / (2 * SIGMA**2), dim=1)


def encode(ab: Tensor) -> Tensor:
    """Find the bin nearest to each colour: (B, 2, H, W) -> (B, H, W) int64."""
    row, column = (ab.round().clamp(-_REACH, _REACH).long() + _REACH).unbind(1)
    return _tables(ab.device)[0][..., 0][row, column]


def rebalancing_weights(prior: NDArray[np.float64], mix: float) -> Tensor:
    """Weight each bin by its rarity (Zhang 2016, section 2.2, equation 4).

    The prior is smoothed over the ab plane with a Gaussian of SIGMA, mixed with a uniform
    distribution by `mix` (their lambda), inverted, and scaled so that E_prior[w] = 1.

    Args:
        prior: (Q,) shares that sum to 1.
        mix: 0 for full rebalancing, 1 for none.

    Returns:
        (Q,) float32.
    """
    smoothed = _kernel() @ prior
    # The bound is for bins so far from all others that their share underflows to 0.
    weights = 1 / np.maximum((1 - mix) * smoothed + mix / len(prior), 1e-12)
    return torch.from_numpy(weights / (weights * smoothed).sum()).float()


@lru_cache(maxsize=1)
def _kernel() -> NDArray[np.float64]:
    """(Q, Q): the share of column's bin that goes to row's."""
    centres = gamut.bins().astype(np.float64)
    distance = ((centres[:, None] - centres[None]) ** 2).sum(-1)
    kernel = np.exp(-distance / (2 * SIGMA**2))
    shares: NDArray[np.float64] = kernel / kernel.sum(axis=0)
    return shares

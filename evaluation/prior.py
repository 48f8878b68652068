"""The frequency of colours, and the weights that rebalance it."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from colorizer import gamut
from evaluation.bins import SIGMA


def rebalancing_weights(prior: NDArray[np.float64], mix: float) -> Tensor:
    """Weight each bin by its rarity (Zhang 2016, equation 4).

    The prior is smoothed over the ab plane with a Gaussian of SIGMA, mixed with a uniform
    distribution by `mix` (their lambda), inverted, and scaled so that E_prior[w] = 1.

    Args:
        prior: (Q,) shares that sum to 1.
        mix: 0 for full rebalancing, 1 for none.

    Returns:
        (Q,) float32.
    """
    smoothed = smooth(prior)
    # The bound is for bins so far from all others that their share underflows to 0.
    weights = 1 / np.maximum((1 - mix) * smoothed + mix / len(prior), 1e-12)
    return torch.from_numpy(weights / (weights * smoothed).sum()).float()


def smooth(prior: NDArray[np.float64]) -> NDArray[np.float64]:
    """Spread each bin's share, (Q,), over its neighbours in ab, with a Gaussian of SIGMA.

    Source: Zhang 2016, section 2.2.
    """
    spread: NDArray[np.float64] = _kernel() @ prior
    return spread


@lru_cache(maxsize=1)
def _kernel() -> NDArray[np.float64]:
    """(Q, Q): the share of column's bin that goes to row's."""
    centres = gamut.bins().astype(np.float64)
    distance = ((centres[:, None] - centres[None]) ** 2).sum(-1)
    kernel = np.exp(-distance / (2 * SIGMA**2))
    shares: NDArray[np.float64] = kernel / kernel.sum(axis=0)
    return shares

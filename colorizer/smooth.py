"""Even out a network's colours, up to the edges of lightness.

A network that is unsure colours a wall in soft clouds, green here and grey there. What no edge of L
divides is mostly one thing of one colour, so the clouds are spread until they meet an edge: what
stains a corner becomes a faint tint of the whole wall.

Source: Min et al. 2014, "Fast global image smoothing based on weighted least squares".
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from colorizer.gamut import soften, uncast
from colorizer.recipe import Recipe

Float = NDArray[np.float32]

_PASSES = 2  # over columns and rows, each shorter than the one before
# What counts as an edge: twice the median step of L, so that grain doesn't, within these bounds.
_LEAST, _MOST = 0.8, 6.0
_LEAK = 1e-4  # of the strongest link, across the sharpest edge


def calmed(ab: Float, lightness: Float, recipe: Recipe) -> Float:
    """Take away the cast, soften what is vivid, even out what no edge divides: as a recipe says.

    Args:
        ab: (2, S, S) float32, ab units.
        lightness: (S, S) float32, the L that the network saw.
        recipe: `cast`, `chroma_knee` and `smoothing` are used.
    """
    ab = soften(uncast(ab, recipe.cast), recipe.chroma_knee)
    return even(ab, lightness, recipe.smoothing)


def even(ab: Float, lightness: Float, reach: float) -> Float:
    """Even out ab inside what edges of L surround, by weighted least squares.

    Minimizes |x - ab|² + (reach * S)² * sum over neighbours of w |x_i - x_j|², with w from 1 where
    L is alike to 0 at edges; nearly so, by solving it along each column and each row in turn.
    Computed at half the network's side, as nothing fine is left.

    Args:
        ab: (2, S, S) float32.
        lightness: (S, S) float32, 0..100.
        reach: about how far colours spread where there is no edge, as a share of S; 0: nowhere.

    Returns:
        (2, S, S) float32.
    """
    if not reach:
        return ab
    side = lightness.shape[0]
    half = (side // 2, side // 2)
    guide = np.asarray(cv2.resize(lightness, half, interpolation=cv2.INTER_AREA), np.float32)
    planes = np.ascontiguousarray(ab.transpose(1, 2, 0))
    x = np.asarray(cv2.resize(planes, half, interpolation=cv2.INTER_AREA), np.float32)
    down, right = _links(guide)
    for number in range(1, _PASSES + 1):
        # The shares of the passes, which add up to one of all (Min et al. 2014, eq. 14)
        share = 1.5 * 4 ** (_PASSES - number) / (4**_PASSES - 1)
        strength = np.float32(share * (reach * half[0]) ** 2)
        x = _along_columns(x, down * strength)
        x = _along_columns(x.transpose(1, 0, 2), right.T * strength).transpose(1, 0, 2)
    enlarged = cv2.resize(np.ascontiguousarray(x), (side, side))
    return np.ascontiguousarray(enlarged.transpose(2, 0, 1), dtype=np.float32)


def _links(guide: Float) -> tuple[Float, Float]:
    """How strongly pixels of (S, S) L are linked to those below, (S - 1, S), and to the right."""
    down, right = np.abs(np.diff(guide, axis=0)), np.abs(np.diff(guide, axis=1))
    step = np.median(np.concatenate([down.ravel(), right.ravel()]))
    width = np.clip(2 * step, _LEAST, _MOST)

    def links(steps: Float) -> Float:
        close = np.exp(steps * steps * np.float32(-0.5 / width**2))
        return np.asarray(close + np.float32(_LEAK), np.float32)

    return links(down), links(right)


def _along_columns(x: Float, links: Float) -> Float:
    """Solve each column's least squares: a tridiagonal system, eliminated for all at once.

    Args:
        x: (n, m, C) float32, columns along the first axis.
        links: (n - 1, m) float32, between the pixels of each column.
    """
    count = len(x)
    diagonal = np.ones(x.shape[:2], np.float32)
    diagonal[:-1] += links
    diagonal[1:] += links
    x, links, inverse = x.copy(), links[..., None], diagonal[..., None]
    above = np.empty_like(links)
    np.reciprocal(inverse[0], out=inverse[0])
    x[0] *= inverse[0]
    for i in range(1, count):
        above[i - 1] = links[i - 1] * inverse[i - 1]
        np.reciprocal(inverse[i] - links[i - 1] * above[i - 1], out=inverse[i])
        x[i] += links[i - 1] * x[i - 1]
        x[i] *= inverse[i]
    for i in range(count - 2, -1, -1):
        x[i] += above[i] * x[i + 1]
    return x

"""Bins of ab, and decoding distributions over them.

A bin is a square of the ab plane, 10 units wide, that some sRGB colour falls into; so every colour
has a bin, whatever the photographs at hand contain. Source of the annealed mean: Zhang, Isola,
Efros 2016, "Colorful Image Colorization", section 2.3.

Q is the number of bins; ab, the two-channel array, is in Lab's units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from colorizer import lab
from colorizer.recipe import Decoding

Float = NDArray[np.float32]

GRID = 10  # side of a bin, in ab units (Zhang 2016)
_COARSE = 4  # a sample's noise is drawn at so many points along each side of the picture
# How much of a cast a pixel has, 1 where it has the mean's colour: from the first to the second it
# gives up all that `uncast` takes, less below (mounts), and above less again, nothing from the
# third on (faces).
_CAST = 0.4, 1.0, 2.0
_CHUNK = 1 << 10  # pixels decoded at a time: their logits fit in the processor's cache


@lru_cache(maxsize=1)
def bins() -> Float:
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


def bin_centres() -> tuple[tuple[float, float], ...]:
    """The bins as a `Recipe` holds them."""
    return tuple((float(a), float(b)) for a, b in bins())


def decode(
    logits: Float,
    centres: Float,
    decoding: Decoding = "annealed-mean",
    temperature: float = 0.38,
    seed: Sequence[int] = (0,),
) -> Float:
    """Turn a distribution over bins into ab.

    Args:
        logits: (Q, H, W) float32.
        centres: (Q, 2) float32, the bins' ab.
        decoding: "mode": the likeliest bin. "mean": the expectation. "annealed-mean": the
            expectation of softmax(logits / temperature), between the two. "sample": a draw from
            that softmax, softened, and coherent over each region of the picture; equal seeds give
            equal draws.
        temperature: above 0; used by "annealed-mean" and "sample". Zhang 2016 chose 0.38.
        seed: numbers from 0 that "sample" draws its noise by.

    Returns:
        (2, H, W) float32, ab units.
    """
    q, height, width = logits.shape
    flat = logits.reshape(q, -1)
    ab = np.empty((2, height * width), np.float32)
    if decoding == "mode":
        ab[:] = centres[flat.argmax(axis=0)].T
        return ab.reshape(2, height, width)
    scale = np.float32(1 if decoding == "mean" else 1 / temperature)
    noise = _gumbel_field(q, height, width, seed) if decoding == "sample" else None
    for pixels in _chunks(height * width):
        scaled = flat[:, pixels] * scale
        if noise is not None:
            scaled += noise[:, pixels]
        shares = _exponentials(scaled)
        ab[:, pixels] = (centres.T @ shares) / shares.sum(axis=0)
    return ab.reshape(2, height, width)


def uncast(ab: Float, kept: float) -> Float:
    """Take away a part of a picture's colour cast: of its mean ab.

    What a network is unsure of, it gives the mean colour of photographs, which is brown; a gain
    makes sepia of it, and hides the differences that it does see. What is neutral stays neutral, as
    grey mounts should, and what has twice the cast keeps it, as skin should, which is no cast.

    Args:
        ab: (2, S, S) float32, ab units.
        kept: share of the cast that is kept; 1 leaves everything as it is.
    """
    if kept == 1:
        return ab
    mean = ab.mean(axis=(1, 2), keepdims=True)
    square = max(float(np.square(mean).sum()), 1e-9)
    had = (ab * mean).sum(axis=0, keepdims=True) / square
    faint, strong, vivid = _CAST
    given = np.minimum(had / faint, (vivid - had) / (vivid - strong)).clip(0, 1)
    return np.asarray(ab - (1 - kept) * mean * given, np.float32)


def soften(ab: Float, knee: float) -> Float:
    """Calm what is vivid more than what is faint: ab / (1 + chroma / knee).

    A network's few strong spots look like stains, and its faint tints cover whole things. With a
    gain after it, this evens a picture's colours. Hue stays.

    Args:
        ab: (2, S, S) float32, ab units.
        knee: the chroma that is halved; 0 leaves everything as it is.
    """
    if not knee:
        return ab
    chroma = np.hypot(ab[:1], ab[1:])
    return np.asarray(ab / (1 + chroma / np.float32(knee)), np.float32)


def uncertainty(logits: Float, temperature: float = 1.0) -> Float:
    """Entropy of a distribution over bins, as a share of the largest that Q bins can have.

    Args:
        logits: (Q, H, W) float32.
        temperature: above 0; 1 takes the distribution as it is.

    Returns:
        (H, W) float32: 0 where one bin has it all, 1 where all bins are alike.
    """
    q, height, width = logits.shape
    flat = logits.reshape(q, -1)
    entropy = np.empty(height * width, np.float32)
    for pixels in _chunks(height * width):
        scaled = flat[:, pixels] * np.float32(1 / temperature)
        shares = _exponentials(scaled)  # scaled is now the logits below their maximum
        total = shares.sum(axis=0)
        entropy[pixels] = np.log(total) - (shares * scaled).sum(axis=0) / total
    shares_of_largest = np.clip(entropy / math.log(q), 0, 1)
    return shares_of_largest.astype(np.float32).reshape(height, width)


def _chunks(pixels: int) -> Iterator[slice]:
    return (slice(first, first + _CHUNK) for first in range(0, pixels, _CHUNK))


def _exponentials(logits: Float) -> Float:
    """(Q, n) -> exp of what each logit is below its pixel's largest; `logits` is lowered too."""
    logits -= logits.max(axis=0)
    return np.exp(logits)


def _gumbel_field(q: int, height: int, width: int, seed: Sequence[int]) -> Float:
    """(Q, H * W) Gumbel noise that varies slowly over the picture.

    Adding Gumbel noise to logits and taking the largest is a draw from their softmax; taking the
    softmax again instead softens it (Jang, Gu, Poole 2017, "Categorical Reparameterization with
    Gumbel-Softmax"). Noise drawn once a pixel makes confetti; so a coarse Gaussian field is drawn,
    enlarged smoothly, and its values are mapped through their own distribution to Gumbel's.
    """
    coarse = np.random.default_rng(seed).standard_normal((q, _COARSE, _COARSE), np.float32)
    rows, columns = _interpolation(height), _interpolation(width)
    field = rows @ coarse @ columns.T  # (Q, H, W), each value a unit normal's
    steps = np.clip(field * (_STEPS / _SIGMAS), -_STEPS, _STEPS).astype(np.int16)
    return np.asarray(_normal_to_gumbel()[steps.reshape(q, -1) + _STEPS])


def _interpolation(side: int) -> Float:
    """(side, _COARSE): weights that interpolate linearly, and keep unit normals unit normals."""
    at = np.linspace(0, _COARSE - 1, side)[:, None]
    weights = np.maximum(0, 1 - np.abs(at - np.arange(_COARSE)))
    return np.asarray(weights / np.linalg.norm(weights, axis=1, keepdims=True), np.float32)


_SIGMAS, _STEPS = 5, 2000  # range and resolution of the table below


@lru_cache(maxsize=1)
def _normal_to_gumbel() -> Float:
    """Map a unit normal's value, -_SIGMAS.._SIGMAS in steps, to the Gumbel value as likely."""
    values = np.linspace(-_SIGMAS, _SIGMAS, 2 * _STEPS + 1)
    below = np.array([math.erfc(-value / math.sqrt(2)) / 2 for value in values])
    return np.asarray(-np.log(-np.log(below)), np.float32)

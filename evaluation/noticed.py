"""Measures of what people notice in a coloured photograph, and means over pixels hide.

Stains, bleeding and casts are measured on Lab planes, (h, w, 3) float32, reduced to LONGER_SIDE,
because gradients and regions depend on the size of a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from evaluation.photographs import reduce

Planes = NDArray[np.float32]
Mask = NDArray[np.bool_]

LONGER_SIDE = 256  # of the pictures that are measured; smaller ones are not enlarged
ONE_COLOUR = 4.0  # largest distance of ab from its mean, in a region of one colour
LARGE = 0.02  # smallest share of the picture, of a region
SMOOTHED = 2.0  # standard deviation, in reduced pixels: texture and grain are not edges
# Smallest gradient of an edge, per reduced pixel: that of smoothed steps of 10 in L and of
# ONE_COLOUR in ab.
EDGE_L, EDGE_AB = 2.0, 0.8
NEAR = 1  # how far from an edge of the truth colour may change, in reduced pixels
COLOURED = 15.0  # chroma above which a true pixel is coloured
FEWEST = 0.01  # smallest share of coloured pixels for their ΔE00 to be measured
MOUNTS = ("plain", "grain", "white border", "dark frame")


class Seen:
    """Regions and edges of a photograph with known colours, and its own measures (`itself`).

    Args:
        planes: (H, W, 3) float32, its Lab.
    """

    def __init__(self, planes: Planes) -> None:
        self.planes = reduce(planes, LONGER_SIDE)
        self.regions, self.edges = regions_of_one_colour(self.planes), edges(self.planes)
        self.itself = self.compare(planes)

    def compare(self, found: Planes) -> Mapping[str, float]:
        """Measure the photograph coloured again, (H, W, 3) float32 Lab.

        Stains are NaN if the truth has no region of one colour. The cast is |mean ab|, and Δcast
        the distance of the mean ab from the truth's. Source: the mean of ab is the shift that
        "grey world" white balance estimates (Buchsbaum 1980, "A spatial processor model for object
        colour perception").
        """
        small = reduce(found, LONGER_SIDE)
        mean, true = (planes[..., 1:].mean(axis=(0, 1)) for planes in (small, self.planes))
        return {
            "stains": stains(small, self.regions),
            "bleeding": bleeding(small, self.edges),
            "cast": float(np.hypot(*mean)),
            "Δcast": float(np.hypot(*(mean - true))),
        }


def regions_of_one_colour(truth: Planes) -> NDArray[np.int32]:
    """Find large connected regions of one colour.

    Starting with the most common ab, all pixels within ONE_COLOUR of it are taken; their connected
    parts are kept if LARGE of the picture is within ONE_COLOUR of the part's mean. Grain and JPEG's
    blocks are averaged away first.

    Returns:
        (h, w): the region's number, from 1; 0 outside of all.
    """
    ab = cv2.blur(truth[..., 1:], (5, 5))
    cell = np.floor(ab / ONE_COLOUR).astype(np.int64) + 64
    cell = cell[..., 0] * 128 + cell[..., 1]
    free, least = np.ones(ab.shape[:2], bool), LARGE * ab[..., 0].size
    regions = np.zeros(ab.shape[:2], np.int32)
    while free.any():
        counts = np.bincount(cell[free])
        if counts.max() < least / 9:  # a circle of ONE_COLOUR touches nine cells at most
            break
        centre = ab[free & (cell == counts.argmax())].mean(axis=0)
        near = free & ((_distance(ab, centre) <= ONE_COLOUR) | (cell == counts.argmax()))
        free &= ~near
        number, parts, sizes, _ = cv2.connectedComponentsWithStats(near.astype(np.uint8))
        for part in np.flatnonzero(sizes[1:number, cv2.CC_STAT_AREA] >= least) + 1:
            mask = parts == part
            mask &= _distance(ab, ab[mask].mean(axis=0)) <= ONE_COLOUR
            if mask.sum() >= least:
                regions[mask] = regions.max() + 1
    return regions


def _distance(ab: NDArray[Any], colour: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.hypot(ab[..., 0] - colour[0], ab[..., 1] - colour[1]))


def stains(found: Planes, regions: NDArray[np.int32]) -> float:
    """Measure the spread of ab inside regions that the truth paints in one colour.

    Regions that are flat in L won't do: two colours may have the same L, and there the truth
    spreads more than any network, so grey would win.

    Returns:
        Standard deviation of ab in a region, mean of the regions by their size; NaN without any.

    Source: this project's own. The truth's is below ONE_COLOUR.
    """
    if not regions.any():
        return float("nan")
    inside = [found[regions == number, 1:] for number in range(1, regions.max() + 1)]
    spreads = [np.sqrt(ab.var(axis=0).sum()) for ab in inside]
    return float(np.average(spreads, weights=[len(ab) for ab in inside]))


def gradient(planes: Planes) -> Planes:
    """(h, w) length of the smoothed gradient, per pixel, over all channels of (h, w, C).

    Source: Sobel's operator, scaled to a ramp's own slope; Di Zenzo 1986, "A note on the gradient
    of a multi-image", has channels summed in squares.
    """
    smooth = cv2.GaussianBlur(planes, (0, 0), SMOOTHED)
    slopes = [cv2.Sobel(smooth, cv2.CV_32F, x, 1 - x, scale=1 / 8) for x in (0, 1)]
    return np.asarray(np.sqrt(sum((s.reshape(planes.shape) ** 2).sum(axis=-1) for s in slopes)))


def edges(truth: Planes) -> Mask:
    """Mark pixels within NEAR of an edge of the truth, in L or ab."""
    sharp = (gradient(truth[..., :1]) > EDGE_L) | (gradient(truth[..., 1:]) > EDGE_AB)
    around = np.ones((2 * NEAR + 1, 2 * NEAR + 1), np.uint8)
    return np.asarray(cv2.dilate(sharp.astype(np.uint8), around), bool)


def bleeding(found: Planes, true_edges: Mask) -> float:
    """Share of the gradient of ab that lies where the truth has no edge; 0 without such gradient.

    Only the part above EDGE_AB counts: colour may change slowly.

    Source: this project's own; the fault is that of Huang et al. 2005, "An adaptive edge detection
    based colorization algorithm and its applications".
    """
    strength = np.maximum(gradient(found[..., 1:]) - EDGE_AB, 0)
    return float(strength[~true_edges].sum() / max(float(strength.sum()), 1e-9))


def coloured_difference(difference: NDArray[Any], truth: Planes) -> float:
    """Mean colour difference, of (H, W), where the truth has chroma above COLOURED.

    NaN if fewer than FEWEST of the pixels do. Over all pixels, pictures without colour score well,
    since most of the world is nearly grey.

    Source: the difference is CIEDE2000, Sharma et al. 2005; the restriction this project's own.
    """
    coloured = np.hypot(truth[..., 1], truth[..., 2]) > COLOURED
    return float(difference[coloured].mean()) if coloured.mean() >= FEWEST else float("nan")


def mounted(rgb: NDArray[np.uint8], number: int) -> tuple[NDArray[np.uint8], Mask]:
    """Lay a photograph, (H, W, 3), on a grey card, as in albums and archives.

    Args:
        rgb: the photograph.
        number: decides the kind, of MOUNTS, the card's grey, 90 to 180, and its margin.

    Returns:
        The picture, and a mask of the card, which has no colour in truth.
    """
    rng, kind = np.random.default_rng(number), MOUNTS[number % len(MOUNTS)]
    height, width = rgb.shape[:2]
    margin = max(3, round(rng.uniform(0.1, 0.25) * min(height, width)))
    line = max(1, margin // 4)
    card = np.full((height + 2 * margin, width + 2 * margin), rng.integers(90, 181), np.float64)
    if kind == "grain":
        card += rng.normal(0, 6, card.shape)
    elif kind == "white border":
        card[margin - line : line - margin, margin - line : line - margin] = 245
    elif kind == "dark frame":
        card = np.pad(card[line:-line, line:-line], line, constant_values=30)
    picture = np.clip(np.rint(card), 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    outside = np.ones(card.shape, bool)
    inside = slice(margin, margin + height), slice(margin, margin + width)
    picture[inside], outside[inside] = rgb, False
    return picture, outside


def kernel_terms(found: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Compute (N, N), whose mean off the diagonal is the kernel distance of N pairs of features.

    The distance is the squared maximum mean discrepancy with the kernel (x · y / F + 1)³. It is
    unbiased for any N; pairs of a picture and its own truth are left out too, so that pictures
    equal to their truths have 0, within rounding.

    Args:
        found: (N, F) features of pictures.
        truth: (N, F) of their truths.

    Source: Binkowski et al. 2018, "Demystifying MMD GANs", section 4; Gretton et al. 2012, "A
    kernel two-sample test", lemma 6, the U-statistic of pairs.
    """
    one, other = found.astype(np.float64), truth.astype(np.float64)

    def kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    mixed = kernel(one, other)
    terms = kernel(one, one) + kernel(other, other) - mixed - mixed.T
    np.fill_diagonal(terms, 0)
    return terms

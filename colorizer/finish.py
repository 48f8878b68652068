"""Prepare a picture for the network, and finish it from the network's ab.

Detail comes from the picture's own L at full size; only colour comes from the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from colorizer import hints, lab
from colorizer.hints import Hint
from colorizer.icc import Profile
from colorizer.image import NO_METADATA, Metadata, Picture

Float = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

# Of the guided filter: the network's side over its window's radius, and the variance of L under
# which a window counts as flat. Wide windows bring colour past the borders of a patch that the
# network coloured, up to an edge of L: skies and coats become whole (docs/evaluation.md).
_WINDOWS = 10
_HINT_WINDOWS = 32  # of hints: they have found the edges themselves
_FLAT = 25.0


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture ready for the network.

    Attributes:
        lightness: (H, W) float32 L, 0..100, the picture's own.
        small: (1, S, S) float32, the copy of it that the network sees.
        alpha: (H, W) uint8, or None; kept for the reply, as is metadata.
        metadata: what the file says of the picture.
        deep: whether `lightness` was read at more than 8 bits, which the reply should have too.
        notes: what of the file was left out.
    """

    lightness: Float
    small: Float
    alpha: UInt8 | None = None
    metadata: Metadata = NO_METADATA
    deep: bool = False
    notes: tuple[str, ...] = ()


def prepare(picture: Picture, side: int) -> Prepared:
    """Take a picture's L, and a copy of `side` x `side` pixels for the network."""
    deep = picture.pixels.dtype == np.float32
    lightness = picture.pixels if deep else lab.rgb_to_lightness(picture.pixels)
    small = cv2.resize(lightness, (side, side), interpolation=cv2.INTER_AREA)
    small = np.asarray(small, np.float32)[None]
    return Prepared(lightness, small, picture.alpha, picture.metadata, deep, picture.notes)


def finish(
    prepared: Prepared,
    ab: Float,
    chroma_gain: float = 1.0,
    known: Sequence[Hint] = (),
    spread: float = hints.SPREAD,
    profile: Profile = "srgb",
) -> lab.Levels:
    """Enlarge ab to the picture's size, join its L, and convert to RGB.

    Args:
        prepared: the picture.
        ab: (2, S, S) float32, ab units; S is that of `prepared`.
        chroma_gain: factor on ab.
        known: colours that a person knows.
        spread: how far these reach (`hints.spread_spots`).
        profile: the colour space of the result.

    Returns:
        (H, W, 3) uint8, or uint16 if `prepared` is deep.
    """
    height, width = prepared.lightness.shape
    planes = np.ascontiguousarray(ab.transpose(1, 2, 0)) * np.float32(chroma_gain)
    slope, offset = guided_lines(prepared.small[0], planes)
    spots = hints.spots(known, prepared.lightness) if known else []
    if spots:
        guide = prepared.small[0]
        shown = slope * guide[..., None] + offset  # (S, S, 2), what they are to change
        change = hints.spread_spots(guide, shown, spots, spread, width / height)
        more_slope, more_offset = guided_lines(guide, change, _HINT_WINDOWS)
        slope, offset = slope + more_slope, offset + more_offset
    lines = np.concatenate([slope, offset], axis=2)  # (S, S, 4)
    rgb: lab.Levels = np.empty((height, width, 3), np.uint16 if prepared.deep else np.uint8)
    for rows in lab.bands(height, width):  # so that nothing else is as large as the picture
        light = prepared.lightness[rows]
        enlarged = cv2.split(enlarge(lines, height, width, rows))
        slope_a, slope_b, a, b = (np.asarray(one, np.float32) for one in enlarged)
        a += np.multiply(slope_a, light, out=slope_a)
        b += np.multiply(slope_b, light, out=slope_b)
        hints.meet(spots, prepared.lightness, rows.start, ab.shape[1], a, b)
        if rgb.dtype == np.uint8 and profile == "srgb":  # the usual, several times as fast
            lab.band_to_rgb(light, a, b, rgb[rows])
        else:
            lab.band_to_space(light, a, b, rgb[rows], lab.SPACES[profile])
    return rgb


def guided_lines(guide: Float, ab: Float, windows: int = _WINDOWS) -> tuple[Float, Float]:
    """Fit ab as lines in L, so that, enlarged, its edges follow those of L.

    In each small window ab is taken for a linear function of L; its coefficients are fitted at
    the network's size, are smooth, and are what is enlarged. Source: He, Sun 2015, "Fast Guided
    Filter".

    Args:
        guide: (S, S) float32 L, 0..100.
        ab: (S, S, 2) float32.
        windows: S over the window's radius.

    Returns:
        Slope and offset, (S, S, 2) float32 each: ab is slope * L + offset.
    """
    width = 2 * (len(guide) // windows) + 1

    def mean(values: NDArray[Any]) -> Float:
        """Average over a window around each pixel."""
        return np.asarray(cv2.blur(values, (width, width)), np.float32)

    mean_guide, mean_ab = mean(guide), mean(ab)
    covariance = mean(ab * guide[..., None]) - mean_ab * mean_guide[..., None]
    variance = mean(guide * guide) - mean_guide * mean_guide
    slope = covariance / (variance + _FLAT)[..., None]
    return mean(slope), mean(mean_ab - slope * mean_guide[..., None])


def enlarge(small: Float, height: int, width: int, rows: slice | None = None) -> Float:
    """Interpolate (S, S, C) linearly to (height, width, C), or to some rows of that.

    By cv2.warpAffine, which unlike cv2.resize can begin at any row; since OpenCV 5 both
    interpolate exactly.
    """
    top, bottom = (rows.start, rows.stop) if rows else (0, height)
    down, right = small.shape[0] / height, small.shape[1] / width
    # Pixel centres are at half-integers: where in `small` each pixel of the result lies.
    where = np.array([[right, 0, right / 2 - 0.5], [0, down, (top + 0.5) * down - 0.5]])
    large = cv2.warpAffine(
        small,
        where,
        (width, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(large, np.float32)

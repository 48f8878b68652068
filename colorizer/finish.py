"""Prepare a picture for the network, and finish it from the network's ab.

Detail comes from the picture's own L at full size; only colour comes from the network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from colorizer import cores, hints, lab
from colorizer.hints import Hint
from colorizer.image import Picture
from colorizer.jpeg import Planes
from colorizer.metadata import NONE, Metadata
from colorizer.options import Profile

Float = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

# Of the guided filter: the network's side over its window's radius, and the variance of L under
# which a window counts as flat. Wide windows bring colour past the borders of a patch that the
# network coloured, up to an edge of L: skies and coats become whole (docs/evaluation.md).
_WINDOWS = 10
_HINT_WINDOWS = 32  # of hints: they have found the edges themselves
_FLAT = 25.0
# Sides of the network's copy from which a picture is halved first: in bytes, that takes a 30th of
# the time. What the network sees then moves by 0.1 of L.
_LARGE = 16


@dataclass(frozen=True, eq=False)
class Prepared:
    """A picture ready for the network.

    Attributes:
        lightness: the picture's own: (H, W) float32 L, 0..100; or (H, W) uint8, the 8-bit greys
            of that L (`lab.rgb_to_grey`).
        small: (1, S, S) float32, the copy of it that the network sees.
        alpha: (H, W) uint8, or None; kept for the reply, as is metadata.
        metadata: what the file says of the picture.
        deep: whether `lightness` was read at more than 8 bits, which the reply should have too.
        notes: what of the file was left out.
    """

    lightness: NDArray[Any]
    small: Float
    alpha: UInt8 | None = None
    metadata: Metadata = NONE
    deep: bool = False
    notes: tuple[str, ...] = ()


def prepare(picture: Picture, side: int) -> Prepared:
    """Take a picture's L, and a copy of `side` x `side` pixels for the network."""
    deep = picture.pixels.dtype == np.float32
    lightness = picture.pixels if deep else lab.rgb_to_grey(picture.pixels)
    seen = lightness
    while min(seen.shape) >= _LARGE * side and not deep:
        seen = halved(seen)
    small = cv2.resize(in_lab(seen), (side, side), interpolation=cv2.INTER_AREA)
    small = np.asarray(small, np.float32)[None]
    return Prepared(lightness, small, picture.alpha, picture.metadata, deep, picture.notes)


def in_lab(lightness: NDArray[Any]) -> Float:
    """Convert what `Prepared.lightness` holds, or a part of it, to L, float32."""
    return lightness if lightness.dtype == np.float32 else lab.grey_to_lightness(lightness)


def halved(grey: UInt8) -> UInt8:
    """(H, W) -> (H / 2, W / 2), rounded up: the mean of each four pixels."""
    height, width = grey.shape
    if height % 2 or width % 2:
        grey = np.pad(grey, ((0, height % 2), (0, width % 2)), mode="edge")
    size = (-(-width // 2), -(-height // 2))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def finish(
    prepared: Prepared,
    ab: Float,
    chroma_gain: float = 1.0,
    known: Sequence[Hint] = (),
    spread: float = hints.SPREAD,
    alike: Float | None = None,
    profile: Profile = "srgb",
) -> lab.Levels:
    """Enlarge ab to the picture's size, join its L, and convert to RGB.

    Args:
        prepared: the picture.
        ab: (2, S, S) float32, ab units; S is that of `prepared`.
        chroma_gain: factor on ab.
        known: colours that a person knows.
        spread: how far these reach (`hints.spread_spots`).
        alike: (K, S, S) float32, by which hints find what is alike (`hints.spread_spots`).
        profile: the colour space of the result.

    Returns:
        (H, W, 3) uint8, or uint16 if `prepared` is deep.
    """
    lines, spots = _lines(prepared, ab, chroma_gain, known, spread, alike)
    rgb = np.empty((*prepared.lightness.shape, 3), np.uint16 if prepared.deep else np.uint8)

    def convert(rows: slice, light: Float, a: Float, b: Float) -> None:
        if rgb.dtype == np.uint8 and profile == "srgb":  # the usual, several times as fast
            lab.band_to_rgb(light, a, b, rgb[rows])
        else:
            lab.band_to_space(light, a, b, rgb[rows], lab.SPACES[profile])

    _join(prepared.lightness, lines, spots, convert)
    return rgb


def finish_planes(
    prepared: Prepared,
    ab: Float,
    chroma_gain: float = 1.0,
    known: Sequence[Hint] = (),
    spread: float = hints.SPREAD,
    alike: Float | None = None,
) -> Planes:
    """Finish a picture as the planes of a JPEG: in sRGB, with colours at half its size.

    Colours of one L differ in luma, Y of YCbCr, smoothly: what the table says of greys at half the
    size is enlarged, and added to the greys at full size.

    Args:
        prepared: a picture of 8 bits; the others are those of `finish`.
    """
    lines, spots = _lines(prepared, ab, chroma_gain, known, spread, alike)
    grey = prepared.lightness
    half = halved(grey)
    blue, red = np.empty_like(half), np.empty_like(half)
    change = np.empty(half.shape, np.float32)  # of grey to luma

    def convert(rows: slice, light: Float, a: Float, b: Float) -> None:
        lab.band_to_planes(half[rows], a, b, change[rows], blue[rows], red[rows])

    _join(half, lines, spots, convert)
    luma = np.empty_like(grey)
    height, width = grey.shape

    def correct(rows: slice) -> None:
        """Add the change, enlarged, to some rows whose first is even."""
        first, last = max(0, rows.start // 2 - 1), min(len(half), rows.stop // 2 + 2)
        size = (2 * half.shape[1], 2 * (last - first))
        enlarged = cv2.resize(
            change[first:last], size, lab.scratch("change", size[::-1], np.float32)
        )
        begin = rows.start - 2 * first
        enlarged = enlarged[begin : begin + rows.stop - rows.start, :width]
        cv2.add(grey[rows], enlarged, luma[rows], None, cv2.CV_8U)

    cores.spread(correct, list(lab.bands(height, width, 2)))
    return Planes(luma, blue, red)


def _lines(
    prepared: Prepared,
    ab: Float,
    chroma_gain: float,
    known: Sequence[Hint],
    spread: float,
    alike: Float | None,
) -> tuple[Float, list[hints.Spot]]:
    """Fit ab as lines in L: their slopes and offsets, (S, S, 4) float32; and places that differ."""
    height, width = prepared.lightness.shape
    planes = np.ascontiguousarray(ab.transpose(1, 2, 0)) * np.float32(chroma_gain)
    slope, offset = guided_lines(prepared.small[0], planes)
    spots = hints.spots(known, in_lab(prepared.lightness)) if known else []
    if spots:
        guide = prepared.small[0]
        shown = slope * guide[..., None] + offset  # (S, S, 2), what they are to change
        change = hints.spread_spots(guide, shown, spots, spread, width / height, alike)
        more_slope, more_offset = guided_lines(guide, change, _HINT_WINDOWS)
        slope, offset = slope + more_slope, offset + more_offset
    return np.concatenate([slope, offset], axis=2), spots


def _join(
    lightness: NDArray[Any],
    lines: Float,
    spots: Sequence[hints.Spot],
    convert: Callable[[slice, Float, Float, Float], None],
) -> None:
    """Give `convert` each band of (H, W) lightness: its rows, L, a and b, which it may change."""
    height, width = lightness.shape
    whole: NDArray[Any] = in_lab(lightness) if spots else lightness

    def join(rows: slice) -> None:  # in bands, so that nothing else is as large as the picture
        shape = lightness[rows].shape
        light = whole[rows]
        if light.dtype == np.uint8:
            light = lab.grey_to_lightness(light, lab.scratch("light", shape, np.float32))
        enlarged = lab.scratch("lines", (*shape, lines.shape[2]), np.float32)
        enlarge(lines, height, width, rows, enlarged)
        slope_a, slope_b, a, b = (lab.scratch(n, shape, np.float32) for n in range(4))
        cv2.split(enlarged, [slope_a, slope_b, a, b])
        cv2.add(a, cv2.multiply(slope_a, light, slope_a), a)
        cv2.add(b, cv2.multiply(slope_b, light, slope_b), b)
        if spots:
            hints.meet(spots, whole, rows.start, len(lines), a, b)
        convert(rows, light, a, b)

    cores.spread(join, list(lab.bands(height, width)))


def shown_ab(guide: Float, ab: Float, chroma_gain: float) -> Float:
    """Give the ab of a finished picture, (S, S, 2), at the network's size; arguments as `finish`.

    `guide` is (S, S) float32 L.
    """
    planes = np.ascontiguousarray(ab.transpose(1, 2, 0)) * np.float32(chroma_gain)
    slope, offset = guided_lines(guide, planes)
    return slope * guide[..., None] + offset


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


def enlarge(
    small: Float, height: int, width: int, rows: slice | None = None, large: Float | None = None
) -> Float:
    """Interpolate (S, S, C) linearly to (height, width, C), or to some rows of that.

    By cv2.warpAffine, which unlike cv2.resize can begin at any row; since OpenCV 5 both
    interpolate exactly.
    """
    top, bottom = (rows.start, rows.stop) if rows else (0, height)
    down, right = small.shape[0] / height, small.shape[1] / width
    # Pixel centres are at half-integers: where in `small` each pixel of the result lies.
    where = np.array([[right, 0, right / 2 - 0.5], [0, down, (top + 0.5) * down - 0.5]])
    found = cv2.warpAffine(
        small,
        where,
        (width, bottom - top),
        large,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(found, np.float32)

"""sRGB <-> CIE Lab (D65, 2 degrees), fast enough for whole photographs.

Everything that runs over a full-size picture goes through tables and bands of rows: a pixel of
8-bit sRGB has only 256 values a channel, and a band fits in the processor's cache. The formulas
are those of CIE 15:2004 and IEC 61966-2-1; scikit-image is the oracle in the tests.

Ranges: rgb uint8 0..255; L (lightness) float32 0..100; a and b float32, about -87..99 and
-108..95 inside sRGB.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import DTypeLike, NDArray

from colorizer.cores import spread

UInt8 = NDArray[np.uint8]
Levels = NDArray[Any]  # uint8 or uint16
Float = NDArray[np.float32]
F = TypeVar("F", np.float32, np.float64)

# Source: IEC 61966-2-1, linear sRGB -> XYZ, to the digits that scikit-image uses.
RGB_TO_XYZ = np.array(
    [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
)
WHITE = np.array([0.95047, 1.0, 1.08883])  # D65, 2 degree observer (CIE 15:2004)
_RGB_TO_WHITE_XYZ = RGB_TO_XYZ / WHITE[:, None]  # XYZ relative to the white
_WHITE_XYZ_TO_RGB = np.linalg.inv(_RGB_TO_WHITE_XYZ)

_DELTA = 6 / 29  # CIE 15: below DELTA cubed, the cube root becomes a straight line
_BAND_PIXELS = 1 << 16  # rows are worked on in bands of about this many pixels: 0.8 MB of float32
_STEPS = (1 << 16) - 1  # resolution of the tables of linear light: at most 0.06 of an 8-bit level
_SLACK = 0.0005  # linear light; colours of 8-bit sRGB itself, rounded, must not count as outside


def srgb_to_linear(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """Undo the curve of sRGB, 0..1."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def _linear_to_srgb(value: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(value <= 0.0031308, value * 12.92, 1.055 * value ** (1 / 2.4) - 0.055)


def _cube_root(value: NDArray[F]) -> NDArray[F]:
    """Lab's f: the cube root with its straight part near black."""
    line = value / (3 * _DELTA**2) + 4 / 29
    return np.where(value > _DELTA**3, np.cbrt(value), line).astype(value.dtype)


_LINEAR = srgb_to_linear(np.arange(256) / 255)  # (256,) linear light of each 8-bit value
_LINEAR_32 = _LINEAR.astype(np.float32)
# Luminance of each 8-bit value of R, G and B, in steps of 1/_STEPS: their sum indexes _LIGHTNESS.
_LUMINANCE = [np.rint(w * _LINEAR * _STEPS).astype(np.uint16) for w in _RGB_TO_WHITE_XYZ[1]]
_LIGHTNESS = (116 * _cube_root(np.arange(_STEPS + 1) / _STEPS) - 16).astype(np.float32)
_GREY_LIGHTNESS = (116 * _cube_root(_LINEAR) - 16).astype(np.float32)
# Of each step of luminance, the 8-bit grey whose L is nearest.
_GREY = np.searchsorted(_GREY_LIGHTNESS[1:] + _GREY_LIGHTNESS[:-1], 2 * _LIGHTNESS).astype(np.uint8)
_CURVE = 255 * _linear_to_srgb(np.arange(_STEPS + 1) / _STEPS)
_SRGB = np.rint(_CURVE).astype(np.uint8)
_FINE_SRGB = np.rint(256 * _CURVE).astype(np.uint16)


@dataclass(frozen=True)
class Space:
    """An RGB colour space whose white is D65.

    Attributes:
        title: its name in ICC profiles.
        primaries: chromaticities xy of red, green and blue.
        gamma: exponent of the curve; 0 for the curve of sRGB.
    """

    title: str
    primaries: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]
    gamma: float = 0.0

    @property
    def to_xyz(self) -> NDArray[np.float64]:
        """(3, 3): linear RGB -> XYZ."""
        if self is SPACES["srgb"]:
            return RGB_TO_XYZ
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in self.primaries]).T
        return np.asarray(columns * np.linalg.solve(columns, WHITE))

    def encode(self, linear: Float) -> Float:
        """Linear light -> values of the space, both 0..1."""
        if self.gamma:
            return np.asarray(cv2.pow(linear, 1 / self.gamma), np.float32)
        curved = np.asarray(cv2.pow(linear, 1 / 2.4), np.float32) * np.float32(1.055)
        curved -= np.float32(0.055)
        return np.where(linear <= np.float32(0.0031308), linear * np.float32(12.92), curved)


# Sources: IEC 61966-2-1; SMPTE EG 432-1 with the white and the curve of sRGB, as Apple has it;
# Adobe RGB (1998) Color Image Encoding, 4.3.
SPACES = {
    "srgb": Space("sRGB", ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))),
    "display-p3": Space("Display P3", ((0.68, 0.32), (0.265, 0.69), (0.15, 0.06))),
    "adobe-rgb": Space(
        "Compatible with Adobe RGB (1998)", ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)), 563 / 256
    ),
}
# Linear light beyond 0 and 1 that is cut off, less than 0.001 of L: greys of L = 100 miss sRGB's
# white by 0.00002, since the matrix is rounded.
_LOWEST, _HIGHEST = -1e-6, 1 + 3e-5


def rgb_to_lightness(rgb: UInt8) -> Float:
    """Take the lightness of a picture.

    Args:
        rgb: (H, W) grey or (H, W, 3) sRGB, uint8.

    Returns:
        (H, W) float32, 0..100; at most 0.02 from the exact value.
    """
    return grey_to_lightness(rgb) if rgb.ndim == 2 else _of_luminance(rgb, _LIGHTNESS)


def grey_to_lightness(grey: UInt8, lightness: Float | None = None) -> Float:
    """(H, W) 8-bit greys of sRGB -> L, (H, W) float32, into `lightness` if it is given."""
    return np.asarray(cv2.LUT(grey, _GREY_LIGHTNESS, lightness), np.float32)


def rgb_to_grey(rgb: UInt8) -> UInt8:
    """Take the 8-bit greys that have the lightness of a picture, to half a level.

    Args:
        rgb: (H, W) grey, which comes back itself, or (H, W, 3) sRGB, uint8.

    Returns:
        (H, W) uint8; `rgb_to_lightness` gives its L.
    """
    return rgb if rgb.ndim == 2 else _of_luminance(rgb, _GREY)


def _of_luminance(rgb: UInt8, table: NDArray[Any]) -> NDArray[Any]:
    """Look up the luminance of (H, W, 3) sRGB in a table of _STEPS + 1 entries."""
    height, width = rgb.shape[:2]
    found = np.empty((height, width), table.dtype)

    def look_up(rows: slice) -> None:
        shape = found[rows].shape
        channels = [scratch(n, shape, np.uint8) for n in range(3)]
        cv2.split(rgb[rows], channels)
        total, more = (scratch(name, found[rows].shape, np.uint16) for name in ("total", "more"))
        cv2.LUT(channels[0], _LUMINANCE[0], total)
        for channel, weighted in zip(channels[1:], _LUMINANCE[1:], strict=True):
            cv2.add(total, cv2.LUT(channel, weighted, more), total)
        cv2.LUT(total, table, found[rows])

    spread(look_up, list(bands(height, width)))
    return found


def rgb_to_lab(rgb: UInt8) -> Float:
    """Convert a picture to Lab.

    Args:
        rgb: (H, W, 3) sRGB, uint8.

    Returns:
        (H, W, 3) float32: L 0..100, a, b.
    """
    linear = cv2.LUT(rgb, _LINEAR_32)
    xyz = np.asarray(cv2.transform(linear, _RGB_TO_WHITE_XYZ.astype(np.float32)), np.float32)
    x, y, z = np.moveaxis(_cube_root(xyz), -1, 0)
    return np.dstack([116 * y - 16, 500 * (x - y), 200 * (y - z)]).astype(np.float32)


def lab_to_rgb(lightness: Float, ab: Float) -> UInt8:
    """Convert Lab to sRGB; colours that sRGB lacks lose chroma, never lightness or hue.

    Args:
        lightness: (H, W) float32, 0..100.
        ab: (H, W, 2) float32, any value.

    Returns:
        (H, W, 3) uint8.
    """
    rgb = np.empty((*lightness.shape, 3), np.uint8)
    for rows in bands(*lightness.shape):
        a, b = cv2.split(ab[rows])
        band_to_rgb(
            lightness[rows], np.asarray(a, np.float32), np.asarray(b, np.float32), rgb[rows]
        )
    return rgb


def band_to_rgb(lightness: Float, a: Float, b: Float, rgb: Levels) -> None:
    """Convert one band of `bands` as `lab_to_rgb` does, all channels at once in few calls.

    OpenCV releases Python's lock only inside a call: many small ones would make threads wait for
    each other. Results go to `scratch`: fresh memory costs more than the arithmetic.

    Args:
        lightness: (h, W) float32, 0..100.
        a: (h, W) float32; overwritten.
        b: (h, W) float32; overwritten.
        rgb: (h, W, 3) uint8, to write to; or uint16, in 256ths of an 8-bit level.
    """
    y, roots, linear = (
        scratch(name, (*lightness.shape, *channels), np.float32)
        for name, channels in (("y", ()), ("roots", (3,)), ("linear", (3,)))
    )
    np.multiply(lightness, np.float32(1 / 116), out=y)
    y += np.float32(16 / 116)
    cv2.scaleAdd(a, 1 / 500, y, a)
    cv2.scaleAdd(b, -1 / 200, y, b)
    cv2.merge([a, y, b], roots)  # Lab's f of X, Y and Z (CIE 15)
    _to_linear(roots, linear)
    low, high, _, _ = cv2.minMaxLoc(linear.reshape(len(linear), -1))
    if low < -_SLACK or high > 1 + _SLACK:
        inside = scratch("inside", lightness.shape, np.uint8)
        cv2.inRange(linear, (-_SLACK,) * 3, (1 + _SLACK,) * 3, inside)
        outside = np.flatnonzero(inside == 0)
        fx, fy, fz = (one.reshape(-1)[outside] for one in (a, y, b))
        row, fx, fz = into_gamut(116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz))
        paler = _roots_to_linear(_roots(row, fx, fz)[None])
        # As one value a pixel: numpy copies several times as fast as three.
        np.put(linear.reshape(-1).view("V12"), outside, paler.reshape(-1).view("V12"))
    # Rounds, and cuts off what is below 0 and above _STEPS.
    steps = scratch("steps", linear.shape, np.uint16)
    cv2.addWeighted(linear, float(_STEPS), linear, 0, 0, steps, cv2.CV_16U)
    cv2.LUT(steps, _SRGB if rgb.dtype == np.uint8 else _FINE_SRGB, rgb)


def band_to_planes(grey: UInt8, a: Float, b: Float, change: Float, blue: UInt8, red: UInt8) -> None:
    """Convert one band of `bands` to YCbCr of JFIF, by a table: to half a level.

    Args:
        grey: (h, W) uint8, greys of the lightness.
        a: (h, W) float32; overwritten.
        b: (h, W) float32; overwritten.
        change: (h, W) float32, to write to: Y, less the grey.
        blue: (h, W) uint8, to write to: Cb.
        red: (h, W) uint8, to write to: Cr.
    """
    table, scale_a, scale_b = _planes()
    cv2.multiply(a, cv2.LUT(grey, scale_a, change), a)  # from -1 to 1 inside sRGB
    cv2.multiply(b, cv2.LUT(grey, scale_b, change), b)
    if max(abs(end) for plane in (a, b) for end in cv2.minMaxLoc(plane)[:2]) > 1:
        over = np.abs(a, out=scratch("over", grey.shape, np.float32))
        cv2.max(over, np.abs(b, out=change), over)
        np.maximum(over, np.float32(1), out=over)
        cv2.divide(a, over, a)  # farther than any colour of sRGB: the hue counts
        cv2.divide(b, over, b)
    for plane in (a, b):
        plane += np.float32(1)
        plane *= np.float32(_NODES // 2)
    cv2.add(b, cv2.LUT(grey, _ROWS, change), b)
    found = scratch("found", (*grey.shape, 4), np.float32)
    cv2.remap(table, a, b, cv2.INTER_LINEAR, found, cv2.BORDER_REPLICATE)
    fine_blue, fine_red, unused = (scratch(n, grey.shape, np.float32) for n in range(3))
    cv2.split(found, [change, fine_blue, fine_red, unused])
    cv2.convertScaleAbs(fine_blue, blue)
    cv2.convertScaleAbs(fine_red, red)


_NODES = 33  # of the table below, along a and along b, at one grey
_ROWS = (np.arange(256) * _NODES).astype(np.float32)  # of each grey: its first


@lru_cache(maxsize=1)
def _planes() -> tuple[Float, Float, Float]:
    """What `band_to_planes` looks up.

    Returns:
        (256 * _NODES, _NODES, 4): Y less grey, Cb, Cr and nothing, by grey and b, and by a: OpenCV
        interpolates four channels in half the time of three. (256,) each: what brings a and b to
        -1..1 within sRGB, by grey.
    """
    row = _GREY_LIGHTNESS.astype(np.intp)
    limit = np.maximum(_largest_chroma()[row], _largest_chroma()[row + 1])
    angle = np.radians(np.arange(limit.shape[1]))
    most_a, most_b = (
        np.maximum(1, np.abs(limit * one(angle)).max(axis=1)).astype(np.float32)
        for one in (np.cos, np.sin)
    )
    table = np.zeros((256, _NODES**2, 4), np.float32)
    steps = np.linspace(-1, 1, _NODES, dtype=np.float32)
    b, a = (one.ravel() for one in np.meshgrid(steps, steps, indexing="ij"))

    def convert(greys: slice) -> None:
        lightness = _GREY_LIGHTNESS[greys, None].repeat(_NODES**2, axis=1)
        rgb = np.empty((*lightness.shape, 3), np.uint16)
        band_to_rgb(lightness, most_a[greys, None] * a, most_b[greys, None] * b, rgb)
        fine = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb) * np.float32(1 / 256)
        table[greys, :, 0] = fine[..., 0] - np.arange(256)[greys, None]
        table[greys, :, 1:3] = fine[..., :0:-1]

    spread(convert, list(bands(256, _NODES**2)))
    return table.reshape(256 * _NODES, _NODES, 4), 1 / most_a, 1 / most_b


def band_to_space(lightness: Float, a: Float, b: Float, rgb: Levels, space: Space) -> None:
    """Convert one band of `bands` to any space, in 8 or 16 bits, without tables of 8-bit steps.

    L stays within 0.002 in 16 bits. Colours that the space lacks lose chroma, never L or hue.

    Args:
        lightness: (h, W) float32, 0..100.
        a: (h, W) float32.
        b: (h, W) float32.
        rgb: (h, W, 3) uint8 or uint16, to write to.
        space: of `rgb`.
    """
    from_xyz = np.linalg.inv(space.to_xyz / WHITE[:, None]).astype(np.float32)
    roots = _roots(lightness, a, b)
    linear = _roots_to_linear(roots, from_xyz)
    outside = np.flatnonzero(_room(linear) < 0)
    if outside.size:
        linear.reshape(-1, 3)[outside] = _paler(roots.reshape(-1, 3)[outside], from_xyz)
    values = space.encode(np.clip(linear, 0, 1))
    values *= np.float32(np.iinfo(rgb.dtype).max)
    rgb[:] = np.rint(values, out=values)


def _room(linear: Float) -> Float:
    """How far linear RGB, (..., 3), is from the border of its space; below 0 it is outside."""
    low, high = linear.min(axis=-1), linear.max(axis=-1)
    return np.asarray(np.minimum(low - _LOWEST, _HIGHEST - high), np.float32)


def _paler(roots: Float, from_xyz: Float) -> Float:
    """(N, 3) of Lab's f of X, Y, Z -> linear RGB at the largest share of their chroma that fits."""
    grey = roots[:, 1:2]
    chroma = roots - grey

    def linear(shares: Float) -> Float:
        shown = np.asarray(grey + shares[:, None] * chroma, np.float32)
        return np.asarray(_roots_to_linear(shown[None], from_xyz)[0], np.float32)

    fits, fails = np.zeros(len(roots), np.float32), np.ones(len(roots), np.float32)
    room, lack = _room(linear(fits)), _room(linear(fails))
    for _ in range(8):  # bisection
        middle = np.asarray((fits + fails) / 2, np.float32)
        found = _room(linear(middle))
        good = found >= 0
        fits, room = np.where(good, middle, fits), np.where(good, found, room)
        fails, lack = np.where(good, fails, middle), np.where(good, lack, found)
    room = np.maximum(room, 0)
    fits = np.asarray(fits + (fails - fits) * room / (room - lack), np.float32)  # and one secant
    return linear(fits)


def luminance_to_lightness(luminance: Float) -> Float:
    """Y relative to the white, 0..1 -> L, 0..100."""
    return _cube_root(luminance) * np.float32(116) - np.float32(16)


_kept = threading.local()


def scratch(name: str | int, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """Lend this thread an array that it had under that name before, with whatever is in it.

    What is allocated anew for each band is given to the process page by page as it is written to,
    which takes several times as long as adding two numbers.
    """
    key, size = (name, np.dtype(dtype)), math.prod(shape)
    held = vars(_kept).setdefault("arrays", {})
    if key not in held or held[key].size < size:
        held[key] = np.empty(size, dtype)
    return np.asarray(held[key][:size].reshape(shape))


def bands(height: int, width: int, unit: int = 1) -> Iterator[slice]:
    """Split a picture's rows into bands, of whole units, that fit into the processor's cache."""
    step = max(1, _BAND_PIXELS // max(1, width) // unit) * unit
    return (slice(top, min(height, top + step)) for top in range(0, height, step))


def _roots(lightness: Float, a: Float, b: Float) -> Float:
    """Three arrays of one shape -> (..., 3): Lab's f of X, Y and Z."""
    y = (lightness + np.float32(16)) * np.float32(1 / 116)
    return np.stack([y + a * np.float32(1 / 500), y, y - b * np.float32(1 / 200)], axis=-1)


_XYZ_TO_SRGB = _WHITE_XYZ_TO_RGB.astype(np.float32)


def _roots_to_linear(roots: Float, from_xyz: Float = _XYZ_TO_SRGB) -> Float:
    """(H, W, 3) of Lab's f of X, Y and Z -> linear red, green and blue, not cut off."""
    linear = np.empty(roots.shape, np.float32)
    _to_linear(roots, linear, from_xyz)
    return linear


def _to_linear(roots: Float, linear: Float, from_xyz: Float = _XYZ_TO_SRGB) -> None:
    """Do the same, into `linear`."""
    flat = roots.reshape(len(roots), -1)
    xyz = scratch("xyz", flat.shape, np.float32)
    if cv2.minMaxLoc(flat)[0] >= _DELTA:
        cv2.pow(flat, 3, xyz)
    else:  # the cube down to delta, and from there on its tangent
        upper = scratch("upper", flat.shape, np.float32)
        cv2.max(flat, _DELTA, upper)  # type: ignore[call-overload]
        cv2.pow(upper, 3, xyz)
        cv2.scaleAdd(cv2.subtract(flat, upper, upper), 3 * _DELTA**2, xyz, xyz)
    cv2.transform(xyz.reshape(roots.shape), from_xyz, linear)


def into_gamut(lightness: Float, a: Float, b: Float) -> tuple[Float, Float, Float]:
    """(N,) each -> the same L and hue at the largest chroma that sRGB has there."""
    row = np.clip(lightness, 0, 100)
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    chroma, hue = cv2.cartToPolar(a, b, angleInDegrees=True)
    # OpenCV takes a table for a picture, whose sides are limited: many values go as several rows.
    width = min(len(row), 1 << 14)
    hues, rows = (np.resize(one, (-(-len(row) // width), width)) for one in (hue, row))
    limit = cv2.remap(_largest_chroma(), hues, rows, cv2.INTER_LINEAR).reshape(-1)[: len(row)]
    scale = np.minimum(1, limit / np.maximum(chroma.reshape(-1), np.float32(1e-6)))
    return row, a * scale, b * scale


@lru_cache(maxsize=1)
def _largest_chroma() -> Float:
    """(102, 362): the largest chroma inside sRGB, by whole L (rows) and whole degree of hue.

    Each axis has one entry more than it needs, for interpolation past its last whole value.
    """
    lightness = np.minimum(np.arange(102, dtype=np.float32), 100)[:, None].repeat(362, axis=1)
    angle = np.radians(np.arange(362, dtype=np.float32))
    cos, sin = np.cos(angle), np.sin(angle)
    inside, outside = np.zeros_like(lightness), np.full_like(lightness, 150)
    for _ in range(14):  # bisection: 150 / 2**14 < 0.01
        middle = ((inside + outside) / 2).astype(np.float32)
        linear = _roots_to_linear(_roots(lightness, middle * cos, middle * sin))
        fits = cv2.inRange(linear, (-1e-5,) * 3, (1 + 1e-5,) * 3) > 0
        inside, outside = np.where(fits, middle, inside), np.where(fits, outside, middle)
    return inside

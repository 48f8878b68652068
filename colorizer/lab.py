"""sRGB <-> CIE Lab (D65, 2 degrees), fast enough for whole photographs.

Everything that runs over a full-size picture goes through tables and bands of rows: a pixel of
8-bit sRGB has only 256 values a channel, and a band fits in the processor's cache. The formulas
are those of CIE 15:2004 and IEC 61966-2-1; scikit-image is the oracle in the tests.

Ranges: rgb uint8 0..255; L (lightness) float32 0..100; a and b float32, about -87..99 and
-108..95 inside sRGB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Levels = NDArray[Any]  # uint8 or uint16
Float = NDArray[np.float32]
F = TypeVar("F", np.float32, np.float64)

# Source: IEC 61966-2-1, linear sRGB -> XYZ, to the digits that scikit-image uses.
RGB_TO_XYZ = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
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
_SRGB = np.rint(255 * _linear_to_srgb(np.arange(_STEPS + 1) / _STEPS)).astype(np.uint8)


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
    if rgb.ndim == 2:
        return np.asarray(cv2.LUT(rgb, _GREY_LIGHTNESS), np.float32)
    lightness = np.empty(rgb.shape[:2], np.float32)
    red, green, blue = _LUMINANCE
    for rows in bands(*rgb.shape[:2]):
        band = cv2.split(rgb[rows])
        luminance = cv2.add(cv2.LUT(band[0], red), cv2.LUT(band[1], green))
        luminance = cv2.add(luminance, cv2.LUT(band[2], blue))
        lightness[rows] = cv2.LUT(luminance, _LIGHTNESS)
    return lightness


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


def band_to_rgb(lightness: Float, a: Float, b: Float, rgb: UInt8) -> None:
    """Convert one band of `bands` as `lab_to_rgb` does, all channels at once in few calls.

    OpenCV releases Python's lock only inside a call: many small ones would make threads wait for
    each other.

    Args:
        lightness: (h, W) float32, 0..100.
        a: (h, W) float32; overwritten.
        b: (h, W) float32; overwritten.
        rgb: (h, W, 3) uint8, to write to.
    """
    y = lightness * np.float32(1 / 116)
    y += np.float32(16 / 116)
    a *= np.float32(1 / 500)
    a += y
    b *= np.float32(-1 / 200)
    b += y
    roots = np.asarray(cv2.merge([a, y, b]), np.float32)  # Lab's f of X, Y and Z (CIE 15)
    linear = _roots_to_linear(roots)
    low, high, _, _ = cv2.minMaxLoc(linear.reshape(len(linear), -1))
    if low < -_SLACK or high > 1 + _SLACK:
        red, green, blue = cv2.split(linear)
        lowest = cv2.min(cv2.min(red, green), blue)
        highest = cv2.max(cv2.max(red, green), blue)
        outside = np.flatnonzero((lowest < -_SLACK) | (highest > 1 + _SLACK))
        x, y, z = roots.reshape(-1, 3)[outside].T
        inside = _roots(*into_gamut(116 * y - 16, 500 * (x - y), 200 * (y - z)))
        linear.reshape(-1, 3)[outside] = _roots_to_linear(inside[None])[0]
    # Rounds, and cuts off what is below 0 and above _STEPS.
    steps = cv2.addWeighted(linear, float(_STEPS), linear, 0, 0, dtype=cv2.CV_16U)
    cv2.LUT(steps, _SRGB, rgb)


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


def bands(height: int, width: int) -> Iterator[slice]:
    """Split a picture's rows into bands that fit into the processor's cache."""
    step = max(1, _BAND_PIXELS // max(1, width))
    return (slice(top, min(height, top + step)) for top in range(0, height, step))


def _roots(lightness: Float, a: Float, b: Float) -> Float:
    """Three arrays of one shape -> (..., 3): Lab's f of X, Y and Z."""
    y = (lightness + np.float32(16)) * np.float32(1 / 116)
    return np.stack([y + a * np.float32(1 / 500), y, y - b * np.float32(1 / 200)], axis=-1)


_XYZ_TO_SRGB = _WHITE_XYZ_TO_RGB.astype(np.float32)


def _roots_to_linear(roots: Float, from_xyz: Float = _XYZ_TO_SRGB) -> Float:
    """(H, W, 3) of Lab's f of X, Y and Z -> linear red, green and blue, not cut off."""
    delta = np.float32(_DELTA)
    if cv2.minMaxLoc(roots.reshape(len(roots), -1))[0] >= delta:
        xyz = roots * roots
        xyz *= roots
    else:  # the cube down to delta, and from there on its tangent
        upper = np.maximum(roots, delta)
        xyz = upper * upper
        xyz *= upper
        xyz += (roots - upper) * np.float32(3 * _DELTA**2)
    return np.asarray(cv2.transform(xyz, from_xyz), np.float32)


def into_gamut(lightness: Float, a: Float, b: Float) -> tuple[Float, Float, Float]:
    """(N,) each -> the same L and hue at the largest chroma that sRGB has there."""
    table = _largest_chroma()
    chroma = np.hypot(a, b)
    hue = np.degrees(np.arctan2(b, a)) % 360
    row = np.clip(lightness, 0, 100)
    top, left = row.astype(np.intp), hue.astype(np.intp)
    down, right = row - top, hue - left
    limit = (1 - down) * ((1 - right) * table[top, left] + right * table[top, left + 1]) + down * (
        (1 - right) * table[top + 1, left] + right * table[top + 1, left + 1]
    )
    scale = np.minimum(1, limit / np.maximum(chroma, 1e-6)).astype(np.float32)
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
        fits = (linear.min(axis=-1) >= -1e-5) & (linear.max(axis=-1) <= 1 + 1e-5)
        inside, outside = np.where(fits, middle, inside), np.where(fits, outside, middle)
    return inside

"""ICC profiles: those of our results are built here, and L is read through those of others.

Ours are version 4, of a matrix and a curve, a few hundred bytes each; Pillow can build only the
one of sRGB, dated, so that no two are alike. Source: ICC.1:2022 (ISO 15076-1).
"""

from __future__ import annotations

import io
import itertools
import struct
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from colorizer import lab
from colorizer.options import Profile

Float = NDArray[np.float32]
UInt16 = NDArray[np.uint16]

# No profile, or one for other channels; the picture is still worth colouring.
BAD_PROFILE = (ImageCms.PyCMSError, OSError, TypeError, ValueError)

_D50 = np.array([0.9642, 1.0, 0.8249])
_BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)
_D65_TO_D50 = np.linalg.solve(
    _BRADFORD, np.diag((_BRADFORD @ _D50) / (_BRADFORD @ lab.WHITE)) @ _BRADFORD
)
# The curve of sRGB: g, a, b, c, d of ((a x + b)^g where x >= d, else c x).
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


@lru_cache
def build(profile: Profile) -> bytes:
    """Build the profile of one of lab.SPACES; always of the same bytes."""
    space = lab.SPACES[profile]
    columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in space.primaries]).T
    colorants = _D65_TO_D50 @ (columns * np.linalg.solve(columns, lab.WHITE))
    curve = _curve((space.gamma,), 0) if space.gamma else _curve(_SRGB_CURVE, 3)
    tags = {
        b"desc": _text(space.title),
        b"cprt": _text("No copyright, use freely"),
        b"wtpt": _xyz(_D50),
        b"chad": b"sf32" + bytes(4) + _fixed(_D65_TO_D50.ravel()),
        **{name: _xyz(colorants[:, n]) for n, name in enumerate((b"rXYZ", b"gXYZ", b"bXYZ"))},
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    return _assembled(b"RGB ", tags)


def _grey(curve: bytes) -> bytes:
    """A profile of grey with the curve of a tag."""
    tags = {b"desc": _text("grey"), b"cprt": _text("-"), b"wtpt": _xyz(_D50), b"kTRC": curve}
    return _assembled(b"GRAY", tags)


def _assembled(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    places: dict[bytes, int] = {}  # tags of the same content share it
    start = 128 + 4 + 12 * len(tags)
    table, body = struct.pack(">I", len(tags)), b""
    for name, content in tags.items():
        if content not in places:
            places[content] = start + len(body)
            body += content + bytes(-len(content) % 4)
        table += name + struct.pack(">II", places[content], len(content))
    head = struct.pack(">I4sI", start + len(body), bytes(4), 0x04400000) + b"mntr" + space + b"XYZ "
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + _fixed(_D50)
    return head.ljust(128, b"\0") + table + body


def _fixed(values: Sequence[float] | NDArray[np.float64]) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(float(value) * 65536) for value in values))


def _xyz(values: NDArray[np.float64]) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(values)


def _curve(numbers: Sequence[float], kind: int) -> bytes:
    return b"para" + bytes(4) + struct.pack(">HH", kind, 0) + _fixed(numbers)


def _text(words: str) -> bytes:
    told = words.encode("utf-16-be")
    return b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", len(told), 28) + told


def lightness(levels: UInt16, profile: bytes | None) -> Float:
    """Take L of samples of 16 bits, through the profile that they are in.

    Exactly by a profile of matrix and curves; by one of tables (scanners, presses), interpolated
    between some 100,000 of its colours. Without a profile, or with one that is broken or of other
    channels, samples are sRGB, or inks on white paper.

    Args:
        levels: (H, W, C) uint16; C is 1 (grey), 3 (RGB) or 4 (CMYK, 0 is paper).
        profile: of `levels`.

    Returns:
        (H, W) float32, 0..100, for D65.
    """
    channels = levels.shape[2]
    tables = _tables(profile, channels)
    if tables is None and channels == 4:
        paper = (65535 - levels).astype(np.uint32)
        levels = ((paper[..., :3] * paper[..., 3:] + 32767) // 65535).astype(np.uint16)
    if tables is None:
        tables = _tables(None, min(channels, 3))
    assert tables is not None
    if tables.ndim > 2:
        return _interpolated(levels, tables)
    luminance = tables[0][levels[..., 0]]
    for channel in range(1, len(tables)):
        luminance += tables[channel][levels[..., channel]]
    return lab.luminance_to_lightness(luminance)


@lru_cache(maxsize=8)
def _tables(profile: bytes | None, channels: int) -> Float | None:
    """(C, 65536): each channel's share of Y; or (n, n, ...), the L of n levels of each channel.

    Returns:
        None where the profile is of no use; without a profile, where there is no standard.
    """
    if profile is None:
        weights = {1: np.ones(1), 3: lab.RGB_TO_XYZ[1]}.get(channels)
        return None if weights is None else _shares(weights, [np.arange(65536)] * channels)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if source.profile.xcolor_space.strip() != {1: "GRAY", 3: "RGB", 4: "CMYK"}[channels]:
            return None
        tags = _tags(profile)
        if channels == 1:
            return _shares(np.ones(1), [_through(source)])
        if channels == 3 and b"rXYZ" in tags and not {b"A2B0", b"A2B1", b"D2B1"} & set(tags):
            curves = [_through(_opened(_grey(tags[name]))) for name in (b"rTRC", b"gTRC", b"bTRC")]
            return _shares(_weights(tags), curves)
        return _grid(source, channels)
    except (*BAD_PROFILE, KeyError, struct.error, np.linalg.LinAlgError):
        return None


def _shares(weights: NDArray[np.float64], curves: Sequence[NDArray[Any]]) -> Float:
    """Weights of Y, and the sRGB level of each of 65,536 values -> `_tables`."""
    linear = [
        weight * lab.srgb_to_linear(curve / 65535)
        for weight, curve in zip(weights, curves, strict=True)
    ]
    return np.array(linear, np.float32)


def _weights(tags: Mapping[bytes, bytes]) -> NDArray[np.float64]:
    """Each primary's share of Y for D65, by a profile's colorants, which are for D50."""

    def numbers(name: bytes) -> NDArray[np.float64]:
        return np.frombuffer(tags[name][8:], ">i4").astype(np.float64) / 65536

    to_d50 = numbers(b"chad").reshape(3, 3) if b"chad" in tags else _D65_TO_D50
    colorants = np.array([numbers(name)[:3] for name in (b"rXYZ", b"gXYZ", b"bXYZ")]).T
    found = np.linalg.solve(to_d50, colorants)[1]
    for space in lab.SPACES.values():  # their profiles are rounded, and not all alike
        if np.abs(found - space.to_xyz[1]).max() < 0.0005:
            return np.asarray(space.to_xyz[1])
    return np.asarray(found / found.sum())


def _tags(profile: bytes) -> dict[bytes, bytes]:
    (count,) = struct.unpack_from(">I", profile, 128)
    entries = struct.iter_unpack(">4sII", profile[132 : 132 + 12 * min(count, 100)])
    return {name: profile[at : at + size] for name, at, size in entries}


def _opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(io.BytesIO(profile))


def _through(source: ImageCms.ImageCmsProfile) -> UInt16:
    """The sRGB level of each of the 65,536 levels of a grey profile."""
    ramp = Image.fromarray(np.arange(65536, dtype=np.uint16).reshape(256, 256))
    return _to_grey(source, ramp).ravel()


def _to_grey(source: ImageCms.ImageCmsProfile, im: Image.Image) -> UInt16:
    """Bring a picture to 16 bits of grey with the curve of sRGB."""
    target = _opened(_grey(_curve(_SRGB_CURVE, 3)))
    flags = ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOOPTIMIZE
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC  # both as in `colours`
    transform = ImageCms.buildTransform(source, target, im.mode, "I;16", intent, flags)
    return np.asarray(transform.apply(im))


def _grid(source: ImageCms.ImageCmsProfile, channels: int) -> Float:
    """L of the colours at a grid of levels, by a profile of tables."""
    side, step = {3: (52, 5), 4: (18, 15)}[channels]
    axes = np.meshgrid(*[np.arange(0, 256, step, dtype=np.uint8)] * channels, indexing="ij")
    nodes = np.stack(axes, axis=-1).reshape(side, -1, channels)
    im = Image.frombytes("RGB" if channels == 3 else "CMYK", nodes.shape[1::-1], nodes.tobytes())
    linear = lab.srgb_to_linear(_to_grey(source, im) / 65535).astype(np.float32)
    return lab.luminance_to_lightness(linear).reshape((side,) * channels)


def _interpolated(levels: UInt16, grid: Float) -> Float:
    """Interpolate linearly, between the corners of the cell that a colour is in."""
    place = levels * np.float32((len(grid) - 1) / 65535)
    low = np.minimum(place.astype(np.intp), len(grid) - 2)
    place -= low
    found = np.zeros(levels.shape[:2], np.float32)
    for corner in itertools.product((0, 1), repeat=grid.ndim):
        shares = [place[..., n] if up else 1 - place[..., n] for n, up in enumerate(corner)]
        found += np.prod(shares, axis=0) * grid[tuple(np.moveaxis(low + corner, -1, 0))]
    return found

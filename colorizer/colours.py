"""Decoded samples of any depth, and any mode of Pillow's -> 8-bit sRGB, or L at full depth."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from colorizer import icc, tiff
from colorizer.samples import Samples

UInt8 = NDArray[np.uint8]
_BAND = 2**20  # pixels of wide samples that are worked on at once

# Colour, or L; alpha; and the profile that is still to apply.
_Parts = tuple[Image.Image | NDArray[np.float32], Image.Image | None, bytes | None]
_Narrow = tuple[Image.Image, Image.Image | None, bytes | None]


def parts(
    picture: Image.Image | Samples,
    profile: bytes | None,
    to_lightness: bool,
    page: tiff.Page | None = None,
) -> _Parts:
    """Separate a decoded picture into colours of 8 bits, or L at full depth, and alpha.

    Args:
        picture: as Pillow or `samples` decoded it.
        profile: of its colours.
        to_lightness: whether to take L.
        page: of a TIFF, that a wide picture of Pillow's is.
    """
    if isinstance(picture, Samples):
        if to_lightness:
            return lightness(picture, profile), alpha_of(picture), None
        return of_samples(picture, profile)
    narrow, alpha, left = eight_bits(picture, profile, page)
    if not to_lightness:
        return narrow, alpha, left
    return lightness(picture if is_wide(picture) else narrow, profile, page), alpha, None


def eight_bits(im: Image.Image, profile: bytes | None, page: tiff.Page | None = None) -> _Narrow:
    """Convert any of Pillow's modes to 8 bits, and apply the profile of a wide grey picture."""
    if not is_wide(im):
        return *_split_alpha(im), profile
    curve = _grey_curve(profile, 2**16) if profile else None
    see_through = im.info.get("transparency")  # PNG: the one value that is transparent
    grey = np.empty((im.height, im.width), np.uint8)
    mask = None if see_through is None else np.empty_like(grey)
    for rows, values, full, inverted in _wide_rows(im, page):
        grey[rows] = _narrow(values, full, inverted, curve)
        if mask is not None:
            mask[rows] = np.where(values == see_through, 0, 255)
    return Image.fromarray(grey), None if mask is None else Image.fromarray(mask), None


def is_wide(im: Image.Image) -> bool:
    """Whether Pillow holds more than 8 bits: I;16 and its kin, I (32 bits), F; all are grey."""
    return im.mode[0] in "IF"


def _wide_rows(
    im: Image.Image, page: tiff.Page | None = None
) -> Iterator[tuple[slice, NDArray[Any], float, bool]]:
    """Some rows after the other of wide grey, the value of white, and whether 0 is white."""
    bits, signed, inverted = 16, False, False  # PNG, and JPEG 2000 as Pillow scales it
    if page is not None:
        bits = page.main.number(258, 16)
        signed = page.main.number(339, 1) == 2
        # Pillow turns such pictures itself at 8 bits, not at 16
        inverted = page.main.number(262, 0) == 0
    full = 1.0 if im.mode == "F" else 2.0 ** (bits - signed) - 1
    unsigned = im.mode == "I" and bits == 32 and not signed
    step = max(1, _BAND // im.width)
    for top in range(0, im.height, step):  # Pillow copies what it gives away, twice
        rows = slice(top, min(top + step, im.height))
        values = np.asarray(im.crop((0, rows.start, im.width, rows.stop)))
        values = values.view(np.uint32) if unsigned else values  # mode I holds the same bits
        yield rows, values, full, inverted


def lightness(
    picture: Image.Image | Samples, profile: bytes | None, page: tiff.Page | None = None
) -> NDArray[np.float32]:
    """Take L at full depth, through the profile, clipped to no space in between.

    Args:
        picture: L, RGB or CMYK of 8 bits, wide grey, or samples of any depth.
        profile: to apply.
        page: of a TIFF, that a wide picture of Pillow's is.

    Returns:
        (H, W) float32, 0..100.
    """
    blocks: Iterator[tuple[slice, NDArray[Any], float, bool]]
    if isinstance(picture, Image.Image):
        width, height = picture.size
        blocks = _wide_rows(picture, page) if is_wide(picture) else _rows(np.asarray(picture))
    else:
        height, width = picture.values.shape[:2]
        blocks = _rows(picture.values, picture.full, picture.white_is_zero)
    found = np.empty((height, width), np.float32)
    for rows, values, full, inverted in blocks:
        levels = _scaled(values, full, 65_535, inverted).astype(np.uint16)
        if not isinstance(picture, Image.Image) and picture.premultiplied:
            levels = _divided(levels, picture, rows)
        found[rows] = icc.lightness(levels.reshape(*levels.shape[:2], -1), profile)
    return found


def _rows(
    values: NDArray[Any], full: float = 255, inverted: bool = False
) -> Iterator[tuple[slice, NDArray[Any], float, bool]]:
    step = max(1, _BAND // values.shape[1])
    for top in range(0, len(values), step):
        rows = slice(top, min(top + step, len(values)))
        yield rows, values[rows], full, inverted


def _divided(levels: NDArray[np.uint16], samples: Samples, rows: slice) -> NDArray[np.uint16]:
    """Undo the multiplication of colours by alpha."""
    assert samples.alpha is not None
    alpha = _scaled(samples.alpha[rows], samples.full, 65_535)[..., None]
    return np.asarray(np.minimum(levels * (65_535 / np.maximum(alpha, 1)), 65_535), np.uint16)


def of_samples(samples: Samples, profile: bytes | None) -> _Narrow:
    """The same for samples that Pillow couldn't decode."""
    height, width, channels = samples.values.shape
    curve = _grey_curve(profile, 2**16) if profile and channels == 1 else None
    planes = np.empty((height, width, channels), np.uint8)
    for rows, values, full, inverted in _rows(samples.values, samples.full, samples.white_is_zero):
        planes[rows] = _narrow(values, full, inverted, curve)
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[channels]
    im = Image.frombuffer(mode, (width, height), planes, "raw", mode, 0, 1)
    mask = alpha_of(samples)
    if mask is not None and samples.premultiplied and channels < 4:
        im.putalpha(mask)
        bands = Image.merge("La" if channels == 1 else "RGBa", im.split())
        im = bands.convert("LA" if channels == 1 else "RGBA").convert(mode)
    return im, mask, None if channels == 1 else profile


def alpha_of(samples: Samples) -> Image.Image | None:
    """Convert alpha to 8 bits."""
    if samples.alpha is None:
        return None
    alpha = np.empty(samples.alpha.shape, np.uint8)
    for rows, values, full, _ in _rows(samples.alpha, samples.full):
        alpha[rows] = _narrow(values, full)
    return Image.fromarray(alpha)


def _narrow(
    values: NDArray[Any], full: float, inverted: bool = False, curve: UInt8 | None = None
) -> UInt8:
    """Scale samples of any type to 8 bits: the one place where depth is lost.

    Args:
        values: from 0 to `full`; what is outside is clipped.
        full: the value of white.
        inverted: whether 0 is white.
        curve: 65,536 sRGB levels to look the values up in; None for a straight line.
    """
    if values.dtype == np.uint8 and full == 255 and curve is None:
        return np.asarray(255 - values if inverted else values, np.uint8)
    levels = _scaled(values, full, 255 if curve is None else 65_535, inverted)
    return np.asarray(levels.astype(np.uint8) if curve is None else curve[levels.astype(np.uint16)])


def _scaled(
    values: NDArray[Any], full: float, top: int, inverted: bool = False
) -> NDArray[np.float32]:
    """Scale samples to whole numbers from 0 to `top`."""
    scaled = np.fmax(values.astype(np.float32), 0)  # NaN becomes 0
    np.minimum(scaled, full, out=scaled)
    scaled *= top / full
    return np.asarray(np.rint(top - scaled if inverted else scaled), np.float32)


def _grey_curve(profile: bytes, levels: int) -> UInt8 | None:
    """What a grey profile makes of each of 256 or 65,536 levels; None if it is none, or broken."""
    kind, mode = (np.uint8, "L") if levels == 256 else (np.uint16, "I;16")
    ramp = Image.fromarray(np.arange(levels, dtype=kind).reshape(-1, 256))
    assert ramp.mode == mode
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        # Optimized, dark tones of a linear profile would be up to 10 levels off.
        found = _transform(ramp, source, ImageCms.Flags.NOOPTIMIZE)
        return np.asarray(found.getchannel("G")).reshape(-1)
    except icc.BAD_PROFILE:
        return None


def _split_alpha(im: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Any mode of 8 bits or fewer -> L, RGB or CMYK; and alpha, or None."""
    grey = im.mode in ("1", "L", "LA", "La")
    alpha = None
    if im.has_transparency_data:
        im = im.convert("LA" if grey else "RGBA")
        alpha = im.getchannel("A")
    if im.mode not in ("L", "RGB", "CMYK"):  # P, YCbCr, LAB (which Pillow takes as D50), ...
        im = im.convert("L" if grey else "RGB")
    return im, alpha


def to_srgb(im: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB or CMYK -> L or RGB in sRGB; a profile that is broken or misplaced is ignored."""
    if profile and im.mode == "L":
        curve = _grey_curve(profile, 256)
        return im if curve is None else im.point(curve.tolist())
    if profile:
        with contextlib.suppress(*icc.BAD_PROFILE):
            return _transform(im, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
    return im if im.mode in ("L", "RGB") else im.convert("RGB")


def _transform(
    im: Image.Image, source: ImageCms.ImageCmsProfile, more: ImageCms.Flags = ImageCms.Flags.NONE
) -> Image.Image:
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        im.mode,
        "RGB",
        # as browsers and Photoshop do: CMYK's paper becomes white and its ink black
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION | more,
    )
    return transform.apply(im)

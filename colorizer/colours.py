"""Decoded samples of any depth, and any mode of Pillow's -> 8-bit sRGB."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from colorizer import tiff
from colorizer.samples import Samples

UInt8 = NDArray[np.uint8]
_BAND = 2**20  # pixels of wide grey that are narrowed at once

_Parts = tuple[Image.Image, Image.Image | None, bytes | None]  # colour, alpha, profile to apply


def eight_bits(im: Image.Image, profile: bytes | None, page: tiff.Page | None = None) -> _Parts:
    """Bring any mode of Pillow's to 8 bits; a wide grey picture's profile is applied on the way."""
    if im.mode[0] not in "IF":  # I;16 and its kin, I (32 bits), F: grey wider than 8 bits
        return *_split_alpha(im), profile
    bits, signed, inverted = 16, False, False  # PNG, and JPEG 2000 as Pillow scales it
    if page is not None:
        bits = page.main.number(258, 16)
        signed = page.main.number(339, 1) == 2
        # Pillow turns such pictures itself at 8 bits, not at 16
        inverted = page.main.number(262, 0) == 0
    full = 1.0 if im.mode == "F" else 2.0 ** (bits - signed) - 1
    unsigned = im.mode == "I" and bits == 32 and not signed
    curve = _grey_curve(profile, 2**16) if profile else None
    see_through = im.info.get("transparency")  # PNG: the one value that is transparent
    grey = np.empty((im.height, im.width), np.uint8)
    mask = None if see_through is None else np.empty_like(grey)
    step = max(1, _BAND // im.width)
    for top in range(0, im.height, step):  # Pillow copies what it gives away, twice
        rows = slice(top, min(top + step, im.height))
        values = np.asarray(im.crop((0, rows.start, im.width, rows.stop)))
        values = values.view(np.uint32) if unsigned else values  # mode I holds the same bits
        grey[rows] = _narrow(values, full, inverted, curve)
        if mask is not None:
            mask[rows] = np.where(values == see_through, 0, 255)
    return Image.fromarray(grey), None if mask is None else Image.fromarray(mask), None


def of_samples(samples: Samples, profile: bytes | None) -> _Parts:
    """The same for samples that Pillow couldn't decode."""
    height, width, channels = samples.values.shape
    curve = _grey_curve(profile, 2**16) if profile and channels == 1 else None
    planes = np.empty((height, width, channels), np.uint8)
    alpha = None if samples.alpha is None else np.empty((height, width), np.uint8)
    step = max(1, _BAND // width)
    for top in range(0, height, step):
        rows = slice(top, top + step)
        planes[rows] = _narrow(samples.values[rows], samples.full, samples.white_is_zero, curve)
        if alpha is not None and samples.alpha is not None:
            alpha[rows] = _narrow(samples.alpha[rows], samples.full)
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[channels]
    im = Image.frombuffer(mode, (width, height), planes, "raw", mode, 0, 1)
    mask = None if alpha is None else Image.fromarray(alpha)
    if mask is not None and samples.premultiplied and channels < 4:
        im.putalpha(mask)
        bands = Image.merge("La" if channels == 1 else "RGBa", im.split())
        im = bands.convert("LA" if channels == 1 else "RGBA").convert(mode)
    return im, mask, None if channels == 1 else profile


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
    top = 255 if curve is None else 65_535
    scaled = np.fmax(values.astype(np.float32), 0)  # NaN becomes 0
    np.minimum(scaled, full, out=scaled)
    scaled *= top / full
    levels = np.rint(top - scaled if inverted else scaled)
    return np.asarray(levels.astype(np.uint8) if curve is None else curve[levels.astype(np.uint16)])


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
    except _BAD_PROFILE:
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


# No profile, or one for other channels; the picture is still worth colouring.
_BAD_PROFILE = (ImageCms.PyCMSError, OSError, TypeError, ValueError)


def to_srgb(im: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB or CMYK -> L or RGB in sRGB; a profile that is broken or misplaced is ignored."""
    if profile and im.mode == "L":
        curve = _grey_curve(profile, 256)
        return im if curve is None else im.point(curve.tolist())
    if profile:
        with contextlib.suppress(*_BAD_PROFILE):
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

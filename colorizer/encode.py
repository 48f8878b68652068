"""RGB -> bytes: a finished picture as a file.

JPEG from planes is in `jpeg`; TIFF as archives expect it, and PNG of 16 bits, which Pillow can't
write, are here.

Source: TIFF 6.0 (1992), its Technical Note 2 (deflate); PNG (third edition, 2025).
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from colorizer import icc, jpeg
from colorizer import tiff as tags
from colorizer.errors import BadOption
from colorizer.lab import Levels
from colorizer.metadata import NONE, Metadata
from colorizer.options import Format, Options
from colorizer.tiff import Tag

UInt8 = NDArray[np.uint8]
CONTENT_TYPES = {format: f"image/{format}" for format in get_args(Format)}
# libjpeg stops at 65500 though the file format could say 65535; WebP has 14 bits for a side.
_MAX_SIDE = {"jpeg": 65_500, "png": 2**31 - 1, "webp": 16_383, "tiff": 2**31 - 1}
_MAX_TIFF_PIXELS = 2**32 // 8 - 2**20  # of 8 bytes; 32 bits hold each place in a TIFF

_STRIP_BYTES = 2**18
_LEVEL = 1  # of zlib: 6, the default, takes 2.4 times the time for 14% fewer bytes


def check_format(options: Options, height: int, width: int) -> None:
    """Check that the format can hold a picture of this depth and size.

    Raises:
        BadOption: if it can't.
    """
    format = options.format
    if options.bits != "8" and format not in ("png", "tiff"):
        raise BadOption(
            f"bits is {options.bits!r}, and {format} holds 8 bits; use format=tiff or png."
        )
    longest, most = max(height, width), _MAX_SIDE[format]
    if longest > most:
        fits = [name for name, side in _MAX_SIDE.items() if longest <= side]
        raise BadOption(
            f"format is {format!r}, which holds at most {most} pixels a side, and the picture has "
            f"{longest}; use {' or '.join(fits)}."
        )
    if format == "tiff" and height * width >= _MAX_TIFF_PIXELS:
        raise BadOption("format is 'tiff', which holds 4 GB at most; use png.")


def write(
    picture: Levels | jpeg.Planes,
    options: Options,
    alpha: UInt8 | None = None,
    metadata: Metadata = NONE,
) -> bytes:
    """Encode a picture, with no other metadata than is given.

    JPEG and WebP without a colour profile mean sRGB; PNG says so in its sRGB chunk. A TIFF always
    has a profile, and the others where they aren't in sRGB.

    Args:
        picture: (H, W, 3) uint8, or for PNG and TIFF uint16, in the space of `options.profile`;
            planes if `as_planes` says so.
        options: format, quality and colour space.
        alpha: (H, W) uint8, kept by all but JPEG, which gets white behind the picture.
        metadata: to write into the file, as far as the format can hold it.

    Raises:
        BadOption: a side is longer than the format can hold.
    """
    metadata = metadata.in_space(options.profile)
    if isinstance(picture, jpeg.Planes):
        check_format(options, *picture.luma.shape)
        return jpeg.encode(picture, options.quality, metadata.save_options("jpeg"))
    rgb = picture
    check_format(options, *rgb.shape[:2])
    profile = icc.build(options.profile)
    if options.format == "tiff":
        return _tiff(rgb, alpha, profile, metadata, options.compression == "deflate")
    if options.profile == "srgb":
        profile = b""
    if rgb.dtype == np.uint16:
        return _png(rgb, alpha, profile, metadata)
    return _write_by_pillow(rgb, options, alpha, profile, metadata)


def _write_by_pillow(
    rgb: UInt8, options: Options, alpha: UInt8 | None, profile: bytes, metadata: Metadata
) -> bytes:
    im, more = Image.fromarray(rgb), metadata.save_options(options.format)
    mask = None if alpha is None else Image.fromarray(alpha)
    if profile:
        more["icc_profile"] = profile
    if options.format == "jpeg" and mask is not None:
        on_white = Image.new("RGB", im.size, "white")
        on_white.paste(im, mask=mask)
        im = on_white
    elif mask is not None:
        im.putalpha(mask)
    if options.format == "jpeg":
        # Colours at half the size save 10% of the bytes, and are as near to the true ones. An
        # optimized Huffman table would save 2% for three times the time.
        more |= {"quality": options.quality, "subsampling": 2, "optimize": False}
    elif options.format == "png":
        chunks = PngImagePlugin.PngInfo()
        if not profile:
            chunks.add(b"sRGB", b"\0")  # rendering intent: perceptual
        for kind, text in metadata.png_texts():
            chunks.add(kind, text)
        more |= {"compress_level": _LEVEL, "pnginfo": chunks}
    else:
        # Method 2 is as small as the default 4 in less than half the time.
        more |= {"quality": options.quality, "method": 2}
    file = io.BytesIO()
    im.save(file, options.format, **more)
    return file.getvalue()


def as_planes(options: Options, alpha: UInt8 | None) -> bool:
    """Whether `write` takes the planes of a JPEG: there, nothing is left to do in RGB."""
    return options.format == "jpeg" and options.profile == "srgb" and alpha is None


def _tiff(
    rgb: Levels, alpha: UInt8 | None, profile: bytes, metadata: Metadata, deflate: bool
) -> bytes:
    """Encode a baseline TIFF of one page, upright, in strips, with its colour profile.

    Args:
        rgb: (H, W, 3) uint8 or uint16.
        alpha: (H, W) uint8, stored as an unassociated extra sample.
        profile: of the colours.
        metadata: EXIF, XMP, IPTC, resolution.
        deflate: whether to compress, with differences between neighbours; else not.
    """
    height, width = rgb.shape[:2]
    channels, size = 3 if alpha is None else 4, rgb.dtype.itemsize
    order, tables = metadata.directories()
    step = max(1, _STRIP_BYTES // (width * channels * size))
    strips = []
    for top in range(0, height, step):
        rows = _with_alpha(rgb[top : top + step], None if alpha is None else alpha[top:][:step])
        if deflate:
            rows = np.concatenate([rows[:, :1], np.diff(rows, axis=1)], axis=1)
        raw = rows.astype(f"{order}u{size}").tobytes()
        strips.append(zlib.compress(raw, _LEVEL) if deflate else raw)
    across, down = metadata.dpi or (1.0, 1.0)
    root = tables.setdefault(0, {})
    for table in tables.values():  # TIFF doesn't know EXIF 3.0's UTF-8, and readers take it as text
        table |= {n: tag._replace(kind=2) for n, tag in table.items() if tag.kind == tags.UTF8}
    long = {tags.WIDTH: width, tags.LENGTH: height, tags.ROWS_PER_STRIP: step}
    short = {
        tags.BITS: [8 * size] * channels,
        tags.COMPRESSION: [8 if deflate else 1],
        tags.PHOTOMETRIC: [2],
        tags.ORIENTATION: [1],
        tags.SAMPLES: [channels],
        tags.PLANAR: [1],
        tags.RESOLUTION_UNIT: [2 if metadata.dpi else 1],  # inch, or none
        tags.SAMPLE_FORMAT: [1] * channels,
        **({tags.PREDICTOR: [2]} if deflate else {}),
        **({} if alpha is None else {tags.EXTRA_SAMPLES: [2]}),
    }
    root |= {number: _numbers(order, [value]) for number, value in long.items()}
    root |= {number: _numbers(order, values, "H") for number, values in short.items()}
    for number, value in ((282, across), (283, down)):
        root[number] = Tag(5, 1, struct.pack(order + "II", round(value * 10_000), 10_000))
    for number, kind, body in (
        *((700, 1, metadata.xmp), (33723, 7, metadata.iptc)),
        (tags.ICC, 7, profile),
    ):
        if body:
            root[number] = Tag(kind, len(body), body)
    lengths = [len(strip) for strip in strips]
    root[279] = _numbers(order, lengths)
    root[273] = root[279]  # of the same size as the places of strips, which follow the directory
    start = len(tags.laid_out(tables, order))
    root[273] = _numbers(order, [start, *(start + np.cumsum(lengths[:-1])).tolist()])
    return b"".join([tags.laid_out(tables, order), *strips])


def _numbers(order: str, values: list[int], kind: str = "I") -> Tag:
    code = {"H": 3, "I": 4}[kind]
    return Tag(code, len(values), struct.pack(f"{order}{len(values)}{kind}", *values))


def _with_alpha(rgb: Levels, alpha: UInt8 | None) -> NDArray[Any]:
    if alpha is None:
        return rgb
    return np.dstack([rgb, alpha * np.asarray(257 if rgb.dtype == np.uint16 else 1, rgb.dtype)])


def _png(rgb: NDArray[np.uint16], alpha: UInt8 | None, profile: bytes, metadata: Metadata) -> bytes:
    """Encode a PNG of 16 bits.

    Args:
        rgb: (H, W, 3) uint16.
        alpha: (H, W) uint8.
        profile: of the colours; empty for sRGB.
        metadata: EXIF, XMP, IPTC, resolution.
    """
    height, width = rgb.shape[:2]
    channels = 3 if alpha is None else 4
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if alpha is None else 6, 0, 0, 0)
    chunks = _chunk(b"sRGB", b"\0")
    if profile:
        chunks = _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(profile))
    if metadata.dpi:
        metre = [round(value / 0.0254) for value in metadata.dpi]
        chunks += _chunk(b"pHYs", struct.pack(">IIB", *metre, 1))
    if metadata.exif:
        chunks += _chunk(b"eXIf", metadata.exif)
    chunks += b"".join(_chunk(kind, text) for kind, text in metadata.png_texts())
    packer = zlib.compressobj(_LEVEL)
    packed = []
    step = max(1, _STRIP_BYTES // (width * channels * 2))
    for top in range(0, height, step):
        rows = _with_alpha(rgb[top : top + step], None if alpha is None else alpha[top:][:step])
        raw = rows.astype(">u2").view(np.uint8).reshape(len(rows), -1)
        lines = np.ones((len(raw), raw.shape[1] + 1), np.uint8)  # each begins with filter 1:
        lines[:, 1:] = raw
        lines[:, 1 + 2 * channels :] -= raw[:, : -2 * channels]  # less the pixel before
        packed.append(packer.compress(lines.tobytes()))
    packed.append(packer.flush())
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + chunks,
            *(_chunk(b"IDAT", part) for part in packed if part),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

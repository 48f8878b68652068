"""Files that Pillow can't write: TIFF as archives expect it, and PNG of 16 bits.

Source: TIFF 6.0 (1992), its Technical Note 2 (deflate); PNG (third edition, 2025).
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colorizer import tiff as tags
from colorizer.lab import Levels
from colorizer.metadata import Metadata
from colorizer.tiff import Tag

UInt8 = NDArray[np.uint8]
_STRIP_BYTES = 2**18
_LEVEL = 1  # of zlib, as for other PNGs: see image.write


def tiff(
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


def png(rgb: NDArray[np.uint16], alpha: UInt8 | None, profile: bytes, metadata: Metadata) -> bytes:
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

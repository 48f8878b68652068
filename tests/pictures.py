"""Picture files of every kind that strangers send, honest and hostile, all made here."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import ExifTags, Image, ImageCms
from skimage import data

ASTRONAUT = data.astronaut()[60:124, 180:276]  # (64, 96, 3): a face, so no flat areas
GREY = np.asarray(Image.fromarray(ASTRONAUT).convert("L"))  # (64, 96)
ALPHA = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))  # (64, 96)
RGBA = np.dstack([ASTRONAUT, ALPHA])
EDGES = np.zeros((32, 48, 3), np.uint8)  # six flat 16 x 16 blocks: what is where shows
EDGES[:16, :16], EDGES[:16, 16:32], EDGES[:16, 32:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
EDGES[16:, :16], EDGES[16:, 16:32], EDGES[16:, 32:] = (255, 255, 0), (0, 0, 0), (255, 255, 255)
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

WIDE = np.array([[0, 128, 129, 1000, 32768, 65407, 65535]], np.uint16)
WIDE_AS_8_BITS = [0, 0, 1, 4, 128, 255, 255]  # value / 257, rounded


def file_of(picture: Any, format: str, mode: str | None = None, **options: Any) -> bytes:
    """Save an array or a Pillow image."""
    im = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    (im.convert(mode) if mode else im).save(file, format, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", body)


def with_right_checksums(png: bytes | bytearray) -> bytes:
    """Mend what a mutation broke, so that the parsers behind the checksum get to see it."""
    mended, at = bytes(png[:8]), 8
    while at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        mended += png[at:end] + struct.pack(">I", zlib.crc32(png[at + 4 : end]))
        at = end + 4
    return mended


def after_png_header(png: bytes, *chunks: bytes) -> bytes:
    return png[:33] + b"".join(chunks) + png[33:]


def tiff_of(
    values: bytes, width: int, bits: int, order: str = "<", more: dict[int, int] | None = None
) -> bytes:
    """A one-row, one-strip, uncompressed grey TIFF, tag by tag; `more` makes others of it."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1}
    tags |= {279: len(values)} | (more or {})
    entries = b"".join(
        struct.pack(order + "HHI", tag, 4, 1) + struct.pack(order + "I", value)
        for tag, value in sorted(tags.items())
    )
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(values))
    return start + values + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def tiff(values: Any, **options: Any) -> bytes:
    """A TIFF of any layout."""
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def icc(
    space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", pcs: bytes = b"XYZ "
) -> bytes:
    """An ICC 2.1 profile of the given tags."""
    table, bodies, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        body += bytes(-len(body) % 4)
        table += name + struct.pack(">II", at + len(bodies), len(body))
        bodies += body
    d50 = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4sI", at + len(bodies), b"lcms", 0x02100000) + kind + space + pcs
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + d50
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + bodies


def linear_grey_profile() -> bytes:
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    return icc(b"GRAY", {b"wtpt": white, b"kTRC": b"curv" + bytes(8)})  # no entries: linear


def cmyk_profile_whose_cyan_is_red() -> bytes:
    """Paper is white, full black is black, and full cyan is sRGB's red."""
    straight = bytes(range(256))
    unit = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    tables = {}
    for name, ink in ((b"A2B0", (128, 128, 128)), (b"A2B1", (136, 208, 195))):  # Lab, 8 bits each
        nodes = b""
        for node in range(16):  # C changes slowest, K fastest
            cyan, black = node & 8, node & 1
            nodes += bytes((0, 128, 128) if black else ink if cyan else (255, 128, 128))
        head = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + unit
        tables[name] = head + straight * 4 + nodes + straight * 3
    return icc(b"CMYK", tables, b"prtr", b"Lab ")  # A2B1 is colorimetric, A2B0 perceptual: grey


def table_profile() -> bytes:
    """A profile of RGB by a table alone: grey, by its green."""
    straight = bytes(range(256))
    unit = np.array([1, 0, 0, 0, 1, 0, 0, 0, 1], ">i4") * 65536
    nodes = b"".join(bytes((255 * (node >> 1 & 1), 128, 128)) for node in range(8))
    table = b"mft1" + bytes(4) + bytes((3, 3, 2, 0)) + unit.tobytes() + straight * 3
    return icc(b"RGB ", {b"A2B0": table + nodes + straight * 3}, b"scnr", b"Lab ")


def swapped_profile() -> bytes:
    """The profile of sRGB with red and green changed about."""
    table = SRGB_PROFILE[128:300]
    for old, new in ((b"rXYZ", b"____"), (b"gXYZ", b"rXYZ"), (b"____", b"gXYZ")):
        table = table.replace(old, new)
    return SRGB_PROFILE[:128] + table + SRGB_PROFILE[300:]


def difference(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


# One file of each kind that strangers send; small, since some tests read each 500 times.
KINDS: dict[str, bytes] = {
    "jpeg": file_of(ASTRONAUT, "JPEG", exif=exif(6), icc_profile=SRGB_PROFILE),
    "progressive jpeg": file_of(ASTRONAUT, "JPEG", progressive=True),
    "grey jpeg": file_of(GREY, "JPEG", icc_profile=linear_grey_profile()),
    "cmyk jpeg": file_of(ASTRONAUT, "JPEG", "CMYK"),
    "png": file_of(RGBA, "PNG", exif=exif(5), icc_profile=SRGB_PROFILE),
    "palette png": file_of(ASTRONAUT, "PNG", "P", transparency=3),
    "16-bit png": file_of(GREY.astype(np.uint16) * 257, "PNG"),
    "webp": file_of(RGBA, "WEBP", exif=exif(8)),
    "lossless webp": file_of(ASTRONAUT, "WEBP", lossless=True),
    "tiff": file_of(ASTRONAUT, "TIFF", exif=exif(3)),
    "deflate tiff": file_of(RGBA, "TIFF", compression="tiff_adobe_deflate"),
    "lzw tiff": file_of(GREY, "TIFF", compression="tiff_lzw"),
    "jpeg tiff": file_of(ASTRONAUT, "TIFF", compression="jpeg"),
    "16-bit tiff": file_of(GREY.astype(np.uint16) * 257, "TIFF"),
    "16-bit colour png": cv2.imencode(".png", ASTRONAUT[..., ::-1].astype(np.uint16) * 257)[
        1
    ].tobytes(),
    "planar tiff": tiff(
        np.moveaxis(ASTRONAUT.astype(np.uint16) * 257, 2, 0).copy(),
        photometric="rgb",
        planarconfig="separate",
    ),
    "float tiff": tiff(
        (ASTRONAUT / 255).astype(np.float32), photometric="rgb", compression="deflate"
    ),
    "jpeg 2000": file_of(ASTRONAUT, "JPEG2000"),
    "avif": file_of(ASTRONAUT, "AVIF", exif=exif(6)),
    "bmp": file_of(ASTRONAUT, "BMP"),
    "palette bmp": file_of(ASTRONAUT, "BMP", "P"),
    "gif": file_of(ASTRONAUT, "GIF"),
}

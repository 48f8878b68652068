"""JPEG by libjpeg-turbo: what Pillow has no call for, and what it does in twice the time.

Source: ITU-T T.81 (1992), annex B; JFIF 1.02.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from colorizer.cores import spread

UInt8 = NDArray[np.uint8]
_BLOCK = 16  # pixels of a side that are coded together, colours being halved
_STRIP_PIXELS = 1 << 18  # coded by one thread; always as many, so that the bytes are the same
_APP, _QUANTIZATION, _FRAME, _RESTARTS, _SCAN = 0xE0, 0xDB, 0xC0, 0xDD, 0xDA
_END = b"\xff\xd9"


@dataclass(frozen=True, eq=False)
class Planes:
    """A picture as JPEG holds it: YCbCr of JFIF, colours at half its size (4:2:0).

    Attributes:
        luma: (H, W) uint8.
        blue: (H / 2, W / 2) uint8, rounded up: Cb.
        red: as blue: Cr.
    """

    luma: UInt8
    blue: UInt8
    red: UInt8


def decode(body: bytes, grey: bool) -> UInt8 | None:
    """Decode a sound JPEG.

    Returns:
        (H, W) uint8 if grey, else (H, W, 3) RGB; None if libjpeg finds anything to complain of:
        Pillow knows what to do.
    """
    try:
        pixels = simplejpeg.decode_jpeg(body, "GRAY" if grey else "RGB")
    except ValueError:
        return None
    return np.asarray(pixels[..., 0] if grey else pixels)


def encode(planes: Planes, quality: int, save_options: Mapping[str, Any]) -> bytes:
    """Encode a baseline JPEG, in strips on all cores, between which its coder is restarted.

    Args:
        planes: the picture.
        quality: 1..100.
        save_options: Pillow's, of metadata.
    """
    height, width = planes.luma.shape
    across = -(-width // _BLOCK)
    rows = max(1, _STRIP_PIXELS // (across * _BLOCK**2))  # of blocks, in a strip
    strips: list[list[bytes]] = [[] for _ in range(0, height, rows * _BLOCK)]

    def code(number: int) -> None:
        top = number * rows * _BLOCK
        luma = planes.luma[top : top + rows * _BLOCK]
        if len(luma) % 2 or width % 2:  # simplejpeg reads on to an even size
            luma = np.pad(luma, ((0, len(luma) % 2), (0, width % 2)), mode="edge")
        blue, red = (one[top // 2 :][: -(-len(luma) // 2)] for one in (planes.blue, planes.red))
        strips[number] = _parts(simplejpeg.encode_jpeg_yuv_planes(luma, blue, red, quality))

    spread(code, range(len(strips)))
    header = []
    for part in strips[0][:-1]:
        if part[1] == _FRAME:
            part = part[:5] + struct.pack(">HH", height, width) + part[9:]
        if part[1] == _SCAN and len(strips) > 1:
            header.append(struct.pack(">BBHH", 0xFF, _RESTARTS, 4, across * rows))
        if part[1] & 0xF0 != _APP:
            header.append(part)
    scans = [strips[0][-1]]
    for number, strip in enumerate(strips[1:]):
        scans += [bytes((0xFF, 0xD0 + number % 8)), strip[-1]]
    return b"".join([b"\xff\xd8", *_applications(save_options), *header, *scans, _END])


def _applications(save_options: Mapping[str, Any]) -> list[bytes]:
    """The segments that say what a JPEG is of, as Pillow writes them."""
    file = io.BytesIO()
    Image.new("L", (1, 1)).save(file, "JPEG", **save_options)
    return [part for part in _parts(file.getvalue()) if part[1] & 0xF0 == _APP]


def _parts(jpeg: bytes) -> list[bytes]:
    """Split a JPEG of one scan, from an encoder: its segments, and what was coded, without end."""
    found: list[bytes] = []
    at = 2
    while not found or found[-1][1] != _SCAN:
        end = at + 2 + int.from_bytes(jpeg[at + 2 : at + 4], "big")
        found.append(jpeg[at:end])
        at = end
    return [*found, jpeg[at : -len(_END)]]

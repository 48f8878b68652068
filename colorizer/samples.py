"""Sample layouts of TIFF that Pillow lacks or gets wrong.

Source: TIFF 6.0 (1992), its Technical Note 3 (float predictor).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from colorizer import lab
from colorizer.errors import BadPicture, NotAPicture, TooLarge
from colorizer.tiff import (
    BITS,
    BROKEN,
    COMPRESSION,
    EXTRA_SAMPLES,
    FILES,
    LENGTH,
    PHOTOMETRIC,
    PLANAR,
    PREDICTOR,
    ROWS_PER_STRIP,
    SAMPLE_FORMAT,
    SAMPLES,
    TILE_LENGTH,
    TILE_WIDTH,
    WIDTH,
    Directory,
    Page,
)

_FILL_ORDER = 266
_COLOURS = {0: 1, 1: 1, 2: 3, 5: 4, 8: 3, 9: 3}  # photometric -> channels: grey, RGB, CMYK, Lab
_LAB = (8, 9)  # CIE Lab, and ICC's, whose numbers have no sign
_BYTES_OUT = {1, 5, 8, 32773, 32946, 34925, 50000}  # compressions of bytes, whatever they mean
_NAMES = {
    **{6: "old-style JPEG", 7: "JPEG", 34712: "JPEG 2000", 34887: "LERC", 50001: "WebP"},
    **{34713: "Nikon NEF", 52546: "JPEG XL", 32809: "ThunderScan", 34676: "LogLuv"},
}
_MAX_SEGMENTS = 2**17
_MAX_UNPACKED = 64 * 2**20  # bytes of one compressed strip or tile, of which there are some copies


@dataclass(frozen=True, eq=False)
class Samples:
    """Decoded samples of any depth.

    Attributes:
        values: (H, W, C) uint8, uint16 or float32, from 0 to `full`; C is 1 (grey), 3 (RGB) or
            4 (CMYK).
        full: the value of white, or of all ink.
        white_is_zero: whether grey is stored inverted.
        alpha: (H, W) like `values`.
        premultiplied: whether colours were multiplied by alpha.
    """

    values: NDArray[Any]
    full: float
    white_is_zero: bool = False
    alpha: NDArray[Any] | None = None
    premultiplied: bool = False


def decode(page: Page) -> Samples:
    """Decode a page whose layout Pillow lacks.

    Any number of samples of 1 to 32 bits, or 64, whole numbers or floats, in strips or tiles,
    together or in planes. Signed numbers count from 0, floats from 0 to 1.

    Raises:
        BadPicture: broken or cut short.
        NotAPicture: a layout that isn't read here either.
        TooLarge: a compressed strip of very many bytes.
    """
    layout = _Layout(page.main)
    colours = _COLOURS[layout.photometric]
    kinds = page.main.numbers(EXTRA_SAMPLES)  # 1: premultiplied alpha, 2: alpha, else anything
    extra = next((i for i, kind in enumerate(kinds) if kind in (1, 2)), None)
    wanted = list(range(colours)) + ([] if extra is None else [colours + extra])
    if max(wanted) >= layout.samples:
        raise layout.unreadable()
    bits = layout.bits
    narrow = layout.format in (1, 2, 4) and bits <= 16
    full = float(2 ** (bits - (layout.format == 2)) - 1) if narrow else 1.0
    kind = (np.uint8 if bits <= 8 else np.uint16) if narrow else np.float32
    values = np.zeros((layout.height, layout.width, len(wanted)), kind)
    for plane, y, x, block in _blocks(page, layout):
        block = _tamed(block[: layout.height - y, : layout.width - x], layout)
        rows, columns = slice(y, y + block.shape[0]), slice(x, x + block.shape[1])
        if not layout.planar:
            values[rows, columns] = block[..., wanted]
        elif plane in wanted:
            values[rows, columns, wanted.index(plane)] = block[..., 0]
    alpha = None if extra is None else values[..., -1]
    if layout.photometric in _LAB:
        _lab_to_srgb(values, layout.photometric == 9)
    inverted = layout.photometric == 0
    return Samples(
        values[..., :colours], full, inverted, alpha, extra is not None and kinds[extra] == 1
    )


def _lab_to_srgb(values: NDArray[np.uint16], icc: bool) -> None:
    """Convert Lab to sRGB where it is; L stays, as it is for D50 in one and for D65 in the other.

    Source: TIFF Technical Note 4 (ICCLab), TIFF 6.0 section 23.
    """
    for rows in lab.bands(*values.shape[:2]):
        band = values[rows]
        lightness = band[..., 0].astype(np.float32) * np.float32(100 / (65280 if icc else 65535))
        signed = (band[..., 1:3] ^ 0x8000 if icc else band[..., 1:3]).view(np.int16)
        a, b = np.moveaxis(signed.astype(np.float32) / np.float32(256), -1, 0)
        rgb = np.empty((*lightness.shape, 3), np.uint16)
        lab.band_to_space(np.minimum(lightness, 100), a, b, rgb, lab.SPACES["srgb"])
        band[..., :3] = rgb


class _Layout:
    """How the samples of a page are stored.

    Raises:
        NotAPicture: if it is beyond `decode`.
        BadPicture: if something has no size.
    """

    def __init__(self, main: Directory) -> None:
        number = main.number
        self.width, self.height = number(WIDTH, 0), number(LENGTH, 0)
        self.samples = number(SAMPLES, 1)
        self.depths = tuple(main.numbers(BITS)) or (1,)
        self.bits = int(self.depths[0])
        self.format = number(SAMPLE_FORMAT, 1)  # 1: unsigned, 2: signed, 3: float, 4: unknown
        self.photometric = number(PHOTOMETRIC, 2 if self.samples > 2 else 0)
        self.planar = number(PLANAR, 1) == 2 and self.samples > 1
        self.compression, self.predictor = number(COMPRESSION, 1), number(PREDICTOR, 1)
        self.order = main.order
        self.tiled = TILE_WIDTH in main.tags
        self.across, self.down = self.width, min(self.height, number(ROWS_PER_STRIP, self.height))
        if self.tiled:
            self.across, self.down = number(TILE_WIDTH, 0), number(TILE_LENGTH, 0)
        if not self._is_readable() or number(_FILL_ORDER, 1) != 1:
            raise self.unreadable()
        if min(self.width, self.height, self.across, self.down, self.bits) < 1:
            raise BadPicture(BROKEN)

    def _is_readable(self) -> bool:
        bits, whole = self.bits, self.bits in (8, 16, 32, 64)
        return (
            self.photometric in _COLOURS
            and 1 <= self.samples <= 16
            and len(set(self.depths)) == 1
            and ((self.format in (1, 2, 4) and (bits <= 32 or whole)) or self.format == 3)
            and (self.format != 3 or bits in (16, 32, 64))
            and (self.format != 2 or whole)
            and self.compression in _BYTES_OUT | set(FILES)
            and self.predictor in (1, 2, 3)
            and (self.predictor == 1 or whole)
            and (self.predictor != 3 or self.format == 3)
            and (self.photometric not in _LAB or (bits == 16 and self.format == 1))
        )

    def unreadable(self) -> NotAPicture:
        """Name the layout."""
        kind = {2: "signed", 3: "float", 5: "complex", 6: "complex"}.get(self.format, "unsigned")
        colours = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab"}
        how = _NAMES.get(self.compression, f"compression {self.compression}")
        return NotAPicture(
            f"The TIFF has a layout that is not read: {self.samples} samples of "
            f"{'/'.join(map(str, sorted(set(self.depths))[:4]))} bits, {kind}, "
            f"{colours.get(self.photometric, f'photometric {self.photometric}')}"
            f"{', in planes' if self.planar else ''}"
            f"{'' if self.compression == 1 else ', compressed by ' + how}; "
            "convert it to an 8-bit or 16-bit TIFF or PNG."
        )


def _blocks(page: Page, layout: _Layout) -> Iterator[tuple[int, int, int, NDArray[Any]]]:
    """Decode strips or tiles: plane, top, left, and (rows, columns, samples) of stored numbers."""
    planes = layout.samples if layout.planar else 1
    depth = 1 if layout.planar else layout.samples
    places = page.main.numbers(324 if layout.tiled else 273)
    lengths = page.main.numbers(325 if layout.tiled else 279)
    tops = range(0, layout.height, layout.down)
    lefts = range(0, layout.width, layout.across)
    count = planes * len(tops) * len(lefts)
    if count > _MAX_SEGMENTS:
        raise TooLarge(
            f"The TIFF has {count:,} strips and at most {_MAX_SEGMENTS:,} are accepted; "
            "save it with larger ones."
        )
    row = -(-layout.across * depth * layout.bits // 8)
    index = 0
    for plane in range(planes):
        for top in tops:
            down = layout.down if layout.tiled else min(layout.down, layout.height - top)
            for left in lefts:
                stored = lengths[index] if index < len(lengths) else down * row
                if index >= len(places) or places[index] + stored > len(page.body):
                    raise BadPicture(BROKEN)
                raw = memoryview(page.body)[places[index] : places[index] + stored]
                index += 1
                if layout.compression in FILES:
                    yield plane, top, left, _opened(raw, layout, (down, layout.across, depth))
                    continue
                unpacked = _unpacked(raw, layout.compression, down * row)
                yield plane, top, left, _numbers(unpacked, layout, down, depth)


def _unpacked(raw: memoryview, compression: int, length: int) -> memoryview:
    """Undo a compression of bytes: libtiff, by Pillow, takes them for a row of grey pixels."""
    if compression == 1:
        if len(raw) < length:
            raise BadPicture(BROKEN)
        return raw[:length]
    if length > _MAX_UNPACKED:
        raise TooLarge(
            f"The TIFF has a strip of {length:,} bytes and at most {_MAX_UNPACKED:,} are accepted; "
            "save it with smaller ones."
        )
    tags = {256: length, 257: 1, 258: 8, 259: compression, 262: 1, 273: 8, 277: 1, 278: 1}
    tags[279] = len(raw)
    table = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    at = 8 + len(raw)
    file = b"II*\0" + struct.pack("<I", at) + raw + struct.pack("<H", len(tags)) + table + bytes(4)
    with Image.open(io.BytesIO(file), formats=["TIFF"]) as im:
        return memoryview(im.tobytes())


def _opened(raw: memoryview, layout: _Layout, shape: tuple[int, int, int]) -> NDArray[Any]:
    """Decode a strip or tile that is a picture file of its own."""
    with Image.open(io.BytesIO(raw), formats=[FILES[layout.compression]]) as im:
        if (im.height, im.width) != shape[:2] or layout.bits != 8:
            raise layout.unreadable()
        found = np.asarray(im)
    found = found.reshape(*shape[:2], -1)
    if found.dtype != np.uint8 or found.shape[2] != shape[2]:
        raise layout.unreadable()
    return found


def _numbers(raw: memoryview, layout: _Layout, rows: int, depth: int) -> NDArray[Any]:
    """Bytes of a strip or tile -> (rows, columns, samples), as numbers of the file's own type."""
    columns, bits = layout.across, layout.bits
    shape = (rows, columns, depth)
    if bits not in (8, 16, 32, 64):
        return _odd_bits(np.frombuffer(raw, np.uint8).reshape(rows, -1), layout, shape)
    size = bits // 8
    kind = {2: "i", 3: "f"}.get(layout.format, "u")
    if layout.predictor == 3:  # each row: the most significant bytes of all, then the next, ...
        planes = np.frombuffer(raw, np.uint8).reshape(rows, -1, depth)
        planes = np.cumsum(planes, axis=1, dtype=np.uint8).reshape(rows, size, -1)
        return np.ascontiguousarray(planes.transpose(0, 2, 1)).view(f">f{size}").reshape(shape)
    if layout.predictor == 2:
        native = np.frombuffer(raw, f"{layout.order}u{size}").reshape(shape).astype(f"=u{size}")
        return np.cumsum(native, axis=1, dtype=native.dtype).view(f"={kind}{size}")
    return np.frombuffer(raw, f"{layout.order}{kind}{size}").reshape(shape)


def _odd_bits(
    packed: NDArray[np.uint8], layout: _Layout, shape: tuple[int, int, int]
) -> NDArray[Any]:
    """(rows, bytes) -> (rows, columns, samples), of numbers that don't fill whole bytes, or 24."""
    rows, columns, depth = shape
    bits, each = layout.bits, columns * depth
    numbers = np.empty((rows, each), np.uint32)
    step = max(1, 2**21 // each)  # eight bytes or more for each bit
    for top in range(0, rows, step):
        some = packed[top : top + step]
        if bits % 8 == 0 and layout.order == "<":
            some = some.reshape(len(some), each, -1)[..., ::-1].reshape(len(some), -1)
        single = np.unpackbits(some, axis=1)[:, : each * bits].reshape(len(some), each, bits)
        found = numbers[top : top + step]
        found[:] = 0
        for bit in range(bits):
            found <<= np.uint32(1)
            found |= single[..., bit]
    return numbers.reshape(shape)


def _tamed(block: NDArray[Any], layout: _Layout) -> NDArray[Any]:
    """Numbers of the file's own type -> those of `Samples.values`."""
    if layout.format == 3:
        with np.errstate(over="ignore", invalid="ignore"):
            return np.minimum(np.fmax(block.astype(np.float32), 0), 1)  # fmax: NaN becomes 0
    if layout.format == 2:
        block = np.maximum(block, 0)
    if layout.bits > 16:
        full = 2.0 ** (layout.bits - (layout.format == 2)) - 1
        return (block * (1 / full)).astype(np.float32)
    return block

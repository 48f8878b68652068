"""TIFF: its directories, and the page that is the photograph.

EXIF is a TIFF too, so `colorizer.metadata` reads its directories with the same code.
Source: TIFF 6.0 (1992), its Technical Note 1 (SubIFDs), BigTIFF.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
from collections.abc import Iterator, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import _imaging

from colorizer.errors import BadPicture, NotAPicture

# Bytes of a value of each type; 129 is EXIF 3.0's UTF-8.
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
SIZES |= {16: 8, 17: 8, 18: 8, 129: 1}
_NUMBERS = {1: "u1", 3: "u2", 4: "u4", 6: "i1", 8: "i2", 9: "i4", 11: "f4", 12: "f8"}
_NUMBERS |= {13: "u4", 16: "u8", 17: "i8", 18: "u8"}
_MAX_PAGES = 1000

# What tells a decoder how pixels are stored, and what of it: all that Pillow gets to see.
_X_RESOLUTION, _Y_RESOLUTION = 282, 283
_RESOLUTION = {_X_RESOLUTION, _Y_RESOLUTION, 296}
_PIXEL_TAGS = {
    *(256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 317, 320, 322, 323, 324, 325),
    *_RESOLUTION,
    *(292, 293, 332, 338, 339, 347, *range(512, 522), 529, 530, 531, 532, 50674),
}
_SUBFILE, _OLD_SUBFILE, _SUB_DIRECTORIES, _DNG_VERSION, ICC = 254, 255, 330, 50706, 34675
WIDTH, LENGTH, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
SAMPLES, PLANAR, TILE_WIDTH, TILE_LENGTH, SAMPLE_FORMAT = 277, 284, 322, 323, 339
ORIENTATION, ROWS_PER_STRIP, RESOLUTION_UNIT, PREDICTOR, EXTRA_SAMPLES = 274, 278, 296, 317, 338
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
UTF8 = 129  # a type of EXIF 3.0
SUB_IFDS = (EXIF_IFD, GPS_IFD, INTEROP_IFD)

_CAMERA_RAW = {32803, 34892}  # photometric: CFA, linear raw
FILES = {34712: "JPEG2000", 50001: "WEBP"}  # compressions that store each segment as a file
BROKEN = "The TIFF is broken or cut short; check that the file opens and send all of it."

# libtiff prints each error to stderr, without the picture's name; the error that we raise says it.
with contextlib.suppress(OSError, AttributeError):  # linked into Pillow, or another system
    ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler(None)


class Tag(NamedTuple):
    """A tag's type, its count of values, their bytes as stored, and its place in the directory."""

    kind: int
    number: int
    raw: bytes | memoryview
    entry: bytes = b""


@dataclass(frozen=True)
class Directory:
    """A directory of tags.

    Attributes:
        tags: those that are readable.
        following: the offset of the next directory, or 0.
        at: its own offset.
        order: of bytes, as struct has it: "<" or ">".
        big: whether it is BigTIFF's.
        lost: tags whose values are beyond the end; 0 where that cuts the directory itself.
    """

    tags: dict[int, Tag]
    following: int
    order: str
    at: int = 0
    big: bool = False
    lost: frozenset[int] = frozenset()

    def numbers(self, tag: int) -> list[Any]:
        """The values of a tag; none if it is absent or holds no plain numbers."""
        found = self.tags.get(tag)
        if found is None or found.kind not in _NUMBERS:
            return []
        values: list[Any] = np.frombuffer(found.raw, self.order + _NUMBERS[found.kind]).tolist()
        return values

    def number(self, tag: int, default: int) -> int:
        """The first value of a tag."""
        return int(next(iter(self.numbers(tag)), default))


def start(data: bytes) -> tuple[str, bool, int]:
    """Read a TIFF's header: byte order, whether it is a BigTIFF, the first directory's offset.

    Raises:
        ValueError: if it isn't one.
    """
    order = {b"II": "<", b"MM": ">"}.get(bytes(data[:2]))
    magic = struct.unpack_from(f"{order or '<'}H", data, 2)[0] if len(data) >= 8 else 0
    if order is None or magic not in (42, 43):
        raise ValueError("no TIFF header")
    if magic == 42:
        return order, False, struct.unpack_from(order + "I", data, 4)[0]
    return order, True, struct.unpack_from(order + "Q", data.ljust(16, b"\0"), 8)[0]


class Bomb(ValueError):
    """A directory whose tags share their bytes: read one by one, they would fill the memory."""


def directory(data: bytes, at: int, order: str, big: bool = False) -> Directory:
    """Read the directory at an offset; tags of unknown types or without their values are left out.

    Raises:
        ValueError: if none is there.
        Bomb: if its tags claim far more bytes than there are.
    """
    view = memoryview(data)
    head, layout, inline = ("Q", "HHQ8s", 8) if big else ("H", "HHI4s", 4)
    size = struct.calcsize(order + layout)
    first = at + struct.calcsize(order + head)
    if at <= 0 or first > len(data):
        raise ValueError("no directory")
    count = struct.unpack_from(order + head, data, at)[0]
    if count >= 2**16:
        raise ValueError("no directory")
    tags: dict[int, Tag] = {}
    end = first + count * size
    lost = {0} if end > len(data) else set()
    claimed = 0
    for place in range(first, min(end, len(data) - size + 1), size):
        tag, kind, number, value = struct.unpack_from(order + layout, data, place)
        length = number * SIZES.get(kind, 0)
        begin = place + size - inline
        if length > inline:
            begin = struct.unpack(order + ("Q" if big else "I"), value)[0]
        if 0 < length <= len(data) - begin:
            claimed += length
            raw = view[begin : begin + length]
            tags.setdefault(tag, Tag(kind, number, raw, data[place : place + size]))
        elif length:
            lost.add(tag)
    if claimed > 2 * len(data) + 2**20:
        raise Bomb("tags that overlap")
    after = data[end : end + inline].ljust(inline, b"\0")
    following = struct.unpack(order + ("Q" if big else "I"), after)[0]
    return Directory(tags, following, order, at, big, frozenset(lost))


@dataclass(frozen=True)
class Page:
    """The page of a TIFF that is the photograph.

    Attributes:
        body: the file.
        main: directory of the page's pixels.
        first: the file's first directory, where descriptions are if the page has none.
    """

    body: bytes
    main: Directory
    first: Directory

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.main.number(WIDTH, 0), self.main.number(LENGTH, 0)

    @property
    def area(self) -> int:
        """Pixels to decode: of the picture, or of one tile if that is larger."""
        tile = self.main.number(TILE_WIDTH, 1) * self.main.number(TILE_LENGTH, 1)
        width, height = self.size
        return max(width * height, tile)

    @property
    def profile(self) -> bytes | None:
        """The ICC profile."""
        found = self.described(ICC)
        return bytes(found.raw) if found else None

    def described(self, tag: int) -> Tag | None:
        """A tag of the page, or else of the file's first directory."""
        return self.main.tags.get(tag) or self.first.tags.get(tag)

    @property
    def orientation(self) -> int:
        """As EXIF's, 1..8."""
        return self.main.number(ORIENTATION, 0) or self.first.number(ORIENTATION, 1)

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Dots an inch, across and down, as stored; None where the unit is none."""
        unit = {2: 1.0, 3: 2.54}.get(self.main.number(RESOLUTION_UNIT, 2))
        found = [self.main.tags.get(tag) for tag in (_X_RESOLUTION, _Y_RESOLUTION)]
        if unit is None or not all(tag and tag.kind == 5 for tag in found):
            return None
        ratios = [struct.unpack_from(self.main.order + "II", tag.raw) for tag in found if tag]
        if not all(below for _, below in ratios):
            return None
        across, down = (above / below * unit for above, below in ratios)
        return across, down

    @property
    def left_out(self) -> tuple[str, ...]:
        """What isn't read: other pages, and channels other than colours and alpha."""
        pages = sum(
            any(_is_full(one) for one in candidates) for candidates in _pages(self.body, self.first)
        )
        extra = sum(kind not in (1, 2) for kind in self.main.numbers(EXTRA_SAMPLES))
        notes = [f"the first of {pages} pages is read"] if pages > 1 else []
        if extra:
            notes.append(
                f"{extra} channel{'s' * (extra > 1)} beside the colours (infrared?) left out"
            )
        return tuple(notes)

    @property
    def pillow_is_wrong(self) -> bool:
        """Whether Pillow reads other pixels than there are, or calls sound files broken.

        Its modes don't fit uncompressed planes and signed bytes; it swaps the bytes of big-endian
        signed numbers and floats twice where libtiff unpacks them; it lacks some compressions.
        """
        bits, kind = self.main.number(BITS, 1), self.main.number(SAMPLE_FORMAT, 1)
        compression = self.main.number(COMPRESSION, 1)
        planes = self.main.number(PLANAR, 1) == 2 and self.main.number(SAMPLES, 1) > 1
        return (
            (planes and compression == 1)
            or (kind == 2 and bits == 8)
            or (kind != 1 and bits > 8 and compression != 1 and self.main.order == ">")
            or (compression in (6, 7) and bits != 8)
            or compression in FILES
        )

    def alone(self) -> bytes:
        """The file with one directory: this page's tags that describe pixels, and no others."""
        one = self.main
        head, offset = ("Q", "Q") if one.big else ("H", "I")
        entries = [tag.entry for number, tag in sorted(one.tags.items()) if number in _PIXEL_TAGS]
        table = struct.pack(one.order + head, len(entries)) + b"".join(entries)
        table += bytes(struct.calcsize(offset))  # no page follows
        header = self.body[: 8 if one.big else 4] + struct.pack(one.order + offset, one.at)
        view = memoryview(self.body)  # the new directory is in the place of the old, no longer one
        return b"".join((header, view[len(header) : one.at], table, view[one.at + len(table) :]))


def page(body: bytes) -> Page:
    """Find the photograph in a TIFF: the first page that isn't a thumbnail or a mask.

    Raises:
        BadPicture: if there is no page.
        NotAPicture: if it is a camera's raw data.
    """
    try:
        order, big, at = start(body)
        first = directory(body, at, order, big)
    except ValueError:
        raise BadPicture(BROKEN) from None
    best = first
    for number, candidates in enumerate(_pages(body, first)):
        full = [one for one in candidates if _is_full(one)]
        if full:
            best = max(full, key=_area)
            break
        if number == 0:
            best = max(candidates, key=_area)
    raw = best.number(PHOTOMETRIC, 0) in _CAMERA_RAW or body[8:10] == b"CR"
    if raw or best.number(COMPRESSION, 1) in (34713, 32767, 32770):
        what = "DNG file" if _DNG_VERSION in first.tags else "camera raw file (NEF, CR2, ARW, ...)"
        raise NotAPicture(
            f"The picture is a {what}, which must be developed first; convert it to JPEG or TIFF."
        )
    sides = {WIDTH, LENGTH, TILE_WIDTH, TILE_LENGTH} & set(best.tags)
    no_numbers = not all(best.numbers(tag) for tag in sides)
    if (
        no_numbers
        or best.at < (16 if best.big else 8)
        or best.lost & ({0} | _PIXEL_TAGS - _RESOLUTION)
    ):
        raise BadPicture(BROKEN)
    return Page(body, best, first)


def _pages(body: bytes, first: Directory) -> Iterator[list[Directory]]:
    """Each page of the chain, with its SubIFDs."""
    seen: Set[int] = set()
    one: Directory | None = first
    for _ in range(_MAX_PAGES):
        if one is None:
            return
        found = [one]
        for at in one.numbers(_SUB_DIRECTORIES)[:32]:
            with contextlib.suppress(ValueError):  # a broken thumbnail
                found.append(directory(body, at, first.order, first.big))
        yield found
        after = one.following
        one = None
        if after and after not in seen:
            seen = {*seen, after}
            with contextlib.suppress(ValueError):
                one = directory(body, after, first.order, first.big)


def _area(one: Directory) -> int:
    return one.number(WIDTH, 0) * one.number(LENGTH, 0)


def _is_full(one: Directory) -> bool:
    """Whether a page is neither a reduced picture nor a mask, depth or gain map."""
    if _SUBFILE in one.tags:
        return not one.number(_SUBFILE, 0) & ~2 and _area(one) > 0  # 2: a page of several
    return one.number(_OLD_SUBFILE, 1) != 2 and _area(one) > 0


def laid_out(tables: dict[int, dict[int, Tag]], order: str) -> bytes:
    """Write directories one after the other, each followed by its values.

    Args:
        tables: tags by number, in directories by the tag that points to each; 0 is the first.
        order: of bytes, in which their values are.

    Returns:
        A TIFF without pixels, such as EXIF is.
    """
    if not any(tables.values()):
        return b""
    parents = {EXIF_IFD: 0, GPS_IFD: 0, INTEROP_IFD: EXIF_IFD}
    made: dict[int, dict[int, Tag]] = {name: dict(tags) for name, tags in tables.items()}
    for child in (INTEROP_IFD, EXIF_IFD, GPS_IFD):  # innermost first
        if made.get(child):
            made[parents[child]][child] = Tag(4, 1, bytes(4))
    names = [name for name in made if made[name]]
    places: dict[int, int] = {}
    at = 8
    for name in names:
        places[name] = at
        at += 2 + 12 * len(made[name]) + 4
        at += sum(len(t.raw) + len(t.raw) % 2 for t in made[name].values() if len(t.raw) > 4)
    body = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    for name in names:
        tags = sorted(made[name].items())
        values = b""
        at = places[name] + 2 + 12 * len(tags) + 4
        body += struct.pack(order + "H", len(tags))
        for number, tag in tags:
            raw = bytes(tag.raw)
            if number in places and number in SUB_IFDS:
                raw = struct.pack(order + "I", places[number])
            body += struct.pack(order + "HHI", number, tag.kind, tag.number)
            if len(raw) > 4:
                body += struct.pack(order + "I", at + len(values))
                values += raw + bytes(len(raw) % 2)
            else:
                body += raw.ljust(4, b"\0")
        body += bytes(4) + values
    return body

"""Metadata that goes from one picture file to another: EXIF, XMP, IPTC, resolution.

What people wrote is copied byte by byte; what describes pixels is made true of the new picture,
which is upright and in sRGB. Thumbnails and MakerNotes, which hold offsets into the file that they
were in, are left out.
Source: EXIF 2.32 and 3.0 (CIPA DC-008), IPTC-IIM 4.2, Photoshop's image resource blocks.
"""

from __future__ import annotations

import binascii
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from PIL import Image, TiffTags

from colorizer import lab, tiff
from colorizer.tiff import EXIF_IFD, GPS_IFD, INTEROP_IFD, ORIENTATION, SUB_IFDS, Directory, Tag

_PREFIX = b"Exif\0\0"
_MAX_BYTES = 65_500  # of a JPEG's segment, less its header
_MAKER_NOTE, _COLOR_SPACE, _INTEROP_INDEX = 0x927C, 0xA001, 1
_SRGB, _UNCALIBRATED = 1, 65535  # EXIF's ColorSpace
_INTEROP = {"adobe-rgb": b"R03\0", "display-p3": bytes(4)}
_XMP, _IPTC, _PHOTOSHOP = 700, 33723, 34377
_IPTC_BLOCK = 0x0404
_XMP_PROFILE = rb"photoshop:ICCProfile"
# Of a directory: where pixels, thumbnails or other copies of metadata are, and what colours mean.
_DESCRIBES_PIXELS = {
    *(254, 255, 258, 259, 262, 263, 266, 273, 277, 278, 279, 284, 288, 289, 290, 291, 292, 293),
    *(301, 317, 318, 319, 320, 322, 323, 324, 325, 330, 332, 338, 339, 347, *range(512, 522)),
    *(529, 530, 531, 532, _XMP, _IPTC, _PHOTOSHOP, 34675, 0xA500, ORIENTATION, _MAKER_NOTE),
}
_TIFF_KEEPS = {  # of a TIFF's own directory: who, what, when, by which device
    *(270, 271, 272, 282, 283, 296, 305, 306, 315, 316, 33432, EXIF_IFD, GPS_IFD)
}
_TEXT = 2


@dataclass(frozen=True)
class Metadata:
    """What a file says of its picture.

    Attributes:
        exif: a TIFF structure without orientation.
        xmp: an XMP packet.
        iptc: IPTC-IIM records.
        dpi: dots an inch, across and down.
    """

    exif: bytes = b""
    xmp: bytes = b""
    iptc: bytes = b""
    dpi: tuple[float, float] | None = None

    def save_options(self, format: str) -> dict[str, Any]:
        """Arguments of Pillow's `save` that write what a format (jpeg, png, webp) can hold.

        PNG's text chunks are `png_texts`.
        """
        options: dict[str, Any] = {}
        if self.exif:
            options["exif"] = _PREFIX + self.exif
        if self.xmp and format != "png" and (format != "jpeg" or len(self.xmp) <= _MAX_BYTES):
            options["xmp"] = self.xmp
        if self.dpi and format != "webp":
            options["dpi"] = self.dpi
        if format == "jpeg" and 0 < len(self.iptc) <= _MAX_BYTES - 14:
            body = b"Photoshop 3.0\0" + self._iptc_block()
            options["extra"] = b"\xff\xed" + struct.pack(">H", len(body) + 2) + body
        return options

    def png_texts(self) -> Iterator[tuple[bytes, bytes]]:
        """Chunks of PNG for XMP and, as ImageMagick and ExifTool write it, IPTC."""
        if self.xmp:
            yield b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + self.xmp
        if self.iptc:
            block = self._iptc_block()
            text = block.hex().encode()
            lines = b"\n".join(text[at : at + 72] for at in range(0, len(text), 72))
            yield b"tEXt", b"Raw profile type iptc\0\niptc\n%8d\n%s\n" % (len(block), lines)

    def directories(self) -> tuple[str, dict[int, dict[int, Tag]]]:
        """EXIF's byte order and its directories, by the tag that points to each; 0 is the first."""
        root = _root(self.exif)
        if root is None:
            return "<", {}
        tables = _subdirectories(self.exif, root)
        return root.order, {name: dict(table.tags) for name, table in tables.items()}

    def in_space(self, profile: str) -> Metadata:
        """Adjust what it says about sRGB for a picture in another space."""
        if profile == "srgb" or not (self.exif or self.xmp):
            return self
        order, tables = self.directories()
        values = {
            (EXIF_IFD, _COLOR_SPACE): Tag(3, 1, struct.pack(order + "H", _UNCALIBRATED)),
            (INTEROP_IFD, _INTEROP_INDEX): Tag(2, 4, _INTEROP[profile]),
        }
        for (table, number), tag in values.items():
            if number in tables.get(table, {}):
                tables[table][number] = tag
        title = lab.SPACES[profile].title.encode()
        xmp = _replaced(self.xmp, {rb"exif:ColorSpace": b"65535", _XMP_PROFILE: title})
        return replace(self, exif=tiff.laid_out(tables, order), xmp=xmp)

    def _iptc_block(self) -> bytes:
        padding = bytes(len(self.iptc) % 2)
        return b"8BIM\x04\x04\0\0" + struct.pack(">I", len(self.iptc)) + self.iptc + padding


NONE = Metadata()


def of(im: Image.Image, size: tuple[int, int], turned: bool) -> Metadata:
    """Read the metadata of a loaded picture, other than a TIFF.

    Args:
        im: as Pillow opened it.
        size: its width and height, upright.
        turned: whether width and height were swapped.
    """
    exif = _pruned(raw_exif(im), size)
    xmp = im.info.get("xmp") or b""
    resources = im.info.get("photoshop")
    iptc = resources.get(_IPTC_BLOCK, b"") if isinstance(resources, dict) else b""
    iptc = iptc or _iptc(_text_profile(im, "iptc"))
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return Metadata(exif, _true_xmp(xmp, size), iptc, _dpi(im, turned))


def of_tiff(page: tiff.Page, size: tuple[int, int], turned: bool) -> Metadata:
    """Read the metadata of a TIFF."""
    main, first = page.main, page.first
    tags = {**first.tags, **main.tags}
    tags = {tag: tags[tag] for tag in _TIFF_KEEPS & set(tags)}
    whole = Directory(tags, 0, first.order, big=first.big)
    exif = _written(_tables(page.body, whole, size), first.order)
    found = {tag: page.described(tag) for tag in (_XMP, _IPTC, _PHOTOSHOP)}
    xmp, iptc, resources = (bytes(one.raw) if one else b"" for one in found.values())
    return Metadata(exif, _true_xmp(xmp, size), iptc or _iptc(resources), _turned(page.dpi, turned))


def orientation(im: Image.Image) -> int:
    """The orientation of a picture other than a TIFF, 1..8 where it is sound; XMP's without EXIF's.

    Pillow's own way decodes every tag, which a hostile file can make take minutes and gigabytes.
    """
    root = _root(raw_exif(im))
    if root is not None and ORIENTATION in root.tags:
        return root.number(ORIENTATION, 1)
    xmp = im.info.get("xmp") or b""
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    found = re.search(rb'tiff:Orientation(?:="|>)([1-8])', xmp)
    return int(found[1]) if found else 1


def is_bomb(body: bytes) -> bool:
    """Whether EXIF anywhere in a file claims far more bytes than there are.

    Pillow reads tags one by one, also those that share their bytes: 64 kB of tags in 32 MB of file
    would fill 170 GB.
    """
    # Two patterns: Python searches for what begins with fixed bytes 15 times as fast.
    found = chain(*(re.finditer(start + rb"(?:\*\0|\0\*)", body) for start in (b"II", b"MM")))
    for count, one in enumerate(found):
        if count == 64:
            return True
        data = body[one.start() :]
        order = "<" if data[:2] == b"II" else ">"
        try:
            tiff.directory(data, struct.unpack_from(order + "I", data, 4)[0], order)
        except tiff.Bomb:
            return True
        except (ValueError, struct.error):
            continue
    return False


def raw_exif(im: Image.Image) -> bytes:
    """A picture's EXIF as stored; PNG's may be in hexadecimal, as ImageMagick wrote it."""
    raw = im.info.get("exif") or _text_profile(im, "exif") or _text_profile(im, "APP1")
    return bytes(raw).removeprefix(_PREFIX)


def _text_profile(im: Image.Image, kind: str) -> bytes:
    text = im.info.get(f"Raw profile type {kind}")
    if not isinstance(text, str):
        return b""
    try:
        return binascii.unhexlify("".join(text.split("\n")[3:]).strip())
    except ValueError:  # no hexadecimal
        return b""


def _root(exif: bytes) -> Directory | None:
    try:
        order, big, at = tiff.start(exif)
        return tiff.directory(exif, at, order, big)
    except (ValueError, struct.error):  # a spoilt note on the back does not spoil the photograph
        return None


def _pruned(exif: bytes, size: tuple[int, int]) -> bytes:
    """Copy EXIF, without what is malformed or no longer true."""
    root = _root(exif)
    return b"" if root is None else _written(_tables(exif, root, size), root.order)


def _tables(data: bytes, root: Directory, size: tuple[int, int]) -> dict[int, dict[int, Tag]]:
    """The directories to write, by the tag that points to them; 0 for the first."""
    tables = _subdirectories(data, root)
    return {name: _true_tags(name, table, size) for name, table in tables.items()}


def _subdirectories(data: bytes, root: Directory) -> dict[int, Directory]:
    tables = {0: root}
    for parent, pointer in ((0, EXIF_IFD), (0, GPS_IFD), (EXIF_IFD, INTEROP_IFD)):
        at = tables[parent].number(pointer, 0) if parent in tables else 0
        if at:
            try:
                tables[pointer] = tiff.directory(data, at, root.order, root.big)
            except (ValueError, struct.error):
                continue
    return tables


def _true_tags(name: int, table: Directory, size: tuple[int, int]) -> dict[int, Tag]:
    """The tags of a directory that are sound, and true of the new picture."""
    kept = {}
    sides = {0: (256, 257), EXIF_IFD: (0xA002, 0xA003)}.get(name, ())
    for number, tag in table.tags.items():
        if number in SUB_IFDS or (tag.kind > 13 and tag.kind != tiff.UTF8):
            continue
        if name in (0, EXIF_IFD) and (number in _DESCRIBES_PIXELS or _is_odd(number, tag)):
            continue
        if number in sides:
            tag = Tag(4, 1, struct.pack(table.order + "I", size[sides.index(number)]))
        elif name == EXIF_IFD and number == _COLOR_SPACE:
            tag = Tag(3, 1, struct.pack(table.order + "H", _SRGB))
        elif name == INTEROP_IFD and number == _INTEROP_INDEX:
            tag = Tag(2, 4, b"R98\0")  # sRGB; R03 is Adobe RGB
        kept[number] = tag
    return kept


def _is_odd(number: int, tag: Tag) -> bool:
    """Whether a tag that is to hold numbers holds text, or the other way round."""
    wanted = TiffTags.lookup(number).type
    if not isinstance(wanted, int):
        return False
    text = (_TEXT, tiff.UTF8, 1, 7)  # some write text as bytes
    return (
        (tag.kind in (_TEXT, tiff.UTF8))
        if wanted in (3, 4, 5)
        else (wanted == _TEXT and tag.kind not in text)
    )


def _written(tables: dict[int, dict[int, Tag]], order: str) -> bytes:
    """Write directories as EXIF; the largest values are left out until a JPEG can hold it."""
    while True:
        body = tiff.laid_out(tables, order)
        if len(body) <= _MAX_BYTES or not any(tables.values()):
            return body
        name, number = max(
            ((name, n) for name, tags in tables.items() for n in tags),
            key=lambda at: len(tables[at[0]][at[1]].raw),
        )
        del tables[name][number]


def _true_xmp(xmp: bytes, size: tuple[int, int]) -> bytes:
    """Copy an XMP packet; where it describes pixels, make it true."""
    truths = {
        rb"tiff:Orientation": b"1",
        rb"(?:tiff:ImageWidth|exif:PixelXDimension)": b"%d" % size[0],
        rb"(?:tiff:ImageLength|exif:PixelYDimension)": b"%d" % size[1],
        rb"exif:ColorSpace": b"1",
        _XMP_PROFILE: b"sRGB IEC61966-2.1",
    }
    return _replaced(xmp, truths)


def _replaced(xmp: bytes, values: dict[bytes, bytes]) -> bytes:
    for name, value in values.items():
        pattern = rb"(<?" + name + rb"\s*(?:=\s*[\"']|>))[^\"'<>]*"
        xmp = re.sub(pattern, rb"\g<1>" + value, xmp)
    return xmp


def _iptc(resources: bytes) -> bytes:
    """Find IPTC among Photoshop's resource blocks."""
    at = resources.find(b"8BIM")
    while at >= 0 and resources[at : at + 4] == b"8BIM" and at + 12 <= len(resources):
        code = struct.unpack_from(">H", resources, at + 4)[0]
        at += 6 + (resources[at + 6] + 2) // 2 * 2  # a name with its length, to an even place
        if at + 4 > len(resources):
            break
        length = struct.unpack_from(">I", resources, at)[0]
        if code == _IPTC_BLOCK:
            return resources[at + 4 : at + 4 + length]
        at += 4 + length + length % 2
    return resources if resources[:1] == b"\x1c" else b""  # bare records


def _dpi(im: Image.Image, turned: bool) -> tuple[float, float] | None:
    try:
        across, down = (float(value) for value in im.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    return _turned((across, down), turned)


def _turned(dpi: tuple[float, float] | None, turned: bool) -> tuple[float, float] | None:
    if dpi is None or not all(0 < value < 65_535 for value in dpi):
        return None
    return (dpi[1], dpi[0]) if turned else dpi

"""What metadata=keep brings along: as it was written, and true of the new picture."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from colorizer import encode, image
from colorizer.metadata import Metadata
from colorizer.options import Options
from tests.pictures import ASTRONAUT, exif, file_of, tiff_of

ARTIST = "Großmutter, Краков".encode()
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6" '
    b'exif:ColorSpace="65535" photoshop:ICCProfile="Adobe RGB (1998)" dc:title="Gro\xc3\x9f">'
    b"<exif:PixelXDimension>96</exif:PixelXDimension></rdf:Description></rdf:RDF></x:xmpmeta>"
)
IPTC = b"\x1c\x02\x78\x00\x06A girl" + b"\x1c\x02\x50\x00\x05Krak\xc3"  # caption, by-line


def entry(tag: int, kind: int, count: int, value: bytes, order: str = "<") -> bytes:
    return struct.pack(order + "HHI", tag, kind, count) + value.ljust(4, b"\0")


def raw_exif(*more: bytes, exif_ifd: tuple[bytes, ...] = (), order: str = "<") -> bytes:
    """EXIF with an artist in UTF-8, entries of the first directory and of the Exif directory."""
    entries = list(more)
    count = len(entries) + 2
    after = 8 + 2 + 12 * count + 4
    exif_at = after + len(ARTIST) + 1 + (len(ARTIST) + 1) % 2
    entries += [
        entry(315, 2, len(ARTIST) + 1, struct.pack(order + "I", after), order),
        entry(0x8769, 4, 1, struct.pack(order + "I", exif_at), order),
    ]
    text = (ARTIST + b"\0").ljust(exif_at - after, b"\0")
    inner = struct.pack(order + "H", len(exif_ifd)) + b"".join(exif_ifd) + bytes(4)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    head += struct.pack(order + "H", count) + b"".join(entries) + bytes(4)
    return b"Exif\0\0" + head + text + inner


def kept(body: bytes, format: Any = "jpeg") -> Image.Image:
    picture = image.read(body)
    rgb = np.zeros((picture.height, picture.width, 3), np.uint8)
    options = Options(format)
    written = Image.open(io.BytesIO(encode.write(rgb, options, metadata=picture.metadata)))
    written.load()
    return written


@pytest.mark.parametrize("to", encode.CONTENT_TYPES)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_utf_8_in_exif_is_copied(format: str, to: str, order: str) -> None:
    found = kept(file_of(ASTRONAUT, format, exif=raw_exif(order=order)), to)
    if to == "tiff":  # whose own directory it is
        assert found.getexif()[ExifTags.Base.Artist].encode("latin-1") == ARTIST
    else:
        assert ARTIST in found.info["exif"]


@pytest.mark.parametrize(
    "odd",
    [
        entry(282, 2, 4, b"300\0"),  # XResolution as text
        entry(271, 5, 9, b"\xff\xff\xff\x7f"),  # beyond the end
        entry(272, 99, 1, b"x"),  # of no known type
        entry(274, 2, 2, b"6\0"),  # orientation as text
        entry(0x8825, 4, 1, b"\xff\xff\0\0"),  # GPS beyond the end
    ],
)
def test_one_odd_tag_costs_no_other(odd: bytes) -> None:
    body = file_of(ASTRONAUT, "JPEG", exif=raw_exif(odd, entry(305, 2, 4, b"abc\0")))
    found = kept(body)
    assert ARTIST in found.info["exif"]
    tags = found.getexif()
    assert tags[ExifTags.Base.Software] == "abc"
    assert not {282, 271, 272, 274, 0x8825} & set(tags)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_what_exif_says_of_pixels_is_made_true(order: str, orientation: int) -> None:
    def short(tag: int, value: int) -> bytes:
        return entry(tag, 3, 1, struct.pack(order + "H", value), order)

    body = file_of(
        ASTRONAUT,
        "JPEG",
        exif=raw_exif(
            *(short(256, 96), short(257, 64), short(274, orientation), short(277, 1)),
            exif_ifd=(short(0xA001, 65535), short(0xA002, 96), short(0xA003, 64)),
            order=order,
        ),
    )
    found = kept(body)
    tags = found.getexif()
    width, height = (96, 64) if orientation == 1 else (64, 96)
    assert found.size == (width, height)
    assert (tags[256], tags[257]) == (width, height)
    assert not {274, 277} & set(tags)
    inner = tags.get_ifd(ExifTags.IFD.Exif)
    assert (inner[0xA001], inner[0xA002], inner[0xA003]) == (1, width, height)


def test_adobe_rgb_is_not_claimed() -> None:
    tags = Image.Exif()
    tags.get_ifd(ExifTags.IFD.Exif)[0xA001] = 65535
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: "R03"}
    found = kept(file_of(ASTRONAUT, "JPEG", exif=tags)).getexif()
    assert found.get_ifd(ExifTags.IFD.Exif)[0xA001] == 1
    assert found.get_ifd(ExifTags.IFD.Interop) == {1: "R98"}


def test_a_thumbnail_and_a_maker_note_are_left_out() -> None:
    tags = exif(1)
    tags[ExifTags.Base.Artist] = "x"
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.MakerNote] = b"offsets into another file"
    raw = bytearray(tags.tobytes())
    assert b"offsets" in raw
    found = kept(file_of(ASTRONAUT, "JPEG", exif=bytes(raw)))
    assert b"offsets" not in found.info["exif"]
    assert found.getexif()[ExifTags.Base.Artist] == "x"


def test_exif_too_large_for_a_jpeg_loses_its_largest_tag_alone() -> None:
    tags = Image.Exif()
    tags[ExifTags.Base.Artist] = "x"
    tags[ExifTags.Base.ImageDescription] = "y" * 70_000
    found = kept(file_of(ASTRONAUT, "PNG", exif=tags)).getexif()
    assert found[ExifTags.Base.Artist] == "x"
    assert ExifTags.Base.ImageDescription not in found


def test_a_tiff_gives_its_exif_and_gps_directories() -> None:
    body = tiff_of(b"\x80" * 4, 4, 8)
    gps = struct.pack("<H", 1) + entry(1, 2, 2, b"N\0") + bytes(4)
    body = tiff_of(b"\x80" * 4, 4, 8, more={0x8825: len(body) + 12}) + gps
    assert kept(body).getexif().get_ifd(ExifTags.IFD.GPSInfo) == {1: "N"}


@pytest.mark.parametrize("to", encode.CONTENT_TYPES)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_xmp_is_kept_and_made_true(format: str, to: str) -> None:
    if format == "PNG":
        from PIL import PngImagePlugin

        chunks = PngImagePlugin.PngInfo()
        chunks.add(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
        options: dict[str, Any] = {"pnginfo": chunks}
    else:
        options = {"tiffinfo": {700: XMP}} if format == "TIFF" else {"xmp": XMP}
    found = kept(file_of(ASTRONAUT, format, **options), to)
    xmp = found.info["xmp"]
    xmp = xmp if isinstance(xmp, bytes) else xmp.encode()
    assert 'dc:title="Groß"'.encode() in xmp
    assert b'tiff:Orientation="1"' in xmp
    assert b'exif:ColorSpace="1"' in xmp
    assert b'photoshop:ICCProfile="sRGB IEC61966-2.1"' in xmp
    assert b"<exif:PixelXDimension>%d<" % found.width in xmp


@pytest.mark.parametrize("format", ["JPEG", "TIFF", "PNG"])
def test_iptc_is_kept(format: str) -> None:
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", len(IPTC)) + IPTC + bytes(len(IPTC) % 2)
    if format == "JPEG":
        segment = b"Photoshop 3.0\0" + block
        app13 = b"\xff\xed" + struct.pack(">H", len(segment) + 2) + segment
        body = file_of(ASTRONAUT, format, extra=app13)
    elif format == "TIFF":
        body = file_of(ASTRONAUT, format, tiffinfo={33723: IPTC})
    else:
        body = encode.write(ASTRONAUT, Options("png"), metadata=Metadata(iptc=IPTC))
    assert kept(body).info["photoshop"][0x0404] == IPTC
    assert image.read(body).metadata.iptc == IPTC


@pytest.mark.parametrize("to", ["jpeg", "png"])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_resolution_is_kept_and_turned(format: str, to: str, orientation: int) -> None:
    body = file_of(ASTRONAUT, format, dpi=(600, 300), exif=exif(orientation))
    expected = (600, 300) if orientation == 1 else (300, 600)
    assert kept(body, to).info["dpi"] == pytest.approx(expected, abs=0.1)


def test_nothing_is_kept_unasked() -> None:
    body = file_of(ASTRONAUT, "JPEG", exif=raw_exif(), xmp=XMP, dpi=(600, 600))
    found = Image.open(io.BytesIO(encode.write(image.read(body).pixels, Options())))
    assert not {"exif", "xmp", "photoshop"} & set(found.info)

"""Sound pixels beside something spoilt, missing or unusual; and what stays refused."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from colorizer import errors, image
from tests.pictures import (
    ASTRONAUT,
    EDGES,
    GREY,
    KINDS,
    SRGB_PROFILE,
    after_png_header,
    difference,
    file_of,
    png_chunk,
    swapped_profile,
)

PNG = file_of(ASTRONAUT, "PNG")

# Extras of PNG -----------------------------------------------------------------------------------


def spoilt(kind: bytes, body: bytes) -> bytes:
    """A chunk with a wrong checksum."""
    chunk = bytearray(png_chunk(kind, body))
    chunk[-1] ^= 255
    return bytes(chunk)


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iCCP", b"big\0\0" + zlib.compress(np.random.default_rng(0).bytes(1_200_000))),
        png_chunk(b"iCCP", b"name\0\0not compressed"),
        png_chunk(b"iCCP", b"name\0\7" + zlib.compress(SRGB_PROFILE)),
        png_chunk(b"iCCP", b"bomb\0\0" + zlib.compress(bytes(40_000_000))),
        spoilt(b"iCCP", b"name\0\0" + zlib.compress(SRGB_PROFILE)),
        spoilt(b"tEXt", b"Title\0x"),
        spoilt(b"zTXt", b"Title\0\0" + zlib.compress(b"x")),
        spoilt(b"iTXt", b"Title\0\0\0\0\0x"),
        spoilt(b"eXIf", b"II*\0"),
        spoilt(b"tIME", bytes(7)),
        png_chunk(b"zTXt", b"Title\0\7" + zlib.compress(b"x")),
        png_chunk(b"zTXt", b"Title"),
        png_chunk(b"pHYs", b"\0\0"),
        png_chunk(b"gAMA", b"\0"),
        png_chunk(b"cHRM", b"\0"),
        png_chunk(b"sRGB", b""),
        png_chunk(b"tRNS", b"\0"),
        png_chunk(b"acTL", b"\0"),
        png_chunk(b"eXIf", b"\xff" * 50),
        png_chunk(b"iTXt", b""),
        png_chunk(b"abCd", b"anything"),
    ],
    ids=lambda chunk: repr(chunk[4:14]),
)
def test_spoilt_extras_cost_a_png_nothing(chunk: bytes) -> None:
    assert np.array_equal(image.read(after_png_header(PNG, chunk)).pixels, ASTRONAUT)


def test_a_large_profile_is_applied() -> None:
    profile = swapped_profile() + np.random.default_rng(0).bytes(1_200_000)
    profile = struct.pack(">I", len(profile)) + profile[4:]
    chunk = png_chunk(b"iCCP", b"large\0\0" + zlib.compress(profile))
    pixels = image.read(after_png_header(file_of(EDGES, "PNG"), chunk)).pixels
    assert difference(pixels, EDGES[..., [1, 0, 2]]) <= 2


def test_a_spoilt_critical_chunk_is_refused_with_400() -> None:
    body = bytearray(PNG)
    body[-20] ^= 255  # the checksum of IDAT
    with pytest.raises(errors.BadPicture):
        image.read(bytes(body))


# JPEG without its end ----------------------------------------------------------------------------

JPEGS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "4:4:4": {"subsampling": 0, "quality": 98},
    "progressive": {"progressive": True},
    "restarts": {"restart_marker_blocks": 4},
    "restarts of rows": {"restart_marker_rows": 1},
}


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("tail", [b"", b"\xff", bytes(100)])
def test_a_jpeg_that_lacks_nothing_but_its_end_is_read(kind: str, grey: bool, tail: bytes) -> None:
    body = file_of(GREY if grey else ASTRONAUT, "JPEG", **JPEGS[kind])
    whole = image.read(body).pixels
    assert np.array_equal(image.read(body[:-2] + tail).pixels, whole)


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_that_lacks_pixels_is_refused(kind: str) -> None:
    body = file_of(ASTRONAUT, "JPEG", **JPEGS[kind])
    whole = image.read(body).pixels
    read = 0
    for cut in (*range(3, 60), *range(60, len(body) - 700, 97)):
        try:
            pixels = image.read(body[:-cut]).pixels
        except errors.BadPicture:
            continue
        read += 1  # of its last bits some were padding
        assert np.array_equal(pixels, whole), cut
    assert read <= 2


def test_a_progressive_jpeg_without_its_last_scan_is_refused() -> None:
    body = file_of(ASTRONAUT, "JPEG", progressive=True)
    for marker in (b"\xff\xda", b"\xff\xc4"):
        with pytest.raises(errors.BadPicture):
            image.read(body[: body.rfind(marker)])


# Kinds that Pillow lacks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "bits", "channels", "named"),
    [(0xC1, 12, 3, "12-bit"), (0xC3, 8, 3, "lossless"), (0xC5, 8, 3, "hierarchical"),
     (0xC0, 8, 2, "2 channels")],
)  # fmt: skip
def test_a_jpeg_of_an_unusual_kind_is_named_with_415(
    kind: int, bits: int, channels: int, named: str
) -> None:
    frame = struct.pack(">BHHB", bits, 8, 8, channels)
    frame += b"".join(bytes((n, 0x11, 0)) for n in range(1, channels + 1))
    body = b"\xff\xd8\xff" + bytes((kind,)) + struct.pack(">H", len(frame) + 2) + frame
    body += b"\xff\xda\0\x08\1\1\0\0\x3f\0" + bytes(20) + b"\xff\xd9"
    with pytest.raises(errors.NotAPicture, match=named):
        image.read(body)


@pytest.mark.parametrize("compression", [3, 4, 6])  # bit fields of no usual masks; a JPEG inside
def test_a_bmp_of_an_unusual_layout_is_refused_with_415(compression: int) -> None:
    body = bytearray(KINDS["bmp"])
    body[30] = compression
    with pytest.raises(errors.NotAPicture, match=r"BMP of an unusual layout.*convert"):
        image.read(bytes(body))


# JPEG 2000 and AVIF ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"no_jp2": True}])
def test_jpeg_2000_gives_its_own_pixels(options: Any) -> None:
    pytest.importorskip("PIL.Jpeg2KImagePlugin")
    assert np.array_equal(image.read(file_of(ASTRONAUT, "JPEG2000", **options)).pixels, ASTRONAUT)
    assert np.array_equal(image.read(file_of(GREY, "JPEG2000", **options)).pixels, GREY)
    wide = GREY.astype(np.uint16) * 257
    assert np.array_equal(image.read(file_of(wide, "JPEG2000", **options)).pixels, GREY)


def test_a_profile_of_jpeg_2000_is_applied() -> None:
    body = bytearray(file_of(EDGES, "JPEG2000"))
    at = body.index(b"colr") - 4
    profile = swapped_profile()
    box = struct.pack(">I", 11 + len(profile)) + b"colr\2\0\0" + profile
    header = body.index(b"jp2h") - 4
    old = int.from_bytes(body[at : at + 4], "big")
    size = int.from_bytes(body[header : header + 4], "big") + len(box) - old
    body[at : at + old] = box
    body[header : header + 4] = size.to_bytes(4, "big")
    assert difference(image.read(bytes(body)).pixels, EDGES[..., [1, 0, 2]]) <= 2


def test_avif_gives_nearly_its_own_pixels() -> None:
    picture = image.read(file_of(ASTRONAUT, "AVIF", quality=95))
    assert picture.pixels.shape == ASTRONAUT.shape
    assert np.abs(picture.pixels.astype(int) - ASTRONAUT).mean() < 5


@pytest.mark.parametrize("format", ["AVIF", "JPEG2000"])
def test_the_limits_hold_for_jpeg_2000_and_avif(format: str) -> None:
    body = file_of(ASTRONAUT, format)
    with pytest.raises(errors.TooLarge):
        image.read(body, image.Limits(max_pixels=96 * 64 - 1))
    for cut in (len(body) // 2, 60):
        with pytest.raises(errors.BadPicture):
            image.read(body[:cut])


# What is no picture ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "named"), [(b"%PDF-1.7\n", "PDF"), (b"8BPS\0\1", "Photoshop"), (b"<svg/>", "SVG")]
)
def test_what_people_send_instead_is_named(body: bytes, named: str) -> None:
    with pytest.raises(errors.NotAPicture, match=f"{named}.*; convert"):
        image.read(body)


# Limits ------------------------------------------------------------------------------------------


def test_a_picture_of_one_endless_row_is_refused() -> None:
    for size in ((1, 100_001), (100_001, 1)):
        with pytest.raises(errors.TooLarge, match="a side"):
            image.read(file_of(np.zeros(size, np.uint8), "PNG"))
    long = image.read(
        file_of(np.zeros((1, 100_001), np.uint8), "PNG"), image.Limits(max_side=10**6)
    )
    assert long.width == 100_001


def test_limits_can_be_raised_above_pillows_guard() -> None:
    body = file_of(np.zeros((14_000, 14_000), bool), "PNG")  # 196 megapixels
    with pytest.raises(errors.TooLarge):
        image.read(body)
    before = Image.MAX_IMAGE_PIXELS
    assert image.read(body, image.Limits(max_pixels=200_000_000)).height == 14_000
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "5", None])
def test_limits_are_whole_numbers(value: Any) -> None:
    with pytest.raises(errors.BadOption, match="max_pixels"):
        image.Limits(max_pixels=value)


# Names -------------------------------------------------------------------------------------------


def test_every_suffix_is_read_and_belongs_to_a_format_that_is_there() -> None:
    savers = {"HEIF": "HEIF", "JPEG": "JPEG", "MPO": "MPO"}
    Image.init()
    for suffix in image.SUFFIXES:
        format = Image.EXTENSION.get(suffix)
        if format is None:  # .hif, which only cameras write
            continue
        body = file_of(ASTRONAUT, savers.get(format, format))
        assert image.read(body).pixels.shape == ASTRONAUT.shape, suffix
    assert {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".dib", ".tif", ".bmp"} < image.SUFFIXES


def test_a_dib_without_a_file_header_is_read() -> None:
    file = io.BytesIO()
    Image.fromarray(ASTRONAUT).save(file, "DIB")
    assert np.array_equal(image.read(file.getvalue()).pixels, ASTRONAUT)


def test_a_jpeg_of_a_million_segments_is_refused_at_once() -> None:
    body = b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000 + file_of(ASTRONAUT, "JPEG")[2:]
    with pytest.raises(errors.BadPicture):
        image.read(body)

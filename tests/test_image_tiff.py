"""TIFF: the page that is the photograph, and every layout of its samples."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from colorizer import errors, image
from tests.pictures import (
    ASTRONAUT,
    EDGES,
    GREY,
    difference,
    file_of,
    linear_grey_profile,
    png_chunk,
    tiff,
    tiff_of,
)
from tests.support import Capture

DEEP = ASTRONAUT.astype(np.uint16) * 256 + 100  # (64, 96, 3)
FOUR = np.dstack([DEEP, DEEP[::-1, :, 0]])


def planes(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(values, -1, 0))


def with_tag(body: bytes, tag: int, kind: int, value: int, page: int = 0) -> bytes:
    """Change an entry of a little-endian TIFF's directory."""
    (at,) = struct.unpack_from("<I", body, 4)
    for _ in range(page):
        (at,) = struct.unpack_from("<I", body, at + 2 + 12 * body[at])
    for entry in range(at + 2, at + 2 + 12 * body[at], 12):
        if struct.unpack_from("<H", body, entry)[0] == tag:
            return body[: entry + 2] + struct.pack("<HII", kind, 1, value) + body[entry + 12 :]
    raise AssertionError(tag)


# Layouts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 32)])
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("big", [False, True])
def test_uncompressed_planes_give_their_own_pixels(
    order: Any, tile: Any, bits: int, big: bool
) -> None:
    values = (ASTRONAUT.astype(np.uint64) * ((2**bits - 1) // 255)).astype(f"u{bits // 8}")
    body = tiff(
        planes(values), photometric="rgb", planarconfig="separate", byteorder=order, tile=tile,
        bigtiff=big,
    )  # fmt: skip
    assert difference(image.read(body).pixels, ASTRONAUT) == 0


@pytest.mark.parametrize("order", ["<", ">"])
def test_planes_of_a_flat_picture_are_flat(order: Any) -> None:
    flat = np.full((3, 8, 8), 40000, np.uint16)
    body = tiff(flat, photometric="rgb", planarconfig="separate", byteorder=order)
    assert (image.read(body).pixels == 156).all()


def test_alpha_in_a_plane_is_put_aside() -> None:
    body = tiff(
        planes(FOUR), photometric="rgb", planarconfig="separate", extrasamples=["unassalpha"]
    )
    picture = image.read(body)
    assert picture.alpha is not None
    assert difference(picture.pixels, ASTRONAUT) <= 1
    assert difference(picture.alpha, ASTRONAUT[::-1, :, 0]) <= 1


@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_16_bit_cmyk_is_the_same_in_planes_as_together(planar: Any) -> None:
    values = planes(FOUR) if planar == "separate" else FOUR
    body = tiff(values, photometric="separated", planarconfig=planar)
    together = file_of(Image.frombytes("CMYK", (96, 64), (FOUR >> 8).astype(np.uint8)), "TIFF")
    assert difference(image.read(body).pixels, image.read(together).pixels) <= 2


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("options", [{}, {"compression": "deflate"}, {"tile": (32, 16)}])
def test_floats_go_from_0_to_1(kind: Any, grey: bool, options: Any) -> None:
    expected = GREY if grey else ASTRONAUT
    body = tiff((expected / 255).astype(kind), photometric=None if grey else "rgb", **options)
    assert difference(image.read(body).pixels, expected) <= 1


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("order", ["<", ">"])
def test_predictors_are_undone(kind: Any, channels: int, order: str) -> None:
    """Both ways of TIFF, as libtiff writes them, which compresses by LZW too."""
    expected = GREY[..., None] if channels == 1 else ASTRONAUT
    whole = np.issubdtype(kind, np.integer)
    values = expected / 255 * (np.iinfo(kind).max if whole else 1)
    values = values.astype(kind)
    size = values.dtype.itemsize
    if whole:
        stored = values.copy()
        stored[:, 1:] -= values[:, :-1]
        raw = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    else:
        swapped = values.astype(values.dtype.newbyteorder(">")).reshape(64, -1)
        split = swapped.view(np.uint8).reshape(64, -1, size).transpose(0, 2, 1)
        split = split.reshape(64, -1, channels)
        stored = split.copy()
        stored[:, 1:] -= split[:, :-1]
        raw = stored.tobytes()
    tags = {
        257: 64, 259: 8, 262: 1 if channels == 1 else 2, 277: channels, 278: 64,
        317: 2 if whole else 3, 339: 1 if whole else 3,
    }  # fmt: skip
    body = tiff_of(zlib.compress(raw), 96, size * 8, order, more=tags)
    assert difference(image.read(body).pixels.reshape(expected.shape), expected) <= 1


@pytest.mark.parametrize("kind", [np.int16, np.uint16, np.int32, np.uint32, np.float32])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [None, "deflate"])
def test_wide_grey_of_either_byte_order_is_read(kind: Any, order: Any, compression: Any) -> None:
    most = np.iinfo(kind).max if np.issubdtype(kind, np.integer) else 1
    values = (GREY / 255 * most).astype(kind)
    body = tiff(values, byteorder=order, compression=compression, photometric="minisblack")
    assert difference(image.read(body).pixels, GREY) <= 1


@pytest.mark.parametrize("bits", [3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 24])
@pytest.mark.parametrize("inverted", [False, True])
def test_grey_of_odd_depths_is_scaled_by_its_range(bits: int, inverted: bool) -> None:
    values = np.array([0, 1, 2**bits // 2, 2**bits - 1, 2**bits // 3], np.uint64)
    flat = "".join(f"{value:0{bits}b}" for value in values)
    flat += "0" * (-len(flat) % 8)
    raw = int(flat, 2).to_bytes(len(flat) // 8, "big")
    body = tiff_of(raw, 5, bits, ">", more={262: 0 if inverted else 1})
    expected = np.rint(values / (2**bits - 1) * 255).astype(int)
    assert (
        np.abs(image.read(body).pixels[0] - (255 - expected if inverted else expected)).max() <= 1
    )


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("extra", [["unspecified"], ["unassalpha"], None])
def test_grey_with_a_second_channel_is_read(kind: Any, extra: Any) -> None:
    scale = 1 if kind == np.uint8 else 257
    values = np.dstack([GREY, GREY[::-1]]).astype(kind) * kind(scale)
    body = tiff(values, photometric="minisblack", planarconfig="contig", extrasamples=extra)
    picture = image.read(body)
    assert difference(picture.pixels, GREY) == 0
    assert (picture.alpha is not None) == (extra == ["unassalpha"])


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_cmyk_with_alpha_is_read(kind: Any) -> None:
    values = np.zeros((4, 4, 5), kind)
    values[..., 4] = np.iinfo(kind).max // 2
    options: Any = {"planarconfig": "contig", "extrasamples": ["unassalpha"]}
    picture = image.read(tiff(values, photometric="separated", **options))
    assert picture.alpha is not None
    assert picture.pixels.min() > 245  # paper
    assert difference(picture.alpha, np.full((4, 4), 127)) <= 1


def test_premultiplied_alpha_of_16_bits_is_undone() -> None:
    values = np.zeros((2, 2, 4), np.uint16)
    values[...] = (16384, 8192, 0, 32768)
    body = tiff(planes(values), photometric="rgb", planarconfig="separate",
                extrasamples=["assocalpha"])  # fmt: skip
    picture = image.read(body)
    assert np.abs(picture.pixels[0, 0].astype(int) - (128, 64, 0)).max() <= 2


def test_signed_bytes_are_scaled_from_zero() -> None:
    body = tiff_of(np.array([-5, 0, 64, 127], np.int8).tobytes(), 4, 8, more={339: 2})
    assert image.read(body).pixels.tolist() == [[0, 0, 129, 255]]


def test_webp_and_jpeg_2000_inside_a_tiff_are_read() -> None:
    for compression, format, options in (
        (50001, "WEBP", {"lossless": True}),
        (34712, "JPEG2000", {"no_jp2": True}),
    ):
        stored = file_of(ASTRONAUT, format, **options)
        body = tiff_of(stored, 96, 8, more={257: 64, 259: compression, 262: 2, 277: 3, 278: 64})
        assert difference(image.read(body).pixels, ASTRONAUT) <= 1


@pytest.mark.parametrize(
    ("tags", "named"),
    [
        ({259: 34887}, "LERC"),
        ({259: 52546}, "JPEG XL"),
        ({259: 12345}, "12345"),
        ({339: 5, 258: 64}, "complex"),
        ({262: 8, 258: 32, 277: 3}, "Lab"),
        ({339: 3, 258: 24}, "24 bits, float"),
    ],
)
def test_a_layout_that_is_not_read_is_named_with_415(tags: dict[int, int], named: str) -> None:
    with pytest.raises(errors.NotAPicture, match=named) as caught:
        image.read(tiff_of(bytes(64), 2, tags.pop(258, 8), more=tags))
    assert "convert" in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16)}, {"compression": "deflate"}])
@pytest.mark.parametrize("cut", [0.3, 0.6, 0.95])
def test_a_cut_tiff_of_planes_is_refused_with_400(cut: float, options: Any) -> None:
    body = tiff((planes(DEEP) / 65535).astype(np.float32), photometric="rgb",
                planarconfig="separate", **options)  # fmt: skip
    with pytest.raises(errors.BadPicture, match="cut short"):
        image.read(body[: int(len(body) * cut)])


def test_an_unpacked_strip_too_large_for_memory_is_refused() -> None:
    body = tiff_of(zlib.compress(bytes(100)), 7000, 64, more={257: 7000, 278: 7000, 259: 8, 339: 3})
    with pytest.raises(errors.TooLarge, match="strip"):
        image.read(body)


def test_tags_that_share_their_bytes_do_not_fill_the_memory() -> None:
    padding = 2_000_000
    entries = b"".join(struct.pack("<HHII", 40000 + n, 1, padding, 8) for n in range(2000))
    table = struct.pack("<H", 2000) + entries + bytes(4)
    exif = b"II*\0" + struct.pack("<I", 8 + padding) + bytes(padding) + table
    for body in (
        exif,
        file_of(EDGES, "PNG")[:33] + png_chunk(b"eXIf", exif) + file_of(EDGES, "PNG")[33:],
    ):
        with pytest.raises(errors.BadPicture):
            image.read(body)


def test_libtiff_prints_nothing(capfd: Capture) -> None:
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        body = bytearray(file_of(ASTRONAUT, "TIFF", compression=compression))
        body[300:2000:7] = bytes(len(body[300:2000:7]))
        try:
            image.read(bytes(body))
        except errors.RequestError:
            continue
    assert capfd.readouterr().err == ""


# Pages -------------------------------------------------------------------------------------------


def thumbnail_first(second: Any, sub: bool, **options: Any) -> bytes:
    """A reduced first page, and another in a SubIFD or as a later page."""
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        small: Any = {"photometric": "rgb", "subfiletype": 1}
        writer.write(ASTRONAUT[::4, ::4], subifds=1 if sub else 0, **small)
        writer.write(second, **options)
    return file.getvalue()


@pytest.mark.parametrize("sub", [False, True])
def test_a_thumbnail_is_not_taken_for_the_picture(sub: bool) -> None:
    body = thumbnail_first(ASTRONAUT, sub, photometric="rgb", subfiletype=0)
    assert np.array_equal(image.read(body).pixels, ASTRONAUT)


@pytest.mark.parametrize("sub", [False, True])
@pytest.mark.parametrize("photometric", [32803, 34892])
def test_a_camera_raw_file_is_named_with_415(sub: bool, photometric: int) -> None:
    values = GREY if photometric == 32803 else ASTRONAUT
    body = thumbnail_first(values.astype(np.uint16), sub, photometric=photometric, subfiletype=0)
    with pytest.raises(errors.NotAPicture, match="raw"):
        image.read(body)


def test_a_mask_is_not_taken_for_the_picture() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(ASTRONAUT[::4, ::4], photometric="rgb", subfiletype=1)
        writer.write(np.zeros((200, 200), np.uint8), photometric="minisblack", subfiletype=2)
        writer.write(ASTRONAUT, photometric="rgb", subfiletype=2)
    body = with_tag(file.getvalue(), 254, 4, 4, page=1)
    assert np.array_equal(image.read(body).pixels, ASTRONAUT)


def test_a_picture_that_calls_itself_reduced_is_read_where_there_is_no_other() -> None:
    body = tiff(ASTRONAUT, photometric="rgb", subfiletype=1)
    assert np.array_equal(image.read(body).pixels, ASTRONAUT)


def test_pages_in_a_circle_end() -> None:
    body = bytearray(tiff(ASTRONAUT, photometric="rgb", subfiletype=1))
    (at,) = struct.unpack_from("<I", body, 4)
    struct.pack_into("<I", body, at + 2 + 12 * body[at], at)
    assert np.array_equal(image.read(bytes(body)).pixels, ASTRONAUT)


# Depth and profiles ------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "TIFF", "big-endian", "white is zero", "float"])
def test_a_dark_linear_photograph_keeps_its_tones(format: str) -> None:
    """The profile's curve comes before 8 bits: afterwards, dark tones would be few."""
    dark = (np.arange(64 * 64).reshape(64, 64) // 2).astype(np.uint16)  # up to 3% of light
    profile = linear_grey_profile()
    if format in ("PNG", "TIFF"):
        body = file_of(dark, format, icc_profile=profile)
    else:
        values = dark / 65535 if format == "float" else dark
        values = 65535 - values if format == "white is zero" else values
        body = tiff(
            values.astype(np.float32 if format == "float" else np.uint16),
            photometric="miniswhite" if format == "white is zero" else "minisblack",
            byteorder=">" if format == "big-endian" else "<",
            iccprofile=profile,
        )
    linear = dark / 65535
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    pixels = image.read(body).pixels
    assert len(np.unique(pixels)) > 45
    assert difference(pixels, np.rint(255 * encoded)) <= 1

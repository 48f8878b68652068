"""What is read: each format's pixels, alpha, more than 8 bits."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from colorizer import image
from tests.pictures import (
    ALPHA,
    ASTRONAUT,
    EDGES,
    GREY,
    KINDS,
    RGBA,
    WIDE,
    WIDE_AS_8_BITS,
    difference,
    file_of,
    png_chunk,
    tiff_of,
)

# What is read ------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_a_lossless_rgb_file_gives_its_own_pixels(format: str) -> None:
    picture = image.read(file_of(ASTRONAUT, format))
    assert np.array_equal(picture.pixels, ASTRONAUT)
    assert picture.alpha is None
    assert (picture.height, picture.width) == (64, 96)


def test_a_lossless_webp_gives_its_own_pixels() -> None:
    assert np.array_equal(image.read(KINDS["lossless webp"]).pixels, ASTRONAUT)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_a_jpeg_gives_nearly_its_own_pixels(options: dict[str, Any]) -> None:
    picture = image.read(file_of(EDGES, "JPEG", quality=98, **options))
    assert difference(picture.pixels[8::16, 8::16], EDGES[8::16, 8::16]) < 10
    assert picture.pixels.shape == EDGES.shape


def test_a_gif_gives_the_colours_of_its_palette() -> None:
    assert np.array_equal(image.read(file_of(EDGES, "GIF")).pixels, EDGES)


def test_a_jpeg_with_several_pictures_gives_the_first() -> None:
    file = io.BytesIO()
    second = Image.fromarray(EDGES[::-1].copy())
    Image.fromarray(EDGES).save(file, "MPO", save_all=True, append_images=[second], quality=98)
    pixels = image.read(file.getvalue()).pixels
    assert difference(pixels[8::16, 8::16], EDGES[8::16, 8::16]) < 10


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_the_first_frame_counts(format: str) -> None:
    more = [Image.fromarray(EDGES[::-1].copy())]
    options = {"lossless": True} if format == "WEBP" else {}
    body = file_of(EDGES, format, save_all=True, append_images=more, **options)
    assert np.array_equal(image.read(body).pixels, EDGES)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "BMP"])
def test_a_grey_file_gives_two_axes(format: str) -> None:
    pixels = image.read(file_of(GREY, format)).pixels
    assert pixels.shape == GREY.shape
    assert difference(pixels, GREY) <= (60 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF"])
def test_one_bit_becomes_black_and_white(format: str) -> None:
    pixels = image.read(file_of(GREY > 128, format)).pixels
    assert np.array_equal(pixels, np.where(GREY > 128, 255, 0))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "GIF"])
def test_a_palette_is_looked_up(format: str) -> None:
    palette = Image.fromarray(EDGES).quantize(6)
    assert np.array_equal(image.read(file_of(palette, format)).pixels, EDGES)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF"])
def test_one_pixel_is_a_picture(format: str) -> None:
    white = image.read(file_of(np.full((1, 1, 3), 255, np.uint8), format))
    assert white.pixels.min() == 255
    assert (white.height, white.width) == (1, 1)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes_is_read(kind: Any) -> None:
    assert np.array_equal(image.read(kind(KINDS["bmp"])).pixels, ASTRONAUT)


def test_the_pixels_of_a_picture_cannot_be_changed() -> None:
    for body in (*KINDS.values(), file_of(WIDE, "PNG", transparency=1000)):
        picture = image.read(body)
        assert not picture.pixels.flags.writeable
        assert picture.alpha is None or not picture.alpha.flags.writeable


# Alpha -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_put_aside(format: str) -> None:
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    picture = image.read(file_of(RGBA, format, **options))
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, ALPHA)
    assert np.array_equal(picture.pixels, ASTRONAUT)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_with_alpha_stays_grey(format: str) -> None:
    grey = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(ALPHA)])
    picture = image.read(file_of(grey, format))
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, ALPHA)
    assert np.array_equal(picture.pixels, GREY)


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_becomes_alpha(format: str) -> None:
    palette = Image.fromarray(EDGES).quantize(6)
    red = palette.getpixel((0, 0))
    picture = image.read(file_of(palette, format, transparency=red))
    assert picture.alpha is not None
    assert (picture.alpha[:16, :16] == 0).all()
    assert (picture.alpha[16:] == 255).all()
    assert np.array_equal(picture.pixels[:, 16:], EDGES[:, 16:])


def test_half_transparent_palette_entries_become_alpha() -> None:
    palette = Image.fromarray(EDGES).quantize(6)
    opacity = bytes([10, 20, 30, 40, 50, 60])
    picture = image.read(file_of(palette, "PNG", transparency=opacity))
    expected = np.frombuffer(opacity, np.uint8)[np.asarray(palette)]
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, expected)
    assert np.array_equal(picture.pixels, EDGES)


@pytest.mark.parametrize(
    ("pixels", "key"),
    [
        (EDGES, (255, 0, 0)),
        (EDGES[..., 1] // 2 + EDGES[..., 0] // 4, 63),
        (EDGES[..., 0].astype(np.uint16) * 3, 765),
        ((EDGES[..., 0] > 0) & (EDGES[..., 1] == 0), 255),
    ],
    ids=["rgb", "grey", "16-bit grey", "1-bit"],
)
def test_the_transparent_colour_of_a_png_becomes_alpha(pixels: np.ndarray, key: Any) -> None:
    picture = image.read(file_of(pixels, "PNG", transparency=key))
    channels = pixels if pixels.ndim == 3 else pixels[..., None]
    value = 1 if pixels.dtype == bool else key
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, np.where((channels == value).all(axis=2), 0, 255))
    assert picture.alpha.min() == 0


# More than 8 bits --------------------------------------------------------------------------------


DEEP: dict[str, tuple[bytes, list[int]]] = {  # a file of one row, and its greys of 8 bits
    "PNG": (file_of(WIDE, "PNG"), WIDE_AS_8_BITS),
    "TIFF": (file_of(WIDE, "TIFF"), WIDE_AS_8_BITS),
    "big-endian": (tiff_of(WIDE.astype(">u2").tobytes(), 7, 16, ">"), WIDE_AS_8_BITS),
    "deflate": (file_of(WIDE, "TIFF", compression="tiff_adobe_deflate"), WIDE_AS_8_BITS),
    "white is zero": (
        tiff_of(WIDE.astype("<u2").tobytes(), 7, 16, more={262: 0}),
        [255, 255, 254, 251, 127, 0, 0],
    ),
    "12 bits: 0, 4095, 2048, 16": (tiff_of(bytes.fromhex("000fff800010"), 4, 12), [0, 255, 128, 1]),
    "16 bits, signed": (
        tiff_of(np.array([-5, 0, 16384, 32767], "<i2").tobytes(), 4, 16, more={339: 2}),
        [0, 0, 128, 255],
    ),
    "32 bits, signed": (
        file_of(np.array([[-5, 0, 2**30, 2**31 - 1]], np.int32), "TIFF"),
        [0, 0, 128, 255],
    ),
    "32 bits": (
        tiff_of(np.array([0, 2**30, 2**31, 2**32 - 1], "<u4").tobytes(), 4, 32),
        [0, 64, 128, 255],
    ),
    "float": (
        file_of(np.array([[-1, 0, 0.5, 1, 7, np.nan, np.inf, -np.inf]], np.float32), "TIFF"),
        [0, 0, 128, 255, 255, 0, 255, 0],
    ),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", DEEP)
def test_deep_grey_is_scaled_by_its_range_from_zero(kind: str) -> None:
    body, expected = DEEP[kind]
    assert image.read(body).pixels.tolist() == [expected]


@pytest.mark.parametrize(("colour", "bits"), [(2, 16), (4, 16), (6, 16)])
def test_16_bit_png_of_several_channels_is_read(colour: int, bits: int) -> None:
    channels = {2: 3, 4: 2, 6: 4}[colour]
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, colour, 0, 0, 0))
    pixels = zlib.compress(b"\0" + b"\x00\x00" * channels + b"\xff\xff" * channels)
    body = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    picture = image.read(body)
    assert picture.pixels.reshape(2, -1)[:, 0].tolist() == [0, 255]
    assert (picture.alpha is None) == (colour == 2)

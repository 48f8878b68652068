"""What is written."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from colorizer import encode, errors, image
from colorizer.options import Options
from tests.pictures import ALPHA, ASTRONAUT, SRGB_PROFILE, exif, file_of


@pytest.mark.parametrize("format", encode.CONTENT_TYPES)
def test_what_is_written_reads_back(format: Any) -> None:
    body = encode.write(ASTRONAUT, Options(format))
    written = Image.open(io.BytesIO(body))
    assert written.get_format_mimetype() == encode.CONTENT_TYPES[format]
    error = np.abs(image.read(body).pixels.astype(int) - ASTRONAUT).mean()
    assert error == 0 if format in ("png", "tiff") else 0 < error < 5


@pytest.mark.parametrize("format", ["png", "webp", "tiff"])
def test_alpha_goes_there_and_back(format: Any) -> None:
    picture = image.read(encode.write(ASTRONAUT, Options(format), ALPHA))
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, ALPHA)
    assert np.abs(picture.pixels.astype(int) - ASTRONAUT)[:, 48:].mean() < 5


def test_jpeg_puts_white_behind_what_is_transparent() -> None:
    alpha = np.zeros((32, 48), np.uint8)
    alpha[:, 16:32], alpha[:, 32:] = 128, 255
    body = encode.write(np.zeros((32, 48, 3), np.uint8), Options("jpeg"), alpha)
    clear, half, opaque = image.read(body).pixels[16, [8, 24, 40]].astype(int)
    assert clear.min() > 250
    assert np.abs(half - 127).max() < 6
    assert opaque.max() < 6


def test_jpeg_has_colours_at_half_its_size() -> None:
    written = Image.open(io.BytesIO(encode.write(ASTRONAUT, Options("jpeg"))))
    sampling = [layer[1:3] for layer in written.layer]  # type: ignore[attr-defined]
    assert sampling == [(2, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_quality_reaches_the_encoder(format: Any) -> None:
    low, high = (encode.write(ASTRONAUT, Options(format, q)) for q in (30, 95))
    assert len(low) < len(high) / 2


def test_png_declares_srgb() -> None:
    written = Image.open(io.BytesIO(encode.write(ASTRONAUT, Options("png"))))
    assert written.info["srgb"] == 0


@pytest.mark.parametrize("format", encode.CONTENT_TYPES)
def test_no_metadata_is_written(format: Any) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "somebody")
    body = file_of(ASTRONAUT, "PNG", exif=exif(6), icc_profile=SRGB_PROFILE, pnginfo=text)
    pixels = image.read(body).pixels
    written = Image.open(io.BytesIO(encode.write(pixels, Options(format))))
    profile = {"icc_profile"} if format != "tiff" else set()
    assert not ({"exif", "xmp", "Author"} | profile) & set(written.info)
    if format == "tiff":  # only what describes its pixels
        assert not set(written.getexif()) & {270, 271, 272, 305, 306, 315, 33432, 0x8769, 0x8825}
    else:
        assert not written.getexif()


def test_a_view_that_is_not_contiguous_is_written() -> None:
    flipped = ASTRONAUT[:, ::-1]
    body = encode.write(flipped, Options("png"), ALPHA[:, ::-1])
    assert np.array_equal(image.read(body).pixels, flipped)


@pytest.mark.parametrize(
    ("format", "most", "fits"), [("jpeg", 65_500, "png"), ("webp", 16_383, "jpeg or png")]
)
def test_a_side_too_long_for_a_format_is_refused_with_422(
    format: Any, most: int, fits: str
) -> None:
    options = Options(format)
    assert image.read(encode.write(np.zeros((1, most, 3), np.uint8), options)).width == most
    for shape in ((1, most + 1, 3), (most + 1, 1, 3)):
        with pytest.raises(errors.BadOption, match=f"use {fits}"):
            encode.write(np.zeros(shape, np.uint8), options)


def test_a_tiff_beyond_4_gb_is_refused_before_the_work() -> None:
    with pytest.raises(errors.BadOption, match="4 GB"):
        encode.check_format(Options("tiff"), 40_000, 20_000)
    encode.check_format(Options("png"), 40_000, 20_000)


def test_png_takes_the_longest_side() -> None:
    body = encode.write(np.zeros((1, 70_000, 3), np.uint8), Options("png"))
    assert image.read(body).width == 70_000

"""Options of writing, and what is written."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from colorizer import image
from colorizer.options import Options
from tests.pictures import (
    ALPHA,
    ASTRONAUT,
    SRGB_PROFILE,
    exif,
    file_of,
)

# Options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [0, 101, -1, 92.0, "92", True, None])
def test_a_wrong_quality_is_refused_with_422(quality: Any) -> None:
    with pytest.raises(image.BadOption) as caught:
        Options(quality=quality)
    assert all(part in str(caught.value) for part in ("quality", repr(quality), "1 to 100"))


@pytest.mark.parametrize("format", ["gif", "JPEG", "", None, 3, ["png"]])
def test_a_wrong_format_is_refused_with_422(format: Any) -> None:
    with pytest.raises(image.BadOption) as caught:
        Options(format=format)
    assert all(
        part in str(caught.value) for part in ("format", repr(format), "jpeg, png, webp, tiff")
    )


def test_a_long_value_is_not_sent_back_whole() -> None:
    with pytest.raises(image.BadOption) as caught:
        Options(format="x\r\n" * 10_000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bits", "profile", "compression"])
@pytest.mark.parametrize("value", ["12", 16, "", None, ["srgb"]])
def test_another_wrong_option_is_refused_with_422(name: str, value: Any) -> None:
    with pytest.raises(image.BadOption, match=f"{name} is") as caught:
        Options("tiff", **{name: value})
    assert "use " in str(caught.value)


@pytest.mark.parametrize("quality", [1, 100])
def test_the_ends_of_quality_are_allowed(quality: int) -> None:
    assert Options(quality=quality).quality == quality


# What is written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", image.CONTENT_TYPES)
def test_what_is_written_reads_back(format: Any) -> None:
    body = image.write(ASTRONAUT, Options(format))
    written = Image.open(io.BytesIO(body))
    assert written.get_format_mimetype() == image.CONTENT_TYPES[format]
    error = np.abs(image.read(body).pixels.astype(int) - ASTRONAUT).mean()
    assert error == 0 if format in ("png", "tiff") else 0 < error < 5


@pytest.mark.parametrize("format", ["png", "webp", "tiff"])
def test_alpha_goes_there_and_back(format: Any) -> None:
    picture = image.read(image.write(ASTRONAUT, Options(format), ALPHA))
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, ALPHA)
    assert np.abs(picture.pixels.astype(int) - ASTRONAUT)[:, 48:].mean() < 5


def test_jpeg_puts_white_behind_what_is_transparent() -> None:
    alpha = np.zeros((32, 48), np.uint8)
    alpha[:, 16:32], alpha[:, 32:] = 128, 255
    body = image.write(np.zeros((32, 48, 3), np.uint8), Options("jpeg"), alpha)
    clear, half, opaque = image.read(body).pixels[16, [8, 24, 40]].astype(int)
    assert clear.min() > 250
    assert np.abs(half - 127).max() < 6
    assert opaque.max() < 6


def test_jpeg_has_colours_at_half_its_size() -> None:
    written = Image.open(io.BytesIO(image.write(ASTRONAUT, Options("jpeg"))))
    sampling = [layer[1:3] for layer in written.layer]  # type: ignore[attr-defined]
    assert sampling == [(2, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_quality_reaches_the_encoder(format: Any) -> None:
    low, high = (image.write(ASTRONAUT, Options(format, q)) for q in (30, 95))
    assert len(low) < len(high) / 2


def test_png_declares_srgb() -> None:
    written = Image.open(io.BytesIO(image.write(ASTRONAUT, Options("png"))))
    assert written.info["srgb"] == 0


@pytest.mark.parametrize("format", image.CONTENT_TYPES)
def test_no_metadata_is_written(format: Any) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "somebody")
    body = file_of(ASTRONAUT, "PNG", exif=exif(6), icc_profile=SRGB_PROFILE, pnginfo=text)
    pixels = image.read(body).pixels
    written = Image.open(io.BytesIO(image.write(pixels, Options(format))))
    profile = {"icc_profile"} if format != "tiff" else set()
    assert not ({"exif", "xmp", "Author"} | profile) & set(written.info)
    if format == "tiff":  # only what describes its pixels
        assert not set(written.getexif()) & {270, 271, 272, 305, 306, 315, 33432, 0x8769, 0x8825}
    else:
        assert not written.getexif()


def test_a_view_that_is_not_contiguous_is_written() -> None:
    flipped = ASTRONAUT[:, ::-1]
    body = image.write(flipped, Options("png"), ALPHA[:, ::-1])
    assert np.array_equal(image.read(body).pixels, flipped)


@pytest.mark.parametrize(
    ("format", "most", "fits"), [("jpeg", 65_500, "png"), ("webp", 16_383, "jpeg or png")]
)
def test_a_side_too_long_for_a_format_is_refused_with_422(
    format: Any, most: int, fits: str
) -> None:
    options = Options(format)
    assert image.read(image.write(np.zeros((1, most, 3), np.uint8), options)).width == most
    for shape in ((1, most + 1, 3), (most + 1, 1, 3)):
        with pytest.raises(image.BadOption, match=f"use {fits}"):
            image.write(np.zeros(shape, np.uint8), options)


def test_a_tiff_beyond_4_gb_is_refused_before_the_work() -> None:
    with pytest.raises(image.BadOption, match="4 GB"):
        image.check_format(Options("tiff"), 40_000, 20_000)
    image.check_format(Options("png"), 40_000, 20_000)


def test_png_takes_the_longest_side() -> None:
    body = image.write(np.zeros((1, 70_000, 3), np.uint8), Options("png"))
    assert image.read(body).width == 70_000

"""What is applied while reading: orientation, colour profiles; HEIC and extreme shapes."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from colorizer import encode, errors, image
from colorizer.options import Options
from tests.pictures import (
    ALPHA,
    ASTRONAUT,
    EDGES,
    GREY,
    RGBA,
    SRGB_PROFILE,
    WIDE,
    WIDE_AS_8_BITS,
    cmyk_profile_whose_cyan_is_red,
    difference,
    exif,
    file_of,
    linear_grey_profile,
    png_chunk,
    swapped_profile,
)
from tests.support import Patch

# Orientation -------------------------------------------------------------------------------------

STORED = {  # EXIF 2.32: where the stored first row and first column belong
    1: EDGES,  # top, left
    2: EDGES[:, ::-1],  # top, right
    3: EDGES[::-1, ::-1],  # bottom, right
    4: EDGES[::-1],  # bottom, left
    5: EDGES.transpose(1, 0, 2),  # left, top
    6: np.rot90(EDGES),  # right, top
    7: np.rot90(EDGES)[:, ::-1],  # right, bottom
    8: np.rot90(EDGES, -1),  # left, bottom
}


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_picture_is_turned_upright(orientation: int, format: str) -> None:
    options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}}
    stored = np.ascontiguousarray(STORED[orientation])
    body = file_of(stored, format, exif=exif(orientation), **options.get(format, {}))
    assert difference(image.read(body).pixels, EDGES) < 10


def test_alpha_is_turned_with_the_picture() -> None:
    picture = image.read(file_of(np.rot90(RGBA).copy(), "PNG", exif=exif(6)))
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, ALPHA)


def test_16_bit_grey_is_turned_upright() -> None:
    body = file_of(np.rot90(WIDE).copy(), "PNG", exif=exif(6))
    assert image.read(body).pixels.tolist() == [WIDE_AS_8_BITS]


def test_a_tiff_of_several_pages_is_turned_only_once() -> None:
    stored = Image.fromarray(np.rot90(EDGES).copy())
    body = file_of(stored, "TIFF", exif=exif(6), save_all=True, append_images=[stored])
    assert np.array_equal(image.read(body).pixels, EDGES)


@pytest.mark.parametrize("spoilt", [exif(0), exif(9), exif(999), b"Exif\0\0spoilt", b"spoilt"])
def test_a_spoilt_orientation_is_ignored(spoilt: Any) -> None:
    assert np.array_equal(image.read(file_of(EDGES, "PNG", exif=spoilt)).pixels, EDGES)


# Colour profiles ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_the_profile_of_srgb_changes_nothing(format: str) -> None:
    options = {"lossless": True} if format == "WEBP" else {}
    body = file_of(ASTRONAUT, format, icc_profile=SRGB_PROFILE, **options)
    assert difference(image.read(body).pixels, ASTRONAUT) <= 1


@pytest.mark.parametrize("mode", ["RGB", "P"])
def test_a_profile_is_applied(mode: str) -> None:
    picture = Image.fromarray(EDGES[:, :32]).convert("RGB")
    picture = picture if mode == "RGB" else picture.quantize(4)
    pixels = image.read(file_of(picture, "PNG", icc_profile=swapped_profile())).pixels
    assert difference(pixels, EDGES[:, :32][..., [1, 0, 2]]) <= 2


def test_a_grey_profile_is_applied_as_a_curve() -> None:
    values = np.array([[0, 55, 188, 255]], np.uint8)  # linear light: 0.2157 and 0.7373
    picture = image.read(file_of(values, "PNG", icc_profile=linear_grey_profile()))
    assert picture.pixels.shape == (1, 4)
    assert difference(picture.pixels, np.array([[0, 128, 222, 255]])) <= 1


def test_a_grey_profile_is_applied_to_16_bits() -> None:
    body = file_of(np.array([[55 * 257]], np.uint16), "PNG", icc_profile=linear_grey_profile())
    assert abs(int(image.read(body).pixels[0, 0]) - 128) <= 1


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize(
    "profile",
    [b"no profile", SRGB_PROFILE[:200], SRGB_PROFILE[:128] + bytes(400)],
    ids=["text", "cut", "zeros"],
)
def test_a_broken_profile_is_ignored(mode: str, profile: bytes) -> None:
    picture = Image.fromarray(EDGES).convert(mode)
    plain = image.read(file_of(picture, "TIFF"))
    assert np.array_equal(
        image.read(file_of(picture, "TIFF", icc_profile=profile)).pixels, plain.pixels
    )


def test_a_profile_for_other_channels_is_ignored() -> None:
    body = file_of(GREY, "PNG", icc_profile=swapped_profile())
    assert np.array_equal(image.read(body).pixels, GREY)
    body = file_of(ASTRONAUT, "PNG", icc_profile=linear_grey_profile())
    assert np.array_equal(image.read(body).pixels, ASTRONAUT)


INKS = np.zeros((16, 48, 4), np.uint8)  # paper, full cyan, full black
INKS[:, 16:32, 0] = INKS[:, 32:, 3] = 255


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_without_a_profile_comes_out_right(format: str) -> None:
    body = file_of(Image.frombytes("CMYK", (48, 16), INKS.tobytes()), format)
    if format == "JPEG":
        assert b"Adobe" in body  # so its inks are stored inverted
    paper, cyan, black = image.read(body).pixels[8, [8, 24, 40]].astype(int)
    assert paper.min() > 245
    assert cyan[0] < 10
    assert cyan[1:].min() > 245
    assert black.max() < 10


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_cmyk_goes_through_its_profile(format: str) -> None:
    profile = cmyk_profile_whose_cyan_is_red()
    body = file_of(Image.frombytes("CMYK", (48, 16), INKS.tobytes()), format, icc_profile=profile)
    paper, cyan, black = image.read(body).pixels[8, [8, 24, 40]].astype(int)
    assert paper.min() > 245
    assert cyan[0] > 245
    assert cyan[1:].max() < 30
    assert black.max() < 10


def test_a_lab_tiff_becomes_rgb() -> None:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    in_lab = ImageCms.profileToProfile(Image.fromarray(ASTRONAUT), srgb, lab, outputMode="LAB")
    pixels = image.read(file_of(in_lab, "TIFF")).pixels.astype(int)
    assert np.abs(pixels - ASTRONAUT).mean() < 2


# What phones write (the extra "heic") ------------------------------------------------------------


def heic(picture: Any, **options: Any) -> bytes:
    pytest.importorskip("pillow_heif")
    return file_of(picture, "HEIF", quality=90, **options)


def test_a_heic_gives_nearly_its_own_pixels() -> None:
    picture = image.read(heic(ASTRONAUT))
    assert picture.pixels.shape == ASTRONAUT.shape
    assert np.abs(picture.pixels.astype(int) - ASTRONAUT).mean() < 12  # its chroma is halved


def test_a_heic_is_turned_upright_once() -> None:
    """By the file's own note, "irot"; EXIF's repeats it in phones' files, and must not count."""
    noted, only_exif = heic(ASTRONAUT, exif=exif(6).tobytes()), heic(ASTRONAUT, exif=exif(6))
    assert b"irot" in noted
    assert image.read(noted).pixels.shape == (96, 64, 3)
    assert image.read(only_exif).pixels.shape == (64, 96, 3)


def test_a_heic_over_the_limit_is_refused_and_a_broken_one_too() -> None:
    body = heic(ASTRONAUT)
    with pytest.raises(errors.TooLarge):
        image.read(body, image.Limits(max_pixels=96 * 64 - 1))
    for broken in (body[: len(body) // 2], body[:40]):
        with pytest.raises(errors.BadPicture):
            image.read(broken)


def test_without_the_extra_a_heic_is_no_allowed_picture(monkeypatch: Patch) -> None:
    body = heic(ASTRONAUT)
    monkeypatch.setattr(image, "FORMATS", tuple(f for f in image.FORMATS if f != "HEIF"))
    with pytest.raises(errors.NotAPicture):
        image.read(body)


# EXIF --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("to", encode.CONTENT_TYPES)
def test_exif_is_kept_without_its_orientation(format: str, to: Any) -> None:
    tags = exif(6)
    tags[ExifTags.Base.Artist] = "E. S. Curtis"
    tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    picture = image.read(file_of(ASTRONAUT, format, exif=tags))
    options = Options(to)
    body = encode.write(picture.pixels, options, metadata=picture.metadata)
    found = Image.open(io.BytesIO(body)).getexif()
    assert found.get(ExifTags.Base.Orientation, 1) == 1
    assert found[ExifTags.Base.Artist] == "E. S. Curtis"
    if format == "TIFF":  # of its own tags who, what and when are kept: others describe its pixels
        own = set(Image.open(io.BytesIO(encode.write(picture.pixels, options))).getexif())
        assert set(found) - own == {ExifTags.Base.Artist}  # Pillow writes no GPS into a TIFF
        return
    assert found.get_ifd(ExifTags.IFD.GPSInfo) == {ExifTags.GPS.GPSLatitudeRef: "N"}


@pytest.mark.parametrize("spoilt", [b"Exif\0\0spoilt", b"spoilt"])
def test_spoilt_exif_is_left_out(spoilt: bytes) -> None:
    assert image.read(file_of(ASTRONAUT, "JPEG", exif=spoilt)).metadata.exif == b""


# The whole range of sizes ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 20_000), (20_000, 1), (3, 16_000)])
def test_extreme_shapes_are_read(size: tuple[int, int]) -> None:
    assert image.read(file_of(np.zeros(size, np.uint8), "PNG")).pixels.shape == size


def test_an_interlaced_png_gives_its_own_pixels() -> None:
    # Adam7, which Pillow reads and doesn't write. Of 2 x 2 pixels the first comes in pass 1, the
    # one beside it in pass 6, the second row in pass 7; each row begins with its filter, 0.
    header = struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1)
    rows = bytes((0, 10, 0, 20, 0, 30, 40))
    body = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header)
    body += png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    assert image.read(body).pixels.tolist() == [[10, 20], [30, 40]]

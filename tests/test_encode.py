"""TIFF and PNG as we write them, opened by libtiff, ImageMagick, ExifTool, tifffile and OpenCV."""

from __future__ import annotations

import io
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import ExifTags, Image

from colorizer import encode, icc, image
from colorizer.metadata import Metadata
from colorizer.options import Options
from tests.pictures import ALPHA, ASTRONAUT, exif, file_of
from tests.support import IMAGEMAGICK

DEEP = ASTRONAUT.astype(np.uint16) * 256 + ASTRONAUT[::-1]
CASES = [
    (rgb, alpha, compression)
    for rgb in (ASTRONAUT, DEEP)
    for alpha in (None, ALPHA)
    for compression in ("deflate", "none")
]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF/></x:xmpmeta>'


def about(order: str = "<") -> Metadata:
    """Of a scan: who, where, the resolution."""
    tags = exif(1)
    tags[ExifTags.Base.Artist] = "E. S. Curtis"
    tags.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = 1
    tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    tags.endian = order
    read = image.read(file_of(ASTRONAUT, "JPEG", exif=tags.tobytes())).metadata
    return Metadata(read.exif, XMP, b"\x1c\x02\x50\x00\x06Curtis", (600.0, 300.5))


def written(rgb: np.ndarray, alpha: Any, compression: Any, more: Metadata, **kind: Any) -> bytes:
    bits: Any = "16" if rgb.dtype == np.uint16 else "8"
    options = Options("tiff", bits=bits, compression=compression, **kind)
    return encode.write(rgb, options, alpha, more)


def tool(*command: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which(str(command[0])) is None or (command[0] == "convert" and not IMAGEMAGICK):
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("rgb", "alpha", "compression"), CASES)
def test_a_tiff_has_its_pixels_in_another_library(
    rgb: np.ndarray, alpha: Any, compression: str, order: str
) -> None:
    body = written(rgb, alpha, compression, about(order))
    scale = 257 if rgb.dtype == np.uint16 else 1
    whole = rgb if alpha is None else np.dstack([rgb, alpha.astype(rgb.dtype) * scale])
    with tifffile.TiffFile(io.BytesIO(body)) as file:
        (page,) = file.pages
        assert file.byteorder == order
        assert np.array_equal(page.asarray(), whole)  # type: ignore[union-attr]
        assert page.tags["Orientation"].value == 1  # type: ignore[union-attr]
        assert page.tags["InterColorProfile"].value == icc.build("srgb")  # type: ignore[union-attr]
    if alpha is None or rgb.dtype == np.uint16:  # else OpenCV multiplies by alpha
        opencv = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(opencv[..., 2::-1], rgb)


@pytest.mark.parametrize(("rgb", "alpha", "compression"), CASES)
def test_libtiff_reads_a_tiff_without_a_warning(
    rgb: np.ndarray, alpha: Any, compression: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(written(rgb, alpha, compression, about()))
    done = tool("tiffinfo", "-D", path)
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout
    assert "Image Width: 96 Image Length: 64" in told
    assert "Resolution: 600, 300.5 pixels/inch" in told
    assert f"Bits/Sample: {8 * rgb.itemsize}" in told
    assert "Orientation: row 0 top, col 0 lhs" in told
    assert ("AdobeDeflate" if compression == "deflate" else "None") in told
    assert told.count("=== TIFF directory") == 1  # others are of EXIF
    assert tool("tiffcp", "-c", "none", path, tmp_path / "b.tif").stderr == ""
    copied = tifffile.imread(tmp_path / "b.tif")
    assert np.array_equal(copied[..., :3], rgb)


def test_imagemagick_reads_a_tiff_with_its_profile(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(written(DEEP, None, "deflate", about(), profile="adobe-rgb"))
    form = "%m %w %h %z %x %y %U %[icc:description] %[orientation]\n"
    done = tool("identify", "-format", form, path)
    told = "TIFF 96 64 16 600 300.5 PixelsPerInch Compatible with Adobe RGB (1998) TopLeft\n"
    assert (done.stdout, done.stderr) == (told, "")
    assert tool("convert", path, "-depth", "16", f"RGB:{tmp_path / 'raw'}").returncode == 0
    raw = np.fromfile(tmp_path / "raw", np.uint16).reshape(DEEP.shape)
    assert np.array_equal(raw, DEEP) or np.array_equal(raw.byteswap(), DEEP)


@pytest.mark.parametrize("format", encode.CONTENT_TYPES)
@pytest.mark.parametrize("profile", ["srgb", "display-p3", "adobe-rgb"])
@pytest.mark.parametrize("bits", ["8", "16"])
def test_a_profile_and_what_is_said_of_it_are_true(
    format: Any, profile: Any, bits: Any, tmp_path: Path
) -> None:
    if bits == "16" and format in ("jpeg", "webp"):
        return
    options = Options(format, bits=bits, profile=profile)
    pixels = DEEP if bits == "16" else ASTRONAUT
    body = encode.write(pixels, options, None, about())
    with Image.open(io.BytesIO(body)) as im:
        embedded = im.info.get("icc_profile")
        space = im.getexif().get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace]
    needed = profile != "srgb" or format == "tiff"
    assert embedded == (icc.build(profile) if needed else None)
    assert space == (1 if profile == "srgb" else 65535)
    path = tmp_path / f"a.{format}"
    path.write_bytes(body)
    done = tool(
        "exiftool", "-validate", "-warning", "-a", "-s3", "-Artist", "-GPSLatitudeRef", path
    )
    assert "E. S. Curtis" in done.stdout
    assert "North" in done.stdout
    assert not [line for line in done.stdout.splitlines() if "ICC" in line or "corrupt" in line]
    odd = [line for line in done.stdout.splitlines() if "Non-standard format" in line]
    assert not [line for line in odd if "IPTC" not in line]


def test_a_png_of_16_bits_holds_all_that_one_of_8_does() -> None:
    options = Options("png", bits="16")
    body = encode.write(DEEP, options, ALPHA, about())
    with Image.open(io.BytesIO(body)) as im:
        im.load()
        assert im.info["srgb"] == 0
        assert im.info["xmp"] == XMP
        assert im.info["dpi"] == pytest.approx((600, 300.5), abs=0.02)
        assert im.getexif()[ExifTags.Base.Artist] == "E. S. Curtis"
    assert image.read(body).metadata.iptc == about().iptc


def test_a_tiff_of_unknown_resolution_says_so() -> None:
    with tifffile.TiffFile(io.BytesIO(written(DEEP, None, "none", Metadata()))) as file:
        tags = file.pages.first.tags
        assert tags["ResolutionUnit"].value == 1
        assert Fraction(*tags["XResolution"].value) == 1


@pytest.mark.parametrize("shape", [(1, 1), (1, 70_000), (700, 3)])
def test_a_tiff_of_any_shape_reads_back(shape: tuple[int, int]) -> None:
    rgb = np.random.default_rng(0).integers(0, 65536, (*shape, 3), dtype=np.uint16)
    body = written(rgb, None, "deflate", Metadata())
    assert np.array_equal(tifffile.imread(io.BytesIO(body)).reshape(rgb.shape), rgb)

"""JPEG from and to planes; Pillow and OpenCV are the oracles."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from colorizer import encode, image, jpeg
from colorizer.metadata import Metadata
from colorizer.options import Options
from tests.pictures import exif
from tests.support import Patch

SIZES = [(1, 1), (1, 300), (300, 1), (16, 16), (17, 33), (90, 131), (700, 900), (3, 65_500)]


def planes(height: int, width: int) -> jpeg.Planes:
    """Soft shapes, which JPEG keeps."""
    size, half = (width, height), (-(-width // 2), -(-height // 2))
    coarse = np.random.default_rng(0).integers(60, 200, (3, 4, 5), dtype=np.uint8)
    luma, blue, red = (cv2.resize(one, size if n == 0 else half) for n, one in enumerate(coarse))
    return jpeg.Planes(*(np.asarray(one, np.uint8) for one in (luma, blue, red)))


def in_ycbcr(body: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(body)) as im:
        im.draft("YCbCr", im.size)
        return np.asarray(im).astype(int)


@pytest.mark.parametrize("size", SIZES)
def test_planes_come_back_whatever_their_strips(size: tuple[int, int]) -> None:
    given = planes(*size)
    body = encode.write(given, Options(quality=100))
    found = in_ycbcr(body)
    assert found.shape == (*size, 3)
    assert np.abs(found[..., 0] - given.luma).max() <= 2
    for n, half in ((1, given.blue), (2, given.red)):
        assert np.abs(found[::2, ::2, n] - half).mean() < 6
    other = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert other is not None
    assert np.abs(other - found[..., 0]).max() <= 1


def test_strips_are_the_pixels_of_one(monkeypatch: Patch) -> None:
    given = planes(700, 900)
    strips = jpeg.encode(given, 92, {})
    monkeypatch.setattr(jpeg, "_STRIP_PIXELS", 1 << 30)
    whole = jpeg.encode(given, 92, {})
    assert strips != whole
    assert b"\xff\xd0" in strips
    assert np.array_equal(in_ycbcr(strips), in_ycbcr(whole))


def test_the_bytes_are_the_same_on_any_number_of_cores(monkeypatch: Patch) -> None:
    given = planes(700, 900)
    usual = jpeg.encode(given, 92, {})
    monkeypatch.setattr(jpeg, "spread", lambda work, parts: [work(one) for one in reversed(parts)])
    assert jpeg.encode(given, 92, {}) == usual


def test_bytes_do_not_depend_on_what_memory_held_before() -> None:
    given = planes(45, 61)
    usual = jpeg.encode(given, 92, {})
    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(lambda _: jpeg.encode(given, 92, {}), range(100))) == {usual}


def test_metadata_is_what_pillow_writes() -> None:
    about = Metadata(exif=exif(1).tobytes()[6:], xmp=b"<x:xmpmeta/>", dpi=(300.0, 300.0))
    options = Options()
    with Image.open(io.BytesIO(encode.write(planes(20, 30), options, metadata=about))) as im:
        found = im.info
    rgb = np.zeros((20, 30, 3), np.uint8)
    with Image.open(io.BytesIO(encode.write(rgb, options, metadata=about))) as im:
        assert found == im.info


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": 0},
        {"subsampling": 1},
        {"progressive": True},
        {"keep_rgb": True},
        {"restart_marker_rows": 1},
        {"optimize": True, "quality": 30},
    ],
)
@pytest.mark.parametrize("grey", [False, True])
def test_it_decodes_to_pillows_pixels(options: dict[str, Any], grey: bool) -> None:
    picture = Image.fromarray(data.astronaut()[:301, :203])
    file = io.BytesIO()
    (picture.convert("L") if grey else picture).save(file, "JPEG", **options)
    found = jpeg.decode(file.getvalue(), grey)
    assert found is not None
    assert np.array_equal(found, np.asarray(Image.open(io.BytesIO(file.getvalue()))))
    assert np.array_equal(image.read(file.getvalue()).pixels, found)


@pytest.mark.parametrize("cut", [2, 200, 2000])
def test_what_is_cut_short_is_left_to_pillow(cut: int) -> None:
    file = io.BytesIO()
    Image.fromarray(data.astronaut()).save(file, "JPEG")
    assert jpeg.decode(file.getvalue()[:-cut], False) is None

"""What is refused, and how: broken, too large, hostile; nothing else is ever raised."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from colorizer import errors, image
from tests.pictures import (
    ASTRONAUT,
    EDGES,
    KINDS,
    after_png_header,
    file_of,
    png_chunk,
    png_header,
    tiff_of,
)
from tests.support import Patch

# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.BadPicture, 400, "bad_picture"),
        (errors.TooLarge, 413, "too_large"),
        (errors.NotAPicture, 415, "not_a_picture"),
        (errors.BadOption, 422, "bad_option"),
    ],
)
def test_each_error_knows_its_status(
    error: type[errors.RequestError], status: int, code: str
) -> None:
    assert issubclass(error, errors.RequestError)
    assert (error.status, error.kind) == (status, code)
    assert error.phrase.replace(" ", "").isalpha()


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(b"")])
def test_an_empty_body_is_refused_with_400(empty: Any) -> None:
    with pytest.raises(errors.BadPicture, match="empty"):
        image.read(empty)


@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        b'{"data": "aGVsbG8="}',
        b'<svg xmlns="http://www.w3.org/2000/svg"/>',
        b"%PDF-1.7\n%\xe2\xe3\xcf\xd3",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"P6 1 1 255 abc",
        b"\0" * 1000,
        np.random.default_rng(0).bytes(10_000),
        file_of(EDGES, "ICO"),
        file_of(EDGES, "TGA"),
        file_of(EDGES, "PPM"),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_allowed_picture_is_refused_with_415(body: bytes) -> None:
    with pytest.raises(errors.NotAPicture, match="convert"):
        image.read(body)


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_refused_or_complete(kind: str) -> None:
    body = KINDS[kind]
    whole = image.read(body)
    refused = 0
    cuts = {*range(1, 40), *range(40, len(body), max(1, len(body) // 60)), len(body) - 1}
    for cut in sorted(cuts):
        try:
            picture = image.read(body[:cut])
        except (errors.BadPicture, errors.NotAPicture):
            refused += 1
        else:  # only the trailer was cut off, not a pixel
            assert np.array_equal(picture.pixels, whole.pixels), cut
    assert refused > 0.9 * len(cuts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_file_is_refused_with_400(kind: str) -> None:
    with pytest.raises(errors.BadPicture, match="broken or cut short"):
        image.read(KINDS[kind][: len(KINDS[kind]) // 2])


def test_a_message_tells_nothing_of_the_inside() -> None:
    for body in (b"", b"hello", KINDS["png"][:500], png_header(60_000, 60_000)):
        with pytest.raises(errors.RequestError) as caught:
            image.read(body)
        message = str(caught.value)
        assert message.endswith(".")
        assert ";" in message  # what was wrong; what to do
        assert not any(word in message for word in ("PIL", "Pillow", "0x", "Error", "image file"))
        assert caught.value.__context__ is None or caught.value.__suppress_context__


# Limits ------------------------------------------------------------------------------------------


def test_a_file_of_exactly_the_most_bytes_is_read_and_one_more_refused() -> None:
    body = KINDS["bmp"]
    image.read(body, image.Limits(max_bytes=len(body)))
    with pytest.raises(errors.TooLarge, match="bytes"):
        image.read(body, image.Limits(max_bytes=len(body) - 1))


def test_the_bytes_of_a_view_are_counted_not_its_items() -> None:
    view = memoryview(KINDS["bmp"] + bytes(-len(KINDS["bmp"]) % 4)).cast("I")
    with pytest.raises(errors.TooLarge):
        image.read(view, image.Limits(max_bytes=len(view) + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_exactly_the_most_pixels_is_read_and_one_more_refused(kind: str) -> None:
    image.read(KINDS[kind], image.Limits(max_pixels=64 * 96))
    with pytest.raises(errors.TooLarge, match="pixels"):
        image.read(KINDS[kind], image.Limits(max_pixels=64 * 96 - 1))


@pytest.mark.parametrize("side", [7_100, 10_000, 60_000])  # ours, Pillow's warning, its error
def test_a_bomb_is_refused_from_its_header(side: int, monkeypatch: Patch) -> None:
    def decode(self: Any) -> None:
        raise AssertionError("the picture was decoded")

    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    body = png_header(side, side) + png_chunk(b"IDAT", zlib.compress(bytes(3 * side + 1)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    with pytest.raises(errors.TooLarge, match="50,000,000"):
        image.read(body)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20_000  # kB; the pixels would take 150,000 and more


def test_a_huge_canvas_of_a_small_webp_is_refused() -> None:
    frames = [Image.fromarray(EDGES[::-1].copy())]
    body = bytearray(file_of(EDGES, "WEBP", save_all=True, append_images=frames))
    assert body[12:16] == b"VP8X"
    body[24:30] = (12_999).to_bytes(3, "little") * 2  # the canvas, less one
    with pytest.raises(errors.TooLarge, match="13000 x 13000"):
        image.read(body)


def test_a_small_tiff_in_a_huge_tile_is_refused() -> None:
    body = tiff_of(zlib.compress(bytes(100)), 1, 8, more={259: 8, 322: 12_000, 323: 12_000})
    with pytest.raises(errors.TooLarge):
        image.read(body)


def test_a_tile_side_that_is_no_number_is_refused_with_400() -> None:
    body = tiff_of(zlib.compress(bytes(100)), 1, 8, more={259: 8, 322: 1, 323: 2**31})
    entry = struct.pack("<HHII", 322, 4, 1, 1)
    assert entry in body
    with pytest.raises(errors.BadPicture):  # four zero bytes; times 2**31 they would be 8 GB
        image.read(body.replace(entry, struct.pack("<HHII", 322, 7, 4, 0)))


def test_our_limit_holds_where_pillows_guard_is_off(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(errors.TooLarge):
        image.read(png_header(60_000, 60_000) + png_chunk(b"IDAT", b""))


def test_our_limit_may_pass_pillows_warning_and_its_error(monkeypatch: Patch) -> None:
    limits = image.Limits(max_pixels=10_000)
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        for guard in (5_000, 3_000, 100):  # 64 * 96 = 6144
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", guard)
            assert np.array_equal(image.read(KINDS["bmp"], limits).pixels, ASTRONAUT)
            assert guard == Image.MAX_IMAGE_PIXELS
    assert leaked == []


def test_pillows_own_limit_is_left_as_it_was() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    image.read(KINDS["png"], image.Limits(max_pixels=10**9))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert before == (1024**3 // 4 // 3, False)


def test_a_bomb_of_text_chunks_is_refused_with_400() -> None:
    one = png_chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(10_000_000)))
    with pytest.raises(errors.BadPicture):
        image.read(after_png_header(KINDS["png"], one))
    many = png_chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(1_000_000)))
    with pytest.raises(errors.BadPicture):
        image.read(after_png_header(KINDS["png"], *[many] * 70))


def test_a_tiff_with_an_absurd_tag_is_refused_with_400() -> None:
    body = tiff_of(b"\x80" * 4, 4, 8)
    assert image.read(body).pixels.tolist() == [[128] * 4]
    for tag in (256, 273):  # a width and a place of two milliard entries
        entry = struct.pack("<HHI", tag, 4, 1)
        assert entry in body
        with pytest.raises(errors.BadPicture):
            image.read(body.replace(entry, struct.pack("<HHI", tag, 4, 2**31)))


def test_a_jpeg_of_a_thousand_scans_is_refused_with_400() -> None:
    body = KINDS["progressive jpeg"]
    image.read(body)
    last = body[body.rfind(b"\xff\xc4", 0, body.rfind(b"\xff\xda")) : -2]
    image.read(body[:-2] + last * 20 + body[-2:])
    with pytest.raises(errors.BadPicture, match="scans"):
        image.read(body[:-2] + last * 1000 + body[-2:])


def test_what_looks_like_scans_elsewhere_in_a_jpeg_is_not_counted() -> None:
    looks_like = b"\xff\xda\0\2" * 500
    body = file_of(ASTRONAUT, "JPEG", progressive=True, comment=looks_like) + looks_like[2:]
    assert np.array_equal(image.read(body).pixels, image.read(KINDS["progressive jpeg"]).pixels)


# Warnings ----------------------------------------------------------------------------------------

NOISY = after_png_header(KINDS["png"], png_chunk(b"acTL", bytes(8)))  # an animation of no frames


def test_pillow_warns_of_the_noisy_file() -> None:
    with pytest.warns(UserWarning, match="APNG"):
        Image.open(io.BytesIO(NOISY))


def test_no_warning_leaks_and_none_becomes_an_error() -> None:
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        image.read(NOISY)
    assert leaked == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image.read(NOISY)


def test_readers_that_overlap_leave_the_filters_as_they_were() -> None:
    before = list(warnings.filters)
    first, second = image.quiet_pillow(), image.quiet_pillow()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with warnings.catch_warnings(record=True) as leaked:
        Image.open(io.BytesIO(NOISY))  # the second still reads
    second.__exit__(None, None, None)
    assert leaked == []
    assert list(warnings.filters) == before

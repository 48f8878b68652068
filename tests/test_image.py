"""colorizer.image: every picture here is made here, and every hostile one too."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms, ImageFile, PngImagePlugin
from skimage import data

from colorizer import image

ASTRONAUT = data.astronaut()[60:124, 180:276]  # (64, 96, 3): a face, so no flat areas
GREY = np.asarray(Image.fromarray(ASTRONAUT).convert("L"))  # (64, 96)
ALPHA = np.tile(np.linspace(0, 255, 96).astype(np.uint8), (64, 1))  # (64, 96)
RGBA = np.dstack([ASTRONAUT, ALPHA])
EDGES = np.zeros((32, 48, 3), np.uint8)  # six flat 16 x 16 blocks: what is where shows
EDGES[:16, :16], EDGES[:16, 16:32], EDGES[:16, 32:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
EDGES[16:, :16], EDGES[16:, 16:32], EDGES[16:, 32:] = (255, 255, 0), (0, 0, 0), (255, 255, 255)
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def file_of(picture: Any, format: str, mode: str | None = None, **options: Any) -> bytes:
    """Save an array or a Pillow image."""
    im = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    file = io.BytesIO()
    (im.convert(mode) if mode else im).save(file, format, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = orientation
    return tags


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)  # 8 bits, RGB
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", body)


def with_right_checksums(png: bytes | bytearray) -> bytes:
    """Mend what a mutation broke, so that the parsers behind the checksum get to see it."""
    mended, at = bytes(png[:8]), 8
    while at + 12 <= len(png):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        mended += png[at:end] + struct.pack(">I", zlib.crc32(png[at + 4 : end]))
        at = end + 4
    return mended


def after_png_header(png: bytes, *chunks: bytes) -> bytes:
    return png[:33] + b"".join(chunks) + png[33:]


def tiff_of(
    values: bytes, width: int, bits: int, order: str = "<", more: dict[int, int] | None = None
) -> bytes:
    """A one-row, one-strip, uncompressed grey TIFF, tag by tag."""
    tags = {256: width, 257: 1, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1}
    tags |= {279: len(values)} | (more or {})
    entries = b"".join(
        struct.pack(order + "HHI", tag, 4, 1) + struct.pack(order + "I", value)
        for tag, value in sorted(tags.items())
    )
    start = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8 + len(values))
    return start + values + struct.pack(order + "H", len(tags)) + entries + bytes(4)


def icc(
    space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", pcs: bytes = b"XYZ "
) -> bytes:
    """An ICC 2.1 profile of the given tags."""
    table, bodies, at = b"", b"", 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        body += bytes(-len(body) % 4)
        table += name + struct.pack(">II", at + len(bodies), len(body))
        bodies += body
    d50 = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4sI", at + len(bodies), b"lcms", 0x02100000) + kind + space + pcs
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + d50
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + bodies


def linear_grey_profile() -> bytes:
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    return icc(b"GRAY", {b"wtpt": white, b"kTRC": b"curv" + bytes(8)})  # no entries: linear


def cmyk_profile_whose_cyan_is_red() -> bytes:
    """Paper is white, full black is black, and full cyan is sRGB's red."""
    straight = bytes(range(256))
    unit = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    tables = {}
    for name, ink in ((b"A2B0", (128, 128, 128)), (b"A2B1", (136, 208, 195))):  # Lab, 8 bits each
        nodes = b""
        for node in range(16):  # C changes slowest, K fastest
            cyan, black = node & 8, node & 1
            nodes += bytes((0, 128, 128) if black else ink if cyan else (255, 128, 128))
        head = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + unit
        tables[name] = head + straight * 4 + nodes + straight * 3
    return icc(b"CMYK", tables, b"prtr", b"Lab ")  # A2B1 is colorimetric, A2B0 perceptual: grey


def swapped_profile() -> bytes:
    """The profile of sRGB with red and green changed about."""
    table = SRGB_PROFILE[128:300]
    for old, new in ((b"rXYZ", b"____"), (b"gXYZ", b"rXYZ"), (b"____", b"gXYZ")):
        table = table.replace(old, new)
    return SRGB_PROFILE[:128] + table + SRGB_PROFILE[300:]


def difference(one: np.ndarray, other: np.ndarray) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


# One file of each kind that strangers send; small, since some tests read each 500 times.
KINDS: dict[str, bytes] = {
    "jpeg": file_of(ASTRONAUT, "JPEG", exif=exif(6), icc_profile=SRGB_PROFILE),
    "progressive jpeg": file_of(ASTRONAUT, "JPEG", progressive=True),
    "grey jpeg": file_of(GREY, "JPEG", icc_profile=linear_grey_profile()),
    "cmyk jpeg": file_of(ASTRONAUT, "JPEG", "CMYK"),
    "png": file_of(RGBA, "PNG", exif=exif(5), icc_profile=SRGB_PROFILE),
    "palette png": file_of(ASTRONAUT, "PNG", "P", transparency=3),
    "16-bit png": file_of(GREY.astype(np.uint16) * 257, "PNG"),
    "webp": file_of(RGBA, "WEBP", exif=exif(8)),
    "lossless webp": file_of(ASTRONAUT, "WEBP", lossless=True),
    "tiff": file_of(ASTRONAUT, "TIFF", exif=exif(3)),
    "deflate tiff": file_of(RGBA, "TIFF", compression="tiff_adobe_deflate"),
    "lzw tiff": file_of(GREY, "TIFF", compression="tiff_lzw"),
    "jpeg tiff": file_of(ASTRONAUT, "TIFF", compression="jpeg"),
    "16-bit tiff": file_of(GREY.astype(np.uint16) * 257, "TIFF"),
    "bmp": file_of(ASTRONAUT, "BMP"),
    "palette bmp": file_of(ASTRONAUT, "BMP", "P"),
    "gif": file_of(ASTRONAUT, "GIF"),
}


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

WIDE = np.array([[0, 128, 129, 1000, 32768, 65407, 65535]], np.uint16)
WIDE_AS_8_BITS = [0, 0, 1, 4, 128, 255, 255]  # value / 257, rounded


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_by_its_range(format: str) -> None:
    assert image.read(file_of(WIDE, format)).pixels.tolist() == [WIDE_AS_8_BITS]


def test_big_endian_16_bit_grey_is_scaled_by_its_range() -> None:
    body = tiff_of(WIDE.astype(">u2").tobytes(), 7, 16, ">")
    assert image.read(body).pixels.tolist() == [WIDE_AS_8_BITS]


def test_compressed_16_bit_grey_is_scaled_by_its_range() -> None:
    body = file_of(WIDE, "TIFF", compression="tiff_adobe_deflate")
    assert image.read(body).pixels.tolist() == [WIDE_AS_8_BITS]


def test_16_bit_grey_with_white_as_zero_is_turned() -> None:
    body = tiff_of(WIDE.astype("<u2").tobytes(), 7, 16, more={262: 0})
    assert image.read(body).pixels.tolist() == [[255, 255, 254, 251, 127, 0, 0]]


def test_12_bit_grey_is_scaled_by_its_range() -> None:
    body = tiff_of(bytes.fromhex("000fff800010"), 4, 12)  # 0, 4095, 2048, 16
    assert image.read(body).pixels.tolist() == [[0, 255, 128, 1]]


def test_signed_16_bit_grey_is_scaled_from_zero() -> None:
    body = tiff_of(np.array([-5, 0, 16384, 32767], "<i2").tobytes(), 4, 16, more={339: 2})
    assert image.read(body).pixels.tolist() == [[0, 0, 128, 255]]


def test_signed_32_bit_grey_is_scaled_from_zero() -> None:
    values = np.array([[-5, 0, 2**30, 2**31 - 1]], np.int32)
    assert image.read(file_of(values, "TIFF")).pixels.tolist() == [[0, 0, 128, 255]]


def test_unsigned_32_bit_grey_is_scaled_by_its_range() -> None:
    body = tiff_of(np.array([0, 2**30, 2**31, 2**32 - 1], "<u4").tobytes(), 4, 32)
    assert image.read(body).pixels.tolist() == [[0, 64, 128, 255]]


@pytest.mark.filterwarnings("error")
def test_float_grey_goes_from_0_to_1() -> None:
    values = np.array([[-1, 0, 0.5, 1, 7, np.nan, np.inf, -np.inf]], np.float32)
    assert image.read(file_of(values, "TIFF")).pixels.tolist() == [[0, 0, 128, 255, 255, 0, 255, 0]]


@pytest.mark.parametrize(("colour", "bits"), [(2, 16), (4, 16), (6, 16)])
def test_16_bit_png_of_several_channels_is_read(colour: int, bits: int) -> None:
    channels = {2: 3, 4: 2, 6: 4}[colour]
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, bits, colour, 0, 0, 0))
    pixels = zlib.compress(b"\0" + b"\x00\x00" * channels + b"\xff\xff" * channels)
    body = b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", pixels) + png_chunk(b"IEND", b"")
    picture = image.read(body)
    assert picture.pixels.reshape(2, -1)[:, 0].tolist() == [0, 255]
    assert (picture.alpha is None) == (colour == 2)


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
    with pytest.raises(image.TooLarge):
        image.read(body, image.Limits(max_pixels=96 * 64 - 1))
    for broken in (body[: len(body) // 2], body[:40]):
        with pytest.raises(image.BadPicture):
            image.read(broken)


def test_without_the_extra_a_heic_is_no_allowed_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    body = heic(ASTRONAUT)
    monkeypatch.setattr(image, "FORMATS", tuple(f for f in image.FORMATS if f != "HEIF"))
    with pytest.raises(image.NotAPicture):
        image.read(body)


# EXIF --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("to", image.CONTENT_TYPES)
def test_exif_is_kept_without_its_orientation(format: str, to: Any) -> None:
    tags = exif(6)
    tags[ExifTags.Base.Artist] = "E. S. Curtis"
    tags.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    picture = image.read(file_of(ASTRONAUT, format, exif=tags))
    body = image.write(picture.pixels, image.OutputOptions(to), exif=picture.exif)
    found = Image.open(io.BytesIO(body)).getexif()
    assert ExifTags.Base.Orientation not in found
    assert found[ExifTags.Base.Artist] == "E. S. Curtis"
    if format == "TIFF":  # of those who, what and when are kept: the rest describes its pixels
        assert set(found) == {ExifTags.Base.Artist}
        return
    assert found.get_ifd(ExifTags.IFD.GPSInfo) == {ExifTags.GPS.GPSLatitudeRef: "N"}


@pytest.mark.parametrize("spoilt", [b"Exif\0\0spoilt", b"spoilt"])
def test_spoilt_exif_is_left_out(spoilt: bytes) -> None:
    assert image.read(file_of(ASTRONAUT, "JPEG", exif=spoilt)).exif == b""


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


# What is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (image.BadPicture, 400, "bad_picture"),
        (image.TooLarge, 413, "too_large"),
        (image.NotAPicture, 415, "not_a_picture"),
        (image.BadOption, 422, "bad_option"),
    ],
)
def test_each_error_knows_its_status(
    error: type[image.RequestError], status: int, code: str
) -> None:
    assert issubclass(error, image.RequestError)
    assert (error.status, error.kind) == (status, code)
    assert error.phrase.replace(" ", "").isalpha()


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(b"")])
def test_an_empty_body_is_refused_with_400(empty: Any) -> None:
    with pytest.raises(image.BadPicture, match="empty"):
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
        file_of(EDGES, "JPEG2000"),
        file_of(EDGES, "PPM"),
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_allowed_picture_is_refused_with_415(body: bytes) -> None:
    with pytest.raises(image.NotAPicture, match="convert"):
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
        except (image.BadPicture, image.NotAPicture):
            refused += 1
        else:  # only the trailer was cut off, not a pixel
            assert np.array_equal(picture.pixels, whole.pixels), cut
    assert refused > 0.9 * len(cuts)


@pytest.mark.parametrize("kind", KINDS)
def test_a_half_file_is_refused_with_400(kind: str) -> None:
    with pytest.raises(image.BadPicture, match="broken or cut short"):
        image.read(KINDS[kind][: len(KINDS[kind]) // 2])


@pytest.mark.parametrize("kind", KINDS)
def test_500_mutations_raise_nothing_but_request_errors(kind: str) -> None:
    dice = np.random.default_rng(list(kind.encode()))
    limits = image.Limits(max_pixels=50_000)  # a lucky header must not cost seconds
    small = Image.open(io.BytesIO(KINDS[kind]))
    assert small.width * small.height < limits.max_pixels
    outcomes = set()
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        for _ in range(500):
            body = bytearray(KINDS[kind])
            reach = len(body) if dice.random() < 0.5 else min(len(body), 400)  # headers are short
            for at in dice.integers(0, reach, dice.integers(1, 9)):
                body[at] = dice.integers(256)
            if dice.random() < 0.2:
                start, stop = sorted(dice.integers(0, len(body), 2))
                del body[start:stop]
            if "png" in kind and dice.random() < 0.7:
                body = bytearray(with_right_checksums(body))
            try:
                picture = image.read(body, limits)
            except image.RequestError as error:
                outcomes.add(error.kind)
            else:
                outcomes.add("read")
                assert picture.pixels.dtype == np.uint8
                assert picture.pixels.ndim == 2 or picture.pixels.shape[2] == 3
                assert picture.alpha is None or picture.alpha.shape == picture.pixels.shape[:2]
    assert leaked == []
    assert {"read", "bad_picture"} <= outcomes


def test_a_message_tells_nothing_of_the_inside() -> None:
    for body in (b"", b"hello", KINDS["png"][:500], png_header(60_000, 60_000)):
        with pytest.raises(image.RequestError) as caught:
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
    with pytest.raises(image.TooLarge, match="bytes"):
        image.read(body, image.Limits(max_bytes=len(body) - 1))


def test_the_bytes_of_a_view_are_counted_not_its_items() -> None:
    view = memoryview(KINDS["bmp"] + bytes(-len(KINDS["bmp"]) % 4)).cast("I")
    with pytest.raises(image.TooLarge):
        image.read(view, image.Limits(max_bytes=len(view) + 1))


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_exactly_the_most_pixels_is_read_and_one_more_refused(kind: str) -> None:
    image.read(KINDS[kind], image.Limits(max_pixels=64 * 96))
    with pytest.raises(image.TooLarge, match="pixels"):
        image.read(KINDS[kind], image.Limits(max_pixels=64 * 96 - 1))


@pytest.mark.parametrize("side", [7_100, 10_000, 60_000])  # ours, Pillow's warning, its error
def test_a_bomb_is_refused_from_its_header(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(self: Any) -> None:
        raise AssertionError("the picture was decoded")

    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    body = png_header(side, side) + png_chunk(b"IDAT", zlib.compress(bytes(3 * side + 1)))
    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    with pytest.raises(image.TooLarge, match="50,000,000"):
        image.read(body)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20_000  # kB; the pixels would take 150,000 and more


def test_a_huge_canvas_of_a_small_webp_is_refused() -> None:
    frames = [Image.fromarray(EDGES[::-1].copy())]
    body = bytearray(file_of(EDGES, "WEBP", save_all=True, append_images=frames))
    assert body[12:16] == b"VP8X"
    body[24:30] = (12_999).to_bytes(3, "little") * 2  # the canvas, less one
    with pytest.raises(image.TooLarge, match="13000 x 13000"):
        image.read(body)


def test_a_small_tiff_in_a_huge_tile_is_refused() -> None:
    body = tiff_of(zlib.compress(bytes(100)), 1, 8, more={259: 8, 322: 12_000, 323: 12_000})
    with pytest.raises(image.TooLarge):
        image.read(body)


def test_a_tile_side_that_is_no_number_is_refused_with_400() -> None:
    body = tiff_of(zlib.compress(bytes(100)), 1, 8, more={259: 8, 322: 1, 323: 2**31})
    entry = struct.pack("<HHII", 322, 4, 1, 1)
    assert entry in body
    with pytest.raises(image.BadPicture):  # four zero bytes; times 2**31 they would be 8 GB
        image.read(body.replace(entry, struct.pack("<HHII", 322, 7, 4, 0)))


def test_our_limit_holds_where_pillows_guard_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    with pytest.raises(image.TooLarge):
        image.read(png_header(60_000, 60_000) + png_chunk(b"IDAT", b""))


def test_our_limit_may_pass_pillows_warning_but_not_its_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = image.Limits(max_pixels=10_000)
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5_000)  # 64 * 96 = 6144
        assert np.array_equal(image.read(KINDS["bmp"], limits).pixels, ASTRONAUT)
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3_000)
        with pytest.raises(image.TooLarge, match="10,000"):
            image.read(KINDS["bmp"], limits)
    assert leaked == []


def test_pillows_own_limit_is_left_as_it_was() -> None:
    before = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    image.read(KINDS["png"], image.Limits(max_pixels=10**9))
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    assert before == (1024**3 // 4 // 3, False)


def test_a_bomb_of_text_chunks_is_refused_with_400() -> None:
    one = png_chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(10_000_000)))
    with pytest.raises(image.BadPicture):
        image.read(after_png_header(KINDS["png"], one))
    many = png_chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(1_000_000)))
    with pytest.raises(image.BadPicture):
        image.read(after_png_header(KINDS["png"], *[many] * 70))


def test_a_tiff_with_an_absurd_tag_is_refused_with_400() -> None:
    body = tiff_of(b"\x80" * 4, 4, 8)
    assert image.read(body).pixels.tolist() == [[128] * 4]
    for tag in (256, 273):  # a width and a place of two milliard entries
        entry = struct.pack("<HHI", tag, 4, 1)
        assert entry in body
        with pytest.raises(image.BadPicture):
            image.read(body.replace(entry, struct.pack("<HHI", tag, 4, 2**31)))


def test_a_jpeg_of_a_thousand_scans_is_refused_with_400() -> None:
    body = KINDS["progressive jpeg"]
    image.read(body)
    last = body[body.rfind(b"\xff\xc4", 0, body.rfind(b"\xff\xda")) : -2]
    image.read(body[:-2] + last * 20 + body[-2:])
    with pytest.raises(image.BadPicture, match="scans"):
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
    first, second = image._silent_pillow(), image._silent_pillow()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    with warnings.catch_warnings(record=True) as leaked:
        Image.open(io.BytesIO(NOISY))  # the second still reads
    second.__exit__(None, None, None)
    assert leaked == []
    assert list(warnings.filters) == before


# Options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [0, 101, -1, 92.0, "92", True, None])
def test_a_wrong_quality_is_refused_with_422(quality: Any) -> None:
    with pytest.raises(image.BadOption) as caught:
        image.OutputOptions(quality=quality)
    assert all(part in str(caught.value) for part in ("quality", repr(quality), "1 to 100"))


@pytest.mark.parametrize("format", ["gif", "JPEG", "", None, 3, ["png"]])
def test_a_wrong_format_is_refused_with_422(format: Any) -> None:
    with pytest.raises(image.BadOption) as caught:
        image.OutputOptions(format=format)
    assert all(part in str(caught.value) for part in ("format", repr(format), "jpeg, png or webp"))


def test_a_long_value_is_not_sent_back_whole() -> None:
    with pytest.raises(image.BadOption) as caught:
        image.OutputOptions(format="x\r\n" * 10_000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("quality", [1, 100])
def test_the_ends_of_quality_are_allowed(quality: int) -> None:
    assert image.OutputOptions(quality=quality).quality == quality


# What is written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("format", image.CONTENT_TYPES)
def test_what_is_written_reads_back(format: Any) -> None:
    body = image.write(ASTRONAUT, image.OutputOptions(format))
    written = Image.open(io.BytesIO(body))
    assert written.get_format_mimetype() == image.CONTENT_TYPES[format]
    error = np.abs(image.read(body).pixels.astype(int) - ASTRONAUT).mean()
    assert error == 0 if format == "png" else 0 < error < 5


@pytest.mark.parametrize("format", ["png", "webp"])
def test_alpha_goes_there_and_back(format: Any) -> None:
    picture = image.read(image.write(ASTRONAUT, image.OutputOptions(format), ALPHA))
    assert picture.alpha is not None
    assert np.array_equal(picture.alpha, ALPHA)
    assert np.abs(picture.pixels.astype(int) - ASTRONAUT)[:, 48:].mean() < 5


def test_jpeg_puts_white_behind_what_is_transparent() -> None:
    alpha = np.zeros((32, 48), np.uint8)
    alpha[:, 16:32], alpha[:, 32:] = 128, 255
    body = image.write(np.zeros((32, 48, 3), np.uint8), image.OutputOptions("jpeg"), alpha)
    clear, half, opaque = image.read(body).pixels[16, [8, 24, 40]].astype(int)
    assert clear.min() > 250
    assert np.abs(half - 127).max() < 6
    assert opaque.max() < 6


def test_jpeg_keeps_all_of_the_chroma() -> None:
    written = Image.open(io.BytesIO(image.write(ASTRONAUT, image.OutputOptions("jpeg"))))
    assert [layer[1:3] for layer in written.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]


@pytest.mark.parametrize("format", ["jpeg", "webp"])
def test_quality_reaches_the_encoder(format: Any) -> None:
    low, high = (image.write(ASTRONAUT, image.OutputOptions(format, q)) for q in (30, 95))
    assert len(low) < len(high) / 2


def test_png_declares_srgb() -> None:
    written = Image.open(io.BytesIO(image.write(ASTRONAUT, image.OutputOptions("png"))))
    assert written.info["srgb"] == 0


@pytest.mark.parametrize("format", image.CONTENT_TYPES)
def test_no_metadata_is_written(format: Any) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Author", "somebody")
    body = file_of(ASTRONAUT, "PNG", exif=exif(6), icc_profile=SRGB_PROFILE, pnginfo=text)
    pixels = image.read(body).pixels
    written = Image.open(io.BytesIO(image.write(pixels, image.OutputOptions(format))))
    assert not {"exif", "icc_profile", "xmp", "Author"} & set(written.info)
    assert not written.getexif()


def test_a_view_that_is_not_contiguous_is_written() -> None:
    flipped = ASTRONAUT[:, ::-1]
    body = image.write(flipped, image.OutputOptions("png"), ALPHA[:, ::-1])
    assert np.array_equal(image.read(body).pixels, flipped)


@pytest.mark.parametrize(
    ("format", "most", "fits"), [("jpeg", 65_500, "png"), ("webp", 16_383, "jpeg or png")]
)
def test_a_side_too_long_for_a_format_is_refused_with_422(
    format: Any, most: int, fits: str
) -> None:
    options = image.OutputOptions(format)
    assert image.read(image.write(np.zeros((1, most, 3), np.uint8), options)).width == most
    for shape in ((1, most + 1, 3), (most + 1, 1, 3)):
        with pytest.raises(image.BadOption, match=f"use {fits}"):
            image.write(np.zeros(shape, np.uint8), options)


def test_png_takes_the_longest_side() -> None:
    body = image.write(np.zeros((1, 70_000, 3), np.uint8), image.OutputOptions("png"))
    assert image.read(body).width == 70_000

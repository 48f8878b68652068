"""More than 8 bits: L from the file to the result, in every layout and through every profile."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms
from skimage.color import rgb2lab

import colorizer
from colorizer import icc, image, lab
from colorizer.api import Colorizer
from colorizer.errors import BadOption, BadPicture
from colorizer.graph import Graph
from colorizer.options import Options
from colorizer.pipeline import Pipeline
from colorizer.recipe import Recipe
from tests.pictures import (
    ASTRONAUT,
    KINDS,
    RGBA,
    SRGB_PROFILE,
    cmyk_profile_whose_cyan_is_red,
    exif,
    file_of,
    linear_grey_profile,
    swapped_profile,
    table_profile,
    tiff,
)
from tests.support import SIDE

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 65536, (48, 64, 3), dtype=np.uint16)
NOISE[:8] = np.linspace(0, 65535, 8 * 64).reshape(8, 64, 1)  # greys, both ends among them
GREY = np.ascontiguousarray(NOISE[..., 0])
NEAR = 0.002  # of L: a step of 16 bits is 0.0015


def true_lightness(rgb: Any) -> np.ndarray:
    """L of sRGB, 0..1, in double precision."""
    rgb = np.asarray(rgb, np.float64)
    return np.asarray(rgb2lab(rgb if rgb.ndim == 3 else np.dstack([rgb] * 3))[..., 0])


def coded(pixels: np.ndarray, suffix: str, *options: int) -> bytes:
    """A file that OpenCV writes."""
    bgr = pixels[..., [2, 1, 0, 3][: pixels.shape[2]]] if pixels.ndim == 3 else pixels
    return cv2.imencode(suffix, bgr, options)[1].tobytes()


LOSSLESS = (cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000)
FILES: dict[str, tuple[bytes, Any]] = {  # and what L is of
    "grey tiff": (tiff(GREY), GREY / 65535),
    "grey tiff, big-endian, lzw": (file_of(GREY, "TIFF", compression="tiff_lzw"), GREY / 65535),
    "white is zero": (tiff(65535 - GREY, photometric="miniswhite"), GREY / 65535),
    "rgb tiff": (tiff(NOISE, photometric="rgb"), NOISE / 65535),
    "rgb tiff, big-endian, tiled, predictor": (
        tiff(NOISE, photometric="rgb", byteorder=">", tile=(16, 32), compression="zlib"),
        NOISE / 65535,
    ),
    "rgb tiff, planes": (
        tiff(np.moveaxis(NOISE, 2, 0).copy(), photometric="rgb", planarconfig="separate"),
        NOISE / 65535,
    ),
    "rgb tiff with infrared": (
        tiff(np.dstack([NOISE, GREY]), photometric="rgb", extrasamples=["unspecified"]),
        NOISE / 65535,
    ),
    "float tiff": (tiff((GREY / 65535).astype(np.float32)), GREY / 65535),
    "32-bit tiff": (tiff(GREY.astype(np.uint32) * 65537), GREY / 65535),
    "grey png": (file_of(GREY, "PNG"), GREY / 65535),
    "rgb png": (coded(NOISE, ".png"), NOISE / 65535),
    "rgba png": (coded(np.dstack([NOISE, GREY]), ".png"), NOISE / 65535),
    "grey jpeg 2000": (coded(GREY, ".jp2", *LOSSLESS), GREY / 65535),
    "rgb jpeg 2000": (coded(NOISE, ".jp2", *LOSSLESS), NOISE / 65535),
    "8-bit png": (file_of(ASTRONAUT, "PNG"), ASTRONAUT / 255),
}


@pytest.mark.parametrize("name", FILES)
def test_lightness_is_read_at_full_depth(name: str) -> None:
    body, rgb = FILES[name]
    found = image.read(body, bits="16").pixels
    assert (found.dtype, found.shape) == (np.float32, rgb.shape[:2])
    assert np.abs(found - true_lightness(rgb)).max() < NEAR


@pytest.mark.parametrize("name", FILES)
def test_depth_follows_the_file_if_it_should(name: str) -> None:
    kind = np.uint8 if name.startswith("8-bit") else np.float32
    assert image.read(FILES[name][0], bits="same").pixels.dtype == kind
    assert image.read(FILES[name][0]).pixels.dtype == np.uint8
    assert bool(image.read(FILES[name][0]).notes) == (kind != np.uint8)


@pytest.mark.parametrize("bits", ["8", "16"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_white_of_a_deep_jpeg_2000_is_white(bits: Any, channels: int) -> None:
    """Pillow 12.3 makes it black where there are colours, and alpha clear."""
    white = np.full((64, 64, channels), 65535, np.uint16)
    picture = image.read(coded(white.squeeze(), ".jp2", *LOSSLESS), bits=bits)
    assert picture.pixels.min() == (255 if bits == "8" else pytest.approx(100))
    assert picture.alpha is None or picture.alpha.min() == 255


@pytest.mark.parametrize("name", lab.SPACES)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_each_space_keeps_lightness_where_colours_lie_outside(name: Any, kind: Any) -> None:
    """Through the curves and the matrix of the profile, by another's arithmetic."""
    shape = 100, 100
    lightness = RNG.uniform(0, 100, shape).astype(np.float32)
    lightness[:2] = [[0], [100]]
    a, b = (RNG.uniform(-120, 120, shape).astype(np.float32) for _ in range(2))
    rgb = np.empty((*shape, 3), kind)
    lab.band_to_space(lightness, a, b, rgb, lab.SPACES[name])
    space = lab.SPACES[name]
    values = rgb / np.iinfo(kind).max
    linear = values**space.gamma if space.gamma else lab.srgb_to_linear(values)
    y = linear @ space.to_xyz[1]
    found = 116 * np.where(y > (6 / 29) ** 3, np.cbrt(y), y * 841 / 108 + 4 / 29) - 16
    assert np.abs(found - lightness).max() < (NEAR if kind == np.uint16 else 0.4)


def test_chroma_outside_is_as_large_as_fits_and_of_the_same_hue() -> None:
    lightness = np.full((1, 360), 60, np.float32)
    angle = np.radians(np.arange(360, dtype=np.float32))[None]
    rgb = np.empty((1, 360, 3), np.uint16)
    lab.band_to_space(lightness, 150 * np.cos(angle), 150 * np.sin(angle), rgb, lab.SPACES["srgb"])
    _, a, b = np.moveaxis(rgb2lab(rgb / 65535), -1, 0)
    apart = np.degrees(np.arctan2(b, a) - angle)
    assert np.abs((apart + 180) % 360 - 180).max() < 0.05
    edge = (rgb.min(axis=-1) < 66) | (rgb.max(axis=-1) > 65535 - 66)
    assert edge.all()
    assert np.abs(np.diff(np.hypot(a, b))).max() < 3  # no step of the table's whole degrees


def test_wider_spaces_keep_more_chroma() -> None:
    green = [np.full((1, 1), value, np.float32) for value in (70, -100, 50)]
    found = {}
    for name, space in lab.SPACES.items():
        rgb = np.empty((1, 1, 3), np.uint16)
        lab.band_to_space(*green, rgb, space)
        linear = rgb / 65535
        linear = linear**space.gamma if space.gamma else lab.srgb_to_linear(linear)
        roots = np.cbrt(linear[0, 0] @ space.to_xyz.T / lab.WHITE)
        found[name] = np.hypot(500 * (roots[0] - roots[1]), 200 * (roots[1] - roots[2]))
    assert found["srgb"] + 5 < found["display-p3"] < found["adobe-rgb"] - 2


# Profiles ----------------------------------------------------------------------------------------


def through(profile: bytes, levels: np.ndarray) -> np.ndarray:
    """L by littleCMS in 8 bits, and on to L."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[levels.shape[2]]
    im = Image.frombytes(mode, levels.shape[1::-1], levels.tobytes())
    rgb = ImageCms.profileToProfile(
        im, source, ImageCms.createProfile("sRGB"), renderingIntent=1, outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )  # fmt: skip
    return true_lightness(np.asarray(rgb) / 255)


@pytest.mark.parametrize(
    ("profile", "channels", "near"),
    [
        (icc.build("srgb"), 3, 0.3),
        (icc.build("display-p3"), 3, 0.3),
        (icc.build("adobe-rgb"), 3, 0.3),
        (SRGB_PROFILE, 3, 0.3),
        (swapped_profile(), 3, 0.3),
        (linear_grey_profile(), 1, 0.4),
        (table_profile(), 3, 1),
        (cmyk_profile_whose_cyan_is_red(), 4, 1),
    ],
    ids=["srgb", "p3", "adobe", "littlecms", "swapped", "linear", "table", "cmyk"],
)
def test_lightness_through_a_profile_is_littlecms(
    profile: bytes, channels: int, near: float
) -> None:
    levels = RNG.integers(60, 200, (40, 40, channels), dtype=np.uint8)
    levels[:20] = levels[:20, :, :1]
    found = icc.lightness(levels.astype(np.uint16) * 257, profile)
    expected = through(profile, levels)
    inside = slice(0, 20) if channels == 3 else slice(None)  # colours may be outside sRGB
    assert np.abs(found - expected)[inside].max() < near
    assert np.abs(found - expected).mean() < near


@pytest.mark.parametrize(
    "profile", [b"", b"nonsense", linear_grey_profile(), SRGB_PROFILE[:200]], ids=len
)
def test_a_profile_of_no_use_is_ignored(profile: bytes) -> None:
    assert np.abs(icc.lightness(NOISE, profile) - true_lightness(NOISE / 65535)).max() < NEAR


@pytest.mark.parametrize("icc_lab", [False, True])
def test_lab_of_16_bits_keeps_its_lightness(icc_lab: bool) -> None:
    """TIFF's own Lab has signed a and b, ICC's counts from 32768 and has white at 65280."""
    true = rgb2lab(NOISE / 65535)
    stored = true * [65280 / 100 if icc_lab else 65535 / 100, 256, 256]
    stored[..., 1:] += 32768 if icc_lab else 0
    values = np.rint(stored).astype(np.int64).astype(np.uint16)
    body = bytearray(tiff(values, photometric="icclab" if icc_lab else "cielab"))
    deep = image.read(body, bits="same").pixels
    assert np.abs(deep - true[..., 0]).max() < NEAR
    assert np.abs(image.read(body).pixels.astype(int) - (NOISE >> 8)).mean() < 3


def test_inks_without_a_profile_are_multiplied() -> None:
    inks = np.dstack([NOISE, GREY[::-1]])
    body = tiff(inks, photometric="separated")
    paper = 1 - inks / 65535
    expected = true_lightness(paper[..., :3] * paper[..., 3:])
    assert np.abs(image.read(body, bits="16").pixels - expected).max() < NEAR


@pytest.mark.parametrize("name", lab.SPACES)
def test_a_profile_has_the_same_bytes_each_time_and_is_sound(name: Any) -> None:
    icc.build.cache_clear()
    body = icc.build(name)
    assert body is not (icc.build.cache_clear() or icc.build(name))
    assert body == icc.build(name)
    profile = ImageCms.ImageCmsProfile(io.BytesIO(body))
    assert ImageCms.getProfileDescription(profile).strip() == lab.SPACES[name].title
    assert ImageCms.isIntentSupported(profile, 1, ImageCms.Direction.OUTPUT) == 1
    if name == "srgb":
        other = ImageCms.createProfile("sRGB")
        picture = Image.fromarray(ASTRONAUT)
        same = ImageCms.profileToProfile(picture, profile, other)
        assert np.abs(np.asarray(same).astype(int) - ASTRONAUT).max() <= 1


# The whole way -----------------------------------------------------------------------------------


def vivid(lightness: np.ndarray) -> np.ndarray:
    """A network that answers strong colours, many of which no space has."""
    ab = np.stack([np.sin(lightness[:, 0] / 9), np.cos(lightness[:, 0] / 7)], axis=1) * 90
    return ab.astype(np.float32)


VIVID = Colorizer(Pipeline(Graph("", "", Recipe(side=SIDE)), vivid))


@pytest.mark.parametrize("format", ["png", "tiff"])
@pytest.mark.parametrize("profile", lab.SPACES)
def test_sixteen_bits_keep_lightness_to_the_end(format: str, profile: str) -> None:
    for name in ("grey tiff", "rgb png", "rgb jpeg 2000"):
        body, rgb = FILES[name]
        made = VIVID.colorize(body, format=format, bits="same", profile=profile)
        pixels = tifffile.imread(io.BytesIO(made)) if format == "tiff" else None
        if pixels is None:
            pixels = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1]
        assert pixels.dtype == np.uint16
        found = icc.lightness(pixels, icc.build(profile))  # type: ignore[arg-type]
        near = NEAR if profile == "srgb" else 2 * NEAR  # littleCMS rounds in between, too
        assert np.abs(found - true_lightness(rgb)).max() < near


def test_a_profile_at_8_bits_keeps_lightness_too() -> None:
    made = VIVID.colorize(file_of(GREY, "PNG"), format="png", profile="adobe-rgb")
    read = image.read(made, bits="16").pixels
    assert np.abs(read - true_lightness(GREY / 65535)).max() < 0.6


@pytest.mark.parametrize("format", ["jpeg", "webp"])
@pytest.mark.parametrize("bits", ["16", "same"])
def test_a_format_of_8_bits_is_refused_with_16(format: str, bits: str) -> None:
    with pytest.raises(BadOption, match="use format=tiff or png"):
        VIVID.colorize(file_of(GREY, "PNG"), format=format, bits=bits)


@pytest.mark.parametrize("shape", [(30, 40), (30, 40, 3), (30, 40, 4)])
def test_an_array_of_16_bits_comes_back_as_one(shape: tuple[int, ...]) -> None:
    pixels = RNG.integers(0, 65536, shape, dtype=np.uint16)
    found = VIVID.colorize(pixels)
    assert (found.dtype, found.shape) == (np.uint16, (30, 40, 4 if shape[2:] == (4,) else 3))
    rgb = pixels[..., :3] if len(shape) == 3 else pixels
    assert np.abs(true_lightness(found[..., :3] / 65535) - true_lightness(rgb / 65535)).max() < NEAR
    with pytest.raises(BadPicture, match="uint8 or uint16"):
        VIVID.colorize(pixels.astype(np.int32))  # type: ignore[call-overload]


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_file_is_read_as_lightness_upright(name: str) -> None:
    narrow, deep = image.read(KINDS[name]), image.read(KINDS[name], bits="16")
    pixels = narrow.pixels / 255
    assert np.abs(deep.pixels - true_lightness(pixels)).max() < (1.5 if "png" in name else 1)
    assert (narrow.alpha is None) == (deep.alpha is None)
    if narrow.alpha is not None:
        assert np.array_equal(narrow.alpha, np.asarray(deep.alpha))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_lightness_is_turned_upright_as_pixels_are(format: str, orientation: int) -> None:
    body = file_of(GREY, format, exif=exif(orientation))
    narrow, deep = image.read(body).pixels, image.read(body, bits="16").pixels
    assert np.abs(deep - true_lightness(narrow / 255)).max() < 0.3


@pytest.mark.parametrize("name", ["rgb tiff", "rgb png", "rgb jpeg 2000"])
@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_a_deep_file_cut_short_is_told(name: str, cut: float) -> None:
    body = FILES[name][0]
    with pytest.raises(BadPicture):
        image.read(body[: int(cut * len(body))], bits="16")


def test_alpha_of_16_bits_comes_back() -> None:
    body = coded(np.dstack([NOISE, np.uint16(257) * RGBA[:48, :64, 3]]), ".png")
    made = VIVID.colorize(body, format="tiff", bits="16")
    alpha = tifffile.imread(io.BytesIO(made))[..., 3]
    assert np.array_equal(alpha, np.uint16(257) * RGBA[:48, :64, 3])


def test_same_bits_of_an_8_bit_file_are_the_bytes_of_8() -> None:
    body = file_of(ASTRONAUT, "JPEG", exif=exif(6))
    eight, same = (VIVID.colorize(body, format="tiff", bits=bits) for bits in (8, "same"))
    assert eight == same
    assert colorizer.Options.parse({"bits": "16"}) == Options(bits="16")

"""Colour conversion; scikit-image is the oracle."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from skimage import data
from skimage.color import lab2rgb, rgb2lab

from colorizer import lab

CORNERS = np.array(list(itertools.product([0, 255], repeat=3)), np.uint8)[None]
RANDOM = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
PICTURES = {"astronaut": data.astronaut(), "random": RANDOM, "corners": CORNERS}


@pytest.mark.parametrize("name", PICTURES)
def test_lab_is_scikit_images(name: str) -> None:
    rgb = PICTURES[name]
    assert np.abs(lab.rgb_to_lab(rgb) - rgb2lab(rgb)).max() < 0.001


@pytest.mark.parametrize("name", PICTURES)
def test_lightness_is_scikit_images(name: str) -> None:
    rgb = PICTURES[name]
    found = lab.rgb_to_lightness(rgb)
    assert found.dtype == np.float32
    assert np.abs(found - rgb2lab(rgb)[..., 0]).max() < 0.03


@pytest.mark.parametrize("name", PICTURES)
def test_there_and_back_is_scikit_images_within_a_level(name: str) -> None:
    rgb = PICTURES[name]
    true_lab = rgb2lab(rgb)
    back = lab.lab_to_rgb(lab.rgb_to_lightness(rgb), true_lab[..., 1:].astype(np.float32))
    assert np.abs(back - np.rint(255 * lab2rgb(true_lab))).max() <= 1
    assert np.abs(back.astype(int) - rgb).max() <= 1


def test_grey_is_the_same_as_three_equal_channels() -> None:
    grey = np.arange(256, dtype=np.uint8)[None]
    colour = np.repeat(grey[..., None], 3, axis=2)
    assert np.abs(lab.rgb_to_lightness(grey) - lab.rgb_to_lightness(colour)).max() < 0.03
    assert lab.rgb_to_lightness(grey)[0, [0, 255]] == pytest.approx([0, 100], abs=1e-4)


def test_colours_outside_srgb_keep_lightness_and_hue() -> None:
    lightness, hue = np.meshgrid(np.linspace(0, 100, 101), np.arange(0, 360, 3), indexing="ij")
    angle = np.radians(hue)
    ab = 200 * np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    found = rgb2lab(lab.lab_to_rgb(lightness.astype(np.float32), ab.astype(np.float32)))
    assert np.abs(found[..., 0] - lightness).max() < 0.7  # 8 bits and the table's steps
    chroma = np.hypot(found[..., 1], found[..., 2])
    assert (chroma[20:81] > 10).all()  # not simply made grey
    turned = np.degrees(np.angle(np.exp(1j * (np.arctan2(found[..., 2], found[..., 1]) - angle))))
    assert np.abs(turned[chroma > 20]).max() < 4


def test_clipping_each_channel_instead_would_move_lightness() -> None:
    """What lab_to_rgb is held against: the usual way is far off, ours is not."""
    lightness, ab = np.full((1, 1), 60, np.float32), np.full((1, 1, 2), -120, np.float32)
    clipped = lab2rgb(np.dstack([lightness, ab]))
    ours = lab.lab_to_rgb(lightness, ab) / 255
    assert abs(rgb2lab(clipped)[0, 0, 0] - 60) > 5
    assert abs(rgb2lab(ours)[0, 0, 0] - 60) < 0.5


@pytest.mark.parametrize("size", [(1, 1), (1, 70_000), (70_000, 1), (3, 66_000), (300, 400)])
def test_any_size_works_whatever_its_bands(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    rgb = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    lightness, colour = lab.rgb_to_lightness(rgb), lab.rgb_to_lab(rgb)[..., 1:]
    assert np.abs(lab.lab_to_rgb(lightness, colour).astype(int) - rgb).max() <= 1


def test_the_table_of_planes_has_the_colours_of_the_formulas() -> None:
    """At each grey, also of colours that sRGB lacks."""
    grey = np.arange(256, dtype=np.uint8)[:, None].repeat(300, axis=1)
    a, b = np.random.default_rng(0).normal(0, 40, (2, 256, 300)).astype(np.float32)
    rgb = lab.lab_to_rgb(lab.grey_to_lightness(grey), np.dstack([a, b]))
    expected = cv2.cvtColor(rgb, cv2.COLOR_RGB2YCrCb).astype(int)
    change = np.empty(grey.shape, np.float32)
    blue, red = np.empty_like(grey), np.empty_like(grey)
    lab.band_to_planes(grey, a.copy(), b.copy(), change, blue, red)
    for found, exact in zip((grey + change, red, blue), np.moveaxis(expected, -1, 0), strict=True):
        apart = np.abs(found - exact)
        assert apart.mean() < 0.6
        assert (apart > 4).mean() < 0.01  # where a colour is as vivid as sRGB has it


def test_greys_stay_grey_in_planes() -> None:
    grey = np.arange(256, dtype=np.uint8)[None]
    none = np.zeros(grey.shape, np.float32)
    change, blue, red = none.copy(), np.empty_like(grey), np.empty_like(grey)
    lab.band_to_planes(grey, none.copy(), none.copy(), change, blue, red)
    assert np.abs(change).max() < 0.1
    assert set(np.concatenate([blue, red]).ravel().tolist()) == {128}


def test_each_colour_becomes_the_grey_of_its_lightness() -> None:
    found = rgb2lab(np.repeat(lab.rgb_to_grey(RANDOM)[..., None], 3, axis=2))[..., 0]
    assert np.abs(found - rgb2lab(RANDOM)[..., 0]).max() < 0.27  # half of an 8-bit level
    grey = np.arange(256, dtype=np.uint8)[None]
    assert lab.rgb_to_grey(np.repeat(grey[..., None], 3, axis=2)).tolist() == grey.tolist()


@pytest.mark.parametrize("value", [0.0, 1e4, -1e4])
def test_the_ends_of_lightness_are_black_and_white_whatever_the_colour(value: float) -> None:
    lightness = np.array([[0, 100]], np.float32)
    rgb = lab.lab_to_rgb(lightness, np.full((1, 2, 2), value, np.float32))
    assert rgb[0, 0] == pytest.approx(0, abs=1)
    assert rgb[0, 1] == pytest.approx(255, abs=1)

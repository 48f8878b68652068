"""Evening out a network's colours, up to the edges of lightness."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from colorizer import smooth
from colorizer.recipe import Recipe

Float = NDArray[np.float32]
SIDE = 64


def halves() -> Float:
    """L with an edge in the middle: dark at the left, bright at the right."""
    lightness = np.full((SIDE, SIDE), 30, np.float32)
    lightness[:, SIDE // 2 :] = 80
    return lightness


def stained() -> Float:
    """Grey, but for a stain of ab (0, 20) in the upper left corner."""
    ab = np.zeros((2, SIDE, SIDE), np.float32)
    ab[1, :16, :16] = 20
    return ab


def solved(ab: Float, lightness: Float, reach: float) -> Float:
    """The least squares themselves, solved densely at half the side."""
    small = ab.reshape(2, SIDE // 2, 2, SIDE // 2, 2).mean(axis=(2, 4))
    guide = lightness.reshape(SIDE // 2, 2, SIDE // 2, 2).mean(axis=(1, 3))
    n = SIDE // 2
    system = np.eye(n * n)
    strength = (reach * n) ** 2
    for one, other in (
        ((y, x), (y + dy, x + dx))
        for y in range(n)
        for x in range(n)
        for dy, dx in ((0, 1), (1, 0))
        if y + dy < n and x + dx < n
    ):
        step = float(guide[one] - guide[other])
        link = strength * (np.exp(-0.5 * (step / 0.8) ** 2) + 1e-4)
        i, j = one[0] * n + one[1], other[0] * n + other[1]
        system[i, i] += link
        system[j, j] += link
        system[i, j] -= link
        system[j, i] -= link
    found = np.linalg.solve(system, small.reshape(2, -1).T).T
    return found.reshape(2, n, n).repeat(2, axis=1).repeat(2, axis=2).astype(np.float32)


def test_a_stain_becomes_an_even_tint_of_the_thing_it_is_on() -> None:
    even = smooth.even(stained(), halves(), 0.5)
    thing = even[1, :, : SIDE // 2 - 4]
    assert thing.std() < stained()[1, :, : SIDE // 2 - 4].std() / 4
    assert thing.mean() == pytest.approx(stained()[1, :, : SIDE // 2].mean(), rel=0.1)


def test_colour_stays_on_its_side_of_an_edge() -> None:
    even = smooth.even(stained(), halves(), 0.5)
    assert np.abs(even[:, :, SIDE // 2 + 2 :]).max() < 0.2


def test_one_colour_all_over_stays_as_it_is() -> None:
    ab = np.full((2, SIDE, SIDE), 12.5, np.float32)
    grain = np.random.default_rng(0).normal(50, 10, (SIDE, SIDE)).astype(np.float32)
    assert smooth.even(ab, grain, 0.5) == pytest.approx(ab, abs=1e-3)


def test_two_passes_are_near_the_exact_least_squares() -> None:
    rng = np.random.default_rng(0)
    ab = stained() + rng.normal(0, 2, (2, SIDE, SIDE)).astype(np.float32)
    exact = solved(ab, halves(), 0.25)
    assert np.abs(smooth.even(ab, halves(), 0.5) - exact).mean() < 0.5
    assert np.abs(ab - exact).mean() > 2


def test_the_picture_may_be_turned_first_or_afterwards() -> None:
    rng = np.random.default_rng(1)
    ab = rng.normal(0, 10, (2, SIDE, SIDE)).astype(np.float32)
    lightness = rng.uniform(0, 100, (SIDE, SIDE)).astype(np.float32)
    flipped = smooth.even(ab[:, ::-1, ::-1].copy(), lightness[::-1, ::-1].copy(), 0.3)
    assert flipped[:, ::-1, ::-1] == pytest.approx(smooth.even(ab, lightness, 0.3), abs=1e-3)


def test_without_smoothing_the_bytes_are_those_of_the_network() -> None:
    ab = stained()
    assert smooth.calmed(ab, halves(), Recipe()) is ab


def test_a_recipe_refuses_to_keep_more_than_all_of_a_cast() -> None:
    with pytest.raises(ValueError, match="cast is 2; it must be from 0 to 1"):
        Recipe(cast=2)


def test_a_recipe_refuses_a_negative_reach() -> None:
    with pytest.raises(ValueError, match="smoothing is -1; it must not be below 0"):
        Recipe(smoothing=-1)

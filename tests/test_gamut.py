"""Bins of ab; straightforward numpy versions of Zhang 2016 are the oracles."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from colorizer import gamut, lab
from colorizer.recipe import Decoding
from evaluation import bins

BINS = gamut.bins()


def colours(count: int, seed: int = 0) -> Tensor:
    """(1, 2, 1, count) ab of random sRGB colours."""
    rgb = np.random.default_rng(seed).integers(0, 256, (1, count, 3), dtype=np.uint8)
    return torch.from_numpy(lab.rgb_to_lab(rgb)[..., 1:]).movedim(-1, 0)[None]


def test_every_colour_of_srgb_has_a_bin_of_its_own() -> None:
    ab = colours(200_000)
    nearest = BINS[bins.encode(ab).numpy().ravel()]
    # Half a bin, and half a unit for the rounding of the table.
    assert np.abs(nearest - ab[0, :, 0].T.numpy()).max() <= gamut.GRID / 2 + 0.5


def test_bins_are_the_squares_that_srgb_reaches_and_no_others() -> None:
    ab = colours(400_000, seed=1)[0, :, 0].T.numpy()
    hit = np.unique(np.rint(ab / gamut.GRID), axis=0) * gamut.GRID
    listed = {tuple(centre) for centre in BINS}
    assert {tuple(centre) for centre in hit} <= listed
    assert len(BINS) == 261
    assert len(hit) > 240  # the rest are slivers that a random colour seldom meets


def test_soft_encoding_is_a_gaussian_over_the_five_nearest_bins() -> None:
    ab = colours(500).round()
    nearest, shares = bins.soft_encode(ab)
    for i, colour in enumerate(ab[0, :, 0].T.numpy()):
        squared = ((BINS - colour) ** 2).sum(axis=1)
        order = np.argsort(squared, kind="stable")[: bins.NEIGHBOURS]
        expected = np.exp(-squared[order] / (2 * bins.SIGMA**2))
        expected /= expected.sum()
        # Equally near bins may come in either order, so compare distances and shares.
        found = squared[nearest[0, :, 0, i].numpy()]
        assert np.allclose(found, squared[order], atol=1e-3)
        assert np.allclose(shares[0, :, 0, i].numpy(), expected, atol=1e-5)


def test_the_mean_of_a_soft_encoded_colour_is_near_that_colour() -> None:
    ab = colours(2000, seed=2)
    nearest, shares = bins.soft_encode(ab)
    mean = (torch.from_numpy(BINS)[nearest] * shares[..., None]).sum(1).movedim(-1, 1)
    inside = (ab.abs().amax(1) < 50)[0, 0]  # at the gamut's edge bins lie on one side only
    assert float((mean - ab)[0, :, 0, inside].abs().max()) < 5


@pytest.fixture(scope="module")
def logits() -> np.ndarray:
    return np.random.default_rng(0).normal(0, 3, (len(BINS), 8, 6)).astype(np.float32)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=0))
    return e / e.sum(axis=0)


@pytest.mark.parametrize("temperature", [0.01, 0.1, 0.38, 1.0, 3.0])
def test_the_annealed_mean_is_the_expectation_of_the_sharpened_softmax(
    logits: np.ndarray, temperature: float
) -> None:
    found = gamut.decode(logits, BINS, "annealed-mean", temperature)
    weights = softmax(logits.astype(np.float64) / temperature)
    assert found.dtype == np.float32
    assert np.allclose(found, np.einsum("qhw,qc->chw", weights, BINS), atol=1e-3)


def test_large_logits_do_not_overflow(logits: np.ndarray) -> None:
    found = gamut.decode(1e4 * logits, BINS, "annealed-mean", 0.01)
    assert np.array_equal(found, gamut.decode(logits, BINS, "mode"))


@pytest.mark.parametrize(("decoding", "temperature"), [("mean", 1.0), ("mode", 1e-3)])
def test_mean_and_mode_are_the_ends_of_the_annealed_mean(
    logits: np.ndarray, decoding: Decoding, temperature: float
) -> None:
    end = gamut.decode(logits, BINS, decoding)
    assert np.allclose(end, gamut.decode(logits, BINS, "annealed-mean", temperature))


def test_a_picture_of_more_pixels_than_are_decoded_at_a_time_has_no_seams() -> None:
    logits = np.random.default_rng(1).normal(0, 3, (len(BINS), 50, 70)).astype(np.float32)
    assert logits[0].size > 2 * gamut._CHUNK
    whole, part = (gamut.decode(x, BINS, "mean") for x in (logits, logits[:, 20:]))
    assert np.allclose(whole[:, 20:], part, atol=1e-4)
    unsure = gamut.uncertainty(logits)
    shares = softmax(logits.astype(np.float64))
    expected = -(shares * np.log(shares)).sum(axis=0) / np.log(len(BINS))
    assert np.allclose(unsure, expected, atol=1e-5)


def test_a_sample_depends_on_every_number_of_its_seed(logits: np.ndarray) -> None:
    one = gamut.decode(logits, BINS, "sample", 0.5, (5, 1))
    assert np.array_equal(one, gamut.decode(logits, BINS, "sample", 0.5, (5, 1)))
    for other in ((6, 1), (5, 2)):
        assert not np.allclose(one, gamut.decode(logits, BINS, "sample", 0.5, other))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_noise_makes_draws_from_the_softmax_at_the_temperature(temperature: float) -> None:
    """The largest of logits / T + noise, at a coarse point of the noise, and between them."""
    scaled = np.log([0.6, 0.3, 0.1])[:, None] / temperature
    chosen = np.array(
        [(scaled + gamut._gumbel_field(3, 5, 5, (seed,))).argmax(axis=0) for seed in range(3000)]
    )
    expected = softmax(scaled)[:, 0]
    for pixel in (0, 7, 12):
        counted = np.bincount(chosen[:, pixel], minlength=3) / len(chosen)
        assert np.allclose(counted, expected, atol=0.04)


def test_a_lower_temperature_gives_samples_nearer_to_the_mode(logits: np.ndarray) -> None:
    mode = gamut.decode(logits, BINS, "mode")
    far = [
        np.mean([np.abs(gamut.decode(logits, BINS, "sample", t, (s,)) - mode) for s in range(5)])
        for t in (0.05, 0.5, 5)
    ]
    assert far[0] < far[1] < far[2]


def test_a_sample_is_coherent_over_regions() -> None:
    logits = np.zeros((len(BINS), 64, 64), np.float32)
    ab = gamut.decode(logits, BINS, "sample", 0.1, (1,))
    step = np.linalg.norm(np.diff(ab, axis=2), axis=0).mean()
    confetti = BINS[np.random.default_rng(0).integers(len(BINS), size=(64, 64))]
    apart = np.linalg.norm(np.diff(confetti, axis=1), axis=-1).mean()
    assert step < 0.1 * apart
    assert ab.std() > 2


def test_a_cast_is_taken_from_what_has_it_not_from_the_neutral_the_opposite_or_the_vivid() -> None:
    had = np.array([0.0, 0.1, 0.4, 1.0, 1.5, 2.0, 3.0, -1.0])
    given = np.array([0.0, 0.25, 1.0, 1.0, 0.5, 0.0, 0.0, 0.0])
    mean = np.array([6.0, 8.0])
    ab = np.repeat(mean[:, None] * had, 64, axis=1)[:, None]
    last = mean + (mean - ab.mean(axis=(1, 2))) * ab.shape[2]  # so that `mean` is their mean
    ab = np.append(ab, last[:, None, None], axis=2)
    taken = ab - gamut.uncast(ab.astype(np.float32), 0.25)
    assert taken[:, 0, :-1:64] == pytest.approx(0.75 * mean[:, None] * given, abs=1e-3)


def test_a_cast_that_is_kept_or_is_not_there_changes_nothing() -> None:
    ab = np.array([[[1.0, 4.0]], [[0.0, 2.0]]], np.float32)
    assert gamut.uncast(ab, 1.0) is ab
    grey = np.zeros((2, 3, 3), np.float32)
    assert np.array_equal(gamut.uncast(grey, 0.25), grey)


def test_softening_halves_chroma_at_the_knee_and_keeps_hue() -> None:
    ab = np.array([[[20.0, 3.0, 0.0]], [[0.0, -4.0, 0.0]]], np.float32)
    soft = gamut.soften(ab, 20.0)
    assert np.allclose(soft, ab / np.array([2.0, 1.25, 1.0], np.float32))
    assert gamut.soften(ab, 0.0) is ab

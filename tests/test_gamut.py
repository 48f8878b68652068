"""Bins of ab; a straightforward numpy version of Zhang 2016 is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from colorizer import gamut, lab

BINS = gamut.bins()


def colours(count: int, seed: int = 0) -> Tensor:
    """(1, 2, 1, count) ab of random sRGB colours."""
    rgb = np.random.default_rng(seed).integers(0, 256, (1, count, 3), dtype=np.uint8)
    return torch.from_numpy(lab.rgb_to_lab(rgb)[..., 1:]).movedim(-1, 0)[None]


def test_every_colour_of_srgb_has_a_bin_of_its_own() -> None:
    ab = colours(200_000)
    nearest = BINS[gamut.encode(ab).numpy().ravel()]
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
    nearest, shares = gamut.soft_encode(ab)
    for i, colour in enumerate(ab[0, :, 0].T.numpy()):
        squared = ((BINS - colour) ** 2).sum(axis=1)
        order = np.argsort(squared, kind="stable")[: gamut.NEIGHBOURS]
        expected = np.exp(-squared[order] / (2 * gamut.SIGMA**2))
        expected /= expected.sum()
        # Equally near bins may come in either order, so compare distances and shares.
        found = squared[nearest[0, :, 0, i].numpy()]
        assert np.allclose(found, squared[order], atol=1e-3)
        assert np.allclose(shares[0, :, 0, i].numpy(), expected, atol=1e-5)


def test_the_mean_of_a_soft_encoded_colour_is_near_that_colour() -> None:
    ab = colours(2000, seed=2)
    nearest, shares = gamut.soft_encode(ab)
    mean = (torch.from_numpy(BINS)[nearest] * shares[..., None]).sum(1).movedim(-1, 1)
    inside = (ab.abs().amax(1) < 50)[0, 0]  # at the gamut's edge bins lie on one side only
    assert float((mean - ab)[0, :, 0, inside].abs().max()) < 5


@pytest.fixture(scope="module")
def logits() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(2, len(BINS), 8, 6, generator=generator)


CENTRES = torch.from_numpy(BINS)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("temperature", [0.1, 0.38, 1.0, 3.0])
def test_the_annealed_mean_is_the_expectation_of_the_sharpened_softmax(
    logits: Tensor, temperature: float
) -> None:
    found = gamut.decode(logits, CENTRES, "annealed-mean", temperature).numpy()
    weights = softmax(logits.double().numpy() / temperature)
    assert np.allclose(found, np.einsum("bqhw,qc->bchw", weights, BINS), atol=1e-3)


def test_mean_and_mode_are_the_ends_of_the_annealed_mean(logits: Tensor) -> None:
    for decoding, temperature in (("mean", 1.0), ("mode", 1e-3)):
        end = gamut.decode(logits, CENTRES, decoding)  # type: ignore[arg-type]
        assert torch.allclose(end, gamut.decode(logits, CENTRES, "annealed-mean", temperature))


def test_a_sample_depends_on_its_seed_and_not_on_its_neighbours(logits: Tensor) -> None:
    one = gamut.decode(logits, CENTRES, "sample", 0.1, seed=5)
    assert torch.equal(one, gamut.decode(logits, CENTRES, "sample", 0.1, seed=5))
    assert not torch.allclose(one, gamut.decode(logits, CENTRES, "sample", 0.1, seed=6))
    alone = gamut.decode(logits[1:], CENTRES, "sample", 0.1, seed=5)
    assert torch.allclose(one[1:], alone, atol=1e-5)


def test_samples_follow_the_distribution() -> None:
    shares = torch.tensor([0.6, 0.3, 0.1])
    centres = torch.tensor([[-10.0, 0.0], [0.0, 0.0], [10.0, 0.0]])
    logits = shares.log().view(1, 3, 1, 1).expand(1, 3, 5, 5)
    # At temperature 0.001 a sample is a bin; (1, 2) lies between the coarse points of the noise.
    found = torch.stack(
        [gamut.decode(logits, centres, "sample", 1e-3, seed)[0, 0, 1, 2] for seed in range(2000)]
    )
    counted = torch.stack([(found - c).abs() < 1 for c in centres[:, 0]]).float().mean(1)
    assert torch.allclose(counted, shares, atol=0.04)


def test_a_sample_is_coherent_over_regions() -> None:
    logits = torch.zeros(1, len(BINS), 64, 64)
    ab = gamut.decode(logits, CENTRES, "sample", 0.1, seed=1)
    step = (ab[..., 1:] - ab[..., :-1]).norm(dim=1).mean()
    generator = torch.Generator().manual_seed(0)
    confetti = CENTRES[torch.randint(len(BINS), (64, 64), generator=generator)]
    apart = (confetti[:, 1:] - confetti[:, :-1]).norm(dim=-1).mean()
    assert float(step) < 0.1 * float(apart)
    assert float(ab.std()) > 10

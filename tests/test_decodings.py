"""python -m evaluation.decodings: ways to turn distributions and ab into colour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from colorizer import gamut, lab
from colorizer.recipe import Head
from evaluation import decodings

BINS = gamut.bins()


def bin_of(centre: tuple[float, float]) -> int:
    """The number of a bin."""
    return int(np.abs(BINS - np.array(centre)).sum(axis=1).argmin())


def logits_of(shares: dict[tuple[float, float], float]) -> decodings.Float:
    """(Q, 1, 1) logits whose softmax has these shares."""
    logits = np.full((len(BINS), 1, 1), -30, np.float32)
    for centre, share in shares.items():
        logits[bin_of(centre)] = np.log(share)
    return logits


def test_the_median_of_chroma_ignores_a_minority_of_grey() -> None:
    ab = decodings.median_chroma(logits_of({(0, 0): 0.4, (40, 0): 0.6}), 1.0)
    assert ab.ravel() == pytest.approx([40, 0], abs=0.1)


def test_colour_fades_where_hues_cancel() -> None:
    ab = decodings.median_chroma(logits_of({(40, 0): 0.5, (-40, 0): 0.499}), 1.0)
    assert np.hypot(*ab.ravel()) < 5


def test_each_colour_of_srgb_is_possible_at_its_own_lightness() -> None:
    rgb = np.random.default_rng(0).integers(0, 86, (1, 500, 3)).astype(np.uint8) * 3
    planes = lab.rgb_to_lab(rgb)
    lightness = planes[..., 0]
    kept = decodings.possible(np.zeros((len(BINS), *lightness.shape), np.float32), lightness)
    for i, ab in enumerate(planes[0, :, 1:]):
        nearest = np.argmin(np.abs(BINS - ab).sum(axis=1))
        assert kept[nearest, 0, i] == 0 or np.abs(BINS[nearest] - ab).max() > 4.5


def test_vivid_yellow_is_impossible_in_the_dark() -> None:
    dark = np.full((1, 1), 10, np.float32)
    assert decodings.possible(logits_of({(0, 80): 1.0}), dark).argmax() != bin_of((0, 80))


def test_every_way_is_measured_at_the_same_colorfulness(
    weights: Callable[[Head], Path], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [str(weights("classification")), str(weights("regression"))]
    assert decodings.main([*both, "--photos", str(photos), "--limit", "3", "--workers", "1"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 10
    colourful = [float(row[2]) for row in rows]
    assert max(colourful) < 1.1 * min(colourful)


def test_the_networks_are_asked_for_in_order(
    weights: Callable[[Head], Path], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = [str(weights("regression")), str(weights("classification"))]
    assert decodings.main([*both, "--photos", str(photos)]) == 2
    assert "a classification network first" in capsys.readouterr().err

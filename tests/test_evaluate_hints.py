"""python -m evaluation.hints: what a few true colours are worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from colorizer import lab
from colorizer.recipe import Head
from evaluation import hints
from tests.support import coloured


def test_places_are_distinct_seeded_and_ordered_and_the_furthest_come_first() -> None:
    lightness = np.ascontiguousarray(lab.rgb_to_lab(coloured(1, 200, 300, 9))[..., 0])
    drawn, spread = (hints.places(lightness, 3, random) for random in (True, False))
    assert np.array_equal(drawn, hints.places(lightness, 3, True))
    assert not np.array_equal(drawn, hints.places(lightness, 4, True))
    for found in (drawn, spread):
        assert len(np.unique(found, axis=0)) == len(found) >= 30
        assert (found >= 0).all()
        assert (found < lightness.shape).all()
    assert np.array_equal(drawn[0], spread[0])
    assert np.hypot(*(spread - spread[0]).T).argmax() == 1


def test_what_is_revealed_is_the_true_colour() -> None:
    truth = lab.rgb_to_lab(coloured(2, 120, 160))
    for hint, (row, column) in zip(
        hints.revealed(truth, np.array([[60, 80], [30, 20]])), ((60, 80), (30, 20)), strict=True
    ):
        assert hint.points == (((column + 0.5) / 160, (row + 0.5) / 120),)
        found = lab.rgb_to_lab(np.array([[hint.colour]], np.uint8))[0, 0]
        assert np.abs(found - truth[row, column]).max() < 4


def test_true_colours_bring_a_picture_nearer_to_the_truth(
    weights: Callable[[Head], Path], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(weights("regression")), "--photos", str(photos), "--workers", "1"]
    assert hints.main([*arguments, "--limit", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    values = np.array(list(found["photographs"].values()))  # (N, 1, 1, COUNTS, MEASURES)
    psnr, delta_e, _ = values[:, 0, 0].mean(axis=0).T
    assert psnr[-1] > psnr[4] > psnr[0]
    assert delta_e[-1] < delta_e[4] < delta_e[0]


def test_the_table_has_a_row_for_each_network_spread_and_measure() -> None:
    found = np.zeros((3, 2, 2, len(hints.COUNTS), 3))
    found[..., 5, 0] = 2.5
    rows = hints.table(["a", "b"], [0, 0.5], found).splitlines()
    assert len(rows) == 2 + 2 * 2 * 3
    assert "| a, 0.5, PSNR | 0.00 |" in rows[5]
    assert "2.50 (+2.50, 2.50–2.50)" in rows[5]


def test_a_hint_changes_most_near_it_and_more_the_more_it_differs(
    weights: Callable[[Head], Path], photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(weights("regression")), "--photos", str(photos), "--workers", "1"]
    assert hints.main([*arguments, "--limit", "3", "--reach", "--spread", "0.1"]) == 0
    rows = [row for row in capsys.readouterr().out.splitlines() if "0.1, " in row]
    moved = np.array([[float(cell) for cell in row.split("|")[2:-1]] for row in rows])
    assert moved.shape == (len(hints.WRONG), len(hints.RINGS))
    assert (moved[:, 0] > 2 * moved[:, -1]).all()
    assert (np.diff(moved[:, 0]) > 0).all()

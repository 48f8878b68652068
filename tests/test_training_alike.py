"""Channels that tell hints what is alike, fitted to photographs."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from colorizer import checkpoint, hints
from colorizer.engines import load_checkpoint
from colorizer.hints import Spot
from colorizer.unet import Alike, enlarged
from tests.support import Capture, Weights
from training import alike

FEATURES = 16  # of the tests' networks


@pytest.fixture
def own(weights: Weights, tmp_path: Path) -> Path:
    """A checkpoint in a folder of its own."""
    return Path(shutil.copy(weights("regression"), tmp_path / "regression.safetensors"))


def test_what_is_fitted_is_what_hints_compute() -> None:
    drawn = np.random.default_rng(3)
    side = 64
    light = np.asarray(cv2.GaussianBlur(drawn.uniform(0, 100, (side, side)), (0, 0), 3), np.float32)
    ab = drawn.normal(0, 15, (side, side, 2)).astype(np.float32)
    torch.manual_seed(0)
    parts = torch.randn(1, 10, side, side), torch.randn(1, 6, side // 2, side // 2)
    features = torch.cat(enlarged(parts), dim=1)[0].half().float().numpy()
    low, high = (0, 0, -50, -50), (1, 1, 50, 50)
    places = drawn.uniform(low, high, (alike.REVEALED, 4))
    spots = [
        Spot(float(x), float(y), 0.02, (float(a), float(b)), number)
        for number, (x, y, a, b) in enumerate(places)
    ]
    found = alike.looked_at(light, ab, spots, 1.5, features, ab)
    assert found is not None
    net = alike.Spreading(torch.from_numpy(found["features"]).float())
    net.last.bias.data.normal_()
    unet = Alike((10, 6), alike.HIDDEN, sum(alike.CHANNELS))
    unet.load_state_dict(net.weights((10, 6)))
    channels = unet(list(parts))[0].detach().numpy()
    given = {key: torch.from_numpy(value)[None] for key, value in found.items()}
    for count in (1, 3, alike.REVEALED):
        expected = hints.spread_spots(light, ab, spots[:count], 0.5, 1.5, channels)
        expected = expected[:: alike.STEP, :: alike.STEP].reshape(-1, 2)
        plain = hints.spread_spots(light, ab, spots[:count], 0.5, 1.5)
        plain = plain[:: alike.STEP, :: alike.STEP].reshape(-1, 2)
        assert np.abs(net(net.look(given), count)[0].detach().numpy() - expected).max() < 0.3
        assert np.abs(plain - expected).max() > 1


def of_two_kinds(seed: int) -> alike.Sample:
    """Pixels of two kinds, which only features tell; one lacks red, the other green."""
    drawn = np.random.default_rng(seed)
    pixels, known = 64, alike.REVEALED
    kinds = drawn.permutation(pixels) % 2
    lacks = np.where(kinds[:, None] == 0, (18.0, 0.0), (-18.0, 0.0))
    features = np.zeros((FEATURES, pixels))
    features[kinds, np.arange(pixels)] = 1
    features += drawn.normal(0, 0.05, features.shape)
    values = {
        "near_cast": np.full((known, pixels), 0.2),
        "near_object": np.full((known, pixels), 9.0),
        "among": np.full((known, known), 0.2) - 0.2 * np.eye(known),
        "amplitude": np.ones(pixels),
        "amplitude_at": np.ones(known),
        "lines": np.zeros((3, pixels)),
        "lines_at": np.zeros((3, known)),
        "features": features,
        "features_at": features[:, :known],
        "missing": lacks[:known],
        "away": np.ones((known, pixels)),
        "lightness": np.full(pixels, 60.0),
        "shown": np.zeros((pixels, 2)),
        "truth": lacks,
    }
    return {key: value.astype(np.float32) for key, value in values.items()}


def test_what_tells_kinds_apart_is_found() -> None:
    _, before, after = alike.fit([of_two_kinds(seed) for seed in range(40)], 20, 0, "two kinds")
    assert after[0] > before[0] + 1
    assert after[1] > before[1] + 3


def test_a_file_is_written_beside_the_checkpoint_and_used_from_then_on(
    own: Path, photos: Path, capsys: Capture
) -> None:
    arguments = [str(own), "--photos", str(photos), "--workers", "1", "--epochs", "1"]
    assert alike.main(arguments) == 0
    assert "regression.alike: 1 hints" in capsys.readouterr().out
    graph, run = load_checkpoint(own)
    light = np.random.default_rng(0).uniform(0, 100, (1, 1, 64, 64)).astype(np.float32)
    output = run(light)
    assert output.shape == (1, graph.recipe.channels + sum(alike.CHANNELS), 64, 64)
    own.with_suffix(".alike").unlink()
    colours = load_checkpoint(own)[1](light)
    assert np.allclose(colours, output[:, : graph.recipe.channels], atol=1e-3)


def test_channels_of_another_network_are_not_used(
    own: Path, weights: Weights, caplog: pytest.LogCaptureFixture
) -> None:
    net, header = checkpoint.load(own)
    own.with_suffix(".alike").write_bytes(weights("regression").with_suffix(".alike").read_bytes())
    assert checkpoint.load(own, alike=True)[0].alike is not None
    assert checkpoint.load(own)[0].alike is None
    net.head.get_parameter("0.weight").data += 0.1
    checkpoint.save(own, net, header)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.load(own, alike=True)[0].alike is None
    assert "fitted to another network" in caplog.text


@pytest.mark.parametrize("body", [b"", b"no safetensors", None])
def test_a_damaged_file_is_refused_with_what_to_do(own: Path, body: bytes | None) -> None:
    path = own.with_suffix(".alike")
    if body is None:  # a whole file of another kind
        shutil.copy(own, path)
    else:
        path.write_bytes(body)
    with pytest.raises(checkpoint.BadCheckpoint, match=r"remove it, or make it again: python -m"):
        checkpoint.load(own, alike=True)

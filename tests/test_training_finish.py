"""The finish of a regression network."""

from __future__ import annotations

from pathlib import Path

import torch

from colorizer import checkpoint
from tests.support import Weights
from training import finish
from training.augment import rgb_to_lab


def test_the_content_loss_is_least_for_the_truth(encoder: Path) -> None:
    features = finish.Features(encoder)
    lightness, ab = rgb_to_lab(torch.rand(2, 3, 32, 32))
    losses = [finish.content_loss(features, lightness, ab, ab * k).item() for k in (1, 0.5, 0)]
    assert losses[0] < 0.05
    assert losses == sorted(losses)


def test_a_critic_learns_to_tell_grey_from_colour() -> None:
    torch.manual_seed(0)
    critic = finish.Critic()
    lightness, ab = rgb_to_lab(torch.rand(8, 3, 32, 32))
    for _ in range(60):
        critic.learn(lightness, ab, 0 * ab)
    real, made = critic(lightness, ab), critic(lightness, 0 * ab)
    assert real.mean().item() > made.mean().item() + 0.5


def test_a_finish_moves_the_decoder_alone_and_says_so(
    photos: Path, encoder: Path, weights: Weights, tmp_path: Path
) -> None:
    before, _ = checkpoint.load(weights("regression"))
    out = tmp_path / "finished.safetensors"
    arguments = [str(weights("regression")), "--photos", str(photos), "--encoder", str(encoder)]
    arguments += ["--out", str(out), "--steps", "2", "1", "3", "--batch", "2", "--side", "32"]
    assert finish.main([*arguments, "--snapshots"]) == 0
    after, header = checkpoint.load(out)
    assert header.provenance["finish"]["steps"] == [2, 1, 3]
    moved = {
        name.split(".")[0]
        for name, value in before.state_dict().items()
        if not torch.equal(value, after.state_dict()[name])
    }
    assert moved == {"blocks", "head"}
    names = {path.name for path in tmp_path.glob("*.safetensors")}
    assert {"finished-features.safetensors", "finished-together-2.safetensors"} <= names

"""Settings of a training run, its losses, and the average of networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from colorizer import checkpoint, gamut
from colorizer.recipe import Head
from colorizer.unet import AB_SCALE, UNet
from evaluation.bins import encode, rebalancing_weights, soft_encode
from tests.support import Capture, Weights
from training import average
from training.config import BadConfig, TrainConfig, read_preset
from training.losses import classification_loss, regression_loss
from training.module import Colorization
from training.survey import Survey

# --- settings


@pytest.mark.parametrize("head", ["regression", "classification"])
def test_each_head_has_a_preset(head: Head) -> None:
    assert read_preset(head).head == head


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batchsize": 8}, "did you mean 'batch'"),
        ({"batch": "8"}, "batch must be int"),
        ({"ema": "high"}, "ema must be float"),
        ({"head": "pair"}, "head must be 'regression' or 'classification' or 'both' or 'same'"),
        ({"precision": "64"}, "precision must be 'auto' or '32'"),
        ({"side": 100}, "multiple of 32"),
        ({"side": 0}, "side must be"),
        ({"batch": 0}, "batch must be from 1"),
        ({"crop": 0.0}, "crop must be from 0.01 to 1"),
        ({"learning_rate": -1.0}, "learning_rate must be from"),
        ({"validation": 3.0}, "validation must be from 0 to 0.9"),
        ({"adapt_norm": 1}, "adapt_norm must be bool"),
        ({"steps": True}, "steps must be int"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_right_one(
    values: dict[str, object], said: str
) -> None:
    with pytest.raises(BadConfig, match=said):
        TrainConfig().override(values)


def test_a_preset_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('head = "classification"\nsteps = 7\n')
    assert read_preset(str(path)) == TrainConfig(head="classification", steps=7)
    path.write_text("steps = ")
    with pytest.raises(BadConfig, match=r"mine\.toml"):
        read_preset(str(path))
    with pytest.raises(BadConfig, match="classification, finetune, joint, regression"):
        read_preset("nothing")


# --- losses


def smoothed(prior: np.ndarray) -> np.ndarray:
    distance = ((gamut.bins()[:, None] - gamut.bins()[None]) ** 2).sum(-1)
    kernel = np.exp(-distance / (2 * 5.0**2))
    result: np.ndarray = (kernel / kernel.sum(axis=0)) @ prior
    return result


def test_rebalancing_weights_have_expectation_one_and_favour_the_rare() -> None:
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.full(261, 0.1))
    for mix in (0.0, 0.5, 0.9):
        weights = rebalancing_weights(prior, mix).numpy()
        assert (weights * smoothed(prior)).sum() == pytest.approx(1, abs=1e-4)
        order = np.argsort(smoothed(prior))
        assert (np.diff(weights[order]) <= 1e-3 * weights[order][:-1]).all()
    assert rebalancing_weights(prior, 1.0).numpy() == pytest.approx(1)


def some_ab() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 60 * torch.rand(2, 2, 5, 4, generator=generator) - 30


def test_the_classification_loss_is_the_dense_one() -> None:
    ab = some_ab()
    logits = torch.randn(2, 261, 5, 4, generator=torch.Generator().manual_seed(1))
    weights = torch.rand(261, generator=torch.Generator().manual_seed(2))
    nearest, shares = soft_encode(ab)
    dense = torch.zeros_like(logits).scatter_add(1, nearest, shares)  # (B, Q, H, W)
    pixels = -(dense * logits.log_softmax(1)).sum(1) * weights[nearest[:, 0]]
    assert torch.allclose(classification_loss(logits, ab, weights), pixels.mean(), atol=1e-4)


@pytest.mark.parametrize(("adjustment", "rare"), [(0.0, 0.5), (1.0, 0.1)])
def test_adjusted_logits_take_the_rebalancing_back(adjustment: float, rare: float) -> None:
    ab = torch.full((1, 2, 1, 10), -40.0)
    ab[..., 9:] = 40  # one pixel of ten is of the rare colour
    right = torch.from_numpy(gamut.bins()[:, 1] > 0)
    weights = torch.where(right, 9.0, 1.0)
    logits = torch.zeros(1, 261, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        classification_loss(logits.expand(1, 261, 1, 10), ab, weights, adjustment).backward()
        optimizer.step()
    assert logits.softmax(1)[0, right].sum().item() == pytest.approx(rare, abs=0.02)


def test_the_regression_loss_is_hubers_weighed() -> None:
    ab, found = some_ab(), some_ab().flip(0)
    weights = torch.rand(261, generator=torch.Generator().manual_seed(2))
    off = (found - ab).abs()
    pixels = torch.where(off < 10, off.square() / 2, 10 * (off - 5)).sum(1) / 10**2
    expected = (pixels * weights[encode(ab)]).mean()
    assert torch.allclose(regression_loss(found, ab, weights, 10.0), expected, atol=1e-5)
    assert AB_SCALE == 110


def test_a_classifier_learns_from_one_pixel_of_four_in_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prior = np.ones(len(gamut.bins())) / len(gamut.bins())
    config = TrainConfig(head="classification", unfreeze=0, rebalance=1)
    torch.manual_seed(0)
    model = Colorization(
        config, UNet("classification", widths=(16, 8, 8, 8)), Survey(prior=prior), 0
    )
    model.net.eval()  # batch norm gives the same in all steps
    lightness, ab = 100 * torch.rand(2, 1, 32, 32), 60 * torch.rand(2, 2, 32, 32) - 30
    whole = model.loss(lightness, ab)  # as held-out photographs are measured
    model.net.training = True
    parts = []
    for step in range(4):
        monkeypatch.setattr(Colorization, "global_step", step)
        parts.append(model.loss(lightness, ab))
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item(), rel=1e-5)
    assert len({round(part.item(), 4) for part in parts}) == 4


@pytest.mark.parametrize("head", ["regression", "classification"])
def test_grey_photographs_teach_nothing(head: Head) -> None:
    ab = some_ab()
    ab[1] = 3 * torch.rand(2, 5, 4)
    channels = 2 if head == "regression" else 261
    output = torch.randn(2, channels, 5, 4, requires_grad=True)
    weights = torch.ones(261)

    def loss(output: Tensor, ab: Tensor) -> Tensor:
        if head == "regression":
            return regression_loss(output, ab, weights, 10.0)
        return classification_loss(output, ab, weights)

    loss(output, ab).backward()
    assert output.grad is not None
    assert output.grad[0].abs().max() > 0
    assert output.grad[1].abs().max() == 0
    assert torch.allclose(loss(output, ab), loss(output[:1], ab[:1]))
    assert loss(output[1:], ab[1:]).item() == 0


# --- averages


def test_the_average_lies_in_the_middle_and_says_of_what(
    weights: Weights, tmp_path: Path, capsys: Capture
) -> None:
    first, second = weights("regression"), tmp_path / "second.safetensors"
    net, known = checkpoint.load(first)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 2
    checkpoint.save(second, net, known)
    out = tmp_path / "mean.safetensors"
    assert average.main([str(first), str(second), "--out", str(out)]) == 0
    assert "the mean of" in capsys.readouterr().out
    before, (mean, said) = checkpoint.load(first)[0], checkpoint.load(out)
    for one, other in zip(before.parameters(), mean.parameters(), strict=True):
        torch.testing.assert_close(other, one + 1, atol=2e-3, rtol=1e-3)  # stored as float16
    assert len(said.provenance["average of"]) == 2

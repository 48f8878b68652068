"""One contract for both heads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from skimage.color import lab2rgb
from torch import Tensor, nn

from colorizer.recipe import Head
from colorizer.unet import UNet
from evaluation.perceptual import torchvision_models

NARROW = (8, 8, 8, 8)


@pytest.fixture(scope="module", params=["regression", "classification"])
def net(request: pytest.FixtureRequest) -> UNet:
    torch.manual_seed(0)
    head: Head = request.param
    return UNet(head, widths=NARROW).eval()


def channels(net: UNet) -> int:
    return 2 if net.kind == "regression" else net.bins


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (96, 32), (224, 224)])
def test_the_output_has_the_inputs_size_for_any_multiple_of_32(
    net: UNet, size: tuple[int, int]
) -> None:
    with torch.inference_mode():
        output = net(100 * torch.rand(2, 1, *size))
    assert output.shape == (2, channels(net), *size)
    assert output.isfinite().all()


def test_a_picture_does_not_depend_on_its_batch(net: UNet) -> None:
    lightness = 100 * torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        together, alone = net(lightness), net(lightness[1:2])
    scale = float(together.abs().max())
    assert float((together[1:2] - alone).abs().max()) < 1e-4 * scale


def test_every_trained_part_gets_a_gradient(net: UNet) -> None:
    net.zero_grad()
    net(100 * torch.rand(1, 1, 32, 32)).square().mean().backward()
    without = [name for name, p in net.named_parameters() if p.grad is None]
    assert without == []
    net.zero_grad()


def test_lightness_reaches_the_encoder_as_imagenet_weights_expect(net: UNet) -> None:
    seen: list[Tensor] = []
    hook = net.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    lightness = torch.linspace(0, 100, 32 * 32).view(1, 1, 32, 32)
    with torch.inference_mode():
        net(lightness)
    hook.remove()
    grey = np.dstack([lightness[0, 0].numpy(), np.zeros((32, 32, 2))])
    rgb = lab2rgb(grey)
    expected = (rgb - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    off = np.abs(seen[0][0].movedim(0, -1).numpy() - expected).max(axis=2)
    bright = lightness[0, 0].numpy() > 8
    assert off[bright].max() < 0.002
    assert off[~bright].max() < 0.034 / 0.224


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(4)
    made: nn.Module = torchvision_models().resnet50(weights=None).eval()
    return made


@pytest.mark.parametrize("change", ["missing", "shape"])
def test_weights_that_are_not_resnet50s_are_refused(
    net: UNet, resnet: nn.Module, change: str
) -> None:
    weights = dict(resnet.state_dict())
    if change == "missing":
        del weights["layer3.0.conv1.weight"]
    else:
        weights["layer3.0.conv1.weight"] = torch.zeros(1)
    with pytest.raises(ValueError, match=r"layers\.2\.0\.conv1\.weight"):
        net.load_encoder(weights)


def test_the_encoder_is_torchvisions_resnet50(resnet: Any) -> None:
    """The same names, shapes and outputs, so that its weights and old checkpoints fit."""
    net = UNet(widths=NARROW).eval()
    before = net.blocks[0].up[0].weight.clone()
    net.load_encoder(dict(resnet.state_dict()))
    assert torch.equal(before, net.blocks[0].up[0].weight)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(x))))
        found = net.pool(net.stem(x))
        for number, layer in enumerate(net.layers, start=1):
            expected = getattr(resnet, f"layer{number}")(expected)
            found = layer(found)
            assert torch.equal(expected, found)
    names = {name for name in resnet.state_dict() if not name.startswith("fc.")}
    own = [name for name in net.state_dict() if name.startswith(("stem.", "layers."))]
    assert len(own) == len(names)

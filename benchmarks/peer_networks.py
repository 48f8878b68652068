"""Other networks that colorize, in their shapes: with random weights, for their speed.

Each takes what ours takes, L (B, 1, S, S) float32 0..100, and gives ab (B, 2, S, S).
"""

from __future__ import annotations

import importlib
import sys
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from colorizer import gamut
from colorizer.unet import AB_SCALE, ENCODER_CHANNELS, UNet, UNetConfig, torchvision_models

# Zhang, Isola, Efros 2016, "Colorful Image Colorization", as its authors released the network
# (github.com/richzhang/colorization, eccv16): channels, convolutions, stride of the last, dilation.
ZHANG_BLOCKS = (
    *((64, 2, 2, 1), (128, 2, 2, 1), (256, 3, 2, 1), (512, 3, 1, 1)),
    *((512, 3, 1, 2), (512, 3, 1, 2), (512, 3, 1, 1)),
)
ZHANG_BINS = 313
# "Image Colorization Project 2.0": channels after each doubling, from S/16 to S/2.
SEED_WIDTHS = (512, 256, 128, 64)
DDCOLOR = "https://github.com/piddnad/DDColor"


class NoSource(Exception):
    """A peer whose code isn't there, or lacks something; the message says what to do."""


class Zhang(nn.Module):
    """Eight VGG-like blocks without pooling, 313 bins at a quarter of the side, their mean."""

    def __init__(self) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 1
        for out, count, stride, dilation in ZHANG_BLOCKS:
            for number in range(count):
                step = stride if number == count - 1 else 1
                blocks += [
                    nn.Conv2d(channels, out, 3, step, padding=dilation, dilation=dilation),
                    nn.ReLU(inplace=True),
                ]
                channels = out
            blocks.append(nn.BatchNorm2d(out))
        blocks += [nn.ConvTranspose2d(channels, 256, 4, 2, padding=1), nn.ReLU(inplace=True)]
        for _ in range(2):
            blocks += [nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(inplace=True)]
        self.blocks = nn.Sequential(*blocks, nn.Conv2d(256, ZHANG_BINS, 1))
        self.mean = nn.Conv2d(ZHANG_BINS, 2, 1, bias=False)

    def forward(self, lightness: Tensor) -> Tensor:
        """(B, 1, S, S) -> (B, 2, S, S)."""
        logits = self.blocks((lightness - 50) / 100)  # (B, 313, S/4, S/4)
        ab = self.mean(logits.softmax(dim=1))
        large = nn.functional.interpolate(
            ab, scale_factor=4.0, mode="bilinear", align_corners=False
        )
        return large * AB_SCALE


class Seed(nn.Module):
    """ResNet-50 and the decoder of pix2pix, as TensorFlow's tutorials have it.

    A transpose convolution of 3 x 3 with batch norm and ReLU for each doubling, joined with the
    encoder's features of that side, and a last one to ab. Source of the layers:
    tensorflow.org/tutorials/images/segmentation.
    """

    def __init__(self) -> None:
        super().__init__()
        resnet = torchvision_models().resnet50(weights=None)
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu)
        self.pool = resnet.maxpool
        self.layers = nn.ModuleList([getattr(resnet, f"layer{i}") for i in (1, 2, 3, 4)])
        skips = ENCODER_CHANNELS[-2::-1]  # 1024, 512, 256, 64
        inputs = [ENCODER_CHANNELS[-1], *(w + s for w, s in zip(SEED_WIDTHS, skips, strict=True))]
        self.ups = nn.ModuleList(
            nn.Sequential(_double(i, out, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True))
            for i, out in zip(inputs, SEED_WIDTHS, strict=False)
        )
        self.last = _double(inputs[-1], 2, bias=True)

    def forward(self, lightness: Tensor) -> Tensor:
        """(B, 1, S, S) -> (B, 2, S, S)."""
        features = [self.stem(lightness.expand(-1, 3, -1, -1))]
        x = self.pool(features[0])
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        for up, skip in zip(self.ups, features[-2::-1], strict=True):
            x = torch.cat([up(x), skip], dim=1)
        ab: Tensor = self.last(x)
        return ab


def _double(channels: int, out: int, bias: bool) -> nn.Module:
    """A transpose convolution that doubles the side, as Keras pads it."""
    return nn.ConvTranspose2d(channels, out, 3, 2, padding=1, output_padding=1, bias=bias)


class Ours(nn.Module):
    """A network of this project, down to ab: the classifier's bins are decoded."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.net = UNet(config)
        self.register_buffer("centres", torch.from_numpy(gamut.bins()))

    def forward(self, lightness: Tensor) -> Tensor:
        """(B, 1, S, S) -> (B, 2, S, S)."""
        output: Tensor = self.net(lightness)
        if self.net.config.head == "regression":
            return output
        return gamut.decode(output, self.get_buffer("centres"), "annealed-mean", 0.38)


class DDColor(nn.Module):
    """DDColor-tiny (Kang et al. 2023), by its own code.

    Args:
        folder: a clone of DDCOLOR.
        side: S.

    Raises:
        NoSource: if it isn't one, or needs a package that isn't installed.
    """

    def __init__(self, folder: Path, side: int) -> None:
        super().__init__()
        torchvision_models()  # timm, which DDColor takes layers from, imports torchvision
        sys.path.insert(0, str(folder.resolve()))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of names that timm has moved since
                model = importlib.import_module("ddcolor.model")
        except ModuleNotFoundError as error:
            missing = str(error.name).partition(".")[0]
            if missing in ("ddcolor", "basicsr"):
                raise NoSource(
                    f"{folder} is not DDColor's source ({error.name} is missing): "
                    f"git clone {DDCOLOR}, and name that folder"
                ) from None
            raise NoSource(
                f"DDColor needs {missing}: .venv/bin/python -m pip install {missing}"
            ) from None
        finally:
            sys.path.remove(str(folder.resolve()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # spectral norm by hooks is deprecated in torch
            # As its own build_ddcolor_model does for "tiny".
            self.net: nn.Module = model.DDColor(
                encoder_name="convnext-t",
                input_size=(side, side),
                num_output_channels=2,
                last_norm="Spectral",
                num_queries=100,
            )

    def forward(self, lightness: Tensor) -> Tensor:
        """(B, 1, S, S) -> (B, 2, S, S)."""
        ab: Tensor = self.net((lightness / 100).expand(-1, 3, -1, -1))
        return ab

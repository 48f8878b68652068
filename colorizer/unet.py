"""Two U-Nets: one trunk with a ResNet-50 encoder, and a head that regresses or classifies ab.

The forward of `UNet` is the contract of every exported graph:
L (B, 1, S, S) float32 0..100 -> (B, 2, S, S) ab, or (B, Q, S, S) logits over bins of ab.
S is any multiple of 32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Head = Literal["regression", "classification"]

# torchvision's statistics of ImageNet, which its weights expect of RGB in 0..1
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)

# Channels of ResNet-50 after the stem and after each of its four layers; sides S/2 ... S/32.
ENCODER_CHANNELS = (64, 256, 512, 1024, 2048)

AB_SCALE = 110.0  # the regression head predicts ab / AB_SCALE: about -1..1 over sRGB


@dataclass(frozen=True)
class UNetConfig:
    """What a network is made of; a checkpoint carries it, so that it can rebuild its network.

    Attributes:
        head: "regression" or "classification".
        side: S that the network is served at, in pixels, a multiple of 32.
        bins: Q, the number of bins (classification only).
        widths: channels after each decoder block, from S/16 to S/2.
    """

    head: Head = "regression"
    side: int = 224
    bins: int = 261
    widths: tuple[int, ...] = (256, 160, 96, 48)


class Block(nn.Module):
    """Double the side by a transpose convolution, join the encoder's skip, mix by a convolution."""

    def __init__(self, channels: int, skip: int, out: int) -> None:
        super().__init__()
        # Kernel 2 at stride 2: every output pixel has one source, so no checkerboard.
        self.up = nn.Sequential(
            nn.ConvTranspose2d(channels, out, 2, stride=2, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )
        self.mix = nn.Sequential(
            nn.Conv2d(out + skip, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, channels, h, w) and (B, skip, 2h, 2w) -> (B, out, 2h, 2w)."""
        mixed: Tensor = self.mix(torch.cat([self.up(x), skip], dim=1))
        return mixed


class UNet(nn.Module):
    """The network of a `UNetConfig`, with random weights."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        resnet = torchvision_models().resnet50(weights=None)
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu)
        self.pool = resnet.maxpool
        self.layers = nn.ModuleList([getattr(resnet, f"layer{i}") for i in (1, 2, 3, 4)])
        skips = ENCODER_CHANNELS[-2::-1]  # 1024, 512, 256, 64
        inputs = (ENCODER_CHANNELS[-1], *config.widths)
        self.blocks = nn.ModuleList(
            Block(i, skip, out) for i, skip, out in zip(inputs, skips, config.widths, strict=False)
        )
        last = config.widths[-1]
        self.head = nn.Sequential(
            nn.Conv2d(last, last, 3, padding=1, bias=False),
            nn.BatchNorm2d(last),
            nn.ReLU(inplace=True),
            nn.Conv2d(last, 2 if config.head == "regression" else config.bins, 1),
        )

    @property
    def encoder(self) -> list[nn.Module]:
        """The modules that ImageNet weights initialize."""
        return [self.stem, self.layers]

    def encode(self, lightness: Tensor) -> list[Tensor]:
        """(B, 1, S, S) L -> five feature maps, ENCODER_CHANNELS channels, sides S/2 ... S/32."""
        # A grey of lightness L has the sRGB value 1.055 * Y ** (1 / 2.4) - 0.055, where
        # Y = ((L + 16) / 116) ** 3 (both exact for L > 8, and within 0.034 below).
        grey = 1.055 * ((lightness + 16) / 116) ** (3 / 2.4) - 0.055
        x = torch.cat([(grey - m) / s for m, s in zip(_MEAN, _STD, strict=True)], dim=1)
        # A network of float16 is one from here on: L and its curve are exact in any.
        features = [self.stem(x.type_as(next(self.stem.parameters())))]  # of (B, 3, S, S)
        x = self.pool(features[0])
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features

    def mix(self, features: list[Tensor]) -> Tensor:
        """Features of `encode` -> what a head gets, (B, widths[-1], S/2, S/2)."""
        x = features[-1]
        for block, skip in zip(self.blocks, features[-2::-1], strict=True):
            x = block(x, skip)
        return x

    def decode(self, features: list[Tensor]) -> Tensor:
        """Features of `encode` -> the head's output at half the side, (B, C, S/2, S/2)."""
        output: Tensor = self.head(self.mix(features)).float()
        return output * AB_SCALE if self.config.head == "regression" else output

    def forward(self, lightness: Tensor) -> Tensor:
        """(B, 1, S, S) L, 0..100 -> (B, 2, S, S) ab, or (B, Q, S, S) logits."""
        half = self.decode(self.encode(lightness))
        # Colour is smooth where lightness is not, and full-size edges come from L afterwards:
        # the last doubling is interpolation, so Q channels are computed at a quarter of the cost.
        return nn.functional.interpolate(
            half, scale_factor=2.0, mode="bilinear", align_corners=False
        )

    def load_encoder(self, weights: dict[str, Tensor]) -> None:
        """Set the encoder from torchvision's ResNet-50 weights (`fc` is not needed).

        Raises:
            ValueError: if a tensor is missing or has another shape.
        """
        renamed = {}
        for name, value in weights.items():
            part, _, rest = name.partition(".")
            if part in ("conv1", "bn1"):
                renamed[f"stem.{0 if part == 'conv1' else 1}.{rest}"] = value
            elif part.startswith("layer"):
                renamed[f"layers.{int(part[5:]) - 1}.{rest}"] = value
        own = {k: v for k, v in self.state_dict().items() if k.startswith(("stem.", "layers."))}
        wrong = [k for k, v in own.items() if k not in renamed or renamed[k].shape != v.shape]
        if wrong:
            raise ValueError(f"not ResNet-50 weights: {wrong[0]} is missing or of another shape")
        self.load_state_dict({k: v.float() for k, v in renamed.items()}, strict=False)


def torchvision_models() -> Any:
    """Import torchvision.models, also beside a torch that was built without CUDA.

    PyPI's torchvision links its operators against CUDA; beside a CPU-only torch they do not load,
    and the import fails on registering shapes for `nms`. Declaring the two operators is enough:
    nothing here calls them.
    """
    try:
        import torchvision.models
    except RuntimeError:
        schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + schema)
        _KEPT.append(library)  # a library that is collected takes its operators along
        import torchvision.models
    return torchvision.models


_KEPT: list[torch.library.Library] = []

"""Two U-Nets: one trunk with a ResNet-50 encoder, and a head that regresses or classifies ab.

The forward of `UNet` is what every exported graph computes:
L (B, 1, S, S) float32 0..100 -> (B, 2, S, S) ab, or (B, Q, S, S) logits over bins of ab; then K
more channels, if hints are to know what a network takes for alike. S is any multiple of 32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from colorizer.recipe import Head

# torchvision's statistics of ImageNet, which its weights expect of RGB in 0..1
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Channels of ResNet-50 after the stem and after each of its four layers; sides S/2 ... S/32.
ENCODER_CHANNELS = (64, 256, 512, 1024, 2048)
_ENCODER_BLOCKS = (3, 4, 6, 3)  # of each layer
WIDTHS = (256, 160, 96, 48)  # channels after each decoder block, from S/16 to S/2
BINS = 261  # Q: len(gamut.bins())

AB_SCALE = 110.0  # the regression head predicts ab / AB_SCALE: about -1..1 over sRGB


class Bottleneck(nn.Module):
    """ResNet-50's block: 1x1, 3x3 and 1x1 convolutions beside a shortcut.

    Names and order of the modules are torchvision's, so its weights fit; so is the stride, which
    lies in the 3x3 convolution. Source: He et al. 2015, "Deep Residual Learning for Image
    Recognition", figure 5.
    """

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        width = out // 4
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential()  # passes on what it gets
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, out, h / stride, w / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        joined: Tensor = self.relu(y + self.downsample(x))
        return joined


def _encoder_layer(channels: int, out: int, blocks: int, stride: int) -> nn.Sequential:
    """One of ResNet-50's four layers; its first block changes channels and side."""
    first = Bottleneck(channels, out, stride)
    return nn.Sequential(first, *(Bottleneck(out, out, 1) for _ in range(blocks - 1)))


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


class Alike(nn.Module):
    """Channels by which hints tell what is alike, from features of several sides.

    Args:
        inputs: channels of the features; the first have the largest side, each next one half of it.
        hidden: channels in between.
        channels: K.
    """

    def __init__(self, inputs: Sequence[int], hidden: int, channels: int) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Conv2d(i, hidden, 1) for i in inputs)
        self.last = nn.Conv2d(hidden, channels, 1)

    def forward(self, features: list[Tensor]) -> Tensor:
        """Features, (B, inputs[i], h / 2^i, w / 2^i) -> (B, K, h, w)."""
        parts = [first(x) for first, x in zip(self.first, features, strict=True)]
        joined, *others = enlarged(parts)
        for one in others:
            joined = joined + one
        channels: Tensor = self.last(joined.relu())
        return channels


def enlarged(features: Sequence[Tensor]) -> list[Tensor]:
    """Enlarge features, each of half the side of those before, to the side of the first."""
    return [
        nn.functional.interpolate(x, scale_factor=2.0**i, mode="bilinear", align_corners=False)
        if i
        else x
        for i, x in enumerate(features)
    ]


class UNet(nn.Module):
    """The network, with random weights.

    Args:
        head: "regression" or "classification".
        bins: Q, the channels of a classification head.
        widths: channels after each decoder block, from S/16 to S/2.
    """

    def __init__(
        self, head: Head = "regression", bins: int = BINS, widths: tuple[int, ...] = WIDTHS
    ) -> None:
        super().__init__()
        self.kind, self.bins, self.widths = head, bins, widths
        self.alike: nn.Module | None = None
        stem, *_ = ENCODER_CHANNELS
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(inplace=True),
        )
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layers = nn.ModuleList(
            _encoder_layer(channels, out, blocks, stride)
            for channels, out, blocks, stride in zip(
                ENCODER_CHANNELS, ENCODER_CHANNELS[1:], _ENCODER_BLOCKS, (1, 2, 2, 2), strict=False
            )
        )
        for module in self.modules():  # as torchvision begins an encoder without weights
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        skips = ENCODER_CHANNELS[-2::-1]  # 1024, 512, 256, 64
        inputs = (ENCODER_CHANNELS[-1], *widths)
        self.blocks = nn.ModuleList(
            Block(i, skip, out) for i, skip, out in zip(inputs, skips, widths, strict=False)
        )
        last = widths[-1]
        self.head = nn.Sequential(
            nn.Conv2d(last, last, 3, padding=1, bias=False),
            nn.BatchNorm2d(last),
            nn.ReLU(inplace=True),
            nn.Conv2d(last, 2 if head == "regression" else bins, 1),
        )

    def tell_alike(self, weights: dict[str, Tensor]) -> None:
        """Add K channels to the output, by which hints tell what is alike (training.alike).

        Args:
            weights: of `Alike`, for features of `seen_by_alike` channels.
        """
        channels, hidden, *_ = weights["last.weight"].shape
        alike = Alike(self.seen_by_alike, hidden, channels)
        alike.load_state_dict(weights)
        self.alike = alike

    @property
    def seen_by_alike(self) -> tuple[int, ...]:
        """Channels of what the head's last convolution sees, and of two decoder blocks before."""
        return (self.widths[-1], *self.widths[-2:-4:-1])

    @property
    def encoder(self) -> list[nn.Module]:
        """The modules that ImageNet weights initialize."""
        return [self.stem, self.layers]

    def encode(self, lightness: Tensor) -> list[Tensor]:
        """(B, 1, S, S) L -> five feature maps, ENCODER_CHANNELS channels, sides S/2 ... S/32."""
        # A grey of lightness L has the sRGB value 1.055 * Y ** (1 / 2.4) - 0.055, where
        # Y = ((L + 16) / 116) ** 3 (both exact for L > 8, and within 0.034 below).
        grey = 1.055 * ((lightness + 16) / 116) ** (3 / 2.4) - 0.055
        x = torch.cat(
            [(grey - m) / s for m, s in zip(IMAGENET_MEAN, IMAGENET_STD, strict=True)], dim=1
        )
        # A network of float16 is one from here on: L and its curve are exact in any.
        features = [self.stem(x.type_as(next(self.stem.parameters())))]  # of (B, 3, S, S)
        x = self.pool(features[0])
        for layer in self.layers:
            x = layer(x)
            features.append(x)
        return features

    def mix(self, features: list[Tensor]) -> list[Tensor]:
        """Features of `encode` -> those of each block; the last, at S/2, are what a head gets."""
        mixed = features[-1:]
        for block, skip in zip(self.blocks, features[-2::-1], strict=True):
            mixed.append(block(mixed[-1], skip))
        return mixed[1:]

    def decode(self, features: list[Tensor]) -> Tensor:
        """Features of `encode` -> the head's output at half the side, (B, C, S/2, S/2)."""
        mixed = self.mix(features)
        seen = self.head[:-1](mixed[-1])
        output: Tensor = self.head[-1](seen).float()
        if self.kind == "regression":
            output = output * AB_SCALE
        if self.alike is not None:
            known = [seen, *mixed[-2:-4:-1]]
            output = torch.cat([output, self.alike(known).float()], dim=1)
        return output

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

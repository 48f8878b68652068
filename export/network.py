"""A checkpoint's network as graphs hold it: batch norm folded away, in float32 or float16."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from colorizer.unet import UNet

FLOAT16_MAX = 65504.0


def fold(net: UNet) -> UNet:
    """Copy a network with each batch norm folded into the convolution before it, in float32.

    In float16 a batch norm's own variances and products would be rounded, or overflow; folded
    beforehand, only the weights of convolutions are.
    """
    folded = copy.deepcopy(net)
    _fold_children(folded)
    return folded


def _fold_children(module: nn.Module) -> None:
    """Modules stand in the order in which they run, in `unet.Bottleneck` too."""
    before: tuple[str, nn.Conv2d | nn.ConvTranspose2d] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and before is not None:
            transposed = isinstance(before[1], nn.ConvTranspose2d)
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child, transposed))
            setattr(module, name, nn.Identity())
        _fold_children(child)
        before = (name, child) if isinstance(child, nn.Conv2d | nn.ConvTranspose2d) else None


def half(folded: UNet) -> UNet:
    """Copy a folded network in float16.

    `UNet` keeps float32 where float16 would cost more than it gives: for L and its normalization,
    a power curve that is steep near black, over one channel; and from the head's output on, since
    large ab would be rounded to steps of a sixteenth, and decoding expects float32.
    """
    return copy.deepcopy(folded).half()


def largest_activation(folded: UNet, lightness: NDArray[np.float32]) -> float:
    """Find the largest |value| that any layer gives for these pictures: float16 ends at 65504.

    Args:
        folded: a network in float32.
        lightness: (B, 1, S, S).
    """
    largest = 0.0

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal largest
        largest = max(largest, float(output.abs().max()))

    layers = [m for m in folded.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    hooks = [layer.register_forward_hook(look) for layer in layers]
    try:
        with torch.inference_mode():
            folded(torch.from_numpy(lightness))
    finally:
        for hook in hooks:
            hook.remove()
    return largest

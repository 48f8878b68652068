"""A checkpoint's network as graphs hold it: batch norm folded away, in float32 or float16."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from colorizer.unet import UNet

FLOAT16_MAX = 65504.0

# Weights of a convolution, and a factor that broadcasts over them.
Stored = tuple[NDArray[np.float16], NDArray[np.float32] | None]


def fold(net: UNet) -> UNet:
    """Copy a network with each batch norm folded into the convolution before it, in float32.

    In float16 a batch norm's own variances and products would be rounded, or overflow; folded
    beforehand, only the weights of convolutions are.
    """
    folded = copy.deepcopy(net)
    for name, convolution, norm in _convolutions(net):
        if norm is not None:
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            folded.set_submodule(name, fuse_conv_bn_eval(convolution, norm[1], transposed))
            folded.set_submodule(norm[0], nn.Identity())
    return folded


def stored(net: UNet) -> dict[str, Stored]:
    """Give the weights of each folded convolution as float16 weights times a float32 factor.

    The float16 weights are the checkpoint's own, and the factor, one for each output channel, is
    the batch norm's. `fold` computes the same product, so nothing is rounded.

    Returns:
        By the names of the folded network's weights; the factor is None without batch norm.
    """
    found = {}
    for name, convolution, norm in _convolutions(net):
        factor = None
        if norm is not None:
            transposed = isinstance(convolution, nn.ConvTranspose2d)
            variance = torch.as_tensor(norm[1].running_var)
            scale = norm[1].weight * torch.rsqrt(variance + norm[1].eps)
            factor = scale.detach().reshape((1, -1, 1, 1) if transposed else (-1, 1, 1, 1)).numpy()
        found[f"{name}.weight"] = convolution.weight.detach().half().numpy(), factor
    return found


def _convolutions(
    net: UNet,
) -> Iterator[tuple[str, nn.Conv2d | nn.ConvTranspose2d, tuple[str, nn.BatchNorm2d] | None]]:
    """Yield convolutions, by name, each with the batch norm after it.

    Modules stand in the order in which they run, in `unet.Bottleneck` too.
    """
    modules = list(net.named_modules())
    for (name, module), after in zip(modules, [*modules[1:], ("", None)], strict=True):
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            norm = (after[0], after[1]) if isinstance(after[1], nn.BatchNorm2d) else None
            yield name, module, norm


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

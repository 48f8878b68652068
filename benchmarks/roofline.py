"""How near to the machine's own limits a network runs: FLOP and bytes counted, peaks measured.

Source: Williams, Waterman, Patterson 2009, "Roofline: An Insightful Visual Performance Model".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from colorizer.engine import Precision

# Engines fold these into the convolution before them: they move no bytes of their own.
FOLDED = (nn.BatchNorm2d, nn.ReLU)
COUNTED = (
    "FLOP: torch's counter, two for each multiplication and addition of a convolution. "
    "Bytes: of each convolution and pooling, weights, input and output, once; batch norm, ReLU, "
    "sums and interpolation are taken as folded in"
)
GEMM = {"cpu": 2048, "cuda": 8192}  # side of the matrices
PICTURES = {"cpu": 4, "cuda": 128}  # of 256 channels, 56 x 56, for a convolution of 3 x 3
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 30}  # far more than any cache
BEST_OF = 7
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "float16": torch.float16}


@dataclass(frozen=True)
class Cost:
    """What one run of a network costs at least.

    Attributes:
        flop: floating-point operations.
        bytes: moved between memory and cores, in float32.
    """

    flop: int
    bytes: int


@dataclass(frozen=True)
class Peak:
    """What a machine reached.

    Attributes:
        flops: FLOP/s of a large matrix product or convolution, whichever was faster.
        bandwidth: bytes/s, read and written, of a large copy.
        by: which of the two it was.
    """

    flops: float
    bandwidth: float
    by: str

    @property
    def ridge(self) -> float:
        """FLOP for each byte from which on the cores are the limit, no longer memory."""
        return self.flops / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """FLOP/s at most, where a byte has so many FLOP."""
        return min(self.flops, intensity * self.bandwidth)


def count(net: nn.Module, *inputs: Tensor) -> Cost:
    """Count what a forward pass costs; see COUNTED."""
    moved = 0

    def hook(layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        nonlocal moved
        tensors = [*given, output, *layer.parameters(recurse=False)]
        moved += sum(one.nbytes for one in tensors if isinstance(one, Tensor))

    layers = [one for one in net.modules() if not list(one.children())]
    hooks = [one.register_forward_hook(hook) for one in layers if not isinstance(one, FOLDED)]
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(*inputs)
    finally:
        for one in hooks:
            one.remove()
    return Cost(counter.get_total_flops(), moved)


def peak(device: str = "cpu", precision: Precision = "float32", quick: bool = False) -> Peak:
    """Measure a machine, by the best of BEST_OF runs each.

    Neither of the two products is a peak by itself: a BLAS may be slow on a CPU that convolutions
    are fast on.
    """
    kind = torch.device(device).type
    if kind == "cuda":  # as its convolutions may by default, products of float32 by TF32
        torch.backends.cuda.matmul.fp32_precision = "tf32"
    side, size = (512, 1 << 24) if quick else (GEMM[kind], COPY_BYTES[kind])
    a, b = (torch.rand(side, side, device=device).to(DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(a)
    product = 2 * side**3 / best(lambda: torch.mm(a, b, out=out), device)
    pictures = 1 if quick else PICTURES[kind]
    x = torch.rand(pictures, 256, 56, 56, device=device).to(DTYPES[precision])
    weight = torch.rand(256, 256, 3, 3, device=device).to(DTYPES[precision])
    x, weight = (one.to(memory_format=torch.channels_last) for one in (x, weight))
    seconds = best(lambda: nn.functional.conv2d(x, weight, padding=1), device)
    convolution = 2 * x.numel() * weight[0].numel() / seconds
    source = torch.ones(size // 4, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * size / best(lambda: target.copy_(source), device)
    by = "matrix product" if product > convolution else "convolution"
    return Peak(max(product, convolution), bandwidth, by)


def best(call: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of BEST_OF calls, after one."""
    found = []
    for _ in range(BEST_OF + 1):
        start = time.perf_counter()
        call()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - start)
    return min(found[1:])

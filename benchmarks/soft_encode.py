"""Time soft-encoding beside the network's forward pass: it should cost less than a tenth of it.

Both see the same batch, in turns, so that a busy moment of the machine hits both; medians and
their ratio are printed. The network is the shipped one's shape, with random weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

import torch

from benchmarks import command
from benchmarks.results import Plot, Table
from benchmarks.timing import alternate
from colorizer import gamut
from colorizer.unet import UNet, UNetConfig

MODULE = "benchmarks.soft_encode"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print a table; returns the exit code."""
    parser = command.parser(MODULE, __doc__)
    add = parser.add_argument
    add("--batch", type=command.positive, default=32, help="pictures (default: %(default)s)")
    add("--side", type=command.positive, default=224, help="pixels (default: %(default)s)")
    add("--repeat", type=command.positive, default=5, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.batch, options.side, options.repeat = 1, 64, 1
    return command.carry_out(MODULE, options, arguments, measure(options))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure the forward pass, and soft-encoding of all pixels and of every other."""
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(0)
    count, side = options.batch, options.side
    lightness = (100 * torch.rand(count, 1, side, side, generator=generator)).to(device)
    ab = (120 * torch.rand(count, 2, side, side, generator=generator) - 60).to(device)
    half = torch.nn.functional.avg_pool2d(ab, 2)
    net = UNet(UNetConfig(head="classification", side=side)).eval().to(device)
    calls: dict[str, Callable[[], object]] = {
        "forward pass": lambda: net.decode(net.encode(lightness)),
        f"soft-encoding, {side} x {side}": lambda: gamut.soft_encode(ab),
        f"soft-encoding, {side // 2} x {side // 2}, as training does": (
            lambda: gamut.soft_encode(half)
        ),
    }
    with torch.inference_mode():
        times = alternate(list(calls.values()), options.repeat, device, "soft-encoding")
    forward = times[0].median
    yield Table(
        "Soft-encoding beside the forward pass",
        ["what", "ms", "quartiles, ms", "share of the forward pass"],
        [
            [
                name,
                time.median,
                time.spread,
                time.median / forward if time is not times[0] else None,
            ]
            for name, time in zip(calls, times, strict=True)
        ],
        f"{count} pictures of {side} × {side}, {device}, {command.threads()}, median "
        f"of {options.repeat} rounds.",
        Plot("what", ["ms"], "ms"),
    )


if __name__ == "__main__":
    sys.exit(main())

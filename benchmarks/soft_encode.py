"""Time soft-encoding beside the network's forward pass: it should cost less than a tenth of it.

Both see the same batch, in turns, so that a busy moment of the machine hits both; medians and
their ratio are printed. The network is the shipped one's shape, with random weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import torch

import colorizer
from benchmarks.pipeline import alternate
from colorizer import gamut
from colorizer.unet import UNet, UNetConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soft_encode", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--version", action="version", version=colorizer.__version__)
    parser.add_argument("--batch", type=int, default=32, help="pictures (default: %(default)s)")
    parser.add_argument("--side", type=int, default=224, help="pixels (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    generator = torch.Generator().manual_seed(0)
    shape = options.batch, options.side, options.side
    lightness = (100 * torch.rand(shape[0], 1, *shape[1:], generator=generator)).to(device)
    ab = (120 * torch.rand(shape[0], 2, *shape[1:], generator=generator) - 60).to(device)
    net = UNet(UNetConfig(head="classification", side=options.side)).eval().to(device)

    def finished(work: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode():
                work()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    half = torch.nn.functional.avg_pool2d(ab, 2)
    forward, full, used = alternate(
        [
            finished(lambda: net.decode(net.encode(lightness))),
            finished(lambda: gamut.soft_encode(ab)),
            finished(lambda: gamut.soft_encode(half)),
        ],
        options.repeat,
    )
    print(f"{options.batch} pictures of {options.side} x {options.side}, {device}, ", end="")
    print(f"{torch.get_num_threads()} threads, median of {options.repeat} rounds\n")
    print("| | ms | share of the forward pass |\n|---|---|---|")
    print(f"| forward pass | {forward:.0f} | |")
    print(f"| soft-encoding, {options.side} x {options.side} | {full:.0f} | {full / forward:.3f} |")
    side = options.side // 2
    print(
        f"| soft-encoding, {side} x {side}, as training does | {used:.0f} | {used / forward:.3f} |"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

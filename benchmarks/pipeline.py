"""Time the work around the network at full size, beside scikit-image's.

Each stage is timed in turn, ours and scikit-image's alternating, so that a busy moment of the
machine hits both; medians and their ratio are printed.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version

import cv2
import numpy as np
from skimage import color, data

import colorizer
from colorizer import image, lab


def alternate(calls: Sequence[Callable[[], object]], repeat: int) -> list[float]:
    """Median milliseconds of each call; the first round warms up and is not counted."""
    times: list[list[float]] = [[] for _ in calls]
    for round_number in range(repeat + 1):
        for call, kept in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if round_number:
                kept.append(1000 * (time.perf_counter() - start))
    return [statistics.median(kept) for kept in times]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print a table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pipeline", description=__doc__)
    parser.add_argument("--version", action="version", version=colorizer.__version__)
    parser.add_argument("--size", default="2048x1536", help="WIDTHxHEIGHT (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=7, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        width, height = map(int, options.size.split("x"))
    except ValueError:
        parser.error(f"--size must be WIDTHxHEIGHT, not {options.size!r}")
    rgb = cv2.resize(data.astronaut(), (width, height), interpolation=cv2.INTER_CUBIC)
    rgb = np.asarray(rgb, np.uint8)
    true_lab = color.rgb2lab(rgb)
    lightness, ab = lab.rgb_to_lightness(rgb), true_lab[..., 1:].astype(np.float32)
    grey = np.asarray(rgb[..., 1])
    body = image.write(rgb, image.OutputOptions())
    difference = np.abs(
        lab.lab_to_rgb(lightness, ab).astype(int) - np.rint(255 * color.lab2rgb(true_lab))
    )

    stages: list[tuple[str, Callable[[], object], Callable[[], object]]] = [
        ("RGB -> L", lambda: lab.rgb_to_lightness(rgb), lambda: color.rgb2lab(rgb)),
        ("L, ab -> RGB", lambda: lab.lab_to_rgb(lightness, ab), lambda: color.lab2rgb(true_lab)),
        (
            "grey -> L",
            lambda: lab.rgb_to_lightness(grey),
            lambda: color.rgb2lab(color.gray2rgb(grey)),
        ),
    ]
    print(f"{width} x {height}, median of {options.repeat} rounds, {platform.machine()}")
    print(f"colorizer {colorizer.__version__}, scikit-image {version('scikit-image')}\n")
    print("| stage | ours, ms | scikit-image, ms | ratio |\n|---|---|---|---|")
    total = [0.0, 0.0]
    for name, ours, theirs in stages:
        times = alternate([ours, theirs], options.repeat)
        print(
            f"| {name} | {times[0]:.0f} | {times[1]:.0f} | {times[1] / times[0]:.1f} |", flush=True
        )
        if not name.startswith("grey"):
            total = [total[0] + times[0], total[1] + times[1]]
    print(f"| there and back | {total[0]:.0f} | {total[1]:.0f} | {total[1] / total[0]:.1f} |")
    print(f"\nlargest difference there and back: {difference.max():.0f} of 255 levels\n")
    (read, write) = alternate(
        [lambda: image.read(body), lambda: image.write(rgb, image.OutputOptions())], options.repeat
    )
    print(f"around them: JPEG to pixels {read:.0f} ms, pixels to JPEG {write:.0f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())

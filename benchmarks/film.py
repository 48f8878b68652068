"""Measure flicker of colour on a film that stands still under grain, against frame by frame."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data

import colorizer
from colorizer import film
from colorizer.api import Colorizer
from colorizer.engine import BadGraph

FRAMES = 16
HEIGHT, WIDTH = 480, 640
HOLDS = (0.0, 0.5, film.HOLD, 0.95)


def grainy(grain: float, frames: int = FRAMES) -> list[NDArray[np.uint8]]:
    """(H, W, 3) uint8 each: a photograph that stands still, with new grain in every frame.

    Args:
        grain: its standard deviation, in 8-bit levels.
        frames: how many.
    """
    rng = np.random.default_rng(0)
    grey = cv2.cvtColor(data.coffee(), cv2.COLOR_RGB2GRAY)
    still = cv2.resize(grey, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    noisy = (still + rng.normal(0, grain, still.shape) for _ in range(frames))
    return [np.clip(one, 0, 255).astype(np.uint8)[..., None].repeat(3, axis=2) for one in noisy]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print a table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.film", description=__doc__)
    add = parser.add_argument
    add("--version", action="version", version=colorizer.__version__)
    add("--model", default="model_store/colorize.mar", help="an archive (default: %(default)s)")
    add("--grain", type=float, default=8.0, help="in 8-bit levels (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        pipeline = Colorizer(Path(options.model)).pipeline
    except (BadGraph, FileNotFoundError) as error:
        print(f"film: {error}", file=sys.stderr)
        return 2
    frames = grainy(options.grain)
    measured = [
        film.flicker(list(film.colorize_frames(pipeline, frames, hold)), frames) for hold in HOLDS
    ]
    print(f"{options.model}, {FRAMES} frames of {WIDTH} x {HEIGHT}, grain {options.grain:g}\n")
    print("| --hold | flicker, units of ab a frame | of frame by frame |\n|---|---|---|")
    for hold, value in zip(HOLDS, measured, strict=True):
        print(f"| {hold:g} | {value:.2f} | {value / measured[0]:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())

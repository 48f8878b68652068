"""Measure flicker of colour on a film that stands still under grain, against frame by frame."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage import data
from tqdm import tqdm

from benchmarks import command
from benchmarks.results import Plot, Table
from colorizer.api import Colorizer
from colorizer.commands import film

MODULE = "benchmarks.film"
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
    parser = command.parser(MODULE, __doc__)
    add = parser.add_argument
    add("--model", default="model_store/colorize.mar", help="an archive (default: %(default)s)")
    add("--grain", type=float, default=8.0, help="in 8-bit levels (default: %(default)s)")
    options = parser.parse_args(arguments)
    return command.carry_out(MODULE, options, arguments, measure(options))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure flicker for each strength of holding."""
    count = 4 if options.quick else FRAMES
    pipeline = Colorizer(Path(options.model)).pipeline
    frames = grainy(options.grain, count)
    bar = tqdm(HOLDS, "holding", file=sys.stderr, mininterval=2, delay=2, leave=False)
    measured = [
        film.flicker(list(film.colorize_frames(pipeline, frames, hold)), frames) for hold in bar
    ]
    yield Table(
        "Flicker of a film that stands still",
        ["--hold", "flicker, units of ab a frame", "of frame by frame"],
        [[hold, value, value / measured[0]] for hold, value in zip(HOLDS, measured, strict=True)],
        f"{Path(options.model).name}, {count} frames of {WIDTH} × {HEIGHT}, grain "
        f"{options.grain:g}.",
        Plot("--hold", ["flicker, units of ab a frame"], "units of ab"),
    )


if __name__ == "__main__":
    sys.exit(main())

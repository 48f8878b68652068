"""Time the stages of a photograph by megapixels, beside the plain way through scikit-image.

The plain way reads with Pillow, converts the whole picture to Lab with scikit-image in float64 and
back, and writes with Pillow; the network's time counts in both. Both ways take turns.
OMP_NUM_THREADS=1 measures on one thread.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from skimage import color
from tqdm import tqdm

from benchmarks import results, samples
from benchmarks.results import Table, Value
from benchmarks.timing import BURN_IN, Timing, once
from colorizer.api import Colorizer
from colorizer.graph import BadGraph
from colorizer.image import OutputOptions
from colorizer.pipeline import Pipeline

MODULE = "benchmarks.stages"
MEGAPIXELS = (0.3, 1.0, 3.0, 12.0, 24.0)
SIDE = 128  # of the small copy on the plain way


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print tables; returns the exit code."""
    parser = results.parser(MODULE, __doc__)
    add = parser.add_argument
    add("models", type=Path, nargs="+", help="archives (.mar), or folders that export wrote")
    add("--device", help="cpu or cuda:N (default: a GPU where there is one)")
    add("--megapixels", type=float, nargs="+", default=MEGAPIXELS, help="(default: 0.3 ... 24)")
    add("--repeat", type=results.positive, default=7, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.megapixels, options.repeat = [0.05], 1
    if min(options.megapixels) <= 0:
        parser.error("--megapixels must be above 0")
    return results.carry_out(MODULE, options.json, arguments, measure(options), (BadGraph,))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure each network at each size."""
    for model in options.models:
        pipeline = Colorizer(model, options.device).pipeline
        sizes = sorted(options.megapixels)
        found = [medians(pipeline, megapixels, options.repeat) for megapixels in sizes]
        columns = [name if name == "×" else f"{name}, ms" for name in found[0]]
        yield Table(
            f"Stages, {model.name}",
            ["megapixels", *columns],
            [[size, *one.values()] for size, one in zip(sizes, found, strict=True)],
            f"JPEG in colour to JPEG, {torch.get_num_threads()} threads, median of "
            f"{options.repeat} rounds. × is the plain way's time divided by ours.",
        )


def medians(pipeline: Pipeline, megapixels: float, repeat: int) -> dict[str, Value]:
    """Time one size: median milliseconds of each stage, of the whole, and of the plain way."""
    body = samples.sample(megapixels).body
    stages: list[dict[str, float]] = []
    ours: list[float] = []
    plain: list[float] = []
    rounds = range(BURN_IN + repeat)
    for number in tqdm(rounds, f"{megapixels:g} MP", leave=False, mininterval=2, delay=2):
        start = time.perf_counter()
        seconds = pipeline.colorize(body).seconds
        whole = time.perf_counter() - start
        around = once(lambda: plainly(body))
        if number >= BURN_IN:
            stages.append({stage: 1000 * one for stage, one in seconds.items()})
            ours.append(1000 * whole)
            plain.append(around + 1000 * seconds["network"])
    total, beside = Timing.of(ours), Timing.of(plain)
    found: dict[str, Value] = {
        stage: Timing.of([one[stage] for one in stages]).median for stage in stages[0]
    }
    return found | {
        "whole": total.median,
        "quartiles": total.spread,
        "scikit-image's way": beside.median,
        "×": beside.median / total.median,
    }


def plainly(body: bytes) -> bytes:
    """Do what is around the network as a tutorial does."""
    with Image.open(io.BytesIO(body)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    lightness = np.ascontiguousarray(color.rgb2lab(pixels)[..., 0])
    cv2.resize(lightness, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    ab = np.full((SIDE, SIDE, 2), 5.0)  # what a network would give
    large = cv2.resize(ab, lightness.shape[::-1], interpolation=cv2.INTER_LINEAR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of colours that sRGB lacks, and clips them
        rgb = color.lab2rgb(np.dstack([lightness, large]))
    file = io.BytesIO()
    Image.fromarray(np.rint(255 * rgb).astype(np.uint8)).save(
        file, "JPEG", quality=OutputOptions().quality
    )
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())

"""Time the stages of a photograph by megapixels, next to the plain way through scikit-image.

The plain way reads with Pillow, converts the whole picture to Lab with scikit-image in float64 and
back, and writes with Pillow; the network's time counts in both. The floor is what nobody can do
without: to decode the luma alone, the network, and to encode a picture that is ready, on one
thread, by the fastest library here. All take turns.
OMP_NUM_THREADS=1 measures on one thread.
"""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from skimage import color

from benchmarks import results, samples
from benchmarks.results import Table, Value
from benchmarks.timing import BURN_IN, Timing, alternate
from colorizer.api import Colorizer
from colorizer.options import Options
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
    return results.run(MODULE, options, measure(options))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure each network at each size."""
    for model in options.models:
        pipeline = Colorizer(model, options.device).pipeline
        sizes = sorted(options.megapixels)
        found = [time_size(pipeline, one, options.repeat) for one in sizes]
        columns = [name if "×" in name else f"{name}, ms" for name in found[0]]
        yield Table(
            f"Stages, {model.name}",
            ["megapixels", *columns],
            [[size, *one.values()] for size, one in zip(sizes, found, strict=True)],
            f"JPEG in colour to JPEG, {torch.get_num_threads()} threads, median of "
            f"{options.repeat} rounds. × floor is our time divided by the floor's; ×, the plain "
            "way's divided by ours.",
        )


def time_size(pipeline: Pipeline, megapixels: float, repeat: int) -> dict[str, Value]:
    """Time one size: median milliseconds of each stage, of the whole, and of the plain way."""
    body = samples.sample(megapixels).body
    shortest = floor(body, pipeline.colorize(body).body)
    stages: list[Mapping[str, float]] = []  # seconds
    calls = [
        lambda: stages.append(pipeline.colorize(body).seconds),
        shortest,
        lambda: plainly(body),
    ]
    whole, least, plain = alternate(calls, repeat, what=f"{megapixels:g} MP")
    medians = {
        stage: Timing.of([1000 * one[stage] for one in stages[BURN_IN:]]).median
        for stage in stages[0]
    }
    floor_ms, plain_ms = (medians["network"] + one.median for one in (least, plain))
    return {
        **medians,
        "whole": whole.median,
        "quartiles": whole.spread,
        "floor": floor_ms,
        "× floor": whole.median / floor_ms,
        "scikit-image's way": plain_ms,
        "×": plain_ms / whole.median,
    }


def floor(body: bytes, coloured: bytes) -> Callable[[], object]:
    """Give a call that decodes a JPEG's luma, and encodes the planes of its coloured picture."""
    with Image.open(io.BytesIO(coloured)) as picture:
        picture.draft("YCbCr", picture.size)
        pixels = np.asarray(picture)
    pixels = pixels[: len(pixels) // 2 * 2, : pixels.shape[1] // 2 * 2]  # see jpeg.encode
    luma = np.ascontiguousarray(pixels[..., 0])
    blue, red = (np.ascontiguousarray(pixels[::2, ::2, n]) for n in (1, 2))
    quality = Options().quality

    def shortest() -> object:
        simplejpeg.decode_jpeg(body, "GRAY")
        return simplejpeg.encode_jpeg_yuv_planes(luma, blue, red, quality)

    return shortest


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
        file, "JPEG", quality=Options().quality
    )
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())

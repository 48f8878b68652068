"""Tell where the time of one photograph goes, stage by stage, beside the plain way by scikit-image.

The plain way decodes with Pillow, converts all of the picture to Lab with scikit-image in float64
and back, resizes between with OpenCV as we do, and encodes with Pillow; both run the same engine,
in turns. A second table holds the Lab conversions alone against scikit-image's.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import color
from tqdm import tqdm

from benchmarks import command, samples
from benchmarks.results import Plot, Table, Value
from benchmarks.timing import Timing, alternate
from colorizer import image, lab
from colorizer.image import OutputOptions
from colorizer.options import Options
from colorizer.pipeline import Pipeline, finish

MODULE = "benchmarks.pipeline"
MEGAPIXELS = (0.3, 3.0, 12.0)
# As Pipeline times them, with what its "decode" and "finish" are made of told apart.
STAGES = {
    "read": "decode: file to pixels",
    "lightness": "decode: pixels to L",
    "prepare": "decode: small copy of L",
    "network": "network",
    "ab": "finish: output to ab",
    "finish": "finish: ab to full size, L and ab to pixels",
    "encode": "encode: pixels to file",
}
QUALITY = OutputOptions().quality

Milliseconds = dict[str, float]
Float = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print tables; returns the exit code."""
    parser = command.parser(MODULE, __doc__)
    add = parser.add_argument
    add(
        "graphs",
        type=Path,
        nargs="*",
        help="folders that export wrote, of either network or both (default: Lab alone)",
    )
    add("--megapixels", type=float, nargs="+", default=MEGAPIXELS, help="(default: 0.3 3 12)")
    add("--repeat", type=command.positive, default=7, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.megapixels, options.repeat = [0.05], 1
    if min(options.megapixels) <= 0:
        parser.error("--megapixels must be above 0")
    return command.carry_out(MODULE, options, arguments, measure(options))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure the waterfall of each network at each size, then the Lab conversions."""
    for folder in options.graphs:
        pipeline = Pipeline.load(folder)
        pipeline.warm_up()
        for megapixels in options.megapixels:
            yield waterfall(pipeline, megapixels, options.repeat)
    yield conversions(options)


@dataclass(frozen=True)
class Way:
    """How a photograph is colorized, one function for each of STAGES but the network."""

    read: Callable[[bytes], NDArray[np.uint8]]
    lightness: Callable[[NDArray[np.uint8]], NDArray[np.floating]]
    finish: Callable[[NDArray[np.floating], NDArray[np.float32]], NDArray[np.uint8]]
    encode: Callable[[NDArray[np.uint8]], bytes]


def waterfall(pipeline: Pipeline, megapixels: float, repeat: int) -> Table:
    """Time both ways by stages, in turns, and the whole pipeline as it is called."""
    width, height = samples.size_of(megapixels)
    body = samples.jpeg(samples.large(width, height))
    gain = pipeline.graph.chroma_gain
    ours = Way(
        lambda data: image.read(data).pixels,
        lab.rgb_to_lightness,
        lambda lightness, ab: finish(lightness.astype(np.float32, copy=False), ab, gain),
        samples.jpeg,
    )
    plain = Way(read_plainly, lightness_plainly, finish_plainly, encode_plainly)
    kept: list[list[Milliseconds]] = [[], []]
    whole = []
    what = f"{megapixels:g} MP, {pipeline.graph.head}"
    for number in tqdm(
        range(repeat + 1), what, file=sys.stderr, mininterval=2, delay=2, leave=False
    ):
        found = [stages(way, pipeline, body) for way in (ours, plain)]
        start = time.perf_counter()
        pipeline.colorize(body)
        if number:  # the first warms up
            whole.append(1000 * (time.perf_counter() - start))
            for one, times in zip(found, kept, strict=True):
                times.append(one)
    medians = [
        {stage: Timing.of([one[stage] for one in times]).median for stage in STAGES}
        for times in kept
    ]
    totals = [Timing.of([sum(one.values()) for one in times]) for times in kept]
    rows: list[list[Value]] = [
        [
            STAGES[stage],
            medians[0][stage],
            f"{medians[0][stage] / totals[0].median:.0%}",
            medians[1][stage],
            medians[1][stage] / medians[0][stage],
        ]
        for stage in STAGES
    ]
    ratio = totals[1].median / totals[0].median
    rows.append(["total", totals[0].median, "100%", totals[1].median, ratio])
    return Table(
        f"Waterfall, {pipeline.graph.head}, {megapixels:g} megapixels",
        ["stage", "ours, ms", "share", "scikit-image, ms", "×"],
        rows,
        f"{width} × {height} JPEG in colour to JPEG, {command.threads()}, median of "
        f"{repeat} rounds; quartiles of the totals {totals[0].spread} and {totals[1].spread} ms. "
        f"`Pipeline.colorize`, called as servers call it, takes {Timing.of(whole).median:.0f} ms. "
        "Both ways decode the network's output by the same code. Ours encodes colour at full "
        "resolution (4:4:4), Pillow by default at half.",
        Plot("stage", ["ours, ms", "scikit-image, ms"], "ms"),
    )


def stages(way: Way, pipeline: Pipeline, body: bytes) -> Milliseconds:
    """Colorize one photograph, and time its stages."""
    side = pipeline.graph.side
    times: Milliseconds = {}
    start = time.perf_counter()

    def done(stage: str) -> None:
        nonlocal start
        now = time.perf_counter()
        times[stage], start = 1000 * (now - start), now

    pixels = way.read(body)
    done("read")
    lightness = way.lightness(pixels)
    done("lightness")
    small = cv2.resize(lightness, (side, side), interpolation=cv2.INTER_AREA)
    batch = torch.from_numpy(np.asarray(small, np.float32))[None, None]
    done("prepare")
    output = pipeline.run(batch)
    done("network")
    ab = pipeline.decode(output, Options())[0]
    done("ab")
    coloured = way.finish(lightness, ab)
    done("finish")
    way.encode(coloured)
    done("encode")
    return times


def read_plainly(body: bytes) -> NDArray[np.uint8]:
    """Decode as a tutorial does: everything to RGB."""
    with Image.open(io.BytesIO(body)) as picture:
        return np.asarray(picture.convert("RGB"))


def lightness_plainly(pixels: NDArray[np.uint8]) -> Float:
    """Convert everything to Lab, in float64, and keep L."""
    return np.ascontiguousarray(color.rgb2lab(pixels)[..., 0])


def finish_plainly(lightness: NDArray[np.floating], ab: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Interpolate ab, and convert everything back."""
    height, width = lightness.shape
    large = cv2.resize(ab.transpose(1, 2, 0), (width, height), interpolation=cv2.INTER_LINEAR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of colours that don't exist, which it clips
        rgb = color.lab2rgb(np.dstack([lightness, large]))
    return np.asarray(np.rint(255 * rgb), np.uint8)


def encode_plainly(pixels: NDArray[np.uint8]) -> bytes:
    """Encode with Pillow, at the quality that is our default."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def conversions(options: argparse.Namespace) -> Table:
    """The Lab conversions at 2048 x 1536, beside scikit-image's."""
    width, height = (256, 192) if options.quick else (2048, 1536)
    rgb = samples.large(width, height)
    true_lab = color.rgb2lab(rgb)
    lightness, ab = lab.rgb_to_lightness(rgb), true_lab[..., 1:].astype(np.float32)
    grey = np.ascontiguousarray(rgb[..., 1])
    difference = np.abs(
        lab.lab_to_rgb(lightness, ab).astype(int) - np.rint(255 * color.lab2rgb(true_lab))
    )
    pairs: dict[str, list[Callable[[], object]]] = {
        "RGB -> L": [lambda: lab.rgb_to_lightness(rgb), lambda: color.rgb2lab(rgb)],
        "L, ab -> RGB": [lambda: lab.lab_to_rgb(lightness, ab), lambda: color.lab2rgb(true_lab)],
        "grey -> L": [
            lambda: lab.rgb_to_lightness(grey),
            lambda: color.rgb2lab(color.gray2rgb(grey)),
        ],
    }
    rows: list[list[Value]] = []
    total = [0.0, 0.0]
    for name, calls in pairs.items():
        ours, theirs = (one.median for one in alternate(calls, options.repeat, what=name))
        rows.append([name, ours, theirs, theirs / ours])
        if not name.startswith("grey"):
            total = [total[0] + ours, total[1] + theirs]
    rows.append(["there and back", *total, total[1] / total[0]])
    return Table(
        "Lab beside scikit-image",
        ["stage", "ours, ms", "scikit-image, ms", "ratio"],
        rows,
        f"{width} × {height}, median of {options.repeat} rounds, scikit-image "
        f"{version('scikit-image')}; largest difference there and back: {difference.max():.0f} of "
        "255 levels.",
        Plot("stage", ["ours, ms", "scikit-image, ms"], "ms"),
    )


if __name__ == "__main__":
    sys.exit(main())

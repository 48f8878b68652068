"""Time the stages of a photograph by megapixels, beside the plain way through scikit-image.

The plain way reads with Pillow, converts the whole picture to Lab with scikit-image in float64 and
back, and writes with Pillow; the network's time counts in both. The floor is what nobody can do
without: to decode the luma alone, the network, and to encode a picture that is ready, on one
thread, by the fastest library here. --against measures an older checkout instead of the plain
way. All take turns.
OMP_NUM_THREADS=1 measures on one thread.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image
from skimage import color
from tqdm import tqdm

from benchmarks import results, samples
from benchmarks.results import Table, Value
from benchmarks.timing import BURN_IN, Timing, once
from colorizer.api import Colorizer
from colorizer.graph import BadGraph
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
    add("--against", type=Path, metavar="CHECKOUT", help="an older one; both compute in float32")
    add("--device", help="cpu or cuda:N (default: a GPU where there is one)")
    add("--megapixels", type=float, nargs="+", default=MEGAPIXELS, help="(default: 0.3 ... 24)")
    add("--repeat", type=results.positive, default=7, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.megapixels, options.repeat = [0.05], 1
    if min(options.megapixels) <= 0:
        parser.error("--megapixels must be above 0")
    if options.against and not (options.against / "colorizer" / "api.py").is_file():
        parser.error(f"--against: {options.against} is no checkout of this project")
    return results.carry_out(MODULE, options.json, arguments, measure(options), (BadGraph,))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure each network at each size."""
    for model in options.models:
        # An older checkout may have no other engine.
        pipeline = Colorizer(model, options.device, "onnx" if options.against else "auto").pipeline
        sizes = sorted(options.megapixels)
        with older(options.against, model) if options.against else nullcontext() as before:
            found = [medians(pipeline, one, options.repeat, before) for one in sizes]
        columns = [name if "×" in name else f"{name}, ms" for name in found[0]]
        yield Table(
            f"Stages, {model.name}",
            ["megapixels", *columns],
            [[size, *one.values()] for size, one in zip(sizes, found, strict=True)],
            f"JPEG in colour to JPEG, {torch.get_num_threads()} threads, median of "
            f"{options.repeat} rounds. × floor is our time divided by the floor's; ×, the other "
            "way's divided by ours.",
        )


@contextmanager
def older(checkout: Path, model: Path) -> Iterator[Callable[[bytes], float]]:
    """Give a call that colorizes a file with an older checkout, in milliseconds."""
    script = str(Path(__file__).with_name("older.py"))
    command = [sys.executable, script, str(checkout.resolve()), str(model.resolve())]
    with (
        tempfile.NamedTemporaryFile() as file,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run,
    ):

        def colorize(body: bytes) -> float:
            Path(file.name).write_bytes(body)
            try:
                print(file.name, file=run.stdin, flush=True)
                return float(run.stdout.readline())  # type: ignore[union-attr]
            except (OSError, ValueError):
                raise results.Unusable(f"--against: {checkout} can't colorize; see above") from None

        yield colorize


def medians(
    pipeline: Pipeline,
    megapixels: float,
    repeat: int,
    before: Callable[[bytes], float] | None = None,
) -> dict[str, Value]:
    """Time one size: median milliseconds of each stage, of the whole, and of another way."""
    body = samples.sample(megapixels).body
    shortest = floor(body, pipeline.colorize(body).body)
    stages: list[dict[str, float]] = []
    times: list[tuple[float, float, float]] = []
    rounds = range(BURN_IN + repeat)
    for number in tqdm(rounds, f"{megapixels:g} MP", leave=False, mininterval=2, delay=2):
        start = time.perf_counter()
        seconds = pipeline.colorize(body).seconds
        whole = 1000 * (time.perf_counter() - start)
        network = 1000 * seconds["network"]
        other = before(body) if before else once(lambda: plainly(body)) + network
        if number >= BURN_IN:
            stages.append({stage: 1000 * one for stage, one in seconds.items()})
            times.append((whole, once(shortest) + network, other))
    total, least, beside = (Timing.of(column) for column in zip(*times, strict=True))
    found: dict[str, Value] = {
        stage: Timing.of([one[stage] for one in stages]).median for stage in stages[0]
    }
    return found | {
        "whole": total.median,
        "quartiles": total.spread,
        "floor": least.median,
        "× floor": total.median / least.median,
        "before" if before else "scikit-image's way": beside.median,
        "×": beside.median / total.median,
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

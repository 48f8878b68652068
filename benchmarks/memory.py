"""Measure how much memory one photograph takes, from its bytes to its colours, above idle.

Each is colorized alone, in a process of its own, and comes back as JPEG. Linux only.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

import colorizer
from benchmarks import peak_memory, results
from benchmarks.results import Plot, Table
from colorizer.api import Colorizer
from colorizer.graph import BadGraph

LARGEST = 50.0  # megapixels: as large as colorizer.image reads
QUICK = 2.0
KINDS = ("JPEG", "PNG", "TIFF")
# What a photograph may take: so many bytes for each of its pixels, and so many whatever its size.
BYTES_A_PIXEL = 24  # L and two enlarged planes of ab take 20
BYTES_ALWAYS = 64 * 2**20
COLUMNS = ("file", "megapixels", "file, MB", "idle, MB", "above idle, MB", "bytes a pixel")


def photograph(megapixels: float, kind: str, colour: bool) -> bytes:
    """Make a file of soft shapes, three wide to two high."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = int(megapixels * 1e6 / height)
    coarse = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    soft = Image.fromarray(coarse).resize((width // 8, height // 8), Image.Resampling.BICUBIC)
    im = soft.resize((width, height), Image.Resampling.NEAREST)
    file = io.BytesIO()
    # Packed, and of few different rows: 50 megapixels must stay below 32 MiB.
    more = {"compression": "tiff_adobe_deflate"} if kind == "TIFF" else {}
    (im if colour else im.convert("L")).save(file, kind, **more)
    return file.getvalue()


def peak(model: str, body: bytes) -> tuple[int, int, int]:
    """Colorize in this process: pixels, bytes of memory before, and at most while it went on."""
    network = Colorizer(model, "cpu")
    network.pipeline.warm_up()
    before = peak_memory.held("cpu")
    peak_memory.forget("cpu")
    reply = network.pipeline.colorize(body)
    return reply.pixels, before, peak_memory.peak("cpu")


def measure(model: str, megapixels: float) -> Table:
    """Measure each kind of file, grey and in colour."""
    rows: list[list[results.Value]] = []
    for kind in KINDS:
        for colour in (False, True):
            body = photograph(megapixels, kind, colour)
            name = f"{kind}, {'colour' if colour else 'grey'}"
            print(f"{name}: {len(body) / 1e6:.1f} MB ...", file=sys.stderr)
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, context) as child:
                pixels, before, most = child.submit(peak, model, body).result()
            size = [pixels / 1e6, len(body) / 1e6, before / 1e6, (most - before) / 1e6]
            rows.append([name, *size, (most - before) / pixels])
    note = "Above idle: the most that the process had while it colorized, less what it had before."
    return Table("Memory", COLUMNS, rows, note, Plot("file", ["above idle, MB"], "MB"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print; returns 1 where a photograph took too much."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    add = parser.add_argument
    add("--version", action="version", version=colorizer.__version__)
    add("--model", default="model_store/colorize.mar", help="archive, or exported graph")
    add("--megapixels", type=float, default=LARGEST, help="of each photograph (%(default)g)")
    add("--quick", action="store_true", help=f"{QUICK:g} megapixels, to see that it works")
    add("--json", type=Path, metavar="FILE", help="write what was found there, too")
    options = parser.parse_args(arguments)
    if not 0 < options.megapixels <= LARGEST:
        parser.error(f"--megapixels must be above 0, and at most {LARGEST:g}")
    if sys.platform != "linux":
        print("memory: the peak of a process is read from /proc: Linux is needed", file=sys.stderr)
        return 2
    found: list[Table] = []

    def tables() -> Iterator[Table]:
        found.append(measure(options.model, QUICK if options.quick else options.megapixels))
        yield found[0]

    code = results.carry_out("benchmarks.memory", options.json, arguments, tables(), (BadGraph,))
    return code or int(any(too_much(row) for row in found[0].rows))


def too_much(row: Sequence[results.Value]) -> bool:
    """Hold a row against the bound that the documents state."""
    values = dict(zip(COLUMNS, row, strict=True))
    pixels, above = float(values["megapixels"] or 0), float(values["above idle, MB"] or 0)
    return above * 1e6 > BYTES_A_PIXEL * pixels * 1e6 + BYTES_ALWAYS


if __name__ == "__main__":
    sys.exit(main())

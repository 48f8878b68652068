"""Measure the peak memory of colorizing the largest photographs, above an idle process.

Each kind of file is colorized in a new process, the last also four at once, to JPEG or at 16 bits.
Linux only.
"""

from __future__ import annotations

import io
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from PIL import Image

from benchmarks import results
from benchmarks.results import Table, Unusable
from colorizer.api import Colorizer
from colorizer.options import Options

MODULE = "benchmarks.memory"
LARGEST = 50.0  # megapixels: as large as colorizer.image reads
QUICK = 2.0
KINDS = ("JPEG", "PNG", "TIFF")
WIDE: dict[str, tuple[Any, dict[str, Any]]] = {  # grey of more than 8 bits, and floats
    "PNG, 16-bit": (np.uint16, {}),
    "TIFF, 12-bit": (np.uint8, {"rowsperstrip": 64}),
    "TIFF, 16-bit, tiled": (np.uint16, {"tile": (256, 256)}),
    "TIFF, 32-bit": (np.uint32, {"rowsperstrip": 64}),
    "TIFF, float": (np.float32, {"rowsperstrip": 64}),
    "TIFF, float, tiled": (np.float32, {"tile": (256, 256)}),
    "TIFF, double": (np.float64, {"rowsperstrip": 64}),
}
DEEP = ("TIFF", "PNG")  # colours of 16 bits, which come back at 16 bits in the same format
AT_ONCE = 4
# What a photograph may take: so many bytes for each of its pixels, and so many whatever its size.
BYTES_A_PIXEL = 24
BYTES_ALWAYS = 64 * 2**20
IDLE = 0.7e9  # of a worker with its network, before any photograph
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # proc(5)
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


def wide_photograph(megapixels: float, kind: str) -> bytes:
    """Make a grey file of one of WIDE, of soft steps."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = int(megapixels * 1e6 / height) // 4 * 4
    dtype, options = WIDE[kind]
    top = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1
    steps = (np.arange(width) * 16 // width / 16 * top).astype(dtype)
    grey = np.broadcast_to(steps, (height, width))
    file = io.BytesIO()
    if kind.startswith("PNG"):
        Image.fromarray(grey).save(file, "PNG")
        return file.getvalue()
    if kind == "TIFF, 12-bit":  # two pixels in three bytes, whatever they are
        grey = grey[:, : width * 3 // 4].repeat(2, axis=1)
    tifffile.imwrite(file, grey, photometric="minisblack", compression="deflate", **options)
    if kind == "TIFF, 12-bit":
        file.seek(0)
        with tifffile.TiffFile(file, mode="r+") as tiff:
            tiff.pages.first.tags["ImageWidth"].overwrite(width)
            tiff.pages.first.tags["BitsPerSample"].overwrite(12)
    return file.getvalue()


def deep_photograph(megapixels: float, kind: str) -> bytes:
    """Make a file of colours of 16 bits, of soft shapes."""
    narrow = photograph(megapixels, "PNG", colour=True)
    bgr = cv2.imdecode(np.frombuffer(narrow, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    return cv2.imencode(f".{kind.lower()}", bgr.astype(np.uint16) * 257)[1].tobytes()


def most(networks: int, pictures: int) -> float:
    """Bytes that a server takes at most, while each network has so many photographs in work."""
    return networks * (IDLE + pictures * (BYTES_A_PIXEL * LARGEST * 1e6 + BYTES_ALWAYS))


def held(name: str = "VmRSS") -> int:
    """Bytes that this process has now, or with VmHWM had at most since `forget`."""
    lines = STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def forget() -> None:
    """Begin the peak anew."""
    CLEAR.write_text("5")  # resets VmHWM


def peak(
    model: str, body: bytes, count: int = 1, options: Options | None = None
) -> tuple[int, int, int]:
    """Colorize in this process: pixels, bytes of memory before, and at most while it went on."""
    network = Colorizer(model, "cpu")
    network.pipeline.warm_up()
    before = held()
    forget()
    outcomes = network.pipeline.colorize_batch([(body, options or Options())] * count)
    pixels = sum(outcome.result().pixels for outcome in outcomes)
    return pixels, before, held("VmHWM")


def _cases(megapixels: float) -> Iterator[tuple[str, int, Callable[[], bytes], Options]]:
    """Each case: its name, how many photographs at once, what makes one, and its options."""
    usual = Options()
    for kind in KINDS:
        for colour in (False, True):
            name = f"{kind}, {'colour' if colour else 'grey'}"
            yield name, 1, partial(photograph, megapixels, kind, colour), usual
    for kind in WIDE:
        yield kind, 1, partial(wide_photograph, megapixels, kind), usual
    for kind in DEEP:
        options = Options.parse({"format": kind, "bits": "16"})
        yield f"{kind}, 16 bits in and out", 1, partial(deep_photograph, megapixels, kind), options
    for kind in list(WIDE)[-1:]:
        name = f"{AT_ONCE} at once: {kind}"
        yield name, AT_ONCE, partial(wide_photograph, megapixels, kind), usual


def measure(model: str, megapixels: float) -> Table:
    """Measure each kind of file."""
    rows: list[list[results.Value]] = []
    for name, count, make, options in _cases(megapixels):
        body = make()
        print(f"{name}: {len(body) / 1e6:.1f} MB ...", file=sys.stderr)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as child:
            pixels, before, highest = child.submit(peak, model, body, count, options).result()
        size = [pixels / 1e6, len(body) / 1e6, before / 1e6, (highest - before) / 1e6]
        rows.append([name, *size, (highest - before) / pixels])
    note = "Above idle: the process's peak while it colorized, less what it had before."
    return Table("Memory", COLUMNS, rows, note)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print; returns 1 where a photograph took too much."""
    parser = results.parser(MODULE, __doc__)
    add = parser.add_argument
    add("--model", default="model_store/colorize.mar", help="archive, or exported graph")
    add("--megapixels", type=float, default=LARGEST, help="of each photograph (%(default)g)")
    options = parser.parse_args(arguments)
    if not 0 < options.megapixels <= LARGEST:
        parser.error(f"--megapixels must be above 0, and at most {LARGEST:g}")
    found: list[Table] = []

    def tables() -> Iterator[Table]:
        if sys.platform != "linux":
            raise Unusable("the peak of a process is read from /proc: Linux is needed")
        found.append(measure(options.model, QUICK if options.quick else options.megapixels))
        yield found[0]

    code = results.run(MODULE, options, tables())
    return code or int(any(too_much(row) for row in found[0].rows))


def too_much(row: Sequence[results.Value]) -> bool:
    """Whether a row exceeds the bound that the documents state."""
    values = dict(zip(COLUMNS, row, strict=True))
    count = AT_ONCE if "at once" in str(values["file"]) else 1
    pixels, above = float(values["megapixels"] or 0), float(values["above idle, MB"] or 0)
    return above * 1e6 > BYTES_A_PIXEL * pixels * 1e6 + count * BYTES_ALWAYS


if __name__ == "__main__":
    sys.exit(main())

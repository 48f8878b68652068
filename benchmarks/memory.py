"""Measure the peak memory of colorizing the largest photographs, above an idle process.

Each kind of file is colorized in a new process, the last also four at once, to JPEG or at 16 bits.
Linux only.
"""

from __future__ import annotations

import io
import multiprocessing
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

from benchmarks import results
from benchmarks.results import Table, Unusable
from colorizer.api import Colorizer
from colorizer.options import Options

MODULE = "benchmarks.memory"
LARGEST = 50.0  # megapixels: as large as colorizer.image reads
QUICK = 2.0
LEVELS = 16  # of the pictures' values: 50 megapixels must stay below 32 MiB, as files
STRIPS, TILES = {"rowsperstrip": 64}, {"tile": (256, 256)}


@dataclass(frozen=True)
class Kind:
    """A kind of photograph.

    Attributes:
        format: JPEG, PNG or TIFF.
        dtype: of its pixels.
        colour: whether it has three channels.
        tiff: how tifffile lays it out.
        bits: of a pixel in the file, if not those of dtype.
        options: of the result.
        count: how many are colorized at once.
    """

    format: str
    dtype: Any = np.uint8
    colour: bool = False
    tiff: Mapping[str, Any] = field(default_factory=dict)
    bits: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    count: int = 1


KINDS = {
    **{f"{name}, grey": Kind(name) for name in ("JPEG", "PNG", "TIFF")},
    **{f"{name}, colour": Kind(name, colour=True) for name in ("JPEG", "PNG", "TIFF")},
    "PNG, 16-bit": Kind("PNG", np.uint16),
    "TIFF, 12-bit": Kind("TIFF", bits=12, tiff=STRIPS),
    "TIFF, 16-bit, tiled": Kind("TIFF", np.uint16, tiff=TILES),
    "TIFF, 32-bit": Kind("TIFF", np.uint32, tiff=STRIPS),
    "TIFF, float": Kind("TIFF", np.float32, tiff=STRIPS),
    "TIFF, float, tiled": Kind("TIFF", np.float32, tiff=TILES),
    "TIFF, double": Kind("TIFF", np.float64, tiff=STRIPS),
    **{
        f"{name}, 16 bits in and out": Kind(
            name, np.uint16, colour=True, options={"format": name.lower(), "bits": "16"}
        )
        for name in ("TIFF", "PNG")
    },
    "4 at once: TIFF, double": Kind("TIFF", np.float64, tiff=STRIPS, count=4),
}
# What a photograph may take: so many bytes for each of its pixels, and so many whatever its size.
BYTES_A_PIXEL = 24
BYTES_ALWAYS = 64 * 2**20
IDLE = 0.7e9  # of a worker with its network, before any photograph
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # proc(5)
COLUMNS = ("file", "megapixels", "file, MB", "idle, MB", "above idle, MB", "bytes a pixel")


def photograph(megapixels: float, kind: Kind) -> bytes:
    """Make a file of soft shapes, three wide to two high."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = int(megapixels * 1e6 / height) // 4 * 4
    top = np.iinfo(kind.dtype).max if np.issubdtype(kind.dtype, np.integer) else 1
    coarse = np.random.default_rng(0).random((8, 12, 3))
    soft = cv2.resize(coarse, (width // 8 + 1, height // 8 + 1), interpolation=cv2.INTER_CUBIC)
    small = (np.clip(np.floor(soft * LEVELS) / LEVELS, 0, 1) * top).astype(kind.dtype)
    small = small if kind.colour else small[..., 0]
    pixels = small.repeat(8, axis=0).repeat(8, axis=1)[:height, :width]
    if kind.format != "TIFF":
        return cv2.imencode(f".{kind.format.lower()}", pixels)[1].tobytes()
    if kind.bits == 12:  # two pixels in three bytes, whatever they are
        pixels = pixels[:, : width * 3 // 4].repeat(2, axis=1)
    file = io.BytesIO()
    photometric = "rgb" if kind.colour else "minisblack"
    tifffile.imwrite(file, pixels, photometric=photometric, compression="deflate", **kind.tiff)
    if kind.bits:
        file.seek(0)
        with tifffile.TiffFile(file, mode="r+") as tiff:
            tiff.pages.first.tags["ImageWidth"].overwrite(width)
            tiff.pages.first.tags["BitsPerSample"].overwrite(kind.bits)
    return file.getvalue()


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


def peak(model: str, body: bytes, kind: Kind) -> tuple[int, int, int]:
    """Colorize in this process: pixels, bytes of memory before, and at most while it went on."""
    network, options = Colorizer(model, "cpu"), Options.parse(dict(kind.options))
    network.pipeline.warm_up()
    before = held()
    forget()
    outcomes = network.pipeline.colorize_batch([(body, options)] * kind.count)
    pixels = sum(outcome.result().pixels for outcome in outcomes)
    return pixels, before, held("VmHWM")


def measure(model: str, megapixels: float) -> Table:
    """Measure each kind of file."""
    rows: list[list[results.Value]] = []
    for name, kind in KINDS.items():
        body = photograph(megapixels, kind)
        print(f"{name}: {len(body) / 1e6:.1f} MB ...", file=sys.stderr)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, context) as child:
            pixels, before, highest = child.submit(peak, model, body, kind).result()
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
    count = KINDS[str(values["file"])].count
    pixels, above = float(values["megapixels"] or 0), float(values["above idle, MB"] or 0)
    return above * 1e6 > BYTES_A_PIXEL * pixels * 1e6 + count * BYTES_ALWAYS


if __name__ == "__main__":
    sys.exit(main())

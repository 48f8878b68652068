"""What users get, measured: colour photographs through a running server, against their own colours.

Each photograph is posted as it is, of which the network sees only lightness, and comes back as PNG.
Measures and intervals are those of `python -m evaluation.evaluate`, beside grey: a server that runs
the same weights gives the same figures, up to its engine's rounding.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

import colorizer
from benchmarks import results, servers
from benchmarks.results import Table, Value
from colorizer import image, lab
from colorizer.commands import client
from colorizer.commands.client import Refused
from colorizer.errors import RequestError
from colorizer.pipeline import finish
from evaluation.metrics import Scores, Truth, measure

UInt8 = NDArray[np.uint8]

SAMPLES = ("astronaut", "chelsea", "coffee", "rocket")  # scikit-image's own, in colour
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}
QUICK = 2  # photographs


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=colorizer.__version__)
    add("url", nargs="?", help="of a network (default: TorchServe is started for it)")
    add("--photos", type=Path, help="folder of colour photographs (default: scikit-image's four)")
    add("--limit", type=int, help="every n-th photograph only, this many in all")
    add("--json", type=Path, metavar="FILE", help="save the table there too")
    add("--quick", action="store_true", help=f"{QUICK} photographs: shows that it works")
    options = parser.parse_args(arguments)
    if options.limit is not None and options.limit < 1:
        parser.error("--limit must be above 0")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the server that we started
    errors = servers.NoServer, Refused, ValueError
    return results.carry_out("benchmarks.quality", options.json, arguments, tables(options), errors)


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure the photographs and the server that were asked for.

    Raises:
        NoServer, Refused, OSError, ValueError: if there are no such photographs or server.
    """
    files = photographs(options.photos)
    limit = QUICK if options.quick else options.limit
    if limit:
        files = files[:: max(1, len(files) // limit)][:limit]
    with contextlib.ExitStack() as stack:
        if not options.url:
            print("starting torchserve ...", file=sys.stderr, flush=True)
            options.url = stack.enter_context(servers.served("torchserve"))
        client.check_address(options.url)
        found = table(options.url, files)
    yield found


def photographs(folder: Path | None) -> list[tuple[str, bytes]]:
    """Names and bytes of the photographs below a folder, or of scikit-image's in colour.

    Raises:
        FileNotFoundError: if there is none.
    """
    if folder is None:
        from skimage import data

        return [(name, _png(getattr(data, name)())) for name in SAMPLES]
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not paths:
        raise FileNotFoundError(f"no photographs ({', '.join(sorted(SUFFIXES))}) below {folder}")
    return [(str(path), path.read_bytes()) for path in paths]


def table(url: str, files: Sequence[tuple[str, bytes]]) -> Table:
    """Post each photograph, and measure what comes back.

    Raises:
        Refused: if the server doesn't answer, or refuses one that can be read here.
        ValueError: if none can be read, or a reply is of another size.
    """
    grey, served = Scores(), Scores()
    for truth, found in coloured(url, tqdm(files, "photographs", file=sys.stderr, mininterval=2)):
        served.pictures.append(measure(found, truth))
        grey.pictures.append(measure(_grey(truth), truth))
    if not served.pictures:
        raise ValueError("none of the photographs can be read")
    rows: list[list[Value]] = []
    of = [(scores.row(), scores.intervals()) for scores in (grey, served)]
    for name in of[0][0]:
        row: list[Value] = [name]
        for values, limits in of:
            row += [values[name], "{:.4g} to {:.4g}".format(*limits[name])]
        rows.append(row)
    truth_cf = float(np.mean([one.colorfulness[1] for one in served.pictures]))
    note = (
        f"{len(served.pictures)} photographs; {len(files) - len(served.pictures)} more can't be "
        f"read. The truth's CF is {truth_cf:.4g}. Intervals are bootstrapped over photographs. The "
        "same measures without a server, and what they mean: `python -m evaluation.evaluate`."
    )
    columns = ["measure", "grey", "grey, 95%", "served", "served, 95%"]
    return Table("Quality of what is served", columns, rows, note)


def coloured(url: str, files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[Truth, UInt8]]:
    """Each photograph, and what the server makes of it, (H, W, 3) uint8."""
    for name, body in files:
        try:
            pixels = image.read(body).pixels
        except RequestError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
            continue
        rgb = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
        reply = client.post(url, body, {"format": "png"})
        found = np.asarray(Image.open(io.BytesIO(reply)).convert("RGB"))
        if found.shape != rgb.shape:
            raise ValueError(f"{name} came back as another size: {found.shape}, not {rgb.shape}")
        yield Truth(rgb), found


def _grey(truth: Truth) -> UInt8:
    """The photograph's lightness alone."""
    return finish(lab.rgb_to_lightness(truth.rgb), np.zeros((2, 32, 32), np.float32))


def _png(pixels: UInt8) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


if __name__ == "__main__":
    sys.exit(main())

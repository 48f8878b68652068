"""Measure quality as served: colour photographs through a server, against their own colours.

Each photograph is posted as it is, of which the network sees only lightness, and comes back as PNG.
Measures and intervals are those of `python -m evaluation.evaluate`, with grey as the baseline: a
server that runs the same weights gives the same figures, up to its engine's rounding.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from benchmarks import results, samples, servers
from benchmarks.results import Table, Unusable, Value, say
from colorizer.commands.client import Refused, Server
from colorizer.errors import RequestError
from evaluation.methods import GREY, Colours
from evaluation.metrics import Scores, Truth, UInt8, measure
from evaluation.photographs import find_photographs, read_rgb

MODULE = "benchmarks.quality"
QUICK = 2  # photographs
MEGAPIXELS = 0.25  # of the samples


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; returns the exit code."""
    parser = results.parser(MODULE, __doc__)
    add = parser.add_argument
    add("url", nargs="?", help="of a network (default: TorchServe is started for it)")
    add("--photos", type=Path, help="folder of colour photographs (default: samples)")
    add("--limit", type=results.positive, help="every n-th photograph, this many in all")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the server, too
    return results.run(MODULE, options, tables(options))


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure the photographs that were named, or samples.

    Raises:
        Unusable, OSError: if there are no such photographs or server.
    """
    files = photographs(options.photos)
    limit = QUICK if options.quick else options.limit
    if limit:
        files = files[:: max(1, len(files) // limit)][:limit]
    with contextlib.ExitStack() as stack:
        if not options.url:
            say("starting torchserve")
            options.url = stack.enter_context(servers.served("torchserve"))
        try:
            found = table(Server(options.url), files)
        except (Refused, ValueError) as error:
            raise Unusable(str(error)) from None
    yield found


def photographs(folder: Path | None) -> list[tuple[str, bytes]]:
    """Names and bytes of the photographs below a folder, or of samples in colour.

    Raises:
        FileNotFoundError: if there is none.
    """
    if folder is None:
        return [(name, samples.sample(MEGAPIXELS, name).body) for name in samples.NAMES]
    return [(str(path), path.read_bytes()) for path in find_photographs(folder)]


def table(server: Server, files: Sequence[tuple[str, bytes]]) -> Table:
    """Post each photograph, and measure what comes back.

    Raises:
        Refused: if the server doesn't answer, or refuses one that can be read here.
        Unusable: if none can be read, or a reply has another size.
    """
    grey, served = Scores(), Scores()
    for name, body in tqdm(files, "photographs", file=sys.stderr, mininterval=2):
        try:
            truth = Truth(read_rgb(body))
        except RequestError as error:
            print(f"left out: {name}: {error}", file=sys.stderr)
            continue
        served.pictures.append(measure(coloured(server, name, body, truth), truth))
        grey.pictures.append(measure(Colours(truth.rgb, {}).colour(GREY), truth))
    if not served.pictures:
        raise Unusable("none of the photographs can be read")
    of = [(scores.row(), scores.intervals()) for scores in (grey, served)]
    rows: list[list[Value]] = []
    for measured in of[0][0]:
        rows.append([measured])
        for values, limits in of:
            rows[-1] += [values[measured], "{:.4g} to {:.4g}".format(*limits[measured])]
    truth_cf = float(np.mean([one.truth["CF"] for one in served.pictures]))
    note = (
        f"{len(served.pictures)} photographs; {len(files) - len(served.pictures)} more can't be "
        f"read. The truth's CF is {truth_cf:.4g}. Intervals are bootstrapped over photographs. The "
        "same measures without a server, and what they mean: `python -m evaluation.evaluate`."
    )
    columns = ["measure", "grey", "grey, 95%", "served", "served, 95%"]
    return Table("Quality as served", columns, rows, note)


def coloured(server: Server, name: str, body: bytes, truth: Truth) -> UInt8:
    """Post a photograph: its colours, (H, W, 3) uint8.

    Raises:
        Refused: if the server gives none.
        Unusable: if they have another size.
    """
    reply = server.post(body, {"format": "png"})
    found = np.asarray(Image.open(io.BytesIO(reply)).convert("RGB"))
    if found.shape != truth.rgb.shape:
        shapes = f"{found.shape}, not {truth.rgb.shape}"
        raise Unusable(f"{name} came back with another size: {shapes}")
    return found


if __name__ == "__main__":
    sys.exit(main())

"""Two commands for results: `colorizer verify ORIGINAL COLOURED` and `colorizer explain FILE`."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from colorizer import provenance
from colorizer.commands.run import command_parser, run_command

if TYPE_CHECKING:
    import argparse

    from numpy.typing import NDArray

    from colorizer.options import Bits

VERIFY = """\
Compare the lightness of a coloured file with its original's: L of CIE Lab, 0 to 100, as both files
are shown upright, through their colour profiles. It is the same if it differs by no more than the
file's format must make it:

  16-bit PNG, TIFF        0.01 at any pixel and 0.005 in the mean
  8-bit PNG, TIFF         1 at any pixel and 0.25 in the mean
  JPEG, WebP and others   2.5 in any square of 16 x 16 pixels, averaged, and 3.5 in the mean of
                          pixels: their compression changes each pixel, often by 5 and more
"""
VERIFY_CODES = """\
exit codes:
  0    the lightness is the original's
  1    it is not, or the sizes differ
  2    the two can't be compared: a file is missing or can't be read
"""
EXPLAIN = "Print the record that `--provenance yes` puts into a file: how it was coloured."
EXPLAIN_CODES = """\
exit codes:
  0    the record is printed
  1    the file holds none
  2    the file can't be read
"""

# For each kind of format: the largest difference (lossy: of squares), and the mean of pixels.
LIMITS = {"16 bits": (0.01, 0.005), "8 bits": (1.0, 0.25), "lossy": (2.5, 3.5)}
_LOSSLESS = ("PNG", "TIFF", "BMP")
_SQUARE = 16
# How a picture may be turned, in the order of EXIF's orientations.
_WAYS = (
    *("the same", "mirrored", "turned by 180°", "mirrored and turned by 180°"),
    *("mirrored and turned by 270°", "turned by 90°"),
    *("mirrored and turned by 90°", "turned by 270°"),
)


@dataclass(frozen=True)
class Comparison:
    """How the lightness of two files compares.

    Attributes:
        size: width and height of the original, upright.
        coloured_size: of the coloured file.
        orientation: "the same", or how the coloured picture is turned.
        kind: of format, one of LIMITS.
        largest: difference of L at any pixel; None where the sizes differ.
        mean: difference of L.
        squares: largest difference of the means of 16 x 16 pixels.
        source: whether the coloured file's record names the original: "yes", "no", "no record".
        same: the verdict.
    """

    size: tuple[int, int]
    coloured_size: tuple[int, int]
    orientation: str
    kind: str
    largest: float | None
    mean: float | None
    squares: float | None
    source: str
    same: bool


def compare(original: bytes, coloured: bytes) -> Comparison:
    """Compare the lightness of two files.

    Raises:
        RequestError: if one of them can't be read.
    """
    import cv2
    import numpy as np

    from colorizer import image
    from colorizer.commands import results
    from colorizer.errors import RequestError

    limits = image.Limits(2**40, 10**9, 10**6)  # the files are one's own

    def read(body: bytes, name: str, bits: Bits) -> image.Picture:
        try:
            return image.read(body, limits, bits)
        except RequestError as error:
            raise type(error)(f"the {name} can't be read: {error}") from None

    before = read(original, "original", "16")
    after = read(coloured, "coloured file", "same")
    kind = "16 bits" if after.pixels.dtype == np.float32 else "8 bits"
    if kind == "8 bits":
        after = read(coloured, "coloured file", "16")
    if results.header_size(coloured, *_LOSSLESS) is None:
        kind = "lossy"
    told = provenance.read(coloured).get("SourceSHA256")
    named = "yes" if told == hashlib.sha256(original).hexdigest() else "no"
    sizes = (before.width, before.height), (after.width, after.height)
    orientation = _orientation(before.pixels, after.pixels)
    largest = mean = squares = None
    same = False
    if sizes[0] == sizes[1]:
        apart = np.asarray(after.pixels - before.pixels)
        for alpha in (before.alpha, after.alpha):  # what is seen through has no lightness
            if alpha is not None and alpha.any():
                apart = np.where(alpha == 255, apart, 0)
        squares = float(np.abs(cv2.blur(apart, (_SQUARE, _SQUARE))).max())
        np.abs(apart, out=apart)
        largest, mean = float(apart.max()), float(apart.mean(dtype=np.float64))
        most, most_mean = LIMITS[kind]
        same = (squares if kind == "lossy" else largest) <= most and mean <= most_mean
    return Comparison(
        *sizes, orientation, kind, largest, mean, squares, named if told else "no record", same
    )


def _orientation(before: NDArray[Any], after: NDArray[Any]) -> str:
    """Find which of the eight ways to turn a picture fits best, on small copies."""
    import cv2
    import numpy as np

    from colorizer.image import upright

    one, other = (
        cv2.resize(np.ascontiguousarray(each), (64, 64), interpolation=cv2.INTER_AREA)
        for each in (before, after)
    )
    apart = [float(np.abs(upright(one, way) - other).mean()) for way in range(1, 9)]
    best = min(apart)
    return _WAYS[apart.index(best) if 2 * best < apart[0] - 1 else 0]


def verify(arguments: Sequence[str]) -> int:
    """Run `colorizer verify`; returns the exit code."""
    parser = _parser("verify", VERIFY, VERIFY_CODES)
    parser.add_argument("original", type=Path)
    parser.add_argument("coloured", type=Path)
    options = parser.parse_args(arguments)
    return run_command("colorizer verify", lambda: _verify(options), "nothing was compared")


def _verify(options: argparse.Namespace) -> int:
    found = compare(options.original.read_bytes(), options.coloured.read_bytes())
    if options.json:
        print(json.dumps(asdict(found)))
        return int(not found.same)
    wide, other = ("{} x {}".format(*size) for size in (found.size, found.coloured_size))
    print(f"size         {wide}, {'the same' if wide == other else f'and {other}'}")
    print(f"orientation  {found.orientation}")
    if found.largest is not None:
        told = f"largest difference {found.largest:.4f}, mean {found.mean:.4f}"
        print(f"lightness    {told}, of squares {found.squares:.4f}")
        where = "of squares" if found.kind == "lossy" else "largest"
        print(
            f"limits       {found.kind}: {where} {LIMITS[found.kind][0]:g}, mean "
            f"{LIMITS[found.kind][1]:g}"
        )
    named = {"yes": "names this original by its SHA-256", "no": "names another original"}
    print(f"record       {named.get(found.source, 'none')}")
    print(f"lightness is {'' if found.same else 'not '}the original's")
    return int(not found.same)


def explain(arguments: Sequence[str]) -> int:
    """Run `colorizer explain`; returns the exit code."""
    parser = _parser("explain", EXPLAIN, EXPLAIN_CODES)
    parser.add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    return run_command("colorizer explain", lambda: _explain(options))


def _explain(options: argparse.Namespace) -> int:
    told = described(options.file.read_bytes())
    if not told:
        print(f"colorizer explain: {options.file} holds no record of this program", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(told, indent=1))
        return 0
    print(f"{options.file} was coloured by machine.")
    for name, value in told.items():
        if isinstance(value, dict):
            value = " ".join(f"{key}={one}" for key, one in value.items())
        print(f"  {name + ':':18} {value}")
    return 0


def described(file: bytes) -> dict[str, Any]:
    """The record in a file, its options as an object; empty if there is none."""
    told: dict[str, Any] = provenance.read(file)
    try:
        return {**told, "Options": json.loads(told["Options"])} if told else {}
    except (KeyError, ValueError):  # altered by somebody
        return told


def _parser(name: str, description: str, codes: str) -> argparse.ArgumentParser:
    parser = command_parser(f"colorizer {name}", description, codes, as_written=True)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser

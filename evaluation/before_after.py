"""A picture of photographs before and after hints, from files of hints named after them.

python -m evaluation.before_after CHECKPOINT --photos FOLDER --hints FOLDER --out before-after.jpg
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from colorizer import hints, image
from colorizer.commands.run import command_parser, run_command
from colorizer.errors import BadOption, RequestError, UserError
from colorizer.files import written_whole
from colorizer.options import Options
from colorizer.pipeline import Pipeline
from evaluation.command import picture_to_write
from evaluation.methods import eager_pipeline
from evaluation.metrics import UInt8
from evaluation.photographs import find_photographs

WIDTH, HEIGHT, GAP = 1360, 280, 6  # of the picture, of each photograph, and between two, in pixels


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and make the picture; returns the exit code."""
    parser = command_parser("python -m evaluation.before_after", __doc__)
    add = parser.add_argument
    add("checkpoint", type=Path)
    add("--photos", type=Path, required=True, help="folder of photographs")
    add("--hints", type=Path, required=True, help="folder with NAME.json for NAME.jpg")
    add("--out", type=Path, required=True, help="picture to write, .jpg or .png")
    options = parser.parse_args(arguments)
    return run_command("before_after", lambda: make(options))


def make(options: argparse.Namespace) -> int:
    """Colour each photograph that has hints, without and with them, and lay all on one picture."""
    out = picture_to_write(options)
    photographs = {path.stem: path for path in find_photographs(options.photos)}
    files = sorted(options.hints.glob("*.json"))
    if not files:
        raise FileNotFoundError(f"there are no hints in {options.hints}; they are named NAME.json")
    if missing := [one.stem for one in files if one.stem not in photographs]:
        raise FileNotFoundError(f"{options.photos} has no photograph named {missing[0]}")
    pipeline = eager_pipeline(options.checkpoint)
    sheet = laid([pair(pipeline, photographs[one.stem], one) for one in files])
    with written_whole(out) as beside:
        Image.fromarray(sheet).save(beside, quality=82)
    print(f"wrote {out}: {len(files)} photographs, each before and after hints")
    return 0


def pair(pipeline: Pipeline, photograph: Path, file: Path) -> UInt8:
    """Colour a photograph without and with the hints in a file, side by side: (HEIGHT, W, 3).

    Raises:
        UserError: if the photograph can't be read, or its hints are wrong.
    """
    try:
        picture = image.read(photograph.read_bytes())
        known = hints.parse(file.read_text())
    except (RequestError, BadOption) as error:
        raise UserError(f"{photograph} with {file}: {error}") from None
    options = Options()
    both = [
        pipeline.colorize_pixels(picture, one) for one in (options, replace(options, hints=known))
    ]
    width = round(HEIGHT * picture.width / picture.height)
    shown = [cv2.resize(one, (width, HEIGHT), interpolation=cv2.INTER_AREA) for one in both]
    line = np.full((HEIGHT, GAP // 2, 3), 255)
    return np.hstack([shown[0], line, shown[1]]).astype(np.uint8)


def laid(pairs: Sequence[UInt8]) -> UInt8:
    """Lay pictures of HEIGHT in rows, each as full as WIDTH allows: (H, W, 3), white around."""
    rows: list[list[UInt8]] = []
    for one in sorted(pairs, key=lambda one: -one.shape[1]):
        for row in rows:
            if sum(other.shape[1] + 3 * GAP for other in row) + one.shape[1] <= WIDTH:
                row.append(one)
                break
        else:
            rows.append([one])
    width = max(sum(one.shape[1] + 3 * GAP for one in row) for row in rows) - 3 * GAP
    sheet = np.full((len(rows) * (HEIGHT + GAP) - GAP, width, 3), 255, np.uint8)
    for number, row in enumerate(rows):
        left, top = 0, number * (HEIGHT + GAP)
        for one in row:
            sheet[top : top + HEIGHT, left : left + one.shape[1]] = one
            left += one.shape[1] + 3 * GAP
    return sheet


if __name__ == "__main__":
    sys.exit(main())

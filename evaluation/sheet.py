"""Contact sheets of black-and-white photographs, to compare networks by eye, also blindly.

python -m evaluation.sheet CHECKPOINT... --photos FOLDER --out sheet.png --blind 7
"""

from __future__ import annotations

import argparse
import json
import random
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from colorizer import image
from colorizer.commands.run import command_parser, run_command
from colorizer.errors import RequestError, UserError
from colorizer.files import write_whole, written_whole
from colorizer.pipeline import Pipeline
from evaluation.command import named, picture_to_write
from evaluation.figures import GAP, contact_sheet
from evaluation.methods import eager_pipeline
from evaluation.metrics import UInt8
from evaluation.photographs import find_photographs, reduce

ROWS = 5  # photographs on a page
CELL = 460  # longer side of a picture on it, in pixels: stains show, and a page fits a screen

Row = tuple[str, dict[str, UInt8]]  # a photograph's text, and its pictures by network


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and make the sheets; returns the exit code."""
    parser = command_parser("python -m evaluation.sheet", __doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, nargs="+")
    add("--photos", type=Path, required=True, help="folder of photographs")
    add("--out", type=Path, required=True,
        help=f"sheet.png or .jpg makes sheet-1.png ..., {ROWS} photographs a page")  # fmt: skip
    add("--blind", type=int, metavar="SEED", help="order each photograph's networks at random, "
        "under letters; the key is sheet.key.json")  # fmt: skip
    options = parser.parse_args(arguments)
    return run_command("sheet", lambda: make(options))


def make(options: argparse.Namespace) -> int:
    """Make the pages, and the key of blind ones."""
    out = picture_to_write(options)
    checkpoints = named(options.checkpoint)
    if options.blind is not None and len(checkpoints) > len(string.ascii_uppercase):
        raise UserError(f"{len(checkpoints)} networks are more than there are letters")
    paths = find_photographs(options.photos)
    pipelines = {name: eager_pipeline(path) for name, path in checkpoints.items()}
    names, key, pages = list(pipelines), {}, 0
    letters = list(string.ascii_uppercase[: len(names)])
    rng = random.Random(options.blind)
    rows = enumerate(coloured(paths, pipelines), 1)
    while page := list(islice(rows, ROWS)):
        laid = []
        for number, (text, pictures) in page:
            order = names
            if options.blind is not None:
                order = rng.sample(names, len(names))
                key[number] = {"photograph": text, **dict(zip(letters, order, strict=True))}
            laid.append((f"{number}  {text}", [pictures[name] for name in order]))
        if key:  # before the page, so that an interrupted run leaves no page without a key
            body = json.dumps(key, indent=1, ensure_ascii=False) + "\n"
            write_whole(out.with_name(f"{out.stem}.key.json"), body.encode())
        pages += 1
        with written_whole(out.with_name(f"{out.stem}-{pages}{out.suffix}")) as beside:
            contact_sheet(beside, letters if key else names, laid, CELL)
    if not pages:
        raise FileNotFoundError("none of the photographs can be read")
    known = f"; the key is {out.stem}.key.json" if key else ""
    print(f"wrote {out.stem}-1{out.suffix} to -{pages}{out.suffix} in {out.parent}{known}")
    return 0


def coloured(paths: Sequence[Path], pipelines: Mapping[str, Pipeline]) -> Iterator[Row]:
    """Colour each photograph by each network, as served; report those that can't be read."""
    for path in tqdm(paths, "sheets", file=sys.stderr, mininterval=2):
        try:
            picture = image.read(path.read_bytes())
        except (RequestError, OSError) as error:
            print(f"left out: {path}: {error}", file=sys.stderr)
            continue
        yield (
            path.name,
            {n: reduce(p.colorize_pixels(picture), CELL - GAP) for n, p in pipelines.items()},
        )


if __name__ == "__main__":
    sys.exit(main())

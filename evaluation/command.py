"""What commands that measure share: which photographs, names of checkpoints, tables."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from colorizer.cores import cores
from colorizer.errors import UserError
from evaluation.photographs import HELD_OUT, Photograph, find, is_held_out


def add_photographs(parser: argparse.ArgumentParser) -> None:
    """Add options for the photographs to measure on, and the number of processes."""
    add = parser.add_argument
    add("--photos", type=Path, required=True, help="folder of colour photographs, or of shards")
    add("--held-out", type=float, nargs="?", const=HELD_OUT, metavar="SHARE",
        help="only those that training with this --validation held out (%(const)s)")  # fmt: skip
    add("--limit", type=int, help="only so many photographs, evenly spaced")
    add("--workers", type=int, default=cores(), help="processes (%(default)s)")


def picked(options: argparse.Namespace) -> list[Photograph]:
    """Find the photographs that the options select.

    Raises:
        FileNotFoundError: if there are none.
    """
    paths = find(options.photos)
    if options.held_out is not None:
        paths = [path for path in paths if is_held_out(path.read_bytes(), options.held_out)]
    if options.limit:
        paths = paths[:: max(1, len(paths) // options.limit)][: options.limit]
    return paths


def named(paths: Sequence[Path]) -> dict[str, Path]:
    """Name checkpoints after their files, and their folders if files have the same name."""
    stems = [path.stem for path in paths]
    return {
        path.stem if stems.count(path.stem) == 1 else str(path.with_suffix("")): path
        for path in paths
    }


def picture_to_write(options: argparse.Namespace) -> Path:
    """The path of --out.

    Raises:
        UserError: if it doesn't end as a picture that can be written.
    """
    out: Path = options.out
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--out is {out}, and must end in .png or .jpg")
    return out


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Format a table as Markdown."""
    lines = [f"| {' | '.join(row)} |" for row in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])

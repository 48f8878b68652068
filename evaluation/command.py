"""What the commands that measure share: how photographs are picked, and how failures end."""

from __future__ import annotations

import argparse
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from colorizer.checkpoint import BadCheckpoint
from colorizer.threads import available_cores
from evaluation.photographs import HELD_OUT, Photograph, find, is_held_out

# What a user, or the machine, can cause; anything else is a fault of ours.
FAILURES = (BadCheckpoint, OSError, ValueError, BrokenProcessPool, KeyboardInterrupt)


def add_photographs(parser: argparse.ArgumentParser) -> None:
    """Declare which photographs to measure on, and in how many processes."""
    parser.add_argument(
        "--photos", type=Path, required=True, help="folder of colour photographs, or of shards"
    )
    parser.add_argument(
        "--held-out",
        type=float,
        nargs="?",
        const=HELD_OUT,
        metavar="SHARE",
        help="only those that a training run with this --validation held out (%(const)s)",
    )
    parser.add_argument("--limit", type=int, help="every n-th photograph only, this many in all")
    parser.add_argument(
        "--workers", type=int, default=available_cores(), help="processes (%(default)s)"
    )


def picked(options: argparse.Namespace) -> list[Photograph]:
    """Find the photographs that the options name.

    Raises:
        FileNotFoundError: if there are none.
    """
    paths = find(options.photos)
    if options.held_out is not None:
        paths = [path for path in paths if is_held_out(path.read_bytes(), options.held_out)]
    if options.limit:
        paths = paths[:: max(1, len(paths) // options.limit)][: options.limit]
    return paths


def failed(command: str, error: BaseException) -> int:
    """Tell a person what one of `FAILURES` means for a command; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        print(f"{command}: interrupted; nothing was written", file=sys.stderr)
        return 130
    if isinstance(error, BrokenProcessPool):
        print(f"{command}: a process died, perhaps of memory; try fewer --workers", file=sys.stderr)
        return 1
    print(f"{command}: {error}", file=sys.stderr)
    return 2

"""Export a checkpoint: python -m export --help"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import colorizer
from colorizer.checkpoint import BadCheckpoint
from colorizer.engine import BadGraph
from export.archive import ArchiveFailed, BadSettings, archive
from export.torchscript import NotEqual, export
from export.triton import SameName, repository


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and export; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m export", description=__doc__)
    parser.add_argument("--version", action="version", version=colorizer.__version__)
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, what, out in (
        ("torchscript", "a TorchScript graph with its manifest", "folder to write"),
        ("archive", "an archive that TorchServe serves", ".mar to write; it names the model"),
    ):
        one = kinds.add_parser(kind, help=what, description=f"Write {what}.")
        one.add_argument("checkpoint", type=Path, help="weights made by training")
        one.add_argument("--out", type=Path, required=True, help=out)
    triton = kinds.add_parser("triton", help="a model repository that Triton serves")
    triton.add_argument("checkpoint", type=Path, nargs="+", help="weights, one file of each head")
    triton.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args(arguments)
    if options.kind == "archive" and options.out.suffix != ".mar":
        parser.error(f"--out must end in .mar, not {options.out}")
    try:
        if options.kind == "triton":
            repository(options.checkpoint, options.out)
        else:
            {"torchscript": export, "archive": archive}[options.kind](
                options.checkpoint, options.out
            )
    except (
        *(NotEqual, BadCheckpoint, BadGraph, BadSettings, ArchiveFailed, SameName),
        OSError,
    ) as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("export: interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

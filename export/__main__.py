"""Export checkpoints to graphs, each compared with its network: python -m export --help"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from colorizer import rtx
from colorizer.commands.run import command_parser, run_command
from colorizer.files import write_whole
from colorizer.graph import NAMES, Hardware
from colorizer.plan import NotBuilt
from export import graphs, parity
from export.graphs import Source
from export.parity import Row
from export.tensorrt import Build


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and export; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    low, best, high = options.batches
    if not 1 <= low <= best <= high:
        parser.error(f"--batches must rise from 1 on, not {low} {best} {high}")
    if options.gpus:
        _check_gpus(parser, options)
    names = [path.stem for path in options.checkpoints]
    if len(set(names)) < len(names):
        parser.error("two checkpoints have the same name, and would have the same folder")
    how = Build(
        batches=(low, best, high),
        version_compatible=options.version_compatible,
        hardware=options.hardware,
        timing_cache=options.timing_cache,
        gpus=tuple(dict.fromkeys(options.gpus)),
    )
    return run_command(
        "export", lambda: _export_all(options, how), "what was unfinished is not written"
    )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("python -m export", __doc__)
    parser.epilog = (
        "For Triton: python -m export.triton --help. "
        "For TorchServe: python -m export.archive --help."
    )
    add = parser.add_argument
    add("checkpoints", type=Path, nargs="+", metavar="CHECKPOINT", help="weights made by training")
    add("--to", nargs="+", choices=NAMES, default=graphs.ENGINES,
        help=f"engines (default: {' '.join(graphs.ENGINES)})")  # fmt: skip
    add("--out", type=Path, required=True, help="folder to write; several checkpoints: one in each")
    add("--photos", type=Path, help="compare on these, not on scikit-image's samples")
    add = parser.add_argument_group("TensorRT and TensorRT for RTX").add_argument
    add("--batches", nargs=3, type=int, metavar=("MIN", "BEST", "MAX"), default=Build.batches,
        help="batches that the plan runs (default: 1 8 8)")  # fmt: skip
    add("--gpus", nargs="+", type=str.upper, metavar="SM", default=[],
        help="tensorrt-rtx: compile now, for these compute capabilities (SM86 SM89 SM120), not "
        "for the card at hand when the graph is loaded")  # fmt: skip
    add("--version-compatible", action="store_true",
        help="tensorrt: runs in newer releases of its major too")  # fmt: skip
    add("--hardware", choices=get_args(Hardware), default="none",
        help="tensorrt: other GPUs that run it")  # fmt: skip
    add("--timing-cache", type=Path, help="tensorrt: file of earlier builds' measurements")
    return parser


def _check_gpus(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """End with an error if plans can't be compiled for the GPUs in --gpus."""
    if "tensorrt-rtx" not in options.to:
        parser.error("--gpus is for --to tensorrt-rtx")
    try:
        known = rtx.known_gpus()
    except NotBuilt as error:
        parser.error(f"--gpus compiles plans, and {error}")
    for gpu in options.gpus:
        if gpu not in known:
            parser.error(
                f"--gpus {gpu}: TensorRT for RTX compiles for {', '.join(known)}; data-centre GPUs "
                "are TensorRT's: --to tensorrt"
            )


def _export_all(options: argparse.Namespace, how: Build) -> int:
    """Export each checkpoint to each engine, and report what was measured, also after an error."""
    rows: list[Row] = []
    photographs = parity.photographs(options.photos)
    print(f"comparing on {len(photographs)} photographs", flush=True)
    refused: NotBuilt | None = None  # raised after all graphs that need no GPU are made
    several = len(options.checkpoints) > 1
    try:
        for path in options.checkpoints:
            source = Source.read(path, photographs)
            folder = options.out / source.name if several else options.out
            for name in dict.fromkeys(options.to):
                try:
                    graphs.export(source, name, folder / name, rows, how)
                except NotBuilt as error:
                    refused = error
    finally:
        if rows:
            table = parity.table(rows)
            write_whole(options.out / "parity.md", f"{table}\n".encode())
            print(f"\n{table}\n\nsaved in {options.out}/parity.md")
    if refused:
        raise refused
    return 0


if __name__ == "__main__":
    sys.exit(main())

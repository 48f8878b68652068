"""Time a batch of the network beside the same pictures one by one, and compare the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import colorizer
from benchmarks.pipeline import alternate
from colorizer.engine import BadGraph
from colorizer.pipeline import Pipeline


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print a line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batches", description=__doc__)
    parser.add_argument("--version", action="version", version=colorizer.__version__)
    parser.add_argument("graph", type=Path, help="folder that export wrote")
    parser.add_argument("--pictures", type=int, default=8, help="in a batch (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=7, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        pipeline = Pipeline.load(options.graph)
    except BadGraph as error:
        print(f"batches: {error}", file=sys.stderr)
        return 1
    side, count = pipeline.graph.side, options.pictures
    pictures = 100 * torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0))
    print(f"{pipeline.graph.head}, {count} pictures, {torch.get_num_threads()} threads ...")
    together, single = alternate(
        [
            lambda: pipeline.run(pictures),
            lambda: [pipeline.run(pictures[k : k + 1]) for k in range(count)],
        ],
        options.repeat,
    )
    alone = torch.cat([pipeline.run(pictures[k : k + 1]) for k in range(count)])
    difference = float((pipeline.run(pictures) - alone).abs().max())
    print(f"together {together:.0f} ms, one by one {single:.0f} ms: {single / together:.2f} times")
    print(f"largest difference of the network's output: {difference:.3g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

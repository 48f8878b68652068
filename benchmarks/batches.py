"""Time a batch of the network beside the same pictures one by one, and compare the results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import command
from benchmarks.results import Plot, Table
from benchmarks.timing import alternate
from colorizer.pipeline import Pipeline

MODULE = "benchmarks.batches"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print a table; returns the exit code."""
    parser = command.parser(MODULE, __doc__)
    add = parser.add_argument
    add("graphs", type=Path, nargs="+", help="folders that export wrote, of either network")
    add("--pictures", type=command.positive, default=8, help="in a batch (default: %(default)s)")
    add("--repeat", type=command.positive, default=7, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.pictures, options.repeat = 2, 1
    return command.carry_out(MODULE, options, arguments, measure(options))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure a batch and its pictures alone, of each network."""
    for folder in options.graphs:
        pipeline = Pipeline.load(folder)
        side, count, head = pipeline.graph.side, options.pictures, pipeline.graph.head
        generator = torch.Generator().manual_seed(0)
        pictures = 100 * torch.rand(count, 1, side, side, generator=generator)
        yield together(pipeline, pictures, options.repeat, head)


def together(pipeline: Pipeline, pictures: torch.Tensor, repeat: int, head: str) -> Table:
    """Measure a batch and its pictures alone."""

    def alone() -> list[torch.Tensor]:
        return [pipeline.run(one[None]) for one in pictures]

    calls = [lambda: pipeline.run(pictures), alone]
    times = alternate(calls, repeat, what=f"{head}, {len(pictures)} pictures")
    difference = float((pipeline.run(pictures) - torch.cat(alone())).abs().max())
    return Table(
        f"A batch of {len(pictures)} beside its pictures alone, {head}",
        ["network runs", "ms", "quartiles, ms", "of the batch's time"],
        [
            [name, time.median, time.spread, time.median / times[0].median]
            for name, time in zip(("a batch", "picture by picture"), times, strict=True)
        ],
        f"{command.threads()}, median of {repeat} rounds; largest difference of the "
        f"network's output: {difference:.3g}.",
        Plot("network runs", ["ms"], "ms"),
    )


if __name__ == "__main__":
    sys.exit(main())

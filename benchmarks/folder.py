"""Time a folder of photographs, compared with what its engine and the cores allow.

The folder goes through `Colorizer.colorize_files`, as in the command `colorizer FOLDER`, and its
results are written. If all cores were always busy, a picture would take the processor time of the
network and of the rest, divided by the number of cores: nothing can be faster. All take turns.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks import results, samples
from benchmarks.results import Table
from benchmarks.timing import BURN_IN, Timing
from colorizer.api import Colorizer
from colorizer.cores import cores
from colorizer.files import write_whole
from colorizer.pipeline import Pipeline

MODULE = "benchmarks.folder"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print a table; returns the exit code."""
    parser = results.parser(MODULE, __doc__)
    add = parser.add_argument
    add("model", type=Path, help="archive (.mar), or folder that export wrote")
    add("--megapixels", type=float, default=0.3, help="of each photograph (default: %(default)s)")
    add("--pictures", type=results.positive, default=48, help="(default: %(default)s)")
    add("--repeat", type=results.positive, default=7, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.megapixels, options.pictures, options.repeat = 0.05, 3, 1
    return results.run(MODULE, options, measure(options))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Time the engine alone, the work around it, and the folder."""
    colorizer = Colorizer(options.model, "cpu")
    pipeline, names = colorizer.pipeline, samples.NAMES
    with tempfile.TemporaryDirectory() as place:
        paths = []
        for number in range(options.pictures):
            paths.append(Path(place, f"{number}.jpg"))
            one = samples.sample(options.megapixels, names[number % len(names)], grey=True)
            paths[-1].write_bytes(one.body)
        side = pipeline.graph.recipe.side
        lightness = np.full((1, 1, side, side), 50, np.float32)
        output = pipeline.run(lightness)
        rest = Pipeline(pipeline.graph, lambda given: output)
        times: list[tuple[float, ...]] = []
        for number in tqdm(range(BURN_IN + options.repeat), "folder", mininterval=2, leave=False):
            start, worked = time.perf_counter(), time.process_time()
            for _ in paths:
                pipeline.run(lightness)
            alone, network = time.perf_counter() - start, time.process_time() - worked
            worked = time.process_time()
            for path in paths:
                write_whole(path.with_suffix(".out"), rest.colorize(path.read_bytes()).body)
            around = time.process_time() - worked
            start = time.perf_counter()
            for path, reply in colorizer.colorize_files(paths):
                assert not isinstance(reply, Exception), reply
                write_whole(path.with_suffix(".out"), reply.body)
            folder = time.perf_counter() - start
            if number >= BURN_IN:
                times.append((alone, network, around, folder))
    each = ([1000 * one / len(paths) for one in column] for column in zip(*times, strict=True))
    alone, network, around, folder = (Timing.of(column).median for column in each)
    bound = (network + around) / cores()
    rows = {"network alone": alone, "bound": bound, "folder": folder}
    yield Table(
        f"A folder, {options.model.name}",
        ["what", "ms a picture", "pictures/s", "of the bound"],
        [[name, one, 1000 / one, bound / one] for name, one in rows.items()],
        f"{len(paths)} grey JPEGs of {options.megapixels:g} MP, {cores()} cores, median of "
        f"{options.repeat} rounds, without loading the network. The bound is the processor time of "
        f"the network, {network:.3g} ms, and of the rest, {around:.3g} ms, divided by the cores.",
    )


if __name__ == "__main__":
    sys.exit(main())

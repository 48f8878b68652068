"""How cost grows with megapixels, batch and threads, and where each stops scaling.

The sentence under each table is worked out from its own figures.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import cv2
import torch

from benchmarks import command, peak_memory, roofline, samples
from benchmarks.command import say
from benchmarks.results import Plot, Table, Value
from benchmarks.roofline import Peak
from benchmarks.scaling import enough, memory_slope, overtaking, why_a_batch, why_threads
from benchmarks.timing import Timing, alternate
from colorizer.pipeline import STAGES, Pipeline
from colorizer.unet import UNet, UNetConfig

MODULE = "benchmarks.growth"
MEGAPIXELS = (0.1, 0.3, 1.0, 3.0, 6.0, 12.0, 24.0)
BATCHES = (1, 2, 4, 8, 16, 32)
PICTURE_STAGES = tuple(stage for stage in STAGES if stage != "network")

T = TypeVar("T")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print tables; returns the exit code."""
    parser = command.parser(MODULE, __doc__)
    add = parser.add_argument
    add("graphs", type=Path, help="folder that export wrote")
    add("--megapixels", type=float, nargs="+", default=MEGAPIXELS, help="(default: 0.1 ... 24)")
    add("--batches", type=command.positive, nargs="+", default=BATCHES, help="(default: 1 ... 32)")
    add("--repeat", type=command.positive, default=7, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.megapixels, options.batches, options.repeat = [0.1], [1, 2], 1
    if min(options.megapixels) <= 0:
        parser.error("--megapixels must be above 0")
    return command.carry_out(MODULE, options, arguments, measure(options))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure each growth in turn."""
    pipeline = Pipeline.load(options.graphs)
    pipeline.warm_up()
    yield by_megapixels(pipeline, options)
    peak = roofline.peak(quick=options.quick)
    yield by_batch(pipeline, options, peak)
    yield by_threads(options)


def by_megapixels(pipeline: Pipeline, options: argparse.Namespace) -> Table:
    """Time and peak memory of the whole pipeline, of one photograph after the other."""
    sizes = sorted(options.megapixels)
    rows: list[list[Value]] = []
    with tempfile.TemporaryDirectory(prefix="growth-") as temporary:
        picture = Path(temporary) / "picture.jpg"
        for megapixels in sizes:
            say(f"{megapixels:g} megapixels")
            body = samples.jpeg(samples.large(*samples.size_of(megapixels)))
            picture.write_bytes(body)
            pipeline.colorize(body)
            found = [pipeline.colorize(body).seconds for _ in range(options.repeat)]
            stages = [Timing.of([1000 * one[stage] for one in found]).median for stage in STAGES]
            whole = Timing.of([1000 * sum(one.values()) for one in found])
            peak = peak_memory.measure("pipeline", options.graphs, picture=picture)
            running = peak.running if peak else None
            rows.append([megapixels, *stages, whole.median, whole.spread, running])
    named = [f"{stage}, ms" for stage in STAGES]
    network = 1 + STAGES.index("network")
    around = [
        sum(float(row[1 + STAGES.index(stage)] or 0) for stage in PICTURE_STAGES) for row in rows
    ]
    return Table(
        f"Growth with megapixels, {pipeline.graph.head}",
        ["megapixels", *named, "whole, ms", "quartiles, ms", "peak memory, MB"],
        rows,
        f"JPEG to JPEG, {command.threads()}, median of {options.repeat} rounds. "
        + overtaking(sizes, around, [float(row[network] or 0) for row in rows])
        + " "
        + memory_slope(sizes, [row[-1] for row in rows]),
        Plot("megapixels", [*named, "whole, ms"], "ms", log=True),
    )


def by_batch(pipeline: Pipeline, options: argparse.Namespace, peak: Peak) -> Table:
    """Pictures a second of the network alone, by batch."""
    batches, side = sorted(options.batches), pipeline.graph.side
    inputs = [samples.batch(samples.photographs(None), side, count) for count in batches]
    calls = [partial(pipeline.run, one) for one in inputs]
    times = alternate(calls, options.repeat, what="batches")
    rates = [1000 * count / time.median for count, time in zip(batches, times, strict=True)]
    net = UNet(UNetConfig(head=pipeline.graph.head, side=side)).eval()
    cost = roofline.count(net, inputs[0])
    of_peak = [rate * cost.flop / batches[0] / peak.flops for rate in rates]
    rows: list[list[Value]] = [
        [count, time.median, time.spread, rate, rate / rates[0], share]
        for count, time, rate, share in zip(batches, times, rates, of_peak, strict=True)
    ]
    return Table(
        f"Growth with batch, {pipeline.graph.head}",
        ["batch", "ms", "quartiles, ms", "pictures/s", "× the smallest", "of peak FLOP/s"],
        rows,
        f"{command.threads()}, median of {options.repeat} rounds. "
        + enough(batches, rates)
        + " "
        + why_a_batch(batches[0], cost.flop / cost.bytes, of_peak[0], peak),
        Plot("batch", ["pictures/s"], "pictures/s"),
    )


def by_threads(options: argparse.Namespace) -> Table:
    """Pictures a second of the network and of the whole pipeline, by threads."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    counts = thread_counts(options.threads or cores())
    batch, megapixels = (2, 0.1) if options.quick else (8, 3.0)
    body = samples.jpeg(samples.large(*samples.size_of(megapixels)))
    calls: list[Callable[[], object]] = []
    peaks = []
    try:
        for count in counts:
            use(count)
            say(command.threads())
            pipeline = Pipeline.load(options.graphs)  # ONNX Runtime keeps the threads of its start
            pictures = samples.batch(samples.photographs(None), pipeline.graph.side, batch)
            calls += [
                partial(with_threads, count, pipeline.run, pictures[:1]),
                partial(with_threads, count, pipeline.run, pictures),
                partial(with_threads, count, pipeline.colorize, body),
            ]
            peaks.append(roofline.peak(quick=options.quick).flops)
        times = alternate(calls, options.repeat, what="threads")
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])
    single, several, whole = (
        [1000 * pictures / one.median for one in times[first::3]]
        for first, pictures in enumerate((1, batch, 1))
    )
    rows: list[list[Value]] = [
        [*row[:-1], row[1] / single[0], row[2] / several[0], row[3] / whole[0], row[4] / peaks[0]]
        for row in zip(counts, single, several, whole, peaks, strict=True)
    ]
    speeds = [
        "network, batch 1, pictures/s",
        f"network, batch {batch}, pictures/s",
        f"whole, {megapixels:g} MP, pictures/s",
    ]
    return Table(
        f"Growth with threads, {pipeline.graph.head}",
        ["threads", *speeds, "× batch 1", f"× batch {batch}", "× whole", "× peak FLOP/s"],
        rows,
        f"Median of {options.repeat} rounds. × is beside one thread; the last column is the "
        "machine's own, a large matrix product or convolution. "
        + " ".join(
            why_threads(name, counts, rates, peaks)
            for name, rates in (("The network alone", several), ("One whole photograph", whole))
        ),
        Plot("threads", speeds, "pictures/s"),
    )


def with_threads(count: int, call: Callable[[T], object], given: T) -> None:
    """Call with so many threads, of torch and of OpenCV."""
    use(count)
    call(given)


def use(count: int) -> None:
    """Set the threads of torch and of OpenCV."""
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def thread_counts(most: int) -> list[int]:
    """1, 2, 4 ... and the most."""
    doubled = [1 << power for power in range(most.bit_length())]
    return sorted({*doubled, most})


if __name__ == "__main__":
    sys.exit(main())

"""Time a network in each engine beside eager torch, and compare their colours.

Engines take turns within each round, so that a busy moment of the machine hits all of them;
medians, quartiles and ratios to eager torch are printed, then how far each engine's colours are
from eager torch's. An engine that can't run here is left out, with the reason.
OMP_NUM_THREADS=1 measures on one thread.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks import results
from benchmarks.results import Table, Unusable, say
from benchmarks.timing import alternate
from colorizer import checkpoint, engines
from colorizer.checkpoint import BadCheckpoint
from colorizer.graph import BadGraph, Engine, find, open_place
from colorizer.unet import UNet
from export import parity
from export.parity import NoPhotographs, Reference

MODULE = "benchmarks.engines"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print tables; returns the exit code."""
    parser = results.parser(MODULE, __doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="weights made by training")
    add("graphs", type=Path, help="archive (.mar), or folder that export wrote")
    add("--photos", type=Path, help="folder of photographs (default: scikit-image's samples)")
    add("--device", default="cpu", help="cpu or cuda:N (default: %(default)s)")
    add("--batches", type=results.positive, nargs="+", default=[1, 8], help="(default: 1 8)")
    add("--repeat", type=results.positive, default=9, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.batches, options.repeat = [1], 1
    errors = BadCheckpoint, BadGraph, NoPhotographs
    return results.carry_out(MODULE, options.json, arguments, measure(options), errors)


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure one network in all its engines."""
    check(options.device)
    net, about = checkpoint.load(options.checkpoint)
    recipe = about.recipe
    found = dict(collect(net, options))
    pictures = parity.photographs(options.photos)[: 2 if options.quick else None]
    reference = Reference(net, recipe, pictures)
    for batch in options.batches:
        lightness = reference.lightness[[i % len(pictures) for i in range(batch)]]
        calls = [partial(run, lightness) for run in found.values()]
        times = alternate(calls, options.repeat, options.device, f"batch {batch}")
        eager = times[0].median
        yield Table(
            f"Engines, {recipe.head}, batch {batch}",
            ["engine", "ms", "quartiles, ms", "× eager", "pictures/s"],
            [
                [name, one.median, one.spread, eager / one.median, 1000 * batch / one.median]
                for name, one in zip(found, times, strict=True)
            ],
            f"{where(options.device)}, side {recipe.side}, median of {options.repeat} "
            "rounds. × eager is eager torch's time divided by the engine's: more is faster.",
        )
    yield differences(reference, found, recipe.head, max(options.batches))


def check(device: str) -> None:
    """Refuse a device that isn't here.

    Raises:
        Unusable: saying so.
    """
    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = device
    if kind not in ("cpu", "cuda"):
        raise Unusable(f"--device is {device!r:.40}; use cpu or cuda:N")
    if kind == "cuda" and not torch.cuda.is_available():
        raise Unusable("torch sees no CUDA GPU here; use --device cpu")


def collect(net: UNet, options: argparse.Namespace) -> Iterator[tuple[str, Engine]]:
    """Load eager torch, then each engine that has a graph and can run here.

    Raises:
        BadGraph: if there is no graph.
        Unusable: if the graphs are of another network.
    """
    device = options.device
    find(open_place(options.graphs))  # no graph at all is an error; one for another engine is not
    yield "eager torch", engines.Eager(checkpoint.load(options.checkpoint)[0].to(device), device)
    last = checkpoint.load(options.checkpoint)[0].to(device)
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    yield "eager torch, channels last", engines.Eager(last, device)
    for name in engines.PREFERRED[torch.device(device).type]:
        if name == "onnx" and device != "cpu":
            say("left out: ONNX Runtime, which runs graphs on the CPU only")
            continue
        try:
            graph, run = engines.load(options.graphs, device, name, torch.get_num_threads())
        except BadGraph as error:
            say(f"left out: {error}")
            continue
        if graph.recipe.head != net.kind:
            raise Unusable(
                f"{options.graphs} holds a graph of a {graph.recipe.head} network, and "
                f"{options.checkpoint} is of {net.kind}: name the graphs exported from it"
            )
        yield name, run


def differences(reference: Reference, runs: dict[str, Engine], head: str, batch: int) -> Table:
    """Compare each engine's colours with those of eager torch in float32 on the CPU."""
    found = [reference.measure(run, "", name, "float32", batch) for name, run in runs.items()]
    return Table(
        f"Difference from eager torch, {head}",
        ["engine", "largest Δab", "mean Δab", "ΔE00, worst picture"],
        [[one.engine, one.max_ab, one.mean_ab, one.delta_e] for one in found],
        f"{len(reference.lightness)} photographs at batch {batch}, against one at a time in "
        "float32; ΔE00 is that of the finished picture.",
    )


def where(device: str) -> str:
    """Name what computes."""
    if device != "cpu":
        return engines.gpu_name(device)
    return f"{results.machine()['CPU']}, {torch.get_num_threads()} threads"


if __name__ == "__main__":
    sys.exit(main())

"""Time this project's networks beside others that colorize: same pictures, threads and engine.

All have random weights and run in eager torch, float32, from L to ab. Ours is timed as it is
served too, by ONNX Runtime.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import command, roofline, samples
from benchmarks.command import Unusable, say
from benchmarks.peer_networks import DDColor, NoSource, Ours, Seed, Zhang
from benchmarks.results import Plot, Table, Value
from benchmarks.timing import alternate
from colorizer import engine
from colorizer.unet import UNet, UNetConfig

MODULE = "benchmarks.peers"
OURS = "ours, regression"
ZHANG = "Zhang 2016"
DDCOLOR = "DDColor-tiny"


@dataclass(frozen=True)
class Peer:
    """What is timed; `net` is what is counted."""

    name: str
    net: nn.Module
    run: Callable[[Tensor], Tensor]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print a table; returns the exit code."""
    parser = command.parser(MODULE, __doc__)
    add = parser.add_argument
    add("--ddcolor", type=Path, metavar="FOLDER", help="DDColor's source (default: left out)")
    add("--photos", type=Path, help="folder of photographs (default: scikit-image's samples)")
    add("--side", type=command.positive, default=256, help="pixels (default: %(default)s)")
    add("--batch", type=command.positive, default=8, help="the larger one (default: %(default)s)")
    add("--repeat", type=command.positive, default=9, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.side, options.batch, options.repeat = 64, 2, 1
    if options.side % 32:
        parser.error(f"--side must be a multiple of 32, not {options.side}")
    return command.carry_out(MODULE, options, arguments, measure(options))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure all networks in turns, at batch 1 and at the larger batch."""
    with tempfile.TemporaryDirectory(prefix="peers-") as temporary:
        try:
            peers = list(collect(options, Path(temporary)))
        except NoSource as error:
            raise Unusable(str(error)) from None
        pictures = samples.photographs(options.photos)
        one = samples.batch(pictures, options.side, 1)
        several = samples.batch(pictures, options.side, options.batch)
        single = alternate([partial(p.run, one) for p in peers], options.repeat, what="batch 1")
        batched = alternate(
            [partial(p.run, several) for p in peers],
            options.repeat,
            what=f"batch {options.batch}",
        )
    names = [peer.name for peer in peers]
    zhang = names.index(ZHANG)
    rows: list[list[Value]] = []
    for peer, alone, together in zip(peers, single, batched, strict=True):
        rate = 1000 * options.batch / together.median
        times = single[zhang].median / alone.median, batched[zhang].median / together.median
        parameters = sum(value.numel() for value in peer.net.parameters()) / 1e6
        flop = roofline.count(peer.net, one).flop / 1e9
        rows.append([peer.name, parameters, flop, alone.median, alone.spread, times[0], rate])
        rows[-1].append(times[1])
    if DDCOLOR not in names:
        rows.append([f"{DDCOLOR}: source not given", *[None] * 7])
    yield Table(
        f"Peers at {options.side} × {options.side}",
        [
            *("network", "parameters, M", "GFLOP", "batch 1, ms", "quartiles, ms"),
            *("× Zhang's speed", f"batch {options.batch}, pictures/s"),
            f"× Zhang's speed, batch {options.batch}",
        ],
        rows,
        f"{command.threads()}, median of {options.repeat} rounds in turns, L to ab, "
        "random weights, eager torch in float32 unless said otherwise. "
        + compared(names, [alone.median for alone in single]),
        Plot("network", ["batch 1, ms"], "ms"),
    )


def collect(options: argparse.Namespace, work: Path) -> Iterator[Peer]:
    """Build the networks.

    Raises:
        NoSource: if DDColor's was named and can't be used.
    """
    torch.manual_seed(0)
    ddcolor = DDColor(options.ddcolor, options.side) if options.ddcolor else None
    regression = Ours(UNetConfig(side=options.side))
    yield eager(OURS, regression)
    yield eager("ours, classification", Ours(UNetConfig(head="classification", side=options.side)))
    say("exporting to ONNX")
    graph = work / "graph.onnx"
    write_onnx(regression.net.eval(), graph)
    yield Peer(f"{OURS}, ONNX Runtime", regression, engine.OnnxRuntime(graph))
    yield eager(ZHANG, Zhang())
    yield eager("the first version (ResNet-50, pix2pix)", Seed())
    if ddcolor:
        yield eager(DDCOLOR, ddcolor)


def eager(name: str, net: nn.Module) -> Peer:
    """A network as torch runs it."""
    net.eval()

    def run(lightness: Tensor) -> Tensor:
        with torch.inference_mode():
            output: Tensor = net(lightness)
        return output

    return Peer(name, net, run)


def write_onnx(net: UNet, path: Path) -> None:
    """Export a network, for any batch."""
    example = torch.zeros(2, 1, net.config.side, net.config.side)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own use of what torch deprecates
        program = torch.onnx.export(
            net,
            (example,),
            input_names=[engine.INPUT],
            output_names=[engine.OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))


def compared(names: Sequence[str], milliseconds: Sequence[float]) -> str:
    """Say how much faster ours is than each that an aim is about."""
    times = dict(zip(names, milliseconds, strict=True))
    ours = {name: times[name] for name in (OURS, f"{OURS}, ONNX Runtime")}
    said = [
        f"{name}'s network takes {times[name] / own:.2f} times as long as {who}"
        for name in (ZHANG, DDCOLOR)
        if name in times
        for who, own in ours.items()
    ]
    return "At batch 1, " + "; ".join(said) + "."


if __name__ == "__main__":
    sys.exit(main())

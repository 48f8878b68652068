"""Time a network in each engine next to eager torch, and compare their colours.

Engines take turns within each round, so that a busy moment of the machine hits all of them;
medians, quartiles and ratios to eager torch are printed, then how far each engine's colours are
from eager torch's. An engine that can't run here has the reason in its row.
OMP_NUM_THREADS=1 measures on one thread.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import results
from benchmarks.results import Table, Unusable, Value
from benchmarks.timing import Timing, alternate
from colorizer import checkpoint, engines
from colorizer.errors import UserError
from colorizer.graph import NAMES, Engine, find, open_place, read_graph
from colorizer.unet import UNet
from export import network, parity
from export.parity import Reference

MODULE = "benchmarks.engines"
EAGER = ("eager", "eager-channels-last", "eager-float16")
AOT = "aotinductor"  # a .pt2 package, compiled here: not one of the library's engines
ENGINES = (*EAGER, "torchscript", "onnx", "onnx-int8", AOT, "tensorrt", "tensorrt-rtx")
COLUMNS = (
    *("engine", "ms", "quartiles, ms", "× eager", "pictures/s", "in its memory, ms"),
    *("of peak FLOP/s", "note"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print tables; returns the exit code."""
    parser = results.parser(MODULE, __doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="weights made by training")
    add("graphs", type=Path, help="archive (.mar), or folder that export wrote")
    add("--device", default="cpu", help="cpu or cuda:N (default: %(default)s)")
    add("--batches", type=results.positive, nargs="+", default=[1, 8], help="(default: 1 8)")
    add("--engines", nargs="+", choices=ENGINES, metavar="ENGINE",
        help=f"{', '.join(ENGINES)} (default: eager and those of GRAPHS)")  # fmt: skip
    add("--repeat", type=results.positive, default=9, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.quick:
        options.batches, options.repeat = [1], 1
    return results.run(MODULE, options, measure(options))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure one network in all its engines."""
    engines.check_device(options.device)
    net, about = checkpoint.load(options.checkpoint, alike=True)
    recipe = about.recipe
    graphs = find(open_place(options.graphs))
    for place in graphs.values():
        if (head := read_graph(place).recipe.head) != recipe.head:
            raise Unusable(
                f"{options.graphs} holds a graph of a {head} network, and {options.checkpoint} is "
                f"of {recipe.head}: name the graphs exported from it"
            )
    found: dict[str, Engine] = {}
    failed: dict[str, str] = {}
    for name in options.engines or [*EAGER[: 2 if options.device == "cpu" else 3], *graphs]:
        try:
            found[name] = start(name, net, recipe.side, options)
        except (UserError, RuntimeError, OSError, ImportError) as error:
            failed[name] = one_line(error)
    pictures = parity.photographs(None)[: 2 if options.quick else None]
    reference = Reference(net, recipe, pictures)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(torch.from_numpy(reference.lightness[:1]))
    flops, peak = counter.get_total_flops(), peak_flops(options.device)
    for batch in options.batches:
        lightness = reference.lightness[[i % len(pictures) for i in range(batch)]]
        yield Table(
            f"Engines, {recipe.head}, batch {batch}",
            COLUMNS,
            timed(found, failed, lightness, flops * batch / peak, options),
            f"{where(options.device)}, side {recipe.side}, median of {options.repeat} rounds. "
            "× eager is eager torch's time divided by the engine's: more is faster. In its memory: "
            "from L that is on the device to output that stays there. Of peak FLOP/s: "
            f"{flops / 1e9:.1f} GFLOP a picture, against the {peak / 1e12:.3g} TFLOP/s that a "
            f"large matrix product in {'float32' if options.device == 'cpu' else 'float16'} "
            "reaches here.",
        )
    if found:
        yield differences(reference, found, recipe.head, max(options.batches))


def timed(
    found: Mapping[str, Engine],
    failed: Mapping[str, str],
    lightness: NDArray[np.float32],
    ideal: float,
    options: argparse.Namespace,
) -> list[list[Value]]:
    """Time one batch: a row for each engine.

    Args:
        found: engines.
        failed: those that can't be started, with why.
        lightness: (B, 1, S, S).
        ideal: seconds that the batch would take at peak.
        options: of the command.
    """
    calls: dict[str, list[Callable[[], object]]] = {}
    why = dict(failed)
    for name, run in found.items():
        try:
            run(lightness)
        except RuntimeError as error:  # out of memory, for one
            why[name] = one_line(error)
            continue
        calls[name] = [partial(run, lightness)]
        if isinstance(run, engines.Eager):
            calls[name].append(resident(run, lightness))
    flat = [call for several in calls.values() for call in several]
    label = f"batch {len(lightness)}"
    times = iter(alternate(flat, options.repeat, options.device, label) if flat else [])
    measured = {name: [next(times) for _ in several] for name, several in calls.items()}
    eager: list[Timing] = measured.get(EAGER[0], [])
    rows: list[list[Value]] = []
    for name, (one, *inside) in measured.items():
        ratio = eager[0].median / one.median if eager else None
        best = inside[0].median if inside else None
        share = 1000 * ideal / (best or one.median)
        speed = 1000 * len(lightness) / one.median
        rows.append([name, one.median, one.spread, ratio, speed, best, share, ""])
    blank: list[Value] = [None] * (len(COLUMNS) - 2)
    return rows + [[name, *blank, f"not available: {text}"] for name, text in why.items()]


def resident(run: engines.Eager, lightness: NDArray[np.float32]) -> Callable[[], object]:
    """Make a call of a torch module on L that is on its device."""
    given = torch.from_numpy(lightness).to(run.device)

    def call() -> None:
        with torch.inference_mode():
            run.module(given)

    return call


def one_line(error: Exception) -> str:
    """Shorten an error to one line of a table."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0]:.200}".replace("|", "/")


def peak_flops(device: str) -> float:
    """Measure FLOP/s of a large matrix product, in float16 on a GPU."""
    size, kind = (1024, torch.float32) if device == "cpu" else (8192, torch.float16)
    factors = torch.randn(2, size, size, device=device, dtype=kind)
    (best,) = alternate([lambda: factors[0] @ factors[1]], 9, device)
    return 2000 * size**3 / best.low


def start(name: str, net: UNet, side: int, options: argparse.Namespace) -> Engine:
    """Load one engine.

    Raises:
        BadGraph: if it has no graph, or can't run here.
        RuntimeError: if torch can't compile the network.
    """
    device = options.device
    if name in (*EAGER, AOT):
        own = copy.deepcopy(net)
        if name in (EAGER[2], AOT):  # as graphs hold it
            own = network.fold(net)
            own = own if name == AOT and device == "cpu" else network.half(own)
        own.to(device)
        if name != EAGER[0]:
            own.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return engines.Eager(compiled(own, side) if name == AOT else own, device)
    (engine,) = (one for one in NAMES if one == name)
    device = "cpu" if name.startswith("onnx") else device  # the library runs ONNX there alone
    return engines.load(options.graphs, device, engine, torch.get_num_threads())[1]


def compiled(net: torch.nn.Module, side: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Compile a network by AOTInductor, for any batch; takes a compiler for C++, and a minute."""
    example = torch.zeros(8, 1, side, side, device=next(net.parameters()).device)
    batch = torch.export.Dim("batch", min=1, max=1024)
    with tempfile.TemporaryDirectory(prefix="aot-") as folder, torch.inference_mode():
        program = torch.export.export(net, (example,), dynamic_shapes=({0: batch},))
        package = torch._inductor.aoti_compile_and_package(
            program, package_path=f"{folder}/network.pt2"
        )
        loaded: Callable[[torch.Tensor], torch.Tensor] = torch._inductor.aoti_load_package(package)
    return loaded


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

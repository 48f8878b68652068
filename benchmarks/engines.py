"""Time a network in each engine, beside eager torch, and hold each against the machine's peak.

Engines are timed in turn within each round, so that a busy moment of the machine hits all of them;
medians with quartiles and their ratios to eager torch are printed, with FLOP/s as a share of what
the machine was measured to reach, the memory that each needs, and the difference in colour. The
graphs are those of `python -m export CHECKPOINT --to torchscript onnx --out DIR`. INT8 (ONNX
Runtime, QDQ, calibrated on every other photograph) and .pt2 (AOTInductor) are made here, since
export offers them only if they pay.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks import cases, command, peak_memory, roofline, samples, utilization
from benchmarks.cases import Case
from benchmarks.command import Unusable, say
from benchmarks.results import Plot, Table
from benchmarks.roofline import COUNTED, Cost, Peak
from benchmarks.timing import Timing, alternate
from colorizer import checkpoint, engine, gamut
from colorizer.checkpoint import Checkpoint
from colorizer.engine import Precision
from colorizer.image import Picture
from colorizer.pipeline import Prepared, finish, prepare

MODULE = "benchmarks.engines"
BYTES = {"float32": 4, "float16": 2}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print tables; returns the exit code."""
    parser = command.parser(MODULE, __doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="weights made by training")
    add("graphs", type=Path, help="folder that export wrote")
    add("--photos", type=Path, help="folder of photographs (default: scikit-image's samples)")
    add("--device", default="cpu", help="cpu or cuda:N (default: %(default)s)")
    add("--batches", type=command.positive, nargs="+", default=[1, 8, 32], help="(default: 1 8 32)")
    add("--repeat", type=command.positive, default=9, help="rounds (default: %(default)s)")
    add("--without", nargs="+", choices=("int8", "pt2"), default=[], help="leave out")
    options = parser.parse_args(arguments)
    if options.quick:
        options.batches, options.repeat, options.without = [1], 1, ["int8", "pt2"]
    return command.carry_out(MODULE, options, arguments, measure(options))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure one network in all its engines."""
    check(options.device)
    net, known = checkpoint.load(options.checkpoint)
    head, side = net.config.head, net.config.side
    pictures = [prepare(Picture(one), side) for one in samples.photographs(options.photos)]
    cost = roofline.count(net, pictures[0].small[None])
    with tempfile.TemporaryDirectory(prefix="engines-") as temporary:
        found = list(
            cases.collect(options, net, [one.small for one in pictures[::2]], Path(temporary))
        )
        say("measuring the machine's peaks")
        peaks = {
            precision: roofline.peak(options.device, precision, options.quick)
            for precision in roofline.DTYPES
            if precision in {one.arithmetic for one in found}
        }
        costs = {}
        for batch in options.batches:
            lightness = torch.stack([pictures[i % len(pictures)].small for i in range(batch)])
            costs[batch] = roofline.count(net.to("cpu"), lightness) if batch > 1 else cost
            calls = [partial(case.run, lightness) for case in found]
            times = alternate(calls, options.repeat, options.device, f"batch {batch}")
            busy = [utilization.under_load(call, options.device) for call in calls]
            rows = [
                [
                    *(case.name, time.median, time.spread, times[0].median / time.median),
                    *(1000 * batch / time.median, rate(costs[batch], time) / 1e9),
                    share(case, costs[batch], time, peaks),
                    *([one.utilization if one else None] if options.device != "cpu" else []),
                ]
                for case, time, one in zip(found, times, busy, strict=True)
            ]
            yield Table(
                f"Engines, {head}, batch {batch}",
                [
                    *("engine", "ms", "quartiles, ms", "× eager", "pictures/s", "GFLOP/s"),
                    "of attainable",
                    *(["GPU busy, %"] if options.device != "cpu" else []),
                ],
                rows,
                f"{where(options)}, side {side}; median of {options.repeat} rounds. "
                "× eager is eager torch's time through the engine's: more is faster. INT8 has "
                "another peak than float32, which is not measured."
                + (f" {utilization.ABSENT}." if options.device == "cpu" else ""),
                Plot("engine", ["ms"], "ms"),
            )
        yield limits(head, costs, peaks)
        yield needs(found[:1] if options.quick else found, head, side, options)
    compared = pictures[1::2][: 2 if options.quick else None]
    yield differences(found, head, compared, known)
    if head == "classification":
        yield decoding(found[0], options, pictures[0])


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


def rate(cost: Cost, time: Timing) -> float:
    """FLOP/s of the median run."""
    return cost.flop / (time.median / 1000)


def share(case: Case, cost: Cost, time: Timing, peaks: dict[Precision, Peak]) -> float | None:
    """The rate as a share of what the roofline lets the network reach."""
    if case.arithmetic == "int8":
        return None
    intensity = cost.flop / cost.bytes * 4 / BYTES[case.arithmetic]
    return rate(cost, time) / peaks[case.arithmetic].attainable(intensity)


def limits(head: str, costs: dict[int, Cost], peaks: dict[Precision, Peak]) -> Table:
    """The roofline: what the network asks for, and what the machine gives."""
    rows = []
    for precision, peak in peaks.items():
        for batch, cost in costs.items():
            moved = cost.bytes * BYTES[precision] / 4
            intensity = cost.flop / moved
            bound = "cores" if intensity >= peak.ridge else "memory"
            rows.append(
                [
                    *(precision, batch, cost.flop / 1e9, moved / 1e6, intensity),
                    *(peak.attainable(intensity) / 1e9, bound),
                ]
            )
    measured = "; ".join(
        f"{precision}: {peak.flops / 1e9:.0f} GFLOP/s by a large {peak.by}, "
        f"{peak.bandwidth / 1e9:.0f} GB/s by a large copy, so from {peak.ridge:.1f} FLOP a byte "
        "on the cores are the limit"
        for precision, peak in peaks.items()
    )
    return Table(
        f"Roofline, {head}",
        [
            *("precision", "batch", "GFLOP", "MB moved", "FLOP a byte", "attainable GFLOP/s"),
            "limit",
        ],
        rows,
        f"Measured in this run: {measured}. {COUNTED}.",
    )


def needs(found: Sequence[Case], head: str, side: int, options: argparse.Namespace) -> Table:
    """Peak memory of each engine, at the smallest and at the largest batch."""
    batches = sorted({min(options.batches), max(options.batches)})
    rows = []
    for case in found:
        say(f"measuring the memory of {case.name}")
        peaks = [
            peak_memory.measure(case.kind, case.path, options.device, batch=batch, side=side)
            for batch in batches
        ]
        loading = peaks[0].loading if peaks[0] else None
        rows.append([case.name, loading, *(one.running if one else None for one in peaks)])
    running = [f"batch {batch}, MB" for batch in batches]
    return Table(
        f"Memory, {head}",
        ["engine", "loading, MB", *running],
        rows,
        f"{peak_memory.MEASURED}.",
        Plot("engine", running, "MB"),
    )


def differences(
    found: Sequence[Case], head: str, pictures: Sequence[Prepared], known: Checkpoint
) -> Table:
    """How far each engine's colours are from eager torch's."""
    from skimage.color import deltaE_ciede2000

    expected = [finished(found[0], one, known) for one in pictures]
    rows: list[list[str | float]] = []
    for case in found:
        pairs = [
            (finished(case, one, known), other)
            for one, other in zip(pictures, expected, strict=True)
        ]
        largest = max(float(np.abs(one[0] - other[0]).max()) for one, other in pairs)
        delta_e = [float(deltaE_ciede2000(one[1], other[1]).mean()) for one, other in pairs]
        rows.append([case.name, largest, statistics.mean(delta_e), max(delta_e)])
    return Table(
        f"Difference from eager torch, {head}",
        ["engine", "largest Δab", "ΔE00, mean", "ΔE00, worst picture"],
        rows,
        f"On {len(pictures)} photographs, finished at their own size.",
    )


def finished(
    case: Case, one: Prepared, known: Checkpoint
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """ab at the network's size, and Lab of the finished picture."""
    from skimage.color import rgb2lab

    output = case.run(one.small[None])
    if output.shape[1] != 2:
        centres = torch.from_numpy(gamut.bins())
        output = gamut.decode(output, centres, known.decoding, known.temperature)
    ab = output[0].float().cpu().numpy()
    return ab, np.asarray(rgb2lab(finish(one.lightness, ab, known.chroma_gain)))


def decoding(case: Case, options: argparse.Namespace, picture: Prepared) -> Table:
    """What decoding one picture costs, on the device of the logits."""
    logits = case.run(picture.small[None])
    centres = torch.from_numpy(gamut.bins())

    def call(name: gamut.Decoding) -> Tensor:
        return gamut.decode(logits, centres, name, 0.38)

    calls = [partial(call, name) for name in gamut.DECODINGS]
    times = alternate(calls, options.repeat, options.device, "decoding")
    return Table(
        "Decoding of one picture, classification",
        ["decoding", "ms", "quartiles, ms"],
        [[name, t.median, t.spread] for name, t in zip(gamut.DECODINGS, times, strict=True)],
        plot=Plot("decoding", ["ms"], "ms"),
    )


def where(options: argparse.Namespace) -> str:
    """Name the GPU, or the CPU with those of its instructions that matter to the result."""
    if options.device != "cpu":
        return engine.gpu_name(options.device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    said = {line.split(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    flags = said.get("flags", "").split()
    wide = [one for one in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if one in flags]
    name = said.get("model name", platform.machine())
    return f"{name} ({' '.join(wide)}), {command.threads()}"


if __name__ == "__main__":
    sys.exit(main())

"""Time a network in each engine, beside eager torch, and measure what INT8 and .pt2 would give.

Engines are timed in turn within each round, so that a busy moment of the machine hits all of them;
medians and their ratios to eager torch are printed, with the difference from it in colour. The
graphs are those of `python -m export CHECKPOINT --to torchscript onnx --out DIR`. INT8 (ONNX
Runtime, QDQ, calibrated on every other photograph) and .pt2 (AOTInductor) are made here, since
export offers them only if they pay.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import colorizer
from colorizer import checkpoint, engine, gamut, image
from colorizer.checkpoint import BadCheckpoint, Checkpoint
from colorizer.engine import BadGraph, Engine
from colorizer.image import Picture, RequestError
from colorizer.pipeline import Prepared, finish, prepare
from colorizer.unet import UNet

SAMPLES = (
    *("astronaut", "cat", "coffee", "rocket", "stereo_motorcycle"),
    *("camera", "coins", "grass", "brick", "hubble_deep_field"),
)
MOST = 32  # photographs: half of them calibrate INT8, half are measured
SIDE = 384


@dataclass(frozen=True)
class Case:
    """What is timed; `run` leaves its result where the engine computes."""

    name: str
    run: Engine


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engines", description=__doc__)
    add = parser.add_argument
    add("--version", action="version", version=colorizer.__version__)
    add("checkpoint", type=Path, help="weights made by training")
    add("graphs", type=Path, help="folder that export wrote")
    add("--photos", type=Path, help="folder of photographs (default: scikit-image's samples)")
    add("--device", default="cpu", help="cpu or cuda:N (default: %(default)s)")
    add("--threads", type=int, help="of a CPU (default: as torch has it)")
    add("--batches", type=int, nargs="+", default=[1, 8], help="(default: %(default)s)")
    add("--repeat", type=int, default=9, help="rounds (default: %(default)s)")
    add("--without", nargs="+", choices=("int8", "pt2"), default=[], help="leave out")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    try:
        net, known = checkpoint.load(options.checkpoint)
        pictures = photographs(options.photos)
    except (BadCheckpoint, OSError) as error:
        print(f"engines: {error}", file=sys.stderr)
        return 1
    prepared = [prepare(Picture(one), net.config.side) for one in pictures]
    print(
        f"{options.checkpoint.stem}, side {net.config.side}; {device_name(options.device)}, "
        f"{torch.get_num_threads()} threads; median of {options.repeat} rounds",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="engines-") as temporary:
        work = Path(temporary)
        try:
            cases = list(collect(options, net, prepared, work))
        except BadGraph as error:
            print(f"engines: {error}", file=sys.stderr)
            return 1
        report(cases, options, known, prepared[1::2])
    if net.config.head == "classification":
        report_decoding(cases[0], options, prepared)
    return 0


def collect(
    options: argparse.Namespace, net: UNet, prepared: Sequence[Prepared], work: Path
) -> Iterator[Case]:
    """Load, or make, what is timed; what can't be had here is said and left out."""
    device = torch.device(options.device)
    net = net.to(device)
    yield Case("eager torch", on(device, net))
    last = copy.deepcopy(net)
    last.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    yield Case("eager torch, channels last", on(device, last))
    for name in engine.PREFERRED[device.type]:
        try:
            graph, run = engine.load(options.graphs, options.device, name)
        except BadGraph as error:
            print(f"left out: {error}", flush=True)
            continue
        yield Case({"torchscript": "TorchScript", "onnx": "ONNX Runtime"}.get(name, name), run)
        if name == "tensorrt":
            path = engine.find(options.graphs)[name] / graph.file
            recorded = engine.TensorRT(path, options.device, cuda_graph=True)
            yield Case("tensorrt, CUDA graph", recorded)
        if name == "onnx" and device.type == "cpu" and "int8" not in options.without:
            print("calibrating INT8 ...", flush=True)
            path = engine.find(options.graphs)[name] / graph.file
            quantize(path, work / "int8.onnx", [one.small for one in prepared[::2]])
            yield Case("ONNX Runtime, INT8", engine.OnnxRuntime(work / "int8.onnx"))
    if "pt2" not in options.without:
        print("compiling .pt2 ...", flush=True)
        try:
            yield Case(".pt2 (AOTInductor)", compile_pt2(net, work / "graph.pt2"))
        except Exception as error:  # no compiler on this machine, say: torch has many words for it
            print(f"left out: .pt2: {type(error).__name__}: {str(error).splitlines()[0]:.100}")


def on(device: torch.device, net: UNet) -> Engine:
    """Run a network on a device."""

    def run(lightness: Tensor) -> Tensor:
        with torch.inference_mode():
            output: Tensor = net(lightness.to(device))
        return output

    return run


def quantize(graph: Path, out: Path, calibration: Sequence[Tensor]) -> None:
    """Quantize convolutions to INT8, with what lies between them; the head's last stays float32."""
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            one = next(self._left, None)
            return None if one is None else {engine.INPUT: one[None].numpy()}

    prepared = out.with_name("prepared.onnx")
    quant_pre_process(graph, prepared, skip_symbolic_shape=True)
    nodes = onnx.load(prepared).graph.node
    last = [node.name for node in nodes if node.op_type == "Conv"][-1]
    quantize_static(
        prepared,
        out,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        op_types_to_quantize=["Conv", "ConvTranspose", "Relu", "Add", "MaxPool"],
        nodes_to_exclude=[last],
    )


def compile_pt2(net: UNet, out: Path) -> Engine:
    """Compile a network ahead of time, for any batch; needs a C++ compiler."""
    device = next(net.parameters()).device
    example = torch.zeros(2, 1, net.config.side, net.config.side, device=device)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, (example,), dynamic_shapes=(batch,))
        path = torch._inductor.aoti_compile_and_package(program, package_path=str(out))
        compiled = torch._inductor.aoti_load_package(path)

    def run(lightness: Tensor) -> Tensor:
        with torch.inference_mode():
            output: Tensor = compiled(lightness.to(device))
        return output

    return run


def alternate(calls: Sequence[Callable[[], object]], repeat: int, device: str) -> list[float]:
    """Median milliseconds of each call; the first two rounds warm up and are not counted."""
    times: list[list[float]] = [[] for _ in calls]
    for round_number in range(repeat + 2):
        for call, kept in zip(calls, times, strict=True):
            wait(device)
            start = time.perf_counter()
            call()
            wait(device)
            if round_number > 1:
                kept.append(1000 * (time.perf_counter() - start))
    return [statistics.median(kept) for kept in times]


def wait(device: str) -> None:
    """Let a GPU finish what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def report(
    cases: Sequence[Case],
    options: argparse.Namespace,
    known: Checkpoint,
    prepared: Sequence[Prepared],
) -> None:
    """Print times at each batch, ratios to the first case, and differences from it."""
    columns = []
    for batch in options.batches:
        lightness = torch.stack([prepared[i % len(prepared)].small for i in range(batch)])
        calls = [partial(case.run, lightness) for case in cases]
        columns.append(alternate(calls, options.repeat, options.device))
    finished = [[finished_lab(case, one, known) for one in prepared] for case in cases]
    head = "".join(f" batch {batch}, ms | × |" for batch in options.batches)
    print(f"\n| engine |{head} max \\|Δab\\| | ΔE00, mean | ΔE00, worst picture |")
    print("|---" * (4 + 2 * len(options.batches)) + "|")
    for row, case in enumerate(cases):
        cells = [f"{column[row]:.0f} | {column[0] / column[row]:.2f}" for column in columns]
        print(f"| {case.name} | {' | '.join(cells)} | {compare(finished[row], finished[0])} |")


def finished_lab(
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


def compare(
    found: Sequence[tuple[NDArray[np.float32], NDArray[np.float64]]],
    expected: Sequence[tuple[NDArray[np.float32], NDArray[np.float64]]],
) -> str:
    """Give the cells of the largest |Δab|, the mean ΔE00 and that of the worst picture."""
    from skimage.color import deltaE_ciede2000

    pairs = list(zip(found, expected, strict=True))
    largest = max(float(np.abs(one[0] - other[0]).max()) for one, other in pairs)
    delta_e = [float(deltaE_ciede2000(one[1], other[1]).mean()) for one, other in pairs]
    return f"{largest:.2g} | {statistics.mean(delta_e):.2g} | {max(delta_e):.2g}"


def report_decoding(case: Case, options: argparse.Namespace, prepared: Sequence[Prepared]) -> None:
    """Print what decoding one picture costs, on the device of the logits."""
    logits = case.run(prepared[0].small[None])
    centres = torch.from_numpy(gamut.bins())
    print("\n| decoding of one picture | ms |\n|---|---|")
    for decoding in gamut.DECODINGS:

        def call(decoding: gamut.Decoding = decoding) -> Tensor:
            return gamut.decode(logits, centres, decoding, 0.38)

        (milliseconds,) = alternate([call], options.repeat, options.device)
        print(f"| {decoding} | {milliseconds:.1f} |")


def photographs(folder: Path | None) -> list[NDArray[np.uint8]]:
    """Read at most MOST photographs of a folder, evenly spread, or scikit-image's samples.

    Raises:
        OSError: if there are fewer than two that can be read.
    """
    if folder is None:
        from skimage import data

        found = [getattr(data, name)() for name in SAMPLES]
        return [shrink(one[0] if isinstance(one, tuple) else one) for one in found]
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    pictures = []
    for path in paths[:: max(1, len(paths) // MOST)]:
        try:
            pictures.append(shrink(image.read(path.read_bytes()).pixels))
        except RequestError:
            continue
    if len(pictures) < 2:
        raise OSError(f"{folder} holds fewer than two photographs that can be read")
    return pictures[:MOST]


def shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring the longer side to SIDE at most."""
    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    size = (max(1, round(scale * pixels.shape[1])), max(1, round(scale * pixels.shape[0])))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def device_name(device: str) -> str:
    """Name the GPU, or the CPU with those of its instructions that matter to the result."""
    if device.startswith("cuda"):
        return engine.gpu_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    said = {line.split(":")[0].strip(): line.partition(":")[2].strip() for line in lines}
    flags = said.get("flags", "").split()
    wide = [one for one in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if one in flags]
    return f"{said.get('model name', platform.machine())} ({' '.join(wide)})"


if __name__ == "__main__":
    sys.exit(main())

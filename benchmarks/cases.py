"""Engines that run a network, as they are timed; INT8 and .pt2 are made here.

Export offers INT8 and .pt2 only if they pay, which is for a benchmark to say.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.command import Unusable, say
from colorizer import checkpoint, engine
from colorizer.engine import BadGraph, Engine
from colorizer.unet import UNet

Kind = Literal["eager", "channels-last", "torchscript", "onnx", "pt2", "tensorrt", "recorded"]
Arithmetic = Literal["float32", "float16", "int8"]
TITLES = {"torchscript": "TorchScript", "onnx": "ONNX Runtime", "tensorrt": "TensorRT"}


@dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        name: as the tables have it.
        kind: of engine.
        path: the checkpoint or the graph's file, from which another process can load it.
        run: leaves its result where the engine computes.
        arithmetic: of the convolutions.
    """

    name: str
    kind: Kind
    path: Path
    run: Engine
    arithmetic: Arithmetic = "float32"


def load(kind: Kind, path: Path, device: str = "cpu") -> Engine:
    """Load an engine from a checkpoint (eager, channels-last) or a graph's file."""
    if kind in ("eager", "channels-last"):
        net, _ = checkpoint.load(path)
        if kind == "channels-last":
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return on(device, net.to(device))
    if kind == "pt2":
        return on(device, torch._inductor.aoti_load_package(str(path)))
    if kind == "torchscript":
        return engine.TorchScript(path, device)
    if kind == "onnx":
        return engine.OnnxRuntime(path, device)
    return engine.TensorRT(path, device, cuda_graph=kind == "recorded")


def on(device: str, net: Engine) -> Engine:
    """Run a network on a device."""

    def run(lightness: Tensor) -> Tensor:
        with torch.inference_mode():
            return net(lightness.to(device))

    return run


def collect(
    options: argparse.Namespace, net: UNet, calibration: Sequence[Tensor], work: Path
) -> Iterator[Case]:
    """Load, or make, what is timed; what can't be had here is said and left out.

    Args:
        options: checkpoint, graphs, device, without.
        net: the checkpoint's network.
        calibration: (1, S, S) L each, for INT8.
        work: folder for what is made.

    Raises:
        Unusable: if the graphs are another network's.
    """
    device = options.device
    weights = options.checkpoint
    yield Case("eager torch", "eager", weights, load("eager", weights, device))
    last = load("channels-last", weights, device)
    yield Case("eager torch, channels last", "channels-last", weights, last)
    for name in engine.PREFERRED[torch.device(device).type]:
        if name == "onnx" and device != "cpu":
            say("left out: ONNX Runtime, which runs graphs on the CPU here")
            continue
        try:
            graph, run = engine.load(options.graphs, device, name)
        except BadGraph as error:
            say(f"left out: {error}")
            continue
        if graph.head != net.config.head:
            raise Unusable(
                f"{options.graphs} holds a graph of a {graph.head} network, and {weights} is of "
                f"{net.config.head}: name the graphs that were exported from it"
            )
        path = engine.find(options.graphs)[name] / graph.file
        half = graph.precision == "float16" or (name == "torchscript" and device != "cpu")
        arithmetic: Arithmetic = "float16" if half else "float32"
        yield Case(TITLES[name], name, path, run, arithmetic)
        if name == "tensorrt":
            recorded = load("recorded", path, device)
            yield Case("TensorRT, CUDA graph", "recorded", path, recorded, arithmetic)
        if name == "onnx" and device == "cpu" and "int8" not in options.without:
            say("calibrating INT8")
            small = work / "int8.onnx"
            quantize(path, small, calibration)
            yield Case("ONNX Runtime, INT8", "onnx", small, load("onnx", small), "int8")
    if "pt2" not in options.without:
        say("compiling .pt2")
        package = work / "graph.pt2"
        try:
            compile_pt2(net.to(device), package)
        except Exception as error:  # no compiler on this machine, say: torch has many words for it
            say(f"left out: .pt2: {type(error).__name__}: {str(error).splitlines()[0]:.100}")
        else:
            yield Case(".pt2 (AOTInductor)", "pt2", package, load("pt2", package, device))


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


def compile_pt2(net: UNet, out: Path) -> None:
    """Compile a network ahead of time, for any batch; needs a C++ compiler."""
    device = next(net.parameters()).device
    example = torch.zeros(2, 1, net.config.side, net.config.side, device=device)
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(net, (example,), dynamic_shapes=(batch,))
        torch._inductor.aoti_compile_and_package(program, package_path=str(out))

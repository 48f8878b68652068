"""Load a network into each kind of engine that the benchmarks time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from colorizer import checkpoint, engine
from colorizer.engine import Engine

Kind = Literal["eager", "channels-last", "torchscript", "onnx", "tensorrt", "recorded"]


def load(kind: Kind, path: Path, device: str = "cpu") -> Engine:
    """Load an engine from a checkpoint (eager, channels-last) or a graph's file."""
    if kind == "torchscript":
        return engine.TorchScript(path, device)
    if kind == "onnx":
        return engine.OnnxRuntime(path, device)
    if kind in ("tensorrt", "recorded"):
        return engine.TensorRT(path, device, cuda_graph=kind == "recorded")
    net, _ = checkpoint.load(path)
    net.to(device)
    if kind == "channels-last":
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def run(lightness: Tensor) -> Tensor:
        with torch.inference_mode():
            output: Tensor = net(lightness.to(device))
        return output

    return run

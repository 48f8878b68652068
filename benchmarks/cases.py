"""Load a network into each kind of engine that the benchmarks time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from colorizer import checkpoint, engines
from colorizer.graph import Engine

Kind = Literal["eager", "channels-last", "torchscript", "onnx", "tensorrt"]


def load(kind: Kind, path: Path, device: str = "cpu") -> Engine:
    """Load an engine from a checkpoint (eager, channels-last) or a graph's file."""
    if kind == "torchscript":
        return engines.TorchScript(path.read_bytes(), device)
    if kind == "onnx":
        return engines.OnnxRuntime(path.read_bytes(), torch.get_num_threads())
    if kind == "tensorrt":
        return engines.TensorRT(path.read_bytes(), device)
    net, _ = checkpoint.load(path)
    net.to(device)
    if kind == "channels-last":
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return engines.Eager(net, device)

"""Folded network, float32 or float16 -> ONNX graph."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
import torch

from colorizer.graph import INPUT, OUTPUT
from colorizer.unet import UNet

FILE = "graph.onnx"
OPSET = 18  # what torch's exporter writes by itself; TensorRT reads 9 to 25


def write(folded: UNet, side: int, path: Path) -> None:
    """Export a folded network, check the graph and write it, weights included.

    Batch is dynamic, the side S is not. A float16 network gives a graph that casts L
    after its normalization, and its output back: float16 is in the graph itself.

    Raises:
        onnx.checker.ValidationError: if it is not valid ONNX in every shape and type.
    """
    example = torch.zeros(2, 1, side, side)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the exporter's own use of what torch deprecates
        program = torch.onnx.export(
            folded,
            (example,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=1024)},),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    model = strip(program.model_proto)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def strip(model: onnx.ModelProto) -> onnx.ModelProto:
    """Take out what the exporter notes about its source: paths and lines of this machine."""
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    for tensor in graph.initializer:
        tensor.ClearField("metadata_props")
        tensor.ClearField("doc_string")
    return model

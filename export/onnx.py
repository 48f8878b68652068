"""Folded network, float32 or float16 -> ONNX graph."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import onnx
import torch

from colorizer.graph import INPUT, OUTPUT
from colorizer.unet import UNet
from export.network import Stored

FILE = "graph.onnx"
OPSET = 18  # what torch's exporter writes by itself; TensorRT reads 9 to 25


def write(folded: UNet, side: int, path: Path, stored: Mapping[str, Stored] | None = None) -> None:
    """Export a folded network, check the graph and write it, weights included.

    Batch is dynamic, the side S is not. A float16 network gives a graph that casts L
    after its normalization, and its output back: float16 is in the graph itself.

    Args:
        folded: the network.
        side: S.
        path: the file to write.
        stored: `network.stored` of a float32 network: the file is then half as large, and the
            engine computes the same float32 weights from it as it loads.

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
    store(model, stored or {})
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


def store(model: onnx.ModelProto, stored: Mapping[str, Stored]) -> None:
    """Replace weights by nodes that compute them: float16 weights, cast and multiplied."""
    graph, helper = model.graph, onnx.helper
    for tensor in list(graph.initializer):
        name = tensor.name
        if name not in stored:
            continue
        weights, factor = stored[name]
        tensor.CopyFrom(onnx.numpy_helper.from_array(weights, f"{name}.float16"))
        single = name
        if factor is not None:
            single = f"{name}.float32"
            graph.initializer.append(onnx.numpy_helper.from_array(factor, f"{name}.factor"))
            graph.node.insert(0, helper.make_node("Mul", [single, f"{name}.factor"], [name]))
        cast = helper.make_node("Cast", [tensor.name], [single], to=onnx.TensorProto.FLOAT)
        graph.node.insert(0, cast)

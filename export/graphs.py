"""Checkpoint -> graphs, each in a folder with its manifest, proven equal before it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

import colorizer
from colorizer import checkpoint, engines
from colorizer.checkpoint import Checkpoint
from colorizer.errors import UserError
from colorizer.files import written_whole
from colorizer.graph import Engine, Graph, Name, Precision
from colorizer.unet import UNet
from export import network, onnx, parity, tensorrt, torchscript
from export.parity import TOLERANCE, Reference, Row, UInt8
from export.tensorrt import Build

Say = Callable[[str], None]
HALF_ONNX = "onnx-float16"  # folder of the graph that TensorRT builds its plan from


class NotEqual(UserError):
    """A graph that does not compute what its network computes."""


@dataclass(frozen=True)
class Source:
    """A checkpoint, ready to be exported.

    Attributes:
        name: of its file, without the suffix.
        sha256: of its file.
        header: what stands beside its weights.
        folded: its network, batch norm folded away.
        reference: what its own network makes of the photographs.
    """

    name: str
    sha256: str
    header: Checkpoint
    folded: UNet
    reference: Reference

    @classmethod
    def read(cls, weights: Path, photographs: Sequence[UInt8]) -> Source:
        """Read a checkpoint, and run its network on the photographs.

        Raises:
            BadCheckpoint, FileNotFoundError: if the checkpoint cannot be read.
        """
        net, header = checkpoint.load(weights)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        reference = Reference(net, header.recipe, photographs)
        return cls(weights.stem, digest, header, network.fold(net), reference)


def export(
    source: Source,
    name: Name,
    folder: Path,
    matrix: list[Row],
    how: Build | None = None,
    say: Say = print,
) -> None:
    """Write a graph for an engine into a folder, whole or not at all.

    Args:
        source: the checkpoint.
        name: of the engine. "tensorrt" also writes the float16 ONNX graph that its plan is built
            from, into HALF_ONNX beside the folder; that one is kept where no plan can be built.
        folder: where to; made if needed, replaced if it holds a graph.
        matrix: gets a line for each measurement, also where the export then fails.
        how: settings of a TensorRT build.
        say: takes lines of progress.

    Raises:
        NotEqual: if a graph differs from the network by more than parity.TOLERANCE.
        NotBuilt: if there is no TensorRT, or it refuses.
    """
    if name != "tensorrt":
        _write(source, name, "float32", folder, matrix, say)
        return
    half = folder.with_name(HALF_ONNX)
    _write(source, "onnx", "float16", half, matrix, say)
    tensorrt.check_graph(half / onnx.FILE)
    tensorrt.require()
    _write(source, "tensorrt", "float16", folder, matrix, say, (half / onnx.FILE, how or Build()))


def _write(
    source: Source,
    name: Name,
    precision: Precision,
    folder: Path,
    matrix: list[Row],
    say: Say,
    plan_of: tuple[Path, Build] | None = None,
) -> None:
    """Convert, measure, and keep what is equal."""
    label = f"{source.name}: {name} {precision}"
    recipe = source.header.recipe
    say(f"{label}: converting the {recipe.head} network at side {recipe.side}")
    with written_whole(folder) as beside:
        beside.mkdir()
        file, versions = _convert(source, name, precision, beside, say, plan_of)
        body = (beside / file).read_bytes()
        graph = Graph(
            file=file,
            sha256=hashlib.sha256(body).hexdigest(),
            recipe=recipe,
            versions={
                "colorizer": colorizer.__version__,
                "torch": str(torch.__version__),
                **{package: version(package) for package in versions},
            },
            provenance=source.header.provenance,
            engine=name,
            precision=precision,
            checkpoint=source.sha256,
            tolerance=TOLERANCE[precision],
        )
        device = "cpu"
        if plan_of:
            device, how = "cuda:0", plan_of[1]
            graph = replace(
                graph,
                batches=how.batches,
                gpu=engines.gpu_name(device),
                version_compatible=how.version_compatible,
                hardware=how.hardware,
            )
        rows = _measure(source, engines.start(graph, body, device), graph, label, matrix, say)
        worst = {
            measure: max(getattr(row, measure) for row in rows) for measure in TOLERANCE[precision]
        }
        replace(graph, max_error=worst["max_ab"], measured=worst).write(beside)


def _convert(
    source: Source,
    name: Name,
    precision: Precision,
    folder: Path,
    say: Say,
    plan_of: tuple[Path, Build] | None,
) -> tuple[str, tuple[str, ...]]:
    """Write a graph's file; returns its name, and the packages whose versions it depends on."""
    side = source.header.recipe.side
    if plan_of is not None:
        plan = tensorrt.build(plan_of[0].read_bytes(), side, plan_of[1], say)
        (folder / tensorrt.FILE).write_bytes(plan)
        return tensorrt.FILE, ("tensorrt",)
    if name == "torchscript":
        torchscript.write(source.folded, side, folder / torchscript.FILE)
        return torchscript.FILE, ()
    folded = source.folded
    if precision == "float16":
        largest = network.largest_activation(folded, source.reference.lightness)
        say(f"{source.name}: largest activation {largest:.0f} of {network.FLOAT16_MAX:.0f}")
        folded = network.half(folded)
    onnx.write(folded, side, folder / onnx.FILE)
    return onnx.FILE, ("onnx", "onnxscript", "onnxruntime")


def _measure(
    source: Source, run: Engine, graph: Graph, label: str, matrix: list[Row], say: Say
) -> list[Row]:
    """Compare a graph with the network; `matrix` gets the rows even where they are refused.

    Raises:
        NotEqual: if one is over the tolerance.
    """
    rows = [
        source.reference.measure(run, source.name, graph.engine, graph.precision, batch)
        for batch in parity.BATCHES
    ]
    matrix += rows
    for row in rows:
        say(
            f"{label}, batch {row.batch}: max |Δab| {row.max_ab:.2g}, mean {row.mean_ab:.2g}, "
            f"ΔE00 {row.delta_e:.2g}"
        )
        if row.over():
            raise NotEqual(f"the {graph.engine} graph of {source.name} {row.over()}: not written")
    return rows

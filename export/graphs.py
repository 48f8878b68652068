"""Checkpoint -> graphs, each in a folder with its manifest, proven equal before it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import torch

import colorizer
from colorizer import checkpoint, engines, rtx
from colorizer.checkpoint import Checkpoint
from colorizer.errors import UserError
from colorizer.files import written_whole
from colorizer.graph import MANIFEST, Engine, Graph, Name, Plan, Precision, read_graph
from colorizer.unet import UNet
from export import int8, network, onnx, parity, tensorrt, torchscript
from export.network import Stored
from export.parity import TOLERANCE, Reference, Row, UInt8
from export.tensorrt import Build

Say = Callable[[str], None]
PRECISION: dict[Name, Precision] = {  # where it is not float32
    **{"tensorrt": "float16", "tensorrt-rtx": "float16", "onnx-int8": "int8"}
}
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
        stored: the weights of `folded` as float32 graphs store them.
        reference: what its own network makes of the photographs.
    """

    name: str
    sha256: str
    header: Checkpoint
    folded: UNet
    stored: dict[str, Stored]
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
        folded, stored = network.fold(net), network.stored(net)
        return cls(weights.stem, digest, header, folded, stored, reference)


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
            "onnx-int8" shares the weights of the float32 graph in the folder "onnx" beside its
            own, which is also written unless it is there.
            "tensorrt-rtx" writes that graph, or with `how.gpus` the plans compiled from it.
        folder: where to; made if needed, replaced if it holds a graph.
        matrix: gets a line for each measurement, also where the export then fails.
        how: settings of a build by TensorRT or TensorRT for RTX.
        say: takes lines of progress.

    Raises:
        NotEqual: if a graph differs from the network by more than parity.TOLERANCE.
        NotBuilt: if TensorRT, or with `how.gpus` TensorRT for RTX, is missing; if it refuses.
    """
    how = how or Build()
    if name == "tensorrt":
        half = folder.with_name(HALF_ONNX)
        _write(source, "onnx", "float16", half, matrix, how, say)
        tensorrt.check_graph((half / onnx.FILE).read_bytes(), say)
        tensorrt.require()
    if name == "onnx-int8" and not _is_of(source, folder.with_name("onnx")):
        _write(source, "onnx", "float32", folder.with_name("onnx"), matrix, how, say)
    _write(source, name, PRECISION.get(name, "float32"), folder, matrix, how, say)


def _is_of(source: Source, folder: Path) -> bool:
    """Whether a folder holds a graph of this very checkpoint."""
    return (folder / MANIFEST).exists() and read_graph(folder).checkpoint == source.sha256


def _write(
    source: Source,
    name: Name,
    precision: Precision,
    folder: Path,
    matrix: list[Row],
    how: Build,
    say: Say,
) -> None:
    """Convert, measure, and keep what is equal."""
    label = f"{source.name}: {name} {precision}"
    recipe = source.header.recipe
    say(f"{label}: converting the {recipe.head} network at side {recipe.side}")
    with written_whole(folder) as beside:
        beside.mkdir()
        origin = folder.with_name(HALF_ONNX if name == "tensorrt" else "onnx") / onnx.FILE
        file, versions = _convert(source, name, precision, beside, say, origin, how)
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
        weights = origin.read_bytes() if name == "onnx-int8" else None
        if weights is not None:
            graph = replace(graph, weights=hashlib.sha256(weights).hexdigest())
        device = "cpu"
        if name == "tensorrt":
            device = "cuda:0"
            graph = replace(
                graph,
                batches=how.batches,
                gpu=rtx.gpu_name(device),
                version_compatible=how.version_compatible,
                hardware=how.hardware,
            )
        # The graph of tensorrt-rtx is measured where it can be run here: by ONNX Runtime.
        measured = replace(graph, engine="onnx") if name == "tensorrt-rtx" else graph
        run = engines.start(measured, body, device, weights=weights)
        rows = _measure(source, run, measured, label, matrix, say)
        worst = {
            measure: max(getattr(row, measure) for row in rows) for measure in TOLERANCE[precision]
        }
        if name == "tensorrt-rtx":
            graph = _compile(graph, beside, body, how, say)
        replace(graph, max_error=worst["max_ab"], measured=worst).write(beside)


def _convert(
    source: Source,
    name: Name,
    precision: Precision,
    folder: Path,
    say: Say,
    origin: Path,
    how: Build,
) -> tuple[str, tuple[str, ...]]:
    """Write a graph's file; returns its name, and the packages whose versions it depends on.

    A plan is built from the float16 graph at `origin`; an int8 graph shares the weights there.
    """
    side = source.header.recipe.side
    if name == "tensorrt":
        plan = tensorrt.build(origin.read_bytes(), side, how, say)
        (folder / tensorrt.FILE).write_bytes(plan)
        return tensorrt.FILE, ("tensorrt",)
    if name == "torchscript":
        torchscript.write(source.folded, side, folder / torchscript.FILE)
        return torchscript.FILE, ()
    folded, stored = source.folded, source.stored
    if precision == "float16":
        largest = network.largest_activation(folded, source.reference.lightness)
        say(f"{source.name}: largest activation {largest:.0f} of {network.FLOAT16_MAX:.0f}")
        folded, stored = network.half(folded), {}
    if precision == "int8":
        say(f"{source.name}: calibrating on {len(source.reference.lightness)} photographs")
        onnx.write(folded, side, folder / onnx.FILE)
        int8.quantize(folder / onnx.FILE, source.reference.lightness, stored, origin.read_bytes())
        return onnx.FILE, ("onnx", "onnxscript", "onnxruntime")
    onnx.write(folded, side, folder / onnx.FILE, stored)
    return onnx.FILE, ("onnx", "onnxscript", "onnxruntime")


def _compile(graph: Graph, folder: Path, body: bytes, how: Build, say: Say) -> Graph:
    """Replace an ONNX graph by TensorRT for RTX's plans for the GPUs that were asked for, if any.

    Turing has a plan of its own: within one, it would cost the others their fused layers.
    """
    graph = replace(graph, batches=how.batches)
    if not how.gpus:
        tensorrt.check_graph(body, say)
        return graph
    plans = []
    turing = tuple(gpu for gpu in how.gpus if gpu == "SM75")
    for gpus in (turing, tuple(gpu for gpu in how.gpus if gpu not in turing)):
        if gpus:
            file = "-".join(gpus).lower() + ".plan"
            plan = rtx.build(body, graph.recipe.side, gpus, how.batches)
            (folder / file).write_bytes(plan)
            plans.append(Plan(file, hashlib.sha256(plan).hexdigest(), gpus))
            say(f"compiled {file}, {len(plan) / 1e6:.1f} MB")
    (folder / graph.file).unlink()
    return replace(
        graph,
        file=plans[0].file,
        sha256=plans[0].sha256,
        plans=tuple(plans),
        versions={**graph.versions, "tensorrt-rtx": rtx.bindings().__version__},
    )


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

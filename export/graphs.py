"""Checkpoint -> graphs, each in a folder with its manifest, proven equal before it is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

import colorizer
from colorizer import checkpoint, engine, gamut
from colorizer.checkpoint import Checkpoint
from colorizer.engine import Engine, Graph, Name, Precision
from colorizer.files import written_whole
from colorizer.unet import UNet
from export import network, onnx, parity, tensorrt, torchscript
from export.parity import TOLERANCE, Reference, Row, UInt8
from export.tensorrt import Build

Say = Callable[[str], None]
HALF_ONNX = "onnx-float16"  # folder of the graph that TensorRT builds its plan from


class NotEqual(Exception):
    """A graph that does not compute what its network computes."""


@dataclass(frozen=True)
class Source:
    """A checkpoint, ready to be exported.

    Attributes:
        name: of its file, without the suffix.
        sha256: of its file.
        known: what stands beside its weights.
        folded: its network, batch norm folded away.
        reference: what its own network makes of the photographs.
    """

    name: str
    sha256: str
    known: Checkpoint
    folded: UNet
    reference: Reference

    @classmethod
    def read(cls, weights: Path, photographs: Sequence[UInt8]) -> Source:
        """Read a checkpoint, and run its network on the photographs.

        Raises:
            BadCheckpoint, FileNotFoundError: if the checkpoint cannot be read.
        """
        net, known = checkpoint.load(weights)
        digest = hashlib.sha256(weights.read_bytes()).hexdigest()
        reference = Reference(net, known, photographs)
        return cls(weights.stem, digest, known, network.fold(net), reference)


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
    side, head = source.folded.config.side, source.folded.config.head
    label = f"{source.name}: {name} {precision}"
    say(f"{label}: converting the {head} network at side {side}")
    device = "cpu"
    versions = {"colorizer": colorizer.__version__, "torch": str(torch.__version__)}
    with written_whole(folder) as beside:
        beside.mkdir()
        run: Engine
        if name == "torchscript":
            file = torchscript.FILE
            torchscript.write(source.folded, beside / file)
            run = engine.TorchScript(beside / file)
        elif name == "onnx":
            file = onnx.FILE
            largest = network.largest_activation(source.folded, source.reference.lightness)
            if precision == "float16":
                say(f"{label}: largest activation {largest:.0f} of {network.FLOAT16_MAX:.0f}")
            folded = source.folded if precision == "float32" else network.half(source.folded)
            onnx.write(folded, beside / file)
            run = engine.OnnxRuntime(beside / file)
            versions |= {one: version(one) for one in ("onnx", "onnxscript", "onnxruntime")}
        else:
            assert plan_of is not None
            file, device = tensorrt.FILE, "cuda:0"
            plan = tensorrt.build(plan_of[0].read_bytes(), side, plan_of[1], say)
            (beside / file).write_bytes(plan)
            run = engine.TensorRT(beside / file, device)
            versions |= {"tensorrt": version("tensorrt")}
        rows = [
            source.reference.measure(run, source.name, name, precision, batch)
            for batch in parity.BATCHES
        ]
        matrix += rows
        for row in rows:
            say(
                f"{label}, batch {row.batch}: max |Δab| {row.max_ab:.2g}, mean {row.mean_ab:.2g}, "
                f"ΔE00 {row.delta_e:.2g}"
            )
            if row.over():
                raise NotEqual(f"the {name} graph of {source.name} {row.over()}: not written")
        known = source.known
        how = plan_of[1] if plan_of else None
        Graph(
            file=file,
            sha256=hashlib.sha256((beside / file).read_bytes()).hexdigest(),
            head=head,
            side=side,
            bins=_centres(head),
            decoding=known.decoding,
            temperature=known.temperature,
            chroma_gain=known.chroma_gain,
            max_error=max(row.max_ab for row in rows),
            versions=versions,
            provenance=known.provenance,
            engine=name,
            precision=precision,
            checkpoint=source.sha256,
            tolerance=TOLERANCE[precision],
            measured={
                measure: max(getattr(row, measure) for row in rows)
                for measure in TOLERANCE[precision]
            },
            batches=how.batches if how else (),
            gpu=engine.gpu_name(device) if how else "",
            version_compatible=bool(how and how.version_compatible),
            hardware=how.hardware if how else "none",
        ).write(beside)


def _centres(head: str) -> tuple[tuple[float, float], ...]:
    if head == "regression":
        return ()
    return tuple((float(a), float(b)) for a, b in gamut.bins())

"""Checkpoint -> graphs, each in a folder with its manifest, written only if they are equal."""

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
# Of an archive, a repository and a wheel, unless others are named: the second is the fastest where
# processors multiply bytes, and shares the weights of the first.
ENGINES: tuple[Name, ...] = ("onnx", "onnx-int8")
HALF_ONNX = "onnx-float16"  # folder of the graph that TensorRT builds its plan from


class NotEqual(UserError):
    """A graph that does not compute what its network computes."""


@dataclass(frozen=True)
class Source:
    """A checkpoint, ready to be exported.

    Attributes:
        name: of its file, without the suffix.
        sha256: of its file.
        header: its recipe and provenance.
        folded: its network, batch norm folded away.
        stored: the weights of `folded` as float32 graphs store them.
        reference: its own network's results on the photographs.
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
        net, header = checkpoint.load(weights, alike=True)
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
    """Write a graph for an engine into a folder, atomically.

    Args:
        source: the checkpoint.
        name: of the engine. "tensorrt" also writes the float16 ONNX graph that its plan is built
            from, into HALF_ONNX beside the folder; that one is kept where no plan can be built.
            "onnx-int8" shares the weights of the float32 graph in the folder "onnx" beside its
            own, which is also written unless it is there.
            "tensorrt-rtx" writes that graph, or with `how.gpus` the plans compiled from it.
        folder: to write; replaced if it exists.
        matrix: each measurement is appended to it, also if the export then fails.
        how: settings of a build by TensorRT or TensorRT for RTX.
        say: takes lines of progress.

    Raises:
        NotEqual: if a graph differs from the network by more than parity.TOLERANCE.
        NotBuilt: if TensorRT, or with `how.gpus` TensorRT for RTX, is missing; if it refuses.
    """

    def write(name: Name, precision: Precision, folder: Path, origin: bytes = b"") -> bytes:
        """Write one graph; returns its file."""
        job = _Job(source, name, precision, matrix, how or Build(), say, origin)
        with written_whole(folder) as beside:
            beside.mkdir()
            return job.write(beside)

    origin = b""
    if name == "tensorrt":
        origin = write("onnx", "float16", folder.with_name(HALF_ONNX))
        tensorrt.check_graph(origin, say)
        tensorrt.require()
    if name == "onnx-int8":
        shared = folder.with_name("onnx")
        if (shared / MANIFEST).exists() and read_graph(shared).checkpoint == source.sha256:
            origin = (shared / onnx.FILE).read_bytes()
        else:
            origin = write("onnx", "float32", shared)
    write(name, PRECISION.get(name, "float32"), folder, origin)


@dataclass(frozen=True)
class _Job:
    """One graph to write, as the arguments of `export` say.

    Attributes:
        origin: the float16 ONNX graph that a plan is built from, or the float32 one whose weights
            an int8 graph shares.
    """

    source: Source
    name: Name
    precision: Precision
    matrix: list[Row]
    how: Build
    say: Say
    origin: bytes

    def write(self, folder: Path) -> bytes:
        """Convert, measure, and write what is equal; returns the graph's file."""
        source, recipe = self.source, self.source.header.recipe
        self._tell(f"converting the {recipe.head} network at side {recipe.side}")
        file, packages = self._convert(folder)
        body = (folder / file).read_bytes()
        versions = {"colorizer": colorizer.__version__, "torch": str(torch.__version__)}
        graph = Graph(
            file=file,
            sha256=hashlib.sha256(body).hexdigest(),
            recipe=recipe,
            versions={**versions, **{package: version(package) for package in packages}},
            provenance=source.header.provenance,
            engine=self.name,
            precision=self.precision,
            checkpoint=source.sha256,
            tolerance=TOLERANCE[self.precision],
        )
        device, weights = "cpu", None
        if self.name == "onnx-int8":
            weights = self.origin
            graph = replace(graph, weights=hashlib.sha256(weights).hexdigest())
        if self.name == "tensorrt":
            device = "cuda:0"
            graph = replace(
                graph,
                batches=self.how.batches,
                gpu=rtx.gpu_name(device),
                version_compatible=self.how.version_compatible,
                hardware=self.how.hardware,
            )
        # The graph of tensorrt-rtx is measured where it can be run here: by ONNX Runtime.
        measured = replace(graph, engine="onnx") if self.name == "tensorrt-rtx" else graph
        worst = self._measure(engines.start(measured, body, device, weights=weights), measured)
        if self.name == "tensorrt-rtx":
            graph = self._compile(graph, folder, body)
        replace(graph, max_error=worst["max_ab"], measured=worst).write(folder)
        return body

    def _tell(self, text: str) -> None:
        self.say(f"{self.source.name}: {self.name} {self.precision}: {text}")

    def _convert(self, folder: Path) -> tuple[str, tuple[str, ...]]:
        """Write a graph's file; returns its name, and the packages whose versions it depends on."""
        source, side = self.source, self.source.header.recipe.side
        if self.name == "tensorrt":
            plan = tensorrt.build(self.origin, side, self.how, self.say)
            (folder / tensorrt.FILE).write_bytes(plan)
            return tensorrt.FILE, ("tensorrt",)
        if self.name == "torchscript":
            torchscript.write(source.folded, side, folder / torchscript.FILE)
            return torchscript.FILE, ()
        path, lightness = folder / onnx.FILE, source.reference.lightness
        if self.precision == "float16":
            largest = network.largest_activation(source.folded, lightness)
            self._tell(f"largest activation {largest:.0f} of {network.FLOAT16_MAX:.0f}")
            onnx.write(network.half(source.folded), side, path)
        elif self.precision == "int8":
            self._tell(f"calibrating on {len(lightness)} photographs")
            onnx.write(source.folded, side, path)
            int8.quantize(path, lightness, source.stored, self.origin)
        else:
            onnx.write(source.folded, side, path, source.stored)
        return onnx.FILE, ("onnx", "onnxscript", "onnxruntime")

    def _compile(self, graph: Graph, folder: Path, body: bytes) -> Graph:
        """Replace an ONNX graph by TensorRT for RTX's plans for the GPUs that were named, if any.

        Turing has a plan of its own: within one, it would cost the others their fused layers.
        """
        graph = replace(graph, batches=self.how.batches)
        if not self.how.gpus:
            tensorrt.check_graph(body, self.say)
            return graph
        plans = []
        turing = tuple(gpu for gpu in self.how.gpus if gpu == "SM75")
        for gpus in (turing, tuple(gpu for gpu in self.how.gpus if gpu not in turing)):
            if gpus:
                file = "-".join(gpus).lower() + ".plan"
                plan = rtx.build(body, graph.recipe.side, gpus, self.how.batches)
                (folder / file).write_bytes(plan)
                plans.append(Plan(file, hashlib.sha256(plan).hexdigest(), gpus))
                self._tell(f"compiled {file}, {len(plan) / 1e6:.1f} MB")
        (folder / graph.file).unlink()
        return replace(
            graph,
            file=plans[0].file,
            sha256=plans[0].sha256,
            plans=tuple(plans),
            versions={**graph.versions, "tensorrt-rtx": rtx.bindings().__version__},
        )

    def _measure(self, run: Engine, graph: Graph) -> dict[str, float]:
        """Compare a graph with the network; returns the largest differences over all batches.

        Raises:
            NotEqual: if one is over the tolerance; `matrix` has the rows all the same.
        """
        reference = self.source.reference
        rows = [
            reference.measure(run, self.source.name, graph.engine, graph.precision, batch)
            for batch in parity.BATCHES
        ]
        self.matrix.extend(rows)
        for row in rows:
            self._tell(
                f"batch {row.batch}: max |Δab| {row.max_ab:.2g}, mean {row.mean_ab:.2g}, "
                f"ΔE00 {row.delta_e:.2g}"
            )
            if row.over():
                raise NotEqual(
                    f"the {graph.engine} graph of {self.source.name} {row.over()}: not written"
                )
        return {key: max(getattr(row, key) for row in rows) for key in TOLERANCE[self.precision]}

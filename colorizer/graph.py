"""An exported graph: a file beside `graph.json`, its manifest, in a folder or in an archive.

A place is a `pathlib.Path`, or a `zipfile.Path` inside an archive: both are read alike, so an
archive needs no unpacking.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from colorizer.errors import UserError
from colorizer.recipe import NAMES as NAMES
from colorizer.recipe import Name as Name
from colorizer.recipe import Recipe

MANIFEST = "graph.json"
FORMAT = 1  # of the manifest; raised when an older reader could misread one
INPUT, OUTPUT = "lightness", "output"  # names of a graph's two tensors, where it has names
WEIGHTS = "weights"  # what an ONNX graph calls the file that has its weights

# L (B, 1, S, S) float32, 0..100 -> (B, C, S, S) float32: 2 of ab, or Q logits; then any number of
# channels that tell what is alike
Engine = Callable[[NDArray[np.float32]], NDArray[np.float32]]
Place = Path | zipfile.Path
Precision = Literal["float32", "float16", "int8"]
# Which other GPUs a plan runs on: none, all from Ampere on, or those of its compute capability.
Hardware = Literal["none", "ampere-plus", "same-compute-capability"]

REBUILD = (
    "export it again: python -m export CHECKPOINT --to {engine} --out DIR, or, for an archive, "
    "python -m export.archive CHECKPOINT --out ARCHIVE --engine {engine}"
)


class BadGraph(UserError):
    """A graph that is missing, altered, or of another version; the message says how to rebuild."""


@dataclass(frozen=True)
class Plan:
    """A plan of TensorRT for RTX, beside the manifest.

    Attributes:
        file: its name.
        sha256: of that file.
        gpus: compute capabilities that it runs on, as SM89.
    """

    file: str
    sha256: str
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class Graph:
    """The manifest of a graph, as export wrote it.

    Attributes:
        file: name of the graph's file, beside the manifest.
        sha256: of that file.
        recipe: how the network is used.
        max_error: largest |difference| in ab units from the eager network, measured at export.
        versions: of what made it.
        provenance: the checkpoint's.
        engine: what runs it.
        precision: of its convolutions; all graphs take and give float32.
        checkpoint: SHA-256 of the checkpoint's file.
        tolerance: the limits of export's check, by the name of the measure.
        measured: the same measures, as they were found.
        batches: smallest, best and largest batch of a plan; empty: any, or the engine's default.
        gpu: that a plan was built on, its name and compute capability; empty: any device.
        version_compatible: whether a plan also runs in newer releases of its TensorRT's major.
        hardware: which other GPUs a plan runs on.
        weights: SHA-256 of the graph in the folder "onnx" beside its own, whose weights it uses;
            empty: it has weights itself.
        plans: of TensorRT for RTX, of which `file` is the first; empty: `file` is a graph,
            compiled on its first load.
    """

    file: str
    sha256: str
    recipe: Recipe
    max_error: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, object] = field(default_factory=dict)
    engine: Name = "torchscript"
    precision: Precision = "float32"
    checkpoint: str = ""
    tolerance: dict[str, float] | None = None
    measured: dict[str, float] | None = None
    batches: tuple[int, ...] = ()
    gpu: str = ""
    version_compatible: bool = False
    hardware: Hardware = "none"
    plans: tuple[Plan, ...] = ()
    weights: str = ""

    def write(self, folder: Path) -> None:
        """Write the manifest."""
        values = {"format": FORMAT, **asdict(self)}
        (folder / MANIFEST).write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")


def open_place(model: Path | bytes) -> Place:
    """Find where a model's graphs lie: in a folder, or in an archive's file or bytes.

    Raises:
        BadGraph: if there is nothing at that path, or it is no archive.
    """
    if isinstance(model, Path):
        if model.is_dir():
            return model
        if not model.is_file():
            raise BadGraph(
                f"there is no model at {model}; name a network (regression or classification), "
                "an archive (.mar), the folder of a graph, or a checkpoint (.safetensors)"
            )
        if model.suffix == ".safetensors":
            raise BadGraph(
                f"{model} is a checkpoint; to use it here, export it: "
                f"python -m export {model} --out GRAPH"
            )
    name = "the model" if isinstance(model, bytes) else str(model)
    try:
        archive = zipfile.ZipFile(io.BytesIO(model) if isinstance(model, bytes) else model)
        archive.filename = name  # for messages; bytes have none
        return zipfile.Path(archive)
    except (OSError, zipfile.BadZipFile) as error:
        raise BadGraph(
            f"{name} is not an archive that can be read ({error}); build it again: "
            "python -m export.archive CHECKPOINT --out MODEL.mar"
        ) from None


def find(place: Place) -> dict[Name, Place]:
    """Find the graphs of a place: its own, or those in folders named after engines.

    Raises:
        BadGraph: if there is none.
    """
    if (place / MANIFEST).exists():
        return {read_graph(place).engine: place}
    found: dict[Name, Place] = {
        name: place / name for name in NAMES if (place / name / MANIFEST).exists()
    }
    if not found:
        rebuild = REBUILD.format(engine="onnx")
        raise BadGraph(f"{place} holds no graph ({MANIFEST} is missing); {rebuild}")
    return found


def read_graph(place: Place) -> Graph:
    """Read a manifest.

    Raises:
        BadGraph: if it is missing, of another format, or not understood.
    """
    rebuild = REBUILD.format(engine="onnx")
    try:
        values = json.loads((place / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("the manifest is not a JSON object")
        number = values.pop("format", 0)
        if number != FORMAT:
            raise ValueError(f"the manifest has format {number}, and this version reads {FORMAT}")
        graph = Graph(**{**values, **_typed(values)})
        if graph.engine not in NAMES:
            raise ValueError(f"its engine is {graph.engine!r:.40}; known are {', '.join(NAMES)}")
        if not isinstance(graph.file, str):
            raise ValueError("it names no file")
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise BadGraph(f"{place} holds no graph that can be read ({error}); {rebuild}") from None
    return graph


def _typed(values: dict[str, Any]) -> dict[str, Any]:
    """The values that JSON has no types for."""
    recipe = dict(values["recipe"])
    recipe["bins"] = tuple(tuple(centre) for centre in recipe["bins"])
    plans = [Plan(**{**one, "gpus": tuple(one["gpus"])}) for one in values.get("plans", ())]
    return {
        "recipe": Recipe(**recipe),
        "batches": tuple(values.get("batches", ())),
        "plans": tuple(plans),
    }


def read_file(place: Place, graph: Graph) -> bytes:
    """Read a graph's file and verify its SHA-256.

    Raises:
        BadGraph: if it is missing or altered.
    """
    return _read(place / graph.file, graph.sha256, graph.engine)


def read_weights(place: Place, graph: Graph) -> bytes | None:
    """Read the file beside a graph that has its weights, if it has none itself.

    Raises:
        BadGraph: if it is missing, altered, or another graph's.
    """
    if not graph.weights:
        return None
    beside: Any = place.parent  # of the same kind, which zipfile's types don't say
    return _read(beside / "onnx" / graph.file, graph.weights, graph.engine)


def _read(path: Place, sha256: str, engine: Name) -> bytes:
    rebuild = REBUILD.format(engine=engine)
    try:
        body = path.read_bytes()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise BadGraph(f"{path} is missing ({error}); {rebuild}") from None
    if hashlib.sha256(body).hexdigest() != sha256:
        raise BadGraph(f"{path} was altered after its export; install it again, or {rebuild}")
    return body

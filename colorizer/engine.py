"""Run an exported graph: a folder with `graph.json` and the file that it names.

Three engines run graphs, each behind the same call: L (B, 1, S, S) float32 0..100 in, the head's
output out, on the engine's device. `load` picks the one that this machine has.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from colorizer.gamut import DECODINGS, Decoding
from colorizer.unet import Head

log = logging.getLogger(__name__)

MANIFEST = "graph.json"
INPUT, OUTPUT = "lightness", "output"  # names of a graph's two tensors, where it has names

# L (B, 1, S, S) float32 0..100 -> (B, 2, S, S) ab, or (B, Q, S, S) logits
Engine = Callable[[Tensor], Tensor]
Name = Literal["torchscript", "onnx", "tensorrt"]
NAMES: tuple[Name, ...] = get_args(Name)
Precision = Literal["float32", "float16"]
# Whether a plan also runs on other GPUs: on none, on all from Ampere on, on those of its own
# compute capability.
Hardware = Literal["none", "ampere-plus", "same-compute-capability"]

# The package that runs a graph.
PACKAGES: dict[Name, str] = {
    "torchscript": "torch",
    "onnx": "onnxruntime",
    "tensorrt": "tensorrt",
}
# What `auto` tries, in turn. Measured on the CPU by `python -m benchmarks.engines`.
PREFERRED: dict[str, tuple[Name, ...]] = {
    "cpu": ("onnx", "torchscript"),
    "cuda": ("tensorrt", "torchscript", "onnx"),
}

REBUILD = (
    "export it again: python -m export CHECKPOINT --to {engine} --out DIR, or, for an archive, "
    "python -m export.archive CHECKPOINT --out ARCHIVE --engine {engine}"
)


class BadGraph(Exception):
    """A graph that is missing, altered, or of another version; the message says how to rebuild."""


@dataclass(frozen=True)
class Graph:
    """What a graph is, as export wrote it; nothing about it is typed twice.

    Attributes:
        file: name of the graph's file, beside the manifest.
        sha256: of that file.
        head: "regression" or "classification".
        side: S.
        bins: (Q, 2) centres in ab units; empty for regression.
        decoding: default decoding of a classification head.
        temperature: default temperature.
        chroma_gain: factor on ab when a picture is finished.
        max_error: largest |difference| in ab units against the eager network, measured at export.
        versions: of what made it.
        provenance: the checkpoint's.
        engine: what runs it.
        precision: of its convolutions; "float16" graphs still take and give float32.
        checkpoint: sha256 of the checkpoint's file.
        tolerance: limits that it was held to, by the name of the measure.
        measured: the same measures, as they were found.
        batches: smallest, best and largest batch of a TensorRT plan; empty: any.
        gpu: that a plan was built on, its name and compute capability; empty: any device.
        version_compatible: whether a plan also runs in newer releases of its TensorRT's major.
        hardware: on which other GPUs a plan runs.
    """

    file: str
    sha256: str
    head: Head
    side: int
    bins: tuple[tuple[float, float], ...]
    decoding: Decoding
    temperature: float
    chroma_gain: float
    max_error: float
    versions: dict[str, str]
    provenance: dict[str, object]
    engine: Name = "torchscript"
    precision: Precision = "float32"
    checkpoint: str = ""
    tolerance: dict[str, float] | None = None
    measured: dict[str, float] | None = None
    batches: tuple[int, ...] = ()
    gpu: str = ""
    version_compatible: bool = False
    hardware: Hardware = "none"

    def write(self, folder: Path) -> None:
        """Write the manifest."""
        (folder / MANIFEST).write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n")


def read_graph(folder: Path) -> Graph:
    """Read a manifest, and hold the graph's file against it.

    Raises:
        BadGraph: if either is missing, altered, or not understood.
    """
    rebuild = REBUILD.format(engine="onnx")
    try:
        values = json.loads((folder / MANIFEST).read_text())
        values["bins"] = tuple(tuple(centre) for centre in values["bins"])
        values["batches"] = tuple(values.get("batches", ()))
        graph = Graph(**values)
        digest = hashlib.sha256((folder / graph.file).read_bytes()).hexdigest()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadGraph(f"{folder} holds no graph that can be read ({error}); {rebuild}") from None
    if graph.engine not in NAMES:
        raise BadGraph(f"{folder} is for engine {graph.engine!r:.40}, unknown here; {rebuild}")
    rebuild = REBUILD.format(engine=graph.engine)
    if digest != graph.sha256:
        raise BadGraph(f"{folder / graph.file} was altered after its export; {rebuild}")
    if graph.decoding not in DECODINGS:
        raise BadGraph(f"{folder} asks for decoding {graph.decoding!r}, unknown here; {rebuild}")
    return graph


def find(folder: Path) -> dict[Name, Path]:
    """Find the graphs of a folder: itself, or its subfolders that are named after engines.

    Raises:
        BadGraph: if there is none.
    """
    if (folder / MANIFEST).exists():
        return {read_graph(folder).engine: folder}
    found = {name: folder / name for name in NAMES if (folder / name / MANIFEST).exists()}
    if not found:
        rebuild = REBUILD.format(engine="onnx")
        raise BadGraph(f"{folder} holds no graph ({MANIFEST} is missing); {rebuild}")
    return found


def load(
    folder: Path, device: str = "cpu", name: Name | Literal["auto"] = "auto"
) -> tuple[Graph, Engine]:
    """Load a graph into an engine; the log says which, and why.

    Args:
        folder: holds a graph, or graphs in subfolders named after their engines.
        device: "cpu" or "cuda:N".
        name: of the engine. "auto": the first of PREFERRED that has a graph there and can run it.

    Raises:
        BadGraph: if there is no graph, it was altered, or does not fit this machine.
    """
    found = find(folder)
    kind = torch.device(device).type
    wanted = PREFERRED[kind] if name == "auto" else (name,)
    reasons = []
    for engine in wanted:
        if engine not in found:
            reasons.append(f"{engine}: {folder} has no graph for it")
            continue
        graph = read_graph(found[engine])
        reason = misfit(graph, device)
        if reason:
            reasons.append(f"{engine}: {reason}")
            continue
        why = "; ".join(reasons) if reasons else "preferred" if name == "auto" else "asked for"
        log.info("engine %s on %s (%s)", engine, device, why)
        return graph, _ENGINES[engine](found[engine] / graph.file, device)
    others = ", ".join(sorted(set(found) - set(wanted)))
    reasons += [f"{folder} has graphs for {others}"] if others else []
    raise BadGraph(f"no graph runs on {device}: {'; '.join(reasons)}")


def misfit(graph: Graph, device: str) -> str:
    """Say why a graph can't run here and what to do; empty if it can."""
    rebuild = REBUILD.format(engine=graph.engine)
    package = PACKAGES[graph.engine]
    if not installed(package):
        return f"{package} is not installed: pip install {package}"
    if graph.engine != "tensorrt":
        return ""
    if torch.device(device).type != "cuda":
        return "TensorRT needs an NVIDIA GPU"
    built, here = graph.versions.get("tensorrt", "unknown"), importlib.metadata.version(package)
    if built != here and not (graph.version_compatible and _follows(here, built)):
        return f"the plan is of TensorRT {built}, and {here} is installed; {rebuild}"
    gpu = gpu_name(device)
    if not _runs_on(graph, gpu):
        return f"the plan was built on {graph.gpu}, and this is {gpu}; {rebuild}"
    return ""


def installed(package: str) -> bool:
    """Whether a package is there to import; it is not imported."""
    return importlib.util.find_spec(package) is not None


def gpu_name(device: str) -> str:
    """Name a GPU and its compute capability, as manifests of plans have it."""
    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, compute {properties.major}.{properties.minor}"


def _follows(here: str, built: str) -> bool:
    """Whether a release has the same major version as another, and is not older."""
    numbers = [[int(part) for part in text.split(".") if part.isdigit()] for text in (here, built)]
    return numbers[0][:1] == numbers[1][:1] and numbers[0] >= numbers[1]


def _runs_on(graph: Graph, gpu: str) -> bool:
    built, here = (name.rpartition("compute ")[2] for name in (graph.gpu, gpu))
    if graph.hardware == "same-compute-capability":
        return built == here
    if graph.hardware == "ampere-plus":
        return int(here.split(".")[0]) >= 8
    return graph.gpu == gpu


class TorchScript:
    """A TorchScript graph on one device; on CUDA with float16 weights that lie channels last.

    Args:
        path: the graph's file.
        device: "cpu" or "cuda:N".
        half: whether to compute in float16; left out: on CUDA only.
    """

    def __init__(self, path: Path, device: str = "cpu", half: bool | None = None) -> None:
        self.device = torch.device(device)
        module = torch.jit.load(path, map_location=self.device).eval()
        if self.device.type == "cuda" if half is None else half:
            module = module.half()  # L and output stay float32: the graph casts after its weights
        module = module.to(memory_format=torch.channels_last)
        self._module = torch.jit.freeze(module)

    def __call__(self, lightness: Tensor) -> Tensor:
        """(B, 1, S, S) -> the head's output, on this engine's device."""
        with torch.inference_mode():
            output: Tensor = self._module(lightness.to(self.device))
        return output


class OnnxRuntime:
    """An ONNX graph on the CPU, on as many threads as torch has at that moment."""

    def __init__(self, path: Path, device: str = "cpu") -> None:
        import onnxruntime

        self.device = torch.device("cpu")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        # Idle threads sleep: pictures are prepared and finished on the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, lightness: Tensor) -> Tensor:
        """(B, 1, S, S) -> the head's output, on the CPU."""
        (output,) = self._session.run([OUTPUT], {INPUT: lightness.cpu().numpy()})
        return torch.from_numpy(output)


class TensorRT:
    """A TensorRT plan on one GPU, reading and writing torch's own device memory.

    A batch larger than the plan's profile is run in parts.

    Args:
        path: the plan.
        device: "cuda:N".
        cuda_graph: whether to record a batch and replay it while the size stays the same. That
            saves launches and costs a copy of the output: a recording always writes to one place.
    """

    def __init__(self, path: Path, device: str = "cuda:0", cuda_graph: bool = False) -> None:
        import tensorrt as trt

        self.device = torch.device(device)
        with torch.cuda.device(self.device):
            self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
            # A version-compatible plan carries code of its own TensorRT; ours is held by its hash.
            self._runtime.engine_host_code_allowed = True
            self._plan = self._runtime.deserialize_cuda_engine(path.read_bytes())
            if self._plan is None:
                rebuild = REBUILD.format(engine="tensorrt")
                raise BadGraph(f"TensorRT {trt.__version__} can't load {path}; {rebuild}")
            self._context = self._plan.create_execution_context()
            self._stream = torch.cuda.Stream(self.device)
        self._largest = self._plan.get_tensor_profile_shape(INPUT, 0)[2][0]
        self._cuda_graph = cuda_graph
        # Of the last shape only: the context's state, which a recording points to, follows it.
        self._recorded: tuple[torch.cuda.CUDAGraph, Tensor, Tensor] | None = None

    def __call__(self, lightness: Tensor) -> Tensor:
        """(B, 1, S, S) -> the head's output, on this engine's device."""
        current = torch.cuda.current_stream(self.device)
        with torch.inference_mode(), torch.cuda.device(self.device):
            self._stream.wait_stream(current)
            with torch.cuda.stream(self._stream):  # TensorRT synchronizes on the default stream
                run = self._replay if self._cuda_graph else self._run
                parts = [
                    run(part.to(self.device).contiguous())
                    for part in lightness.split(self._largest)
                ]
                output = parts[0] if len(parts) == 1 else torch.cat(parts)
            current.wait_stream(self._stream)
            output.record_stream(current)
        return output

    def _run(self, lightness: Tensor) -> Tensor:
        self._context.set_input_shape(INPUT, tuple(lightness.shape))
        dims = self._context.get_tensor_shape(OUTPUT)
        shape = [dims[i] for i in range(len(dims))]
        output = torch.empty(shape, dtype=torch.float32, device=self.device)
        self._enqueue(lightness, output)
        return output

    def _enqueue(self, lightness: Tensor, output: Tensor) -> None:
        self._context.set_tensor_address(INPUT, lightness.data_ptr())
        self._context.set_tensor_address(OUTPUT, output.data_ptr())
        if not self._context.execute_async_v3(torch.cuda.current_stream(self.device).cuda_stream):
            raise RuntimeError("TensorRT could not run the plan; its log says why")

    def _replay(self, lightness: Tensor) -> Tensor:
        if self._recorded is None or self._recorded[1].shape != lightness.shape:
            kept = lightness.clone()
            output = self._run(kept)  # once unrecorded: TensorRT sets up what a shape needs
            self._stream.synchronize()
            recording = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recording, stream=self._stream):
                self._enqueue(kept, output)
            self._recorded = recording, kept, output
        recording, kept, output = self._recorded
        kept.copy_(lightness)
        recording.replay()
        return output.clone()


_ENGINES: dict[Name, Callable[[Path, str], Any]] = {
    "torchscript": TorchScript,
    "onnx": OnnxRuntime,
    "tensorrt": TensorRT,
}

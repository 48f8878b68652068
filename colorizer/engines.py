"""Engines run graphs. All are called alike (`graph.Engine`), from any thread.

torch is imported only by the engines that need it: ONNX Runtime on a CPU needs none.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import io
import logging
import os
import re
import threading
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from colorizer import rtx
from colorizer.cores import cores, multiplies_bytes
from colorizer.errors import UserError
from colorizer.graph import (
    INPUT,
    NAMES,
    OUTPUT,
    REBUILD,
    WEIGHTS,
    BadGraph,
    Graph,
    Name,
    Place,
    find,
    open_place,
    read_file,
    read_graph,
    read_weights,
)
from colorizer.models import find_model
from colorizer.rtx import gpu_name as gpu_name

log = logging.getLogger(__name__)

Float = NDArray[np.float32]

# The package that runs a graph.
PACKAGES: dict[Name, str] = {
    "torchscript": "torch",
    "onnx": "onnxruntime",
    "onnx-int8": "onnxruntime",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt_rtx_bindings",
}
# What "auto" tries, in turn. Measured on the CPU by `python -m benchmarks.engines`.
PREFERRED: dict[str, tuple[Name, ...]] = {
    "cpu": ("onnx-int8", "onnx", "torchscript"),  # the first only where `multiplies_bytes`
    "cuda": ("tensorrt", "tensorrt-rtx", "torchscript", "onnx"),
}


class BadDevice(UserError):
    """A device that does not exist, or cannot be used here."""


class Eager:
    """A torch module on one device, as an engine; a checkpoint runs without export.

    Args:
        module: L (B, 1, S, S) -> the head's output, both float32.
        device: "cpu" or "cuda:N".
    """

    def __init__(self, module: Any, device: str = "cpu") -> None:
        self.device = device
        self.module = module

    def __call__(self, lightness: Float) -> Float:
        """(B, 1, S, S) -> the head's output."""
        import torch

        with torch.inference_mode():
            output = self.module(torch.from_numpy(lightness).to(self.device))
            return np.asarray(output.float().cpu().numpy())


class TorchScript(Eager):
    """A TorchScript graph; on CUDA with float16 weights that lie channels last.

    Args:
        body: the graph's file.
        device: "cpu" or "cuda:N".
        threads: of the CPU, for all of torch in this process; None leaves them as they are.
    """

    def __init__(self, body: bytes, device: str = "cpu", threads: int | None = None) -> None:
        import torch

        if threads:
            torch.set_num_threads(threads)
        module = torch.jit.load(io.BytesIO(body), map_location=torch.device(device)).eval()
        if device != "cpu":
            module = module.half()  # L and output stay float32: the graph casts after its weights
        module = module.to(memory_format=torch.channels_last)
        super().__init__(torch.jit.freeze(module), device)


class OnnxRuntime:
    """An ONNX graph on the CPU.

    Args:
        body: the graph's file.
        threads: of the network; None: as many as there are cores.
        weights: of `graph.read_weights`.
    """

    device = "cpu"

    def __init__(
        self, body: bytes, threads: int | None = None, weights: bytes | None = None
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.inter_op_num_threads = 1
        # Idle threads sleep: pictures are prepared and finished on the same cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if not multiplies_bytes():  # there, sums of such products would overflow
            options.add_session_config_entry("session.x64quantprecision", "1")
        if weights is not None:
            options.add_external_initializers_from_files_in_memory(
                [WEIGHTS], [weights], [len(weights)]
            )
        self._session = onnxruntime.InferenceSession(
            body, options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, lightness: Float) -> Float:
        """(B, 1, S, S) -> the head's output."""
        (output,) = self._session.run([OUTPUT], {INPUT: lightness})
        return np.asarray(output, np.float32)


class TensorRT:
    """A TensorRT plan on one GPU.

    A batch larger than the plan's profile is run in parts. One call runs at a time: a plan's
    context holds one input and one output.

    Args:
        body: the plan.
        device: "cuda:N".
        host_code: whether the plan may run code of its own on the CPU; a version-compatible plan
            carries TensorRT's runtime, and needs that.
    """

    def __init__(self, body: bytes, device: str = "cuda:0", host_code: bool = False) -> None:
        import tensorrt as trt
        import torch

        self.device = device
        self._lock = threading.Lock()
        with torch.cuda.device(device):
            self._runtime = trt.Runtime(trt.Logger(trt.Logger.WARNING))
            self._runtime.engine_host_code_allowed = host_code
            self._plan = self._runtime.deserialize_cuda_engine(body)
            if self._plan is None:
                rebuild = REBUILD.format(engine="tensorrt")
                raise BadGraph(f"TensorRT {trt.__version__} can't load the plan; {rebuild}")
            self._context = self._plan.create_execution_context()
            # TensorRT would synchronize on the default stream.
            self._stream = torch.cuda.Stream(device)
        self._largest = int(self._plan.get_tensor_profile_shape(INPUT, 0)[2][0])

    def __call__(self, lightness: Float) -> Float:
        """(B, 1, S, S) -> the head's output."""
        starts = range(0, len(lightness), self._largest)
        with self._lock:
            return np.concatenate([self._run(lightness[s : s + self._largest]) for s in starts])

    def _run(self, lightness: Float) -> Float:
        import torch

        with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            given = torch.from_numpy(np.ascontiguousarray(lightness)).to(self.device)
            self._context.set_input_shape(INPUT, tuple(given.shape))
            dims = self._context.get_tensor_shape(OUTPUT)
            shape = [dims[i] for i in range(len(dims))]
            output = torch.empty(shape, dtype=torch.float32, device=self.device)
            self._context.set_tensor_address(INPUT, given.data_ptr())
            self._context.set_tensor_address(OUTPUT, output.data_ptr())
            if not self._context.execute_async_v3(self._stream.cuda_stream):
                raise RuntimeError("TensorRT could not run the plan; its log says why")
            return np.asarray(output.cpu().numpy())  # waits for the stream


Running = Eager | OnnxRuntime | TensorRT | rtx.TensorRTRTX


def load(
    model: str | Path | bytes,
    device: str | None = None,
    name: Name | Literal["auto"] = "auto",
    threads: int | None = None,
) -> tuple[Graph, Running]:
    """Load a model's graph into an engine; the log says which, and why.

    Args:
        model: the name of a network whose weights are installed; or a folder or an archive with
            a graph, or graphs in folders named after their engines; an archive's bytes will do.
            Or a checkpoint (.safetensors), which torch runs without export, whatever engine is
            named.
        device: "cpu", "cuda" or "cuda:N"; None: a GPU where there is one that a graph can use.
        name: of the engine. "auto": that of the environment's COLORIZER_ENGINE, or the first of
            `preferred` that has a graph and can run it.
        threads: of a CPU; None: as many as there are cores.

    Raises:
        BadDevice: if there is no such device.
        BadGraph: if there is no graph, it was altered, or does not fit this machine; if there is
            no such engine.
        BadCheckpoint: if the checkpoint cannot be read.
    """
    if device is not None:
        device = check_device(device)
    if not isinstance(model, bytes):
        model = find_model(model)
    if isinstance(model, Path) and model.suffix == ".safetensors" and model.is_file():
        return load_checkpoint(model, device, threads)
    place = open_place(model)
    found = find(place)
    if name == "auto":
        name = _chosen_engine()
    if device is None:
        usable = {"torchscript", "tensorrt", "tensorrt-rtx"} & set(found)
        device = "cuda:0" if usable and gpus() else "cpu"
    wanted = preferred(device) if name == "auto" else (name,)
    reasons = []
    for engine in wanted:
        if engine not in found:
            reasons.append(f"{engine}: {place} has no graph for it")
            continue
        try:
            graph, run = _load_graph(found[engine], device, threads)
        except rtx.NotLoaded as error:
            reasons.append(f"{engine}: {error}")
            continue
        why = "; ".join(reasons) if reasons else "preferred" if name == "auto" else "asked for"
        log.info("engine %s on %s (%s)", engine, device, why)
        return graph, run
    others = ", ".join(sorted(set(found) - set(wanted)))
    reasons += [f"{place} has graphs for {others}"] if others else []
    raise BadGraph(f"no graph runs on {device}: {'; '.join(reasons)}")


def _load_graph(place: Place, device: str, threads: int | None) -> tuple[Graph, Running]:
    """Load the graph of one engine.

    Raises:
        NotLoaded: if it can't run on this device.
        BadGraph: if it was altered.
    """
    graph = read_graph(place)
    if reason := incompatibility(graph, device):
        raise rtx.NotLoaded(reason)
    if graph.engine == "tensorrt-rtx":
        graph = rtx.choose_plan(graph, rtx.compute_capability(device))
    body, weights = read_file(place, graph), read_weights(place, graph)
    return graph, start(graph, body, device, threads, weights)


def load_checkpoint(
    path: Path, device: str | None = None, threads: int | None = None
) -> tuple[Graph, Eager]:
    """Run a checkpoint's network by torch, as training does.

    Raises:
        BadCheckpoint: if the checkpoint cannot be read.
        BadGraph: if torch or safetensors is missing.
    """
    missing = [name for name in ("torch", "safetensors") if not installed(name)]
    if missing:
        raise BadGraph(
            f"{path} is a checkpoint, which needs torch to run, and {' and '.join(missing)} is "
            f"not installed: pip install {' '.join(missing)}; or export it where torch is "
            f"installed (python -m export {path} --out GRAPH) and use the folder GRAPH"
        )
    import torch

    from colorizer import checkpoint

    if threads:
        torch.set_num_threads(threads)
    net, header = checkpoint.load(path, alike=True)
    device = device or ("cuda:0" if gpus() else "cpu")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Graph("", "", header.recipe, checkpoint=digest), Eager(net.to(device), device)


def _chosen_engine() -> Name | Literal["auto"]:
    text = os.environ.get("COLORIZER_ENGINE") or "auto"
    for name in NAMES:
        if text == name:
            return name
    if text != "auto":
        raise BadGraph(f"COLORIZER_ENGINE is {text!r:.40}; use auto, {', '.join(NAMES)}")
    return "auto"


def preferred(device: str) -> tuple[Name, ...]:
    """The engines to try on a device, in turn."""
    names = PREFERRED[device.partition(":")[0]]
    if "onnx-int8" in names and not multiplies_bytes():
        return (*(name for name in names if name != "onnx-int8"), "onnx-int8")
    return names


def start(
    graph: Graph,
    body: bytes,
    device: str = "cpu",
    threads: int | None = None,
    weights: bytes | None = None,
) -> Running:
    """Start the engine of a graph whose file is read already."""
    if graph.engine in ("onnx", "onnx-int8"):
        return OnnxRuntime(body, threads, weights)
    if graph.engine == "torchscript":
        return TorchScript(body, device, threads)
    if graph.engine == "tensorrt-rtx":
        return rtx.TensorRTRTX(graph, body, device)
    return TensorRT(body, device, graph.version_compatible)


def check_device(device: str) -> str:
    """Check a device's name; returns it, numbered if it is a GPU.

    Raises:
        BadDevice: if it is neither "cpu" nor a CUDA GPU that is here.
    """
    if device == "cpu":
        return device
    if not re.fullmatch(r"cuda(:[0-9]{1,3})?", device):
        raise BadDevice(f"device is {device!r:.40}; use cpu, or cuda:0 for an NVIDIA GPU")
    number, count = int(device.partition(":")[2] or 0), gpus()
    if number >= count:
        raise BadDevice(
            f"there is no {device} here: torch, if it is installed, sees {count} CUDA GPUs; use "
            "the device cpu"
        )
    return f"cuda:{number}"


def device_of(number: int | None) -> str:
    """Name the device for a GPU's number, as servers give it; the CPU if torch can't use that."""
    return "cpu" if number is None or number >= gpus() else f"cuda:{number}"


def gpus() -> int:
    """Count the CUDA GPUs that torch can use; without NVIDIA's driver it is not even imported."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(library)
            break
        except OSError:
            continue
    else:
        return 0
    if not installed("torch"):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def incompatibility(graph: Graph, device: str) -> str:
    """Explain why a graph can't run here and what to do; empty if it can."""
    if graph.engine == "tensorrt-rtx":
        return rtx.incompatibility(graph, device)
    rebuild = REBUILD.format(engine=graph.engine)
    package = PACKAGES[graph.engine]
    if not installed(package):
        return f"{package} is not installed: pip install {package}"
    if graph.engine != "tensorrt":
        return ""
    if not device.startswith("cuda"):
        return "TensorRT needs an NVIDIA GPU"
    built = graph.versions.get("tensorrt", "unknown")
    here = importlib.metadata.version(package)
    if built != here and not (graph.version_compatible and _follows(here, built)):
        return f"the plan is of TensorRT {built}, and {here} is installed; {rebuild}"
    gpu = gpu_name(device)
    if not _runs_on(graph, gpu):
        return f"the plan was built on {graph.gpu}, and this is {gpu}; {rebuild}"
    return ""


def installed(package: str) -> bool:
    """Whether a package can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


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

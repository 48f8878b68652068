"""Run float16 graphs with NVIDIA's TensorRT for RTX, on GeForce and RTX cards from Turing on.

A graph is compiled into a plan for the card on its first load, which takes about a second of CPU,
and the plan is cached. Tests compile plans; none has been run yet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import logging
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from colorizer.files import home, write_whole
from colorizer.graph import INPUT, OUTPUT, REBUILD, BadGraph, Graph
from colorizer.plan import NotBuilt, Parsed, readable, shared_logger

log = logging.getLogger(__name__)

Float32 = NDArray[np.float32]

INSTALL = "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings"
BATCHES = (1, 8, 8)  # smallest, best and largest batch of a plan whose graph names none
LOCK_SECONDS = 120.0  # far longer than a build takes
# Errors of a folder that isn't writable, has no locks, or is unknown because there is no home.
UNWRITABLE = (OSError, RuntimeError)


class NotLoaded(BadGraph):
    """A graph that can't be compiled on this machine, or a plan that can't be loaded."""


def bindings() -> Any:
    """Import NVIDIA's bindings.

    Raises:
        NotBuilt: if they are not installed, or can't be loaded on this machine.
    """
    try:
        return importlib.import_module("tensorrt_rtx_bindings")
    except ModuleNotFoundError:
        raise NotBuilt(f"TensorRT for RTX is not installed: {INSTALL}") from None
    except (ImportError, OSError) as error:
        raise NotBuilt(f"TensorRT for RTX can't be loaded: {error}") from None


def known_gpus() -> list[str]:
    """List the compute capabilities that the installed release compiles for: SM75, SM80, ...

    Raises:
        NotBuilt: if TensorRT for RTX is missing.
    """
    members = bindings().ComputeCapability.__members__
    return sorted((one for one in members if one.startswith("SM")), key=lambda one: int(one[2:]))


def incompatibility(graph: Graph, device: str) -> str:
    """Say why a graph can't run on a device and what to do; empty if it can."""
    try:
        import torch

        known, release = known_gpus(), bindings().__version__
    except ModuleNotFoundError as error:
        return f"{error.name} is not installed: pip install {error.name}"
    except NotBuilt as error:
        return str(error)
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return "TensorRT for RTX needs an NVIDIA GPU and its driver"
    rebuild = REBUILD.format(engine=graph.engine)
    card, gpu = gpu_name(device), compute_capability(device)
    built = graph.versions.get("tensorrt-rtx", "unknown")
    if graph.plans and built != release:
        return f"the plans are of TensorRT for RTX {built}, and {release} is installed; {rebuild}"
    compiled = [one for plan in graph.plans for one in plan.gpus]
    if graph.plans and gpu not in compiled:
        return f"the plans are for {', '.join(compiled)}, and this is {card} ({gpu}); {rebuild}"
    if gpu not in known:
        return (
            f"TensorRT for RTX {release} runs on {', '.join(known)}, and this is {card} ({gpu}); "
            "for data-centre GPUs: python -m export CHECKPOINT --to tensorrt --out DIR"
        )
    return ""


def gpu_name(device: str) -> str:
    """Name a GPU and its compute capability, as the manifests of plans have it."""
    import torch

    properties = torch.cuda.get_device_properties(device)
    return f"{properties.name}, compute {properties.major}.{properties.minor}"


def compute_capability(device: str) -> str:
    """Name a GPU's compute capability as NVIDIA's library does: SM89."""
    import torch

    return "SM{}{}".format(*torch.cuda.get_device_capability(device))


def build(
    graph: bytes,
    side: int,
    gpus: Sequence[str],
    batches: Sequence[int] = BATCHES,
    say: Callable[[str], None] = log.debug,
) -> bytes:
    """Compile a float16 ONNX graph into a plan, on any machine; takes about a second.

    Args:
        graph: an ONNX graph, weights included.
        side: S.
        gpus: compute capabilities that the plan runs on, of `known_gpus`.
        batches: smallest, best and largest batch.
        say: takes lines of progress.

    Raises:
        NotBuilt: if TensorRT for RTX is missing or refuses.
    """
    trt = bindings()
    parsed = Parsed("tensorrt_rtx_bindings", graph)
    low, best, high = ((batch, 1, side, side) for batch in batches)

    def configure(config: Any) -> None:
        config.num_compute_capabilities = len(gpus)
        for i, gpu in enumerate(gpus):
            config.set_compute_capability(getattr(trt.ComputeCapability, gpu), i)

    return parsed.compile((low, best, high), configure, say)


class Kept:
    """Cached files of one graph, release and card, shared between starts and processes.

    Each file begins with a hash of its contents and of what it was made for. If files can't be
    cached, a line in the log says so, and each start makes them again.

    Args:
        graph: that the files are made from.
        release: of TensorRT for RTX.
        card: the GPU's name and compute capability.
    """

    def __init__(self, graph: Graph, release: str, card: str) -> None:
        self._made_for = " ".join([graph.sha256, *map(str, graph.batches), release, card])
        digest = hashlib.sha256(self._made_for.encode()).hexdigest()[:16]
        self._name = f"{re.sub('[^a-z0-9.]+', '-', card.lower())}-{release}-{digest}"

    def plan(self, make: Callable[[], bytes]) -> bytes:
        """Read the plan, or make and cache it; one process makes it while others wait."""
        try:
            path = self._path("plan")
            if body := self._read(path):
                return body
            locked = _locked(path.with_name("lock"))
        except UNWRITABLE as error:
            log.warning("plans can't be kept, so each start builds one: %s", error)
            return make()
        with locked:
            body = self._read(path) or make()  # another process may have made it by now
            self._keep(path, body)
            return body

    def kernels(self) -> bytes:
        """Read the kernels that earlier runs compiled; empty if there are none."""
        with contextlib.suppress(*UNWRITABLE):
            return self._read(self._path("kernels")) or b""
        return b""

    def keep_kernels(self, body: bytes) -> None:
        """Keep compiled kernels for the next start."""
        with contextlib.suppress(RuntimeError):  # no home, which `plan` has told
            self._keep(self._path("kernels"), body)

    def _path(self, kind: str) -> Path:
        return home() / "tensorrt-rtx" / f"{self._name}.{kind}"

    def _seal(self, path: Path, body: bytes) -> bytes:
        return hashlib.sha256(f"{self._made_for} {path.suffix}\n".encode() + body).digest()

    def _read(self, path: Path) -> bytes | None:
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None
        seal, body = content[:32], content[32:]
        if seal != self._seal(path, body):
            log.warning("%s is spoilt, or was made for something else: it is made anew", path)
            return None
        return body

    def _keep(self, path: Path, body: bytes) -> None:
        try:
            write_whole(path, self._seal(path, body) + body)
        except OSError as error:
            log.warning("%s can't be written, so each start makes it anew: %s", path, error)


def _locked(path: Path) -> contextlib.AbstractContextManager[object]:
    """Lock a file among processes; the end of a process releases it, even if it was killed."""
    from filelock import FileLock  # one of torch's own requirements

    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path, timeout=LOCK_SECONDS).acquire()


def choose_plan(graph: Graph, gpu: str) -> Graph:
    """Choose the plan that was exported for a GPU, if there is one, as the graph's file."""
    for plan in graph.plans:
        if gpu in plan.gpus:
            return dataclasses.replace(graph, file=plan.file, sha256=plan.sha256)
    return graph


def deserialize(plan: bytes) -> tuple[Any, Any]:
    """Load a plan on the current CUDA device.

    Returns:
        NVIDIA's runtime, which must outlive the engine, and the engine.

    Raises:
        NotLoaded: if it can't be loaded, with the library's reason.
    """
    trt = bindings()
    logger, errors = shared_logger("tensorrt_rtx_bindings")
    errors.clear()
    runtime = trt.Runtime(logger)
    loaded = runtime.deserialize_cuda_engine(plan)
    if loaded is None:
        reason = readable(errors)
        raise NotLoaded(f"TensorRT for RTX {trt.__version__} can't load the plan: {reason}")
    return runtime, loaded


class TensorRTRTX:
    """A float16 graph on one GPU; may be called from several threads, which take turns.

    Batches larger than the plan's run in parts. Kernels are compiled when a batch size first
    occurs, not in the background, so the same batch always runs on the same kernels.

    Args:
        graph: the manifest.
        body: its file: an ONNX graph, or the plan that was exported for this GPU.
        device: "cuda:N".
        cuda_graph: whether TensorRT records each batch size as a CUDA graph and replays it.

    Raises:
        NotLoaded: if no plan can be built or loaded.
    """

    def __init__(
        self, graph: Graph, body: bytes, device: str = "cuda:0", cuda_graph: bool = True
    ) -> None:
        import torch

        trt = bindings()
        self._lock = threading.Lock()
        self.device = device
        self._kept = Kept(graph, trt.__version__, gpu_name(device))

        def make() -> bytes:
            gpu = compute_capability(device)
            log.info("compiling a plan for %s, which is kept for later starts", gpu)
            return build(body, graph.recipe.side, [gpu], graph.batches or BATCHES)

        try:
            plan = body if graph.plans else self._kept.plan(make)
        except NotBuilt as error:
            raise NotLoaded(str(error)) from error
        with torch.cuda.device(self.device):
            self._stream = torch.cuda.Stream()
            self._runtime, self._engine = deserialize(plan)
            self._context = self._create_context(cuda_graph)
            # The same memory for all batches: a recorded CUDA graph uses fixed addresses.
            self._largest, *image = self._engine.get_tensor_profile_shape(INPUT, 0)[2]
            _, *head = self._engine.get_tensor_shape(OUTPUT)
            self._input = torch.empty((self._largest, *image), device=self.device)
            self._output = torch.empty((self._largest, *head), device=self.device)
            self._context.set_tensor_address(INPUT, self._input.data_ptr())
            self._context.set_tensor_address(OUTPUT, self._output.data_ptr())
        self._compiled: set[int] = set()  # batch sizes whose kernels are compiled

    def _create_context(self, cuda_graph: bool) -> Any:
        trt = bindings()
        config = self._engine.create_runtime_config()
        strategies = trt.CudaGraphStrategy
        config.cuda_graph_strategy = (
            strategies.WHOLE_GRAPH_CAPTURE if cuda_graph else strategies.DISABLED
        )
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        self._kernels = config.create_runtime_cache()
        kernels = self._kept.kernels()
        if kernels and not self._kernels.deserialize(kernels):
            log.warning("kept kernels are of another driver or card: they are compiled anew")
        config.set_runtime_cache(self._kernels)
        context = self._engine.create_execution_context(config)
        if context is None:
            _, errors = shared_logger("tensorrt_rtx_bindings")
            raise NotLoaded(f"TensorRT for RTX can't compile kernels: {readable(errors)}")
        return context

    def __call__(self, lightness: Float32) -> Float32:
        """(B, 1, S, S) L 0..100 -> the head's output: (B, 2, S, S) ab, or (B, Q, S, S) logits."""
        import torch

        with self._lock, torch.cuda.device(self.device), torch.cuda.stream(self._stream):
            starts = range(0, len(lightness), self._largest)
            parts = [self._run(lightness[start : start + self._largest]) for start in starts]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, lightness: Float32) -> Float32:
        import torch

        count = len(lightness)
        self._input[:count].copy_(torch.from_numpy(np.array(lightness, np.float32)))
        self._context.set_input_shape(INPUT, lightness.shape)
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            _, errors = shared_logger("tensorrt_rtx_bindings")
            raise RuntimeError(f"TensorRT for RTX could not run the plan: {readable(errors)}")
        output: Float32 = self._output[:count].to("cpu", copy=True).numpy()
        if count not in self._compiled:
            self._compiled.add(count)
            if (kernels := self._kernels.serialize()) is not None:
                self._kept.keep_kernels(bytes(kernels))
        return output

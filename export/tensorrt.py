"""ONNX graph with float16 in it -> TensorRT plan. One path for TensorRT 10 and 11.

Both build strongly typed networks: the precision of each layer is the graph's, and no builder
flag changes it. The build needs an NVIDIA GPU, and has not been run on one by this project's
tests: benchmarks/GPU.md says what is proven without, and holds the command that tests it.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import SupportsInt

import onnx

from colorizer.engines import installed
from colorizer.errors import UserError
from colorizer.files import written_whole
from colorizer.graph import INPUT, Hardware

FILE = "graph.plan"

# Operators that TensorRT's parser takes in float32 and float16, of those that a graph of ours may
# hold. Source: onnx/onnx-tensorrt, docs/operators.md at commit 6d0ab7be324d, of TensorRT 8.5
# (opsets to 17; none was taken away since). Release 11 reads opsets 9 to 25: "ONNX Opset Guide",
# docs.nvidia.com/deeplearning/tensorrt/latest/reference/onnx-opset-guide.html.
SUPPORTED = {
    "Add": "",
    "Cast": "",
    "Concat": "",
    "Conv": "",
    "ConvTranspose": "",
    "Div": "",
    "MaxPool": "2 or 3 dimensions, no indices",
    "Mul": "",
    "Pow": "",
    "Relu": "",
    "Resize": "mode linear or nearest; half_pixel and others",
    "Sub": "",
}


class NotBuilt(UserError):
    """TensorRT is missing, or refused the graph; the message says what to do."""


@dataclass(frozen=True)
class Build:
    """How a plan is built.

    Attributes:
        batches: smallest, best and largest batch that it runs.
        version_compatible: whether it also runs in newer releases of the same major version; it
            then carries a runtime of its own, and is slower by a little.
        hardware: on which other GPUs it runs; anything but "none" may cost speed.
        workspace: bytes of device memory that a layer may use while it runs.
        timing_cache: file of what was measured in earlier builds; read, and written again.
    """

    batches: tuple[int, int, int] = (1, 8, 8)
    version_compatible: bool = False
    hardware: Hardware = "none"
    workspace: int = 4 << 30
    timing_cache: Path | None = None


def require() -> None:
    """Raise NotBuilt, with the way to install it, where there is no TensorRT."""
    if not installed("tensorrt"):
        raise NotBuilt(
            "TensorRT is not installed: it needs an NVIDIA GPU, and pip install -e '.[tensorrt]'"
        )


def check_graph(path: Path) -> None:
    """Hold a graph's operators against what TensorRT's parser takes.

    Raises:
        NotBuilt: naming the first that it doesn't.
    """
    for node in onnx.load(path).graph.node:
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        restricted = (node.op_type == "MaxPool" and len(node.output) > 1) or (
            node.op_type == "Resize" and attributes.get("mode") not in (b"linear", b"nearest")
        )
        if node.op_type not in SUPPORTED or restricted:
            raise NotBuilt(f"TensorRT's parser does not take {node.op_type} of {node.name}")


def build(graph: bytes, side: int, how: Build, say: Callable[[str], None] = print) -> bytes:
    """Build a plan on this machine's GPU; takes minutes, and Ctrl-C ends it.

    Args:
        graph: an ONNX graph, its weights included.
        side: S.
        how: settings of the build.
        say: takes lines of progress.

    Raises:
        NotBuilt: if TensorRT is missing or refuses.
        KeyboardInterrupt: if it was interrupted.
    """
    require()
    import tensorrt as trt

    asked: list[int] = []

    class Progress(trt.IProgressMonitor):
        """Says which phase the build is in, and ends it when somebody asked."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: SupportsInt) -> None:
            self._steps[phase_name] = int(num_steps)
            if not parent_phase:
                say(f"TensorRT: {phase_name}, {num_steps} steps")

        def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
            steps = self._steps.get(phase_name, 0)
            if steps >= 10 and int(step) % max(1, steps // 10) == 0:
                say(f"TensorRT: {phase_name}: {step} of {steps}")
            return not asked

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    def ask(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    # Release 11 knows no other networks and ignores the flag; release 10 needs it.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise NotBuilt(f"TensorRT {trt.__version__} does not take the graph: {errors[:500]}")

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, how.workspace)
    config.progress_monitor = progress = Progress()
    profile = builder.create_optimization_profile()
    low, best, high = ((batch, 1, side, side) for batch in how.batches)
    profile.set_shape(INPUT, low, best, high)
    config.add_optimization_profile(profile)
    if how.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    config.hardware_compatibility_level = {
        "none": trt.HardwareCompatibilityLevel.NONE,
        "ampere-plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
        "same-compute-capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
    }[how.hardware]
    kept = how.timing_cache
    cache = config.create_timing_cache(kept.read_bytes() if kept and kept.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)

    before = signal.signal(signal.SIGINT, ask)  # a build returns to Python at its steps only
    try:
        plan = builder.build_serialized_network(network, config)
    finally:
        signal.signal(signal.SIGINT, before)
        del progress
    if asked:
        raise KeyboardInterrupt
    if plan is None:
        raise NotBuilt(f"TensorRT {trt.__version__} could not build the plan; its log says why")
    if kept:
        with written_whole(kept) as beside:
            beside.write_bytes(bytes(cache.serialize()))
    return bytes(plan)

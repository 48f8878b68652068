"""ONNX graph with float16 in it -> TensorRT plan. One path for TensorRT 10 and 11.

The build needs an NVIDIA GPU, and has not been run on one by this project's tests:
benchmarks/GPU.md says what is proven without, and what to do where there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from colorizer import rtx
from colorizer.engines import installed
from colorizer.files import write_whole
from colorizer.graph import Hardware
from colorizer.plan import NotBuilt, Parsed

if TYPE_CHECKING:
    import tensorrt as trt

FILE = "graph.plan"


@dataclass(frozen=True)
class Build:
    """Settings of a build, by TensorRT or TensorRT for RTX.

    Attributes:
        batches: smallest, best and largest batch that it runs.
        version_compatible: whether it also runs in newer releases of TensorRT's major version; it
            then carries its own runtime, and is a little slower.
        hardware: other GPUs that TensorRT's plan runs on; anything but "none" may cost speed.
        workspace: bytes of device memory that a layer may use while TensorRT's plan runs.
        timing_cache: file of what TensorRT measured in earlier builds; read, and written again.
        gpus: compute capabilities that TensorRT for RTX compiles for; empty: for the card at hand,
            when the graph is loaded.
    """

    batches: tuple[int, int, int] = (1, 8, 8)
    version_compatible: bool = False
    hardware: Hardware = "none"
    workspace: int = 4 << 30
    timing_cache: Path | None = None
    gpus: tuple[str, ...] = ()


def require() -> None:
    """Raise NotBuilt, with the command that installs TensorRT, if it is missing."""
    if not installed("tensorrt"):
        raise NotBuilt(
            "TensorRT is not installed: it needs an NVIDIA GPU, and pip install -e '.[tensorrt]'"
        )


def check_graph(graph: bytes, say: Callable[[str], None] = print) -> None:
    """Check a graph with NVIDIA's parser, if TensorRT for RTX is installed; it needs no GPU.

    Raises:
        NotBuilt: naming the node that the parser refuses.
    """
    try:
        rtx.bindings()
    except NotBuilt as error:
        say(f"not read by NVIDIA's parser: {error}")
    else:
        say(f"{Parsed('tensorrt_rtx_bindings', graph).title} reads the graph")


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

    caches: list[trt.ITimingCache] = []

    def configure(config: trt.IBuilderConfig) -> None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, how.workspace)
        if how.version_compatible:
            config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.hardware_compatibility_level = {
            "none": trt.HardwareCompatibilityLevel.NONE,
            "ampere-plus": trt.HardwareCompatibilityLevel.AMPERE_PLUS,
            "same-compute-capability": trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY,
        }[how.hardware]
        caches.append(_timing_cache(config, how.timing_cache))

    low, best, high = ((batch, 1, side, side) for batch in how.batches)
    plan = Parsed("tensorrt", graph).compile(
        (low, best, high), configure, lambda line: say(f"TensorRT: {line}")
    )
    if how.timing_cache:
        write_whole(how.timing_cache, bytes(caches[0].serialize()))
    return plan


def _timing_cache(config: trt.IBuilderConfig, kept: Path | None) -> trt.ITimingCache:
    """Load a timing cache; one of another TensorRT or GPU is ignored."""
    cache = config.create_timing_cache(kept.read_bytes() if kept and kept.exists() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache

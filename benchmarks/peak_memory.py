"""What memory an engine, or a whole pipeline, needs: measured in a process of its own.

Run by other benchmarks; prints JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from benchmarks import cases
from benchmarks.cases import Kind
from colorizer.pipeline import Pipeline

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
MEASURED = (
    "Peak memory: of a process of its own, above what it held after its imports; while it loads "
    "the network, and while it runs (Linux: VmHWM; CUDA: torch's own allocator, which does not "
    "see TensorRT's or ONNX Runtime's memory)"
)


@dataclass(frozen=True)
class Memory:
    """Peaks above what the process held before it loaded anything, in MB (1e6 bytes).

    Attributes:
        loading: until the engine was loaded.
        running: from then on.
    """

    loading: float
    running: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, run, and print the peaks; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peak_memory", description=__doc__)
    add = parser.add_argument
    add("kind", choices=(*get_args(Kind), "pipeline"))
    add("path", type=Path, help="checkpoint, graph's file, or (pipeline) folder of graphs")
    add("--device", default="cpu")
    add("--threads", type=int)
    add("--batch", type=int, default=1)
    add("--side", type=int, default=128)
    add("--picture", type=Path, help="of a pipeline")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    run: Callable[[], object]
    if options.kind == "pipeline":
        body = options.picture.read_bytes()
        before = held(options.device)
        pipeline = Pipeline.load(options.path, options.device)
        pipeline.warm_up()

        def run() -> object:
            return pipeline.colorize(body)
    else:
        lightness = np.full((options.batch, 1, options.side, options.side), 50, np.float32)
        if options.kind == "onnx":
            import onnxruntime  # noqa: F401  before: the library is not the engine
        before = held(options.device)
        engine = cases.load(options.kind, options.path, options.device)

        def run() -> object:
            return engine(lightness)

    loading = peak(options.device)
    forget(options.device)
    for _ in range(3):  # TorchScript specializes in the second
        run()
    found = Memory((loading - before) / 1e6, (peak(options.device) - before) / 1e6)
    print(json.dumps(asdict(found)))
    return 0


def held(device: str) -> int:
    """Bytes that this process has now."""
    return torch.cuda.memory_allocated(device) if device != "cpu" else _status("VmRSS")


def peak(device: str) -> int:
    """Bytes that this process had at most, since it was started or made to `forget`."""
    if device != "cpu":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return _status("VmHWM")


def forget(device: str) -> None:
    """Begin the peak anew."""
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        CLEAR.write_text("5")  # resets VmHWM: proc(5)


def _status(name: str) -> int:
    lines = STATUS.read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measure(
    kind: str, path: Path, device: str = "cpu", *, picture: Path | None = None, **sizes: int
) -> Memory | None:
    """Start a process that measures, with as many threads as this one.

    Args:
        kind: of engine, or "pipeline".
        path: as `main` has it.
        device: "cpu" or "cuda:N".
        picture: that a pipeline colorizes.
        sizes: batch and side.

    Returns:
        None where the system does not tell.

    Raises:
        OSError: if the process failed.
    """
    if device == "cpu" and not CLEAR.exists():
        return None
    given = {"threads": torch.get_num_threads(), **sizes}
    command = [sys.executable, "-m", "benchmarks.peak_memory", kind, str(path), "--device", device]
    command += [f"--{name}={value}" for name, value in given.items()]
    command += ["--picture", str(picture)] if picture else []
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    if done.returncode:
        raise OSError(f"measuring the memory of {kind} failed: {done.stderr.strip()[-300:]}")
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


if __name__ == "__main__":
    sys.exit(main())

"""How busy a GPU is, sampled by nvidia-smi while it is under load."""

from __future__ import annotations

import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

INTERVAL_MS = 100
ABSENT = "GPU utilization: absent, there is no GPU in use"


@dataclass(frozen=True)
class Sampled:
    """What nvidia-smi said under load.

    Attributes:
        utilization: median share of time in which a kernel ran, 0..100.
        samples: how many there were.
    """

    utilization: float
    samples: int


def under_load(call: Callable[[], object], device: str, seconds: float = 3.0) -> Sampled | None:
    """Call without pause, and sample meanwhile.

    Returns:
        None on a CPU, without nvidia-smi, or if it gave no sample.
    """
    if not device.startswith("cuda") or not shutil.which("nvidia-smi"):
        return None
    number = str(torch.cuda.get_device_properties(device).uuid)  # cuda:0 need not be its 0
    number = f"GPU-{number.removeprefix('GPU-')}"

    def finished() -> None:
        call()
        torch.cuda.synchronize(device)

    return sampled(finished, number, seconds)


def sampled(call: Callable[[], object], gpu: str, seconds: float) -> Sampled | None:
    """Call for so many seconds beside nvidia-smi; the first sample is of before, and left out."""
    command = ["nvidia-smi", f"--id={gpu}", "--query-gpu=utilization.gpu"]
    command += ["--format=csv,noheader,nounits", f"--loop-ms={INTERVAL_MS}"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                call()
        finally:
            process.terminate()
            said, _ = process.communicate()
    values = [float(line) for line in said.splitlines() if line.strip().isdigit()][1:]
    return Sampled(statistics.median(values), len(values)) if values else None

"""What memory this process has now, and had at most."""

from __future__ import annotations

from pathlib import Path

import torch

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


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

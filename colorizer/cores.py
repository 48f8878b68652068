"""How many processor cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container (Linux, cgroup version 2)


def cores() -> int:
    """Count the cores this process may use, at least 1.

    OMP_NUM_THREADS decides if it is set; else the smaller of the processes' affinity and the
    container's CPU quota. `os.cpu_count()` knows neither.
    """
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # "4,2": nested levels
    if chosen.isdigit() and int(chosen) > 0:
        return int(chosen)
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    try:
        quota, period = _QUOTA.read_text().split()
        count = min(count, -(-int(quota) // int(period)))  # 1.5 cores are worth 2 threads
    except (OSError, ValueError):  # no such file, or "max": no quota
        pass
    return max(1, count)

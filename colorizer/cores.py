"""How many processor cores this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

_GROUPS = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


def cores() -> int:
    """Count the cores this process may use, at least 1.

    OMP_NUM_THREADS decides if it is set; otherwise CPU affinity (`taskset`) or the cgroup's CPU
    quota (`docker run --cpus 2`, a Kubernetes limit), whichever is lower. `os.cpu_count()` knows
    neither, and threads beyond that number only wait for each other. Part of a core counts as one.
    """
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # "4,2": nested levels
    if chosen.isdecimal() and int(chosen) > 0:
        return int(chosen)
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    return max(1, min([count, *map(math.ceil, _quotas())]))


def _quotas() -> list[float]:
    """Read the quotas, in cores, of this process's cgroup and of all groups above it.

    Inside a container the named path may be the host's, of which only the mount's root is visible,
    so folders that don't exist are skipped.

    Source: cgroups(7); Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max) and
    Documentation/scheduler/sched-bwc.rst (cpu.cfs_quota_us).
    """
    found = []
    for line in _words(_GROUPS, "\n"):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = _MOUNT / controllers if controllers else _MOUNT
        group = mount / path.strip("/")
        for folder in (group, *group.parents):
            if not folder.is_relative_to(mount):
                break
            if controllers:
                period = _words(folder / "cpu.cfs_period_us")
                limit = [*_words(folder / "cpu.cfs_quota_us"), *period]
            else:
                limit = _words(folder / "cpu.max")
            # Without a limit: "max" in version 2, -1 in version 1.
            if len(limit) == 2 and limit[0].isdecimal() and int(limit[1]):
                found.append(int(limit[0]) / int(limit[1]))
    return found


def _words(path: Path, separator: str | None = None) -> list[str]:
    """Split a small file; nothing where it can't be read."""
    try:
        return [word for word in path.read_text().split(separator) if word]
    except OSError:
        return []

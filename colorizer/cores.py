"""The processor cores that this process may use, and work spread over them."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TypeVar

Part = TypeVar("Part")
Result = TypeVar("Result")

_CPU = Path("/proc/cpuinfo")
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


def multiplies_bytes() -> bool:
    """Whether the processor has instructions for dot products of bytes (VNNI, on Arm UDOT).

    False where the system doesn't say, as only Linux does.
    """
    return bool({"avx512_vnni", "avx_vnni", "asimddp"} & set(_words(_CPU)))


def spread(work: Callable[[Part], object], parts: Sequence[Part]) -> None:
    """Do the parts of some work on all cores; OpenCV and numpy release Python's lock inside calls.

    The caller begins at once, and works for itself alone where the other threads are busy.
    """
    left = iter(parts)

    def some() -> None:
        for part in left:
            work(part)

    pool, threads = _helpers()
    helpers = [pool.submit(some) for _ in range(min(threads, len(parts) - 1))]
    try:
        some()
    finally:
        begun = [one for one in helpers if not one.cancel()]
        wait(begun)
    for one in begun:
        one.result()  # raises what a part raised


def in_order(
    work: Callable[[Part], Result], parts: Iterable[Part], threads: int, ahead: int
) -> Generator[Result]:
    """Work on parts in threads, and yield the results in the order of the parts.

    Args:
        work: on one part.
        parts: taken as they are needed, so there may be any number.
        threads: how many.
        ahead: results that may be in work or wait; none is begun once the caller has had enough.
    """
    waiting: deque[Future[Result]] = deque()
    left = iter(parts)
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                waiting += [pool.submit(work, part) for part in islice(left, ahead - len(waiting))]
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@lru_cache(maxsize=1)
def _helpers() -> tuple[ThreadPoolExecutor, int]:
    """Threads beside the caller's, and how many."""
    count = cores() - 1
    return ThreadPoolExecutor(max(1, count)), count


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_helpers.cache_clear)  # threads don't survive a fork


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

"""Time calls beside one another: in turns, warmed up, with their spread."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.results import shown

BURN_IN = 2  # rounds: TorchScript specializes in its first runs, and caches fill


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a call, over the rounds.

    Attributes:
        median: of them.
        low, high: the quartiles; half of the rounds lie between.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Timing:
        low, median, high = (float(one) for one in np.percentile(milliseconds, [25, 50, 75]))
        return cls(median, low, high)

    @property
    def spread(self) -> str:
        """The quartiles, as a table has them."""
        return f"{shown(self.low)}–{shown(self.high)}"


def alternate(
    calls: Sequence[Callable[[], object]], repeat: int, device: str = "cpu", what: str = ""
) -> list[Timing]:
    """Time calls in turns, so that a busy moment of the machine hits all of them.

    Each round begins with another one, so that none always follows the same. On a GPU the time is
    that between two CUDA events; what ran before has ended by then.

    Args:
        calls: what to time.
        repeat: rounds that count, after BURN_IN that do not.
        device: where they compute.
        what: named by the progress, which is shown of more than two seconds.
    """
    times: list[list[float]] = [[] for _ in calls]
    rounds = range(repeat + BURN_IN)
    for number in tqdm(
        rounds, what, file=sys.stderr, mininterval=2, delay=2, leave=False, disable=not what
    ):
        for turn in range(len(calls)):
            which = (number + turn) % len(calls)
            milliseconds = once(calls[which], device)
            if number >= BURN_IN:
                times[which].append(milliseconds)
    return [Timing.of(kept) for kept in times]


def once(call: Callable[[], object], device: str = "cpu") -> float:
    """Milliseconds that a call takes until its result is there."""
    if not device.startswith("cuda"):
        start = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - start)
    with torch.cuda.device(device):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end))

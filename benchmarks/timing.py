"""Time calls in alternating rounds, so that their ratios survive a busy machine."""

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
    """Milliseconds of a call over the rounds: the median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, milliseconds: Sequence[float]) -> Timing:
        """Summarize the rounds."""
        low, median, high = (float(one) for one in np.percentile(milliseconds, [25, 50, 75]))
        return cls(median, low, high)

    @property
    def spread(self) -> str:
        """Format the quartiles for a table."""
        return f"{shown(self.low)}–{shown(self.high)}"


def alternate(
    calls: Sequence[Callable[[], object]], repeat: int, device: str = "cpu", what: str = ""
) -> list[Timing]:
    """Time calls in turns; each round begins with another one, so none always follows the same.

    Args:
        calls: what to time.
        repeat: rounds that count, after BURN_IN that do not.
        device: where they compute.
        what: label of the progress bar; empty: none.
    """
    times: list[list[float]] = [[] for _ in calls]
    rounds = range(repeat + BURN_IN)
    for number in tqdm(
        rounds, what, file=sys.stderr, mininterval=2, delay=2, leave=False, disable=not what
    ):
        for turn in range(len(calls)):
            which = (number + turn) % len(calls)
            milliseconds = _once(calls[which], device)
            if number >= BURN_IN:
                times[which].append(milliseconds)
    return [Timing.of(kept) for kept in times]


def _once(call: Callable[[], object], device: str = "cpu") -> float:
    """Time one call in milliseconds, on a GPU by CUDA events, until its result is there."""
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

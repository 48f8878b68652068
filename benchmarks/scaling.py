"""Say where a growth stops scaling and why, from the figures alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.results import Value
from benchmarks.roofline import Peak

WORTH = 0.05  # gain in pictures a second under which more of something no longer pays
NEAR = 0.95  # of the machine's own gain, from which on the machine is what limits


def overtaking(sizes: Sequence[float], around: Sequence[float], network: Sequence[float]) -> str:
    """Say from where on the work around the network costs more, and what a megapixel costs.

    Args:
        sizes: megapixels, rising.
        around: milliseconds of all but the network.
        network: milliseconds of the network.
    """
    each, _ = line(sizes, around)
    said = (
        "The network costs the same whatever the picture's size; what is around it grows by "
        f"{each:.0f} ms a megapixel, "
    )
    pairs = zip(sizes, around, network, strict=True)
    over = [size for size, one, other in pairs if one > other]
    if not over:
        return f"{said}and costs less than the network at all of these sizes."
    return f"{said}and costs more than the network from {over[0]:g} megapixels on."


def memory_slope(sizes: Sequence[float], megabytes: Sequence[Value]) -> str:
    """Say what a megapixel costs in memory; empty where it was not measured."""
    pairs = zip(sizes, megabytes, strict=True)
    known = [(size, float(one)) for size, one in pairs if isinstance(one, float)]
    if len(known) < 2:
        return ""
    each, base = line([one[0] for one in known], [one[1] for one in known])
    return f"Memory: {base:.0f} MB and {each:.1f} MB a megapixel, by a straight line through them."


def line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept of the line that fits best; through 0 where there is one point."""
    if len(x) == 1:
        return y[0] / x[0], 0.0
    slope, intercept = np.polynomial.polynomial.polyfit(np.asarray(x), np.asarray(y), 1)[::-1]
    return float(slope), float(intercept)


def enough(counts: Sequence[int], rates: Sequence[float]) -> str:
    """Say after which count the next one brings less than WORTH."""
    for count, after, rate, more in zip(counts, counts[1:], rates, rates[1:], strict=False):
        if more < (1 + WORTH) * rate:
            return (
                f"It stops scaling at {count}: {after} change the pictures a second by "
                f"{more / rate - 1:+.0%}."
            )
    return f"It still scales at {counts[-1]}."


def why_a_batch(batch: int, intensity: float, of_peak: float, peak: Peak) -> str:
    """Say by the roofline what a larger batch could gain.

    Args:
        batch: the smallest.
        intensity: FLOP for each byte that it moves.
        of_peak: share of the peak's FLOP/s that it reaches.
        peak: the machine's.
    """
    by_cores = intensity >= peak.ridge
    return (
        f"At a batch of {batch} each byte that moves is used for {intensity:.0f} FLOP, and "
        f"{peak.ridge:.1f} keep this machine's cores busy: "
        + ("the cores are the limit" if by_cores else "memory is the limit")
        + f" there, and {of_peak:.0%} of their peak (a large {peak.by}) is reached."
        + (" A larger batch has little to win." if by_cores and of_peak > 0.5 else "")
    )


def why_threads(
    name: str, counts: Sequence[int], rates: Sequence[float], peaks: Sequence[float]
) -> str:
    """Say how well threads are used, and what keeps them from more.

    Source of the serial share: Karp, Flatt 1990, "Measuring Parallel Processor Performance".

    Args:
        name: of what was timed.
        counts: threads, from 1 on.
        rates: pictures a second.
        peaks: FLOP/s that the machine reaches.
    """
    if len(counts) == 1:
        return f"{name}: one thread, nothing to compare."
    threads, gain, machine = counts[-1], rates[-1] / rates[0], peaks[-1] / peaks[0]
    said = f"{name} is {gain:.2f} times as fast on {threads} threads as on one"
    if gain <= 1:
        return f"{said}: more threads are of no use, or other work had the cores."
    if gain >= NEAR * machine:
        return f"{said}; the machine itself gives {machine:.2f}, so it is the limit."
    serial = (1 / gain - 1 / threads) / (1 - 1 / threads)
    return (
        f"{said}, where the machine gives {machine:.2f}: as if {serial:.0%} of the work ran on one "
        "thread (Karp-Flatt)."
    )

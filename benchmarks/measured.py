"""What a step of load has shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.results import Value


@dataclass(frozen=True)
class Measured:
    """One step of load.

    Attributes:
        load: in words.
        offered: requests a second that were due; for users, None.
        achieved: good replies a second, from the first request to the last reply.
        times: milliseconds of every good reply.
        errors: kind -> count.
        busy: share of the machine's cores in use, by whatever runs on it.
        client: share of them that the load's own process used.
        stages: mean milliseconds inside the handler, where the server tells them.
    """

    load: str
    offered: float | None
    achieved: float
    times: list[float]
    errors: dict[str, int]
    busy: float = 0.0
    client: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)

    def quantile(self, share: float) -> float:
        """Milliseconds within which this share of the good replies came; NaN without any."""
        ordered = sorted(self.times)
        if not ordered:
            return float("nan")
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def error_share(self) -> float:
        """Share of all requests that got no good reply."""
        bad = sum(self.errors.values())
        return bad / max(1, bad + len(self.times))

    def row(self) -> list[Value]:
        """A row of a table with COLUMNS."""
        times: list[Value] = [self.quantile(q) if self.times else None for q in (0.5, 0.95, 0.99)]
        errors = ", ".join(f"{kind}: {count}" for kind, count in self.errors.items())
        return [self.load, self.offered, self.achieved, *times, errors or "none"]


COLUMNS = ("load", "offered, 1/s", "achieved, 1/s", "p50, ms", "p95, ms", "p99, ms", "errors")


def meets(measured: Measured, max_p99: float | None, max_errors: float) -> bool:
    """Hold a step against the gates; a step without a good reply meets none."""
    in_time = max_p99 is None or measured.quantile(0.99) <= max_p99
    return bool(measured.times) and in_time and measured.error_share <= max_errors


def count_errors(kinds: Sequence[str]) -> dict[str, int]:
    """Kind -> count, the commonest first."""
    return dict(Counter(kinds).most_common())

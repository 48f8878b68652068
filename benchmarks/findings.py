"""Tables of what serving costs, each with what its figures say."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.direct import Round
from benchmarks.measured import Measured
from benchmarks.results import Plot, Table, Value

RATIO_AIM = 0.85  # of the throughput in-process
TAIL_AIM = 2.0  # p99 / p50
NEAR_BEST = 0.95  # a curve has stopped rising where it is this near to its best
FULL = 0.9  # share of the cores in use, from which on they are what limits


@dataclass(frozen=True)
class Compared:
    """Rounds of the same photographs, in-process and through a server."""

    server: str
    alone: Sequence[Round]
    served: Sequence[Measured]

    @property
    def ratios(self) -> list[float]:
        """Throughput through the server, of that in-process, round by round."""
        pairs = zip(self.served, self.alone, strict=True)
        return [served.achieved / alone.rate for served, alone in pairs]

    @property
    def rate(self) -> float:
        """Photographs a second through the server."""
        return statistics.median(one.achieved for one in self.served)


@dataclass(frozen=True)
class Arrived:
    """Requests that arrived by themselves.

    Attributes:
        what: arrived, and how.
        measured: by the client.
        ideal: milliseconds of each, had an ideal server had them.
    """

    what: str
    measured: Measured
    ideal: Sequence[float]


@dataclass(frozen=True)
class Scaled:
    """A point of a curve: so many clients, or workers with so many threads each."""

    count: int
    measured: Measured
    threads: int = 0


@dataclass(frozen=True)
class Delayed:
    """One round with the wait for company that is shipped, and with another."""

    clients: int
    shipped: Measured
    other: Measured


def queue(due: Sequence[float], costs: Sequence[float]) -> list[float]:
    """Milliseconds from when each request was due until an ideal server is done with it.

    Args:
        due: seconds, ascending.
        costs: milliseconds of each; one is done after another.
    """
    free, found = 0.0, []
    for seconds, cost in zip(due, costs, strict=True):
        free = max(free, 1000 * seconds) + cost
        found.append(free - 1000 * seconds)
    return found


def compared_table(compared: Compared) -> Table:
    """Throughput in-process and through the server, round by round."""
    rows: list[list[Value]] = [
        [number, alone.rate, served.achieved, ratio, _errors(served)]
        for number, (alone, served, ratio) in enumerate(
            zip(compared.alone, compared.served, compared.ratios, strict=True), start=1
        )
    ]
    ratio = statistics.median(compared.ratios)
    verdict = "met" if ratio >= RATIO_AIM else "missed"
    columns = ["round", "in-process, 1/s", "served, 1/s", "ratio", "errors"]
    note = (
        f"**Ratio {ratio:.2f}** (median; {min(compared.ratios):.2f} to {max(compared.ratios):.2f});"
        f" the aim of {RATIO_AIM:g} is {verdict}. As many clients as workers: one. A round is one "
        "deck of the mix of sizes, the same both times."
    )
    title = f"{compared.server}: throughput beside the pipeline in-process"
    return Table(title, columns, rows, note, Plot("round", columns[1:3], "photographs a second"))


def stages_table(compared: Compared) -> Table:
    """Where the time of a photograph goes, in-process and through the server."""
    rows: list[list[Value]] = []
    alone_sum = served_sum = 0.0
    told = compared.served[0].stages
    for stage in compared.alone[0].stages:
        alone = statistics.median(one.stages[stage] for one in compared.alone)
        served = statistics.median(one.stages[stage] for one in compared.served) if told else None
        rows.append([stage, alone, served, None if served is None else served - alone])
        alone_sum, served_sum = alone_sum + alone, served_sum + (served or 0.0)
    whole = statistics.median(1000 / one.rate for one in compared.alone)
    total = statistics.median(1000 / one.achieved for one in compared.served)
    answer = statistics.median(statistics.mean(one.times) for one in compared.served)
    around = answer - served_sum if told else None
    rest = whole - alone_sum
    more = None if around is None else around - rest
    rows.append(["around them", rest, around, more])
    rows.append(["between two requests", 0.0, total - answer, total - answer])
    rows.append(["all", whole, total, total - whole])
    differences = [(float(row[3]), row[0]) for row in rows[:-1] if isinstance(row[3], float)]
    most, where = max(differences)
    note = (
        f"Mean of a photograph, median of the rounds. Most is added in: {where}, {most:.1f} ms. "
        "Around them: from the request to the reply, less the pipeline's own stages."
    )
    if not told:
        note += " This server doesn't tell its stages."
    columns = ["stage", "in-process, ms", "served, ms", "added, ms"]
    title = f"{compared.server}: where the time of a photograph goes"
    return Table(title, columns, rows, note, Plot("stage", columns[1:3], "ms"))


def arrivals_table(server: str, found: Sequence[Arrived]) -> Table:
    """Times at part of the throughput, beside those of an ideal server."""
    columns = [
        *("arrivals", "offered, 1/s", "achieved, 1/s", "p50, ms", "p99, ms", "p99 / p50"),
        *("ideal p50, ms", "ideal p99, ms", "ideal p99 / p50", "replies", "errors"),
    ]
    rows: list[list[Value]] = []
    for one in found:
        times = one.measured
        p50, p99 = times.quantile(0.5), times.quantile(0.99)
        best = Measured("", None, 0.0, list(one.ideal), {})
        least, most = best.quantile(0.5), best.quantile(0.99)
        rows.append([one.what, times.offered, times.achieved, p50, p99, p99 / p50])
        rows[-1].extend([least, most, most / least, len(times.times), _errors(times)])
    verdicts = "; ".join(
        f"{row[0]}: {'met' if isinstance(row[5], float) and row[5] < TAIL_AIM else 'missed'}"
        + ("" if isinstance(row[8], float) and row[8] < TAIL_AIM else ", as by the ideal server")
        for row in rows
    )
    note = (
        f"At 70 % of the throughput with one client; p99 / p50 under {TAIL_AIM:g} is {verdicts}. "
        "Times count from when a request was due. The ideal server has the same arrivals, takes "
        "each photograph's time in-process and not a moment more, and does one after another: its "
        "ratio is the queue's and the mix's own."
    )
    title = f"{server}: times at 70 % of the throughput"
    plot = Plot("arrivals", ["p50, ms", "p99, ms", "ideal p50, ms", "ideal p99, ms"], "ms")
    return Table(title, columns, rows, note, plot)


def clients_table(server: str, found: Sequence[Scaled]) -> Table:
    """Throughput and times against clients."""
    columns = ["clients", *_COLUMNS]
    note = stops("clients", found) + f" {_BUSY}"
    plot = Plot("clients", ["photographs a second"], "photographs a second")
    rows = [[one.count, *_row(one.measured)] for one in found]
    return Table(f"{server}: growth with clients", columns, rows, note, plot)


def workers_table(server: str, found: Sequence[Scaled]) -> Table:
    """The same against workers."""
    columns = ["workers", "threads of each", *_COLUMNS]
    note = f"Eight clients, or twice as many as workers. {stops('workers', found)} {_BUSY}"
    plot = Plot("workers", ["photographs a second"], "photographs a second")
    rows = [[one.count, one.threads, *_row(one.measured)] for one in found]
    return Table(f"{server}: growth with workers", columns, rows, note, plot)


def delays_table(server: str, milliseconds: int, found: Sequence[Delayed]) -> Table:
    """Throughput with the wait for company that is shipped, and with another."""
    rows: list[list[Value]] = []
    said = []
    for count in dict.fromkeys(one.clients for one in found):
        pairs = [(d.shipped, d.other) for d in found if d.clients == count]
        shipped, other = (
            statistics.median(m.achieved for m in ones) for ones in zip(*pairs, strict=True)
        )
        ratios = [theirs.achieved / ours.achieved for ours, theirs in pairs]
        ratio = statistics.median(ratios)
        rows.append([count, shipped, other, ratio, min(ratios), max(ratios)])
        said.append(f"{ratio:.2f} times as fast with {count} client{'' if count == 1 else 's'}")
    columns = ["clients", "as shipped, 1/s", f"{milliseconds} ms, 1/s"]
    note = (
        f"With a wait of {milliseconds} ms: {', '.join(said)} (medians of the rounds; the last "
        "two columns are their lowest and highest). What is shipped: `maxBatchDelay` in "
        "`handlers/torchserve/model-config.yaml`."
    )
    title = f"{server}: the wait for company"
    plot = Plot("clients", columns[1:], "photographs a second")
    return Table(title, [*columns, "ratio", "lowest", "highest"], rows, note, plot)


_COLUMNS = ("photographs a second", "p50, ms", "p99, ms", "cores in use", "by the load", "errors")
_BUSY = (
    "Cores in use are the machine's, by whatever runs on it, 1 being all; by the load: the share "
    "that the clients' own process took."
)


def _row(one: Measured) -> list[Value]:
    times: list[Value] = [one.quantile(q) if one.times else None for q in (0.5, 0.99)]
    return [one.achieved, *times, one.busy, one.client, _errors(one)]


def _errors(one: Measured) -> str:
    return ", ".join(f"{kind}: {count}" for kind, count in one.errors.items()) or "none"


def stops(what: str, found: Sequence[Scaled]) -> str:
    """Where a curve stops rising, and what the cores say of why."""
    best = max(one.measured.achieved for one in found)
    knee = next(one for one in found if one.measured.achieved >= NEAR_BEST * best)
    busy = knee.measured.busy
    if knee is found[-1] and len(found) > 1:
        said = f"It still rises at {knee.count} {what}, the most that was measured"
    elif knee.count == 1:
        said = f"One of the {what} does what more of them do, within {1 - NEAR_BEST:.0%}"
    else:
        said = f"It stops rising at {knee.count} {what}"
    if busy >= FULL:
        return f"{said}: the cores are full there ({busy:.0%} in use)."
    return (
        f"{said}; {busy:.0%} of the cores are in use there, so what is left idle waits for one "
        "photograph's decoding, or its end, on a single core."
    )

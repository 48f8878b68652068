"""What serving costs: TorchServe, and Triton where it is installed, beside the pipeline in-process.

Starts each server itself, on free ports of this machine. In one run: the same photographs through
the pipeline in a process of its own and through the server with as many clients as workers, in
turn, several rounds; arrivals at 70 % of what the server then did; curves against clients and
against workers, with where each stops rising; a longer wait for company. About 9 minutes on 2
cores.
"""

from __future__ import annotations

import argparse
import random
import signal
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

import colorizer
from benchmarks import findings, results, servers
from benchmarks.direct import Direct, Round, direct
from benchmarks.findings import Arrived, Compared, Delayed, Scaled
from benchmarks.load import load_of, say
from benchmarks.measured import Measured
from benchmarks.pictures import Photograph, load_mix
from benchmarks.results import Table
from benchmarks.servers import Changes

if TYPE_CHECKING:
    from benchmarks.steps import Load

LOAD = 0.7  # of the throughput, for arrivals
LONG = 10  # ms to wait for company, beside what is shipped
ONE_SIZE = "0.3 MP"  # the commonest of the mix


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: of server and in-process in turn.
        cards: photographs of a round; None: a whole deck, in which the mix is exact.
        seconds: of each kind of arrivals.
        clients: steps of the curve.
        workers: likewise.
        store: folder of the archive, and of Triton's repository.
    """

    rounds: int
    cards: int | None
    seconds: float
    clients: list[int]
    workers: list[int]
    store: Path = servers.STORE


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cores = psutil.cpu_count() or 1
    doubled = [1 << k for k in range(cores.bit_length())]
    add = parser.add_argument
    add("--version", action="version", version=colorizer.__version__)
    add("--servers", nargs="+", choices=servers.NAMES, help="(default: those that are installed)")
    add("--rounds", type=int, default=4, help="(default: %(default)s)")
    add("--seconds", type=float, default=30.0, help="of arrivals (default: %(default)s)")
    add("--clients", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="(default: %(default)s)")
    add("--workers", type=int, nargs="+", default=doubled, help="(default: %(default)s)")
    add("--store", type=Path, default=servers.STORE, help="colorize.mar and triton/ (model_store)")
    add("--json", type=Path, metavar="FILE", help="save the tables there too")
    add("--quick", action="store_true", help="smallest sizes: shows that it works, and no more")
    options = parser.parse_args(arguments)
    if min(options.rounds, *options.clients, *options.workers) < 1 or options.seconds <= 0:
        parser.error("--rounds, --seconds, --clients and --workers must be above 0")
    store = options.store
    sizes = Sizes(options.rounds, None, options.seconds, options.clients, options.workers, store)
    if options.quick:
        sizes = Sizes(1, 3, 2.0, [1, 2], [1], store)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the servers too
    tables = measure(options.servers, sizes)
    errors = (servers.NoServer,)
    return results.carry_out("benchmarks.serving", options.json, arguments, tables, errors)


def measure(names: Sequence[str] | None, sizes: Sizes) -> Iterator[Table]:
    """Measure each server, and give the tables as they come.

    Raises:
        NoServer: if one that was asked for can't be started, or none can.
    """
    why = {name: servers.missing(name, sizes.store) for name in servers.NAMES}
    chosen = names or [name for name in servers.NAMES if not why[name]]
    if not chosen:
        raise servers.NoServer("; ".join(why.values()))
    for name in servers.NAMES:
        if name not in chosen:
            say(f"left out: {name}; {why[name] or 'it was not asked for'}")
    for name in chosen:
        say(f"{name}: starting ...")
        archive = sizes.store / servers.ARCHIVE
        with servers.served(name, store=sizes.store) as url, direct(archive) as pipeline:
            load = load_of(url, sizes.seconds)
            load.warm_up()
            compared = in_turn(name, load, pipeline, sizes)
            yield findings.compared_table(compared)
            yield findings.stages_table(compared)
            yield findings.arrivals_table(name, arrivals(url, load, compared, pipeline, sizes))
            yield findings.clients_table(name, clients(load, sizes))
            say(f"{name}: starting another, with a longer wait for company ...")
            with servers.served(name, Changes(delay=LONG), sizes.store) as other:
                long = load_of(other, sizes.seconds)
                long.warm_up()
                yield findings.delays_table(name, LONG, delays(name, load, long, sizes))
        yield findings.workers_table(name, workers(name, sizes))


def in_turn(name: str, load: Load, pipeline: Direct, sizes: Sizes) -> Compared:
    """The same photographs in-process and through the server, in turn."""
    cards = load.cards()[: sizes.cards]
    places = [load.photographs.index(card) for card in cards]
    pipeline.colorize(places[:2])  # warms up, as the server has
    alone: list[Round] = []
    served: list[Measured] = []
    for number in range(1, sizes.rounds + 1):
        say(f"{name}: round {number} of {sizes.rounds}, in-process")
        alone.append(pipeline.colorize(places))
        say(f"{name}: round {number} of {sizes.rounds}, through the server")
        served.append(load.errands(1, cards))
    return Compared(name, alone, served)


def arrivals(
    url: str, load: Load, compared: Compared, pipeline: Direct, sizes: Sizes
) -> list[Arrived]:
    """Requests at LOAD of the throughput: of the mix and of one size, by chance and evenly.

    Each beside an ideal server, which has the same arrivals, takes each photograph's time
    in-process, and does one after another: what a queue alone makes of the times.
    """
    photographs, _ = load_mix()
    costs: dict[str, list[float]] = {}
    for card, times in zip(
        load.cards(), zip(*(one.times for one in compared.alone), strict=True), strict=False
    ):
        costs.setdefault(card.name, []).extend(times)
    cost = {name: statistics.median(times) for name, times in costs.items()}
    found = [arrived("mix, Poisson", load, LOAD * compared.rate, cost)]
    same = [one for one in load.photographs if one.name == ONE_SIZE]
    single = load_of(url, sizes.seconds, (same, [1 / len(same)] * len(same)))
    cards = single.cards() * (1 if sizes.cards else 5)
    rate = LOAD * single.errands(1, cards).achieved
    places = [[p.body for p in photographs].index(card.body) for card in cards]
    cost = {ONE_SIZE: statistics.median(pipeline.colorize(places).times)}
    found.append(arrived(f"{ONE_SIZE}, Poisson", single, rate, cost))
    found.append(arrived(f"{ONE_SIZE}, evenly spaced", single, rate, cost, even=True))
    return found


def arrived(
    what: str, load: Load, rate: float, cost: dict[str, float], even: bool = False
) -> Arrived:
    """One kind of arrivals, through the server and through the ideal one."""
    from benchmarks.locustfile import SEED, endless

    measured = load.open(rate, even)
    order = endless(random.Random(SEED))
    due = load.due(rate, even)
    served: list[Photograph] = [next(order) for _ in due]
    ideal = findings.queue(due, [cost[one.name] for one in served])
    return Arrived(what, measured, ideal)


def delays(name: str, load: Load, long: Load, sizes: Sizes) -> list[Delayed]:
    """The same photographs through a server and through one with a longer wait, in turn."""
    found = []
    cards = load.cards()[: sizes.cards]
    for users in sizes.clients[:1] + sizes.clients[3:4]:
        rounds = max(1, sizes.rounds // 2)
        for number in range(1, rounds + 1):
            say(f"{name}: {users} clients, round {number} of {rounds}, with each wait")
            shipped, other = load.errands(users, cards), long.errands(users, cards)
            found.append(Delayed(users, shipped, other))
    return found


def clients(load: Load, sizes: Sizes) -> list[Scaled]:
    """Throughput and times against clients."""
    cards = load.cards()[: sizes.cards]
    return [Scaled(n, load.errands(n, cards * (1 if sizes.cards else 2))) for n in sizes.clients]


def workers(name: str, sizes: Sizes) -> list[Scaled]:
    """The same against workers, the cores shared out among them."""
    found = []
    for count in sizes.workers:
        threads = max(1, (psutil.cpu_count() or 1) // count)
        say(f"{name}: starting {count} workers with {threads} threads each ...")
        with servers.served(name, Changes(count, threads), sizes.store) as url:
            load = load_of(url, sizes.seconds)
            load.warm_up()
            cards = load.cards()[: sizes.cards]
            load.errands(count, cards[: 4 * count])  # every worker's first pictures
            found.append(Scaled(count, load.errands(max(8, 2 * count), cards * 2), threads))
    return found


if __name__ == "__main__":
    sys.exit(main())

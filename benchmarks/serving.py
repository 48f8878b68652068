"""Load TorchServe and Triton with Locust: beside the pipeline in-process, closed and open loop.

Without --url each server that is installed is started on free ports of this machine. In one run:

in-process: the same photographs through the pipeline in this process, and through the server by
one client, in turn.
closed loop: users who each post as soon as their last photograph is back.
open loop: requests that arrive by themselves (Poisson), whether the server keeps up or not. Times
count from when a request was due.

The GPU's utilization is sampled where nvidia-smi is there. Client and server share the machine
where both run on it; the figures are then of both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import results, samples, servers
from benchmarks.results import Table, Unusable, Value, say
from colorizer.api import Colorizer
from colorizer.graph import BadGraph

MODULE = "benchmarks.serving"
LOADS = (0.5, 0.7, 0.9, 1.1)  # of the closed loop's best throughput: the open loop's rates
WARM_UP_SECONDS = 3.0
COLUMNS = (
    *("offered, 1/s", "achieved, 1/s", "p50, ms", "p95, ms", "p99, ms", "cores busy"),
    *("by the client", "GPU busy", "GPU, MiB", "errors"),
)


@dataclass(frozen=True)
class Step:
    """One step of load.

    Attributes:
        users: of a closed loop.
        offered: requests a second that were due, of an open loop.
        achieved: good replies a second, from the first request to the last reply.
        times: milliseconds of every good reply.
        errors: kind -> count.
        busy: share of the machine's cores in use, 0..1, by whatever runs on it.
        client: share of the cores that the load itself used, 0..1.
        inside: mean milliseconds in the pipeline's own stages (Server-Timing); 0: not reported.
        gpu: mean utilization of the busiest GPU, 0..1; None without one.
        memory: the most that was used of a GPU, in MiB; None without one.
    """

    users: int | None
    offered: float | None
    achieved: float
    times: list[float]
    errors: dict[str, int]
    busy: float
    client: float
    inside: float
    gpu: float | None = None
    memory: float | None = None

    def quantile(self, share: float) -> float:
        """Milliseconds within which this share of the good replies came; NaN without any."""
        ordered = sorted(self.times)
        if not ordered:
            return float("nan")
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    def meets(self, max_p99: float | None, max_errors: float | None) -> bool:
        """Check the step against gates; a step without a good reply meets none."""
        bad = sum(self.errors.values())
        in_time = max_p99 is None or self.quantile(0.99) <= max_p99
        share = bad / max(1, bad + len(self.times))
        return bool(self.times) and in_time and (max_errors is None or share <= max_errors)

    def row(self) -> list[Value]:
        """Format as a row of COLUMNS."""
        shares = 0.5, 0.95, 0.99
        quantiles: list[Value] = [self.quantile(q) if self.times else None for q in shares]
        errors = ", ".join(f"{kind}: {count}" for kind, count in self.errors.items()) or "none"
        tail: list[Value] = [self.busy, self.client, self.gpu, self.memory, errors]
        return [self.offered, self.achieved, *quantiles, *tail]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; returns the exit code, 1 where a gate is missed."""
    parser = results.parser(MODULE, __doc__)
    add = parser.add_argument
    add("--url", help="of a network on a running server; Triton's ends in /infer")
    add("--servers", nargs="+", choices=servers.NAMES, help="to start (default: all installed)")
    add("--store", type=Path, default=servers.STORE, help="colorize.mar and triton/ (model_store)")
    add("--rounds", type=results.positive, default=3, help="beside in-process (%(default)s)")
    add("--users", type=results.positive, nargs="+", help="of the closed loop (default: 1 2 4 8)")
    add("--rate", type=float, nargs="+", help="requests a second of the open loop (default: "
        "50, 70, 90 and 110 %% of the closed loop's best)")  # fmt: skip
    add("--seconds", type=float, default=15.0, help="of a step (default: %(default)g)")
    add("--photos", type=Path, help="folder to post from (default: samples in a mix of sizes)")
    add("--max-p99", type=float, metavar="MS", help="gate: exit code 1 if a step is slower")
    add("--max-errors", type=float, metavar="SHARE", help="gate: likewise, of all requests")
    options = parser.parse_args(arguments)
    options.users = options.users or ([1, 2] if options.quick else [1, 2, 4, 8])
    if options.quick:
        options.rounds, options.seconds = 1, 2.0
    if options.url:
        url = urlsplit(options.url)
        if url.scheme not in ("http", "https") or not url.path.strip("/"):
            parser.error(f"--url must be that of a network, not {options.url!r}")
    if options.seconds <= 0 or min(options.rate or [1]) <= 0:
        parser.error("--seconds and --rate must be above 0")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the server, too
    steps: list[Step] = []
    code = results.carry_out(MODULE, options.json, arguments, measure(options, steps), (BadGraph,))
    gates = options.max_p99, options.max_errors
    return code or int(not all(step.meets(*gates) for step in steps))


def measure(options: argparse.Namespace, steps: list[Step]) -> Iterator[Table]:
    """Measure each server; the steps of the loops are added to `steps`.

    Raises:
        Unusable: if a server can't be started or gives no colours.
    """
    if options.url:
        warm_up(options.url, options)
        yield from loops(options.url, options.url, options, steps)
        return
    why = {name: servers.missing(name, options.store) for name in servers.NAMES}
    chosen = options.servers or [name for name in servers.NAMES if not why[name]]
    if not chosen:
        raise Unusable("; ".join(why.values()))
    for name in chosen:
        say(f"{name}: starting")
        with servers.served(name, options.store) as url:
            warm_up(url, options)
            yield beside(name, url, options)
            yield from loops(name, url, options, steps)
    for name in set(servers.NAMES) - set(chosen):
        print(f"left out: {name}; {why[name] or 'not asked for'}", file=sys.stderr)


def beside(name: str, url: str, options: argparse.Namespace) -> Table:
    """Time the same photographs in-process and through the server, in turn."""
    network = Colorizer(options.store / servers.ARCHIVE)
    photographs = samples.shuffled(samples.load(options.photos), random.Random(samples.SEED))
    photographs = photographs[: 3 if options.quick else None]
    network.colorize(photographs[0].body)  # warms up, as the server has
    rows: list[list[Value]] = []
    for number in range(1, options.rounds + 1):
        say(f"{name}: round {number} of {options.rounds}, in-process and served")
        start = time.perf_counter()
        for photograph in photographs:
            network.colorize(photograph.body)
        alone = len(photographs) / (time.perf_counter() - start)
        step = load(url, options, once=len(photographs))
        inside = step.inside or None
        around = statistics.mean(step.times) - inside if inside and step.times else None
        rows.append([number, alone, step.achieved, step.achieved / alone, inside, around])
        rows[-1].append(step.row()[-1])
    ratios = [float(row[3] or 0) for row in rows]
    columns = ["round", "in-process, 1/s", "served, 1/s", "ratio", "in the pipeline, ms"]
    return Table(
        f"{name}: throughput beside the pipeline in-process",
        [*columns, "around it, ms", "errors"],
        rows,
        f"**Ratio {statistics.median(ratios):.2f}** (median; {min(ratios):.2f} to "
        f"{max(ratios):.2f}). {len(photographs)} photographs, one client. In the pipeline: mean of "
        "its stages inside the server, where it reports them; around it: the rest of the reply's "
        "time, that is HTTP, the server's front end, the batching delay and its processes.",
    )


def loops(name: str, url: str, options: argparse.Namespace, steps: list[Step]) -> Iterator[Table]:
    """Run the closed loop at each number of users, then the open loop at each rate."""
    words = f"{options.photos or 'The stated mix of sizes'}, {options.seconds:g} s a step."
    closed = []
    for users in options.users:
        say(f"{name}: {users} users")
        closed.append(load(url, options, users=users, seconds=options.seconds))
    steps += closed
    rows = [[one.users, *one.row()[1:]] for one in closed]
    yield Table(f"{name}: closed loop", ["users", *COLUMNS[1:]], rows, f"{words} {_SHARES}")
    best = max(one.achieved for one in closed)
    if not best:  # the table says why
        return
    opened = []
    loads = LOADS[: 1 if options.quick else None]
    for rate in options.rate or [share * best for share in loads]:
        say(f"{name}: {rate:.2f} requests a second")
        opened.append(load(url, options, rate=rate, seconds=options.seconds))
    steps += opened
    yield Table(
        f"{name}: open loop",
        COLUMNS,
        [one.row() for one in opened],
        f"{words} Poisson arrivals; times count from when a request was due. {_SHARES}",
    )


_SHARES = (
    "Cores busy is the share of the machine's cores in use, by whatever runs on it; by the client, "
    "the share that the load itself took."
)


def warm_up(url: str, options: argparse.Namespace) -> None:
    """Post for a moment, which is not counted.

    Raises:
        Unusable: if nothing comes back in colour.
    """
    step = load(url, options, seconds=min(WARM_UP_SECONDS, options.seconds))
    if not step.times:
        kinds = ", ".join(step.errors) or "no reply"
        raise Unusable(f"{url} gives no colours ({kinds}): start it with make serve")


def load(url: str, options: argparse.Namespace, **step: Any) -> Step:
    """Run one step of load in a process of its own.

    Raises:
        Unusable: if that fails.
    """
    given = {"url": url, "photos": str(options.photos) if options.photos else None, **step}
    command = [sys.executable, "-m", "benchmarks.locustfile", json.dumps(given)]
    with gpu() as samples_of:
        done = subprocess.run(command, cwd=servers.ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Unusable("the load ended early; its message is above")
    busy, memory = usage(samples_of)
    return Step(**json.loads(done.stdout.splitlines()[-1]), gpu=busy, memory=memory)


@contextlib.contextmanager
def gpu() -> Iterator[list[str]]:
    """Sample GPUs by nvidia-smi until the block ends; gives its lines then, none without it."""
    lines: list[str] = []
    if not shutil.which("nvidia-smi"):
        yield lines
        return
    command = ["nvidia-smi", "--query-gpu=index,utilization.gpu,memory.used"]
    command += ["--loop-ms=200"]
    with subprocess.Popen(
        [*command, "--format=csv,noheader,nounits"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield lines
        finally:
            process.terminate()
            lines += process.communicate()[0].splitlines()


def usage(lines: Sequence[str]) -> tuple[float | None, float | None]:
    """Summarize lines "index, percent, MiB": `gpu` and `memory` of a Step."""
    busy: dict[str, list[float]] = {}
    memory = []
    for line in lines:
        index, percent, used = (*line.split(", "), "", "")[:3]
        if percent.isdigit() and used.isdigit():
            busy.setdefault(index, []).append(float(percent) / 100)
            memory.append(float(used))
    return max(map(statistics.mean, busy.values()), default=None), max(memory, default=None)


if __name__ == "__main__":
    sys.exit(main())

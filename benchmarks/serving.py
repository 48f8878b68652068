"""Load TorchServe and Triton with Locust, in a closed and in an open loop.

Without --url each server that is installed is started on free ports of this machine.

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
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import results, servers
from benchmarks.results import Table, Unusable, Value, say

MODULE = "benchmarks.serving"
LOCUSTFILE = Path(__file__).with_name("locustfile.py")
LOADS = (0.5, 0.7, 0.9, 1.1)  # of the closed loop's best throughput: the open loop's rates
WARM_UP_SECONDS = 3
COLUMNS = (
    *("offered, 1/s", "achieved, 1/s", "p50, ms", "p95, ms", "p99, ms", "in the pipeline, ms"),
    *("cores busy", "by the client", "GPU busy", "GPU, MiB", "errors"),
)
NOTE = (
    "{photos}, {seconds} s a step.{arrivals} In the pipeline: mean of its stages inside the "
    "server, where it reports them; the rest of the time is HTTP, the server's front end, waiting, "
    "and its processes. Cores busy: share of the machine's cores in use, by whatever runs on it; "
    "by the client: the share that the load itself took."
)


@dataclass(frozen=True)
class Step:
    """One step of load.

    Attributes:
        offered: requests a second that were due, of an open loop.
        achieved: good replies a second, from the first request to the last reply.
        quantiles: milliseconds within which 50, 95 and 99% of the good replies came.
        inside: mean milliseconds in the pipeline's own stages (Server-Timing), if reported.
        errors: kind -> count.
        busy: share of the machine's cores in use, 0..1, by whatever runs on it.
        client: share of the cores that the load itself used, 0..1.
        gpu: mean utilization of the busiest GPU, 0..1; None without one.
        memory: the most that was used of a GPU, in MiB; None without one.
    """

    offered: float | None
    achieved: float
    quantiles: Sequence[float | None]
    inside: float | None
    errors: dict[str, int]
    busy: float
    client: float
    gpu: float | None = None
    memory: float | None = None

    def row(self) -> list[Value]:
        """Format as a row of COLUMNS."""
        errors = ", ".join(f"{kind}: {count}" for kind, count in self.errors.items()) or "none"
        shares = [self.inside, self.busy, self.client, self.gpu, self.memory]
        return [self.offered, self.achieved, *self.quantiles, *shares, errors]


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; returns the exit code."""
    parser = results.parser(MODULE, __doc__)
    add = parser.add_argument
    add("--url", help="of a network on a running server; Triton's ends in /infer")
    add("--servers", nargs="+", choices=servers.NAMES, help="to start (default: all installed)")
    add("--store", type=Path, default=servers.STORE, help="colorize.mar and triton/ (model_store)")
    add("--users", type=results.positive, nargs="+", help="of the closed loop (default: 1 2 4 8)")
    add("--rate", type=float, nargs="+", help="requests a second of the open loop (default: "
        "50, 70, 90 and 110 %% of the closed loop's best)")  # fmt: skip
    add("--seconds", type=results.positive, default=15, help="of a step (default: %(default)s)")
    add("--photos", type=Path, help="folder to post from (default: samples in a mix of sizes)")
    options = parser.parse_args(arguments)
    options.users = options.users or ([1, 2] if options.quick else [1, 2, 4, 8])
    if options.quick:
        options.seconds = 2
    if options.url:
        url = urlsplit(options.url)
        if url.scheme not in ("http", "https") or not url.path.strip("/"):
            parser.error(f"--url must be that of a network, not {options.url!r}")
    if min(options.rate or [1]) <= 0:
        parser.error("--rate must be above 0")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the server, too
    return results.run(MODULE, options, measure(options))


def measure(options: argparse.Namespace) -> Iterator[Table]:
    """Measure each server.

    Raises:
        Unusable: if a server can't be started or gives no colours.
    """
    if options.url:
        yield from loops(options.url, options.url, options)
        return
    why = {name: servers.missing(name, options.store) for name in servers.NAMES}
    chosen = options.servers or [name for name in servers.NAMES if not why[name]]
    if not chosen:
        raise Unusable("; ".join(why.values()))
    for name in chosen:
        say(f"{name}: starting")
        with servers.served(name, options.store) as url:
            yield from loops(name, url, options)
    for name in set(servers.NAMES) - set(chosen):
        print(f"left out: {name}; {why[name] or 'not asked for'}", file=sys.stderr)


def loops(name: str, url: str, options: argparse.Namespace) -> Iterator[Table]:
    """Run the closed loop at each number of users, then the open loop at each rate.

    Raises:
        Unusable: if nothing comes back in colour.
    """
    warm_up = load(url, options, min(WARM_UP_SECONDS, options.seconds))
    if not warm_up.achieved:
        kinds = ", ".join(warm_up.errors) or "no reply"
        raise Unusable(f"{url} gives no colours ({kinds}): start it with make serve")
    words = {"photos": options.photos or "The stated mix of sizes", "seconds": options.seconds}
    closed = []
    for users in options.users:
        say(f"{name}: {users} users")
        closed.append(load(url, options, options.seconds, users=users))
    rows = [[users, *one.row()[1:]] for users, one in zip(options.users, closed, strict=True)]
    note = NOTE.format(**words, arrivals="")
    yield Table(f"{name}: closed loop", ["users", *COLUMNS[1:]], rows, note)
    best = max(one.achieved for one in closed)
    if not best:  # the table says why
        return
    opened = []
    loads = LOADS[: 1 if options.quick else None]
    for rate in options.rate or [share * best for share in loads]:
        say(f"{name}: {rate:.2f} requests a second")
        opened.append(load(url, options, options.seconds, rate=rate))
    arrivals = " Poisson arrivals; times count from when a request was due."
    note = NOTE.format(**words, arrivals=arrivals)
    yield Table(f"{name}: open loop", COLUMNS, [one.row() for one in opened], note)


def load(
    url: str, options: argparse.Namespace, seconds: int, users: int = 1, rate: float | None = None
) -> Step:
    """Run one step of load by Locust, in a closed loop, or with a rate in an open one.

    Raises:
        Unusable: if that fails.
    """
    parts = urlsplit(url)
    with tempfile.TemporaryDirectory(prefix="load-") as folder, gpu() as sampled:
        figures = Path(folder, "figures.json")
        command = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--headless"]
        command += ["--skip-log-setup", "--exit-code-on-error=0", "--stop-timeout=60"]
        command += [f"--host={parts.scheme}://{parts.netloc}", f"--path={parts.path}"]
        command += [f"--users={users}", f"--spawn-rate={users}", f"--run-time={seconds}s"]
        command += [f"--pictures={options.photos.resolve()}"] if options.photos else []
        command += [f"--rate={rate}"] if rate else []
        # Locust's summary goes the way of its log; what fails is in the figures.
        done = subprocess.run(
            [*command, f"--figures={figures}"], cwd=servers.ROOT, stdout=subprocess.DEVNULL
        )
        if done.returncode or not figures.exists():
            raise Unusable("the load ended early; its message is above")
        found = json.loads(figures.read_text())
    busy, memory = usage(sampled)
    return Step(**found, gpu=busy, memory=memory)


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

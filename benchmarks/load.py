"""Load a running server, and say what it bears.

closed: users who each post a photograph as soon as the last is back, by steps. open: requests that
arrive by themselves (Poisson), whether the server keeps up or not; times count from when a request
was due. limit: the highest open rate whose 99th percentile stays under a bound.

Client and server share the machine where both run on it; the figures are then of both.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import colorizer
from benchmarks import results, servers
from benchmarks.measured import COLUMNS, Measured, meets
from benchmarks.pictures import Photograph
from benchmarks.results import Plot, Table
from colorizer.files import write_whole

if TYPE_CHECKING:
    from benchmarks.steps import Load

SECONDS = 15.0  # of a step: some ten replies of a slow server
QUICK_SECONDS = 2.0
HALVINGS = 4  # of limit: the highest rate is known to a 16th part


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; returns the exit code, 1 where a gate is not met."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=colorizer.__version__)
    add("mode", choices=["closed", "open", "limit"])
    add(
        "--url",
        default="http://127.0.0.1:8080/predictions/colorize",
        help="of a network; Triton's ends in /infer (default: %(default)s)",
    )
    add("--start", choices=servers.NAMES, help="start this server for the measurement, not --url")
    add("--users", type=int, nargs="+", default=[1, 2, 4, 8], help="steps of closed")
    add("--rate", type=float, nargs="+", default=[1.0], help="requests a second, steps of open")
    add("--seconds", type=float, help=f"of each step (default: {SECONDS:g})")
    add("--pictures", type=Path, help="folder to post from, instead of the stated mix")
    add("--max-p99", type=float, help="milliseconds: the bound of limit, a gate of the others")
    add("--max-errors", type=float, default=0.0, help="share of requests, a gate (default: 0)")
    add("--json", type=Path, metavar="FILE", help="save the table there too")
    add("--raw", type=Path, metavar="FILE", help="save every request's time there, as JSON")
    add("--quick", action="store_true", help=f"steps of {QUICK_SECONDS:g} s: shows that it works")
    options = parser.parse_args(arguments)
    url = urlsplit(options.url)
    if url.scheme not in ("http", "https") or not url.path.strip("/"):
        parser.error(f"--url must be that of a network, not {options.url!r}")
    if options.mode == "limit" and options.max_p99 is None:
        parser.error("limit needs the bound --max-p99")
    if options.seconds is None:
        options.seconds = QUICK_SECONDS if options.quick else SECONDS
    if options.seconds <= 0 or min(options.users) < 1 or min(options.rate) <= 0:
        parser.error("--seconds, --users and --rate must be above 0")
    if options.pictures:
        os.environ["COLORIZE_PICTURES"] = str(options.pictures)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops the server that we started
    measured: list[Measured] = []

    def tables() -> Iterator[Table]:
        with contextlib.ExitStack() as stack:
            if options.start:
                say(f"starting {options.start} ...")
                options.url = stack.enter_context(servers.served(options.start))
            steps, mix = measure(options)
        measured.extend(steps)
        yield table(options, measured, mix)
        if options.raw:
            raw = json.dumps([asdict(one) for one in measured], indent=1) + "\n"
            write_whole(options.raw, raw.encode())

    errors = (servers.NoServer,)
    code = results.carry_out("benchmarks.load", options.json, arguments, tables(), errors)
    if code:
        return code
    met = [meets(one, options.max_p99, options.max_errors) for one in measured]
    return 0 if (any(met) if options.mode == "limit" else all(met)) else 1


def load_of(
    url: str, seconds: float, photographs: tuple[list[Photograph], list[float]] | None = None
) -> Load:
    """Load for a network; Locust, which changes the sockets of this process, is imported here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it looks at every module, old corners of torch too
        from benchmarks import steps
    return steps.Load(url, seconds, say, photographs)


def measure(options: argparse.Namespace) -> tuple[list[Measured], str]:
    """Carry out the steps; gives them, and what was posted, in words.

    Raises:
        NoServer: if nothing comes back in colour.
        FileNotFoundError: if the folder of pictures holds none.
    """
    load = load_of(options.url, options.seconds)
    load.warm_up()
    if options.mode == "closed":
        measured = [load.closed(users) for users in options.users]
    elif options.mode == "open":
        measured = [load.open(rate) for rate in options.rate]
    else:
        bounds = options.max_p99, options.max_errors
        halvings = 1 if options.quick else HALVINGS
        measured = load.limit(*bounds, options.rate[0], halvings)
    return measured, load.mix_in_words()


def table(options: argparse.Namespace, measured: Sequence[Measured], mix: str) -> Table:
    """What the steps have shown."""
    note = (
        f"Posted to `{options.start or options.url}`: {mix}; {options.seconds:g} s a step. Client "
        "and server share the machine where both run on it. Times of open steps count from when a "
        "request was due."
    )
    rows = [one.row() for one in measured]
    title = {
        "closed": "Users who wait for their reply",
        "open": "Requests that arrive by themselves",
        "limit": "The highest rate within a bound",
    }[options.mode]
    x = "load"
    if options.mode == "limit":
        held = [one for one in measured if meets(one, options.max_p99, options.max_errors)]
        best = max((one.offered or 0.0 for one in held), default=0.0)
        note = f"**Highest rate within p99 {options.max_p99:g} ms: {best:.2f} a second.** {note}"
    if options.mode != "closed":
        x = "offered, 1/s"
        rows.sort(key=lambda row: float(row[1] or 0))
    return Table(title, COLUMNS, rows, note, Plot(x, COLUMNS[3:6], "ms"))


def say(text: Any) -> None:
    """Tell what happens, beside the tables."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

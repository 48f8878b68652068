"""Load a running server, and say what it bears.

closed: users who each post a photograph as soon as the last is back, by steps. open: requests that
arrive by themselves (Poisson), whether the server keeps up or not; times count from when a request
was due. limit: the highest open rate whose 99th percentile stays under a bound.

Client and server share the machine where both run on it; the figures are then of both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import colorizer
from benchmarks.measured import TABLE, meets

SECONDS = 20.0  # of a step: some ten replies of a slow server


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
    add("--users", type=int, nargs="+", default=[1, 2, 4, 8], help="steps of closed")
    add("--rate", type=float, nargs="+", default=[1.0], help="requests a second, steps of open")
    add("--seconds", type=float, default=SECONDS, help="of each step (default: %(default)s)")
    add("--pictures", type=Path, help="folder to post from, instead of the stated mix")
    add("--max-p99", type=float, help="milliseconds: the bound of limit, a gate of the others")
    add("--max-errors", type=float, default=0.0, help="share of requests, a gate (default: 0)")
    add("--out", type=Path, help="file for the raw times, as JSON")
    options = parser.parse_args(arguments)
    url = urlsplit(options.url)
    if url.scheme not in ("http", "https") or not url.path.strip("/"):
        parser.error(f"--url must be that of a network, not {options.url!r}")
    if options.mode == "limit" and options.max_p99 is None:
        parser.error("limit needs the bound --max-p99")
    if options.seconds <= 0 or min(options.users) < 1 or min(options.rate) <= 0:
        parser.error("--seconds, --users and --rate must be above 0")
    # Before locust is imported: its users are told where to post.
    os.environ["COLORIZE_PATH"] = url.path
    if options.pictures:
        os.environ["COLORIZE_PICTURES"] = str(options.pictures)
    from benchmarks import steps

    try:
        load = steps.Load(f"{url.scheme}://{url.netloc}", options.seconds, _say)
        load.warm_up()
        if options.mode == "closed":
            measured = [load.closed(users) for users in options.users]
        elif options.mode == "open":
            measured = [load.open(rate) for rate in options.rate]
        else:
            measured = load.limit(options.max_p99, options.max_errors, options.rate[0])
    except (steps.NoServer, FileNotFoundError) as error:
        print(f"load: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("load: interrupted", file=sys.stderr)
        return 130
    print(f"{options.url}, {steps.mix_in_words()}, {options.seconds:g} s a step")
    print(f"colorizer {colorizer.__version__}, {platform.machine()}, {os.cpu_count()} cores\n")
    print(TABLE)
    for one in measured:
        print(one.row())
    if options.out:
        options.out.write_text(json.dumps([asdict(one) for one in measured], indent=1) + "\n")
    if options.mode == "limit":
        held = [one for one in measured if meets(one, options.max_p99, options.max_errors)]
        best = max((one.offered or 0 for one in held), default=0.0)
        print(f"\nhighest rate within p99 {options.max_p99:g} ms: {best:.2f} a second")
        return 0 if held else 1
    return 0 if all(meets(one, options.max_p99, options.max_errors) for one in measured) else 1


def _say(text: Any) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

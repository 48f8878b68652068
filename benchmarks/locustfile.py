"""Users for Locust, who post photographs and check what comes back.

For Locust's own page: locust -f benchmarks/locustfile.py --host http://127.0.0.1:8080

Closed loop: each user posts the next photograph as soon as the last one is back. Open loop
(--rate): one user sends each request when it is due, whether the last one is back or not.
`python -m benchmarks.serving` runs Locust with this file for each step of its load.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import numpy as np
import psutil
from gevent.pool import Pool
from locust import FastHttpUser, constant, events, task
from locust.exception import StopUser

from benchmarks import samples
from benchmarks.samples import SEED, Photograph

GRACE_SECONDS = 60.0  # for the replies that are still due when a step ends

# Replies that were checked, by hash: a server gives the same bytes for the same photograph, and
# decoding them each time would take cores that the server may share.
_checked: dict[tuple[Photograph, int], str | None] = {}


def add_options(parser: Any) -> None:
    """Add this file's options to Locust's."""
    parser.add_argument("--path", default="/predictions/colorize", help="Triton's ends in /infer")
    parser.add_argument("--pictures", help="folder to post from (default: a mix of sizes)")
    parser.add_argument("--rate", type=float, help="requests a second of an open loop")
    parser.add_argument("--figures", help="file to write what was measured to, as JSON")


class Visitor(FastHttpUser):
    """Posts photographs, as --rate says."""

    wait_time = constant(0)
    network_timeout = 300.0
    concurrency = 1000  # connections: no request waits for another's reply

    def on_start(self) -> None:
        """Choose the order of this user's photographs."""
        self.options = self.environment.parsed_options
        folder, number = self.options.pictures, self.environment.runner.user_count
        self.photographs = endless(samples.load(Path(folder) if folder else None), SEED + number)

    @task
    def colorize(self) -> None:
        """Post the next photograph, or in an open loop all that are due."""
        if not self.options.rate:
            post(self, next(self.photographs))
            return
        pool, start = Pool(), time.perf_counter()
        for seconds in arrivals(self.options.rate, self.options.run_time):
            gevent.sleep(max(0.0, start + seconds - time.perf_counter()))
            pool.spawn(post, self, next(self.photographs), start + seconds)
        pool.join(timeout=GRACE_SECONDS)
        raise StopUser


def post(user: Visitor, photograph: Photograph, due: float | None = None) -> None:
    """Post a photograph, check the reply, and report both to Locust.

    Args:
        user: whose connection to use.
        photograph: what to post.
        due: when it should have been sent, by time.perf_counter. The response time counts from
            there, so that a late start is not hidden. None: from now.
    """
    start = time.perf_counter() if due is None else due
    path = user.options.path
    # Locust accepts gzip unless told otherwise, and Triton then compresses pictures, slowly.
    headers = {"Content-Type": "application/octet-stream", "Accept-Encoding": "identity"}
    if "/infer" in path:
        headers["Inference-Header-Content-Length"] = "0"  # the body is the picture, no JSON
    with user.client.post(
        path,
        data=photograph.body,  # type: ignore[arg-type]  # bytes do as well
        headers=headers,
        name=photograph.name,
        catch_response=True,
    ) as reply:
        reply.request_meta["response_time"] = 1000 * (time.perf_counter() - start)
        if reply.status_code != 200:
            status = reply.status_code
            reply.failure(f"status {status}" if status else "no connection")
            return
        body = reply.content or b""
        skip = reply.headers.get("Inference-Header-Content-Length")
        if skip is not None:  # Triton: JSON, then the picture
            body = body[int(skip) :]
        key = photograph, hash(body)
        if key not in _checked:
            _checked[key] = samples.what_is_wrong(body, photograph)
        if _checked[key]:
            reply.failure(f"reply: {_checked[key]}")


def endless(photographs: list[Photograph], seed: int) -> Iterator[Photograph]:
    """Go through the photographs on and on, shuffled each time.

    All of them come before any comes again: drawn one by one, a few large pictures more or less
    would change what a short run measures.
    """
    order = random.Random(seed)
    while True:
        yield from order.sample(photographs, len(photographs))


def arrivals(rate: float, seconds: float) -> list[float]:
    """Draw the times of a Poisson process, the same for the same rate; at least one."""
    order, now, due = random.Random(SEED), 0.0, []
    while (now := now + order.expovariate(rate)) < seconds:
        due.append(now)
    return due or [0.0]


class Figures:
    """What one run has measured: the fields of `benchmarks.serving.Step`."""

    def start(self, **_: Any) -> None:
        """Begin anew."""
        self.times: list[float] = []  # milliseconds of each good reply
        self.inside: list[float] = []  # of it in the pipeline's stages
        self.errors: Counter[str] = Counter()
        psutil.cpu_percent()  # counts from here
        self.began = self.last = time.perf_counter()
        self.used = sum(psutil.Process().cpu_times()[:2])

    def add(
        self, response_time: float, exception: Exception | None, response: Any = None, **_: Any
    ) -> None:
        """Count a reply."""
        self.last = time.perf_counter()
        if exception is None:
            self.times.append(response_time)
            self.inside.append(in_pipeline((response.headers or {}).get("Server-Timing", "")))
        else:
            self.errors[str(exception.args[0]) if exception.args else type(exception).__name__] += 1

    def write(self, environment: Any, **_: Any) -> None:
        """Write the figures, if a file is named."""
        busy, options = psutil.cpu_percent() / 100, environment.parsed_options
        if not options.figures:
            return
        due = arrivals(options.rate, options.run_time) if options.rate else []
        if (late := len(due) - len(self.times) - self.errors.total()) > 0:
            self.errors[f"no reply in {GRACE_SECONDS:g} s"] = late
        took = max(self.last - self.began, 1e-3)
        used = sum(psutil.Process().cpu_times()[:2]) - self.used
        figures = {
            "offered": len(due) / options.run_time if due else None,
            "achieved": len(self.times) / took,
            "quantiles": [
                float(np.quantile(self.times, q)) if self.times else None for q in (0.5, 0.95, 0.99)
            ],
            "inside": float(np.mean(self.inside)) if any(self.inside) else None,
            "errors": dict(self.errors.most_common()),
            "busy": busy,
            "client": used / took / (psutil.cpu_count() or 1),
        }
        Path(options.figures).write_text(json.dumps(figures))


def in_pipeline(header: str) -> float:
    """Sum the milliseconds of a header Server-Timing."""
    pairs = (one.strip().partition(";dur=") for one in header.split(",") if ";dur=" in one)
    return sum(float(value) for _, _, value in pairs)


figures = Figures()
events.init_command_line_parser.add_listener(add_options)  # type: ignore[no-untyped-call]
events.test_start.add_listener(figures.start)  # type: ignore[no-untyped-call]
events.request.add_listener(figures.add)  # type: ignore[no-untyped-call]
events.test_stop.add_listener(figures.write)  # type: ignore[no-untyped-call]

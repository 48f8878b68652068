"""Users for Locust, who post photographs and check what comes back.

For Locust's own page: locust -f benchmarks/locustfile.py --host http://127.0.0.1:8080

`python -m benchmarks.serving` runs each step of its load here, in a process of its own, since
Locust replaces the threads and sockets of the process that imports it.
"""

from __future__ import annotations

import json
import os
import random
import statistics
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about modules that were imported before
    import gevent
    import psutil
    from gevent.pool import Pool
    from locust import FastHttpUser, constant, task
    from locust.env import Environment
    from locust.exception import StopUser

from benchmarks import samples
from benchmarks.samples import SEED, Photograph

GRACE_SECONDS = 60.0  # for the replies that are still due when a step ends

# Replies that were checked, by hash: a server gives the same bytes for the same photograph, and
# decoding them each time would take cores that the server may share.
_checked: dict[tuple[Photograph, int], str | None] = {}


def post(user: Visitor, photograph: Photograph, scheduled: float | None = None) -> None:
    """Post a photograph, check the reply, and report both to Locust.

    Args:
        user: whose connection to use.
        photograph: what to post.
        scheduled: when it should have been sent, by time.perf_counter. The response time counts
            from there, so that a late start is not hidden. None: from now.
    """
    start = time.perf_counter() if scheduled is None else scheduled
    headers = {"Content-Type": "application/octet-stream"}
    if "/infer" in user.path:
        headers["Inference-Header-Content-Length"] = "0"  # the body is the picture, no JSON
    with user.client.post(
        user.path,
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


class Visitor(FastHttpUser):
    """Closed loop: posts one photograph after another, each as soon as the last is back.

    Attributes:
        path: where the network answers, below --host. Triton's is /v2/models/colorize/infer.
        photographs: what to post.
        once: photographs that all users post between them, once; None: they go on and on.
    """

    wait_time = constant(0)
    network_timeout = 300.0
    path: ClassVar[str] = os.environ.get("COLORIZE_PATH", "/predictions/colorize")
    photographs: ClassVar[list[Photograph]] = []
    once: ClassVar[Iterator[Photograph] | None] = None

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        if not Visitor.photographs:
            folder = os.environ.get("COLORIZE_PICTURES")
            Visitor.photographs = samples.load(Path(folder) if folder else None)
        number = environment.runner.user_count if environment.runner else 0
        self.own = endless(SEED + number)

    @task
    def colorize(self) -> None:
        """Post the next photograph."""
        photograph = next(self.own if self.once is None else self.once, None)
        if photograph is None:
            raise StopUser
        post(self, photograph)


class Arrivals(Visitor):
    """Open loop: sends each request when it is due, whether the last is back or not."""

    abstract = True  # not for Locust's own page
    concurrency = 1000  # connections: no request waits for another's reply
    due: ClassVar[list[float]] = []  # seconds from the start

    @task
    def colorize(self) -> None:
        """Send all requests that are due, and end."""
        pool = Pool()
        start = time.perf_counter()
        photographs = endless(SEED)
        for seconds in self.due:
            gevent.sleep(max(0.0, start + seconds - time.perf_counter()))
            pool.spawn(post, self, next(photographs), start + seconds)
        pool.join(timeout=GRACE_SECONDS)
        raise StopUser


def endless(seed: int) -> Iterator[Photograph]:
    """Go through the photographs on and on, shuffled each time."""
    order = random.Random(seed)
    while True:
        yield from samples.shuffled(Visitor.photographs, order)


def arrivals(rate: float, seconds: float) -> list[float]:
    """Draw the times of a Poisson process, the same for the same rate; at least one."""
    order, now, due = random.Random(SEED), 0.0, []
    while (now := now + order.expovariate(rate)) < seconds:
        due.append(now)
    return due or [0.0]


def run(
    url: str,
    photos: str | None,
    users: int = 1,
    seconds: float | None = None,
    rate: float | None = None,
    once: int | None = None,
) -> dict[str, Any]:
    """Run one step of load.

    Args:
        url: of a network.
        photos: folder to post from; None: the stated mix.
        users: of the closed loop.
        seconds: of the step; None: until all of `once` are posted.
        rate: requests a second of an open loop, in place of users.
        once: post this many photographs, once.

    Returns:
        The fields of `benchmarks.serving.Step`.
    """
    parts = urlsplit(url)
    Visitor.path, Visitor.photographs = parts.path, samples.load(Path(photos) if photos else None)
    Arrivals.due = arrivals(rate, seconds) if rate and seconds else []
    if once:
        Visitor.once = iter(samples.shuffled(Visitor.photographs, random.Random(SEED))[:once])
    kind = Arrivals if rate else Visitor
    host = f"{parts.scheme}://{parts.netloc}"
    environment = Environment(user_classes=[kind], host=host, stop_timeout=GRACE_SECONDS)
    times: list[float] = []
    errors: Counter[str] = Counter()
    inside: list[float] = []
    last = 0.0

    def heard(
        response_time: float, exception: Exception | None, response: Any = None, **_: Any
    ) -> None:
        nonlocal last
        last = time.perf_counter()
        if exception is None:
            times.append(response_time)
            inside.append(in_pipeline((response.headers or {}).get("Server-Timing", "")))
        else:
            errors[str(exception.args[0]) if exception.args else type(exception).__name__] += 1

    environment.events.request.add_listener(heard)  # type: ignore[no-untyped-call]
    runner = environment.create_local_runner()
    psutil.cpu_percent()  # counts from here
    ours = psutil.Process()
    before = sum(ours.cpu_times()[:2])
    start = time.perf_counter()
    runner.start(users, spawn_rate=users)
    try:
        timed = seconds if not rate else None  # arrivals end by themselves
        while timed is None or time.perf_counter() - start < timed:
            gevent.sleep(0.02)
            if timed is None and time.perf_counter() - start > 0.5 and runner.user_count == 0:
                break
        runner.stop()  # each user still gets the reply that is due
        busy = psutil.cpu_percent() / 100
    finally:
        environment.stop_timeout = 0
        runner.quit()
    if late := len(Arrivals.due) - len(times) - errors.total():
        errors[f"no reply in {GRACE_SECONDS:g} s"] += max(0, late)
    took = max(last, start + 1e-3) - start
    return {
        "users": None if rate else users,
        "offered": len(Arrivals.due) / seconds if rate and seconds else None,
        "achieved": len(times) / took,
        "times": times,
        "errors": dict((+errors).most_common()),
        "busy": busy,
        "client": (sum(ours.cpu_times()[:2]) - before) / took / (psutil.cpu_count() or 1),
        "inside": statistics.mean(inside) if inside else 0.0,
    }


def in_pipeline(header: str) -> float:
    """Sum the milliseconds of a header Server-Timing."""
    pairs = (one.strip().partition(";dur=") for one in header.split(",") if ";dur=" in one)
    return sum(float(value) for _, _, value in pairs)


if __name__ == "__main__":
    print(json.dumps(run(**json.loads(sys.argv[1]))))

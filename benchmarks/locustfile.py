"""Users of the server, for Locust: locust -f benchmarks/locustfile.py --host http://127.0.0.1:8080

`python -m benchmarks.load` runs the same users by steps, and requests that arrive by themselves.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from locust import FastHttpUser, constant, task
from locust.exception import StopUser

from benchmarks.pictures import Photograph, deck, load_mix, read_folder, what_is_wrong

SEED = 0  # of the order of the photographs

# Replies that were looked at, by hash: a server gives the same bytes for the same photograph, and
# decoding them each time would take the cores that it may share.
_known: dict[tuple[Photograph, int], str | None] = {}


def post(user: Visitor, photograph: Photograph, scheduled: float | None = None) -> None:
    """Post a photograph and check the reply; Locust is told of both.

    Args:
        user: whose connection it is.
        photograph: what to post.
        scheduled: when it should have been sent, by time.perf_counter; the time until the reply
            counts from there, so that a late start is not hidden. None: from now.
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
        if key not in _known:
            _known[key] = what_is_wrong(body, photograph)
        if _known[key]:
            reply.failure(f"reply: {_known[key]}")


class Visitor(FastHttpUser):
    """Posts one photograph after another, each as soon as the last is back.

    Attributes:
        path: where the network answers, below --host. Triton's is /v2/models/colorize/infer.
        photographs: what is posted: the stated mix, or those of a folder.
        shares: how often each is.
        errands: what several users post between them, once; None: on and on.
    """

    wait_time = constant(0)
    network_timeout = 300.0
    path: ClassVar[str] = os.environ.get("COLORIZE_PATH", "/predictions/colorize")
    photographs: ClassVar[list[Photograph]] = []
    shares: ClassVar[list[float]] = []
    errands: ClassVar[Iterator[Photograph] | None] = None

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        if not Visitor.photographs:
            Visitor.photographs, Visitor.shares = chosen()
        number = environment.runner.user_count if environment.runner else 0
        self.random = random.Random(SEED + number)
        self.own = endless(self.random)

    @task
    def colorize(self) -> None:
        """Post the next photograph."""
        photograph = next(self.own if self.errands is None else self.errands, None)
        if photograph is None:
            raise StopUser
        post(self, photograph)


def chosen() -> tuple[list[Photograph], list[float]]:
    """The photographs of the folder COLORIZE_PICTURES, or the stated mix."""
    folder = os.environ.get("COLORIZE_PICTURES")
    return read_folder(Path(folder)) if folder else load_mix()


def endless(order: random.Random) -> Iterator[Photograph]:
    """Photographs in an order of one's own, each as often as its share says, on and on."""
    while True:
        yield from deck(Visitor.photographs, Visitor.shares, order)

"""Users of the server, for Locust: locust -f benchmarks/locustfile.py --host http://127.0.0.1:8080

`python -m benchmarks.load` runs the same users by steps, and requests that arrive by themselves.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

from locust import FastHttpUser, constant, task

from benchmarks.pictures import Photograph, load_mix, read_folder, what_is_wrong

# Where the network answers, below --host. Triton's is /v2/models/colorize/infer.
PATH = os.environ.get("COLORIZE_PATH", "/predictions/colorize")
SEED = 0  # of the order of the photographs
_FOLDER = os.environ.get("COLORIZE_PICTURES")
PHOTOGRAPHS, SHARES = read_folder(Path(_FOLDER)) if _FOLDER else load_mix()


def post(user: FastHttpUser, photograph: Photograph, scheduled: float | None = None) -> None:
    """Post a photograph and check the reply; Locust is told of both.

    Args:
        user: whose connection it is.
        photograph: what to post.
        scheduled: when it should have been sent, by time.perf_counter; the time until the reply
            counts from there, so that a late start is not hidden. None: from now.
    """
    start = time.perf_counter() if scheduled is None else scheduled
    headers = {"Content-Type": "application/octet-stream"}
    if "/infer" in PATH:
        headers["Inference-Header-Content-Length"] = "0"  # the body is the picture, no JSON
    with user.client.post(
        PATH,
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
        wrong = what_is_wrong(body, photograph)
        if wrong:
            reply.failure(f"reply: {wrong}")


class Visitor(FastHttpUser):
    """Posts one photograph after another, each as soon as the last is back."""

    wait_time = constant(0)
    network_timeout = 300.0

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.random = random.Random(
            SEED + (environment.runner.user_count if environment.runner else 0)
        )

    @task
    def colorize(self) -> None:
        """Post the next photograph."""
        post(self, self.random.choices(PHOTOGRAPHS, SHARES)[0])

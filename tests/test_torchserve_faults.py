"""The real TorchServe when something goes wrong: what each client sees."""

from __future__ import annotations

import json
import random
import signal
import socket
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.pictures import KINDS
from tests.support import (
    SECONDS,
    Reply,
    TorchServe,
    encoded,
    free_port,
    opened,
    picture,
    put,
    send,
    start_launcher,
)

pytestmark = pytest.mark.server

SMALL = encoded(picture(60, 80))
LARGE = encoded(picture(1200, 1600), "JPEG")
QUEUE = 32  # of serving.yaml


@pytest.fixture(scope="module")
def url(torchserve: TorchServe) -> str:
    return torchserve.url("colorize")


def worker(server: TorchServe) -> psutil.Process:
    """The process that runs our handler for the regression network."""
    (model,) = json.loads(send("GET", f"http://127.0.0.1:{server.port + 1}/models/colorize").body)
    return psutil.Process(model["workers"][0]["pid"])


def test_a_client_that_hangs_up_does_not_hold_the_others_up(url: str) -> None:
    host, port = url.removeprefix("http://").split("/")[0].split(":")
    head = f"PUT /predictions/colorize HTTP/1.1\r\nHost: {host}\r\n"
    head += f"Content-Length: {len(SMALL)}\r\n\r\n"
    for whole in (True, False) * 10:  # after all of the picture, or in the middle of it
        with socket.create_connection((host, int(port)), timeout=SECONDS) as one:
            one.sendall(head.encode() + SMALL[: None if whole else len(SMALL) // 2])
    reply = put(url, SMALL)
    assert reply.status == 200
    assert opened(reply.body).size == (80, 60)


def test_overload_is_refused_at_once_and_nobody_waits_for_nothing(url: str) -> None:
    with ThreadPoolExecutor(3 * QUEUE) as pool:
        replies = list(pool.map(lambda _: put(url, LARGE), range(3 * QUEUE)))
    seen = Counter(reply.status for reply in replies)
    assert set(seen) == {200, 503}
    assert seen[200] >= QUEUE  # all who found a place were served
    refused = json.loads(next(reply.body for reply in replies if reply.status == 503))
    assert refused["type"] == "ServiceUnavailableException"
    assert put(url, SMALL).status == 200


def test_a_worker_that_is_killed_comes_back_and_no_request_is_lost_silently(
    torchserve: TorchServe, url: str
) -> None:
    stop = threading.Event()
    replies: list[Reply] = []

    def load() -> None:
        while not stop.is_set():
            replies.append(put(url, SMALL))

    first = worker(torchserve)
    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        while len(replies) < 8 and not any(one.done() for one in loads):
            time.sleep(0.05)
        first.kill()
        time.sleep(1)
        stop.set()
    for one in loads:
        one.result()  # raises what `put` did: a request that got no answer at all
    # 507, or TorchServe's own 500 "Worker died.": for what the worker had when it died.
    assert {reply.status for reply in replies} <= {200, 500, 503, 507}
    assert all(b"Worker died" in reply.body for reply in replies if reply.status == 500)
    assert any(reply.status == 200 for reply in replies)
    for reply in replies:
        assert reply.body.startswith(b"\xff\xd8") == (reply.status == 200)
    deadline = time.monotonic() + SECONDS
    while put(url, SMALL).status != 200:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert worker(torchserve).pid != first.pid


def test_an_altered_graph_is_reported_at_start_with_the_command_that_mends_it(
    archives: Path, tmp_path: Path
) -> None:
    altered = tmp_path / "store" / "colorize.mar"
    altered.parent.mkdir()
    with zipfile.ZipFile(archives / "colorize.mar") as old, zipfile.ZipFile(altered, "w") as new:
        for name in old.namelist():
            body = bytearray(old.read(name))
            if name == "onnx/graph.onnx":
                body[len(body) // 2] ^= 1
            new.writestr(name, body)
    process = start_launcher(tmp_path / "store", tmp_path, "--port", str(free_port()))
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "was altered after its export; install it again, or " in said


def mutated(count: int) -> Iterator[bytes]:
    """Pictures of all kinds, each changed in one place or cut; the same ones each time."""
    draw = random.Random(5)
    for _ in range(count):
        body = bytearray(KINDS[draw.choice(sorted(KINDS))])
        at = draw.randrange(len(body)) if draw.random() < 0.5 else draw.randrange(64)
        if draw.random() < 0.8:
            body[at : at + 4] = draw.randbytes(4)
        else:
            del body[at:]
        yield bytes(body)


def test_mutated_pictures_are_refused_with_a_reason_and_the_worker_stays_as_it_was(
    torchserve: TorchServe, url: str
) -> None:
    before = worker(torchserve)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda body: put(url, body), mutated(40)))  # what decoders keep
        memory = before.memory_info().rss
        replies = list(pool.map(lambda body: put(url, body), mutated(240)))
    seen = Counter(reply.status for reply in replies)
    assert set(seen) <= {200, 400, 413, 415}
    assert len(seen) >= 3
    for reply in replies:
        assert reply.status == 200 or len(json.loads(reply.body)["message"]) > 20
    assert worker(torchserve).pid == before.pid
    assert before.memory_info().rss - memory < 100 * 2**20


def test_sigterm_ends_the_server_when_the_one_who_waits_has_a_picture(
    torchserve: TorchServe, url: str
) -> None:
    """The last of all (see conftest.py), since it ends the server that the others share."""
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(put, url, LARGE)
        time.sleep(0.3)
        torchserve.process.send_signal(signal.SIGTERM)
        reply = waiting.result(timeout=SECONDS)
    assert reply.status == 200
    assert opened(reply.body).size == (1600, 1200)

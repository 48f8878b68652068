"""The end of a server that has work: what was accepted is answered first, with real processes."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from handlers.torchserve import drain
from tests.support import SECONDS, Launch, launching, put, wait_for_line
from tests.test_serve import still_running, write_archive

SLOW = """
import time

class Slow:
    def initialize(self, context):
        pass

    def handle(self, rows, context):
        (row,) = rows
        time.sleep(float(row["body"][:4]))
        return [bytes(row["body"])]
"""
LONG = b"60.0"  # seconds that the handler takes, longer than any test waits
LARGE = b"0.30" + bytes(24 * 2**20)  # above what the system's own buffers take in
SLOWLY = 2.0  # seconds, after which a slow client begins to read


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """Start the launcher with the slow model."""
    write_archive(tmp_path / "store" / "slow.mar", SLOW)
    with launching(tmp_path / "store", tmp_path) as start:
        yield start


def served(process: subprocess.Popen[str]) -> str:
    wait_for_line(process, "Ready in ")
    return wait_for_line(process, "curl ").split()[1]


def read_slowly(url: str, body: bytes) -> bytes:
    """Post, and leave the answer lying for a while before reading it."""
    address, _, path = url.removeprefix("http://").partition("/")
    host, _, port = address.partition(":")
    head = f"PUT /{path} HTTP/1.1\r\nHost: {host}\r\n"
    with socket.create_connection((host, int(port)), timeout=SECONDS) as one:
        one.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(SLOWLY)
        with http.client.HTTPResponse(one) as reply:
            reply.begin()
            return reply.read()  # as many bytes as its header says, or IncompleteRead


@pytest.mark.server
def test_sigterm_lets_all_that_was_accepted_get_its_answer(launch: Launch) -> None:
    process = launch()
    url = served(process)
    members = psutil.Process(process.pid).children(recursive=True)
    bodies = [b"0.40" + bytes([number]) * 1000 for number in range(5)]
    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(put, url, body) for body in bodies]
        slow = pool.submit(read_slowly, url, LARGE)
        time.sleep(0.6)  # one has its answer, one is in work, the others are queued
        process.send_signal(signal.SIGTERM)
        replies = [one.result() for one in waiting]
        assert slow.result() == LARGE
    assert [(reply.status, reply.body) for reply in replies] == [(200, body) for body in bodies]
    said, _ = process.communicate(timeout=SECONDS)
    assert "Answering what was accepted, 30 s at most" in said
    assert "Not all was answered" not in said
    assert process.returncode == 0
    assert still_running(members) == []


@pytest.mark.server
@pytest.mark.parametrize("how", ["once more", "too long"])
def test_the_wait_for_answers_ends_at_its_bound_or_when_asked_once_more(
    launch: Launch, how: str
) -> None:
    process = launch(*(["--drain", "0.5"] if how == "too long" else []))
    url = served(process)
    members = psutil.Process(process.pid).children(recursive=True)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(put, url, LONG)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        wait_for_line(process, "Answering what was accepted")
        if how == "once more":
            process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=SECONDS)
        # Its worker is gone: an error, or a closed connection, but no silence.
        error = waiting.exception(timeout=SECONDS)
    assert isinstance(error, OSError) or waiting.result().status >= 500
    assert "Not all was answered: 0 waiting, 1 batches in work." in said
    assert process.returncode == 0
    assert still_running(members) == []


def test_which_workers_have_a_batch_is_read_from_the_log() -> None:
    said = "2026-01-01T00:00:00,000 [INFO ] W-9000-{} org.pytorch.serve.wlm.WorkerThread - {}\n"
    lines = [
        said.format("a_1.0", "Flushing req.cmd PREDICT repeats 1 to backend at: 1"),
        said.format("a_1.0", "Looping backend response at: 1"),
        "a picture's own line that says Flushing req.cmd\n",
        said.format("b_1.0", "Flushing req.cmd PREDICT repeats 3 to backend at: 1"),
        said.format("b_1.0", "Backend worker monitoring thread interrupted"),
    ]
    output = drain.Output(lines)
    output.finish()
    assert (output.busy, output.batches) == (1, 2)
    assert list(output.lines) == lines
    found = drain.look({"a": {"jobQueueStatus": {"pendingRequests": 2}}, "b": {}}, [], output)
    assert (found.waiting, found.busy, found.idle) == (2, 1, False)
    assert str(found) == "2 waiting, 1 batches in work"

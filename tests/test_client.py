"""colorizer.commands.client: what a busy server is asked, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from colorizer.commands import client
from tests.support import AnyServer

ANSWERS: list[tuple[int, str | None]] = []  # status and Retry-After, in the order they are given
ASKED: list[bytes] = []


class _Busy(BaseHTTPRequestHandler):
    """Answers by ANSWERS, and then with what it got."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        ASKED.append(body)
        status, wait = ANSWERS.pop(0) if ANSWERS else (200, None)
        self.send_response(status)
        if wait is not None:
            self.send_header("Retry-After", wait)
        answer = body if status == 200 else b'{"code": 0, "message": "the queue is full"}'
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    ANSWERS.clear()
    ASKED.clear()
    server = AnyServer()
    server.handler = _Busy  # type: ignore[assignment]
    with server as address:
        yield address


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were waited for, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(client.time, "sleep", waited.append)
    return waited


def test_a_busy_server_is_asked_again_when_it_said(url: str, waits: list[float]) -> None:
    ANSWERS.extend([(503, "8"), (429, None), (503, "soon")])
    assert client.post(url, b"picture", {}) == b"picture"
    assert len(ASKED) == 4
    told, second, third = waits
    assert 6 <= told <= 10
    assert 1.5 <= second <= 2.5
    assert 3 <= third <= 5


def test_a_server_that_stays_busy_is_given_up(url: str, waits: list[float]) -> None:
    ANSWERS.extend([(503, "3600")] * 10)
    with pytest.raises(client.Refused, match="503: the queue is full"):
        client.post(url, b"picture", {})
    assert len(ASKED) == client.TRIES
    assert max(waits) <= 1.25 * client.LONGEST_WAIT


@pytest.mark.parametrize("status", [400, 415, 500, 507])
def test_what_another_try_would_not_change_is_asked_once(
    url: str, waits: list[float], status: int
) -> None:
    ANSWERS.append((status, None))
    with pytest.raises(client.Refused, match=f"{status}: the queue is full"):
        client.post(url, b"picture", {})
    assert len(ASKED) == 1
    assert not waits

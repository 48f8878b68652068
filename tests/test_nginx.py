"""deploy/nginx.conf in front of the real TorchServe: what its clients see when all is taken."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import parse_qsl

import pytest

from tests.support import ROOT, SECONDS, Reply, free_port, is_free, running_torchserve, send
from tests.test_serve import write_archive

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(shutil.which("nginx") is None, reason="no nginx on this machine"),
    pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl for a certificate"),
]

SLOW = """
import json
import time

class Slow:
    def initialize(self, context):
        pass

    def handle(self, rows, context):
        time.sleep(1)
        return [json.dumps({k: v.decode() for k, v in row.items()}).encode() for row in rows]
"""
ASKED = 8  # requests at once, for a worker and a queue of two: some must be refused


TOKEN = "0123456789abcdef"


@contextmanager
def nginx(folder: Path, name: str, port: int, changes: dict[str, str]) -> Iterator[str]:
    """The address of nginx with a file of deploy/, in front of the server at a port.

    Args:
        folder: for its files.
        name: of the file.
        port: of the server, in the place of its usual one.
        changes: of the file's text, which a reader would make.
    """
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=IP:127.0.0.1 -out cert.pem -keyout key.pem"
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    front = port + 5 if is_free(port + 5) else free_port() + 50
    text = (ROOT / "deploy" / name).read_text()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = " ".join(f"{kind}_temp_path {folder / kind};" for kind in kinds)
    changes = changes | {
        "\nhttp {": f"\nhttp {{ access_log off; {temporary}",
        "listen 443 ssl": f"listen 127.0.0.1:{front} ssl",
        "/etc/ssl/certs/colorizer.pem": str(folder / "cert.pem"),
        "/etc/ssl/private/colorizer.key": str(folder / "key.pem"),
        '# "https://photos.example.org"': '"https://photos.example.org"',
    }
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    (folder / "nginx.conf").write_text(text)
    shutil.copy(ROOT / "deploy" / "triton.js", folder)
    files = f"daemon off; pid {folder / 'nginx.pid'}; error_log {folder / 'error.log'};"
    files += " user root;" if os.geteuid() == 0 else ""  # else its workers can't reach our folder
    arguments = ["nginx", "-e", str(folder / "error.log"), "-g", files]
    process = subprocess.Popen([*arguments, "-c", str(folder / "nginx.conf")])
    try:
        deadline = time.monotonic() + SECONDS
        while is_free(front):
            assert time.monotonic() < deadline, (folder / "error.log").read_text()
            assert process.poll() is None, (folder / "error.log").read_text()
            time.sleep(0.1)
        yield f"https://127.0.0.1:{front}"
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of TorchServe with a short queue."""
    folder = tmp_path_factory.mktemp("slow")
    settings = "minWorkers: 1\nmaxWorkers: 1\njobQueueSize: 2\n"
    write_archive(folder / "store" / "slow.mar", SLOW, settings)
    with running_torchserve(folder / "store", folder) as server:
        yield server.port


@pytest.fixture(scope="module")
def door(slow: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of nginx in front of it."""
    changes = {"server 127.0.0.1:8080": f"server 127.0.0.1:{slow}"}
    with nginx(tmp_path_factory.mktemp("nginx"), "nginx.conf", slow, changes) as url:
        yield url


UNVERIFIED = ssl._create_unverified_context()
BYTES = {"Content-Type": "application/octet-stream"}


def ask(url: str, body: bytes | None = None, **headers: str) -> Reply:
    return send("PUT" if body else "GET", url, body, BYTES | headers, UNVERIFIED)


def seen(reply: Reply) -> tuple[int, str | None]:
    """Status and Retry-After."""
    return reply.status, reply.headers["Retry-After"]


def test_who_is_refused_is_told_when_to_come_back(door: str) -> None:
    url = f"{door}/predictions/slow"
    with ThreadPoolExecutor(ASKED) as pool:
        replies = list(pool.map(lambda _: ask(url, b"picture"), range(ASKED)))
    assert set(map(seen, replies)) == {(200, None), (503, "5")}


def test_a_query_reaches_the_handler_as_options_and_is_never_dropped(door: str) -> None:
    for query in ("format=png", "format=png&x=%2F%3F&a=1&data"):
        reply = ask(f"{door}/predictions/slow?{query}", b"picture")
        expected = dict(parse_qsl(query, keep_blank_values=True)) | {"body": "picture"}
        assert (reply.status, json.loads(reply.body)) == (200, expected)
    reply = ask(f"{door}/predictions/slow/1?format=png", b"picture")
    assert (reply.status, json.loads(reply.body)["code"]) == (400, 400)
    for path in ("/predictions/slow", "/predictions/slow?", "/predictions/slow/1"):
        reply = ask(f"{door}{path}", b"picture")
        assert (reply.status, json.loads(reply.body)) == (200, {"body": "picture"})
    assert ask(f"{door}/predictions/slow/../../models?a=1", b"picture").status == 404


def test_a_client_that_asks_too_much_at_once_is_told_so(door: str) -> None:
    host, port = door.removeprefix("https://").split(":")
    head = "PUT /predictions/slow HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    with ExitStack() as held:
        for _ in range(16):  # limit_conn: as many as nginx allows, each about to send its picture
            one = socket.create_connection((host, int(port)), timeout=SECONDS)
            one = held.enter_context(UNVERIFIED.wrap_socket(one))
            one.sendall(head.encode())
        deadline = time.monotonic() + SECONDS
        while (reply := ask(f"{door}/ping")).status == 200:  # until nginx has read them all
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert seen(reply) == (429, "5")


def test_only_predictions_and_ping_are_to_be_seen(door: str) -> None:
    assert seen(ask(f"{door}/ping")) == (200, None)
    for path in ("/models", "/metrics", "/api-description", "/"):
        assert seen(ask(f"{door}{path}")) == (404, None)
    assert ask(f"{door}/predictions/slow", bytes(34 * 2**20)).status == 413


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("https://photos.example.org", True), ("https://example.org", False), (None, False)],
)
def test_pages_of_the_named_origins_alone_may_call(
    door: str, origin: str | None, allowed: bool
) -> None:
    url = f"{door}/predictions/slow"
    for method, path in (("OPTIONS", url), ("PUT", url), ("GET", f"{door}/nothing")):
        body = b"picture" if method == "PUT" else None
        headers = BYTES | ({"Origin": origin} if origin else {})
        reply = send(method, path, body, headers, UNVERIFIED)  # pages can read errors too
        assert reply.status == {"OPTIONS": 204, "PUT": 200, "GET": 404}[method]
        found = {k: v for k, v in reply.headers.items() if k.startswith("Access-Control")}
        expected = {"Origin": origin, "Headers": "*"} if allowed else {}
        for name, value in expected.items():
            assert found.pop(f"Access-Control-Allow-{name}") == value
        assert set(found) == ({"Access-Control-Expose-Headers"} if allowed else set())


def test_where_tokens_are_wanted_only_those_who_have_one_may_ask(slow: int, tmp_path: Path) -> None:
    changes = {
        "server 127.0.0.1:8080": f"server 127.0.0.1:{slow}",
        "default 1;\n        # ": "default 0;\n        ",
    }
    with nginx(tmp_path, "nginx.conf", slow, changes) as url:
        for token, status in ((TOKEN, 200), ("other", 401), ("", 401)):
            reply = ask(f"{url}/ping", Authorization=f"Bearer {token}")
            assert reply.status == status
            assert reply.headers["WWW-Authenticate"] == (None if status == 200 else "Bearer")

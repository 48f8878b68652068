"""Pictures made by the tests, and servers started by them."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from email import message_from_bytes
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from benchmarks import servers
from benchmarks.servers import free_port as free_port
from colorizer.recipe import Head
from handlers.triton import install as install_triton

if TYPE_CHECKING:
    from evaluation.metrics import Measured

Weights = Callable[[Head], Path]  # the fixture `weights`
Sharing = Callable[[], contextlib.AbstractContextManager[None]]  # the fixture `staged_once`
Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

ROOT = Path(__file__).parent.parent
# Other programs are called convert too.
IMAGEMAGICK = bool(shutil.which("convert")) and b"ImageMagick" in (
    subprocess.run(["convert", "-version"], capture_output=True).stdout
)
SECONDS = 120.0  # far more than anything here takes, even on a busy machine

SIDE = 64  # of the tests' small networks
ALIKE = 20  # channels of these that tell what is alike


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W) uint8: soft shapes from dark to light, so that JPEG keeps them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def coloured(seed: int, height: int = 80, width: int = 100, detail: int = 4) -> np.ndarray:
    """(H, W, 3) uint8: soft patches of colour."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (detail, detail, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """A file of these pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def opened(body: bytes) -> Image.Image:
    """The picture in these bytes, decoded."""
    im = Image.open(io.BytesIO(body))
    im.load()
    return im


def measured(values: dict[str, float] | None = None, **more: Any) -> Measured:
    """A picture of known measures; the others are 0, and the truth's colorfulness is 30."""
    from evaluation.metrics import Measured

    names = ("PSNR", "SSIM", "ΔE00", "CF", "ΔCF each", "CF (DDColor)")
    some = np.ones(261)
    given = {"credit": some, "pixels": some.astype(int), "chroma": np.zeros(67, int), **more}
    return Measured({**dict.fromkeys(names, 0.0), **(values or {})}, {"CF": 30.0}, **given)


class Reply(NamedTuple):
    status: int
    type: str
    body: bytes
    headers: Message


def send(
    method: str,
    url: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    context: ssl.SSLContext | None = None,
) -> Reply:
    """Send a request, past any proxy; an error has a reply too."""
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    request = urllib.request.Request(url, body, dict(headers or {}), method=method)
    try:
        reply = opener.open(request, timeout=SECONDS)
    except urllib.error.HTTPError as error:
        reply = error
    with reply:
        kind = reply.headers.get("Content-Type", "")
        return Reply(reply.status, kind, reply.read(), reply.headers)


def put(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> Reply:
    """Send as `curl -T` does."""
    return send("PUT", url, body, {"Content-Type": "application/octet-stream", **(headers or {})})


def curl(*arguments: str | Path, body: bytes | None = None, folder: Path | None = None) -> Reply:
    """Run curl, in a folder, with a body as its standard input."""
    command = ["curl", "-s", "-i", "--noproxy", "*", "-H", "Expect:", *arguments]
    done = subprocess.run(
        command, input=body, cwd=folder, capture_output=True, timeout=SECONDS, check=True
    )
    head, _, rest = done.stdout.partition(b"\r\n\r\n")
    first, _, lines = head.partition(b"\r\n")
    headers = message_from_bytes(lines)
    return Reply(int(first.split()[1]), headers.get("Content-Type", ""), rest, headers)


class TorchServe(NamedTuple):
    """A running one, by the launcher."""

    process: subprocess.Popen[str]
    port: int  # of predictions; the next ones are for management and metrics
    folder: Path  # where it runs, and writes its logs

    def url(self, model: str) -> str:
        """Where a model is asked."""
        return f"http://127.0.0.1:{self.port}/predictions/{model}"


@contextlib.contextmanager
def running_torchserve(
    store: Path, work: Path, *arguments: str, **variables: str
) -> Iterator[TorchServe]:
    """TorchServe with the archives of a store, until the end of the block."""
    port = free_port()
    process = start_launcher(store, work, "--port", str(port), *arguments, **variables)
    try:
        wait_for_line(process, "Ready in ")
        yield TorchServe(process, port, work)
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


Launch = Callable[..., "subprocess.Popen[str]"]  # the launcher, with more arguments


@contextlib.contextmanager
def launching(store: Path, work: Path) -> Iterator[Launch]:
    """What starts launchers, as a shell would; they end with the block at the latest."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        port = [] if "--port" in arguments else ["--port", str(free_port())]
        started.append(start_launcher(store, work, *port, *arguments, **variables))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.terminate()
            process.terminate()  # once more: it doesn't wait for answers
            process.communicate(timeout=SECONDS)


class Triton(NamedTuple):
    """A running one."""

    process: subprocess.Popen[bytes]
    port: int  # of HTTP; the next ones are for gRPC and metrics

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextlib.contextmanager
def running_triton(
    repository: Path, work: Path, *arguments: str, **variables: str
) -> Iterator[Triton]:
    """The real Triton with the models of a repository, until the end of the block."""
    port = free_port()
    process = start_triton(repository, work, port, *arguments, **variables)
    one = Triton(process, port)
    try:
        wait_until_ready(one.url, process, work / "triton.log")
        yield one
    finally:
        process.terminate()
        process.wait(SECONDS)


def start_launcher(
    store: Path, work: Path, *arguments: str, **variables: str
) -> subprocess.Popen[str]:
    """Start `python -m handlers.torchserve.serve` in the folder `work`, as a shell would."""
    environment = {key: value for key, value in os.environ.items() if key != "JAVA_HOME"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    command = [sys.executable, "-m", "handlers.torchserve.serve", "--model-store", str(store)]
    command += ["--config", str(ROOT / "config.properties"), *arguments]
    return subprocess.Popen(
        command, cwd=work, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT
    )


def start_triton(
    repository: Path, work: Path, port: int, *arguments: str, **variables: str
) -> subprocess.Popen[bytes]:
    """Start the real Triton on three ports: HTTP, gRPC and metrics; its log is work/triton.log."""
    reason = install_triton.obstacle()
    if reason:
        pytest.skip(reason)
    if not (install_triton.SERVER / "bin" / "tritonserver").exists():
        pytest.fail(
            "Triton is not installed: run `make test`, or `python -m handlers.triton.install`"
        )
    command, environment = servers.triton(repository, port)
    with (work / "triton.log").open("wb") as log:
        command, environment = [*command, *arguments], environment | variables
        return subprocess.Popen(command, cwd=work, env=environment, stdout=log, stderr=log)


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until Triton has loaded its models; fail with the end of its log where it can't."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            if send("GET", f"{url}/v2/health/ready").status == 200:
                return
        time.sleep(0.2)
    raise AssertionError(f"Triton did not get ready: {log.read_text(errors='replace')[-3000:]}")


def wait_for_line(process: subprocess.Popen[str], text: str) -> str:
    """Read until a line has text; fail when the output ends before."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return line
    raise AssertionError(f"{text!r} was never printed; the last lines were {lines[-5:]}")


def is_free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


class Handler(BaseHTTPRequestHandler):
    """Reads requests and answers them, in silence."""

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


class Echo(Handler):
    """Sends back what it gets, in the format asked for.

    A body that begins with "bad" is refused, as TorchServe's handler refuses.
    """

    def do_GET(self) -> None:
        if self.path == "/ping":
            self.answer(200, b'{"status": "Healthy"}')
        else:
            self.answer(404, b'{"code": 404, "message": "No such page."}')

    def do_POST(self) -> None:
        body = self.body()
        if body.startswith(b"bad"):
            kind = b'{"code": 415, "type": "not_a_picture", "message": "Not a picture."}'
            return self.answer(415, kind)
        pixels = np.asarray(opened(body).convert("RGB"))
        self.answer(200, encoded(pixels, self.headers.get("X-Colorize-Format", "jpeg")))


@contextlib.contextmanager
def any_server(handler: type[Handler] = Echo) -> Iterator[str]:
    """The address of a server for clients to talk to."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()


class Terminal(io.StringIO):
    """A stream that is one."""

    def isatty(self) -> bool:
        return True

"""Colorize in the browser: drop photographs, compare, correct colours, download.

The networks run in this process, or on a server (--server). Nothing is written to disk.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import re
import secrets
import signal
import socket
import sys
import threading
import traceback
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from colorizer.api import Colorizer
from colorizer.commands import client, results
from colorizer.commands.run import command_parser, run_command
from colorizer.encode import CONTENT_TYPES
from colorizer.errors import REFUSALS, Failure, RequestError, TooLarge, UserError
from colorizer.graph import BadGraph
from colorizer.image import Limits
from colorizer.options import HEADER, NAMES, Options, from_headers
from colorizer.pipeline import Reply
from colorizer.recipe import HEADS

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".jpg": "image/jpeg",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
AT_ONCE = 2  # pictures in the works: one of 50 megapixels takes up to 0.4 GB
WAIT_SECONDS = 120.0  # for a place among them
IDLE_SECONDS = 60  # of a connection on which nothing moves


# Networks by their head, each called with a photograph's file and options as text.
Network = Callable[[bytes, Mapping[str, str]], Reply]


def local(models: Sequence[str] | None, device: str | None) -> dict[str, Network]:
    """Load networks into this process.

    Args:
        models: archives or folders, as `Colorizer` takes them; of several with one head the first
            counts. None: the networks whose weights are installed, at least one.
        device: "cpu", "cuda:0" or None.

    Raises:
        UserError: if one of them cannot be loaded.
    """
    found: dict[str, Network] = {}
    for model in models or HEADS:
        try:
            pipeline = Colorizer(model, device).pipeline
        except BadGraph as error:
            if models or (model == HEADS[-1] and not found):
                raise
            print(f"page: {error}", file=sys.stderr)
            continue
        found.setdefault(pipeline.graph.recipe.head, pipeline.colorize)
    return {head: found[head] for head in HEADS if head in found}


class NotServed(RequestError):
    """A photograph that a server could not be asked for, or had no result for."""

    status, phrase, kind = 502, "Bad Gateway", "not_served"


def remote(options: argparse.Namespace) -> tuple[str, dict[str, Network]]:
    """Find a server's networks.

    Args:
        options: of the command line, as `client.add_options` adds them.

    Returns:
        The server's address, and its networks.

    Raises:
        UserError: if the server does not answer, or has none of the networks.
    """
    options.server = client.server_of(options.server)
    found: dict[str, Network] = {}
    for head in HEADS:
        server = client.from_options(options, head)
        try:
            server.post(results.sample("jpeg"), {})
            found[head] = partial(_ask, server)
        except client.Refused as error:
            reason = str(error)
    where = client.server_of(server.url).rstrip("/")
    if not found:
        raise UserError(f"{where} has neither network: {reason}")
    return where, found


def _ask(server: client.Server, photo: bytes, options: Mapping[str, str]) -> Reply:
    """Let a server colorize a photograph; its errors become the library's."""
    try:
        body = server.post(photo, options)
    except client.Refused as error:
        kinds = {kind.status: kind for kind in REFUSALS}
        kind = kinds.get(error.status or 0, NotServed)
        raise kind(re.sub(r"^\d{3}: ", "", str(error))) from None
    if "likely" in options:
        return Reply(body, "application/json")
    return Reply(body, CONTENT_TYPES[Options.parse(options).format])


class Server(ThreadingHTTPServer):
    """The page, and the networks behind it.

    Args:
        address: host and port to listen on.
        origins: addresses, as https://photos.example.com, under which a proxy shows the page, or
            of other sites that may use it.
    """

    daemon_threads = True
    where = ""  # the address of the server that colorizes; empty for this process
    networks: Mapping[str, Network]  # set before the first request is answered

    def __init__(self, address: tuple[str, int], origins: Sequence[str] = ()) -> None:
        ((self.address_family, *_), *_) = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)
        self.origins = {origin.rstrip("/").lower() for origin in origins}
        self.names = {"localhost", socket.gethostname().lower(), address[0].lower()}
        self.names |= {_host(origin) for origin in self.origins}
        self.names.discard("")
        self.slots = threading.BoundedSemaphore(AT_ONCE)
        self.files = {
            f"/{path.relative_to(STATIC).as_posix()}": (path.read_bytes(), TYPES[path.suffix])
            for path in STATIC.rglob("*")
            if path.suffix in TYPES
        }
        self.files["/"] = self.files.pop("/index.html")
        super().__init__(address, Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report bugs; browsers that go away are none."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    server: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "colorizer", ""
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        """Send a file of the page, or what its scripts need to know."""
        if not self._is_allowed():
            return
        path = urlsplit(self.path).path
        if path == "/info.json":
            info = {"networks": list(self.server.networks), "where": self.server.where}
            self._send_json(info | {"bytes": Limits().max_bytes, "spread": Options().spread})
        elif path in self.server.files:
            self._send(200, *self.server.files[path], cache="no-cache")
        else:
            self._send_json({"message": "There is no such page."}, 404)

    do_HEAD = do_GET

    def do_OPTIONS(self) -> None:
        """Answer another site's preflight request, which asks whether it may post."""
        if self._is_allowed():
            self._send(204, b"", "text/plain")

    def do_POST(self) -> None:
        """Colorize a photograph, as TorchServe does: /colour/regression, /colour/classification."""
        if not self._is_allowed():
            return
        colorize = self.server.networks.get(self.path.removeprefix("/colour/"))
        if colorize is None:
            self.close_connection = True  # the body is still on its way
            self._send_json({"message": "There is no such page."}, 404)
            return
        try:
            photo = self._body()
            if not self.server.slots.acquire(timeout=WAIT_SECONDS):
                self._send_json({"message": "Too many photographs are waiting; try again."}, 503)
                return
            try:
                reply = colorize(photo, from_headers(self.headers.items()))
            finally:
                self.server.slots.release()
            self._send(200, reply.body, reply.content_type)
        except (ConnectionError, TimeoutError):  # the browser went away
            self.close_connection = True
        except Exception as error:  # whatever a picture causes, the page goes on
            number = secrets.token_hex(4)
            failure = Failure.of(error, number)
            if failure.status == 500:
                print(f"page: request {number}", file=sys.stderr)
                traceback.print_exc()
            self._send(failure.status, failure.body, "application/json")

    def _is_allowed(self) -> bool:
        """Refuse host names and sites that the page does not know.

        An unknown name in Host means that some site's DNS points here (rebinding), so that its
        scripts could talk to the page; addresses can't be redirected like that.
        """
        netloc, origin = (self.headers.get(name, "").lower() for name in ("Host", "Origin"))
        host = _host(f"//{netloc}")
        own = origin in (f"http://{netloc}", f"https://{netloc}")
        if (host in self.server.names or _is_address(host)) and (
            not origin or own or origin in self.server.origins
        ):
            return True
        self.close_connection = True
        told = f"start it with --origin {origin or f'http://{host}'}"
        self._send_json({"message": f"This page does not answer here; if it should, {told}"}, 403)
        return False

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch("[0-9]{1,12}", length):
            self.close_connection = True
            raise RequestError("The request does not say how long it is (Content-Length).")
        limit = Limits().max_bytes
        if int(length) > limit:
            self.close_connection = True
            left = min(int(length), 4 * limit)
            while left > 0 and (some := self.rfile.read(min(left, 1 << 20))):
                left -= len(some)  # a browser reads no answer before it has sent all
            raise TooLarge(f"The file has {int(length):,} bytes; {limit:,} are the most.")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError
        return body

    def _send_json(self, content: object, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, body: bytes, kind: str, cache: str = "no-store") -> None:
        self.send_response(status)
        headers = {**HEADERS, "Content-Type": kind, "Cache-Control": cache, "Vary": "Origin"}
        if status != 204:
            headers["Content-Length"] = str(len(body))
        if (origin := self.headers.get("Origin", "")).lower() in self.server.origins:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Allow-Headers"] = ", ".join(
                ["content-type", *(f"{HEADER}{name}" for name in NAMES)]
            )
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Log nothing: photographs are their owner's business."""


def _host(url: str) -> str:
    with contextlib.suppress(ValueError):
        return urlsplit(url).hostname or ""
    return ""


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and serve the page; returns the exit code."""
    parser = command_parser("colorizer-page", __doc__)
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="to listen on (default: this computer only)")
    add("--port", type=int, default=7860, help="(default: %(default)s)")
    add("--open", action="store_true", help="open the page in the browser")
    add("--model", nargs="+", help=f"networks to use (default: {' and '.join(HEADS)})")
    add("--device", help="cpu or cuda:0 (default: a GPU where there is one)")
    client.add_options(parser)
    add(
        "--origin",
        metavar="URL",
        action="append",
        default=[],
        help="address under which a proxy shows this page, or of a site that may use it (CORS)",
    )
    options = parser.parse_args(arguments)
    return run_command("page", lambda: serve(options), "the page is closed")


def serve(options: argparse.Namespace) -> int:
    """Serve the page until it is interrupted.

    Raises:
        UserError: if there is no network, or the address cannot be listened on.
    """
    for wanted in ("SIGTERM", "SIGHUP"):  # Windows lacks the latter
        if hasattr(signal, wanted):
            signal.signal(getattr(signal, wanted), signal.default_int_handler)
    try:
        server = Server((options.host, options.port), options.origin)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"cannot listen on {options.host}, port {options.port} ({error}); choose another "
            "port: --port 7870"
        ) from None
    with server:
        if options.server:
            server.where, server.networks = remote(options)
        else:
            server.networks = local(options.model, options.device)
        host = f"[{options.host}]" if ":" in options.host else options.host
        url = f"http://{host}:{server.server_address[1]}"
        print(f"The page is at {url} (Ctrl-C ends it)", flush=True)
        if options.open:
            webbrowser.open(url)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()
    return 0


if __name__ == "__main__":
    sys.exit(main())

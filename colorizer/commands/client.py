"""Post pictures to TorchServe or Triton; the server is asked which of the two it is.

>>> colour = Server("127.0.0.1:8000").colorize("photo.jpg", format="png")
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import http.client
import ipaddress
import json
import os
import random
import re
import secrets
import time
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from colorizer.commands import results
from colorizer.errors import UserError
from colorizer.models import DEFAULT, SERVED

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from colorizer.options import PictureOptions

CONNECT_SECONDS = 10.0
ASK_SECONDS = 30.0  # for a server to say what it is
SECONDS = 300.0  # to wait for a reply, as long as the server lets a batch take
TRIES = 6
BUSY = (429, 503)  # not 507: a picture that killed a worker might kill the next
MOST_IN_HEADERS = 4000  # characters of options; servers take 8,000 of all headers together
LONGEST_WAIT = 30.0  # seconds, whatever Retry-After says
TOKEN = "COLORIZER_TOKEN"  # the environment's variable
# Where a network lies below a server's address.
_OF_NETWORK = re.compile(r"/(predictions/[^/]+(/[^/]+)?|v2/models/[^/]+(/versions/[^/]+)?/infer)$")
_JSON_LENGTH = "Inference-Header-Content-Length"  # of what stands before the picture, for Triton
_MESSAGE = 300  # characters of a reply that are worth showing


class Refused(Exception):
    """A picture without a result; the message says why.

    Attributes:
        status: of HTTP, where a server answered; a picture's own errors have the same on both.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Unreachable(Refused):
    """A server that cannot be reached at all."""


class _Busy(Refused):
    """The server asks to come back, in `wait` seconds if it says when."""

    wait: float | None = None


class Server:
    """One network on a server.

    Args:
        address: of the network, http://127.0.0.1:8080/predictions/colorize on TorchServe or
            http://127.0.0.1:8000/v2/models/colorize/infer on Triton; or of the server, as its host
            and port or a URL that ends in /, which is asked what it is. It may hold a user and a
            password: https://user:password@photos.example.com.
        network: "regression" or "classification", where the address names none.
        token: sent as `Authorization: Bearer`; None: that of COLORIZER_TOKEN, if there is one.
        headers: sent with each request.

    Raises:
        ValueError: if the address, the token or a header is none.
        Unreachable: if there is no server at this address.
        Refused: if it is neither TorchServe nor Triton.
    """

    def __init__(
        self,
        address: str,
        network: str = DEFAULT,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.url, user = _split(address)
        self.headers = _identified(dict(headers or {}), token, user)
        if self.url.endswith("/"):
            if network not in SERVED:
                raise ValueError(f"a server's networks are {' and '.join(SERVED)}, not {network!r}")
            self.url += self._find().format(SERVED[network])

    def colorize(self, photo: str | Path | bytes, **options: Unpack[PictureOptions]) -> bytes:
        """Colorize a photograph's file, given by its path or its bytes; gives the result's bytes.

        Raises:
            Refused: as `post`.
            OSError: if the file cannot be read.
        """
        body = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
        chosen: dict[str, object] = dict(options)
        if not isinstance(chosen.get("hints"), str | None):
            chosen["hints"] = json.dumps(chosen["hints"])
        return self.post(body, chosen)

    def post(
        self,
        body: bytes,
        options: Mapping[str, object],
        seconds: float = SECONDS,
        wait_for_server: bool = False,
    ) -> bytes:
        """Post a picture, again while the server is busy, and check what comes back.

        Args:
            body: the picture file's bytes.
            options: by the names in colorizer.options; None leaves one out.
            seconds: to wait for a reply.
            wait_for_server: whether to try again, too, while the server cannot be reached.

        Returns:
            A picture in the asked format, of the posted one's size; several variants in a ZIP
            file; likely colours in JSON.

        Raises:
            Unreachable: if there is no server at this address.
            Refused: if it refuses the picture, stays busy, or sends anything but its result.
        """
        for number in range(TRIES):
            last = number == TRIES - 1
            try:
                kind, reply = self._post(body, options, seconds)
                break
            except _Busy as busy:
                if last:
                    raise
                wait = busy.wait
            except Unreachable:
                if last or not wait_for_server:
                    raise
                wait = None
            # Wait as told, else twice as long each time; never all clients at the same moment.
            wait = 2.0**number if wait is None else wait
            time.sleep(min(LONGEST_WAIT, wait) * (0.75 + 0.5 * random.random()))
        try:
            _check(reply, body, options)
        except ValueError as error:
            named = f" (its Content-Type is {kind:.60})" if kind else ""
            raise Refused(f"{self.url} does not colorize: {error}{named}") from None
        return reply

    def _find(self) -> str:
        """Ask a server what it is; gives the path to a network, whose name takes the place of {}.

        Source: TorchServe's inference API; Open Inference Protocol, "Health".
        """
        said = []
        kinds: tuple[tuple[str, str, Callable[[bytes], bool]], ...] = (
            ("ping", "predictions/{}", lambda answer: "status" in json.loads(answer)),
            ("v2/health/live", "v2/models/{}/infer", lambda answer: not answer),
        )
        for path, network, is_it in kinds:
            url = self.url + path
            status, replied, answer = _send("GET", url, self.headers, b"", ASK_SECONDS)
            with contextlib.suppress(ValueError, TypeError):
                if status < 300 and is_it(answer):
                    return network
            to = f" to {where}" if (where := replied.get("Location")) else ""
            said.append(f"{status}{to} from /{path}")
        raise Refused(
            f"{self.url} is neither TorchServe nor Triton: {', '.join(said)}; give the address of "
            "a network, as http://127.0.0.1:8080/predictions/colorize"
        )

    def _post(
        self, body: bytes, options: Mapping[str, object], seconds: float
    ) -> tuple[str, bytes]:
        """Post a picture once, as TorchServe or Triton takes it; gives content type and result."""
        chosen = {name: str(value) for name, value in options.items() if value is not None}
        if triton := "/v2/models/" in self.url:
            headers, sent = _for_triton(body, chosen)
        elif sum(map(len, chosen.values())) > MOST_IN_HEADERS:
            headers, sent = _form(chosen, body)
        else:
            headers, sent = {f"X-Colorize-{name}": value for name, value in chosen.items()}, body
            headers["Content-Type"] = "application/octet-stream"
        status, replied, answer = _send(
            "POST", self.url, {**self.headers, **headers}, sent, seconds
        )
        if status == 200:
            kind = "" if triton else replied.get("Content-Type", "")
            return kind, _after_head(self.url, replied, answer) if triton else answer
        raise _refusal(self.url, status, replied, answer, len(body))


def add_options(group: argparse._ArgumentGroup | argparse.ArgumentParser) -> None:
    """Add the options by which a command finds its server, for `from_options`."""
    group.add_argument(
        "--server",
        metavar="ADDRESS",
        help="let TorchServe or Triton do the work: HOST:PORT, or a network's own address, as "
        "http://127.0.0.1:8080/predictions/colorize",
    )
    group.add_argument(
        "--token",
        help=f"that the server wants (default: what the variable {TOKEN} holds, which, unlike "
        "this option, other users of the machine can't see); it is sent as Authorization: Bearer",
    )
    group.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="to send to the server with each request; may be repeated",
    )


def from_options(options: argparse.Namespace, network: str) -> Server:
    """Find the server that a command line names.

    Raises:
        UserError: if there is none.
    """
    try:
        headers = {}
        for text in options.header:
            name, colon, value = text.partition(":")
            if not colon:
                raise ValueError(f"a header is written NAME:VALUE, not {name!r:.60}")
            headers[name.strip()] = value.strip()
        return Server(options.server, network, options.token, headers)
    except (ValueError, Refused) as error:
        raise UserError(f"--server: {error}") from None


def server_of(address: str) -> str:
    """Cut a network's path off an address, so that the other network can be asked for."""
    return _OF_NETWORK.sub("", address.rstrip("/")) + "/"


def _split(address: str) -> tuple[str, str | None]:
    """Split an address into its URL, which ends in / if it names no network, and user:password.

    Raises:
        ValueError: naming what is wrong; it shows no password.
    """
    url = address if "://" in address else f"http://{address}"
    shown = re.sub("//[^/]*@", "//", url)
    if any(character <= " " for character in url):
        raise ValueError(f"a server's address has no spaces, but this one does: {shown!r}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        told = re.sub("[^ ]*@", "", str(error))
        raise ValueError(f"{shown!r} is no server's address: {told}") from None
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"a server's address begins with http:// or https://, not {shown!r}")
    if not parts.hostname:
        raise ValueError(f"the address names no server: {shown!r}")
    try:
        _ = parts.port
        parts.hostname.encode("idna")
    except ValueError as error:  # UnicodeError is one
        raise ValueError(f"{shown!r} is no server's address: {error}") from None
    user, at, netloc = parts.netloc.rpartition("@")
    clean = parts._replace(netloc=netloc, path=parts.path or "/", fragment="")
    return urlunsplit(clean), unquote(user) if at else None


def _identified(headers: dict[str, str], token: str | None, user: str | None) -> dict[str, str]:
    """Add what identifies the client to headers: a token, or user:password.

    Raises:
        ValueError: if they can't be sent, or more than one is given.
    """
    for name, value in headers.items():
        if not re.fullmatch(r"[\w!#$%&'*+.^`|~-]+", name, re.ASCII) or not (
            value.isascii() and value.isprintable()
        ):
            raise ValueError(f"a header is written NAME:VALUE, not {name!r:.60}")
    if [token is not None, user is not None, "authorization" in map(str.lower, headers)].count(
        True
    ) > 1:
        raise ValueError("give one of a token, a user in the address, or a header Authorization")
    if user is not None:
        return headers | {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
    if token is None and "authorization" not in map(str.lower, headers):
        token = os.environ.get(TOKEN) or None
    if token is None:
        return headers
    if not re.fullmatch("[!-~]+", token):
        raise ValueError("a token has neither spaces nor letters beyond ASCII, but this one does")
    return headers | {"Authorization": f"Bearer {token}"}


def _check(reply: bytes, body: bytes, options: Mapping[str, object]) -> None:
    """Check that a reply is what was asked for.

    Raises:
        ValueError: naming what is wrong.
    """
    if options.get("likely") is None:
        kind = str(options.get("format") or "jpeg").lower().replace("jpg", "jpeg")
        results.check(reply, body, kind, int(str(options.get("variants") or 1)))
        return
    with contextlib.suppress(ValueError, TypeError, KeyError):
        if isinstance(json.loads(reply)["colours"], list):
            return
    raise ValueError("the reply is not a list of likely colours")


def _after_head(url: str, replied: http.client.HTTPMessage, answer: bytes) -> bytes:
    """Take the picture from behind Triton's line of JSON, if it is as long as that says."""
    length = replied.get(_JSON_LENGTH, "")
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        if re.fullmatch("[0-9]{1,9}", length):
            (output,) = json.loads(answer[: int(length)])["outputs"]
            picture = answer[int(length) :]
            if output["parameters"]["binary_data_size"] == len(picture):
                return picture
    raise Refused(f"{url} does not colorize: its reply is not Triton's, or not whole")


def _refusal(
    url: str, status: int, replied: http.client.HTTPMessage, answer: bytes, size: int
) -> Refused:
    """Describe a reply that is no result, in the same words for both servers."""
    if 300 <= status < 400:
        where = replied.get("Location", "nowhere")
        return Refused(f"{status}: {url} redirects to {where}; give the address that colorizes")
    triton = "/v2/models/" in url
    message = http.client.responses.get(status, "no result")
    if status == 413:
        message = f"the file has {size:,} bytes, more than the server accepts"
    if status == 401:
        message += f"; name a token (--token, or the variable {TOKEN}), or a user in the address"
    text = " ".join(answer.decode("utf-8", "replace").split())
    if text and len(text) <= _MESSAGE and not text.startswith("<"):  # no page of HTML
        message = text
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        told = json.loads(answer)["error" if triton else "message"]
        message = " ".join(str(told).split())[:_MESSAGE]
    if of_handler := triton and re.fullmatch(r"(\d{3}) \w+: (.+)", message):
        status, message = int(of_handler[1]), of_handler[2]
    if status not in BUSY:
        return Refused(f"{status}: {message}", status)
    busy, after = _Busy(f"{status}: {message}", status), replied.get("Retry-After", "")
    busy.wait = float(after) if re.fullmatch("[0-9]{1,9}", after) else None
    return busy


def _for_triton(picture: bytes, options: Mapping[str, str]) -> tuple[dict[str, str], bytes]:
    """Write headers and body of a request: a line of JSON, then the picture.

    Source: Open Inference Protocol, "Binary Tensor Data Extension".
    """
    size = len(picture)
    tensor = {"name": "PICTURE", "datatype": "UINT8", "shape": [1, size]}
    request = {
        "inputs": [{**tensor, "parameters": {"binary_data_size": size}}],
        "outputs": [{"name": "COLOUR", "parameters": {"binary_data": True}}],
        "parameters": options,
    }
    line = json.dumps(request).encode()
    return {
        "Content-Type": "application/octet-stream",
        _JSON_LENGTH: str(len(line)),
    }, line + picture


def _form(fields: Mapping[str, str], body: bytes) -> tuple[dict[str, str], bytes]:
    """Make a form of options and picture: its headers and its bytes (RFC 7578)."""
    boundary = secrets.token_hex(16)
    head = f"--{boundary}\r\nContent-Disposition: form-data; name="
    parts = [f'{head}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    kind = "Content-Type: application/octet-stream"
    parts += [f'{head}"data"; filename="picture"\r\n{kind}\r\n\r\n'.encode(), body]
    parts.append(f"\r\n--{boundary}--\r\n".encode())
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}, b"".join(parts)


def _send(
    method: str, url: str, headers: Mapping[str, str], body: bytes, seconds: float
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send a request; gives status, headers and body of the reply, and follows no redirects."""
    connection, target, more = _connection(urlsplit(url))
    with contextlib.closing(connection):
        try:
            connection.connect()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            raise Unreachable(f"{url} does not answer: {error}") from None
        connection.sock.settimeout(seconds)
        cut = ""
        try:
            try:
                connection.request(method, target, body or None, {**headers, **more})
            except ConnectionError:  # it may have answered and hung up before it read all
                cut = f"; perhaps the file's {len(body):,} bytes are more than it accepts"
            reply = connection.getresponse()
            answer = reply.read(results.MAX_BYTES + 1)
            if reply.length:  # read(n) is silent where read() raises IncompleteRead
                raise http.client.IncompleteRead(answer, reply.length)
        except TimeoutError:
            raise Refused(f"{url} has not answered within {seconds:g} s") from None
        except http.client.IncompleteRead as error:
            raise Refused(f"{url} broke off after {len(error.partial):,} bytes") from None
        except (ConnectionError, EOFError):
            raise Refused(f"{url} hung up without an answer{cut}") from None
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise Refused(f"{url} does not speak HTTP: {error!r:.200}") from None
    if len(answer) > results.MAX_BYTES:
        raise Refused(f"the reply of {url} has more than {results.MAX_BYTES:,} bytes")
    return reply.status, reply.headers, answer


def _connection(parts: SplitResult) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """Prepare a connection, by a proxy where the environment names one for this host.

    Returns:
        The connection, the target of requests over it, and headers for the proxy.
    """
    secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    host = parts.hostname or ""
    path = quote(parts.path or "/", safe="/%:=&~+!$,;'@()*") + (
        f"?{quote(parts.query, safe='/%:=&~+!$,;?@()*')}" if parts.query else ""
    )
    proxy = None if _is_this_machine(host) else urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(host):
        return kind(host, parts.port, timeout=CONNECT_SECONDS), path, {}
    through = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if through.scheme != "http" or not through.hostname:
        raise Unreachable(f"the proxy {proxy} cannot be used: its address must begin with http://")
    connection = kind(through.hostname, through.port or 80, timeout=CONNECT_SECONDS)
    if secure:
        connection.set_tunnel(host, parts.port)
        return connection, path, {}
    return connection, f"http://{parts.netloc}{path}", {"Host": parts.netloc}


def _is_this_machine(host: str) -> bool:
    """Whether a host is this machine, which no proxy can reach."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"

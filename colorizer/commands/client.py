"""Post pictures to a server that colorizes."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import random
import re
import secrets
import socket
import time
import urllib.request
from collections.abc import Mapping
from urllib.parse import SplitResult, quote, urlsplit

from colorizer.commands import results

CONNECT_SECONDS = 10.0
SECONDS = 300.0  # to wait for a reply, as long as the server lets a batch take
TRIES = 6
BUSY = (429, 503)  # not 507: a picture that killed a worker might kill the next
MOST_IN_HEADERS = 4000  # characters of options; servers take 8,000 of all headers together
LONGEST_WAIT = 30.0  # seconds, whatever Retry-After says
_JSON_LENGTH = "Inference-Header-Content-Length"  # of what stands before the picture, for Triton
_MESSAGE = 300  # characters of a reply that are worth showing


class Refused(Exception):
    """A picture without a result; the message tells its owner why."""


class Unreachable(Refused):
    """A server that cannot be reached at all."""


class _Busy(Refused):
    """The server asks to come back, in `wait` seconds if it says when."""

    def __init__(self, message: str, wait: float | None) -> None:
        super().__init__(message)
        self.wait = wait


def check_address(url: str) -> None:
    """Check that `post` can use an address.

    Raises:
        ValueError: naming what is wrong.
    """
    if any(character <= " " for character in url):
        raise ValueError(f"a server's address has no spaces, but this one does: {url!r}")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError(f"a server's address begins with http:// or https://, not {url!r}")
    if not parts.hostname:
        raise ValueError(f"the address names no server: {url!r}")
    if parts.username is not None:
        raise ValueError("a user name in the server's address is not supported")
    try:
        _ = parts.port
        parts.hostname.encode("idna")
    except ValueError as error:  # UnicodeError is one
        raise ValueError(f"{url!r} is no server's address: {error}") from None


def post(
    url: str,
    body: bytes,
    options: Mapping[str, object],
    seconds: float = SECONDS,
    wait_for_server: bool = False,
) -> bytes:
    """Post a picture, again while the server is busy, and check what comes back.

    Args:
        url: of a network: http://127.0.0.1:8080/predictions/colorize of TorchServe, or
            http://127.0.0.1:8000/v2/models/colorize/infer of Triton.
        body: the picture file's bytes.
        options: by the names in colorizer.options; None leaves one out.
        seconds: to wait for a reply.
        wait_for_server: whether to try again, too, while the server cannot be reached.

    Returns:
        A picture in the asked format, of the posted one's size; several variants in a ZIP file;
        likely colours in JSON.

    Raises:
        Unreachable: if there is no server at this address.
        Refused: if it refuses the picture, stays busy, or sends anything but its result.
    """
    for number in range(TRIES):
        last = number == TRIES - 1
        try:
            reply = _post(url, body, options, seconds)
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
    kind = str(options.get("format") or "jpeg").lower().replace("jpg", "jpeg")
    try:
        if options.get("likely") is not None:
            json.loads(reply)
        else:
            results.check(reply, body, kind, int(str(options.get("variants") or 1)))
    except ValueError as error:
        raise Refused(f"{url} does not colorize: {error}") from None
    return reply


def _post(url: str, body: bytes, options: Mapping[str, object], seconds: float) -> bytes:
    """Post a picture once, as TorchServe or Triton takes it and answers."""
    chosen = {name: str(value) for name, value in options.items() if value is not None}
    if triton := "/v2/models/" in url:
        headers, body = _for_triton(body, chosen)
    elif sum(map(len, chosen.values())) > MOST_IN_HEADERS:
        headers, body = _form(chosen, body)
    else:
        headers = {f"X-Colorize-{name}": value for name, value in chosen.items()}
        headers["Content-Type"] = "application/octet-stream"
    status, replied, answer = _send(url, headers, body, seconds)
    if status == 200:
        return answer[int(replied.get(_JSON_LENGTH, 0)) :] if triton else answer
    if 300 <= status < 400:
        where = replied.get("Location", "nowhere")
        raise Refused(f"{status}: {url} redirects to {where}; give the address that colorizes")
    message = http.client.responses.get(status, "no result")
    if status == 413:
        message = f"the file has {len(body):,} bytes, more than the server accepts"
    text = answer.decode("utf-8", "replace").strip()
    if text and len(text) <= _MESSAGE and not text.startswith("<"):  # no page of HTML
        message = text
    with contextlib.suppress(ValueError, TypeError, KeyError):
        told = json.loads(answer)["error" if triton else "message"]
        message = " ".join(str(told).split())[:_MESSAGE]
    if of_handler := triton and re.fullmatch(r"(\d{3}) \w+: (.+)", message):
        status, message = int(of_handler[1]), of_handler[2]
    if status in BUSY:
        after = replied.get("Retry-After", "")
        raise _Busy(f"{status}: {message}", float(after) if after.isdecimal() else None)
    raise Refused(f"{status}: {message}")


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
    url: str, headers: Mapping[str, str], body: bytes, seconds: float
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Post a body; gives status, headers and body of the reply, and follows no redirects."""
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
                connection.request("POST", target, body, {**headers, **more})
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
    host = host.rstrip(".").partition("%")[0]
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with contextlib.suppress(OSError, UnicodeError):  # short forms too, such as 127.1
        host = socket.inet_ntoa(socket.inet_aton(host))
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)

"""Ask a server that runs elsewhere: a picture's bytes there, its colours back."""

from __future__ import annotations

import contextlib
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from urllib.parse import urlsplit

SECONDS = 300.0  # to wait for an answer, as long as the server lets a batch take
TRIES = 6
BUSY = (429, 503)  # not 507: a picture that killed a worker might kill the next
LONGEST_WAIT = 30.0  # seconds, whatever Retry-After says


class Refused(Exception):
    """A picture without an answer; the message says why, to its owner."""


def check_address(url: str) -> None:
    """Hold an address against what `post` can reach.

    Raises:
        ValueError: naming what is wrong.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"a server's address begins with http:// or https://, not {url!r}")


def post(url: str, body: bytes, options: Mapping[str, object]) -> bytes:
    """Post a picture, again if the server is busy.

    Args:
        url: of a network, as http://127.0.0.1:8080/predictions/colorize.
        body: the picture file's bytes.
        options: as those of `colorizer.pipeline.Options`; None leaves one out.

    Raises:
        Refused: if the server refuses the picture, does not answer, or stays busy.
    """
    for number in range(TRIES - 1):
        try:
            return _post(url, body, options)
        except _Busy as busy:
            # As told, else twice as long each time; never all clients at the same moment.
            seconds = busy.wait if busy.wait is not None else 2.0**number
            time.sleep(min(LONGEST_WAIT, seconds) * (0.75 + 0.5 * random.random()))
    return _post(url, body, options)


class _Busy(Refused):
    """The server asks to come back; `wait` is in how many seconds, if it said so."""

    def __init__(self, message: str, wait: float | None) -> None:
        super().__init__(message)
        self.wait = wait


def _post(url: str, body: bytes, options: Mapping[str, object]) -> bytes:
    """Post a picture once; see `post`."""
    headers = {f"X-Colorize-{k}": str(v) for k, v in options.items() if v is not None}
    headers["Content-Type"] = "application/octet-stream"
    request = urllib.request.Request(url, body, headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=SECONDS) as reply:
            return bytes(reply.read())
    except urllib.error.HTTPError as error:
        with error:
            answer = error.read()
        message = answer.decode("utf-8", "replace").strip() or error.reason
        with contextlib.suppress(ValueError, TypeError, KeyError):
            message = json.loads(answer)["message"]
        message = f"{error.code}: {message}"
        if error.code in BUSY:
            said = error.headers.get("Retry-After", "")
            raise _Busy(message, float(said) if said.isdigit() else None) from None
        raise Refused(message) from None
    except urllib.error.URLError as error:
        raise Refused(f"{url} does not answer: {error.reason}") from None
    except OSError as error:
        raise Refused(f"{url} broke off: {error}") from None

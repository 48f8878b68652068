"""colorizer.commands.client: what is asked of a server, how often, and what is believed."""

from __future__ import annotations

import argparse
import contextlib
import email
import io
import json
import socket
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from colorizer.commands import client
from colorizer.errors import UserError
from tests.support import Handler, Patch, any_server, encoded, picture

PICTURE = encoded(picture(40, 60), "JPEG")
ANSWERS: list[tuple[int, str | None]] = []  # status and Retry-After, in the order they are given
ASKED: list[bytes] = []


class _Busy(Handler):
    """Answers by ANSWERS, and then with what it got."""

    def do_POST(self) -> None:
        ASKED.append(self.body())
        status, wait = ANSWERS.pop(0) if ANSWERS else (200, None)
        refusal = b'{"code": 0, "message": "the queue is full"}'
        headers = {} if wait is None else {"Retry_After": wait}
        self.answer(status, ASKED[-1] if status == 200 else refusal, **headers)


def post(url: str, body: bytes, options: dict[str, object], **how: Any) -> bytes:
    return client.Server(url).post(body, options, **how)


@pytest.fixture
def url() -> Iterator[str]:
    ANSWERS.clear()
    ASKED.clear()
    with any_server(_Busy) as address:
        yield f"{address}/predictions/colorize"


@pytest.fixture
def waits(monkeypatch: Patch) -> list[float]:
    """Seconds that were waited for, without waiting."""
    waited: list[float] = []
    monkeypatch.setattr(client.time, "sleep", waited.append)
    return waited


def test_a_busy_server_is_asked_again_when_it_said(url: str, waits: list[float]) -> None:
    ANSWERS.extend([(503, "8"), (429, None), (503, "soon")])
    assert post(url, PICTURE, {}) == PICTURE
    assert len(ASKED) == 4
    told, second, third = waits
    assert 6 <= told <= 10
    assert 1.5 <= second <= 2.5
    assert 3 <= third <= 5


def test_a_server_that_stays_busy_is_given_up(url: str, waits: list[float]) -> None:
    ANSWERS.extend([(503, "3600")] * 10)
    with pytest.raises(client.Refused, match="503: the queue is full"):
        post(url, PICTURE, {})
    assert len(ASKED) == client.TRIES
    assert max(waits) <= 1.25 * client.LONGEST_WAIT


@pytest.mark.parametrize("status", [400, 415, 500, 507])
def test_what_another_try_would_not_change_is_asked_once(
    url: str, waits: list[float], status: int
) -> None:
    ANSWERS.append((status, None))
    with pytest.raises(client.Refused, match=f"{status}: the queue is full"):
        post(url, PICTURE, {})
    assert len(ASKED) == 1
    assert not waits


def test_options_that_are_too_long_for_headers_go_as_a_form(url: str) -> None:
    hints = [{"x": 0.5, "y": 0.5, "color": "#7a2f2f"}] * 200
    with pytest.raises(client.Refused, match="does not colorize"):  # it sends the form back
        post(url, PICTURE, {"hints": json.dumps(hints), "chroma": None, "seed": 3})
    (sent,) = ASKED
    boundary = sent.split(b"\r\n", 1)[0].removeprefix(b"--").decode()
    head = f"Content-Type: multipart/form-data; boundary={boundary}\r\n\r\n".encode()
    form = email.message_from_bytes(head + sent)
    parts = {part.get_param("name", header="content-disposition"): part for part in form.walk()}
    fields = {name: part.get_payload(decode=True) for name, part in parts.items() if name}
    assert fields == {"hints": json.dumps(hints).encode(), "seed": b"3", "data": PICTURE}


# --- replies by hand


@contextlib.contextmanager
def answering(answer: bytes, read: int = 1 << 20) -> Iterator[str]:
    """A port that reads a little of each request, sends `answer` and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    asking, _ = listening.accept()
                    with asking, contextlib.suppress(OSError):
                        if read:
                            asking.recv(read)
                        asking.sendall(answer)
                        # To close with something unread would take the answer back.
                        asking.shutdown(socket.SHUT_WR)
                        asking.settimeout(5)
                        while read >= 1 << 20 and asking.recv(1 << 16):
                            pass

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/predictions/colorize"
        listening.shutdown(socket.SHUT_RDWR)


def http(status: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, "Connection: close"]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def zipped(*bodies: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, body in enumerate(bodies):
            archive.writestr(f"{number}.jpeg", body)
    return file.getvalue()


LOGIN = b"<!doctype html><html><body>Please log in.</body></html>"
OTHER_SIZE = encoded(picture(60, 40), "JPEG")


@pytest.mark.parametrize(
    ("answer", "options", "why"),
    [
        (http("200 OK", b'{"status": "Healthy"}'), {}, "not a jpeg picture"),
        (http("200 OK", LOGIN, "Content-Type: image/jpeg"), {}, "not a jpeg picture"),
        (http("200 OK", PICTURE[:-200]), {}, "not a jpeg picture"),
        (http("200 OK"), {}, "not a jpeg picture"),
        (http("204 No Content"), {}, "204: No Content"),
        (http("200 OK", PICTURE), {"format": "png"}, "not a png picture"),
        (http("200 OK", encoded(picture(40, 60))), {}, "not a jpeg picture"),
        (http("200 OK", OTHER_SIZE), {}, "of another size, 40 x 60"),
        (http("200 OK", PICTURE), {"variants": 2}, "not a ZIP file of 2 pictures"),
        (http("200 OK", zipped(PICTURE)), {"variants": 2}, "not a ZIP file of 2 pictures"),
        (http("200 OK", zipped(PICTURE, LOGIN)), {"variants": 2}, "not a jpeg picture"),
        (http("200 OK", zipped(PICTURE, OTHER_SIZE)), {"variants": 2}, "of another size"),
        (http("302 Found", b"", "Location: /login"), {}, "redirects to /login"),
        (http("307 Temporary Redirect", LOGIN, "Location: https://x.test/"), {}, "https://x.test/"),
        (http("308 Permanent Redirect"), {}, "redirects to nowhere"),
        (http("404 Not Found", LOGIN), {}, "^404: Not Found$"),
        (http("413 Content Too Large"), {}, "^413: the file has .* bytes, more than the server"),
        (http("413 Too Large", b'{"code": 413, "message": "at most 9"}'), {}, "^413: at most 9$"),
        (http("418 Teapot", b'["a", "list"]'), {}, "418"),
        (http("200 OK", PICTURE[:103], length=5000), {}, "broke off after 103 bytes"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabc", {}, "broke off"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc", {}, "broke off"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", {}, "does not speak HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x0a", {}, "does not speak HTTP"),
        (b"HTTP/1.1 abc\r\n\r\n", {}, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200 + b"\r\n", {}, "does not speak HTTP"),
        (b"HTTP/1.1 200 " + b"O" * 100_000, {}, "does not speak HTTP"),
        (b"", {}, "hung up without an answer"),
    ],
)
def test_a_reply_is_believed_only_if_it_is_the_result(
    answer: bytes, options: dict[str, object], why: str
) -> None:
    with answering(answer) as url, pytest.raises(client.Refused, match=why):
        post(url, PICTURE, options)


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        (http("200 OK", PICTURE), {}),
        (http("200 OK", PICTURE), {"format": "jpg", "variants": 1}),
        (http("200 OK", zipped(PICTURE, PICTURE)), {"variants": "2"}),
        (http("200 OK", encoded(picture(40, 60))), {"format": "png"}),
    ],
)
def test_a_result_is_handed_on_as_it_is(answer: bytes, options: dict[str, object]) -> None:
    with answering(answer) as url:
        assert post(url, PICTURE, options) == answer[answer.index(b"\r\n\r\n") + 4 :]


@pytest.mark.parametrize("answer", [http("413 Too Large", b'{"message": "at most 9"}'), b""])
def test_a_server_that_hangs_up_on_a_large_file_is_heard(answer: bytes) -> None:
    why = "413: at most 9" if answer else "40,000,000 bytes are more than it accepts"
    with answering(answer, read=1000) as url, pytest.raises(client.Refused, match=why):
        post(url, bytes(40_000_000), {})


def test_a_server_that_says_nothing_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/predictions/x"
        with pytest.raises(client.Refused, match="has not answered within"):
            post(url, PICTURE, {}, seconds=0.1)


def test_a_server_that_comes_back_is_waited_for(waits: list[float]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/predictions/x"
    with pytest.raises(client.Unreachable, match="does not answer"):
        post(url, PICTURE, {})
    assert not waits
    with pytest.raises(client.Unreachable):
        post(url, PICTURE, {}, wait_for_server=True)
    assert len(waits) == client.TRIES - 1


@pytest.mark.parametrize(
    "url",
    [
        "ftp://127.0.0.1/",
        "http://",
        "http:///predictions/colorize",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:port/",
        "http://[::1/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\n",
        "http://user:word@127.0.0.1:port/",
        "http://user:word@a℀b/",
        f"http://{'x' * 70}.test/",
        "http://a..b/",
    ],
)
def test_an_address_that_is_none_is_refused_before_it_is_used(url: str) -> None:
    with pytest.raises(ValueError, match=r"address|Invalid IPv6") as refusal:
        client.Server(url)
    assert "word" not in str(refusal.value)


@pytest.mark.parametrize("path", ["/predictions/colorize?a=b&c=%20d", "/é", "/'a'"])
def test_any_path_can_be_asked(path: str) -> None:
    with answering(http("200 OK", PICTURE)) as url:
        address = url.removesuffix("/predictions/colorize") + path
        assert post(address, PICTURE, {}) == PICTURE


# --- proxies of the environment


@pytest.fixture
def behind_proxy(monkeypatch: Patch) -> Callable[[str], None]:
    def use(proxy: str) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)

    return use


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5h://127.0.0.1:9", "nonsense:"])
def test_no_proxy_is_used_for_this_machine(behind_proxy: Callable[[str], None], proxy: str) -> None:
    behind_proxy(proxy)
    with answering(http("200 OK", PICTURE)) as url:
        for host in ("127.0.0.1", "localhost"):
            assert post(url.replace("127.0.0.1", host), PICTURE, {}) == PICTURE


@pytest.mark.parametrize(
    ("host", "here"),
    [
        *((one, True) for one in ("127.0.0.1", "127.8.9.10", "localhost", "::1")),
        *((one, False) for one in ("10.0.0.1", "128.0.0.1", "::2", "localhost.test", "")),
    ],
)
def test_this_machine_is_known_by_its_addresses(host: str, here: bool) -> None:
    assert client._is_this_machine(host) is here


def test_another_machine_is_asked_through_the_proxy(behind_proxy: Callable[[str], None]) -> None:
    with answering(http("200 OK", PICTURE)) as url:
        behind_proxy(url.removesuffix("/predictions/colorize"))
        assert post("http://elsewhere.test/predictions/x", PICTURE, {}) == PICTURE
    behind_proxy("socks5://127.0.0.1:9")
    with pytest.raises(client.Unreachable, match="must begin with http://"):
        post("http://elsewhere.test/predictions/x", PICTURE, {})


# --- which server it is, and who asks


@contextlib.contextmanager
def serving(pages: Mapping[str, bytes], asked: list[dict[str, str]]) -> Iterator[str]:
    """HOST:PORT of a server that answers these requests, and everything else with 404."""

    class Pages(Handler):
        def do_GET(self) -> None:
            self.body()
            asked.append(dict(self.headers.items()))
            self.wfile.write(pages.get(self.path, http("404 Not Found", LOGIN)))
            self.close_connection = True

        do_POST = do_GET

    with any_server(Pages) as address:
        yield address.removeprefix("http://")


def for_triton(picture: bytes, size: int | None = None, length: str | None = None) -> bytes:
    """Triton's reply: a line of JSON, then the picture."""
    size = len(picture) if size is None else size
    output = {"name": "COLOUR", "parameters": {"binary_data_size": size}}
    head = json.dumps({"outputs": [output]}).encode()
    length = str(len(head)) if length is None else length
    return http("200 OK", head + picture, f"Inference-Header-Content-Length: {length}")


TORCHSERVE = {
    "/ping": http("200 OK", b'{"status": "Healthy"}'),
    "/predictions/colorize": http("200 OK", PICTURE),
}
TRITON = {"/v2/health/live": http("200 OK"), "/v2/models/colorize/infer": for_triton(PICTURE)}
either_server = pytest.mark.parametrize("pages", [TORCHSERVE, TRITON], ids=["torchserve", "triton"])


@either_server
@pytest.mark.parametrize("address", ["{}", "http://{}", "http://{}/", "{}/"])
def test_host_and_port_are_enough(pages: dict[str, bytes], address: str) -> None:
    with serving(pages, []) as place:
        server = client.Server(address.format(place))
        assert server.url.endswith(max(pages, key=len))
        assert server.colorize(PICTURE) == PICTURE


@either_server
def test_a_server_below_a_folder_of_its_address_is_found(pages: dict[str, bytes]) -> None:
    with serving({f"/old/photos{path}": pages[path] for path in pages}, []) as place:
        assert client.Server(f"{place}/old/photos/").colorize(PICTURE) == PICTURE


@either_server
def test_from_one_networks_address_the_other_is_found(pages: dict[str, bytes]) -> None:
    with serving(pages, []) as place:
        url = client.Server(place).url
        other = client.Server(client.server_of(url), "classification").url
    assert other == url.replace("colorize", "colorize-classes")


@pytest.mark.parametrize(
    ("pages", "said"),
    [
        ({}, "404 from /ping, 404 from /v2/health/live"),
        ({path: http("200 OK", LOGIN) for path in ("/ping", "/v2/health/live")}, "200 from /v2"),
        ({"/ping": http("200 OK", b'{"state": 1}')}, "200 from /ping, 404 from"),
        ({"/ping": http("200 OK", b"7")}, "200 from /ping, 404 from"),
        ({"/ping": http("301 Moved", b"", "Location: https://x.test/ping")}, "to https://x.test/"),
    ],
)
def test_what_is_neither_server_is_said_to_be_neither(pages: dict[str, bytes], said: str) -> None:
    with serving(pages, []) as place, pytest.raises(client.Refused, match=said) as refusal:
        client.Server(place)
    assert "is neither TorchServe nor Triton" in str(refusal.value)


@either_server
@pytest.mark.parametrize(
    ("where", "given", "name", "value"),
    [
        ("{}", {"token": "a-secret"}, "Authorization", "Bearer a-secret"),
        ("{}", {"headers": {"X-Key": "a b"}}, "X-Key", "a b"),
        ("http://u%40x:p:w@{}", {}, "Authorization", "Basic dUB4OnA6dw=="),
        ("u:w@{}", {}, "Authorization", "Basic dTp3"),
    ],
)
def test_each_request_tells_who_asks(
    pages: dict[str, bytes], where: str, given: dict[str, Any], name: str, value: str
) -> None:
    asked: list[dict[str, str]] = []
    with serving(pages, asked) as place:
        server = client.Server(where.format(place), **given)
        server.colorize(PICTURE)
    assert len(asked) >= 2
    assert {one[name] for one in asked} == {value}
    assert "@" not in server.url


@either_server
def test_a_token_may_stand_in_the_environment(pages: dict[str, bytes], monkeypatch: Patch) -> None:
    monkeypatch.setenv(client.TOKEN, "a-secret")
    asked: list[dict[str, str]] = []
    with serving(pages, asked) as place:
        client.Server(place).colorize(PICTURE)
        assert {one["Authorization"] for one in asked} == {"Bearer a-secret"}
        asked.clear()
        client.Server(f"u:w@{place}").colorize(PICTURE)
        assert {one["Authorization"] for one in asked} == {"Basic dTp3"}


@pytest.mark.parametrize(
    ("address", "given"),
    [
        ("127.0.0.1:9", {"token": "two words"}),
        ("127.0.0.1:9", {"token": "é"}),
        ("127.0.0.1:9", {"token": ""}),
        ("127.0.0.1:9", {"headers": {"X-A": "1\r\nX-B: 2"}}),
        ("127.0.0.1:9", {"headers": {"X A": "1"}}),
        ("127.0.0.1:9", {"headers": {"": "1"}}),
        ("127.0.0.1:9", {"token": "a", "headers": {"authorization": "b"}}),
        ("u:w@127.0.0.1:9", {"token": "a"}),
    ],
)
def test_what_cannot_be_sent_is_refused_before_it_is(address: str, given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"token|header"):
        client.Server(address, **given)


def test_who_may_not_ask_is_told_what_to_name() -> None:
    for path in ("/predictions/colorize", "/v2/models/colorize/infer"):
        with (
            serving({path: http("401 Unauthorized", LOGIN)}, []) as place,
            pytest.raises(client.Refused, match=r"^401: Unauthorized; name a token \(--token"),
        ):
            client.Server(f"{place}{path}").colorize(PICTURE)


@pytest.mark.parametrize(
    ("answer", "options", "why"),
    [
        (for_triton(PICTURE, length="x"), {}, "not Triton's"),
        (for_triton(PICTURE, length="-1"), {}, "not Triton's"),
        (for_triton(PICTURE, length="99999999"), {}, "not Triton's"),
        (for_triton(PICTURE, length="3"), {}, "not Triton's"),
        (for_triton(PICTURE, size=99), {}, "not whole"),
        (http("200 OK", PICTURE), {}, "not Triton's"),
        (http("200 OK", LOGIN, "Content-Type: text/html"), {}, "not Triton's"),
        (for_triton(OTHER_SIZE), {}, "of another size"),
        (for_triton(LOGIN), {}, "not a jpeg picture"),
        (for_triton(b'{"status": 1}'), {"likely": "0,0"}, "not a list of likely colours"),
        (http("400 Bad", b'{"error": "415 not_a_picture: No."}'), {}, "^415: No.$"),
        (http("400 Bad", b'{"message": "No."}'), {}, '^400: {"message"'),
        (http("503 Busy", b'{"error": "the queue"}', "Retry-After: soon"), {}, "^503: the queue$"),
    ],
)
def test_a_reply_of_triton_is_believed_only_if_it_is_the_result(
    answer: bytes, options: dict[str, object], why: str, waits: list[float]
) -> None:
    with (
        serving({"/v2/models/a/infer": answer}, []) as place,
        pytest.raises(client.Refused, match=why),
    ):
        post(f"{place}/v2/models/a/infer", PICTURE, options)


def test_a_reply_that_is_no_result_is_told_with_its_kind() -> None:
    answer = http("200 OK", LOGIN, "Content-Type: text/html; charset=utf-8")
    with answering(answer) as url, pytest.raises(client.Refused, match=r"Type is text/html; chars"):
        post(url, PICTURE, {})
    with answering(http("200 OK", b'{"a": 1}')) as url, pytest.raises(client.Refused, match="list"):
        post(url, PICTURE, {"likely": "0,0"})


def test_a_header_on_the_command_line_is_a_name_and_a_value() -> None:
    parser = argparse.ArgumentParser()
    client.add_options(parser)
    asked: list[dict[str, str]] = []
    with serving(TORCHSERVE, asked) as place:
        given = ["--server", place, "--header", "X-Key: a:b", "--header", "X-Empty:"]
        client.from_options(parser.parse_args(given), "regression")
    assert (asked[0]["X-Key"], asked[0]["X-Empty"]) == ("a:b", "")
    with pytest.raises(UserError, match="NAME:VALUE, not 'X-Key'"):
        client.from_options(parser.parse_args(["--server", place, "--header", "X-Key"]), "")

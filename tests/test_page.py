"""The page in the browser: its server, and Chromium in front of it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

from colorizer import Colorizer
from colorizer.image import Limits
from page.__main__ import Server, main, remote
from tests.support import (
    ROOT,
    SECONDS,
    Capture,
    Patch,
    any_server,
    encoded,
    free_port,
    opened,
    picture,
    wait_for_line,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
PHOTO = encoded(picture(90, 120), "JPEG")
ORIGIN = "https://photos.example.com"  # where a proxy shows the page

pytestmark = pytest.mark.server
in_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@pytest.fixture(scope="module")
def port(archives: Path) -> Iterator[int]:
    """Of a page with both networks; Ctrl-C ends it."""
    chosen = free_port()
    command = [sys.executable, "-m", "page", "--port", str(chosen), "--device", "cpu"]
    command += ["--origin", ORIGIN, "--model"]
    command += [str(archives / name) for name in ("colorize.mar", "colorize-classes.mar")]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        wait_for_line(process, "The page is at")
        yield chosen
    finally:
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=SECONDS)
    assert (process.returncode, output) == (0, "")  # no request was a bug


@contextlib.contextmanager
def page_before(server: str) -> Iterator[int]:
    """The port of a page of this process, in front of a server."""
    with Server(("127.0.0.1", 0)) as page:
        page.where, page.networks = remote(Namespace(server=server, token=None, header=[]))
        threading.Thread(target=page.serve_forever, daemon=True).start()
        try:
            yield page.server_address[1]
        finally:
            page.shutdown()


@pytest.fixture(scope="module")
def library(archives: Path) -> Colorizer:
    return Colorizer(archives / "colorize.mar", "cpu")


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes


def ask(port: int, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body or None, names)
    reply = connection.getresponse()
    answer = Answer(reply.status, reply.headers, reply.read())
    connection.close()
    return answer


def test_a_photograph_gets_the_librarys_bytes(port: int, library: Colorizer) -> None:
    answer = ask(port, "POST", "/colour/regression", PHOTO, X_Colorize_Chroma="1.4")
    assert answer.body == library.colorize(PHOTO, chroma=1.4)
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "message"),
    [
        ("POST", "/colour/regression", b"", {}, 400, "empty"),
        ("POST", "/colour/regression", b"text", {}, 415, "convert the picture"),
        ("POST", "/colour/regression", PHOTO[:300], {}, 400, "broken or cut short"),
        ("POST", "/colour/regression", PHOTO, {"X_Colorize_Chroma": "9"}, 422, "chroma is '9'"),
        ("POST", "/colour/regression", PHOTO, {"Content_Length": "no"}, 400, "Content-Length"),
        ("POST", "/colour/other", PHOTO, {}, 404, "no such page"),
        ("GET", "/../__main__.py", b"", {}, 404, "no such page"),
        ("GET", "/..%2f__main__.py", b"", {}, 404, "no such page"),
        ("GET", "//etc/passwd", b"", {}, 404, "no such page"),
        ("GET", "/", b"", {"Host": "rebound.example.com"}, 403, "--origin http://rebound"),
        ("GET", "/", b"", {"Host": "["}, 403, "--origin"),
        ("POST", "/colour/regression", PHOTO, {"Origin": "https://evil.example"}, 403, "evil"),
        ("POST", "/colour/regression", PHOTO, {"Origin": "null"}, 403, "--origin"),
    ],
)
def test_what_is_wrong_is_answered_in_words(
    port: int,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
    status: int,
    message: str,
) -> None:
    answer = ask(port, method, path, body, **headers)
    assert answer.status == status
    assert message in json.loads(answer.body)["message"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]


def test_a_file_that_is_too_large_is_refused_unread(port: int) -> None:
    answer = ask(port, "POST", "/colour/regression", bytes(Limits().max_bytes + 1))
    assert (answer.status, answer.headers["Connection"]) == (413, "close")
    assert "33,554,432 are the most" in json.loads(answer.body)["message"]


def test_browsers_that_go_away_harm_nobody(port: int, library: Colorizer) -> None:
    head = b"POST /colour/regression HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n"
    for sent in (b"", b"GET", b"\0\xff\r\n\r\n", head, head + PHOTO):
        with socket.create_connection(("127.0.0.1", port)) as one:
            one.sendall(sent)
    answer = ask(port, "POST", "/colour/regression", PHOTO)
    assert answer.body == library.colorize(PHOTO)


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "localhost:99"},
        {"Host": "192.0.2.7"},
        {"Host": "[::1]:7860"},
        {"Host": "photos.example.com"},
        {"Host": "localhost:99", "Origin": "http://localhost:99"},
    ],
)
def test_names_of_this_computer_and_addresses_are_answered(
    port: int, headers: dict[str, str]
) -> None:
    answer = ask(port, "GET", "/", **headers)
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Origin"] is None


def test_a_site_that_was_named_may_use_the_page(port: int) -> None:
    preflight = ask(port, "OPTIONS", "/colour/regression", Origin=ORIGIN)
    assert (preflight.status, preflight.headers["Access-Control-Allow-Origin"]) == (204, ORIGIN)
    assert "x-colorize-format" in preflight.headers["Access-Control-Allow-Headers"]
    answer = ask(port, "POST", "/colour/regression", PHOTO, Origin=ORIGIN)
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)


def test_a_server_is_used_where_one_is_named(monkeypatch: Patch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with any_server() as server, page_before(server) as port:
        info = json.loads(ask(port, "GET", "/info.json").body)
        assert info["networks"] == ["regression", "classification"]
        assert info["where"] == server
        answer = ask(port, "POST", "/colour/regression", PHOTO, X_Colorize_Format="png")
        assert (answer.status, answer.headers["Content-Type"]) == (200, "image/png")
        assert opened(answer.body).size == (120, 90)
        answer = ask(port, "POST", "/colour/classification", b"bad")
        assert json.loads(answer.body)["message"] == "Not a picture."  # and no HTTP status


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--server", "http://127.0.0.1:9"], "does not answer"),
        (["--port", "{taken}"], "choose another port"),
        (["--port", "99999"], "choose another port"),
        (["--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid"),
        (["--server", "ftp://here"], "a server's address begins with"),
        (["--model", "missing.mar"], "missing.mar"),
    ],
)
def test_a_page_that_cannot_start_says_why(
    arguments: list[str], said: str, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the tests' own handlers stay
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        where = [] if "--port" in arguments else ["--port", str(free_port())]
        assert main([*where, *(one.format(taken=port) for one in arguments)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.fixture(scope="module")
def tabs(port: int) -> Iterator[Page]:
    """One tab of Chromium, for the tests that load the page in it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": 390, "height": 800})  # a phone's
        tab.set_default_timeout(SECONDS * 1000 / 3)
        yield tab
        browser.close()


@pytest.fixture
def tab(tabs: Page, port: int) -> Page:
    from playwright.sync_api import expect

    tabs.goto(f"http://127.0.0.1:{port}")
    expect(tabs.locator("#where")).not_to_be_empty()  # the page knows its server
    return tabs


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """Two pictures, one of them in a format that Chromium can't show, and a broken one."""
    paths = [tmp_path / name for name in ("one.jpg", "two.tif", "broken.jpg")]
    paths[0].write_bytes(PHOTO)
    paths[1].write_bytes(encoded(picture(80, 50, seed=1), "TIFF"))
    paths[2].write_bytes(b"bad")
    return paths


@in_chromium
def test_photographs_get_colours_without_a_press_and_errors_stand_beside_them(
    tab: Page, photographs: list[Path], library: Colorizer
) -> None:
    from playwright.sync_api import expect

    tab.locator("#files").set_input_files(photographs)
    expect(tab.locator(".thumb.done")).to_have_count(2)
    expect(tab.get_by_role("status")).to_have_text("2 of 3 in colour, 1 failed")
    broken = tab.get_by_role("button", name="broken.jpg")
    expect(broken).to_contain_text("not a JPEG, PNG")
    broken.click()
    expect(tab.get_by_role("alert")).to_contain_text("broken.jpg could not be coloured.")
    tab.get_by_role("button", name="two.tif").click()
    expect(tab.get_by_role("img", name="two.tif, in colour")).to_be_visible()
    expect(tab.get_by_role("img", name="two.tif, before")).to_be_visible()
    expect(tab.locator("#size")).to_have_text("50 × 80 pixels")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download all").click()
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as archive:
        assert archive.testzip() is None
        found = {name: archive.read(name) for name in archive.namelist()}
    assert found == {f"{path.stem}-colour.jpg": library.colorize(path) for path in photographs[:2]}
    width = tab.evaluate("document.documentElement.scrollWidth")
    assert width <= 390  # nothing sticks out


@in_chromium
def test_looks_and_strength_are_shown_at_once_and_downloaded_as_shown(
    tab: Page, photographs: list[Path], library: Colorizer
) -> None:
    from playwright.sync_api import expect

    tab.locator("#files").set_input_files(photographs[0])
    expect(tab.locator(".look.busy")).to_have_count(0)
    before = tab.locator("#after").get_attribute("src")
    tab.get_by_role("radio", name="Vivid").check()
    expect(tab.locator("#after")).not_to_have_attribute("src", str(before))
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.get_by_label("Strength").fill("50")
    expect(tab.locator("#after")).to_have_css("filter", "saturate(0.5)")
    assert requests == []
    tab.get_by_label("File format").select_option("png")
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download", exact=True).click()
    assert download.value.suggested_filename == "one-colour.png"
    expected = library.colorize(PHOTO, chroma=0.8, format="png")
    assert download.value.path().read_bytes() == expected


@in_chromium
@pytest.mark.parametrize("way", ["drop", "paste"])
def test_photographs_are_dropped_and_pasted(tab: Page, way: str) -> None:
    from playwright.sync_api import expect

    tab.evaluate(
        """([way, body]) => {
            const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(body)], "mine.jpg"));
            const given = { bubbles: true, dataTransfer: data, clipboardData: data };
            const Kind = way === "drop" ? DragEvent : ClipboardEvent;
            document.body.dispatchEvent(new Kind(way, given));
        }""",
        [way, list(PHOTO)],
    )
    expect(tab.locator(".thumb.done")).to_have_text("mine.jpg")


@in_chromium
def test_all_can_be_done_by_keyboard(tab: Page) -> None:
    from playwright.sync_api import expect

    tab.get_by_role("button", name="Three riders on a prairie").press("Enter")
    expect(tab.locator(".look.busy")).to_have_count(0)
    divider = tab.get_by_role("slider", name="Divider")
    divider.press("ArrowRight")
    expect(divider).to_have_attribute("aria-valuenow", "52")
    viewer = tab.get_by_role("group", name="Photograph", exact=True)
    viewer.press("+")
    expect(viewer).to_have_class("zoomed")
    place = tab.locator("#after").evaluate("image => image.style.transform")
    viewer.press("ArrowRight")
    assert tab.locator("#after").evaluate("image => image.style.transform") != place
    viewer.press("0")
    expect(viewer).not_to_have_class("zoomed")
    tab.get_by_role("radio", name="Calm").press("ArrowRight")
    expect(tab.get_by_role("radio", name="Vivid")).to_be_checked()
    tab.get_by_label("Strength").press("ArrowLeft")
    expect(tab.locator("#strength-value")).to_have_text("95 %")
    tab.get_by_role("button", name="Remove this photograph").press("Enter")
    expect(tab.get_by_role("button", name="Choose photographs")).to_be_focused()


@in_chromium
def test_a_person_corrects_a_colour_and_takes_the_correction_home(
    tab: Page, photographs: list[Path], library: Colorizer, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    def colours() -> str:
        return str(tab.locator("#after").get_attribute("src"))

    def press(name: str) -> None:
        """Press a button, and wait until the colours have followed."""
        before = colours()
        tab.get_by_role("button", name=name, exact=True).click()
        expect(tab.locator("#after")).not_to_have_attribute("src", before)

    tab.locator("#files").set_input_files(photographs[0])
    expect(tab.locator(".look.busy")).to_have_count(0)
    tab.get_by_role("button", name="Correct a colour").click()
    box = tab.locator("#viewer").bounding_box()
    assert box
    tab.mouse.click(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    expect(tab.get_by_role("heading", name="Likely here")).to_be_visible()
    press("denim")
    mark = tab.get_by_role("button", name="Correction 1, #3d5a8c")
    press("Keep grey")
    tab.keyboard.press("Control+z")
    expect(mark).to_be_visible()
    tab.get_by_label("Colour as hex").fill("7A2F2F")
    tab.get_by_label("Colour as hex").press("Enter")
    tab.keyboard.press("Escape")
    expect(tab.get_by_role("dialog")).to_be_hidden()
    mark = tab.get_by_role("button", name="Correction 1, #7a2f2f")
    expect(mark).to_be_focused()
    before = colours()
    mark.press("ArrowRight")
    expect(tab.locator("#after")).not_to_have_attribute("src", before)
    place = mark.bounding_box()
    assert place
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Save").click()
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    (hint,) = json.loads(saved.read_text())
    assert hint == {"x": pytest.approx(0.26, abs=0.01), "y": pytest.approx(0.5, abs=0.02)} | {
        "color": "#7a2f2f",
        "radius": 0.02,
    }
    with tab.expect_download() as download:
        tab.get_by_role("button", name="Download", exact=True).click()
    corrected = library.colorize(PHOTO, hints=[hint])
    assert download.value.path().read_bytes() == corrected != library.colorize(PHOTO)
    press("Remove all")
    expect(mark).to_have_count(0)
    before = colours()
    tab.locator("#hints-file").set_input_files(saved)
    expect(mark).to_have_count(1)
    expect(tab.locator("#after")).not_to_have_attribute("src", before)
    tab.mouse.move(place["x"] + 14, place["y"] + 14)
    tab.mouse.down()
    tab.mouse.move(place["x"] + 80, place["y"] + 14, steps=4)
    before = colours()
    tab.mouse.up()
    expect(tab.locator("#after")).not_to_have_attribute("src", before)
    mark.press("Delete")
    expect(mark).to_have_count(0)


@in_chromium
def test_a_correction_is_placed_by_keyboard(tab: Page, photographs: list[Path]) -> None:
    from playwright.sync_api import expect

    tab.locator("#files").set_input_files(photographs[0])
    expect(tab.locator(".thumb.done")).to_have_count(1)
    tab.get_by_role("button", name="Correct a colour").press("Enter")
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("button", name="light skin")).to_be_focused()
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    tab.keyboard.press("Escape")
    expect(tab.get_by_role("button", name="Correction 1, #8d5a3c")).to_be_focused()
    tab.keyboard.press("Control+z")
    expect(tab.locator(".mark")).to_have_count(0)
    tab.keyboard.press("Control+Shift+z")
    expect(tab.locator(".mark")).to_have_count(1)

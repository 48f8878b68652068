"""The page in the browser, in front of a server."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import (
    ROOT,
    SECONDS,
    AnyServer,
    encoded,
    free_port,
    opened,
    picture,
    wait_for_line,
)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]

pytestmark = pytest.mark.server


def start_page(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "page", *arguments]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=-1, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def page() -> Iterator[str]:
    port = free_port()
    with AnyServer() as server:
        process = start_page("--server", server, "--port", str(port))
        try:
            wait_for_line(process, "The page is at")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=SECONDS)


@pytest.fixture
def photographs(tmp_path: Path) -> list[Path]:
    """Two pictures and one that the server refuses."""
    paths = [tmp_path / name for name in ("one.jpg", "two.jpg", "broken.jpg")]
    paths[0].write_bytes(encoded(picture(90, 120), "JPEG"))
    paths[1].write_bytes(encoded(picture(80, 50, seed=1), "JPEG"))
    paths[2].write_bytes(b"bad")
    return paths


@pytest.mark.filterwarnings("ignore")  # of gradio's own client
def test_photographs_come_back_at_full_size_and_a_broken_one_is_told(
    page: str, photographs: list[Path], tmp_path: Path
) -> None:
    from gradio_client import Client, handle_file

    client = Client(page, verbose=False, download_files=str(tmp_path / "down"))
    files = [handle_file(str(path)) for path in photographs]
    failures, which, slider, saved = client.predict(
        files, "colorize", "mean", 0.3, 0, 1, False, api_name="/colour"
    )
    assert failures["value"] == "**broken.jpg** has no colours: 415: Not a picture."
    assert [name for name, _ in which["choices"]] == ["one.jpg", "two.jpg"]
    assert opened(Path(slider[0]).read_bytes()).size == (120, 90)
    assert [opened(Path(path).read_bytes()).size for path in saved] == [(120, 90), (50, 80)]
    assert [Path(path).name for path in saved] == ["one-colour.jpg", "two-colour.jpg"]


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_a_person_drops_photographs_and_sees_them_before_and_after(
    page: str, photographs: list[Path]
) -> None:
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        tab = browser.new_page(viewport={"width": 390, "height": 800})  # a phone's
        tab.set_default_timeout(SECONDS * 1000)
        tab.goto(page)
        tab.get_by_role("button", name="Colour", exact=True).click()
        expect(tab.get_by_text("Choose a photograph first.")).to_be_visible()
        tab.locator("#photographs input[type=file]").set_input_files(photographs)
        expect(tab.locator("#photographs").get_by_text("broken")).to_be_visible()
        tab.get_by_text("Lively").click()
        expect(tab.get_by_text("Number of the draw")).to_be_visible()
        tab.get_by_role("button", name="Colour", exact=True).press("Enter")
        expect(tab.locator("#slider img").first).to_be_visible()
        expect(tab.locator("#failures")).to_contain_text("broken.jpg has no colours")
        width = tab.evaluate("document.documentElement.scrollWidth")
        assert width <= 390  # nothing sticks out
        browser.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--server", "http://127.0.0.1:9", "--wait", "0"], "does not answer: start it with"),
        (["--port", "{taken}"], "is in use; choose another"),
        (["--server", "here"], "a server's address begins with"),
    ],
)
def test_a_page_that_cannot_start_says_why(arguments: list[str], said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = start_page(*[one.format(taken=port) for one in arguments])
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode in (1, 2)
    assert said in output
    assert "Traceback" not in output

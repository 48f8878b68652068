"""The page in the browser, in front of a server."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import support
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

UNREADABLE = b"heic"  # a photograph begins so that the server can read, and the page can't

pytestmark = pytest.mark.server


class _Handler(support._Handler):
    def _coloured(self, body: bytes) -> bytes:
        if body.startswith(UNREADABLE):
            return encoded(picture(40, 30), "JPEG")
        return super()._coloured(body)

    def _answer(self, status: int, body: bytes) -> None:
        if status == 200 and (several := int(self.headers.get("X-Colorize-Variants", 1))) > 1:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                for seed in range(several):
                    archive.writestr(f"seed-{seed}.jpeg", body)
            body = packed.getvalue()
        super()._answer(status, body)


class Variants(AnyServer):
    """A server that answers with a zip file where variants are asked for.

    It reads what the page can't, as one with HEIC does.
    """

    handler = _Handler


def start_page(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "page", *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **variables},
        text=True,
        stdout=-1,
        stderr=subprocess.STDOUT,
    )


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's TMPDIR."""
    return tmp_path_factory.mktemp("page")


@pytest.fixture(scope="module")
def page(temporary: Path) -> Iterator[str]:
    """A page whose environment has proxies that lead nowhere."""
    port, nowhere = free_port(), "http://127.0.0.1:9"
    proxies = {"http_proxy": nowhere, "HTTP_PROXY": nowhere, "ALL_PROXY": "socks5://127.0.0.1:9"}
    with Variants() as server:
        process = start_page(
            "--server", server, "--port", str(port), TMPDIR=str(temporary), no_proxy="", **proxies
        )
        try:
            wait_for_line(process, "The page is at")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.communicate(timeout=SECONDS)
            assert [str(path) for path in temporary.rglob("*") if path.is_file()] == []


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
    failures, which, slider, _, saved = client.predict(
        files, "colorize", "mean", 0.3, 0, 1, 1, False, api_name="/colour"
    )
    assert failures["value"] == "**broken.jpg** has no colours: 415: Not a picture."
    assert [name for name, _ in which["choices"]] == ["one.jpg", "two.jpg"]
    assert opened(Path(slider[0]).read_bytes()).size == (120, 90)
    assert [opened(Path(path).read_bytes()).size for path in saved] == [(120, 90), (50, 80)]
    assert [Path(path).name for path in saved] == ["one-colour.jpg", "two-colour.jpg"]


@pytest.mark.filterwarnings("ignore")  # of gradio's own client
def test_a_photograph_that_the_page_cannot_read_fails_no_other_and_shows_its_own_lightness(
    page: str, photographs: list[Path], tmp_path: Path, temporary: Path
) -> None:
    from gradio_client import Client, handle_file

    photographs[0].write_bytes(UNREADABLE)
    client = Client(page, verbose=False, download_files=str(tmp_path / "down"))
    files = [handle_file(str(path)) for path in photographs[:2]]
    arguments = ("colorize", "mean", 0.3, 0, 1, 1, False)

    def folders() -> set[Path]:
        return {path for path in temporary.glob("page-*/*") if path.name != "gradio"}

    others = folders()
    for _ in range(2):
        failures, which, slider, _, saved = client.predict(files, *arguments, api_name="/colour")
        assert not failures["visible"], failures
        assert [name for name, _ in which["choices"]] == ["one.jpg", "two.jpg"]
        assert opened(Path(slider[0]).read_bytes()).size == (30, 40)
        assert [opened(Path(path).read_bytes()).size for path in saved] == [(30, 40), (50, 80)]
    assert len(folders() - others) == 2, "those of the first click should be gone"
    failures, *_ = client.predict([], *arguments, api_name="/colour")
    assert (failures["visible"], failures["value"]) == (True, "Choose a photograph first.")


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
        clear = tab.get_by_text("Choose a photograph first.")
        tab.locator("#photographs input[type=file]").set_input_files(photographs)
        expect(tab.locator("#photographs").get_by_text("broken")).to_be_visible()
        expect(clear).to_be_hidden()
        tab.get_by_text("Lively").click()
        expect(tab.get_by_text("Number of the draw")).to_be_visible()
        tab.get_by_role("button", name="Colour", exact=True).press("Enter")
        expect(tab.locator("#slider img").first).to_be_visible()
        expect(tab.locator("#variants")).to_be_hidden()
        tab.get_by_label("number input for Variants").fill("3")
        tab.get_by_role("button", name="Colour", exact=True).press("Enter")
        expect(tab.locator("#variants img")).to_have_count(3)
        before = tab.locator("#slider img").nth(1).get_attribute("src")
        tab.locator("#variants button", has=tab.locator("img")).nth(2).press("Enter")
        expect(tab.locator("#slider img").nth(1)).not_to_have_attribute("src", str(before))
        with tab.expect_download() as download:
            tab.get_by_role("link", name="3-two-colour.jpg").or_(
                tab.locator("a[download='3-two-colour.jpg']")
            ).first.click()
        assert opened(download.value.path().read_bytes()).size == (50, 80)
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


def test_only_options_that_go_together_are_asked_for() -> None:
    from colorizer.options import Options
    from page.__main__ import options_of

    assert options_of("colorize", "mean", 0.3, 1, 4, True) == {}
    for variants, unsure in ((1, False), (4, False), (1, True), (4, True)):
        asked = options_of("colorize-classes", "mean", 0.3, 1, variants, unsure)
        Options.parse({name: str(value) for name, value in asked.items()})  # as the server reads
        assert ("variants" in asked) == (variants > 1 and not unsure)
        assert ("show" in asked) == unsure

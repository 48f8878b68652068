"""The load test, against a small server that colours, and the checks of its replies."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import results
from benchmarks.measured import Measured, meets
from benchmarks.pictures import MIX, Photograph, deck, load_mix, read_folder, what_is_wrong
from tests.support import ROOT, SECONDS, encoded, picture


def coloured(body: bytes) -> bytes:
    with Image.open(io.BytesIO(body)) as im:
        pixels = np.asarray(im.convert("RGB")).copy()
    pixels[..., 2] //= 2
    return encoded(pixels, "JPEG")


class Colours(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = coloured(body)
        status = 200
        if self.path.endswith("/grey"):
            answer = body
        elif self.path.endswith("/busy"):
            status, answer = 503, b"{}"
        elif self.path.endswith("/infer"):  # as Triton sends bytes
            assert self.headers["Inference-Header-Content-Length"] == "0"
            answer = b"{}" + answer
        self.send_response(status)
        if self.path.endswith("/infer"):
            self.send_header("Inference-Header-Content-Length", "2")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Colours) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_address[1]}"
        one.shutdown()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "one.jpg").write_bytes(encoded(picture(40, 60), "JPEG"))
    (folder / "notes.txt").write_text("names of the people")
    return folder


def load(pictures: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.load", *arguments]
    command += ["--pictures", str(pictures), "--seconds", "1"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)


@pytest.mark.parametrize("path", ["/predictions/colorize", "/v2/models/colorize/infer"])
def test_users_are_served_and_what_they_saw_is_told(
    server: str, pictures: Path, tmp_path: Path, path: str
) -> None:
    raw, saved = tmp_path / "raw.json", tmp_path / "table.json"
    arguments = ["--users", "1", "3", "--raw", str(raw), "--json", str(saved)]
    done = load(pictures, "closed", "--url", server + path, *arguments)
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if "users |" in line]
    assert [row[0] for row in rows] == ["| 1 users", "| 3 users"]
    assert all(float(row[2]) > 1 and row[-1] == "none |" for row in rows)
    assert '"times"' in raw.read_text()
    command, _, (table,) = results.load(saved)
    assert command.startswith("python -m benchmarks.load closed --url http://127.0.0.1")
    assert table.markdown() in done.stdout


@pytest.mark.parametrize(("path", "kind"), [("grey", "reply: grey"), ("busy", "status 503")])
def test_a_server_without_colours_is_refused_with_what_it_answers(
    server: str, pictures: Path, path: str, kind: str
) -> None:
    done = load(pictures, "closed", "--url", f"{server}/{path}")
    assert done.returncode == 2
    assert kind in done.stderr.splitlines()[-1]


def test_requests_arrive_at_the_rate_that_was_asked_for_and_a_missed_gate_is_an_exit_code(
    server: str, pictures: Path
) -> None:
    arguments = ["open", "--url", f"{server}/predictions/colorize", "--rate", "30"]
    done = load(pictures, *arguments, "--max-p99", "0.001")
    assert done.returncode == 1, done.stderr
    (row,) = (line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| 30"))
    assert 15 < float(row[1]) < 45
    assert row[-1] == "none |"


def test_the_highest_rate_is_looked_for_on_both_sides(server: str, pictures: Path) -> None:
    url = f"{server}/predictions/colorize"
    done = load(pictures, "limit", "--url", url, "--rate", "2", "--max-p99", "0.001")
    assert done.returncode == 1  # nothing is that fast
    assert "Highest rate within p99 0.001 ms: 0.00 a second" in done.stdout


def test_a_server_that_is_not_there_is_one_line(pictures: Path) -> None:
    done = load(pictures, "closed", "--url", "http://127.0.0.1:9/predictions/colorize")
    assert done.returncode == 2
    assert "gives no colours (no connection): start it with make serve" in done.stderr
    assert "Traceback" not in done.stderr


def test_times_count_from_when_a_request_was_due() -> None:
    script = (
        "import time; from types import SimpleNamespace as N\n"
        "from benchmarks.locustfile import chosen, post\n"
        "class Reply:\n"
        "    status_code, request_meta = 503, {}\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *a): pass\n"
        "    def failure(self, why): pass\n"
        "user = N(client=N(post=lambda *a, **k: Reply()), path='/')\n"
        "post(user, chosen()[0][0], time.perf_counter() - 5)\n"
        "print(Reply.request_meta['response_time'] >= 5000)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_a_reply_is_a_picture_of_the_same_size_in_colour() -> None:
    body = encoded(picture(90, 120), "JPEG")
    photograph = Photograph("one", body, 120, 90)
    assert what_is_wrong(coloured(body), photograph) is None
    assert what_is_wrong(body, photograph) == "grey"
    assert what_is_wrong(coloured(encoded(picture(90, 121), "JPEG")), photograph) == "another size"
    assert what_is_wrong(b"text", photograph) == "no picture"
    assert what_is_wrong(coloured(body)[:100], photograph) == "no picture"


def test_the_mix_has_the_stated_sizes_and_shares(pictures: Path) -> None:
    photographs, shares = load_mix({0.3: 3, 1.0: 1})
    assert sum(shares) == pytest.approx(1)
    for photograph, share in zip(photographs, shares, strict=True):
        megapixels = float(photograph.name.removesuffix(" MP"))
        assert photograph.width * photograph.height == pytest.approx(1e6 * megapixels, rel=0.01)
        assert share == pytest.approx({0.3: 0.25, 1.0: 1 / 12}[megapixels])
    assert set(MIX) == {0.3, 3.0, 12.0}
    assert [p.width for p in read_folder(pictures)[0]] == [60]


def test_a_deck_holds_each_photograph_as_often_as_its_share_says() -> None:
    photographs, shares = load_mix()
    cards = deck(photographs, shares, random.Random(0))
    assert Counter(card.name for card in cards) == {"0.3 MP": 18, "3 MP": 9, "12 MP": 3}
    assert cards != deck(photographs, shares, random.Random(1))


def test_a_step_meets_its_gates_only_with_good_replies() -> None:
    step = Measured("", None, 1.0, [float(i) for i in range(100)], {"grey": 1})
    assert (step.quantile(0.5), step.quantile(0.99)) == (50.0, 99.0)
    assert step.error_share == pytest.approx(1 / 101)
    assert meets(step, 99.0, 0.01)
    assert not meets(step, 98.0, 0.01)
    assert not meets(step, None, 0.0)
    assert not meets(Measured("", None, 0.0, [], {}), None, 1.0)

"""Load on a small server that colours: closed and open loop, gates, and what is refused."""

from __future__ import annotations

import io
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import results, serving
from benchmarks.serving import Step
from tests.support import ROOT, SECONDS, Echo, any_server, encoded, picture


def coloured(body: bytes) -> bytes:
    with Image.open(io.BytesIO(body)) as im:
        pixels = np.asarray(im.convert("RGB")).copy()
    pixels[..., 2] //= 2
    return encoded(pixels, "JPEG")


class Colours(Echo):
    def do_POST(self) -> None:
        body = self.body()
        answer = coloured(body)
        status, headers = 200, {"Server_Timing": "network;dur=10.5, finish;dur=2"}
        if self.path.endswith("/grey"):
            answer = body
        elif self.path.endswith("/busy"):
            status, answer = 503, b"{}"
        elif self.path.endswith("/infer"):  # as Triton sends bytes
            assert self.headers["Inference-Header-Content-Length"] == "0"
            headers["Inference_Header_Content_Length"], answer = "2", b"{}" + answer
        self.answer(status, answer, **headers)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with any_server(Colours) as url:
        yield url


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "one.jpg").write_bytes(encoded(picture(40, 60), "JPEG"))
    (folder / "notes.txt").write_text("names of the people")
    return folder


def load(pictures: Path, url: str, *arguments: str) -> int:
    return serving.main(
        ["--url", url, "--photos", str(pictures), "--seconds", "1", "--users", "2", *arguments]
    )


@pytest.mark.parametrize("path", ["/predictions/colorize", "/v2/models/colorize/infer"])
def test_both_loops_are_measured_and_saved(
    server: str, pictures: Path, tmp_path: Path, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    saved = tmp_path / "table.json"
    assert load(pictures, server + path, "--rate", "30", "--json", str(saved)) == 0
    _, (closed, opened) = results.load(saved)
    assert closed.markdown() in capfd.readouterr().out
    (users,) = (dict(zip(closed.columns, row, strict=True)) for row in closed.rows)
    assert users["users"] == 2
    assert isinstance(users["achieved, 1/s"], float)
    assert users["achieved, 1/s"] > 1
    assert users["errors"] == "none"
    assert users["in the pipeline, ms"] == 12.5
    (rate,) = (dict(zip(opened.columns, row, strict=True)) for row in opened.rows)
    assert isinstance(rate["offered, 1/s"], float)
    assert 15 < rate["offered, 1/s"] < 45
    assert rate["errors"] == "none"


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/grey", "reply: grey"), ("/busy", "status 503"), (":9/gone", "no connection")],
)
def test_a_server_without_colours_is_refused_with_what_it_answers(
    server: str, pictures: Path, path: str, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    url = server + path if path.startswith("/") else f"http://127.0.0.1{path}"
    assert load(pictures, url) == 2
    message = capfd.readouterr().err
    assert kind in message.splitlines()[-1]
    assert "Traceback" not in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--url", "here"], "--url must be that of a network"),
        (["--url", "http://127.0.0.1:9"], "--url must be that of a network"),
        (["--rate", "0"], "--rate must be above 0"),
        (["--users", "0"], "0 is not 1 or more"),
    ],
)
def test_a_wrong_argument_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        serving.main(arguments)
    assert message in capsys.readouterr().err


def in_locust(script: str) -> str:
    """Run a script in a process of its own: Locust replaces the sockets of any that imports it."""
    done = subprocess.run(
        [sys.executable, "-c", f"from benchmarks.locustfile import *\n{script}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_times_count_from_when_a_request_was_due() -> None:
    script = (
        "from types import SimpleNamespace as N\n"
        "class Reply:\n"
        "    status_code, request_meta = 503, {}\n"
        "    def __enter__(self): return self\n"
        "    def __exit__(self, *a): pass\n"
        "    def failure(self, why): pass\n"
        "user = N(client=N(post=lambda *a, **k: Reply()), options=N(path='/'))\n"
        "post(user, samples.sample(0.01), time.perf_counter() - 5)\n"
        "print(Reply.request_meta['response_time'] >= 5000)"
    )
    assert in_locust(script) == "True\n"


def test_arrivals_are_a_poisson_process() -> None:
    script = (
        "due = arrivals(10, 1000)\n"
        "gaps = np.diff(due)\n"
        "print(len(due), gaps.mean(), gaps.std(), len(arrivals(0.001, 1)))"
    )
    count, mean, deviation, fewest = map(float, in_locust(script).split())
    assert count == pytest.approx(10_000, rel=0.05)
    assert mean == pytest.approx(0.1, rel=0.05)
    assert deviation == pytest.approx(mean, rel=0.05)  # that of an exponential distribution
    assert fewest == 1


def test_a_step_without_a_good_reply_has_no_times() -> None:
    step = Step(None, 0.0, [None, None, None], None, {"status 503": 7}, 0.5, 0.1)
    assert step.row() == [
        *(None, 0.0, None, None, None, None, 0.5, 0.1, None, None, "status 503: 7")
    ]


def test_the_busiest_gpu_and_the_most_memory_are_told_and_without_a_gpu_nothing() -> None:
    lines = ["0, 10, 500", "1, 80, 700", "0, 20, 900", "1, 100, 800", "1, [N/A], 1000", "cut"]
    assert serving.usage(lines) == (pytest.approx(0.9), 900)
    assert serving.usage([]) == (None, None)


def test_gpus_are_sampled_while_the_load_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/given\necho 0, 80\nexec sleep 60\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with serving.gpu() as lines:
        deadline = time.monotonic() + SECONDS
        while not (tmp_path / "given").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)  # until its first line
        assert not lines
    assert lines == ["0, 80"]
    assert "--query-gpu=index,utilization.gpu,memory.used" in (tmp_path / "given").read_text()

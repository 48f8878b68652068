"""Quality of what is served, against quality of the checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks import quality, results
from colorizer.pipeline import Options
from colorizer.unet import Head
from training import methods
from training.metrics import Scores


@pytest.fixture(scope="module")
def server(weights: Callable[[Head], Path]) -> Iterator[str]:
    """The pipeline with small networks behind HTTP."""
    pipeline = methods.eager_pipeline(weights("regression"))

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            options = Options.parse({"format": self.headers["X-Colorize-Format"]})
            reply = pipeline.colorize(body, options).body
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as one:
        threading.Thread(target=one.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{one.server_address[1]}"
        one.shutdown()


def test_the_endpoint_has_the_figures_of_the_checkpoint_behind_it(
    server: str,
    weights: Callable[[Head], Path],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    saved = tmp_path / "quality.json"
    assert quality.main([server, "--photos", str(photos), "--json", str(saved)]) == 0
    assert "left out: " in capsys.readouterr().err
    _, _, (table,) = results.load(saved)
    with methods.Processes({"net": weights("regression")}) as processes:
        expected = methods.evaluate(
            processes, [methods.Method("net", "net")], sorted(photos.glob("*.[pj]*"))
        )
    assert expected.scores["grey"].row() != expected.scores["net"].row()
    for row, scores in zip(table.rows, (expected.scores[n] for n in ("grey", "net")), strict=True):
        check(dict(zip(table.columns, row, strict=True)), scores)


def check(row: dict[str, results.Value], scores: Scores) -> None:
    assert row["photographs"] == len(scores.pictures) == 9
    limits = scores.intervals()
    for name, value in scores.row().items():
        assert row[name] == pytest.approx(value, rel=1e-6)
        assert row[f"{name}, 95%"] == "{:.4g}–{:.4g}".format(*limits[name])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://127.0.0.1:9"], "does not answer"),
        (["here"], "a server's address begins with"),
        (["http://127.0.0.1:9", "--photos", "{empty}"], "no photographs"),
    ],
)
def test_what_is_wrong_is_one_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quality.main([one.format(empty=tmp_path) for one in arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("quality: ")
    assert said in last

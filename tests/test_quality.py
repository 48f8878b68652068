"""Quality of what is served, against quality of the checkpoint."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks import quality, results
from colorizer.options import Options
from colorizer.recipe import Head
from evaluation import methods


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
        yield f"http://127.0.0.1:{one.server_address[1]}/predictions/colorize"
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
    _, (table,) = results.load(saved)
    with methods.Processes({"net": weights("regression")}) as processes:
        expected = methods.evaluate(
            processes, [methods.Method("net", "net")], sorted(photos.glob("*.[pj]*"))
        )
    assert expected.scores["grey"].row() != expected.scores["net"].row()
    assert "9 photographs; 2 more can't be read" in table.note
    for number, name in enumerate(("grey", "net")):
        scores = expected.scores[name]
        limits = scores.intervals()
        values = scores.row()
        assert [row[0] for row in table.rows] == list(values)
        for row in table.rows:
            # Another number of threads sums in another order.
            assert row[1 + 2 * number] == pytest.approx(values[str(row[0])], 1e-4, 1e-4)
            low, high = str(row[2 + 2 * number]).split(" to ")
            assert (float(low), float(high)) == pytest.approx(limits[str(row[0])], 1e-3, 1e-3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://127.0.0.1:9"], "does not answer"),
        (["ftp://here"], "a server's address begins with"),
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

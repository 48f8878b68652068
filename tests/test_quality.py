"""Quality of what is served, against quality of the checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import quality, results
from colorizer.options import Options
from evaluation import methods
from tests.support import Echo, Weights, any_server


@pytest.fixture(scope="module")
def server(weights: Weights) -> Iterator[str]:
    """The pipeline with small networks behind HTTP."""
    pipeline = methods.eager_pipeline(weights("regression"))

    class Colours(Echo):
        def do_POST(self) -> None:
            options = Options.parse({"format": self.headers["X-Colorize-Format"]})
            self.answer(200, pipeline.colorize(self.body(), options).body)

    with any_server(Colours) as url:
        yield f"{url}/predictions/colorize"


def test_the_endpoint_has_the_figures_of_the_checkpoint_behind_it(
    server: str,
    weights: Weights,
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

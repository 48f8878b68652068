"""Engines, memory, the waterfall and growth, measured at the smallest sizes."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import color

from benchmarks import batches, engines, film, growth, peak_memory, pipeline, results
from benchmarks.cases import Case
from benchmarks.pipeline import STAGES
from benchmarks.results import Table
from benchmarks.roofline import Cost, Peak
from benchmarks.timing import Timing
from colorizer import lab
from colorizer.unet import Head
from export import graphs
from export.graphs import Source
from tests.support import SIDE, coloured, encoded, picture

HEADS: tuple[Head, ...] = ("regression", "classification")
TOLD = peak_memory.CLEAR.exists()  # whether the system tells the peak of a process


@pytest.fixture(scope="module")
def exported(
    weights: Callable[[Head], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[Head, Path]:
    """A TorchScript graph of each head."""
    made = tmp_path_factory.mktemp("graphs")
    for head in HEADS:
        source = Source.read(weights(head), [picture(64, 64)])
        out = made / head / "torchscript"
        graphs.export(source, "torchscript", out, [], say=lambda line: None)
    return {head: made / head for head in HEADS}


def tables(main: Callable[[list[str]], int], arguments: list[str], path: Path) -> list[Table]:
    """What a benchmark saves, measured quickly."""
    assert main([*arguments, "--quick", "--threads", "1", "--json", str(path)]) == 0
    _, _, found = results.load(path)
    for table in found:
        assert all(len(row) == len(table.columns) for row in table.rows)
        plotted = [table.plot.x, *table.plot.y] if table.plot else []
        assert set(plotted) <= set(table.columns)
    return found


def column(table: Table, name: str) -> list[results.Value]:
    return [row[table.columns.index(name)] for row in table.rows]


def test_engines_are_timed_held_against_the_peak_and_compared(
    exported: dict[Head, Path], weights: Callable[[Head], Path], tmp_path: Path
) -> None:
    arguments = [str(weights("classification")), str(exported["classification"])]
    found = tables(engines.main, arguments, tmp_path / "found.json")
    names = ["eager torch", "eager torch, channels last", "TorchScript"]
    timed, roofline, needed, differences, decoding = found
    assert timed.title == "Engines, classification, batch 1"
    assert column(timed, "engine") == names
    assert column(timed, "× eager")[0] == 1
    assert all(isinstance(one, float) and one > 0 for one in column(timed, "of attainable"))
    assert "GPU utilization: absent" in timed.note
    assert column(roofline, "limit")[0] in ("cores", "memory")
    (loading,) = column(needed, "loading, MB")
    assert (loading is not None) == TOLD
    assert not TOLD or loading > 100  # 24 million weights, in float32
    assert column(differences, "engine") == names
    assert column(differences, "largest Δab")[0] == 0
    assert column(decoding, "decoding") == ["mode", "mean", "annealed-mean", "sample"]


def test_the_share_of_the_peak_is_that_of_the_roofline() -> None:
    case = Case("one", "eager", Path(), lambda lightness: lightness)
    peaks = {
        "float32": Peak(100e9, 10e9, "convolution"),
        "float16": Peak(200e9, 10e9, "convolution"),
    }
    time = Timing(100, 100, 100)  # ms: 5 GFLOP in it are 50 GFLOP/s
    assert engines.share(case, Cost(5 * 10**9, 10**8), time, peaks) == pytest.approx(0.5)
    # 5 FLOP a byte, and so 50 GFLOP/s attainable
    assert engines.share(case, Cost(5 * 10**9, 10**9), time, peaks) == pytest.approx(1.0)
    half = Case("one", "torchscript", Path(), case.run, "float16")  # half the bytes
    assert engines.share(half, Cost(5 * 10**9, 10**9), time, peaks) == pytest.approx(0.5)
    eighth = Case("one", "onnx", Path(), case.run, "int8")
    assert engines.share(eighth, Cost(5 * 10**9, 10**9), time, peaks) is None


def test_graphs_of_another_network_are_refused(
    exported: dict[Head, Path],
    weights: Callable[[Head], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(weights("regression")), str(exported["classification"]), "--quick"]
    assert engines.main(arguments) == 2
    assert "holds a graph of a classification network" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("device", "said"), [("gpu", "use cpu or cuda:N"), ("cuda:0", "torch sees no CUDA GPU here")]
)
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_here_is_refused(
    device: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert engines.main(["none", "none", "--device", device]) == 2
    assert said in capsys.readouterr().err


def test_a_checkpoint_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert engines.main(["none.safetensors", "none"]) == 2
    assert capsys.readouterr().err == "engines: no checkpoint at none.safetensors\n"


@pytest.mark.skipif(not TOLD, reason="this system doesn't tell")
def test_memory_that_is_taken_is_seen_and_forgotten() -> None:
    size = 200_000_000
    before = peak_memory.held("cpu")
    peak_memory.forget("cpu")
    taken = np.ones(size, np.uint8)
    assert peak_memory.peak("cpu") - before > 0.9 * taken.nbytes
    del taken
    peak_memory.forget("cpu")
    assert peak_memory.peak("cpu") - before < 0.5 * size


@pytest.mark.skipif(not TOLD, reason="this system doesn't tell")
def test_a_measurement_of_memory_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho killed >&2; exit 1\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(OSError, match="measuring the memory of torchscript failed: killed"):
        peak_memory.measure("torchscript", tmp_path / "none")


def test_the_waterfall_has_each_stage_of_both_ways_and_their_total(
    exported: dict[Head, Path], tmp_path: Path
) -> None:
    found = tables(pipeline.main, [str(exported[head]) for head in HEADS], tmp_path / "found.json")
    assert [table.title for table in found] == [
        "Waterfall, regression, 0.05 megapixels",
        "Waterfall, classification, 0.05 megapixels",
        "Lab beside scikit-image",
    ]
    for table in found[:2]:
        assert column(table, "stage") == [*STAGES.values(), "total"]
        ours, theirs, ratio = (column(table, one) for one in ("ours, ms", "scikit-image, ms", "×"))
        assert ours[-1] == pytest.approx(sum(ours[:-1]))
        assert [b / a for a, b in zip(ours, theirs, strict=True)] == pytest.approx(ratio)
    assert column(found[2], "stage")[-1] == "there and back"


def test_without_graphs_lab_alone_is_measured(tmp_path: Path) -> None:
    (table,) = tables(pipeline.main, [], tmp_path / "found.json")
    assert "largest difference there and back: 0 of 255 levels" in table.note


def test_the_plain_way_gives_what_scikit_image_gives() -> None:
    pixels = coloured(3, 60, 80)
    assert np.array_equal(pipeline.read_plainly(encoded(pixels)), pixels)
    expected = color.rgb2lab(pixels)
    lightness = pipeline.lightness_plainly(pixels)
    assert lightness.dtype == np.float64
    assert np.array_equal(lightness, expected[..., 0])
    assert np.abs(lightness - lab.rgb_to_lightness(pixels)).max() < 0.05
    flat = np.full((2, SIDE, SIDE), 5, np.float32)
    finished = pipeline.finish_plainly(lightness, flat)
    wanted = color.lab2rgb(np.dstack([lightness, np.full((60, 80, 2), 5.0)]))
    assert np.abs(finished - 255 * wanted).max() <= 0.5
    with Image.open(io.BytesIO(pipeline.encode_plainly(pixels))) as opened:
        assert opened.format == "JPEG"
        assert opened.size == (80, 60)


def test_growth_is_a_curve_each_with_its_reason(exported: dict[Head, Path], tmp_path: Path) -> None:
    found = tables(growth.main, [str(exported["regression"])], tmp_path / "found.json")
    sizes, counts, threads = found
    assert column(sizes, "megapixels") == [0.1]
    (peak,) = column(sizes, "peak memory, MB")
    assert (peak is not None) == TOLD
    assert "ms a megapixel" in sizes.note
    assert column(counts, "batch") == [1, 2]
    assert column(counts, "× the smallest")[0] == 1
    assert "FLOP" in counts.note
    assert column(threads, "threads") == [1]
    assert "nothing to compare" in threads.note
    assert all(table.plot for table in found)


def test_threads_are_doubled_up_to_the_most() -> None:
    assert [growth.thread_counts(most) for most in (1, 2, 6, 8)] == [
        *([1], [1, 2], [1, 2, 4, 6], [1, 2, 4, 8])
    ]


def test_a_size_of_no_pixels_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for main in (pipeline.main, growth.main):
        with pytest.raises(SystemExit, match="2"):
            main(["none", "--megapixels", "0"])
        assert "--megapixels must be above 0" in capsys.readouterr().err


def test_a_batch_is_timed_beside_its_pictures(exported: dict[Head, Path], tmp_path: Path) -> None:
    (table,) = tables(batches.main, [str(exported["regression"])], tmp_path / "found.json")
    assert column(table, "network runs") == ["a batch", "picture by picture"]
    assert column(table, "of the batch's time")[0] == 1


def test_a_film_needs_an_archive_and_says_which_command_makes_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert film.main(["--model", "none.mar"]) == 2
    assert capsys.readouterr().err.startswith("film: no archive at none.mar: run `make archives`")


def test_grain_is_new_in_every_frame_and_as_strong_as_asked() -> None:
    first, second = (one[..., 0].astype(float) for one in film.grainy(8.0, 2))
    assert (first - second).std() == pytest.approx(8 * 2**0.5, rel=0.1)

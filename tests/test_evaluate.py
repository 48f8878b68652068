"""The measures, and the command that measures checkpoints."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity

from colorizer import lab
from evaluation import evaluate, figures
from evaluation.bins import encode
from evaluation.command import named
from evaluation.methods import Colours, Method, Processes, eager_pipeline
from evaluation.metrics import (
    THRESHOLDS,
    Measured,
    Scores,
    Truth,
    chroma_histogram,
    colorfulness,
    ddcolor_colorfulness,
    measure,
    ssim,
)
from tests.support import Capture, Patch, Weights, coloured, encoded, measured, opened

QUIET = ["--workers", "1"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photographs and a broken one."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(encoded(coloured(seed, 60 + seed, 70)))
    (folder / "cut.jpg").write_bytes(encoded(coloured(3), "JPEG")[:500])
    return folder


# --- measures


def test_colorfulness_is_hasslers() -> None:
    rgb = np.zeros((1, 2, 3), np.uint8)
    rgb[0, 0] = (200, 100, 50)  # rg 100, yb 100
    rgb[0, 1] = (100, 200, 250)  # rg -100, yb -100
    assert colorfulness(rgb) == pytest.approx(np.hypot(100, 100))
    assert ddcolor_colorfulness(rgb) == pytest.approx(0.3 * np.hypot(100, 100))
    rgb[0, 1] = rgb[0, 0]
    assert colorfulness(rgb) == pytest.approx(0.3 * np.hypot(100, 100))
    assert ddcolor_colorfulness(rgb) == colorfulness(rgb)
    assert colorfulness(np.full((4, 4, 3), 90, np.uint8)) == 0


def test_measures_are_scikit_images_to_the_printed_digits() -> None:
    truth, found = coloured(1, 90, 120), coloured(2, 90, 120)
    rng = np.random.default_rng(0)
    near = np.clip(truth + rng.normal(0, 8, truth.shape), 0, 255).astype(np.uint8)
    for other in (found, near):
        values = measure(other, Truth(truth)).values
        expected = deltaE_ciede2000(rgb2lab(truth), rgb2lab(other)).mean()
        assert values["ΔE00"] == pytest.approx(expected, abs=0.0005)
        expected = structural_similarity(truth, other, channel_axis=-1)
        assert values["SSIM"] == pytest.approx(expected, abs=0.00005)


def test_a_picture_smaller_than_a_window_has_a_similarity() -> None:
    small = coloured(0, 4, 9)
    assert ssim(small, small) == pytest.approx(1)


def test_the_truth_scores_best() -> None:
    row = Scores([measure(coloured(seed), Truth(coloured(seed))) for seed in (1, 2)]).row()
    assert row["ΔE00"] == row["ΔCF"] == row["ΔCF each"] == 0
    assert row["AuC"] == row["balanced AuC"] == pytest.approx(1)
    assert row["SSIM"] == pytest.approx(1)
    assert row["PSNR"] == 100


def with_errors(*errors: tuple[int, float, int]) -> Measured:
    """A picture with (bin, ab error, pixels) each."""
    credit, pixels = np.zeros(261), np.zeros(261, np.int64)
    for index, error, number in errors:
        credit[index] += number * (THRESHOLDS - np.ceil(error)) / THRESHOLDS
        pixels[index] += number
    return measured(credit=credit, pixels=pixels)


def test_pale_and_loud_pictures_cancel_in_one_difference_of_colourfulness_only() -> None:
    truth = Truth(coloured(0))
    pair = [np.clip(128 + k * (truth.rgb - 128.0), 0, 255).astype(np.uint8) for k in (0.5, 1.5)]
    row = Scores([measure(picture, truth) for picture in pair]).row()
    apart = [colorfulness(picture) - truth.values["CF"] for picture in pair]
    assert apart[0] < 0 < apart[1]
    assert row["ΔCF"] == pytest.approx(abs(sum(apart)) / 2)
    assert row["ΔCF each"] == pytest.approx((apart[1] - apart[0]) / 2)


def test_auc_of_one_known_error_is_its_closed_form() -> None:
    # A grey truth of one pixel, and one that is 30 ab units off.
    light = np.full((8, 8), 50, np.float32)
    true = lab.lab_to_rgb(light, np.zeros((8, 8, 2), np.float32))
    found = lab.lab_to_rgb(light, np.broadcast_to(np.float32([18, 24]), (8, 8, 2)))
    error = np.hypot(*(rgb2lab(found) - rgb2lab(true))[0, 0, 1:])
    assert error == pytest.approx(30, abs=0.5)
    row = Scores([measure(found, Truth(true))]).row()
    assert row["AuC"] == pytest.approx((THRESHOLDS - np.ceil(error)) / THRESHOLDS)
    assert row["balanced AuC"] == pytest.approx(row["AuC"])


def test_balanced_auc_counts_rare_colours_as_much_as_common_ones() -> None:
    far = [int(encode(torch.tensor([a, 0.0]).view(1, 2, 1, 1))) for a in (-60, 60)]
    common_right, rare_wrong = (far[0], 0.0, 9000), (far[1], 150.0, 1000)
    row = Scores([with_errors(common_right, rare_wrong)]).row()
    right, wrong = 1.0, 1 / THRESHOLDS
    assert row["AuC"] == pytest.approx(0.9 * right + 0.1 * wrong, abs=0.001)
    # Not exactly half: bins at the gamut's edge have fewer neighbours to smooth over.
    assert row["balanced AuC"] == pytest.approx(0.5 * right + 0.5 * wrong, abs=0.1)


def test_intervals_are_those_of_the_normal_distribution_where_it_holds() -> None:
    values = np.random.default_rng(3).normal(10, 2, 400)
    scores = Scores([measured({"ΔE00": float(value)}) for value in values])
    low, high = scores.intervals()["ΔE00"]
    half = 1.96 * values.std() / np.sqrt(400)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_each_measure_has_an_interval_around_it() -> None:
    pairs = [(coloured(seed), coloured(seed + 20)) for seed in range(6)]
    scores = Scores([measure(found, Truth(true)) for found, true in pairs])
    row, intervals = scores.row(), scores.intervals(200)
    assert list(row) == list(intervals)
    for name in row.keys() - {"ΔCF"}:  # which the absolute value folds at 0
        assert intervals[name][0] < row[name] < intervals[name][1], name


def test_the_chroma_histogram_counts_every_pixel_in_its_column() -> None:
    planes = np.zeros((2, 2, 3), np.float32)
    planes[0, 0, 1:] = (3, 4)  # chroma 5
    planes[0, 1, 1:] = (300, 400)
    counts = chroma_histogram(planes)
    assert (counts[0], counts[2], counts[-1], counts.sum()) == (2, 1, 1, 4)


def test_the_calibration_error_is_the_mean_gap() -> None:
    counts = np.array([[0, 0, 0], [10, 2, 5], [30, 27, 21]], float)  # gaps of 0.3 and 0.2
    assert figures.calibration_error(counts) == pytest.approx(0.25 * 0.3 + 0.75 * 0.2)


# --- methods


def test_a_method_changes_what_it_names(weights: Weights) -> None:
    colours = Colours(coloured(0), {"net": eager_pipeline(weights("classification"))})
    served, recipe = colours.colour(Method("", "net")), colours.pipelines["net"].graph.recipe
    others = [
        Method("", "net", replace(recipe, decoding="mode")),
        Method("", "net", replace(recipe, temperature=2.0)),
        Method("", "net", replace(recipe, chroma_gain=2.0)),
        Method("", "net", replace(recipe, side=96)),
        Method("grey"),
    ]
    assert all((colours.colour(method) != served).any() for method in others)
    red = lab.rgb_to_lab(colours.colour(Method("", ab=(20.0, 10.0))))
    assert np.median(red[..., 1:], axis=(0, 1)) == pytest.approx([20, 10], abs=0.5)


# --- the command


def rows_of(text: str) -> list[str]:
    """The rows of the two tables, which are the same."""
    lines = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")]
    half = len(lines) // 2
    assert lines[:half] == lines[half:]
    return lines[2:half]


def test_evaluation_prints_baselines_each_network_its_decodings_and_the_truth(
    photos: Path, weights: Weights, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    files = [str(weights("regression")), str(weights("classification"))]
    monkeypatch.setattr(evaluate, "SWEEP", (0.2, 1.0))
    out = tmp_path / "report"
    assert evaluate.main([*files, "--photos", str(photos), *QUIET, "--out", str(out)]) == 0
    printed = capsys.readouterr()
    rows = rows_of(printed.out)
    constant = rows.pop(1)
    assert constant.startswith("constant colour (")
    classes = ["mode", "mean", "sample", "T = 0.2", "T = 1"]
    assert rows == [
        "grey",
        "regression",
        "classification",
        *(f"classification, {name}" for name in classes),
        "truth",
    ]
    for name in ("PSNR", "SSIM", "ΔE00", "CF", "ΔCF", "ΔCF each", "CF (DDColor)", "AuC"):
        assert f" {name} |" in printed.out
    assert "LPIPS is absent" in printed.out  # tests have no network to fetch its weights by
    assert "FID is absent" in printed.out
    assert "KID is absent: --encoder FILE" in printed.out
    assert "| bleeding | cast | Δcast | ΔE00 coloured | mount chroma |" in printed.out
    assert "cut.jpg" in printed.err

    assert rows_of((out / "table.md").read_text()) == rows_of(printed.out)
    document = json.loads((out / "scores.json").read_text())
    assert len(document["photographs"]) == 3
    grey = document["methods"]["grey"]
    assert np.mean(grey["pictures"]["ΔE00"]) == pytest.approx(grey["measures"]["ΔE00"], abs=1e-4)
    assert len(grey["pictures"]["mount chroma"]) == len(document["truth"]["cast"]) == 3
    low, high = grey["intervals"]["ΔE00"]
    assert low <= grey["measures"]["ΔE00"] <= high
    pictures = {path.name: opened(path.read_bytes()) for path in out.glob("*.[jp][pn]g")}
    assert set(pictures) == {
        "calibration.png",
        "chroma.png",
        "temperature.png",
        "contact.jpg",
        "worst-regression.jpg",
        "worst-classification.jpg",
    }
    sheet = pictures["contact.jpg"]
    assert sheet.width == 4 * figures.CELL  # grey, two networks, truth
    assert not [path for path in out.iterdir() if path.is_dir()]


def test_the_constant_colour_is_the_mean_of_the_truths(tmp_path: Path) -> None:
    shades = [(200, 60, 60), (60, 200, 60), (90, 90, 90)]
    for i, shade in enumerate(shades):
        (tmp_path / f"{i}.png").write_bytes(encoded(np.full((40, 40, 3), shade, np.uint8)))
    with Processes({}) as processes:
        result = evaluate.evaluate(processes, [], sorted(tmp_path.iterdir()))
    a, b = rgb2lab(np.array([shades], np.uint8))[0, :, 1:].mean(axis=0)
    assert list(result.scores) == ["grey", f"constant colour ({a:.1f}, {b:.1f})"]


def test_two_processes_measure_what_one_does(photos: Path, weights: Weights) -> None:
    checkpoints = {"net": weights("regression")}
    paths = sorted(photos.iterdir())
    found = []
    for workers in (1, 2):
        with Processes(checkpoints, workers) as processes:
            found.append(evaluate.evaluate(processes, [Method("net", "net")], paths))
    one, two = (result.scores["net"].row() for result in found)
    assert one == pytest.approx(two, abs=1e-4)
    assert found[0].left_out == found[1].left_out


def test_worst_cases_come_worst_first(photos: Path) -> None:
    with Processes({}) as processes:
        result = evaluate.evaluate(processes, [], sorted(photos.glob("*.png")))
    worst = evaluate.sheets(result, ["grey"])["worst-grey.jpg"]
    errors = [result.scores["grey"].pictures[i].values["ΔE00"] for i in worst]
    assert errors == sorted(errors, reverse=True)
    assert len(errors) == 3


def test_checkpoints_of_one_name_are_told_apart_by_their_folders() -> None:
    paths = [Path("a/net.safetensors"), Path("b/net.safetensors"), Path("b/other.safetensors")]
    assert list(named(paths)) == ["a/net", "b/net", "other"]

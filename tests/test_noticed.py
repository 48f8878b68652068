"""What people notice, on small made pictures whose measures are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.color import deltaE_ciede2000

from colorizer import lab
from colorizer.errors import UserError
from evaluation import evaluate
from evaluation.methods import Colours, Method, Processes, eager_pipeline
from evaluation.metrics import NOTICED, Scores, Truth, measure
from evaluation.noticed import (
    MOUNTS,
    Seen,
    coloured_difference,
    kernel_terms,
    mounted,
    regions_of_one_colour,
)
from evaluation.perceptual import Perceptual, torchvision_models
from tests.support import Weights, coloured, encoded, measured

LEFT, RIGHT = np.s_[:, :60], np.s_[:, 60:]


def flat(lightness: float = 50.0, a: float = 0.0, b: float = 0.0) -> np.ndarray:
    """(80, 120, 3) Lab of one colour."""
    return np.broadcast_to(np.float32([lightness, a, b]), (80, 120, 3)).copy()


def halves() -> np.ndarray:
    """A red half and a blue one of the same L, which only ab tells apart."""
    planes = flat(50, 40, 20)
    planes[RIGHT] = (50, 10, -40)
    return planes


# --- stains


def test_regions_are_of_one_colour_connected_and_large() -> None:
    planes = halves()
    planes[:, 28:32] = (50, 0, 60)  # splits the red half; itself too narrow
    planes[70:74, 100:110] = (50, 60, 60)  # under 1 %
    planes[:40, 60:, 0] = 20  # darker, of the same colour
    regions = regions_of_one_colour(planes)
    assert regions.max() == 3
    assert regions[10, 10] != regions[10, 50]  # both red, not connected
    assert regions[10, 100] == regions[70, 65] > 0  # whatever L is
    assert regions[72, 105] == regions[10, 30] == 0


def test_a_slow_change_of_colour_is_no_region_of_one_colour() -> None:
    planes = flat()
    planes[..., 1] = np.linspace(-60, 60, 120)  # 1 a column: within 4 of its mean, 7 columns
    regions = regions_of_one_colour(planes)
    for number in range(1, regions.max() + 1):
        assert np.ptp(planes[regions == number, 1]) <= 2 * 4.5


def test_stains_are_the_spread_of_colour_where_the_truth_has_one_colour() -> None:
    planes, found = halves(), flat()
    planes[:, 40:60] = planes[0, 60]  # a third red, the rest blue
    truth = Seen(planes)
    assert truth.compare(found)["stains"] == 0  # grey has none
    found[::2, :40, 1:] = (20, 10)  # striped: deviations of 10 and 5; in the blue part none
    assert truth.compare(found)["stains"] == pytest.approx(np.hypot(10, 5) / 3, abs=0.2)
    # Flat in L, but of two colours, which are no stain:
    assert truth.itself["stains"] == pytest.approx(0, abs=0.01)


def test_a_photograph_without_a_region_of_one_colour_has_no_stains() -> None:
    noisy = flat()
    noisy[..., 1:] = np.random.default_rng(0).normal(0, 200, (80, 120, 2))
    assert np.isnan(Seen(noisy).compare(flat())["stains"])


# --- bleeding


def test_bleeding_is_the_share_of_colours_edges_where_the_truth_has_none() -> None:
    truth = Seen(halves())
    here, beside, both = flat(), flat(), flat()
    here[RIGHT] = both[RIGHT] = (50, 30, 0)
    beside[:, 30:] = (50, 30, 0)
    both[:, 30:60] = (50, 30, 60)
    assert truth.itself["bleeding"] == 0
    assert truth.compare(flat())["bleeding"] == 0
    assert truth.compare(here)["bleeding"] == pytest.approx(0, abs=0.1)  # but for blurred tails
    assert truth.compare(beside)["bleeding"] == pytest.approx(1)
    assert truth.compare(both)["bleeding"] == pytest.approx(0.5, abs=0.1)


def test_colour_may_change_at_an_edge_of_lightness() -> None:
    planes, found = flat(), flat()
    planes[:, 30:, 0] = 80  # a grey photograph with an edge
    found[:, 30:, 1] = 30
    assert Seen(planes).compare(found)["bleeding"] == pytest.approx(0, abs=0.1)
    assert Seen(flat()).compare(found)["bleeding"] == 1


# --- cast, coloured pixels


def test_a_cast_is_the_length_of_the_mean_colour() -> None:
    found = Seen(halves()).compare(flat(50, 3, 4))
    assert found["cast"] == pytest.approx(5)
    # The halves' mean is (25, -10).
    assert found["Δcast"] == pytest.approx(np.hypot(25 - 3, -10 - 4), abs=0.01)
    assert Seen(halves()).itself["cast"] == pytest.approx(np.hypot(25, 10), abs=0.01)


def test_the_difference_of_coloured_places_leaves_grey_ones_out() -> None:
    truth = flat(50, 30, 0)
    truth[RIGHT] = (50, 14, 0)  # chroma 14 is grey enough
    difference = deltaE_ciede2000(truth, flat())
    only = coloured_difference(difference, truth)
    assert only == pytest.approx(deltaE_ciede2000([50, 30, 0], [50, 0, 0]))
    assert only > difference.mean()
    assert np.isnan(coloured_difference(difference, flat(50, 14, 0)))


# --- kernel distance


def test_kernel_distance_is_torch_fidelitys_u_statistic() -> None:
    torchvision_models()  # without which torch_fidelity's torchvision fails
    from torch_fidelity.metric_kid import kernel_poly, mmd2

    rng = np.random.default_rng(0)
    found, truth = rng.normal(0, 1, (12, 32)), rng.normal(0.4, 1.3, (12, 32))
    given = {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    kernels = [
        kernel_poly(x, y, **given) for x, y in ((found, found), (found, truth), (truth, truth))
    ]
    expected = mmd2(*kernels, mmd_est="u-statistic")
    assert kernel_terms(found, truth).sum() / (12 * 11) == pytest.approx(expected)
    assert np.abs(kernel_terms(found, found)).max() < 1e-9


def test_the_kernel_distance_of_other_pictures_has_an_interval_above_zero() -> None:
    rng = np.random.default_rng(2)
    truth = rng.normal(0, 1, (40, 16))
    for shift, low in ((0.0, 0.0), (2.0, 100.0)):
        pairs = zip(truth + shift, truth, strict=True)
        scores = Scores([measured(features={"KID × 1000": pair}) for pair in pairs])
        between = scores.intervals(100)["KID × 1000"]
        assert between[0] >= low
        assert between[0] <= scores.row()["KID × 1000"] <= between[1]


def test_features_for_the_kernel_distance_come_from_the_encoders_last_layer(encoder: Path) -> None:
    perceptual = Perceptual((), encoder)
    found, again, other = (
        perceptual.features(coloured(seed, 70, 90))["KID × 1000"] for seed in (0, 0, 1)
    )
    assert found.shape == (2048,)
    assert np.array_equal(found, again)
    assert not np.allclose(found, other)
    assert Perceptual(()).features(coloured(0)) == {}


def test_an_encoder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no encoder at "):
        Perceptual((), tmp_path / "none")
    cut, other = tmp_path / "cut", tmp_path / "other"
    cut.write_bytes(b"half of a file")
    save_file({"fc.weight": torch.zeros(2)}, other)
    for path in (cut, other):
        with pytest.raises(UserError, match=f"{path} does not hold ResNet-50's weights"):
            Perceptual((), path)


# --- stability


def test_a_network_that_sees_every_side_and_mirror_image_alike_is_stable(weights: Weights) -> None:
    pipeline = eager_pipeline(weights("regression"))

    def stability(answer: Callable[[np.ndarray], np.ndarray]) -> dict:
        pipeline.run = answer
        return Colours(coloured(0), {"net": pipeline}).stability(Method("", "net"))

    def steady(small: np.ndarray) -> np.ndarray:
        return np.full((1, 2, *small.shape[2:]), 7, np.float32)

    def by_side(small: np.ndarray) -> np.ndarray:
        return steady(small) * np.float32(small.shape[-1] / 64)  # 3.5 and 10.5 in place of 7

    def one_sided(small: np.ndarray) -> np.ndarray:
        answer = steady(small)
        answer[:, 0, :, : small.shape[-1] // 2] += 10  # always the left half
        return answer

    assert stability(steady) == {"other side": 0, "mirrored": 0}
    assert stability(by_side)["other side"] == pytest.approx(3.5 * np.sqrt(2))
    assert stability(by_side)["mirrored"] == 0
    assert stability(one_sided)["mirrored"] == pytest.approx(10)
    assert Colours(coloured(0), {}).stability(Method("grey")) == {"other side": 0, "mirrored": 0}


# --- mounts


@pytest.mark.parametrize("number", range(8))
def test_a_mount_is_a_grey_card_around_the_whole_photograph(number: int) -> None:
    rgb = coloured(number, 60, 90)
    picture, outside = mounted(rgb, number)
    assert np.array_equal(picture[~outside].reshape(rgb.shape), rgb)
    card = picture[outside].astype(int)
    assert (card == card[:, :1]).all()  # grey
    assert 90 - 3 <= np.median(card) <= 180 + 3
    kind = MOUNTS[number % 4]
    assert (len(np.unique(card)) > 9) == (kind == "grain")
    assert (245 in card) == (kind == "white border")
    assert (30 in card) == (kind == "dark frame")
    assert np.array_equal(picture, mounted(rgb, number)[0])


# --- all of them


def test_a_measure_that_some_photographs_lack_is_the_mean_of_the_others() -> None:
    noticed = [{"stains": value, "bleeding": np.nan} for value in (1.0, np.nan, 3.0)]
    scores = Scores([measured(one) for one in noticed])
    assert scores.row()["stains"] == 2
    assert scores.intervals()["stains"] == (1, 3)
    assert "bleeding" not in scores.row()


def test_pictures_of_any_size_are_measured() -> None:
    for size in ((1, 1), (1, 40), (3, 2000)):
        rgb = coloured(0, *size)
        truth = Truth(rgb)
        assert measure(rgb, truth).values["bleeding"] == 0
        assert max(truth.seen.planes.shape) <= 256


def test_evaluation_measures_all_that_people_notice(
    weights: Weights, encoder: Path, tmp_path: Path
) -> None:
    red = np.zeros((40, 60, 3), np.uint8)
    red[...] = (150, 70, 60)
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(encoded(red if number else coloured(0, 50, 70)))
    paths, net = sorted(tmp_path.iterdir()), Method("net", "net")
    with Processes({"net": weights("regression")}, encoder=encoder) as processes:
        result = evaluate.evaluate(processes, [net], paths, mounts=2, stability=True)
    assert evaluate.columns(result, noticed=True) == list(NOTICED)
    assert not set(evaluate.columns(result, noticed=False)) & set(NOTICED)
    for name in NOTICED:
        assert set(result.scores["net"].intervals(20)) >= {name}
    card = [p.values.get("mount chroma") for p in result.scores["net"].pictures]
    assert [value is None for value in card] == [False, True, False]
    constant = next(score for name, score in result.scores.items() if name.startswith("constant"))
    ab = lab.rgb_to_lab(red)[0, 0, 1:]
    assert 5 < constant.row()["mount chroma"] < np.hypot(*ab) + 5
    assert result.scores["grey"].row()["mount chroma"] == pytest.approx(0, abs=0.02)
    *_, last = evaluate.table(result, noticed=True).splitlines()
    assert last.startswith("| truth |")
    for name in NOTICED:
        assert name.split(" ×")[0].lower() in evaluate.text(result).lower()

"""LPIPS and FID, by networks of the right shape with random weights."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from colorizer.errors import UserError
from evaluation import evaluate, perceptual
from evaluation.methods import Processes
from evaluation.metrics import Scores, Truth, measure
from evaluation.perceptual import Perceptual, frechet_distance, torchvision_models
from tests.support import Patch, coloured, encoded

torchvision_models()  # without which torch_fidelity's torchvision fails


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of torch's, TORCH_HOME, with random weights where the real ones would be."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    home = tmp_path_factory.mktemp("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(home))
        perceptual.folder().mkdir(parents=True)
        paths = [perceptual.place(name) for name in ("LPIPS", "FID")]
        torch.manual_seed(0)
        torch.save(torchvision_models().alexnet(weights=None).state_dict(), paths[0])
        torch.save({}, paths[1])
        with pytest.MonkeyPatch.context() as lenient:
            lenient.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
            inception = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(paths[1]))
        torch.save(inception.state_dict(), paths[1])
        yield home
        for path in paths:
            path.unlink()  # a third of a gigabyte


@pytest.fixture(scope="module")
def networks(home: Path) -> Perceptual:
    return Perceptual(perceptual.available())


def test_a_picture_is_at_no_distance_from_itself_and_the_farther_the_more_it_is_changed(
    networks: Perceptual,
) -> None:
    truth = coloured(0, 90, 120)
    mild, strong = (np.roll(truth, shift, axis=1) for shift in (1, 9))
    found = [networks.distances(picture, truth)["LPIPS"] for picture in (truth, mild, strong)]
    assert found[0] == pytest.approx(0, abs=1e-6)
    assert found[0] < found[1] < found[2]


def test_a_picture_of_one_pixel_has_a_distance(networks: Perceptual) -> None:
    red, blue = (np.full((1, 1, 3), shade, np.uint8) for shade in ((255, 0, 0), (0, 0, 255)))
    assert networks.distances(red, blue)["LPIPS"] > 0
    assert networks.features(red)["FID"].shape == (2048,)


@pytest.mark.parametrize("pictures", [5, 40])
def test_frechet_distance_is_torch_fidelitys(pictures: int) -> None:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    rng = np.random.default_rng(0)
    found = rng.normal(0, 1, (pictures, 16)) @ rng.normal(0, 1, (16, 16))
    truth = rng.normal(0.5, 1.5, (pictures + 3, 16))
    statistics = [fid_features_to_statistics(torch.from_numpy(x)) for x in (found, truth)]
    (expected,) = fid_statistics_to_metric(*statistics, verbose=False).values()
    # Its roots of eigenvalues that should be 0 are off by the root of float64's precision.
    assert frechet_distance(found, truth) == pytest.approx(expected, rel=1e-5)
    assert frechet_distance(found, found) == pytest.approx(0, abs=1e-9)


def test_truth_has_the_least_of_both(networks: Perceptual) -> None:
    truths = [Truth(coloured(seed, 70, 80), networks) for seed in range(3)]
    same = Scores([measure(truth.rgb, truth) for truth in truths])
    other = Scores([measure(255 - truth.rgb, truth) for truth in truths])
    for name in ("LPIPS", "FID"):
        assert same.row()[name] == pytest.approx(0, abs=1e-3)
        assert other.row()[name] > same.row()[name]
    assert "LPIPS" in same.intervals(20)
    assert "FID" not in same.intervals(20)


def test_evaluation_has_both_where_their_weights_are_available(home: Path, tmp_path: Path) -> None:
    for seed in range(2):
        (tmp_path / f"{seed}.png").write_bytes(encoded(coloured(seed, 60, 70)))
    with Processes({}, perceptual=perceptual.available()) as processes:
        result = evaluate.evaluate(processes, [], sorted(tmp_path.iterdir()))
    header, _, grey = evaluate.table(result).splitlines()[:3]
    assert header.endswith("| LPIPS | FID |")
    *_, lpips, fid, _ = grey.split("|")
    assert float(lpips.split()[0]) > 0
    assert float(fid) >= 0
    for name in ("LPIPS", "FID"):
        assert f"{name} is absent" not in evaluate.explanation(result)
    assert evaluate.FEW in evaluate.explanation(result)


def test_weights_that_are_broken_are_told_with_what_belongs_there(
    tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    perceptual.folder().mkdir(parents=True)
    for name in perceptual.WEIGHTS:
        perceptual.place(name).write_bytes(b"half of a downl")
        with pytest.raises(UserError, match=f"does not hold what {name} needs: remove it"):
            Processes({}, 2, [name])

"""From a folder of photographs to a checkpoint, and the measures of one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from skimage.color import rgb2lab
from torch import Tensor

from colorizer import checkpoint, gamut
from colorizer.unet import AB_SCALE, Head, torchvision_models
from tests.support import coloured, encoded
from training import train
from training.config import BadConfig, TrainConfig, read_preset
from training.data import Crops, degrade, find_photographs, is_held_out, random_crop, survey
from training.losses import classification_loss, rebalancing_weights, regression_loss


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight colour photographs, and four files that teach nothing."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(8):
        (folder / f"{seed}.png").write_bytes(encoded(coloured(seed)))
    (folder / "grey.png").write_bytes(encoded(coloured(9)[..., 0]))
    (folder / "cut.jpg").write_bytes(encoded(coloured(10), "JPEG")[:500])
    (folder / "text.jpg").write_text("not a picture")
    (folder / "notes.txt").write_text("not even called one")
    return folder


# --- settings


@pytest.mark.parametrize("head", ["regression", "classification"])
def test_each_head_has_a_preset(head: Head) -> None:
    assert read_preset(head).head == head


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batchsize": 8}, "did you mean 'batch'"),
        ({"batch": "8"}, "batch must be int"),
        ({"ema": "high"}, "ema must be float"),
        ({"head": "both"}, "head must be"),
        ({"precision": "64"}, "precision must be 'auto' or '32'"),
        ({"side": 100}, "multiple of 32"),
    ],
)
def test_a_wrong_setting_is_refused_with_the_right_one(
    values: dict[str, object], said: str
) -> None:
    with pytest.raises(BadConfig, match=said):
        TrainConfig().override(values)


def test_a_preset_of_ones_own_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('head = "classification"\nsteps = 7\n')
    assert read_preset(str(path)) == TrainConfig(head="classification", steps=7)
    path.write_text("steps = ")
    with pytest.raises(BadConfig, match=r"mine\.toml"):
        read_preset(str(path))
    with pytest.raises(BadConfig, match="classification, regression"):
        read_preset("nothing")


# --- data


def test_broken_and_grey_photographs_are_left_out_with_their_reasons(photos: Path) -> None:
    found = survey(photos, validation=0)
    assert [path.name for path in found.train] == [f"{i}.png" for i in range(8)]
    assert {path.name for path in found.skipped} == {"grey.png", "cut.jpg", "text.jpg"}
    assert found.skipped[photos / "grey.png"] == "grey"


def test_the_split_follows_content_not_names(photos: Path, tmp_path: Path) -> None:
    for i, path in enumerate(sorted(photos.glob("?.png"))):
        shutil.copy(path, tmp_path / f"copy-{7 - i}.png")
    before, after = survey(photos, 0.5), survey(tmp_path, 0.5)
    assert before.train
    assert before.validation
    bodies = [{path.read_bytes() for path in split.validation} for split in (before, after)]
    assert bodies[0] == bodies[1]
    assert all(is_held_out(body, 0.5) for body in bodies[0])


def test_a_folder_without_photographs_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no photographs"):
        find_photographs(tmp_path)
    (tmp_path / "grey.png").write_bytes(encoded(coloured(0)[..., 0]))
    with pytest.raises(FileNotFoundError, match="no colour photograph"):
        survey(tmp_path, 0)


def test_the_prior_counts_the_colours_of_the_photographs(tmp_path: Path) -> None:
    (tmp_path / "red.png").write_bytes(encoded(np.full((9, 9, 3), (200, 30, 30), np.uint8)))
    prior = survey(tmp_path, 0).prior
    assert prior.sum() == prior.max() == pytest.approx(1)
    _, a, b = rgb2lab(np.array([[[200, 30, 30]]], np.uint8))[0, 0]
    assert tuple(gamut.bins()[prior.argmax()]) == (round(a, -1), round(b, -1))


def test_a_crop_follows_from_its_number_alone(photos: Path) -> None:
    paths = survey(photos, 0).train
    first, again = (Crops(paths, TrainConfig(side=32)) for _ in range(2))
    for number in (0, 5, 13, 100):
        assert all(map(torch.equal, first[number], again[number]))
    assert not torch.equal(first[0][0], first[8][0])  # the next time round, another crop
    other = Crops(paths, TrainConfig(side=32, seed=1))
    assert not torch.equal(first[0][0], other[0][0])


def test_each_photograph_comes_once_each_time_round(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = survey(photos, 0).train
    crops = Crops(paths, TrainConfig(side=32))
    read: list[str] = []
    whole = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path.name) or whole(path))
    for number in range(16):
        crops[number]
    names = sorted(path.name for path in paths)
    assert sorted(read[:8]) == sorted(read[8:]) == names
    assert read[:8] != read[8:]


def test_crops_are_parts_of_the_photograph_mirrored_or_not() -> None:
    ramp = np.repeat(np.arange(200, dtype=np.uint8)[None, :, None], 100, axis=0).repeat(3, axis=2)
    rng = np.random.default_rng(0)
    slopes, widths = set(), []
    for _ in range(40):
        crop = random_crop(ramp, 32, 0.3, rng)
        assert crop.shape == (32, 32, 3)
        row = crop[16, :, 0].astype(int)
        slopes.add(int(np.sign(row[-1] - row[0])))
        widths.append(abs(row[-1] - row[0]))
    assert slopes == {-1, 1}
    assert min(widths) < 130 < max(widths)


def test_degradation_changes_lightness_and_keeps_its_range() -> None:
    lightness = np.tile(np.linspace(0, 100, 32, dtype=np.float32), (32, 1))
    rng = np.random.default_rng(0)
    for _ in range(20):
        worse = degrade(lightness, rng)
        assert worse.dtype == np.float32
        assert 0 <= worse.min() < worse.max() <= 100
        assert np.abs(worse - lightness).mean() > 0.5


# --- losses


def smoothed(prior: np.ndarray) -> np.ndarray:
    distance = ((gamut.bins()[:, None] - gamut.bins()[None]) ** 2).sum(-1)
    kernel = np.exp(-distance / (2 * 5.0**2))
    result: np.ndarray = (kernel / kernel.sum(axis=0)) @ prior
    return result


def test_rebalancing_weights_have_expectation_one_and_favour_the_rare() -> None:
    rng = np.random.default_rng(0)
    prior = rng.dirichlet(np.full(261, 0.1))
    for mix in (0.0, 0.5, 0.9):
        weights = rebalancing_weights(prior, mix).numpy()
        assert (weights * smoothed(prior)).sum() == pytest.approx(1, abs=1e-4)
        order = np.argsort(smoothed(prior))
        assert (np.diff(weights[order]) <= 1e-3 * weights[order][:-1]).all()
    assert rebalancing_weights(prior, 1.0).numpy() == pytest.approx(1)


def some_ab() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 60 * torch.rand(2, 2, 5, 4, generator=generator) - 30


def test_the_classification_loss_is_the_dense_one() -> None:
    ab = some_ab()
    logits = torch.randn(2, 261, 5, 4, generator=torch.Generator().manual_seed(1))
    weights = torch.rand(261, generator=torch.Generator().manual_seed(2))
    nearest, shares = gamut.soft_encode(ab)
    dense = torch.zeros_like(logits).scatter_add(1, nearest, shares)  # (B, Q, H, W)
    pixels = -(dense * logits.log_softmax(1)).sum(1) * weights[nearest[:, 0]]
    assert torch.allclose(classification_loss(logits, ab, weights), pixels.mean(), atol=1e-4)


@pytest.mark.parametrize(("adjustment", "rare"), [(0.0, 0.5), (1.0, 0.1)])
def test_adjusted_logits_take_the_rebalancing_back(adjustment: float, rare: float) -> None:
    ab = torch.full((1, 2, 1, 10), -40.0)
    ab[..., 9:] = 40  # one pixel of ten is of the rare colour
    right = torch.from_numpy(gamut.bins()[:, 1] > 0)
    weights = torch.where(right, 9.0, 1.0)
    logits = torch.zeros(1, 261, 1, 1, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.3)
    for _ in range(200):
        optimizer.zero_grad()
        classification_loss(logits.expand(1, 261, 1, 10), ab, weights, adjustment).backward()
        optimizer.step()
    assert logits.softmax(1)[0, right].sum().item() == pytest.approx(rare, abs=0.02)


def test_the_regression_loss_is_hubers_weighed() -> None:
    ab, found = some_ab(), some_ab().flip(0)
    weights = torch.rand(261, generator=torch.Generator().manual_seed(2))
    off = (found - ab).abs()
    pixels = torch.where(off < 10, off.square() / 2, 10 * (off - 5)).sum(1) / 10**2
    expected = (pixels * weights[gamut.encode(ab)]).mean()
    assert torch.allclose(regression_loss(found, ab, weights, 10.0), expected, atol=1e-5)
    assert AB_SCALE == 110


@pytest.mark.parametrize("head", ["regression", "classification"])
def test_grey_photographs_teach_nothing(head: Head) -> None:
    ab = some_ab()
    ab[1] = 3 * torch.rand(2, 5, 4)
    channels = 2 if head == "regression" else 261
    output = torch.randn(2, channels, 5, 4, requires_grad=True)
    weights = torch.ones(261)

    def loss(output: Tensor, ab: Tensor) -> Tensor:
        if head == "regression":
            return regression_loss(output, ab, weights, 10.0)
        return classification_loss(output, ab, weights)

    loss(output, ab).backward()
    assert output.grad is not None
    assert output.grad[0].abs().max() > 0
    assert output.grad[1].abs().max() == 0
    assert torch.allclose(loss(output, ab), loss(output[:1], ab[:1]))
    assert loss(output[1:], ab[1:]).item() == 0


# --- runs

QUICK = ["--side", "32", "--batch", "2", "--chunk", "1", "--warmup", "1", "--workers", "0"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    state = torchvision_models().resnet50(weights=None).state_dict()
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    save_file({k: v for k, v in state.items() if not k.startswith("fc.")}, path)
    return path


def run(photos: Path, out: Path, *arguments: str, head: str = "regression") -> int:
    where = ["--photos", str(photos), "--out", str(out)]
    return train.main(["--preset", head, *where, *QUICK, *arguments])


@pytest.mark.filterwarnings("ignore")  # lightning's advice on this machine
def test_a_run_that_was_interrupted_and_resumed_equals_one_that_was_not(
    photos: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ["--encoder", str(encoder), "--steps", "3", "--validation", "0.3"]
    assert run(photos, tmp_path / "whole.safetensors", *common) == 0

    step = train.Colorization.training_step
    done: list[int] = []

    def interrupted(self: train.Colorization, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(index)
        return step(self, batch, index)

    out = tmp_path / "parts.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(train.Colorization, "training_step", interrupted)
        # lightning turns the interruption into the end of the process
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            raise SystemExit(run(photos, out, *common))
    assert not out.exists()
    assert run(photos, out, *common, "--resume") == 0

    whole, _ = checkpoint.load(tmp_path / "whole.safetensors")
    parts, known = checkpoint.load(out)
    assert known.provenance["config"]["steps"] == 3
    moved = 0.0
    start = train.initial_network(read_preset("regression"), encoder, None).state_dict()
    for (name, one), other in zip(
        whole.state_dict().items(), parts.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
        moved = max(moved, float((one - start[name]).abs().max()))
    assert moved > 1e-4  # and something was learnt at all


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("rate", "unfreeze", "learns"), [(0.1, 1, True), (0.1, 2, False), (0, 0, False)]
)
def test_the_encoder_stands_still_until_it_is_told_to_learn(
    photos: Path,
    weights: Callable[[Head], Path],
    tmp_path: Path,
    rate: float,
    unfreeze: int,
    learns: bool,
) -> None:
    out = tmp_path / "out.safetensors"
    before = weights("classification")
    arguments = ["--encoder-rate", str(rate), "--unfreeze", str(unfreeze), "--ema", "0"]
    arguments += ["--init-from", str(before), "--steps", "2", "--validation", "0"]
    assert run(photos, out, *arguments) == 0
    (old, _), (new, known) = checkpoint.load(before), checkpoint.load(out)
    assert known.network.head == "regression"  # the trunk of a classifier
    assert known.network.widths == old.config.widths
    after = new.state_dict()
    still = {
        name: torch.equal(value, after[name])
        for name, value in old.state_dict().items()
        if name.endswith("weight") and not name.startswith("head.3")
    }
    assert not any(still[name] for name in still if name.startswith("blocks"))
    encoder = [same for name, same in still.items() if name.startswith(("stem", "layers"))]
    assert not any(encoder) if learns else all(encoder)


def test_a_run_that_cannot_start_says_why_in_one_line(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.safetensors"
    missing = str(tmp_path / "missing.safetensors")
    assert run(photos, out, "--init-from", missing) == 2
    assert run(tmp_path, out) == 2
    assert run(photos, out, "--side", "33") == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "training:" in line]
    assert len(lines) == 3
    assert missing in lines[0]

"""What goes into training: which photographs, which part of them, in which state."""

from __future__ import annotations

import gc
import json
import shutil
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from skimage.color import rgb2lab

from colorizer import gamut, lab
from colorizer.errors import UserError
from evaluation.metrics import colorfulness
from evaluation.photographs import Member, find, find_photographs, is_held_out
from tests.support import Capture, Patch, coloured, encoded
from training import augment, shards
from training.config import TrainConfig
from training.data import Photographs, fits, square
from training.survey import NEAR, perceptual_hash, survey, write_left_out


def test_broken_and_grey_photographs_are_left_out_with_their_reasons(photos: Path) -> None:
    found = survey(photos, validation=0)
    assert [path.name for path in found.train] == [f"{i}.png" for i in range(8)]
    assert {Path(name).name for name in found.skipped} == {"grey.png", "cut.jpg", "text.jpg"}
    assert found.skipped[str(photos / "grey.png")] == "grey"


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


def squares(count: int = 8, side: int = 48) -> torch.Tensor:
    """(B, 3, side, side) uint8 photographs."""
    made = [coloured(seed, side, side) for seed in range(count)]
    return torch.from_numpy(np.stack(made)).movedim(-1, 1)


def test_each_photograph_comes_once_each_epoch_in_a_new_order(photos: Path) -> None:
    paths = survey(photos, 0).train
    stream = Photographs(paths, 32, seed=0, in_memory=True)
    epochs = [[int(stream[number]) for number in range(8 * e, 8 * e + 8)] for e in range(3)]
    assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    again = Photographs(paths, 32, seed=0, in_memory=True)
    assert [int(again[number]) for number in range(16, 24)] == epochs[2]
    other = Photographs(paths, 32, seed=1, in_memory=True)
    assert [int(other[number]) for number in range(8)] != epochs[0]


def test_photographs_in_memory_are_those_on_disk(photos: Path) -> None:
    paths = survey(photos, 0).train
    memory = Photographs(paths, 32, seed=0, in_memory=True)
    disk = Photographs(paths, 32, seed=0)
    loaded = memory.load(torch.device("cpu"))
    assert loaded.dtype == torch.uint8
    for number in range(10):
        assert torch.equal(loaded[memory[number]], disk[number])


def test_photographs_fit_by_the_memory_that_is_free() -> None:
    cpu = torch.device("cpu")
    assert fits(1000, 160, cpu)
    assert not fits(10**9, 160, cpu)


def test_a_batch_follows_from_its_number_alone() -> None:
    config = TrainConfig(side=32, degrade=0.5, mounts=0.3)
    draws = [augment.draw(0, 0, number, 8) for number in (5, 5, 6)]
    one, again, other = (augment.make_batch(squares(), config, 32, d) for d in draws)
    assert all(map(torch.equal, one, again))
    assert not torch.equal(one[0], other[0])
    assert one[0].shape == (8, 1, 32, 32)
    assert one[1].shape == (8, 2, 32, 32)


def test_crops_are_parts_of_the_photograph_mirrored_or_not() -> None:
    ramp = torch.arange(160, dtype=torch.uint8).expand(40, 3, 160, 160)
    parts = augment.crop(ramp, 32, 0.3, augment.draw(0, 0, 0, 40)[:, :6])
    assert parts.shape == (40, 3, 32, 32)
    change = (parts[:, 0, 16, -1] - parts[:, 0, 16, 0]) * 255
    assert {int(sign) for sign in change.sign()} == {-1, 1}
    assert change.abs().min() < 105 < change.abs().max()  # 30 % of the area up to all of it


def test_a_whole_crop_is_the_photograph_averaged() -> None:
    photographs = squares(side=64)
    draws = torch.full((8, 6), 0.5)  # neither stretched nor moved
    draws[:, 4] = 0.0  # nor mirrored
    parts = augment.crop(photographs, 32, 1.0, draws) * 255
    expected = torch.nn.functional.avg_pool2d(photographs.float(), 2)
    assert (parts - expected).abs().max() < 1


def test_lab_on_tensors_is_that_of_the_library() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    tensor = torch.from_numpy(rgb).movedim(-1, 0)[None] / 255
    lightness, ab = augment.rgb_to_lab(tensor)
    expected = lab.rgb_to_lab(rgb)
    found = torch.cat([lightness, ab], 1)[0].movedim(0, -1).numpy()
    assert np.abs(found - expected).max() < 0.01
    assert (augment.lab_to_rgb(lightness, ab) - tensor).abs().max() < 0.002


def test_ageing_changes_lightness_and_keeps_its_range() -> None:
    lightness = torch.linspace(0, 100, 32).repeat(60, 1, 32, 1)
    aged = augment.age(lightness, augment.draw(0, 0, 0, 60)[:, :15])
    assert aged.shape == lightness.shape
    assert 0 <= aged.min() < aged.max() <= 100
    assert ((aged - lightness).abs().mean(dim=(1, 2, 3)) > 0.5).all()
    ranges = [np.ptp(np.percentile(one, (5, 95))) for one in aged.numpy()]
    assert min(ranges) < 40  # some are of low contrast
    assert max(ranges) > 60


def test_an_early_plate_sees_a_blue_sky_bright_a_red_coat_dark_and_greys_as_they_are() -> None:
    colours = torch.tensor([[0.4, 0.6, 0.9], [0.8, 0.1, 0.1], [0.5, 0.5, 0.5]])
    rgb = colours.T.reshape(1, 3, 1, 3)
    eye = augment.rgb_to_lab(rgb)[0][0, 0, 0]
    blind_to_red, blue_only = (torch.tensor([[0.0, blue]]) for blue in (0.3, 1.0))
    for plate in (augment.on_plate(rgb, draws)[0, 0, 0] for draws in (blind_to_red, blue_only)):
        assert plate[0] > eye[0] + 3
        assert plate[1] < eye[1] - 10
        assert abs(plate[2] - eye[2]) < 0.01


def test_a_toned_print_is_a_curve_of_lightness_between_its_ink_and_its_paper() -> None:
    steps = torch.linspace(0, 1, 50).view(1, 1, 1, 50).expand(2, 1, 1, 50)
    for toned in augment.tone(steps, torch.tensor([0.0, 1.0]))[:, 0, 0]:
        assert (toned.diff() > 0).all()
        assert 0.01 < toned[0] < 0.3  # silver gone brown
        assert 0.7 < toned[-1] < 0.98  # paper gone yellow


def test_compression_is_what_jpeg_does() -> None:
    grey = coloured(3, 64, 64, detail=12)[..., 1].copy()
    quality = 30
    file = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    expected = cv2.imdecode(file, cv2.IMREAD_GRAYSCALE)
    x = torch.from_numpy(grey)[None, None] / 255
    found = augment.compress(x, torch.tensor([float(quality)]))[0, 0] * 255
    off = np.abs(found.numpy() - expected)
    assert np.median(off) < 0.6  # a step more or less where rounding is a tie
    assert off.mean() < 0.25 * np.abs(expected.astype(int) - grey).mean()
    assert np.abs(expected.astype(int) - grey).max() > 3


def test_blur_is_that_of_opencv() -> None:
    grey = coloured(3, 64, 64, detail=12)[..., 1].astype(np.float32)
    found = augment.blur(torch.from_numpy(grey)[None, None], torch.tensor(1.2).view(1, 1, 1, 1))
    expected = cv2.GaussianBlur(grey, (9, 9), 1.2, borderType=cv2.BORDER_REPLICATE)
    assert np.abs(found[0, 0].numpy() - expected).max() < 0.1


def test_photographs_on_a_card_have_a_card_without_colour() -> None:
    lightness, ab = augment.rgb_to_lab(squares(6, 64) / 255)
    draws = augment.draw(0, 0, 1, 6)[:, :5]
    mounted = augment.mount(lightness, ab, 1.0, draws)
    for margin in (slice(0, 3), slice(61, 64)):
        assert mounted[1][:, :, margin].abs().max() == 0
        assert mounted[0][:, :, margin].std(dim=(1, 2, 3)).max() < 4
    assert (mounted[1][:, :, 30:34, 30:34].abs().amax(dim=(1, 2, 3)) > 0).all()
    assert all(map(torch.equal, augment.mount(lightness, ab, 0.0, draws), (lightness, ab)))


def test_pale_photographs_are_not_trained_on_but_may_be_held_out(tmp_path: Path) -> None:
    lively, pale = coloured(0), coloured(1) // 8 + 112
    (tmp_path / "lively.png").write_bytes(encoded(lively))
    (tmp_path / "pale.png").write_bytes(encoded(pale))
    between = (colorfulness(lively) + colorfulness(pale)) / 2
    found = survey(tmp_path, 0, between)
    assert [path.name for path in found.train] == ["lively.png"]
    assert found.skipped[str(tmp_path / "pale.png")].startswith("pale: colorfulness")
    assert len(survey(tmp_path, 0).train) == 2
    share = 1.0  # all are held out, so none is left to train on
    with pytest.raises(FileNotFoundError, match="no colour photograph to train on"):
        survey(tmp_path, share, between)


def test_photographs_of_one_hue_are_not_trained_on_unless_all_are_wanted(tmp_path: Path) -> None:
    grey = coloured(3).mean(axis=2, keepdims=True)
    toned = (grey * (1.0, 0.75, 0.5)).astype(np.uint8)  # brown, from dark to bright
    (tmp_path / "lively.png").write_bytes(encoded(coloured(0)))
    (tmp_path / "toned.png").write_bytes(encoded(toned))
    least = colorfulness(toned) / 2
    found = survey(tmp_path, 0, least)
    assert [path.name for path in found.train] == ["lively.png"]
    assert found.skipped == {str(tmp_path / "toned.png"): "one hue"}
    assert len(survey(tmp_path, 0).train) == 2


def altered(rgb: np.ndarray, how: str) -> bytes:
    """The same photograph, as copies of it go around."""
    if how == "resized":
        return encoded(cv2.resize(rgb, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA))
    if how == "compressed":
        file = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
        return bytes(file)
    if how == "mirrored":
        return encoded(np.ascontiguousarray(rgb[:, ::-1]))
    return encoded((rgb * 0.8).astype(np.uint8))


@pytest.mark.parametrize("how", ["resized", "compressed", "mirrored", "darker"])
def test_what_resembles_a_held_out_photograph_is_not_trained_on(tmp_path: Path, how: str) -> None:
    for seed in range(12):
        rgb = coloured(seed, 120, 160, detail=12)
        (tmp_path / f"{seed}.png").write_bytes(encoded(rgb))
        (tmp_path / f"{seed}-copy.jpg").write_bytes(altered(rgb, how))
    found = survey(tmp_path, 0.4)

    def subjects(side: list) -> set[str]:
        return {path.stem.removesuffix("-copy") for path in side}

    apart = [path for path, why in found.skipped.items() if why.startswith("near-duplicate")]
    assert len(apart) >= 3  # by the hash of the content alone they were on both sides
    assert found.train
    assert found.validation
    assert not subjects(found.train) & subjects(found.validation)


def test_unrelated_photographs_are_no_near_duplicates() -> None:
    hashes = [
        perceptual_hash(Image.fromarray(coloured(seed, detail=12)[..., 1])) for seed in range(60)
    ]
    nearest = [(one ^ other).bit_count() for i, one in enumerate(hashes) for other in hashes[:i]]
    assert min(nearest) > NEAR


def test_a_run_that_goes_on_does_not_look_at_its_photographs_again(
    photos: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    before = survey(photos, 0.3, kept=tmp_path / "run" / "survey.json")
    monkeypatch.setattr("training.survey.examine", None)
    after = survey(photos, 0.3, kept=tmp_path / "run" / "survey.json")
    assert (after.train, after.validation) == (before.train, before.validation)
    assert np.allclose(after.prior, before.prior)


def test_what_was_left_out_is_listed(photos: Path, tmp_path: Path) -> None:
    found = survey(photos, 0.3)
    assert "3 left out (2 broken, 1 grey)" in found.summary()
    write_left_out(tmp_path / "run", found)
    lines = (tmp_path / "run" / "left-out.txt").read_text().splitlines()
    assert {Path(line.split("\t")[0]).name for line in lines} == {"grey.png", "cut.jpg", "text.jpg"}
    assert any(line.endswith("\tgrey") for line in lines)


# --- shards


@pytest.fixture(scope="module")
def sharded(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "made"
    options = ["--most", "2", "--validation", "0.3", "--min-colorfulness", "0"]
    assert shards.main(["--photos", str(photos), "--out", str(out), *options]) == 0
    return out


def test_shards_hold_the_photographs_as_they_are(photos: Path, sharded: Path) -> None:
    before, after = survey(photos, 0.3), survey(sharded, 0.3)
    for side in ("train", "validation"):
        bodies = [{p.read_bytes() for p in getattr(one, side)} for one in (before, after)]
        assert bodies[0] == bodies[1]
        assert bodies[0]
    assert np.allclose(before.prior, after.prior)
    assert after.skipped == before.skipped
    assert len(list(sharded.glob("train-*.tar"))) == -(-len(before.train) // 2)


@pytest.mark.filterwarnings("ignore")  # webdataset leaves its files to the garbage collector
def test_shards_are_webdatasets(sharded: Path) -> None:
    urls = [str(path) for path in sorted(sharded.glob("train-*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    gc.collect()
    assert {sample["png"] for sample in samples} == {
        p.read_bytes() for p in survey(sharded, 0.3).train
    }


def test_shards_made_elsewhere_are_looked_at_like_a_folder(photos: Path, tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "some.tar")) as writer:
        for path in sorted(photos.glob("*.[pj]*g")):
            body = {"__key__": path.stem, path.suffix[1:]: path.read_bytes(), "cls": b"7"}
            writer.write(body)
    found = survey(tmp_path, 0)
    assert len(found.train) == 8
    assert {name.rpartition(":")[2] for name in found.skipped} == {
        "grey.png",
        "cut.jpg",
        "text.jpg",
    }
    assert square(found.train[3], 32).shape == (3, 32, 32)


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_each_process_sees_its_own_part(photos: Path, sharded: Path, kind: str) -> None:
    photographs = survey(photos if kind == "files" else sharded, 0.3).train
    parts = [set(Photographs(photographs, 32, 0, rank, 2).photographs) for rank in (0, 1)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == set(photographs)
    if kind == "shards":
        files = [{member.shard for member in part} for part in parts]
        assert not files[0] & files[1]
    assert not torch.equal(augment.draw(0, 0, 0, 4), augment.draw(0, 1, 0, 4))  # nor crops


def test_shards_are_read_one_after_the_other_in_a_new_order_each_time(sharded: Path) -> None:
    stream = Photographs(survey(sharded, 0.3).train, 32, seed=0)
    members = stream.photographs
    orders = [stream.order(epoch).tolist() for epoch in range(6)]
    assert len({tuple(order) for order in orders}) > 1
    assert orders[0] == stream.order(0).tolist()
    for order in orders:
        assert sorted(order) == list(range(len(members)))
        files = [members[i].shard for i in order if isinstance(members[i], Member)]
        changes = sum(one != other for one, other in pairwise(files))
        assert changes == len(set(files)) - 1


def test_shards_that_cannot_be_used_say_why_in_one_line(
    photos: Path, sharded: Path, tmp_path: Path, capsys: Capture
) -> None:
    with pytest.raises(UserError, match="too few for 9 processes"):
        Photographs(survey(sharded, 0.3).train, 32, 0, 0, 9)
    with pytest.raises(UserError, match="was made with"):
        survey(sharded, 0.1)
    copy = tmp_path / "copy"
    shutil.copytree(sharded, copy)
    next(copy.glob("train-*.tar")).unlink()
    with pytest.raises(UserError, match=r"lacks .*png"):
        survey(copy, 0.3)
    (copy / "train-000000.tar").write_bytes(b"no tar file")
    with pytest.raises(UserError, match="not a whole, uncompressed tar file"):
        find(copy)
    assert shards.main(["--photos", str(sharded), "--out", str(tmp_path / "new")]) == 2
    assert "holds shards already" in capsys.readouterr().err
    assert not list(tmp_path.glob("*new*"))
    assert json.loads((sharded / "survey.json").read_text())["settings"]["validation"] == 0.3

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

from colorizer import gamut
from evaluation.metrics import colorfulness
from evaluation.photographs import Member, Part, find, find_photographs, is_held_out
from tests.support import coloured, encoded, opened
from training import shards
from training.config import TrainConfig
from training.data import Crops, degrade, random_crop, tone
from training.survey import NEAR, perceptual_hash, survey, write_report


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


def test_a_toned_print_is_a_curve_of_lightness_between_its_ink_and_its_paper() -> None:
    steps = np.linspace(0, 1, 50)
    rng = np.random.default_rng(0)
    for _ in range(20):
        toned = tone(steps, rng)
        assert (np.diff(toned) > 0).all()
        assert 0.05 < toned[0] < 0.3  # silver gone brown
        assert 0.7 < toned[-1] < 0.98  # paper gone yellow


def test_some_crops_are_of_low_contrast() -> None:
    lightness = np.tile(np.linspace(0, 100, 32, dtype=np.float32), (32, 1))
    rng = np.random.default_rng(0)
    ranges = [np.ptp(np.percentile(degrade(lightness, rng), (5, 95))) for _ in range(60)]
    assert min(ranges) < 30
    assert max(ranges) > 60


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


def test_the_report_lists_what_was_left_out_and_draws_what_went_in(
    photos: Path, tmp_path: Path
) -> None:
    found = survey(photos, 0.3)
    assert "3 left out (2 broken, 1 grey)" in found.summary()
    write_report(tmp_path / "run", found)
    lines = (tmp_path / "run" / "left-out.txt").read_text().splitlines()
    assert {Path(line.split("\t")[0]).name for line in lines} == {"grey.png", "cut.jpg", "text.jpg"}
    assert any(line.endswith("\tgrey") for line in lines)
    assert opened((tmp_path / "run" / "survey.png").read_bytes()).width > 1000


# --- shards


@pytest.fixture(scope="module")
def sharded(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards") / "made"
    options = ["--most", "2", "--validation", "0.3", "--palest", "0"]
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
    assert (sharded / "survey.png").exists()
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
    crop = Crops(found.train, TrainConfig(side=32))[3]
    assert crop[0].shape == (1, 32, 32)


@pytest.mark.parametrize("kind", ["files", "shards"])
def test_each_process_sees_its_own_part(photos: Path, sharded: Path, kind: str) -> None:
    photographs = survey(photos if kind == "files" else sharded, 0.3).train
    parts = [set(Part(photographs, rank, 2)) for rank in (0, 1)]
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == set(photographs)
    if kind == "shards":
        files = [{member.shard for member in part} for part in parts]
        assert not files[0] & files[1]


def test_shards_are_read_one_after_the_other_in_a_new_order_each_time(sharded: Path) -> None:
    part = Part(survey(sharded, 0.3).train)
    members = list(part)
    orders = [part.order(0, time_round).tolist() for time_round in range(6)]
    assert len({tuple(order) for order in orders}) > 1
    assert orders[0] == part.order(0, 0).tolist()
    for order in orders:
        assert sorted(order) == list(range(len(part)))
        files = [members[i].shard for i in order if isinstance(members[i], Member)]
        changes = sum(one != other for one, other in pairwise(files))
        assert changes == len(set(files)) - 1


def test_processes_draw_different_crops(photos: Path) -> None:
    photographs = survey(photos, 0).train
    one, other = (Crops(photographs, TrainConfig(side=32), rank=r, ranks=2) for r in (0, 1))
    assert len(one) == len(other) == 4
    assert not torch.equal(one[0][0], other[0][0])


def test_shards_that_cannot_be_used_say_why_in_one_line(
    photos: Path, sharded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="too few for 9 processes"):
        Part(survey(sharded, 0.3).train, 0, 9)
    with pytest.raises(ValueError, match="was made with"):
        survey(sharded, 0.1)
    copy = tmp_path / "copy"
    shutil.copytree(sharded, copy)
    next(copy.glob("train-*.tar")).unlink()
    with pytest.raises(ValueError, match="lacks the shard"):
        survey(copy, 0.3)
    (copy / "train-000000.tar").write_bytes(b"no tar file")
    with pytest.raises(ValueError, match="not a whole, uncompressed tar file"):
        find(copy)
    for arguments in (["--out", str(sharded)], ["--out", str(tmp_path / "new")]):
        folder = photos if str(sharded) in arguments else sharded
        assert shards.main(["--photos", str(folder), *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert f"{sharded} exists; name a new folder" in lines[-2]
    assert not list(tmp_path.glob("*new*"))
    assert json.loads((sharded / "survey.json").read_text())["settings"]["validation"] == 0.3

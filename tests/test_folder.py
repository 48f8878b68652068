"""colorizer.commands.folder: which pictures, under which names, and what is done."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path, PurePath

import pytest

from colorizer.commands import folder
from colorizer.commands.folder import ENDINGS, Naming, Plan, Refused, marked, target_name
from tests.support import Patch, encoded, picture

JPEG = encoded(picture(40, 60), "JPEG")


@pytest.mark.parametrize(
    ("name", "ending", "target"),
    [
        ("a.jpg", ".jpg", "a.jpg"),
        ("deep/a.JPG", ".jpg", "deep/a.JPG"),
        ("a.jpeg", ".jpg", "a.jpeg"),
        ("a.png", ".jpg", "a.png.jpg"),
        ("deep/er/a.tiff", ".webp", "deep/er/a.tiff.webp"),
        ("a.png.jpg", ".jpg", "a.png.jpg.jpg"),
        ("a.jpg", ".png", "a.jpg.png"),
        ("a.v2.jpg", ".jpg", "a.v2.jpg"),
        ("Dr. Who.jpg", ".jpg", "Dr. Who.jpg"),
        ("no suffix", ".jpg", "no suffix.jpg"),
    ],
)
def test_a_result_is_named_after_its_picture(name: str, ending: str, target: str) -> None:
    assert target_name(PurePath(name), ending) == PurePath(target)


@pytest.mark.parametrize("ending", ENDINGS.values())
def test_no_two_pictures_share_a_result(ending: str) -> None:
    suffixes = [".jpg", ".JPG", ".jpeg", ".jfif", ".png", ".webp", ".tif", ".heic"]
    names = [
        PurePath("a" + "".join(some))
        for depth in (1, 2, 3)
        for some in itertools.product(suffixes, repeat=depth)
    ]
    assert len({target_name(name, ending) for name in names}) == len(names)
    assert len({marked(target_name(name, ending), "-colour") for name in names}) == len(names)


@pytest.mark.parametrize("letter", ["x", "é", "漢", "\udce9", chr(0xDC80), "😀"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_names_of_any_length_get_results_that_a_file_system_takes(letter: str, suffix: str) -> None:
    width = len(os.fsencode(letter))
    names = [PurePath(letter * (n // width) + suffix) for n in (100, 243, 247, 251)]
    for mark in ("", "-colour", "-colour-8"):
        targets = {marked(target_name(name, ".jpg"), mark) for name in names}
        assert len(targets) == len(names)
        for target in targets:
            assert len(os.fsencode(target.name)) <= 255
            assert target.name.endswith(f"{mark}.jpg")
            os.fsencode(target.name).decode("utf-8", "surrogateescape")


# --- planning


def make(root: Path, *names: str, body: bytes = JPEG) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def planned(root: Path, *, overwrite: bool = False) -> Plan:
    """The plan for root/in, with its results in root/out."""
    return folder.plan([root / "in"], Naming(".jpg", root / "out"), overwrite)


def sources(root: Path, plan: Plan) -> list[str]:
    return [job.source.relative_to(root / "in").as_posix() for job in plan.jobs]


def test_what_a_folder_leaves_out_is_told_by_name(tmp_path: Path) -> None:
    make(tmp_path / "in", "a.jpg", ".hidden.jpg", ".thumbs/a.jpg", "._a.jpg", "notes.txt", "b.PNG")
    make(tmp_path / "in", "deep/scan.pdf", "no suffix", "deep/c.tif")
    make(tmp_path / "elsewhere", "d.jpg")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "linked.jpg").symlink_to(tmp_path / "elsewhere" / "d.jpg")
    os.mkfifo(tmp_path / "in" / "pipe.jpg")
    plan = planned(tmp_path)
    assert sources(tmp_path, plan) == ["a.jpg", "b.PNG", "deep/c.tif", "linked.jpg"]
    told = "\n".join(plan.left_out)
    for name in (".hidden.jpg", ".thumbs", "._a.jpg", "notes.txt", "scan.pdf", "no suffix"):
        assert name in told
    assert "linked" in told
    assert "pipe.jpg" in told
    assert not plan.failed


def test_every_suffix_that_can_be_read_is_looked_for(tmp_path: Path) -> None:
    names = sorted(f"a{suffix}" for suffix in folder.suffixes())
    make(tmp_path / "in", *names, *(name.upper() for name in names))
    assert len(planned(tmp_path).jobs) == 2 * len(names)
    assert folder.suffixes() <= folder._PICTURES  # so that each has a result of its own


def test_what_cannot_be_read_fails_and_the_rest_goes_on(tmp_path: Path, monkeypatch: Patch) -> None:
    make(tmp_path / "in", "a.jpg", "locked/b.jpg", "z/c.jpg")
    (tmp_path / "in" / "gone.jpg").symlink_to("nowhere")
    scandir = os.scandir

    def refusing(path: Path) -> object:  # root, who may run this, can read everything
        if Path(path).name == "locked":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    plan = planned(tmp_path)
    assert sources(tmp_path, plan) == ["a.jpg", "z/c.jpg"]
    assert [(path.name, why) for path, why in plan.failed] == [
        ("gone.jpg", "the link leads nowhere"),
        ("locked", "the folder cannot be read: Permission denied"),
    ]


def test_links_in_circles_end(tmp_path: Path) -> None:
    make(tmp_path / "in", "a/1.jpg", "b/2.jpg")
    links = {"a/up": "..", "a/self": ".", "a/b": "../b", "b/a": "../a", "loop": "loop"}
    links["loop.jpg"] = "loop.jpg"
    for name, to in links.items():
        (tmp_path / "in" / name).symlink_to(to)
    plan = planned(tmp_path)
    assert sources(tmp_path, plan) == ["a/1.jpg", "b/2.jpg"]
    assert [path.name for path, _ in plan.failed] == ["loop.jpg"]


def test_folders_may_be_deep(tmp_path: Path) -> None:
    deep = "/".join(["d"] * 300)
    make(tmp_path / "in", f"{deep}/a.jpg")
    assert sources(tmp_path, planned(tmp_path)) == [f"{deep}/a.jpg"]


@pytest.mark.parametrize("out", ["in/colour", "in/deep/colour", "other", "."])
def test_results_inside_the_folder_of_the_pictures_are_not_taken_for_pictures(
    tmp_path: Path, out: str
) -> None:
    make(tmp_path / "in", "a.jpg", "deep/b.jpg")
    for _ in range(2):
        plan = folder.plan([tmp_path / "in"], Naming(".jpg", tmp_path / out), overwrite=True)
        assert sources(tmp_path, plan) == ["a.jpg", "deep/b.jpg"]
        for job in plan.jobs:
            make(Path("/"), str(job.targets[0]))


@pytest.mark.parametrize("way", ["in", "in/.", "in/../in", "link"])
def test_a_folder_is_not_its_own_output(tmp_path: Path, way: str) -> None:
    make(tmp_path / "in", "a.jpg")
    (tmp_path / "link").symlink_to("in")
    with pytest.raises(Refused, match="the folder of the pictures; choose another"):
        folder.plan([tmp_path / "in"], Naming(".jpg", tmp_path / way), overwrite=False)


def test_a_result_counts_only_if_it_is_a_picture_of_the_size(tmp_path: Path) -> None:
    names = ["done.jpg", "html.jpg", "other size.jpg", "empty.jpg", "folder.jpg", "link.jpg"]
    make(tmp_path / "in", *names, "left.jpg")
    make(tmp_path / "out", "done.jpg")
    make(tmp_path / "out", "html.jpg", body=b"<html>Please log in</html>")
    make(tmp_path / "out", "other size.jpg", body=encoded(picture(41, 60), "JPEG"))
    make(tmp_path / "out", "empty.jpg", body=b"")
    (tmp_path / "out" / "folder.jpg").mkdir()
    (tmp_path / "out" / "link.jpg").symlink_to("nowhere")
    plan = planned(tmp_path)
    assert sources(tmp_path, plan) == ["left.jpg"]
    assert plan.done == 1
    assert sorted(path.name for path, _ in plan.failed) == sorted(names[1:])
    assert all("--overwrite" in why for _, why in plan.failed)
    again = planned(tmp_path, overwrite=True)
    assert sorted(sources(tmp_path, again)) == sorted([*names, "left.jpg"])


def test_a_turned_picture_has_its_upright_size(tmp_path: Path) -> None:
    import io

    from PIL import ExifTags, Image

    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = io.BytesIO()
    Image.fromarray(picture(40, 60)).save(file, "JPEG", exif=exif)
    make(tmp_path / "in", "a.jpg", "b.jpg", body=file.getvalue())
    make(tmp_path / "out", "a.jpg", body=encoded(picture(60, 40), "JPEG"))
    make(tmp_path / "out", "b.jpg", body=encoded(picture(40, 60), "JPEG"))
    plan = planned(tmp_path)
    assert (plan.done, [path.name for path, _ in plan.failed]) == (1, ["b.jpg"])


def test_a_broken_picture_is_tried_though_its_result_seems_to_be_there(tmp_path: Path) -> None:
    make(tmp_path / "in", "a.jpg", body=JPEG[:100])
    make(tmp_path / "out", "a.jpg")
    plan = planned(tmp_path)
    assert not plan.done
    assert [path.name for path, _ in plan.failed] == ["a.jpg"]


def test_a_folder_may_be_the_one_that_is_worked_in(tmp_path: Path, monkeypatch: Patch) -> None:
    make(tmp_path, "a.jpg", "deep/b.png", "out/a.jpg")
    for here, way in ((tmp_path, "."), (tmp_path / "deep", "..")):
        monkeypatch.chdir(here)
        plan = folder.plan([Path(way)], Naming(".jpg", tmp_path / "out"), overwrite=False)
        assert [job.targets[0].relative_to(tmp_path / "out") for job in plan.jobs] == [
            Path("deep/b.png.jpg")
        ]
        assert plan.done == 1


# --- results of this command among its pictures

LONG = "x" * 240


@pytest.mark.parametrize(
    "naming",
    [Naming(".jpg"), Naming(".png"), Naming(".webp", variants=3), Naming(".jpg", uncertainty=True)],
    ids=["jpeg", "png", "variants", "uncertainty"],
)
@pytest.mark.parametrize(
    "name", ["a.jpg", "a.JPEG", "a.png", "a.png.jpg", f"{LONG}.tiff", f"{LONG}0123456789.jpg"]
)
def test_results_are_no_pictures_of_the_next_run(tmp_path: Path, name: str, naming: Naming) -> None:
    make(tmp_path, name, "b-colour.jpg", "c-colour-9.jpg", "d-colour.txt.jpg")
    first = folder.plan(sorted(tmp_path.iterdir()), naming, overwrite=False)
    assert len(first.jobs) == 4
    job = next(job for job in first.jobs if job.source.name == name)
    for target in job.targets:
        make(tmp_path, target.name)
    for overwrite in (False, True):
        second = folder.plan(sorted(tmp_path.iterdir()), naming, overwrite)
        assert second.done == (not overwrite)
        assert len(second.jobs) == 3 + overwrite
        assert len(second.left_out) == 1
    job.source.unlink()
    third = folder.plan(sorted(tmp_path.iterdir()), naming, overwrite=False)
    assert len(third.jobs) == 3 + len(job.targets)


# --- commands that cannot be carried out


@pytest.mark.parametrize(
    ("pictures", "naming", "why"),
    [
        (["none.jpg", "nobody.jpg"], Naming(".jpg"), "there is no picture at"),
        (["in"], Naming(".jpg"), "say where its results go"),
        (["empty"], Naming(".jpg", Path("out")), "holds no picture"),
        (["in/a.jpg", "in/deep/a.jpg"], Naming(".jpg", Path("out")), "would both go to"),
        (["in/deep/a.jpg", "in/a.jpg"], Naming(".jpg", Path("in")), "would both go to"),
        (["in/a.jpg"], Naming(".jpg", file=Path("in/a.jpg")), "would be overwritten"),
        (["in/a.jpg"], Naming(".jpg", Path("in/deep/..")), "would be overwritten"),
        (["in/deep", "in/a.jpg"], Naming(".jpg", Path("in")), "would both go to"),
    ],
)
def test_a_plan_is_refused_before_work(
    tmp_path: Path, monkeypatch: Patch, pictures: list[str], naming: Naming, why: str
) -> None:
    make(tmp_path, "in/a.jpg", "in/deep/a.jpg")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match=why):
        folder.plan([Path(one) for one in pictures], naming, overwrite=True)


def test_one_picture_named_twice_is_one(tmp_path: Path, monkeypatch: Patch) -> None:
    make(tmp_path, "in/a.jpg")
    monkeypatch.chdir(tmp_path)
    ways: list[Callable[[], Path]] = [lambda: Path("in/a.jpg"), lambda: tmp_path / "in" / "a.jpg"]
    plan = folder.plan([way() for way in ways], Naming(".jpg", Path("out")), overwrite=False)
    assert len(plan.jobs) == 1

"""Originals are safe: nothing is written over one; a report and records say what became of each."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from colorizer import provenance
from colorizer.commands import cli, folder, reports
from colorizer.commands.folder import Naming, Refused
from tests.pictures import GREY, file_of, tiff
from tests.support import encoded, picture


@pytest.fixture(scope="module")
def model(archives: Path) -> Path:
    return archives / "colorize.mar"


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Scans: of 16 bits with an infrared channel, of two pages, and one that is broken."""
    album = tmp_path / "scans"
    (album / "deep").mkdir(parents=True)
    deep = np.dstack([GREY.astype(np.uint16) * 257] * 4)
    infrared = tiff(deep, photometric="rgb", extrasamples=["unspecified"], resolution=(600, 600))
    (album / "a.tif").write_bytes(infrared)
    pages = tiff(np.stack([GREY, GREY]), photometric="minisblack")
    (album / "deep" / "b.tiff").write_bytes(pages)
    (album / "broken.jpg").write_bytes(encoded(picture(50, 50), "JPEG")[:300])
    for number, path in enumerate(sorted(album.rglob("*.*")), start=1):
        os.utime(path, (number * 10**8, number * 10**8))
    return album


def state(folder: Path) -> dict[str, tuple[bytes, float, int]]:
    return {
        path.relative_to(folder).as_posix(): (
            path.read_bytes(), path.stat().st_mtime, path.stat().st_ino,
        )
        for path in folder.rglob("*")
        if path.is_file()
    }  # fmt: skip


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {Path(row["picture"]).name: row for row in csv.DictReader(file)}


def test_a_folder_for_an_archive_with_its_report_and_its_records(
    model: Path, album: Path, tmp_path: Path
) -> None:
    before = state(album)
    out, table = tmp_path / "out", tmp_path / "report.csv"
    command = [str(album), "--out", str(out), "--model", str(model), "--report", str(table)]
    command += ["--format", "tiff", "--bits", "same", "--provenance"]
    assert cli.main(command) == 1
    assert state(album) == before
    first = rows(table)
    assert {name: row["state"] for name, row in first.items()} == {
        "a.tif": "colorized", "b.tiff": "colorized", "broken.jpg": "failed",
    }  # fmt: skip
    assert first["a.tif"]["warnings"] == "1 channel beside the colours (infrared?) left out"
    assert first["b.tiff"]["warnings"] == "the first of 2 pages is read"
    assert "broken or cut short" in first["broken.jpg"]["warnings"]
    for name in ("a.tif", "deep/b.tiff"):
        row, made = first[Path(name).name], out / name
        assert row["sha256"] == sha(album / name)
        assert (row["results"], row["results_sha256"]) == (str(made), sha(made))
        assert float(row["seconds"]) > 0
        record = json.loads((made.parent / f"{made.name}.colorizer.json").read_text())
        assert record["SourceSHA256"] == sha(album / name)
        assert record["ResultSHA256"] == sha(made)
        assert record["Options"]["bits"] == "same"
        assert provenance.read(made.read_bytes())["SourceSHA256"] == sha(album / name)
        assert cli.main(["verify", str(album / name), str(made)]) == 0
    assert cli.main(command) == 1  # again: it says what is there
    second = rows(table)
    assert second["a.tif"]["state"] == "there already"
    assert second["a.tif"]["results_sha256"] == first["a.tif"]["results_sha256"]
    assert {path.name for path in out.rglob("*.json")} == {
        "a.tif.colorizer.json", "b.tiff.colorizer.json",
    }  # fmt: skip


def test_without_provenance_there_are_no_records_beside(
    model: Path, album: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert cli.main([str(album), "--out", str(out), "--model", str(model)]) == 1
    assert not list(out.rglob("*.json"))
    command = [str(album / "a.tif"), "--provenance", "--model", str(model)]
    assert cli.main(command) == 0
    assert provenance.read((album / "a.tif-colour.jpg").read_bytes())
    assert not list(album.rglob("*.json"))


WAYS: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda original, target: target.symlink_to(original),
    "relative link": lambda original, target: target.symlink_to(
        os.path.relpath(original, target.parent)
    ),
    "hard link": lambda original, target: os.link(original, target),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_way_leads_over_an_original(
    way: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = tmp_path / "in" / "a.jpg"
    (tmp_path / "out").mkdir()
    original.parent.mkdir()
    original.write_bytes(encoded(picture(20, 30), "JPEG"))
    before = state(original.parent)
    WAYS[way](original, tmp_path / "out" / "a.jpg")
    (tmp_path / "linked").symlink_to(original.parent)
    arguments = ["--overwrite", "--model", str(model)]
    for out in (tmp_path / "out", tmp_path / "out" / "a.jpg", tmp_path / "linked", original):
        assert cli.main([str(original), "--out", str(out), *arguments]) == 2
        assert "would be overwritten" in capsys.readouterr().err
    ray = [str(original.parent), "--ray", "local", "--out", str(tmp_path / "linked"), *arguments]
    assert cli.main(ray) == 2
    assert "the folder of the pictures" in capsys.readouterr().err
    assert state(original.parent) == before


def test_a_link_to_another_original_is_replaced_not_followed(model: Path, tmp_path: Path) -> None:
    """It is none of the command's pictures, but somebody's."""
    for name in ("in", "out", "archive"):
        (tmp_path / name).mkdir()
    body = encoded(picture(20, 30), "JPEG")
    (tmp_path / "in" / "a.jpg").write_bytes(body)
    (tmp_path / "archive" / "a.jpg").write_bytes(body)
    (tmp_path / "out" / "a.jpg").symlink_to(tmp_path / "archive" / "a.jpg")
    command = [str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--model", str(model)]
    assert cli.main([*command, "--overwrite"]) == 0
    assert (tmp_path / "archive" / "a.jpg").read_bytes() == body
    assert not (tmp_path / "out" / "a.jpg").is_symlink()


def test_names_of_another_case_are_one_where_the_file_system_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one/IMG.jpg", "two/img.JPG"):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_bytes(encoded(picture(20, 30), "JPEG"))
    pictures, naming = [tmp_path / "one", tmp_path / "two"], Naming(".jpg", tmp_path / "out")
    assert len(folder.plan(pictures, naming, overwrite=False).jobs) == 2
    monkeypatch.setattr(folder, "_ignores_case", lambda place: True)
    with pytest.raises(Refused, match="would both go to"):
        folder.plan(pictures, naming, overwrite=False)


def test_a_file_system_that_ignores_case_is_recognized(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "Photos"
    place.mkdir()
    assert not folder._ignores_case(place / "deep" / "er")
    (tmp_path / "pHOTOS").symlink_to(place)  # as if the two were one
    assert folder._ignores_case(place / "1" / "2")


@pytest.mark.parametrize("taken", ["scans/a.tif", "notes.txt", "out/a.tif"])
def test_a_report_replaces_nothing_but_a_report(
    taken: str, model: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("names of the people")
    before = state(tmp_path)
    command = [str(album), "--out", str(tmp_path / "out"), "--format", "tiff"]
    assert cli.main([*command, "--report", str(tmp_path / taken), "--model", "none"]) == 2
    assert f"--report {tmp_path / taken} is" in capsys.readouterr().err
    assert state(tmp_path) == before


def test_an_interrupted_run_leaves_the_report_before(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    with reports.opened(table):
        pass
    before = table.read_bytes()

    def interrupted() -> None:
        with reports.opened(table) as add:
            add(table, (), "failed")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert table.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_a_report_holds_names_that_are_no_text(tmp_path: Path) -> None:
    odd = tmp_path / os.fsdecode(b'\xff,"a\n".png')
    odd.write_bytes(file_of(GREY, "PNG"))
    with reports.opened(tmp_path / "a.csv") as add:
        add(odd, [odd, tmp_path / "none"], "colorized", 1.5, ["one", "two"])
    with (tmp_path / "a.csv").open(newline="", errors="surrogateescape") as file:
        (row,) = csv.DictReader(file)
    assert row["picture"] == row["results"] == str(odd)
    assert (row["seconds"], row["warnings"]) == ("1.500", "one; two")

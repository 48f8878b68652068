"""Folders of pictures, on a disk and in an object store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from pyarrow import fs

from colorizer.commands.storage import Folder

PLACES = ["path", "file", "store"]


def folder_at(place: str, tmp_path: Path) -> Folder:
    """An empty folder: by its path, by a file address, or in pyarrow's store in memory."""
    if place != "store":
        return Folder(str(tmp_path) if place == "path" else tmp_path.as_uri())
    folder = Folder("mock:///bucket/photos")
    assert folder._store is not None
    for name in ("deep", "out"):  # object stores need no folders, this one does
        folder._store.create_dir(f"{folder.root}/{name}")
    return folder


def inside(folder: Folder, name: str) -> Folder:
    other = Folder(".")
    other._store, other.root = folder._store, f"{folder.root}/{name}"
    return other


@pytest.mark.parametrize("place", PLACES)
def test_pictures_are_listed_folder_by_folder_without_the_one_written_to(
    place: str, tmp_path: Path
) -> None:
    folder = folder_at(place, tmp_path)
    for name in ("b.jpg", "a.PNG", "deep/c.jpg", "deep/notes.txt", "._b.jpg", "out/d.jpg"):
        folder.write(name, b"x")
    out = inside(folder, "out")
    assert list(folder.names({".jpg", ".png"}, out)) == ["a.PNG", "b.jpg", "deep/c.jpg"]
    assert list(folder.names()) == ["a.PNG", "b.jpg", "deep/c.jpg", "deep/notes.txt", "out/d.jpg"]
    assert list(folder.names({".jpg"}, Folder(str(tmp_path / "elsewhere")))) == [
        "b.jpg",
        "deep/c.jpg",
        "out/d.jpg",
    ]
    assert [folder.has(name) for name in ("b.jpg", "deep", "none.jpg")] == [True, False, False]
    assert folder.read("deep/c.jpg") == b"x"


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_takes_files_holds_none_after_the_check(place: str, tmp_path: Path) -> None:
    folder = folder_at(place, tmp_path)
    folder.check_writable()
    if folder._store is None:
        assert os.listdir(folder.root) == []
    else:
        assert {
            one.base_name for one in folder._store.get_file_info(fs.FileSelector(folder.root))
        } == {"deep", "out"}


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_is_missing_or_a_file_is_an_error(place: str, tmp_path: Path) -> None:
    folder = folder_at(place, tmp_path)
    with pytest.raises(FileNotFoundError):
        list(inside(folder, "none").names())
    folder.write("file", b"x")
    with pytest.raises(OSError, match="file"):
        inside(folder, "file").check_writable()


def test_names_that_are_not_utf_8_are_listed_read_and_written(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    folder = Folder(str(tmp_path))
    folder.write(name, b"x")
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9.jpg"]
    assert list(folder.names({".jpg"})) == [name]
    assert (folder.has(name), folder.read(name)) == (True, b"x")


def test_a_path_and_an_address_of_one_folder_are_equal(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert Folder(str(tmp_path / "link")) == Folder(tmp_path.as_uri())
    assert Folder(str(tmp_path)) != Folder(str(tmp_path.parent))

"""Folders on disks and in stores, and the record of what is done in them."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from colorizer.commands.storage import Folder, Record


def test_pictures_are_listed_folder_by_folder_without_the_one_written_to(tmp_path: Path) -> None:
    folder = Folder(tmp_path.as_uri())
    for name in ("b.jpg", "a.PNG", "deep/c.jpg", "deep/notes.txt", "._b.jpg", "out/d.jpg"):
        folder.write(name, b"x")
    out = Folder(str(tmp_path / "out"))
    listed = list(folder.list({".jpg", ".png"}, out.root))
    assert listed == [["a.PNG", "b.jpg"], ["deep/c.jpg"]]
    assert (folder.has("b.jpg"), folder.has("deep"), folder.has("none.jpg")) == (True, False, False)
    assert folder.read("deep/c.jpg") == b"x"


def test_a_record_tells_the_next_run_what_is_done_and_leaves_failures_to_it(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "out"))
    assert Record(folder).done() == set()
    for number in range(2):
        record = Record(folder)
        record.add({"picture": f"{number}.jpg", "colour": f"{number}.jpg"})
        record.add({"picture": f"bad{number}.jpg", "error": "broken"})
        record.flush()
    assert Record(folder).done() == {"0.jpg", "1.jpg"}

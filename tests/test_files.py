"""colorizer.files: whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from colorizer.files import written_whole


def test_a_file_takes_the_place_of_the_one_that_was_there(tmp_path: Path) -> None:
    target = tmp_path / "new" / "picture.png"
    for text in ("first", "second"):
        with written_whole(target) as beside:
            beside.write_text(text)
            assert beside.suffix == ".png"
    assert target.read_text() == "second"
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_takes_the_place_of_the_one_that_was_there(tmp_path: Path) -> None:
    target = tmp_path / "graphs"
    for name in ("first", "second"):
        with written_whole(target) as beside:
            beside.mkdir()
            (beside / name).touch()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert list(tmp_path.iterdir()) == [target]


def fail_into(target: Path, folder: bool) -> None:
    """Write half, and raise."""
    with written_whole(target) as beside:
        if folder:
            beside.mkdir()
            beside /= "half"
        beside.write_text("half")
        raise KeyboardInterrupt


@pytest.mark.parametrize("folder", [False, True])
def test_what_fails_leaves_what_was_there_and_nothing_else(tmp_path: Path, folder: bool) -> None:
    target = tmp_path / "kept"
    if folder:
        target.mkdir()
        (target / "file").write_text("before")
    else:
        target.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        fail_into(target, folder)
    assert (target / "file" if folder else target).read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]

"""colorizer.files: atomic writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from colorizer.files import write_whole, written_whole


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


@pytest.mark.parametrize("length", [248, 251, 255])
@pytest.mark.parametrize("ending", [".png", "", ".png" * 50], ids=["suffix", "none", "long"])
def test_a_name_as_long_as_file_systems_allow_is_written(
    tmp_path: Path, length: int, ending: str
) -> None:
    target = tmp_path / ("é" * 127 + "x" * 255).encode()[: length - len(ending)].decode(
        errors="ignore"
    )
    target = target.with_name(target.name + ending)
    write_whole(target, b"body")
    assert target.read_bytes() == b"body"
    assert list(tmp_path.iterdir()) == [target]


def test_two_threads_may_write_the_same_target(tmp_path: Path) -> None:
    target = tmp_path / "picture.png"
    with written_whole(target) as one, written_whole(target) as other:
        assert one != other
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert target.read_bytes() == b"one"
    assert list(tmp_path.iterdir()) == [target]

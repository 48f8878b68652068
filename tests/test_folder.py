"""colorizer.commands.folder: which pictures, under which names, and what is done."""

from __future__ import annotations

import itertools
import os
from pathlib import PurePath

import pytest

from colorizer.commands.folder import ENDINGS, marked, target_name


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


@pytest.mark.parametrize("letter", ["x", "é", "漢", "\udce9", "😀"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_names_of_any_length_get_results_that_a_file_system_takes(letter: str, suffix: str) -> None:
    width = len(os.fsencode(letter))
    names = [PurePath(letter * (n // width) + suffix) for n in (100, 243, 247, 251)]
    for mark in ("", "-colour", "-colour-8"):
        targets = {marked(target_name(name, ".jpg"), mark) for name in names}
        assert len(targets) == len(names)
        for target in targets:
            assert len(os.fsencode(target.name)) <= 255
            assert target.suffix == ".jpg"
            os.fsencode(target.name).decode("utf-8", "surrogateescape")

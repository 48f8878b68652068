"""Contact sheets of black-and-white photographs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from evaluation import sheet
from tests.support import Capture, Patch, Weights, encoded, opened, picture


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three black-and-white photographs, and a broken one."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(encoded(picture(60, 70, seed)))
    (folder / "cut.jpg").write_bytes(encoded(picture(60, 70), "JPEG")[:300])
    return folder


@pytest.fixture(autouse=True)
def _two_photographs_a_page(monkeypatch: Patch) -> None:
    assert sheet.ROWS == 5
    monkeypatch.setattr(sheet, "ROWS", 2)


@pytest.fixture
def networks(weights: Weights) -> list[str]:
    return [str(weights("regression")), str(weights("classification"))]


def cells(file: Path, row: int) -> list[np.ndarray]:
    """The two pictures of a row, 60 pixels high, each below a line of text."""
    pixels = np.asarray(opened(file.read_bytes()))
    top = 18 + 18 + 78 * row
    return [pixels[top : top + 60, left : left + 70].astype(int) for left in (0, sheet.CELL)]


def test_a_row_a_photograph_a_column_a_network(
    photos: Path, networks: list[str], tmp_path: Path, capsys: Capture
) -> None:
    out = ["--photos", str(photos), "--out", str(tmp_path / "sheet.png")]
    assert sheet.main([*networks, *out]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"sheet-1.png", "sheet-2.png"}
    sizes = [opened((tmp_path / f"sheet-{n}.png").read_bytes()).size for n in (1, 2)]
    assert sizes == [(2 * sheet.CELL, 18 + rows * 78) for rows in (2, 1)]
    assert "left out" in capsys.readouterr().err


def test_a_blind_sheet_has_the_pictures_that_its_key_names(
    photos: Path, networks: list[str], tmp_path: Path
) -> None:
    plain, blind = tmp_path / "plain.png", tmp_path / "blind.png"
    assert sheet.main([*networks, "--photos", str(photos), "--out", str(plain)]) == 0
    command = [*networks, "--photos", str(photos), "--out", str(blind), "--blind", "3"]
    assert sheet.main(command) == 0
    key = json.loads((tmp_path / "blind.key.json").read_text())
    assert [key[str(n)]["photograph"] for n in range(1, 4)] == [f"{n}.png" for n in range(3)]
    assert {key[n]["A"] for n in key} == {"regression", "classification"}  # in changing places
    for number in range(3):
        page, row = 1 + number // sheet.ROWS, number % sheet.ROWS
        known = cells(tmp_path / f"plain-{page}.png", row)
        shown = cells(tmp_path / f"blind-{page}.png", row)
        assert not np.array_equal(*known)
        for picture_, letter in zip(shown, "AB", strict=True):
            place = ["regression", "classification"].index(key[str(number + 1)][letter])
            assert np.array_equal(picture_, known[place])
    before = (tmp_path / "blind-1.png").read_bytes(), key
    assert sheet.main(command) == 0
    after = (tmp_path / "blind-1.png").read_bytes()
    assert (after, json.loads((tmp_path / "blind.key.json").read_text())) == before

"""python -m evaluation.before_after: photographs before and after hints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from colorizer.recipe import Head
from evaluation import before_after
from tests.support import encoded

RED = [{"x": 0.5, "y": 0.5, "color": "#c04040"}]


def folders(tmp_path: Path) -> list[str]:
    """A folder with two photographs, one with hints, as arguments."""
    (tmp_path / "hints").mkdir()
    for name in ("coat", "other"):
        (tmp_path / f"{name}.png").write_bytes(encoded(np.full((60, 80), 120, np.uint8)))
    (tmp_path / "hints" / "coat.json").write_text(json.dumps(RED))
    return ["--photos", str(tmp_path), "--hints", str(tmp_path / "hints")]


def test_the_picture_has_each_photograph_with_hints_before_and_after(
    weights: Callable[[Head], Path], tmp_path: Path
) -> None:
    out = tmp_path / "sheet" / "before-after.png"
    arguments = [str(weights("regression")), *folders(tmp_path), "--out", str(out)]
    assert before_after.main(arguments) == 0
    sheet = np.asarray(Image.open(out)).astype(int)
    height, width = before_after.HEIGHT, round(before_after.HEIGHT * 80 / 60)
    assert sheet.shape == (height, 2 * width + before_after.GAP // 2, 3)
    before, after = sheet[height // 2, width // 2], sheet[height // 2, -width // 2]
    assert after[0] - after[2] > before[0] - before[2] + 30


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ("hints/none.json", "has no photograph named none"),
        ("hints/coat.json", "hint"),
        ("coat.png", "coat.png"),
    ],
)
def test_what_is_wrong_is_named_and_no_picture_is_left(
    spoil: str,
    message: str,
    weights: Callable[[Head], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(weights("regression")), *folders(tmp_path)]
    (tmp_path / spoil).write_text("[3]")
    out = tmp_path / "out.jpg"
    assert before_after.main([*arguments, "--out", str(out)]) != 0
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_pairs_fill_rows_and_none_is_lost() -> None:
    widths = [900, 400, 700, 300, 1200]
    pairs = [
        np.full((before_after.HEIGHT, width, 3), number, np.uint8)
        for number, width in enumerate(widths)
    ]
    sheet = before_after.laid(pairs)
    assert sheet.shape[1] <= before_after.WIDTH
    for number, width in enumerate(widths):
        assert (sheet == number).all(axis=2).sum() == width * before_after.HEIGHT

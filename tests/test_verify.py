"""`colorizer verify`: whether a coloured file has its original's lightness."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from colorizer.api import Colorizer
from colorizer.commands import check, cli
from colorizer.graph import Graph
from colorizer.pipeline import Pipeline
from colorizer.recipe import Recipe
from tests.pictures import exif, file_of, tiff
from tests.support import SIDE, encoded, picture


def vivid(lightness: np.ndarray) -> np.ndarray:
    """A network of strong colours, not all of which sRGB has."""
    ab = np.stack([np.sin(lightness[:, 0] / 9), np.cos(lightness[:, 0] / 7)], axis=1) * 60
    return ab.astype(np.float32)


COLORIZER = Colorizer(Pipeline(Graph("sha", "", Recipe(side=SIDE)), vivid))
PHOTO = data.astronaut()[:256, 100:400]
GREY = np.asarray(Image.fromarray(PHOTO).convert("L"))
DEEP = tiff(GREY.astype(np.uint16) * 256 + GREY[::-1])
FILES = {
    "jpeg": file_of(GREY, "JPEG", exif=exif(6)),
    "png": file_of(PHOTO, "PNG"),
    "deep": DEEP,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    "options",
    [
        {"format": "jpeg"},
        {"format": "jpeg", "quality": 30},
        {"format": "webp"},
        {"format": "png"},
        {"format": "tiff", "profile": "display-p3"},
        {"format": "png", "profile": "adobe-rgb"},
        {"format": "tiff", "bits": 16},
        {"format": "png", "bits": 16, "profile": "display-p3"},
        {"format": "tiff", "bits": 16, "profile": "adobe-rgb"},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_our_results_have_their_originals_lightness(name: str, options: dict[str, Any]) -> None:
    found = check.compare(FILES[name], COLORIZER.colorize(FILES[name], **options))
    assert found.same, found
    assert found.orientation == "the same"
    sixteen = "bits" in options
    lossy = options["format"] in ("jpeg", "webp")
    assert found.kind == ("16 bits" if sixteen else "lossy" if lossy else "8 bits")


def changed(rgb: np.ndarray, how: str) -> np.ndarray:
    """A colour picture whose lightness somebody touched."""
    rgb = rgb.astype(np.float64)
    if how == "brighter":
        rgb = rgb * 1.06
    elif how == "contrast":
        rgb = (rgb - 128) * 1.15 + 128
    elif how == "a face retouched":
        rgb[60:90, 110:140] += 12
    elif how == "moved by two pixels":
        rgb = np.roll(rgb, 2, axis=1)
    return np.clip(rgb, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("how", ["brighter", "contrast", "a face retouched", "moved by two pixels"])
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_touched_lightness_is_seen(how: str, format: str) -> None:
    original = file_of(PHOTO, "PNG")
    coloured = np.asarray(Image.open(io.BytesIO(COLORIZER.colorize(original, format="png"))))
    untouched = file_of(coloured, format, **({"quality": 92} if format == "JPEG" else {}))
    assert check.compare(original, untouched).same
    assert not check.compare(original, file_of(changed(coloured, how), format)).same


def test_one_pixel_of_a_16_bit_file_is_seen() -> None:
    made = COLORIZER.colorize(DEEP, format="png", bits=16)
    pixels = cv2.imdecode(np.frombuffer(made, np.uint8), cv2.IMREAD_UNCHANGED)
    assert check.compare(DEEP, made).same
    pixels[9, 9, 1] ^= 256
    touched = cv2.imencode(".png", pixels)[1].tobytes()
    found = check.compare(DEEP, touched)
    assert not found.same
    assert found.largest is not None
    assert found.largest > 0.05


@pytest.mark.parametrize("turn", [1, 2, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_turned_picture_is_named(turn: int, mirror: bool) -> None:
    turned = np.rot90(GREY[:, ::-1] if mirror else GREY, -turn)
    found = check.compare(file_of(GREY, "PNG"), file_of(np.ascontiguousarray(turned), "PNG"))
    assert not found.same
    assert found.orientation == f"{'mirrored and ' if mirror else ''}turned by {90 * turn}°"


def test_the_original_is_found_by_its_hash() -> None:
    body = FILES["png"]
    made = COLORIZER.colorize(body, format="png", provenance="yes")
    assert check.compare(body, made).source == "yes"
    assert check.compare(file_of(PHOTO, "BMP"), made).source == "no"
    assert check.compare(body, COLORIZER.colorize(body)).source == "no record"


@pytest.mark.parametrize(
    ("original", "coloured", "code", "said"),
    [
        ("a.png", "good.png", 0, "lightness is the original's"),
        ("a.png", "grey.png", 1, "lightness is not the original's"),
        ("a.png", "small.png", 1, "300 x 256, and 30 x 20"),
        ("a.png", "text.png", 2, "the coloured file can't be read: The file is not a"),
        ("text.png", "a.png", 2, "the original can't be read: The file is not a"),
        ("a.png", "none.png", 2, "No such file"),
        ("empty.png", "a.png", 2, "the original can't be read: The file is empty"),
    ],
)
def test_the_command_says_it_with_its_exit_code(
    original: str,
    coloured: str,
    code: int,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bodies = {
        "a.png": FILES["png"],
        "good.png": COLORIZER.colorize(FILES["png"], format="png"),
        "grey.png": file_of(255 - GREY, "PNG"),
        "small.png": encoded(picture(20, 30)),
        "text.png": b"not a picture",
        "empty.png": b"",
    }
    for name, body in bodies.items():
        (tmp_path / name).write_bytes(body)
    assert cli.main(["verify", str(tmp_path / original), str(tmp_path / coloured)]) == code
    told = capsys.readouterr()
    assert said in (told.err if code == 2 else told.out)
    assert told.err.count("\n") == (code == 2)


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(FILES["jpeg"])
    assert cli.main(["verify", "--json", str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["same"], told["largest"], told["size"]) == (True, 0, [256, 300])
    assert hashlib.sha256(FILES["jpeg"]).hexdigest() not in str(told)

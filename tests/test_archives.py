"""docs/archives.md, tried as an archivist would: scans of many kinds, results in other tools."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest
import tifffile
from skimage import data

from colorizer import icc, provenance
from colorizer.commands import check, cli
from tests.pictures import (
    cmyk_profile_whose_cyan_is_red,
    exif,
    file_of,
    linear_grey_profile,
    table_profile,
    tiff,
)
from tests.support import IMAGEMAGICK

# A portrait at 16 bits: soft, of all tones, with detail below a step of 8 bits.
PHOTO = cv2.resize(data.astronaut()[:400, 60:360].astype(np.float32), (90, 120)) * 257
PHOTO = np.clip(PHOTO + np.random.default_rng(0).normal(0, 60, PHOTO.shape), 0, 65535)
RGB = PHOTO.astype(np.uint16)
GREY = RGB[..., 1].copy()
LAB = np.dstack([GREY, np.zeros_like(GREY), np.zeros_like(GREY)])
INKS = np.dstack([65535 - RGB, GREY // 8])


class Scan(NamedTuple):
    """A file, whether it has more than 8 bits, and its resolution."""

    body: bytes
    deep: bool = True
    dpi: float | None = None


def magick(pixels: np.ndarray, *options: str) -> Scan | None:
    """A scan as ImageMagick writes it; None where that isn't installed."""
    if not IMAGEMAGICK:
        return None
    command = ["convert", "png:-", *options]
    source = cv2.imencode(".png", pixels)[1].tobytes()
    return Scan(subprocess.run(command, input=source, capture_output=True, check=True).stdout)


def scan(values: Any, dpi: float | None = None, deep: bool = True, **options: Any) -> Scan:
    """A TIFF."""
    if dpi:
        options |= {"resolution": (dpi, dpi), "resolutionunit": "INCH"}
    return Scan(tiff(values, **options), deep, dpi)


PAGES = io.BytesIO()
with tifffile.TiffWriter(PAGES) as writer:
    writer.write(RGB[::4, ::4] // 256, photometric="rgb", subfiletype=1)  # a thumbnail
    writer.write(RGB, photometric="rgb", resolution=(300, 300), resolutionunit="INCH")
    writer.write(RGB[::-1], photometric="rgb")

SCANS: dict[str, Scan | None] = {
    "grey 16 bits, 600 dpi": scan(GREY, 600),
    "grey 16 bits, big-endian, 1200 dpi": scan(GREY, 1200, byteorder=">"),
    "grey 16 bits, white is zero": scan(65535 - GREY, photometric="miniswhite"),
    "grey 16 bits, BigTIFF, tiled": scan(GREY, bigtiff=True, tile=(32, 32), compression="zlib"),
    "grey 16 bits, linear profile": scan(GREY, iccprofile=linear_grey_profile()),
    "grey float": scan((GREY / 65535).astype(np.float32)),
    "grey 32 bits": scan(GREY.astype(np.uint32) * 65537),
    "grey 8 bits, 400 dpi": scan((GREY >> 8).astype(np.uint8), 400, deep=False),
    "colour 16 bits, Adobe RGB": scan(
        RGB, 300, photometric="rgb", iccprofile=icc.build("adobe-rgb")
    ),
    "colour 16 bits, scanner's table profile": scan(
        RGB, photometric="rgb", iccprofile=table_profile()
    ),
    "colour 16 bits, tiled, big-endian": scan(
        RGB, photometric="rgb", byteorder=">", tile=(16, 48), compression="zlib", predictor=True
    ),
    "colour 16 bits, planes": scan(
        np.moveaxis(RGB, 2, 0).copy(), photometric="rgb", planarconfig="separate"
    ),
    "infrared": scan(np.dstack([RGB, GREY]), 600, photometric="rgb", extrasamples=["unspecified"]),
    "alpha": scan(np.dstack([RGB, 65535 - GREY]), photometric="rgb", extrasamples=["unassalpha"]),
    "several pages and a thumbnail": Scan(PAGES.getvalue(), dpi=300),
    "CMYK 16 bits": scan(INKS, photometric="separated"),
    "CMYK 16 bits, profile": scan(
        INKS, photometric="separated", iccprofile=cmyk_profile_whose_cyan_is_red()
    ),
    "Lab 16 bits": scan(LAB, photometric="cielab"),
    "Lab 8 bits": scan((LAB >> 8).astype(np.uint8), deep=False, photometric="cielab"),
    "sideways": Scan(file_of(GREY, "TIFF", exif=exif(6), dpi=(300, 300)), dpi=300),
    "LZW by ImageMagick": magick(GREY, "-compress", "LZW", "tiff:-"),
    "colour by ImageMagick": magick(RGB, "-compress", "Zip", "tiff:-"),
    "PNG 16 bits": Scan(cv2.imencode(".png", RGB)[1].tobytes()),
    "JPEG 2000 16 bits": Scan(cv2.imencode(".jp2", RGB)[1].tobytes()),
    "JPEG 2000 12 bits": magick(GREY, "-depth", "12", "jp2:-"),
    "JPEG": Scan(
        file_of((GREY >> 8).astype(np.uint8), "JPEG", exif=exif(3), dpi=(72, 72)), False, 72
    ),
}
MADE = {name: one for name, one in SCANS.items() if one is not None}


def suffix(body: bytes) -> str:
    return {b"\x89P": ".png", b"\xff\xd8": ".jpg", b"\0\0": ".jp2"}.get(body[:2], ".tif")


@pytest.fixture(scope="module")
def results(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of results, which the guide's command made."""
    place = tmp_path_factory.mktemp("archive")
    (place / "SCANS").mkdir()
    for name, one in MADE.items():
        (place / "SCANS" / f"{name}{suffix(one.body)}").write_bytes(one.body)
    command = [str(place / "SCANS"), "--out", str(place / "COLOURED"), "--format", "tiff"]
    command += ["--bits", "same", "--metadata", "keep", "--provenance"]
    command += ["--report", str(place / "report.csv")]
    assert cli.main([*command, "--model", str(archives / "colorize.mar")]) == 0
    return place


def pair(results: Path, name: str) -> tuple[bytes, Path]:
    original = next((results / "SCANS").glob(f"{name}.*"))
    made = [results / "COLOURED" / f"{original.name}{end}" for end in ("", ".tif")]
    return original.read_bytes(), next(path for path in made if path.exists())


@pytest.mark.parametrize("name", MADE)
def test_a_scan_comes_back_with_its_lightness_depth_and_resolution(
    name: str, results: Path
) -> None:
    original, made = pair(results, name)
    body, one = made.read_bytes(), MADE[name]
    found = check.compare(original, body)
    assert found.same, found
    assert found.source == "yes"
    with tifffile.TiffFile(io.BytesIO(body)) as file:
        (page,) = file.pages
        tags = page.tags  # type: ignore[union-attr]
        assert tags["BitsPerSample"].value[0] == (16 if one.deep else 8)
        assert tags["Orientation"].value == 1
        assert tags["InterColorProfile"].value == icc.build("srgb")
        across = tags["XResolution"].value
        assert across[0] / across[1] == pytest.approx(one.dpi or 1)
        colour = page.asarray()[..., :3].astype(int)  # type: ignore[union-attr]
    assert np.ptp(colour, axis=2).max() > 100


@pytest.mark.parametrize("tool", [("tiffinfo", "-D"), ("identify",), ("exiftool", "-fast")])
def test_other_tools_open_every_result_without_a_warning(
    tool: tuple[str, ...], results: Path
) -> None:
    if shutil.which(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    paths = sorted((results / "COLOURED").glob("*.tif"))
    assert len(paths) == len(MADE)
    done = subprocess.run([*tool, *paths], capture_output=True, text=True)
    assert done.returncode == 0
    assert "arning" not in done.stdout + done.stderr
    assert "rror" not in done.stdout + done.stderr


def test_the_report_and_the_records_name_every_scan(results: Path) -> None:
    with (results / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(MADE)
    for row in rows:
        body, result = Path(row["picture"]).read_bytes(), Path(row["results"])
        digest = hashlib.sha256(body).hexdigest()
        assert (row["sha256"], row["state"]) == (digest, "colorized")
        record = json.loads(result.with_name(result.name + ".colorizer.json").read_text())
        assert record["SourceSHA256"] == digest
        assert record["DigitalSourceType"] == provenance.COLOURED
    warned = {Path(row["picture"]).stem: row["warnings"] for row in rows}
    assert "infrared" in warned["infrared"]
    assert "first of 2 pages" in warned["several pages and a thumbnail"]
    assert not warned["grey 16 bits, 600 dpi"]

"""Photographs to post and to colorize: scikit-image's samples at stated sizes, or a folder's."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageStat
from skimage import data

# Megapixels -> how many of ten requests: web scans, old cameras' files, a modern scan
MIX = {0.3: 6, 3.0: 3, 12.0: 1}
NAMES = ("astronaut", "chelsea", "coffee")  # in colour, part of scikit-image's package
QUALITY = 90  # of the JPEGs sent
ASPECT = 4 / 3
GREY = 1.0  # mean chroma in 8-bit levels of YCbCr below which a reply counts as not coloured
SEED = 0  # of the order of the photographs


@dataclass(frozen=True, eq=False)
class Photograph:
    """A file to post, and the size that has to come back."""

    name: str
    body: bytes
    width: int
    height: int


def sample(megapixels: float, name: str = NAMES[0], grey: bool = False) -> Photograph:
    """Make a JPEG of a sample, mirrored on and on, so that any size is as detailed as the sample.

    Args:
        megapixels: of the photograph.
        name: of scikit-image's sample.
        grey: whether to drop its colours.
    """
    one = getattr(data, name)()
    height = max(1, round((1e6 * megapixels / ASPECT) ** 0.5))
    width = max(1, round(height * ASPECT))
    down, right = max(0, height - one.shape[0]), max(0, width - one.shape[1])
    pixels = np.pad(one, ((0, down), (0, right), (0, 0)), mode="symmetric")[:height, :width]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    file = io.BytesIO()
    (picture.convert("L") if grey else picture).save(file, "JPEG", quality=QUALITY)
    return Photograph(f"{megapixels:g} MP", file.getvalue(), width, height)


@lru_cache
def load(folder: Path | None) -> list[Photograph]:
    """Read the photographs of a folder, or make those of MIX, grey, each as often as it says.

    Raises:
        FileNotFoundError: if the folder has none that Pillow reads.
    """
    if folder is None:
        made = [(sample(mp, name, True), n) for mp, n in MIX.items() for name in NAMES]
        return [photograph for photograph, count in made for _ in range(count)]
    photographs = []
    for path in sorted(folder.iterdir()):
        try:
            body = path.read_bytes()
            with Image.open(io.BytesIO(body)) as im:
                photographs.append(Photograph(folder.name, body, im.width, im.height))
        except OSError:
            continue
    if not photographs:
        raise FileNotFoundError(f"no photograph in {folder}")
    return photographs


def what_is_wrong(body: bytes, photograph: Photograph) -> str | None:
    """Check a reply: it has to be a picture, of the same size, in colour.

    A JPEG is decoded at an eighth of its size: enough to see colour, and little work for a machine
    that the server may share.
    """
    try:
        with Image.open(io.BytesIO(body)) as im:
            size = im.size
            im.draft("RGB", (im.width // 8, im.height // 8))
            small = im.convert("YCbCr")
    except (OSError, SyntaxError):
        return "no picture"
    if size != (photograph.width, photograph.height):
        return "another size"
    extremes = np.abs(np.array(ImageStat.Stat(small).mean[1:]) - 128)
    spread = np.array(ImageStat.Stat(small).stddev[1:])
    return "grey" if float((extremes + spread).max()) < GREY else None

"""Photographs for load tests: scikit-image's own samples, grey, in a stated mix of sizes."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageStat
from skimage import data

# Megapixels -> share of the requests: scans for the web, old cameras' files, and a modern scan
MIX = {0.3: 0.6, 3.0: 0.3, 12.0: 0.1}
SAMPLES = ("astronaut", "chelsea", "coffee")  # those that come with the package
QUALITY = 90  # of the JPEGs sent
GREY = 1.0  # mean chroma, in 8-bit levels of YCbCr, below which a reply counts as not coloured


@dataclass(frozen=True, eq=False)
class Photograph:
    """A file to post, and the size that has to come back."""

    name: str
    body: bytes
    width: int
    height: int


def load_mix(mix: dict[float, float] | None = None) -> tuple[list[Photograph], list[float]]:
    """Make the photographs of a mix, once, before anything is timed.

    Args:
        mix: megapixels -> share of the requests.

    Returns:
        The photographs, and how likely each is to be the next.
    """
    photographs, shares = [], []
    for megapixels, share in (mix or MIX).items():
        for name in SAMPLES:
            im = Image.fromarray(getattr(data, name)()).convert("L")
            scale = (megapixels * 1e6 / (im.width * im.height)) ** 0.5
            size = (round(im.width * scale), round(im.height * scale))
            file = io.BytesIO()
            im.resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=QUALITY)
            label = f"{megapixels:g} MP"
            photographs.append(Photograph(label, file.getvalue(), *size))
            shares.append(share / len(SAMPLES))
    return photographs, [share / sum(shares) for share in shares]


def read_folder(folder: Path) -> tuple[list[Photograph], list[float]]:
    """Read the photographs of a folder, each as likely as any other.

    Raises:
        FileNotFoundError: if it holds none that Pillow reads.
    """
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
    return photographs, [1 / len(photographs)] * len(photographs)


def deck(
    photographs: Sequence[Photograph], shares: Sequence[float], order: random.Random
) -> list[Photograph]:
    """Shuffle the photographs, each as often as its share says beside the rarest.

    Drawn one by one, a few large pictures more or less would change what a short run measures.
    """
    rarest = min(shares)
    cards = [
        photograph
        for photograph, share in zip(photographs, shares, strict=True)
        for _ in range(round(share / rarest))
    ]
    order.shuffle(cards)
    return cards


def what_is_wrong(body: bytes, photograph: Photograph) -> str | None:
    """Hold a reply against what was posted: a picture, of the same size, in colour.

    A JPEG is decoded at an eighth of its size: enough to see colour, and little work for the
    machine that the server may share.
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

"""Pictures made by the tests."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIDE = 64  # of the tests' small networks


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W) uint8: soft shapes from dark to light, so that JPEG keeps them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """A file of these pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def opened(body: bytes) -> Image.Image:
    """The picture in these bytes, decoded."""
    im = Image.open(io.BytesIO(body))
    im.load()
    return im

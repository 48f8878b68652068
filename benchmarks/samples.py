"""Pictures that the benchmarks work on: photographs as they are, or of any size."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from colorizer import image
from colorizer.image import OutputOptions, Picture, RequestError
from colorizer.pipeline import prepare

NAMES = (
    *("astronaut", "cat", "coffee", "rocket", "stereo_motorcycle"),
    *("camera", "coins", "grass", "brick", "hubble_deep_field"),
)
MOST = 32  # photographs of a folder
SIDE = 384  # that they are shrunk to
ASPECT = 4 / 3


def photographs(folder: Path | None) -> list[NDArray[np.uint8]]:
    """Read at most MOST photographs of a folder, evenly spread, or scikit-image's samples.

    Raises:
        OSError: if there are fewer than two that can be read.
    """
    if folder is None:
        from skimage import data

        found = [getattr(data, name)() for name in NAMES]
        return [shrink(one[0] if isinstance(one, tuple) else one) for one in found]
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    pictures = []
    for path in paths[:: max(1, len(paths) // MOST)]:
        try:
            pictures.append(shrink(image.read(path.read_bytes()).pixels))
        except RequestError:
            continue
    if len(pictures) < 2:
        raise OSError(f"{folder} holds fewer than two photographs that can be read")
    return pictures[:MOST]


def shrink(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Bring the longer side to SIDE at most."""
    scale = min(1.0, SIDE / max(pixels.shape[:2]))
    size = (max(1, round(scale * pixels.shape[1])), max(1, round(scale * pixels.shape[0])))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def batch(pictures: list[NDArray[np.uint8]], side: int, count: int) -> Tensor:
    """(count, 1, side, side) L of photographs, over and over where there are fewer."""
    some = [prepare(Picture(one), side).small for one in pictures[:count]]
    return torch.stack([some[i % len(some)] for i in range(count)])


def size_of(megapixels: float) -> tuple[int, int]:
    """Width and height of so many megapixels, 4 to 3."""
    height = (1e6 * megapixels / ASPECT) ** 0.5
    return max(1, round(height * ASPECT)), max(1, round(height))


def large(width: int, height: int) -> NDArray[np.uint8]:
    """(H, W, 3) uint8: a photograph, mirrored on and on, so that it stays as detailed as it is."""
    from skimage import data

    one = data.astronaut()
    down, right = max(0, height - one.shape[0]), max(0, width - one.shape[1])
    mirrored = np.pad(one, ((0, down), (0, right), (0, 0)), mode="symmetric")
    return np.ascontiguousarray(mirrored[:height, :width])


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG as the library writes it by default."""
    return image.write(pixels, OutputOptions())

"""Photographs in a folder -> what went in, a split, a prior, and crops of L and ab."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from tqdm import tqdm

from colorizer import gamut, image, lab
from training.config import TrainConfig

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp"}

# A photograph without any |a| or |b| above this teaches nothing about colour (Zhang 2016).
GREY_AB = 5.0


@dataclass
class Survey:
    """What a folder holds: training and validation photographs, and those left out, with why."""

    train: list[Path] = field(default_factory=list)
    validation: list[Path] = field(default_factory=list)
    skipped: dict[Path, str] = field(default_factory=dict)
    prior: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(gamut.bins())))

    def summary(self) -> str:
        """One line for people."""
        return (
            f"{len(self.train)} photographs to train on, {len(self.validation)} held out, "
            f"{len(self.skipped)} left out (broken or grey)"
        )


def find_photographs(folder: Path) -> list[Path]:
    """List the photographs below a folder, sorted.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise FileNotFoundError(f"no photographs ({', '.join(sorted(SUFFIXES))}) below {folder}")
    return found


def survey(folder: Path, validation: float) -> Survey:
    """Look at every photograph once: leave out the broken and the grey, split, count colours.

    The split is by the hash of the content, so it survives renaming, and copies of a file fall on
    the same side.

    Raises:
        FileNotFoundError: if no photograph of the folder can be trained on.
    """
    result = Survey()
    paths = find_photographs(folder)
    for path in tqdm(paths, desc="looking at photographs", file=sys.stderr, mininterval=2):
        data = path.read_bytes()
        try:
            rgb = read_rgb(data)
        except image.RequestError as error:
            result.skipped[path] = str(error)
            continue
        ab = lab.rgb_to_lab(shrink(rgb, 64))[..., 1:]
        if np.abs(ab).max() <= GREY_AB:
            result.skipped[path] = "grey"
            continue
        if is_held_out(data, validation):
            result.validation.append(path)
        else:
            result.train.append(path)
            index = gamut.encode(torch.from_numpy(ab).movedim(-1, 0)[None]).numpy().ravel()
            result.prior += np.bincount(index, minlength=len(result.prior))
    if not result.train:
        raise FileNotFoundError(f"no colour photograph that can be read below {folder}")
    result.prior /= result.prior.sum()
    return result


def is_held_out(data: bytes, share: float) -> bool:
    """Tell from a file's content whether it belongs to the held-out share."""
    return int.from_bytes(hashlib.sha256(data).digest()[:4], "big") / 2**32 < share


def read_rgb(data: bytes) -> NDArray[np.uint8]:
    """Read a photograph as (H, W, 3) uint8.

    Raises:
        RequestError: if it cannot be read.
    """
    pixels = image.read(data).pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Crop number n of an endless stream: (L (1, S, S), ab (2, S, S)), float32.

    The stream goes through all photographs in a new order each time round; order, crop and
    degradation follow from the seed and n alone, so a resumed run sees what it would have seen.
    """

    def __init__(self, paths: Sequence[Path], config: TrainConfig, augment: bool = True) -> None:
        self.paths, self.config, self.augment = list(paths), config, augment

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        time_round, place = divmod(number, len(self.paths))
        order = np.random.default_rng([self.config.seed, time_round]).permutation(len(self.paths))
        path = self.paths[order[place] if self.augment else place]
        rgb = read_rgb(path.read_bytes())
        side = self.config.side
        if not self.augment:
            return to_tensors(shrink(rgb, side))
        rng = np.random.default_rng([self.config.seed, number, 1])
        lightness, ab = to_tensors(random_crop(rgb, side, self.config.crop, rng))
        if rng.random() < self.config.degrade:
            lightness = torch.from_numpy(degrade(lightness[0].numpy(), rng))[None]
        return lightness, ab


class Stream(Sampler[int]):
    """The numbers of one chunk of `Crops`."""

    def __init__(self, start: int, count: int) -> None:
        self.numbers = range(start, start + count)

    def __iter__(self) -> Iterator[int]:
        return iter(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)


def shrink(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize to a square, averaging the pixels that fall together."""
    return np.asarray(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


def to_tensors(rgb: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """(S, S, 3) uint8 -> L (1, S, S), ab (2, S, S), float32."""
    planes = torch.from_numpy(lab.rgb_to_lab(rgb)).movedim(-1, 0).contiguous()
    return planes[:1], planes[1:]


def random_crop(
    rgb: NDArray[np.uint8], side: int, smallest: float, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Cut out a random part, of a random shape, mirrored or not, at side x side."""
    height, width = rgb.shape[:2]
    area = rng.uniform(smallest, 1) * height * width
    aspect = np.exp(rng.uniform(-0.29, 0.29)) * width / height  # up to 4:3 of the picture's own
    w = min(width, max(1, round(float(np.sqrt(area * aspect)))))
    h = min(height, max(1, round(float(np.sqrt(area / aspect)))))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    part = rgb[top : top + h, left : left + w]
    if rng.random() < 0.5:
        part = part[:, ::-1]
    return shrink(np.ascontiguousarray(part), side)


def degrade(lightness: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """Fade, blur, grain and compress (S, S) L, 0..100, as time, lenses and scanners do."""
    x = lightness / 100
    x = x ** np.exp(rng.uniform(-0.4, 0.4))  # exposure
    low, high = rng.uniform(0, 0.2), rng.uniform(0.75, 1)  # faded blacks and whites
    x = low + (high - low) * x
    if rng.random() < 0.5:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.3, 1.5))
    if rng.random() < 0.5:
        x = x + rng.normal(0, rng.uniform(0.005, 0.04), x.shape)
    if rng.random() < 0.3:  # scans and copies of copies
        levels = (np.clip(x, 0, 1) * 255).astype(np.uint8)
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(15, 70))]
        file = cv2.imencode(".jpg", levels, quality)[1]
        x = np.asarray(cv2.imdecode(file, cv2.IMREAD_GRAYSCALE), np.float32) / 255
    return np.asarray(np.clip(x, 0, 1) * 100, np.float32)

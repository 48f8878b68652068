"""Photographs -> crops of L and ab, some of them degraded as old photographs are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from colorizer import lab
from evaluation.photographs import Part, Photograph, read_rgb, shrink
from training.config import TrainConfig


class Crops(Dataset[tuple[Tensor, Tensor]]):
    """Crop number n of an endless stream: (L (1, S, S), ab (2, S, S)), float32.

    The stream goes through all photographs in a new order each time round; order, crop and
    degradation follow from the seed and n alone, so a resumed run sees what it would have seen.
    Each of several processes has a stream of its own, through its own part of the photographs.
    """

    def __init__(
        self,
        photographs: Sequence[Photograph],
        config: TrainConfig,
        augment: bool = True,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.part = Part(photographs, rank, ranks)
        self.photographs = list(self.part)
        self.config, self.augment, self.rank, self.ranks = config, augment, rank, ranks
        self._order: tuple[int, NDArray[np.intp]] = (-1, np.arange(0))

    def __len__(self) -> int:
        return len(self.photographs)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        side = self.config.side
        if not self.augment:
            return to_tensors(shrink(read_rgb(self.photographs[number].read_bytes()), side))
        time_round, place = divmod(number, len(self.photographs))
        if self._order[0] != time_round:
            self._order = time_round, self.part.order(self.config.seed, time_round)
        rgb = read_rgb(self.photographs[self._order[1][place]].read_bytes())
        rng = np.random.default_rng([self.config.seed, number * self.ranks + self.rank, 1])
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
    """Tone, fade, blur, grain and compress (S, S) L, 0..100, as time, lenses and scanners do."""
    x: NDArray[Any] = lightness / 100
    x = x ** np.exp(rng.uniform(-0.4, 0.4))  # exposure
    if rng.random() < 0.3:
        x = tone(x, rng)
    if rng.random() < 0.2:  # a flat negative, or a print in a dim light
        middle = rng.uniform(0.35, 0.65)
        x = middle + rng.uniform(0.3, 0.7) * (x - middle)
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


def tone(x: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """What sepia leaves of (S, S) L, 0..1: a print in brown on yellowed paper, taken as L again.

    A toned print is coloured, but the network gets lightness alone; in it, toning is a curve:
    paper that is no longer white, and silver that turned from black to brown.
    """
    ink = np.array([rng.uniform(20, 70), rng.uniform(10, 45), rng.uniform(0, 25)])
    paper = np.array([rng.uniform(220, 255), rng.uniform(200, 240), rng.uniform(150, 215)])
    steps = np.linspace(0, 1, 256)[:, None]
    curve = lab.rgb_to_lightness(np.rint(ink + steps * (paper - ink)).astype(np.uint8)[None])[0]
    return np.asarray(np.interp(x, steps[:, 0], curve / 100))

"""Photographs to train and measure on: finding, reading and splitting them."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from colorizer import image
from colorizer.errors import UserError

# A photograph with no |a| or |b| above this counts as grey (Zhang 2016).
GREY_AB = 5.0


@dataclass(frozen=True)
class Member:
    """A photograph in a shard, read directly at its offset."""

    shard: Path
    name: str
    offset: int
    size: int

    def read_bytes(self) -> bytes:
        """Read the photograph's file."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    def __str__(self) -> str:
        return f"{self.shard}:{self.name}"


Photograph = Path | Member


def find_photographs(folder: Path) -> list[Path]:
    """List the photographs below a folder, sorted.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = sorted(
        p for p in folder.rglob("*") if p.suffix.lower() in image.SUFFIXES and p.is_file()
    )
    if not found:
        raise FileNotFoundError(
            f"no photographs ({', '.join(sorted(image.SUFFIXES))}) below {folder}"
        )
    return found


def find_shards(folder: Path) -> list[Path]:
    """List the shards in a folder, sorted; none for a folder of photographs."""
    return sorted(folder.glob("*.tar"))


def list_shard(shard: Path) -> list[Member]:
    """List the photographs of a shard, in its order; only headers are read.

    Raises:
        UserError: if it is not a whole tar file.
    """
    members = []
    try:
        with tarfile.open(shard, "r:") as archive:  # not compressed: members are read in place
            for entry in archive:
                if entry.isfile() and Path(entry.name).suffix.lower() in image.SUFFIXES:
                    members.append(Member(shard, entry.name, entry.offset_data, entry.size))
    except tarfile.TarError as error:
        raise UserError(f"{shard} is not a whole, uncompressed tar file: {error}") from None
    return members


def find(folder: Path) -> list[Photograph]:
    """List a folder's photographs, or those of the shards in it, where it has some.

    Raises:
        FileNotFoundError: if there is none.
        UserError: if a shard cannot be read.
    """
    shards = find_shards(folder)
    if not shards:
        return list(find_photographs(folder))
    found: list[Photograph] = [member for shard in shards for member in list_shard(shard)]
    if not found:
        raise FileNotFoundError(f"the shards in {folder} hold no photographs")
    return found


def read_rgb(data: bytes) -> NDArray[np.uint8]:
    """Read a photograph as (H, W, 3) uint8.

    Raises:
        RequestError: if it cannot be read.
    """
    pixels = image.read(data).pixels
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def reduce(planes: NDArray[Any], longer: int) -> NDArray[Any]:
    """Reduce (H, W, C) to a longer side of at most so many pixels, averaging pixels."""
    height, width = planes.shape[:2]
    scale = min(1.0, longer / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(planes, size, interpolation=cv2.INTER_AREA), planes.dtype)


def shrink(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resize to a square, averaging the pixels that fall together."""
    return np.asarray(cv2.resize(rgb, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


HELD_OUT = 0.03  # share of the photographs, by default


def is_held_out(data: bytes, share: float) -> bool:
    """Tell from a file's content whether it belongs to the held-out share."""
    return int.from_bytes(hashlib.sha256(data).digest()[:4], "big") / 2**32 < share

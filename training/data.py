"""Photographs as squares of uint8, all in memory or read from disk when needed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from colorizer.errors import UserError
from evaluation.photographs import Member, Photograph, read_rgb, shrink

_SHARE = 0.5  # of the free memory that photographs may take


class Photographs(Dataset[Tensor]):
    """Photograph number n of one rank's endless stream, as (3, T, T) uint8.

    Of a folder, a rank gets every n-th photograph; of shards, every n-th shard. Each epoch goes
    through them in a new order, shard by shard, which depends on the seed alone, so a resumed run
    sees the same.

    Args:
        photographs: all of them.
        stored: T, the side that each is squashed to.
        seed: of the order.
        rank: of this process.
        ranks: processes in all.
        in_memory: whether items are indices into what `load` returns.

    Raises:
        UserError: if there is nothing for a rank.
    """

    def __init__(
        self,
        photographs: Sequence[Photograph],
        stored: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
        in_memory: bool = False,
    ) -> None:
        shards: dict[Path, list[Photograph]] = {}
        for photograph in photographs:
            if isinstance(photograph, Member):
                shards.setdefault(photograph.shard, []).append(photograph)
        if shards and len(shards) < ranks:
            raise UserError(
                f"{len(shards)} shards are too few for {ranks} processes: make smaller ones "
                "(python -m training.shards --most)"
            )
        self.groups = list(shards.values())[rank::ranks] or [list(photographs[rank::ranks])]
        self.photographs = [photograph for group in self.groups for photograph in group]
        if not self.photographs:
            raise UserError(f"{len(photographs)} photographs are too few for {ranks} processes")
        self.stored, self.seed, self.in_memory = stored, seed, in_memory
        self._order = -1, self.order(0)

    def __len__(self) -> int:
        return len(self.photographs)

    def order(self, epoch: int) -> NDArray[np.intp]:
        """The order of one epoch, as indices into `photographs`."""
        rng = np.random.default_rng([self.seed, epoch])
        if len(self.groups) == 1:
            return rng.permutation(len(self))
        starts = np.cumsum([0, *map(len, self.groups)])
        groups = rng.permutation(len(self.groups))
        return np.concatenate([starts[g] + rng.permutation(len(self.groups[g])) for g in groups])

    def __getitem__(self, number: int) -> Tensor:
        epoch, place = divmod(number, len(self))
        if self._order[0] != epoch:
            self._order = epoch, self.order(epoch)
        chosen = int(self._order[1][place])
        if self.in_memory:
            return torch.tensor(chosen)
        return square(self.photographs[chosen], self.stored)

    def load(self, device: torch.device) -> Tensor:
        """Read all photographs of this process: (N, 3, T, T) uint8 on a device."""
        loaded = torch.empty((len(self), 3, self.stored, self.stored), dtype=torch.uint8)

        def read(place: int) -> None:
            loaded[place] = square(self.photographs[place], self.stored)

        with ThreadPoolExecutor() as threads:
            places = threads.map(read, range(len(self)))
            for _ in tqdm(places, "reading", len(self), file=sys.stderr, mininterval=2):
                pass
        return loaded.to(device)


def square(photograph: Photograph, side: int) -> Tensor:
    """Read a photograph, squashed to a square: (3, side, side) uint8."""
    rgb = shrink(read_rgb(photograph.read_bytes()), side)
    return torch.from_numpy(rgb).movedim(-1, 0).contiguous()


def fits(count: int, stored: int, device: torch.device) -> bool:
    """Whether so many photographs fit in a device's memory, beside what training needs."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available  # caches of files count as free
    return count * 3 * stored**2 < _SHARE * free

"""Make WebDataset shards from a folder of photographs: python -m training.shards --help

A shard is a plain tar file of many photographs. Reading shards one after the other suits disks and
networks that would choke on millions of small files.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import webdataset
from tqdm import tqdm

from colorizer.commands.run import command_parser, run_command
from colorizer.files import written_whole
from evaluation.photographs import Photograph, find_shards, read_rgb, shrink
from training.config import TrainConfig
from training.survey import SIDES, SURVEY, Survey, survey, to_json, write_left_out

_SLACK = 64 * 1024  # bytes of a shard beside its photographs


@dataclass(frozen=True)
class Limits:
    """How shards are written.

    Attributes:
        most: photographs in a shard, at most.
        mib: size of a shard, at most, in MiB.
        stored: side to squash photographs to, as WebP; 0 keeps their files as they are.
    """

    most: int = 1000
    mib: float = 1024.0
    stored: int = 0


def make_shards(
    photos: Path, out: Path, validation: float, min_colorfulness: float, limits: Limits
) -> Survey:
    """Write the photographs that can be trained on into shards, the held-out ones into their own.

    The folder also gets the survey, so that training needn't examine every photograph. It appears
    whole or not at all.

    Args:
        photos: folder of photographs.
        out: folder to make; it must not exist.
        validation: share to hold out.
        min_colorfulness: colorfulness below which a photograph is not trained on.
        limits: of a shard.

    Raises:
        FileExistsError: if there is such a folder.
        FileNotFoundError: if no photograph of the folder can be trained on.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder")
    if find_shards(photos):
        raise FileExistsError(f"{photos} holds shards already")
    found = survey(photos, validation, min_colorfulness)
    settings = {"validation": validation, "min_colorfulness": min_colorfulness}
    with written_whole(out) as beside:
        beside.mkdir()
        for side in SIDES:
            if photographs := getattr(found, side):
                setattr(found, side, write_side(beside, side, photographs, limits))
        (beside / SURVEY).write_text(to_json(found, beside, settings))
        write_left_out(beside, found)
    return found


def write_side(
    folder: Path, side: str, photographs: Sequence[Photograph], limits: Limits
) -> list[Photograph]:
    """Write one side's shards; returns the photographs under their names in these."""
    renamed: list[Photograph] = []
    # Shuffled: neighbours in a folder are often alike, those in a shard must not be.
    order = np.random.default_rng(0).permutation(len(photographs))
    with webdataset.ShardWriter(
        str(folder / f"{side}-%06d.tar"),
        maxcount=limits.most,
        maxsize=limits.mib * 2**20 - _SLACK,
        verbose=0,
    ) as writer:
        for number in tqdm(order, f"{side} shards", file=sys.stderr, mininterval=2):
            photograph = photographs[number]
            key, body = f"{side}-{len(renamed):09d}", photograph.read_bytes()
            suffix = Path(photograph.name).suffix[1:].lower()
            if limits.stored:
                suffix, body = "webp", squashed(body, limits.stored)
            writer.write({"__key__": key, suffix: body})
            renamed.append(folder / f"{key}.{suffix}")
    return renamed


def squashed(body: bytes, side: int) -> bytes:
    """Squash a photograph to a square, as training does first of all: a small WebP file."""
    rgb = shrink(read_rgb(body), side)
    quality = [cv2.IMWRITE_WEBP_QUALITY, 62]
    return bytes(cv2.imencode(".webp", rgb[..., ::-1], quality)[1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and make shards; returns the exit code."""
    parser = command_parser("python -m training.shards", (__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--photos", type=Path, required=True, help="folder of colour photographs")
    add("--out", type=Path, required=True, help="folder to make")
    add("--most", type=int, default=1000, help="photographs in a shard (default: %(default)s)")
    add("--mib", type=float, default=1024, help="largest shard, in MiB (default: %(default)s)")
    add("--stored", type=int, default=0, help="squash photographs to this side, as square WebP")
    for name in ("validation", "min_colorfulness"):
        default, option = getattr(TrainConfig(), name), f"--{name.replace('_', '-')}"
        add(option, type=float, default=default, help="as in training (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.most < 1:
        parser.error(f"--most must be 1 or more, not {options.most}")
    if options.mib < 1:
        parser.error(f"--mib must be 1 or more, not {options.mib:g}")

    def work() -> int:
        limits = Limits(options.most, options.mib, options.stored)
        given = options.photos, options.out, options.validation, options.min_colorfulness
        found = make_shards(*given, limits)
        print(
            f"{found.summary()}\nwrote {len(find_shards(options.out))} shards into {options.out}/"
        )
        return 0

    return run_command("shards", work)


if __name__ == "__main__":
    sys.exit(main())

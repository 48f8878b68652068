"""Examine every photograph once: what is left out and why, the split, the prior."""

from __future__ import annotations

import json
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import imagehash
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from colorizer import gamut, lab
from colorizer.errors import RequestError, UserError
from colorizer.files import write_whole
from evaluation.bins import encode
from evaluation.metrics import colorfulness
from evaluation.photographs import (
    GREY_AB,
    Member,
    Photograph,
    find,
    is_held_out,
    read_rgb,
    shrink,
)

# Bits of 64 in which the perceptual hashes of near-duplicates may differ. Of some 70 photographs,
# copies that were resized to 0.7, darkened or compressed to quality 40 differed in at most 4, those
# that lost 2% at two edges in at most 8; of 162,165 pairs of different ones none in 10 or fewer.
NEAR = 8

SURVEY = "survey.json"  # in a folder of shards, and in a run's
SIDES = ("train", "validation")


@dataclass
class Survey:
    """What a folder holds.

    Attributes:
        train: photographs to train on.
        validation: photographs held out.
        skipped: reasons of those left out, by name.
        prior: (Q,) share of the training photographs' pixels in each bin.
    """

    train: list[Photograph] = field(default_factory=list)
    validation: list[Photograph] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    prior: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(gamut.bins())))

    def summary(self) -> str:
        """One line for people."""
        kinds = Counter(reason(why) for why in self.skipped.values())
        whys = ", ".join(f"{count} {why}" for why, count in kinds.most_common())
        return (
            f"{len(self.train)} photographs to train on, {len(self.validation)} held out, "
            f"{len(self.skipped)} left out{f' ({whys})' if whys else ''}"
        )


def reason(why: str) -> str:
    """The kind of a reason: "grey", "pale", "one hue", "near-duplicate", or "broken"."""
    kind = why.split(":")[0]
    return kind if kind in ("grey", "pale", "one hue", "near-duplicate") else "broken"


@dataclass(frozen=True)
class Examined:
    """What was found about one photograph; `why` is empty unless it is left out."""

    why: str
    held_out: bool = False
    counts: NDArray[np.uint16] | None = None  # (Q,) pixels of a small copy by bin
    hashes: tuple[int, ...] = ()  # of the photograph, and mirrored


def examine(photograph: Photograph, share: float, min_colorfulness: float) -> Examined:
    """Examine one photograph."""
    try:
        data = photograph.read_bytes()
        rgb = read_rgb(data)
    except (RequestError, OSError) as error:
        return Examined(str(error))
    small = shrink(rgb, 64)
    ab = np.ascontiguousarray(lab.rgb_to_lab(small)[..., 1:])
    if np.abs(ab).max() <= GREY_AB:
        return Examined("grey")
    held_out = is_held_out(data, share)
    if min_colorfulness and not held_out:
        if (lively := colorfulness(small)) < min_colorfulness:
            return Examined(f"pale: colorfulness {lively:.1f}, below {min_colorfulness:g}")
        if has_one_hue(ab):
            return Examined("one hue")
    bins = encode(torch.from_numpy(ab).movedim(-1, 0)[None]).numpy().ravel()
    shrunk = Image.fromarray(rgb).convert("L").resize((32, 32), Image.Resampling.BOX)
    mirrored = shrunk.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return Examined(
        "",
        held_out,
        # 64 x 64 pixels fit in 16 bits; millions of photographs do not, in 64.
        np.bincount(bins, minlength=len(gamut.bins())).astype(np.uint16),
        tuple(perceptual_hash(one) for one in (shrunk, mirrored)),
    )


def has_one_hue(ab: NDArray[np.float32]) -> bool:
    """Whether a photograph, (H, W, 2) ab, has a single hue: a toned print, a room in warm light.

    From such a network learns to paint everything in the mean colour of photographs.
    """
    mean = ab.mean(axis=(0, 1))
    share = np.hypot(*mean) / np.hypot(ab[..., 0], ab[..., 1]).mean()
    spread = np.sqrt(ab.var(axis=(0, 1)).sum())
    brownish = share > 0.95 and mean[1] > 0
    return bool((share > 0.9 and spread < 10) or (brownish and spread < 14))


def perceptual_hash(picture: Image.Image) -> int:
    """64 bits that resizing, compression and other shades change little."""
    return int(str(imagehash.phash(picture)), 16)


def survey(
    folder: Path, validation: float, min_colorfulness: float = 0.0, kept: Path | None = None
) -> Survey:
    """Examine every photograph once: leave out the broken and the grey, split, count colours.

    The split is by a hash of the content, so it survives renaming, and copies of a file fall on
    the same side. What resembles a held-out photograph, mirrored or not, is not trained on.

    Args:
        folder: of photographs, or of shards; those of `training.shards` hold their survey.
        validation: share to hold out.
        min_colorfulness: colorfulness below which a photograph is not trained on.
        kept: file to keep the survey in, and to read it from when a run is resumed.

    Raises:
        FileNotFoundError: if no photograph of the folder can be trained on.
        UserError: if a shard can't be read, or was made with other settings.
    """
    photographs = find(folder)
    settings = {"validation": validation, "min_colorfulness": min_colorfulness}
    for path in (folder / SURVEY, kept):
        if path is not None and path.is_file():
            return read_survey(path, folder, photographs, settings)
    with ThreadPoolExecutor() as threads:
        found = threads.map(lambda one: examine(one, validation, min_colorfulness), photographs)
        bar = tqdm(found, "examining", len(photographs), file=sys.stderr, mininterval=2)
        result = split(list(zip(photographs, bar, strict=True)))
    if not result.train:
        raise FileNotFoundError(f"no colour photograph to train on below {folder}")
    if kept is not None:
        write_whole(kept, to_json(result, folder, settings).encode())
    return result


def split(examined: list[tuple[Photograph, Examined]]) -> Survey:
    """Split photographs, without near-duplicates of those held out, and count their colours."""
    result = Survey()
    held_out = np.array(
        [one.hashes for _, one in examined if one.held_out and not one.why], np.uint64
    )
    for photograph, one in examined:
        why = one.why
        if not why and not one.held_out and len(held_out):
            apart = int(np.bitwise_count(held_out.ravel() ^ np.uint64(one.hashes[0])).min())
            if apart <= NEAR:
                why = f"near-duplicate: {apart} of 64 bits from a photograph held out"
        if why or one.counts is None:
            result.skipped[str(photograph)] = why
            continue
        (result.validation if one.held_out else result.train).append(photograph)
        if not one.held_out:
            result.prior += one.counts
    result.prior /= max(1.0, result.prior.sum())
    return result


def write_left_out(folder: Path, found: Survey) -> None:
    """Write left-out.txt: a line for each picture left out, with the reason."""
    lines = [f"{name}\t{why}\n" for name, why in found.skipped.items()]
    write_whole(folder / "left-out.txt", "".join(lines).encode())


def name_in(photograph: Photograph, folder: Path) -> str:
    """A photograph's name in a folder, or in the shards of a folder."""
    if isinstance(photograph, Member):
        return photograph.name
    return photograph.relative_to(folder).as_posix()


def to_json(found: Survey, folder: Path, settings: dict[str, float]) -> str:
    """Serialize a survey; photographs by their names in a folder."""
    sides = {side: [name_in(p, folder) for p in getattr(found, side)] for side in SIDES}
    values = {**asdict(found), **sides, "prior": found.prior.tolist(), "settings": settings}
    return json.dumps(values, ensure_ascii=False)


def read_survey(
    path: Path, folder: Path, photographs: list[Photograph], settings: dict[str, float]
) -> Survey:
    """Read what `to_json` wrote, instead of examining millions of photographs again.

    Raises:
        UserError: if it was made with other settings, or a photograph is gone.
    """
    values = json.loads(path.read_text())
    if (made := values.pop("settings")) != settings:
        raise UserError(
            f"{path} was made with {made}, not {settings}: use the same settings, or delete it "
            "(for shards: make them again)"
        )
    by_name = {name_in(p, folder): p for p in photographs}
    try:
        sides = {side: [by_name[name] for name in values[side]] for side in SIDES}
    except KeyError as error:
        raise UserError(f"{folder} lacks {error}, which {path} names") from None
    return Survey(**{**values, **sides, "prior": np.array(values["prior"])})

"""How far a graph is from its network, on photographs; export writes only what is near enough.

The reference is the checkpoint's network as it is, eager, in float32, one picture at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from colorizer import gamut, image, smooth
from colorizer.engines import Eager
from colorizer.errors import RequestError, UserError
from colorizer.finish import finish, prepare
from colorizer.graph import Engine, Precision
from colorizer.image import Picture
from colorizer.recipe import Recipe
from colorizer.unet import UNet

UInt8 = NDArray[np.uint8]
Float = NDArray[np.float32]

BATCHES = (1, 8)
SIDE = 384  # photographs are made this large at most; colour differences are as visible there
MOST = 32  # photographs taken from a folder
# Those that come with scikit-image: people, animals, things, textures; three of them grey.
SAMPLES = (
    *("astronaut", "cat", "coffee", "rocket", "stereo_motorcycle"),
    *("camera", "coins", "grass"),
)

# Largest differences allowed; one level of 8 bits is about 0.4 ab units, and a ΔE00 of 1 is just
# visible. float32 engines differ by the order of their sums alone. An int8 graph is judged by its
# distance from true colours (docs/export.md); here only what is broken is refused.
TOLERANCE: dict[Precision, dict[str, float]] = {
    "float32": {"max_ab": 0.01, "mean_ab": 0.001, "delta_e": 0.01},
    "float16": {"max_ab": 1.0, "mean_ab": 0.1, "delta_e": 0.2},
    "int8": {"max_ab": 20.0, "mean_ab": 1.0, "delta_e": 4.0},
}


class NoPhotographs(UserError):
    """A folder without any photograph that can be read, or no package to take them from."""


@dataclass(frozen=True)
class Row:
    """One comparison of a graph, at one batch size, with the eager network.

    Attributes:
        name: of the checkpoint.
        head: its head.
        engine: what ran the graph.
        precision: of the graph.
        batch: pictures at a time.
        max_ab: largest |difference| of ab, in ab units.
        mean_ab: mean |difference|.
        delta_e: CIEDE2000 of the finished picture, its mean, for the worst of the photographs.
        finite: whether every value of the head's output was a number.
    """

    name: str
    head: str
    engine: str
    precision: Precision
    batch: int
    max_ab: float
    mean_ab: float
    delta_e: float
    finite: bool

    def over(self) -> str:
        """Say what is over the tolerance; empty if nothing is."""
        if not self.finite:
            return f"gives values that are no numbers at batch {self.batch}"
        for measure, limit in TOLERANCE[self.precision].items():
            value = getattr(self, measure)
            if not value <= limit:
                return f"is off by {measure} = {value:.3g} at batch {self.batch}, over {limit}"
        return ""


class Reference:
    """The eager network's results on the photographs, to compare graphs with."""

    def __init__(self, net: UNet, recipe: Recipe, photographs: Sequence[UInt8]) -> None:
        self.recipe = recipe
        self._prepared = [prepare(Picture(one), recipe.side) for one in photographs]
        self.lightness = np.stack([one.small for one in self._prepared])  # (N, 1, S, S)
        run = Eager(net)
        self._ab = self._decode(np.concatenate([run(one[None]) for one in self.lightness]))
        self._lab = [self._finished(i, ab) for i, ab in enumerate(self._ab)]

    def _decode(self, output: Float) -> Float:
        output = output[:, : self.recipe.channels]
        if self.recipe.head == "classification":
            how = self.recipe.decoding, self.recipe.temperature
            output = np.stack([gamut.decode(one, gamut.bins(), *how) for one in output])
        pairs = zip(output, self.lightness, strict=True)
        return np.stack([smooth.calmed(ab, seen[0], self.recipe) for ab, seen in pairs])

    def _finished(self, index: int, ab: Float) -> NDArray[np.float64]:
        from skimage.color import rgb2lab

        rgb = finish(self._prepared[index], ab, self.recipe.chroma_gain)
        return np.asarray(rgb2lab(rgb))

    def measure(self, run: Engine, name: str, engine: str, precision: Precision, batch: int) -> Row:
        """Run a graph on all photographs, `batch` at a time, and compare."""
        from skimage.color import deltaE_ciede2000

        count = len(self.lightness)
        starts = range(0, count, batch)
        order = [(start + i) % count for start in starts for i in range(batch)]
        output = np.concatenate([run(self.lightness[order[s : s + batch]]) for s in starts])
        output = output[:count]
        finite = bool(np.isfinite(output).all())
        found = self._decode(output)
        difference = np.abs(found - self._ab)
        delta_e = [float("nan")]
        if finite:  # no picture can be finished of what is no number
            delta_e = [
                float(deltaE_ciede2000(lab, self._finished(i, ab)).mean())
                for i, (lab, ab) in enumerate(zip(self._lab, found, strict=True))
            ]
        return Row(
            name=name,
            head=self.recipe.head,
            engine=engine,
            precision=precision,
            batch=batch,
            max_ab=float(difference.max()),
            mean_ab=float(difference.mean()),
            delta_e=max(delta_e),
            finite=finite,
        )


def photographs(folder: Path | None) -> list[UInt8]:
    """Read the photographs of a folder, or without one those that come with scikit-image.

    Returns:
        (H, W) or (H, W, 3) uint8 each, at most SIDE large, at most MOST of them.

    Raises:
        NoPhotographs: if there are none.
    """
    if folder is None:
        from skimage import data

        found = [getattr(data, name)() for name in SAMPLES]
        return [_shrink(one[0] if isinstance(one, tuple) else one) for one in found]
    pictures: list[UInt8] = []
    for path in sorted(folder.rglob("*")):
        if len(pictures) == MOST:
            break
        if path.is_file():
            try:
                pictures.append(_shrink(image.read(path.read_bytes()).pixels))
            except RequestError:
                continue
    if not pictures:
        raise NoPhotographs(f"{folder} holds no photograph that can be read")
    return pictures


def _shrink(pixels: UInt8) -> UInt8:
    height, width = pixels.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(scale * width)), max(1, round(scale * height)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.uint8)


def table(rows: Sequence[Row]) -> str:
    """Lay the matrix out as Markdown."""
    lines = [
        "| checkpoint | engine | precision | batch | max \\|Δab\\| | mean \\|Δab\\| | ΔE00, worst "
        "picture | numbers | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        limits = TOLERANCE[row.precision]
        lines.append(
            f"| {row.name} | {row.engine} | {row.precision} | {row.batch} | "
            f"{row.max_ab:.2g} of {limits['max_ab']} | {row.mean_ab:.2g} of {limits['mean_ab']} | "
            f"{row.delta_e:.2g} of {limits['delta_e']} | {'all' if row.finite else 'NaN'} | "
            f"{'over' if row.over() else 'equal'} |"
        )
    return "\n".join(lines)

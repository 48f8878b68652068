"""Compare ways to turn what both networks say into colour, all at the same colorfulness.

python -m evaluation.decodings CLASSIFICATION REGRESSION --photos FOLDER

Paler pictures have a lower ΔE00 and fewer stains, whatever made them. So each way gets the gain at
which its mean colorfulness is that of the regression network as served.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from colorizer import gamut, lab
from colorizer.commands.run import command_parser, run_command
from colorizer.errors import RequestError, UserError
from colorizer.finish import finish
from colorizer.options import Options
from colorizer.smooth import calmed
from evaluation.command import add_photographs, markdown, picked
from evaluation.methods import Colours, Processes, eager_pipeline, networks
from evaluation.metrics import Measured, Scores, Truth, colorfulness, measure
from evaluation.photographs import Photograph, read_rgb

Float = NDArray[np.float32]
T = TypeVar("T")

SERVED = "regression, as served"
GAINS = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # at which colorfulness is measured
RANGES = 4  # of lightness, each with its own bins
FADED = 0.03  # length of the mean hue below which colour fades (Larsson 2016)
MEASURES = ("ΔE00", "ΔE00 coloured", "AuC", "stains", "bleeding", "cast")


def decodings(colours: Colours) -> dict[str, Float]:
    """Decode one photograph in each way: (2, S, S) ab, before the gain."""
    classes, regression = (colours.pipelines[name].graph.recipe for name in ("c", "r"))
    side, pipeline = regression.side, colours.pipelines["r"]
    prepared = colours.prepared(side)
    seen = prepared.small[0]
    raw, logits = colours.output("r", side), colours.output("c", side)

    def annealed(logits: Float) -> Float:
        ab = gamut.decode(logits, gamut.bins(), "annealed-mean", classes.temperature)
        return calmed(ab, seen, classes)

    denoised = cv2.fastNlMeansDenoising(np.rint(seen * 2.55).astype(np.uint8), None, 7)
    (clean,) = pipeline.run(denoised[None, None].astype(np.float32) / np.float32(2.55))
    other = np.float32(classes.chroma_gain / max(regression.chroma_gain, 0.1))
    served, by_classes = calmed(raw, seen, regression), annealed(logits)
    return {
        SERVED: served,
        "with the whole cast": calmed(raw, seen, replace(regression, cast=1.0)),
        "without smoothing": calmed(raw, seen, replace(regression, smoothing=0.0)),
        "without the knee": calmed(raw, seen, replace(regression, chroma_knee=0.0)),
        "mean of three sides and mirrored": several(colours),
        "lightness denoised for the network": pipeline.decode(prepared, clean, Options()),
        "classification, as served": by_classes,
        "median chroma, mean hue": calmed(median_chroma(logits, 0.5), seen, classes),
        "bins by lightness": annealed(possible(logits, seen)),
        "mean of both": (served + by_classes * other) * np.float32(0.5),
    }


def several(colours: Colours) -> Float:
    """The mean of regression over its side, 32 less and 32 more, each also mirrored."""
    recipe = colours.pipelines["r"].graph.recipe
    size, found = (recipe.side, recipe.side), []
    for side in (recipe.side - 32, recipe.side, recipe.side + 32):
        for mirrored in (False, True):
            planes = np.moveaxis(colours.output("r", side, mirrored), 0, -1)
            found.append(cv2.resize(np.ascontiguousarray(planes), size))
    mean = np.moveaxis(np.mean(found, axis=0), -1, 0).astype(np.float32)
    return calmed(mean, colours.prepared(recipe.side).small[0], recipe)


def median_chroma(logits: Float, temperature: float) -> Float:
    """Decode to the median of chroma and the mean of hue, faded where hue is undecided.

    Source: Larsson, Maire, Shakhnarovich 2016, "Learning representations for automatic
    colorization", section 3.3.

    Args:
        logits: (Q, S, S).
        temperature: by which they are divided.

    Returns:
        (2, S, S), ab units.
    """
    shares = np.exp((logits - logits.max(axis=0)) / temperature)
    shares /= shares.sum(axis=0)
    a, b = gamut.bins().T
    chroma, hue = np.hypot(a, b), np.exp(1j * np.arctan2(b, a))
    order = np.argsort(chroma)
    middle = (np.cumsum(shares[order], axis=0) < 0.5).sum(axis=0)
    mean = np.tensordot(hue * (chroma > 0), shares, axes=1)
    length = np.abs(mean)
    faded = chroma[order][middle] * np.minimum(length / FADED, 1) / np.maximum(length, 1e-9)
    return np.stack([faded * mean.real, faded * mean.imag]).astype(np.float32)


def possible(logits: Float, lightness: Float) -> Float:
    """Rule out bins that no colour of sRGB has at about a pixel's lightness.

    Source: Weng et al. 2022, "CT2", section 3.3, which takes the bins seen in training instead.
    """
    exists = np.moveaxis(_exists()[_range_of(lightness)], -1, 0)
    return np.where(exists, logits, np.float32(-1e4))


def _range_of(lightness: Float) -> NDArray[np.int64]:
    """The range, 0..RANGES - 1, that each L belongs to."""
    return np.clip((lightness * (RANGES / 100)).astype(np.int64), 0, RANGES - 1)


@lru_cache(maxsize=1)
def _exists() -> NDArray[np.bool_]:
    """(RANGES, Q): whether a colour of a bin exists in a range of lightness."""
    steps = np.linspace(0, 255, 64).astype(np.uint8)
    planes = lab.rgb_to_lab(np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3))
    ranges = _range_of(planes[0, :, 0])
    found = np.zeros((RANGES, len(gamut.bins())), np.bool_)
    near = np.rint(planes[0, :, 1:] / gamut.GRID) * gamut.GRID
    number = {tuple(centre): i for i, centre in enumerate(gamut.bins().tolist())}
    pairs = np.unique(np.column_stack([ranges, near]), axis=0)
    for which, a, b in pairs.tolist():
        if (a, b) in number:
            found[int(which), number[a, b]] = True
    return found


def _open(path: Photograph) -> tuple[Truth, Colours] | None:
    try:
        truth = Truth(read_rgb(path.read_bytes()))
    except (RequestError, OSError) as error:
        print(f"left out: {path}: {error}", file=sys.stderr)
        return None
    return truth, Colours(truth.rgb, dict(zip("cr", networks(), strict=True)))


def _liveliness(path: Photograph) -> dict[str, list[float]] | None:
    """Each way's colorfulness at GAINS."""
    if (opened := _open(path)) is None:
        return None
    colours = opened[1]
    prepared = colours.prepared(colours.pipelines["r"].graph.recipe.side)

    def curve(ab: Float) -> list[float]:
        return [colorfulness(finish(prepared, ab, gain)) for gain in GAINS]

    return {way: curve(ab) for way, ab in decodings(colours).items()}


def _compare(path: Photograph, gains: Mapping[str, float]) -> dict[str, Measured] | None:
    """Measure each way with its gain."""
    if (opened := _open(path)) is None:
        return None
    truth, colours = opened
    prepared = colours.prepared(colours.pipelines["r"].graph.recipe.side)
    return {
        way: measure(finish(prepared, ab, gains[way]), truth)
        for way, ab in decodings(colours).items()
    }


def equal_gains(found: Sequence[Mapping[str, Sequence[float]]], gain: float) -> dict[str, float]:
    """The gain of each way, at which it is as colourful as SERVED is at `gain`."""
    curves = {way: np.mean([one[way] for one in found], axis=0) for way in found[0]}
    wanted = np.interp(gain, GAINS, curves[SERVED])
    return {way: float(np.interp(wanted, curve, GAINS)) for way, curve in curves.items()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and compare; returns the exit code."""
    parser = command_parser("python -m evaluation.decodings", __doc__)
    parser.add_argument("classification", type=Path)
    parser.add_argument("regression", type=Path)
    add_photographs(parser)
    options = parser.parse_args(arguments)
    return run_command("decodings", lambda: compare(options))


def compare(options: argparse.Namespace) -> int:
    """Find the gains, measure, and print the table."""
    paths, checkpoints = picked(options), {"c": options.classification, "r": options.regression}
    recipes = {name: eager_pipeline(path).graph.recipe for name, path in checkpoints.items()}
    if [recipes[name].head for name in "cr"] != ["classification", "regression"]:
        raise UserError("name a classification network first, then a regression network")
    if recipes["c"].side != recipes["r"].side:
        raise UserError("both networks must be served at the same side")
    with Processes(checkpoints, min(options.workers, len(paths))) as processes:

        def each(work: Callable[..., T | None], title: str, *more: object) -> list[T]:
            jobs = [(path, *more) for path in paths]
            bar = tqdm(processes.each(work, jobs), title, len(jobs), file=sys.stderr, mininterval=2)
            return [one for one in bar if one is not None]

        lively = each(_liveliness, "colorfulness")
        if not lively:
            raise FileNotFoundError("none of the photographs can be read")
        gains = equal_gains(lively, recipes["r"].chroma_gain)
        measured = each(_compare, "measuring", gains)
    rows = []
    for way, gain in gains.items():
        row = Scores([one[way] for one in measured]).row()
        digits = [4 if name == "AuC" else 3 if name == "bleeding" else 2 for name in MEASURES]
        cells = [f"{row[name]:.{n}f}" for name, n in zip(MEASURES, digits, strict=True)]
        rows.append([way, f"{gain:.2f}", f"{row['CF']:.1f}", *cells])
    print(f"{len(measured)} photographs\n\n{markdown(['', 'gain', 'CF', *MEASURES], rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

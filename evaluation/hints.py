"""Measure what hints are worth: reveal true colours of a few places, one after the other.

python -m evaluation.hints model_store/*.safetensors --photos PHOTOS

The places are the middles of superpixels of L, so no colour decides where they lie. The first is
drawn by the photograph's number; each next one is the furthest from those before, or with --random
it is drawn too.

With --reach: how much one hint changes the picture, by the distance from it. The hint differs from
the network's own colour by so many ab units, in a direction that the photograph's number draws.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.color import deltaE_ciede2000
from skimage.metrics import peak_signal_noise_ratio
from skimage.segmentation import slic
from tqdm import tqdm

from colorizer import lab
from colorizer.commands.run import command_parser, run_command
from colorizer.errors import RequestError
from colorizer.finish import prepare
from colorizer.hints import RADIUS, Hint
from colorizer.image import Picture
from colorizer.options import Options
from colorizer.pipeline import Pipeline
from evaluation import methods
from evaluation.command import add_photographs, named, picked
from evaluation.metrics import DRAWS, UInt8
from evaluation.photographs import Photograph, read_rgb

COUNTS = (0, 1, 2, 3, 5, 10, 20, 50)
SUPERPIXELS = 150  # three times as many as hints, so that their places are not a grid
MEASURES = ("PSNR", "ΔE00", "ms")
RINGS = (0, 0.05, 0.1, 0.25, 0.5, 0.75)  # in shorter sides; the last one has no end
WRONG = (10, 20, 40, 60)  # ab units that a hint differs by


def places(lightness: NDArray[np.float32], seed: int, random: bool) -> NDArray[np.intp]:
    """Choose where colours are revealed: (N, 2) rows and columns, in order.

    Source of the superpixels: Achanta et al. 2012, "SLIC superpixels compared to state-of-the-art
    superpixel methods".

    Args:
        lightness: (H, W) float32 L.
        seed: of the first place, and with `random` of all.
        random: whether to draw the next place, rather than take the furthest.
    """
    height, width = lightness.shape
    scale = min(1.0, 160 / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(lightness, size, interpolation=cv2.INTER_AREA)
    labels = slic(small / 100, SUPERPIXELS, compactness=0.1, channel_axis=None, start_label=0)
    middles = []
    for label in np.unique(labels):
        inside = np.pad((labels == label).astype(np.uint8), 1)
        depth = cv2.distanceTransform(inside, cv2.DIST_L2, 3)[1:-1, 1:-1]
        middles.append(np.unravel_index(depth.argmax(), depth.shape))
    found = ((np.array(middles) + 0.5) / scale).astype(np.intp)
    found = np.minimum(found, np.array(lightness.shape) - 1)
    found = found[np.random.default_rng(seed).permutation(len(found))]
    if random:
        return np.asarray(found[: max(COUNTS)], np.intp)
    order, away = [0], np.hypot(*(found - found[0]).T)
    while len(order) < min(len(found), max(COUNTS)):
        order.append(int(away.argmax()))
        away = np.minimum(away, np.hypot(*(found - found[order[-1]]).T))
    return np.asarray(found[order], np.intp)


def revealed(truth: NDArray[np.float32], at: NDArray[np.intp]) -> tuple[Hint, ...]:
    """Tell the true colours of some places: each the mean of what a hint's radius covers."""
    height, width = truth.shape[:2]
    radius = max(1, round(RADIUS * min(height, width)))
    window = 2 * radius + 1
    mean = np.asarray(cv2.blur(truth[..., 1:], (window, window)), np.float32)
    light = np.ascontiguousarray(truth[at[:, 0], at[:, 1], 0])[None]
    rgb = lab.lab_to_rgb(light, np.ascontiguousarray(mean[at[:, 0], at[:, 1]])[None])[0]
    return tuple(
        Hint((((column + 0.5) / width, (row + 0.5) / height),), tuple(colour))
        for (row, column), colour in zip(at.tolist(), rgb.tolist(), strict=True)
    )


def measure(
    path: Photograph, number: int, spreads: Sequence[float], random: bool
) -> NDArray[np.float64] | str:
    """One photograph's measures: (networks, spreads, COUNTS, MEASURES); or why there are none."""
    try:
        rgb = read_rgb(path.read_bytes())
    except (RequestError, OSError) as error:
        return str(error)
    truth = lab.rgb_to_lab(rgb)
    hints = revealed(truth, places(np.ascontiguousarray(truth[..., 0]), number, random))
    return np.array([_curves(rgb, truth, one, hints, spreads) for one in methods.networks()])


def _curves(
    rgb: UInt8,
    truth: NDArray[np.float32],
    pipeline: Pipeline,
    hints: tuple[Hint, ...],
    spreads: Sequence[float],
) -> list[list[tuple[float, float, float]]]:
    """For each spread and count: the measures."""
    prepared = prepare(Picture(rgb), pipeline.graph.recipe.side)
    (output,) = pipeline.run(prepared.small[None])
    curves: list[list[tuple[float, float, float]]] = []
    for spread in spreads:
        curves.append([])
        for count in COUNTS:
            options = replace(Options(spread=spread), hints=hints[:count])
            start = time.process_time()
            found = pipeline.finished(prepared, output, options)
            spent = 1000 * (time.process_time() - start)
            curves[-1].append((*compare(rgb, truth, found), spent))
    return curves


def reach(
    path: Photograph, number: int, spreads: Sequence[float], random: bool
) -> NDArray[np.float64] | str:
    """Mean |change| of ab, (networks, spreads, WRONG, RINGS); NaN: no such distance."""
    try:
        rgb = read_rgb(path.read_bytes())
    except (RequestError, OSError) as error:
        return str(error)
    height, width = rgb.shape[:2]
    lightness = np.ascontiguousarray(lab.rgb_to_lab(rgb)[..., 0])
    row, column = places(lightness, number, random)[0].tolist()
    across = np.hypot(np.arange(height)[:, None] - row, np.arange(width) - column)
    ring = np.digitize(across / min(height, width), RINGS) - 1
    angle = np.random.default_rng(number).uniform(0, 2 * np.pi)
    found = np.full((len(methods.networks()), len(spreads), len(WRONG), len(RINGS)), np.nan)
    for i, pipeline in enumerate(methods.networks()):
        prepared = prepare(Picture(rgb), pipeline.graph.recipe.side)
        (output,) = pipeline.run(prepared.small[None])
        plain = lab.rgb_to_lab(pipeline.finished(prepared, output, Options()))[..., 1:]
        for j, spread in enumerate(spreads):
            for k, wrong in enumerate(WRONG):
                away = np.array([np.cos(angle), np.sin(angle)], np.float32)
                ab = plain[row, column] + np.float32(wrong) * away
                said = lab.lab_to_rgb(lightness[row, column].reshape(1, 1), ab.reshape(1, 1, 2))
                hint = Hint((((column + 0.5) / width, (row + 0.5) / height),), tuple(said[0, 0]))
                options = replace(Options(spread=spread), hints=(hint,))
                changed = lab.rgb_to_lab(pipeline.finished(prepared, output, options))[..., 1:]
                moved = np.hypot(*np.moveaxis(changed - plain, -1, 0))
                for one in np.unique(ring):
                    found[i, j, k, one] = moved[ring == one].mean()
    return found


def reach_table(names: Sequence[str], spreads: Sequence[float], found: NDArray[np.float64]) -> str:
    """Format (photographs, networks, spreads, WRONG, RINGS) as Markdown."""
    ends = [f"–{end:g}" for end in RINGS[1:]] + [f"more than {RINGS[-1]:g}"]
    lines = [f"| network, spread, wrong by | {' | '.join(ends)} |", "|---|" + "---|" * len(RINGS)]
    for i, name in enumerate(names):
        for j, spread in enumerate(spreads):
            for k, wrong in enumerate(WRONG):
                cells = [f"{value:.1f}" for value in np.nanmean(found[:, i, j, k], axis=0)]
                lines.append(f"| {name}, {spread:g}, {wrong} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compare(rgb: UInt8, truth: NDArray[np.float32], found: UInt8) -> tuple[float, float]:
    """PSNR over sRGB, in dB, at most 100; and mean ΔE00 of every second pixel of every second row.

    Args:
        rgb: (H, W, 3), the photograph.
        truth: (H, W, 3), the same in Lab.
        found: (H, W, 3).
    """
    psnr = 100.0
    if not np.array_equal(rgb, found):
        psnr = min(psnr, float(peak_signal_noise_ratio(rgb, found)))
    seen = lab.rgb_to_lab(np.ascontiguousarray(found[::2, ::2]))
    return psnr, float(deltaE_ciede2000(truth[::2, ::2], seen).mean())


def table(names: Sequence[str], spreads: Sequence[float], found: NDArray[np.float64]) -> str:
    """Format the measures as Markdown.

    Args:
        names: of the networks.
        spreads: that were measured.
        found: (photographs, networks, spreads, COUNTS, MEASURES).
    """
    n = len(found)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS) / n
    head = "".join(f" | {count}" for count in COUNTS)
    lines = [f"| network, spread, measure{head} |", "|---|" + "---|" * len(COUNTS)]
    gained = found - found[:, :, :, :1]
    for i, name in enumerate(names):
        for j, spread in enumerate(spreads):
            for k, measure in enumerate(MEASURES):
                values = found[:, i, j, :, k] if k < 2 else np.maximum(gained[:, i, j, :, k], 0)
                cells = [f"{value:.2f}" for value in values.mean(axis=0)]
                if measure == "ms":
                    cells = [f"{value:.0f}" for value in np.median(values, axis=0)]
                if measure == "PSNR":
                    gains = gained[:, i, j, :, k]
                    low, high = np.percentile(drawn @ gains, (2.5, 97.5), axis=0)
                    cells[1:] = [
                        f"{cell} (+{mean:.2f}, {a:.2f}–{b:.2f})"
                        for cell, mean, a, b in zip(
                            cells, gains.mean(axis=0), low, high, strict=True
                        )
                    ][1:]
                lines.append(f"| {name}, {spread:g}, {measure} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and measure; returns the exit code."""
    parser = command_parser("python -m evaluation.hints", __doc__, as_written=True)
    parser.add_argument("checkpoint", type=Path, nargs="+")
    add_photographs(parser)
    parser.add_argument(
        "--spread",
        type=float,
        nargs="+",
        default=[Options().spread],
        help="how far hints reach, 0 to 1 (default: %(default)s)",
    )
    parser.add_argument(
        "--random", action="store_true", help="draw all places, rather than spread them"
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--reach", action="store_true", help="what one hint changes, by the distance from it"
    )
    what.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    return run_command("hints", lambda: evaluate(options))


def evaluate(options: argparse.Namespace) -> int:
    """Measure what the options name, and print it."""
    paths, checkpoints = picked(options), named(options.checkpoint)
    jobs = [(path, number, options.spread, options.random) for number, path in enumerate(paths)]
    found: dict[str, NDArray[np.float64]] = {}
    with methods.Processes(checkpoints, min(options.workers, len(paths))) as processes:
        bar = tqdm(
            processes.each(reach if options.reach else measure, jobs),
            "hints",
            len(jobs),
            file=sys.stderr,
            mininterval=2,
        )
        for path, one in zip(paths, bar, strict=True):
            if isinstance(one, str):
                print(f"left out: {path}: {one}", file=sys.stderr)
            else:
                found[str(path)] = one
    if not found:
        raise FileNotFoundError("none of the photographs can be read")
    every = np.array(list(found.values()))
    if options.json:
        print(json.dumps(_document(list(checkpoints), options.spread, found), indent=1))
    else:
        formatted = (reach_table if options.reach else table)(
            list(checkpoints), options.spread, every
        )
        print(f"{len(found)} photographs\n\n{formatted}")
    return 0


def _document(
    names: Sequence[str], spreads: Sequence[float], found: Mapping[str, NDArray[np.float64]]
) -> dict[str, object]:
    return {
        "hints": COUNTS,
        "measures": MEASURES,
        "networks": names,
        "spreads": spreads,
        "photographs": {name: np.round(values, 4).tolist() for name, values in found.items()},
    }


if __name__ == "__main__":
    sys.exit(main())

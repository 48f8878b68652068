"""Hints: a person says what colour a place has, and the thing there gets that colour.

A hint is a place and a colour. The difference between that colour and the network's is carried to
the rest of the picture in two parts:

- the cast: a small difference, or one that several hints share, is likely to be wrong all over, so
  it spreads widely, most to places of like lightness and contrast and like predicted colour. A
  large difference that no other hint shares is the thing's own, and counts the less here, the
  larger it is and the fewer hints there are to hold other places. What differences have in common
  with the predicted colours is part of it: a network that is too vivid where hints are is likely
  to be so elsewhere. The cast is estimated as a Gaussian process with robust noise;
- the object: what the cast leaves fills the thing around the hint. Distance is measured along the
  shortest way that avoids edges of lightness, and by how unlike the two places are; what is near is
  filled, what is far keeps its colour, and between hints their colours blend.

How unlike two places are is told by lightness, by predicted colours, and by channels that the
network gives beside these: training.alike fits them so that what is alike is wrong alike.

The settings were fitted to photographs with known colours; docs/hints.md has what they achieve.

Sources: Levin, Lischinski, Weiss 2004, "Colorization using optimization", has the idea that colour
spreads up to edges of lightness; Yatziv, Sapiro 2006, "Fast image and video colorization using
chrominance blending", the blending by distances along the shortest way; Rasmussen, Williams 2006,
"Gaussian processes for machine learning", the estimate of the cast (sections 2.2 and, of its linear
part, 4.2.2); Lange, Little, Taylor 1989, "Robust statistical modeling using the t distribution",
that outliers count less.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from colorizer import gamut, lab
from colorizer.errors import BadOption

Float = NDArray[np.float32]
Colour = tuple[int, int, int]  # sRGB, 0..255

MOST_HINTS = 200
MOST_POINTS = 500  # of all hints together
MOST_ANCHORS = 200  # pixels of the small copy that the colours are spread from
MOST_CHARACTERS = 1 << 18  # of the JSON text: 500 points take a tenth of this
CHOICES = 6  # colours that are named as likely
RADIUS, LARGEST_RADIUS = 0.02, 0.1
SPREAD = 0.5  # default of the option: fills objects
_KEYS = ("x", "y", "points", "color", "colour", "neutral", "radius")

# What follows was fitted by gradient to 169 photographs and both networks, none of which
# docs/hints.md measures on: for the largest gain in PSNR with 1, 5 and 10 hints, less a penalty
# for what one wrong by 40 or 60 changes far away. _STEEP is larger than that would give: an
# object's edge ends what fills it.

# How far from the truth the networks are, by L, relative to the middle: near black and white sRGB
# has few colours.
_AMPLITUDE = np.array(
    [[0, 9, 22, 50, 70, 83, 96, 100], [0.43, 0.87, 1.14, 1.47, 1.48, 1.22, 0.72, 0.54]], np.float32
)
CAST = 10.2  # ab units, at the default spread: a lone difference twice as large is no cast
ROUNDS = 4  # of estimating the cast and then which hints are outliers of it
NOISE = 0.36  # variance of a hint's difference that no other place shares; of all, about 2
# How much of the cast is linear in L, a and b, and from where.
_LINES = np.array([[1 / 108], [1 / 19.6], [1 / 19.6]], np.float32)
_MIDDLE = np.array([[50], [0], [0]], np.float32)
_STEEP = 6.0  # how much longer a way gets by an edge as strong as most in the picture
SHARPNESS = 1.8  # of the border between two hints of one object
_SPOT = 12.0  # L: around a hint's place its colour is met where L differs by less

# What the differences of two places are divided by, to say how unlike these are: the mean L of a
# small and of a larger window around, the predicted a and b, and the contrast of L.
_UNLIKE_CAST = (217, 78, 27, 71, 62)
_UNLIKE_OBJECT = (57, 107, 24, 22, 35)
# How many of the channels that tell what is alike there are of each kind; after them come lines.
ALIKE = (8, 8, 2)
# Likewise distances, in shorter sides: photographs are layered, so a cast reaches further sideways.
_REACH_X, _REACH_Y = 7.9, 1.8
_REACH = 2.5  # of an object, along the way, in shorter sides at spread 1


@dataclass(frozen=True)
class Hint:
    """A colour, and the place or the stroke that has it.

    Attributes:
        points: (x, y) each, shares of the picture's width and height from the upper left corner.
        colour: None keeps the place grey.
        radius: of the place or the stroke, as a share of the picture's shorter side.
    """

    points: tuple[tuple[float, float], ...]
    colour: Colour | None
    radius: float = RADIUS

    @property
    def entry(self) -> dict[str, Any]:
        """The hint as `parse` reads it."""
        colour = {"color": f"#{bytes(self.colour).hex()}"} if self.colour else {"neutral": True}
        return {"points": [list(point) for point in self.points], **colour, "radius": self.radius}


def parse(text: str) -> tuple[Hint, ...]:
    """Read hints from JSON: [{"x": 0.41, "y": 0.63, "color": "#7a2f2f", "radius": 0.02}, ...].

    Raises:
        BadOption: naming the first entry that is wrong, and what it should be.
    """
    if len(text) > MOST_CHARACTERS:
        raise BadOption(f"hints have {len(text):,} characters; use at most {MOST_CHARACTERS:,}.")
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        fault = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise BadOption(f"hints are not JSON ({fault!s:.120}); use {EXAMPLE}.") from None
    if not isinstance(entries, list):
        raise BadOption(f"hints are {_kind(entries)}, not a list; use {EXAMPLE}.")
    if len(entries) > MOST_HINTS:
        raise BadOption(f"hints are {len(entries):,}; use at most {MOST_HINTS}.")
    hints = tuple(_hint(number, entry) for number, entry in enumerate(entries, start=1))
    if (points := sum(len(hint.points) for hint in hints)) > MOST_POINTS:
        raise BadOption(f"hints have {points:,} points in all; use at most {MOST_POINTS}.")
    return hints


EXAMPLE = '[{"x": 0.41, "y": 0.63, "color": "#7a2f2f"}]'


def _hint(number: int, entry: Any) -> Hint:
    where = f"hint {number}"
    if not isinstance(entry, dict):
        raise BadOption(f"{where} is {_kind(entry)}, not an object; use {EXAMPLE[1:-1]}.")
    for key in entry:
        if key not in _KEYS:
            raise BadOption(f"{where} has {key!r:.40}; known are {', '.join(_KEYS)}.")
    if "points" in entry:
        if "x" in entry or "y" in entry:
            raise BadOption(f"{where} has both points and x, y; use one of them.")
        points = entry["points"]
        if not isinstance(points, list) or not points:
            raise BadOption(f"{where}: points are {_kind(points)}; use [[x, y], ...].")
        if any(not isinstance(point, list) or len(point) != 2 for point in points):
            raise BadOption(f"{where}: each of its points is [x, y], two numbers from 0 to 1.")
    else:
        if "x" not in entry or "y" not in entry:
            raise BadOption(f"{where} has no place; give x and y, or points.")
        points = [[entry["x"], entry["y"]]]
    return Hint(
        tuple((_number(x, 0, 1, where, "x"), _number(y, 0, 1, where, "y")) for x, y in points),
        _colour(where, entry),
        _number(entry.get("radius", RADIUS), 0.001, LARGEST_RADIUS, where, "radius"),
    )


def _colour(where: str, entry: dict[str, Any]) -> Colour | None:
    neutral = entry.get("neutral", False)
    if not isinstance(neutral, bool):
        raise BadOption(f"{where}: neutral is {_kind(neutral)}; use true or false.")
    given = [entry[key] for key in ("color", "colour") if key in entry]
    if len(given) + neutral != 1:
        raise BadOption(f'{where}: give either a color, as "#7a2f2f", or "neutral": true.')
    if neutral:
        return None
    if not isinstance(given[0], str) or not re.fullmatch(r"#?[0-9a-fA-F]{6}", given[0]):
        shown = repr(given[0])[:40] if isinstance(given[0], str) else _kind(given[0])
        raise BadOption(f'{where}: color is {shown}; use six hex digits, as "#7a2f2f".')
    red, green, blue = bytes.fromhex(given[0].removeprefix("#"))
    return red, green, blue


def _number(value: Any, low: float, high: float, where: str, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        shown = _kind(value)
    elif low <= value <= high:  # false for NaN
        return float(value)
    else:
        shown = f"{value:.6g}" if isinstance(value, float) else "too large or too small"
    raise BadOption(f"{where}: {name} is {shown}; use a number from {low} to {high}.")


def _kind(value: Any) -> str:
    """Name a JSON value's type: the value itself may be of any size."""
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")


@dataclass(frozen=True)
class Spot:
    """A round place whose colour is known.

    Attributes:
        x: of its centre, 0..1; so is y.
        radius: as a share of the picture's shorter side.
        ab: its colour, within sRGB at the lightness of the centre.
        hint: number of the hint that it belongs to.
    """

    x: float
    y: float
    radius: float
    ab: tuple[float, float]
    hint: int = 0


def spots(hints: Sequence[Hint], lightness: Float) -> list[Spot]:
    """Lay spots along the hints; one that lies in the middle of a later one is left out.

    Args:
        hints: of the picture.
        lightness: (H, W) float32, the picture's own L.
    """
    height, width = lightness.shape
    size, shorter = np.array([width, height], np.float64), min(height, width)
    strokes = [np.array(hint.points) * size for hint in hints]
    lengths = [float(np.hypot(*np.diff(stroke, axis=0).T).sum()) for stroke in strokes]
    kept: list[tuple[float, float, int]] = []
    centres, radii = np.empty((0, 2)), np.empty(0)
    for number in reversed(range(len(hints))):
        radius = hints[number].radius * shorter
        for place in _along(strokes[number], max(radius / 2, sum(lengths) / MOST_POINTS)):
            if not (np.hypot(*(centres - place).T) < radii).any():
                kept.append((*place, number))
                centres, radii = np.vstack([centres, place]), np.append(radii, radius / 2)
    columns, rows = np.minimum(centres, size - 1).astype(int).T
    a, b = _wanted([hints[number].colour for *_, number in kept], lightness[rows, columns])
    found = [
        Spot(x / width, y / height, hints[number].radius, (float(a[i]), float(b[i])), number)
        for i, (x, y, number) in enumerate(kept)
    ]
    return found[::-1]


def _wanted(colours: Sequence[Colour | None], lightness: Float) -> tuple[Float, Float]:
    """The ab of N colours, with as much chroma as sRGB has at (N,) L; None is grey."""
    rgb = np.array([colour or (0, 0, 0) for colour in colours], np.uint8)
    a, b = lab.rgb_to_lab(rgb[None])[0, :, 1:].T
    return lab.into_gamut(lightness, a, b)[1:]


def _along(stroke: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """(N, 2) corners of a line -> (M, 2) places along it, at most a step apart."""
    pieces = [stroke[:1]]
    for begin, end in pairwise(stroke):
        count = math.ceil(float(np.hypot(*(end - begin))) / step)
        pieces.append(begin + (end - begin) * (np.arange(1, count + 1) / max(count, 1))[:, None])
    return np.concatenate(pieces)


@dataclass(frozen=True)
class Layout:
    """Known colours in a small picture, and how near they are to its P pixels, by their places.

    Attributes:
        at: (n,) the pixels whose colours are known.
        missing: (n, 2) what their predicted ab lacks.
        near_cast: (n, P) squared distances, by place, L and colour, for the cast; so is
            near_object, for what fills an object. 1 is where a reach ends.
        amplitude: (P,) how wrong a network usually is, by L.
        lines: (3, P) of L, a and b, of which the cast is linear.
        usual: size of a usual cast.
    """

    at: NDArray[np.intp]
    missing: NDArray[np.float64]
    near_cast: Float
    near_object: Float
    amplitude: Float
    lines: Float
    usual: float


def lay_out(
    lightness: Float, ab: Float, known: Sequence[Spot], spread: float = SPREAD, aspect: float = 1.0
) -> Layout:
    """Measure how near the pixels of a picture are to known ones; arguments as `spread_spots`."""
    side = lightness.shape[0]
    shorter = min(aspect, 1.0)
    step_x, step_y = aspect / shorter / side, 1 / shorter / side  # of a pixel, in shorter sides
    features = _features(lightness, ab)
    cells = _cells(known, side)
    columns, rows = np.array(list(cells)).T
    at = rows * side + columns
    x, y = columns.astype(np.float32), rows.astype(np.float32)
    straight = np.hypot(
        (np.arange(side, dtype=np.float32) - x[:, None])[:, None] * np.float32(step_x / _REACH_X),
        (np.arange(side, dtype=np.float32) - y[:, None])[..., None] * np.float32(step_y / _REACH_Y),
    ).reshape(len(at), -1)
    way = _geodesic(_resistance(lightness), rows, columns, step_x, step_y).reshape(len(at), -1)
    way /= np.float32(_REACH * spread)
    return Layout(
        at=at,
        missing=np.array(list(cells.values())) - ab.reshape(-1, 2)[at],
        near_cast=straight * straight + _unlike(_UNLIKE_CAST, features, at),
        near_object=way * way + _unlike(_UNLIKE_OBJECT, features, at),
        amplitude=np.interp(features[0], *_AMPLITUDE).astype(np.float32),
        lines=(features[[0, 2, 3]] - _MIDDLE) * _LINES,
        # Other hints hold their own places: the more there are, the larger a cast one may tell of.
        usual=CAST * spread / SPREAD * math.sqrt(len({one.hint for one in known})),
    )


def spread_spots(
    lightness: Float,
    ab: Float,
    known: Sequence[Spot],
    spread: float = SPREAD,
    aspect: float = 1.0,
    alike: Float | None = None,
) -> Float:
    """Find how predicted colours are to change, so that they agree with known ones.

    Args:
        lightness: (S, S) float32, the network's small copy of L.
        ab: (S, S, 2) float32, predicted.
        known: spots, at least one.
        spread: how far a colour reaches within its object, as a share of the shorter side; 0
            changes nothing beyond the spots themselves.
        aspect: width / height of the picture, which the small copy has not.
        alike: (K, S, S) float32 of the network, in the order of ALIKE: by how much two places
            differ in the first, they are unlike for the cast, and in the second, for an object; the
            logarithms of how large a cast and what differs from it usually are; and of what the
            cast is linear.

    Returns:
        (S, S, 2) float32, to add to ab.
    """
    if spread == 0:
        return np.zeros_like(ab)
    if alike is None:
        alike = np.empty((0, *lightness.shape), np.float32)
    found = lay_out(lightness, ab, known, spread, aspect)
    at, missing = found.at, found.missing
    channels = alike.reshape(-1, lightness.size)
    for_cast, for_object, sizes, more = np.split(channels, np.cumsum(ALIKE))
    lines = np.concatenate([found.lines, more])
    cast_size = object_size = found.amplitude
    if len(sizes):
        cast_size, object_size = found.amplitude * np.exp(np.clip(sizes, -2, 2))
    near_cast = found.near_cast + _apart(for_cast, at)
    change = _cast(near_cast, cast_size, lines, at, missing, found.usual)
    near_object = found.near_object + _apart(for_object, at)
    change += _object(near_object, object_size, at, missing - change.T[at])
    # No place moves further than the hints themselves.
    most, length = np.float32(np.hypot(*missing.T).max()), np.hypot(*change)
    change *= np.minimum(1, most / np.maximum(length, np.float32(1e-6)))
    return np.ascontiguousarray(change.T.reshape(ab.shape), np.float32)


def _cells(known: Sequence[Spot], side: int) -> dict[tuple[int, int], tuple[float, float]]:
    """The colours of pixels of the small copy, at most MOST_ANCHORS; each hint keeps some."""
    every = 0
    while True:
        every += 1
        seen: Counter[int] = Counter()
        cells: dict[tuple[int, int], tuple[float, float]] = {}
        for one in known:  # of two in one pixel, the later
            if seen[one.hint] % every == 0:
                cell = min(int(one.x * side), side - 1), min(int(one.y * side), side - 1)
                cells.pop(cell, None)
                cells[cell] = one.ab
            seen[one.hint] += 1
        if len(cells) <= MOST_ANCHORS:
            return cells


def _features(lightness: Float, ab: Float) -> Float:
    """(5, S * S): means of L over two windows, a, b, and the contrast of L."""
    means = [cv2.blur(lightness, (width, width)) for width in (3, 9)]
    variance = cv2.blur(lightness * lightness, (9, 9)) - means[1] ** 2
    planes = (*means, *cv2.split(ab), np.sqrt(np.maximum(variance, 0)))
    return np.stack([plane.ravel() for plane in planes]).astype(np.float32)


def _cast(
    unlike: Float,
    amplitude: Float,
    lines: Float,
    at: NDArray[np.intp],
    known: NDArray[np.float64],
    usual: float,
) -> Float:
    """Estimate a field whose values are known at some pixels, as a Gaussian process.

    The field is smooth, plus a linear function of L, of predicted a and b, and of what the network
    knows: one that is too vivid, or too warm, at the hints is likely to be so elsewhere. A value
    that is far from what the others say counts less, as under Student's t distribution.

    Args:
        unlike: (n, P), squared, of each known pixel to each pixel; 1 where the reach ends.
        amplitude: (P,), how large the field usually is.
        lines: (K, P), of which it is linear.
        at: (n,) the known pixels.
        known: (n, 2) their values.
        usual: size of a usual cast; must be positive.

    Returns:
        (2, P) float32.
    """
    shared = np.exp(-np.sqrt(unlike))
    shared *= amplitude
    shared *= amplitude[at, None]
    shared += lines[:, at].T @ lines
    among = shared[:, at].astype(np.float64)
    cast = np.zeros_like(known)
    for _ in range(ROUNDS):
        apart = ((known - cast) ** 2).sum(axis=1) / usual**2
        weights = np.linalg.solve(among + np.diag(NOISE + apart), known)  # (n, 2)
        cast = among @ weights
    return np.asarray(weights.T.astype(np.float32) @ shared, np.float32)


def _object(
    unlike: Float, amplitude: Float, at: NDArray[np.intp], known: NDArray[np.float64]
) -> Float:
    """Fill what is near, and like, the pixels whose values are known; arguments as `_cast`."""
    squared = unlike + np.float32(1e-4)
    nearest = squared.min(axis=0)
    weights = (nearest / squared) ** np.float32(SHARPNESS)  # 1 for the nearest, less for others
    filled = 1 / (1 + nearest**3)  # flat on top: 0.98 at half the reach, 0.5 at its end
    filled /= weights.sum(axis=0)
    weights *= amplitude
    weights /= amplitude[at, None]
    return np.asarray((known.T.astype(np.float32) @ weights) * filled, np.float32)


def _unlike(units: Sequence[float], features: Float, at: NDArray[np.intp]) -> Float:
    """(n, P): squared, how unlike each of n pixels every pixel is."""
    total = np.zeros((len(at), features.shape[1]), np.float32)
    for plane, unit in zip(features, units, strict=True):
        apart = (plane[None] - plane[at, None]) * np.float32(1 / unit)
        total += np.multiply(apart, apart, out=apart)
    return total


def _apart(places: Float, at: NDArray[np.intp]) -> Float:
    """(n, P): squared distances of n of the columns of (K, P) from all."""
    sizes = np.einsum("kp,kp->p", places, places)
    found = sizes + sizes[at, None] - 2 * (places[:, at].T @ places)
    return np.asarray(np.maximum(found, 0, out=found), np.float32)


def _resistance(lightness: Float) -> Float:
    """(S, S): how long a unit of way is; 1 where L is flat, more on edges."""
    smooth = cv2.GaussianBlur(lightness, (0, 0), 0.7)
    across = cv2.Sobel(smooth, cv2.CV_32F, 1, 0, scale=1 / 8)
    down = cv2.Sobel(smooth, cv2.CV_32F, 0, 1, scale=1 / 8)
    slope = np.hypot(across, down)
    usual = np.clip(2 * np.median(slope), 0.5, 6)
    return np.asarray(1 + _STEEP * np.minimum((slope / usual) ** 2, 10), np.float32)


def _geodesic(
    resistance: Float, rows: NDArray[np.intp], columns: NDArray[np.intp], dx: float, dy: float
) -> Float:
    """Measure the shortest way from each of n pixels to all others, by sweeps over the grid.

    Args:
        resistance: (S, S), length of a unit of way.
        rows: (n,) of the pixels to start from.
        columns: (n,).
        dx: distance of neighbours in a row; dy: in a column.

    Returns:
        (n, S, S) float32.
    """
    side, count = len(resistance), len(rows)
    ways = np.full((side, count, side), 1e6, np.float32)
    ways[rows, np.arange(count), columns] = 0
    for _ in range(2):  # a way that turns back more often than twice is left too long
        _sweep(ways, resistance, dy, math.hypot(dx, dy))
        ways = np.ascontiguousarray(ways.transpose(2, 1, 0))
        _sweep(ways, np.ascontiguousarray(resistance.T), dx, math.hypot(dx, dy))
        ways = np.ascontiguousarray(ways.transpose(2, 1, 0))
    return np.ascontiguousarray(ways.transpose(1, 0, 2))


def _sweep(ways: Float, resistance: Float, along: float, diagonal: float) -> None:
    """Shorten ways, (S, n, S), by steps from each row to the next, down and then up."""
    side = len(ways)
    half, slant = resistance * np.float32(along / 2), resistance * np.float32(diagonal / 2)
    for order in (range(1, side), range(side - 2, -1, -1)):
        for row in order:
            before = row - order.step
            here, there = ways[row], ways[before]
            np.minimum(here, there + (half[row] + half[before]), out=here)
            right = there[:, :-1] + (slant[row, 1:] + slant[before, :-1])
            left = there[:, 1:] + (slant[row, :-1] + slant[before, 1:])
            np.minimum(here[:, 1:], right, out=here[:, 1:])
            np.minimum(here[:, :-1], left, out=here[:, :-1])


def meet(known: Sequence[Spot], lightness: Float, top: int, side: int, a: Float, b: Float) -> None:
    """Give some rows of the finished ab the colours of the spots: enlarging may have thinned them.

    Args:
        known: the spots.
        lightness: (H, W) float32, of the whole picture.
        top: number of the first row.
        side: of the network's copy, S.
        a: (h, W) float32, changed in place.
        b: (h, W) float32, changed in place.
    """
    rows, columns = lightness.shape
    for one in known:
        x, y = one.x * columns - 0.5, one.y * rows - 0.5
        radius = max(one.radius * min(rows, columns), max(rows, columns) / side)
        left, right = max(0, math.ceil(x - radius)), min(columns, math.floor(x + radius) + 1)
        first = max(top, math.ceil(y - radius))
        last = min(top + len(a), math.floor(y + radius) + 1)
        if first >= last or left >= right:
            continue
        centre = lightness[min(int(one.y * rows), rows - 1), min(int(one.x * columns), columns - 1)]
        down = np.arange(first, last, dtype=np.float32)[:, None] - np.float32(y)
        across = np.arange(left, right, dtype=np.float32) - np.float32(x)
        share = np.clip(2 - np.hypot(down, across) * np.float32(2 / radius), 0, 1)
        unlike = (lightness[first:last, left:right] - centre) * np.float32(1 / _SPOT)
        share *= np.exp(-unlike * unlike / 2)
        for plane, value in zip((a, b), one.ab, strict=True):
            part = plane[first - top : last - top, left:right]
            part += share * (np.float32(value) - part)


def likely(logits: Float, centres: Float, lightness: float, x: float, y: float) -> list[str]:
    """Name the colours that a classifier takes for likely at a place.

    Args:
        logits: (Q, S, S) float32.
        centres: (Q, 2) float32, the bins' ab.
        lightness: of the place, 0..100.
        x: of the place, 0..1; so is y.

    Returns:
        "#rrggbb" each, at most CHOICES, all at this lightness, visibly different, the likeliest
        first.
    """
    side = logits.shape[-1]
    row, column = min(int(y * side), side - 1), min(int(x * side), side - 1)
    around = logits[:, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
    mean = around.reshape(len(logits), -1).mean(axis=1)
    return _distinct(lightness, centres[np.argsort(-mean, kind="stable")])


def variations(ab: Float, lightness: float, x: float, y: float) -> list[str]:
    """Name a regression network's colour at a place, a stronger one, grey, and other hues.

    Such a network knows one colour and no alternatives: only the first is a prediction.

    Args:
        ab: (2, S, S) float32, as the picture is finished from.
        lightness: as `likely`; so are x, y and the result.
    """
    side = ab.shape[-1]
    a, b = ab[:, min(int(y * side), side - 1), min(int(x * side), side - 1)]
    hue, strong = math.atan2(b, a), max(30.0, 1.8 * math.hypot(a, b))
    hues = [hue + math.radians(turn) for turn in (0, 60, -60, 120, -120, 180)]
    others = [(strong * math.cos(one), strong * math.sin(one)) for one in hues]
    return _distinct(lightness, np.array([(a, b), others[0], (0, 0), *others[1:]], np.float32))


def _distinct(lightness: float, ab: Float) -> list[str]:
    """Take the first colours of (N, 2) ab that differ visibly at this lightness, as hex."""
    plane = np.full((1, len(ab)), lightness, np.float32)
    rgb = lab.lab_to_rgb(plane, np.ascontiguousarray(ab[None]))
    shown = lab.rgb_to_lab(rgb)[0, :, 1:]
    chosen: list[int] = []
    for number, one in enumerate(shown):
        apart = [np.hypot(*(one - shown[other])) for other in chosen]
        if len(chosen) < CHOICES and min(apart, default=100) >= 1.5 * gamut.GRID:
            chosen.append(number)
    # Near black and white few colours are left, and near enough to each other to be one.
    return ["#" + rgb[0, number].tobytes().hex() for number in chosen]

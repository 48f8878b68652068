"""Evaluate networks, as they are served and with other recipes, in several processes."""

from __future__ import annotations

import multiprocessing
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from colorizer import engines, lab
from colorizer.errors import RequestError, UserError
from colorizer.finish import Prepared, finish, prepare
from colorizer.image import Picture
from colorizer.options import Options
from colorizer.pipeline import Pipeline
from colorizer.recipe import Recipe
from evaluation.bins import encode
from evaluation.metrics import CHROMA_COLUMNS, Measured, Scores, Truth, UInt8, measure
from evaluation.noticed import mounted
from evaluation.perceptual import Perceptual
from evaluation.photographs import Photograph, read_rgb, shrink

T = TypeVar("T")

CONFIDENCES = 20  # columns of the calibration figure


@dataclass(frozen=True)
class Method:
    """A way to colorize, and a row of the table.

    Attributes:
        name: of the row.
        network: name of the checkpoint; None for one colour all over.
        recipe: how the network is used; None for the checkpoint's own.
        ab: the one colour, where there is no network.
    """

    name: str
    network: str | None = None
    recipe: Recipe | None = None
    ab: tuple[float, float] = (0.0, 0.0)


GREY = Method("grey")


@dataclass
class Result:
    """Results of evaluating methods on photographs.

    Attributes:
        scores: by the method's name.
        paths: the photographs, in the scores' order.
        left_out: those that could not be read, with why.
        truth_chroma: pixels of all truths by chroma, as `Scores.chroma`.
        calibration: by the classifier's name: (CONFIDENCES, 3), by the probability of the most
            likely bin: pixels, their summed probability, and how many were right.
    """

    scores: dict[str, Scores]
    paths: list[Photograph] = field(default_factory=list)
    left_out: dict[Photograph, str] = field(default_factory=dict)
    truth_chroma: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros(CHROMA_COLUMNS, np.int64)
    )
    calibration: dict[str, NDArray[np.float64]] = field(default_factory=dict)


def eager_pipeline(model: Path) -> Pipeline:
    """Serve a checkpoint without exporting it, by its eager network; or an exported graph.

    Raises:
        BadCheckpoint, BadGraph: if it cannot be read.
    """
    return Pipeline(*engines.load(model, "cpu"))


class Colours:
    """One photograph, colorized by several methods; each network sees each input once."""

    def __init__(self, rgb: UInt8, pipelines: Mapping[str, Pipeline]) -> None:
        self.picture, self.pipelines = Picture(rgb), pipelines
        self._kept: dict[object, Any] = {}

    def _once(self, key: object, make: Callable[[], Any]) -> Any:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def prepared(self, side: int) -> Prepared:
        """The photograph's L, and a small copy of this side."""
        kept: Prepared = self._once(side, lambda: prepare(self.picture, side))
        return kept

    def output(self, name: str, side: int, mirrored: bool = False) -> NDArray[np.float32]:
        """What a network says of colours, (C, S, S); mirrored: of the mirrored picture, back."""
        pipeline = self.pipelines[name]
        channels = pipeline.graph.recipe.channels

        def run() -> Any:
            small = self.prepared(side).small[None]
            if not mirrored:
                return pipeline.run(small)[0, :channels]
            return pipeline.run(np.ascontiguousarray(small[..., ::-1]))[0, :channels, :, ::-1]

        return np.asarray(self._once((name, side, mirrored), run))

    def ab(self, name: str, recipe: Recipe, mirrored: bool = False) -> NDArray[np.float32]:
        """(2, S, S) ab by a network, before the chroma gain."""

        def decode() -> Any:
            options = Options(decoding=recipe.decoding, temperature=recipe.temperature)
            output = self.output(name, recipe.side, mirrored)
            return self.pipelines[name].decode(self.prepared(recipe.side), output, options)

        key = name, mirrored, replace(recipe, chroma_gain=1.0)
        return np.asarray(self._once(key, decode))

    def _used(self, method: Method) -> tuple[str, Recipe]:
        """The name of a method's network, and how it is used."""
        assert method.network is not None
        return method.network, method.recipe or self.pipelines[method.network].graph.recipe

    def colour(self, method: Method) -> UInt8:
        """(H, W, 3) uint8: the photograph's lightness, coloured by a method."""
        if method.network is None:
            ab = np.empty((2, 32, 32), np.float32)
            ab[:] = np.reshape(method.ab, (2, 1, 1))
            return finish(self.prepared(32), ab)
        name, recipe = self._used(method)
        return finish(self.prepared(recipe.side), self.ab(name, recipe), recipe.chroma_gain)

    def stability(self, method: Method) -> dict[str, float]:
        """Measure how far ab moves, in ab units, when the network sees the picture otherwise.

        "other side": at sides 32 smaller and larger, mean of both; "mirrored": the picture
        mirrored, its colours mirrored back. One colour all over never moves.

        Source: this project's own; Zhang 2019, "Making convolutional networks shift-invariant
        again", section 4, measures consistency between shifted copies likewise.
        """
        if method.network is None:
            return {"other side": 0.0, "mirrored": 0.0}
        name, recipe = self._used(method)
        here = self.ab(name, recipe)

        def moved(other: NDArray[np.float32]) -> float:
            planes = cv2.resize(np.moveaxis(other, 0, -1).copy(), (recipe.side, recipe.side))
            a, b = np.moveaxis(planes, -1, 0) - here
            return float(np.hypot(a, b).mean()) * recipe.chroma_gain

        sides = [side for side in (recipe.side - 32, recipe.side + 32) if side > 0]
        others = [moved(self.ab(name, replace(recipe, side=side))) for side in sides]
        mirrored = moved(self.ab(name, recipe, mirrored=True))
        return {"other side": float(np.mean(others)), "mirrored": mirrored}

    def calibration(self, name: str, truth: Truth) -> NDArray[np.float64]:
        """Count `Result.calibration` of a classifier, over every fourth pixel and row."""
        side = self.pipelines[name].graph.recipe.side
        logits = torch.from_numpy(self.output(name, side)[None, :, ::4, ::4])
        small = cv2.resize(truth.lab[..., 1:], (side, side), interpolation=cv2.INTER_AREA)
        ab = torch.from_numpy(small[::4, ::4].copy()).movedim(-1, 0)[None]
        likeliest, index = logits.softmax(dim=1).max(dim=1)
        right = (index == encode(ab)).numpy().ravel()
        probability = likeliest.numpy().ravel().astype(np.float64)
        column = np.minimum((probability * CONFIDENCES).astype(int), CONFIDENCES - 1)
        return np.stack(
            [np.bincount(column, w, CONFIDENCES) for w in (None, probability, right)], axis=1
        ).astype(np.float64)


# The networks of a worker process, loaded once.
_pipelines: dict[str, Pipeline] = {}
_perceptual: Perceptual | None = None


def _start(
    checkpoints: Mapping[str, Path],
    perceptual: Collection[str],
    encoder: Path | None,
    alone: bool,
) -> None:
    global _perceptual
    _pipelines.clear()
    _pipelines.update({name: eager_pipeline(path) for name, path in checkpoints.items()})
    _perceptual = Perceptual(perceptual, encoder) if perceptual or encoder else None
    if not alone:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
        torch.set_num_threads(1)  # there is a process for each core
        cv2.setNumThreads(1)


def networks() -> list[Pipeline]:
    """The networks of this process, in the order of `Processes`' checkpoints."""
    return list(_pipelines.values())


class Processes:
    """Worker processes that hold the networks; with one worker, this process.

    Args:
        checkpoints: by name.
        workers: processes.
        perceptual: measures that other networks define, from `perceptual.available`.
        encoder: an ImageNet ResNet-50, for KID.

    Raises:
        BadCheckpoint, BadGraph, FileNotFoundError: if a model or the encoder cannot be read.
        UserError: if other weights cannot.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Path],
        workers: int = 1,
        perceptual: Collection[str] = (),
        encoder: Path | None = None,
    ) -> None:
        self.pool: ProcessPoolExecutor | None = None
        if workers <= 1:
            _start(checkpoints, perceptual, encoder, alone=True)
            return
        # Read everything here first: a worker that can't would die without a clear error.
        for path in checkpoints.values():
            eager_pipeline(path)
        if perceptual or encoder:
            Perceptual(perceptual, encoder)
        given = checkpoints, perceptual, encoder, False
        self.pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), _start, given
        )

    def each(self, work: Callable[..., T], items: Iterable[tuple[object, ...]]) -> Iterator[T]:
        """Do the work on each tuple of arguments, and yield the results in order."""
        try:
            if self.pool is None:
                yield from (work(*item) for item in items)
            else:
                yield from self.pool.map(work, *zip(*items, strict=True))
        except BrokenProcessPool:
            raise UserError("a process died, perhaps of memory; try fewer --workers") from None

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)


def _measure_one(
    path: Photograph, methods: Sequence[Method], mount: int | None, stability: bool
) -> tuple[list[Measured], NDArray[np.int64], dict[str, NDArray[np.float64]]] | str:
    """Measure one photograph: by each method, its true chroma, the classifiers' calibration."""
    try:
        truth = Truth(read_rgb(path.read_bytes()), _perceptual)
    except (RequestError, OSError) as error:
        return str(error)
    colours = Colours(truth.rgb, _pipelines)
    more: list[dict[str, float]] = [{} for _ in methods]
    if stability:
        more = [colours.stability(method) for method in methods]
    if mount is not None:
        picture, outside = mounted(truth.rgb, mount)
        card = Colours(picture, _pipelines)
        for one, method in zip(more, methods, strict=True):
            ab = lab.rgb_to_lab(card.colour(method))[outside, 1:]
            one["mount chroma"] = float(np.hypot(ab[:, 0], ab[:, 1]).mean())
    measured = [
        measure(colours.colour(method), truth, one)
        for method, one in zip(methods, more, strict=True)
    ]
    used = {method.network for method in methods}
    classifiers = [
        n for n, p in _pipelines.items() if n in used and p.graph.recipe.head == "classification"
    ]
    return measured, truth.chroma, {n: colours.calibration(n, truth) for n in classifiers}


def _mean_ab(path: Photograph) -> tuple[float, float] | None:
    try:
        planes = lab.rgb_to_lab(shrink(read_rgb(path.read_bytes()), 64))
    except (RequestError, OSError):
        return None
    a, b = planes[..., 1:].mean(axis=(0, 1)).tolist()
    return a, b


def spread(count: int, number: int) -> list[int]:
    """Choose `number` of `count` indices, evenly spaced."""
    places = np.linspace(0, count - 1, min(number, count)).round().astype(int)
    return [int(place) for place in np.unique(places)]


def evaluate(
    processes: Processes,
    methods: Sequence[Method],
    paths: Sequence[Photograph],
    mounts: int = 0,
    stability: bool = False,
) -> Result:
    """Colour each photograph's lightness by each method, and compare with its true colours.

    Two baselines without a network come first: grey, and the mean true ab of these photographs,
    the best constant colour, which a network must beat to be of any use.

    Args:
        processes: hold the methods' networks.
        methods: to measure.
        paths: the photographs.
        mounts: how many of them, evenly spaced, are also measured on a grey card.
        stability: whether networks also see each photograph at other sides, and mirrored.

    Raises:
        FileNotFoundError: if no photograph can be read.
    """
    means = [ab for ab in processes.each(_mean_ab, [(path,) for path in paths]) if ab]
    if not means:
        raise FileNotFoundError("none of the photographs can be read")
    a, b = np.mean(means, axis=0).tolist()
    rows = [GREY, Method(f"constant colour ({a:.1f}, {b:.1f})", ab=(a, b)), *methods]
    result = Result({method.name: Scores() for method in rows})
    places = {place: number for number, place in enumerate(spread(len(paths), mounts))}
    jobs = [(path, rows, places.get(i), stability) for i, path in enumerate(paths)]
    found = processes.each(_measure_one, jobs)
    bar = tqdm(found, "evaluating", len(paths), file=sys.stderr, mininterval=2)
    for path, one in zip(paths, bar, strict=True):
        if isinstance(one, str):
            result.left_out[path] = one
            print(f"left out: {path}: {one}", file=sys.stderr)
            continue
        result.paths.append(path)
        measured, chroma, calibration = one
        for score, value in zip(result.scores.values(), measured, strict=True):
            score.pictures.append(value)
        result.truth_chroma += chroma
        for name, counts in calibration.items():
            result.calibration[name] = result.calibration.get(name, 0) + counts
    return result


def pictures(path: Photograph, methods: Sequence[Method]) -> list[UInt8]:
    """Colour one photograph by each method; the truth comes last."""
    rgb = read_rgb(path.read_bytes())
    colours = Colours(rgb, _pipelines)
    return [*(colours.colour(method) for method in methods), rgb]
